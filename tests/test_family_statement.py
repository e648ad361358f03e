"""What a checkpoint says about itself, and what goes before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bitexport
from bitexport.errors import UnsupportedModel
from bitexport.families import LoadOptions, load
from bitexport.layers import SignConv2d
from bitexport.models.wide_resnet import WideResNet


def saved(path: Path, **scalars: Any) -> Path:
    model = WideResNet(8, 1, 10)
    state = {k.replace("conv0.weight", "conv0"): v for k, v in model.state_dict().items()}
    state = {
        k.removesuffix(".weight") if ".conv" in k or k.startswith("conv") else k: v
        for k, v in state.items()
    }
    prefixed = {f"bitexport_{key}": value for key, value in scalars.items()}
    torch.save({"state_dict": state, **prefixed}, path)
    return path


def binary_layers(path: Path, options: LoadOptions | None = None) -> int:
    return sum(isinstance(m, SignConv2d) for m in load(path, options).module.modules())


def test_a_file_settles_its_precision_and_size(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "a.pth",
        family="wide-resnet",
        arch="wrn-8-1",
        weights="float",
        input="3x20x24",
        preprocessing='{"mean": [0.5]}',
    )
    assert binary_layers(path) == 0
    model = load(path)
    assert model.input_shape == (3, 20, 24) and model.notes == ()
    report = bitexport.export(path, path=tmp_path / "a.onnx")
    assert report.notes == () and all(layer.dense for layer in report.layers)


def test_without_a_statement_all_is_as_ever(tmp_path: Path) -> None:
    model = load(saved(tmp_path / "a.pth"))
    assert model.input_shape == (3, 32, 32) and model.preprocessing == ""
    assert any("binarized" in note for note in model.notes)


def test_the_user_goes_first(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", family="wide-resnet", arch="wrn-8-1", weights="float")
    assert binary_layers(path, LoadOptions(weights="binary")) == 6
    assert binary_layers(path, LoadOptions(activations="float")) == 0
    with pytest.raises(UnsupportedModel):
        load(path, LoadOptions(arch="wrn-14-1"))
    with pytest.raises(UnsupportedModel, match="not a model of the family"):
        load(path, LoadOptions(family="rbnn"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", "3x0x32"),
        ("input", "32"),
        ("input", "3x99999x32"),
        ("weights", "ternary"),
        ("family", 3),
        ("preprocessing", "x" * 5000),
        ("preprocessing", "a\x1b[2J"),
    ],
)
def test_senseless_statements_are_refused(field: str, value: object, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", **{field: value})
    with pytest.raises(UnsupportedModel, match=f"bitexport_{field} makes no sense"):
        load(path)
