"""The backbone of kill-the-bits' Mask R-CNN, against its dense twin in torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import run
from mask_rcnn_sample import Sample, mask_rcnn_sample, old_name

import bitexport
from bitexport.comparison import Tolerance, compare_outputs, relative_l2
from bitexport.errors import InputError

BACKBONE = "maskrcnn_resnet50_fpn_backbone"
MAPS = ("0", "1", "2", "3", "pool")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return mask_rcnn_sample(tmp_path_factory.getbasetemp())


def bytes_of_part(path: Path, prefix: str) -> int:
    """Size of upstream's file with the layers below ``prefix`` only."""
    state = torch.load(path, weights_only=True)
    part = {k: v for k, v in state.items() if k.startswith(prefix)}
    part["biases"] = {k: v for k, v in state["biases"].items() if k.startswith(prefix)}
    file = path.with_name("part.pth")
    torch.save(part, file, _use_new_zipfile_serialization=False)
    return file.stat().st_size


@pytest.fixture(scope="module")
def backbone(sample: Sample) -> tuple[Path, dict]:
    output = sample.file.with_name("backbone.onnx")
    options = ("--arch", BACKBONE, "--input-size", "96x128", "--json")
    outcome = run("onnx", sample.file, "-o", output, *options)
    assert outcome.code == 0, outcome.err
    return output, outcome.json


def test_the_backbone_is_exact(sample: Sample, backbone: tuple[Path, dict]) -> None:
    path, report = backbone
    assert (report["family"], report["arch"]) == ("kill-the-bits", BACKBONE)
    assert report["verify"]["ok"] and report["verify"]["rel_l2"] <= 1e-4
    session = onnxruntime.InferenceSession(path)
    assert tuple(output.name for output in session.get_outputs()) == MAPS
    x = torch.randn(3, 3, 96, 128)
    with torch.inference_mode():
        want = sample.dense.backbone(x)
    got = session.run(list(MAPS), {"input": x.numpy()})
    for name, value in zip(MAPS, got, strict=True):
        assert relative_l2(value, want[name].numpy()) <= 1e-5, name


def test_the_backbone_is_as_small_as_its_codes(sample: Sample, backbone: tuple[Path, dict]) -> None:
    path, report = backbone
    layers = {row["name"]: row for row in report["layers"]}
    quantized = {name for name in sample.quantized if name in map(old_name, layers)}
    assert len(quantized) == len(layers) - 1 == 60
    assert [name for name, row in layers.items() if row["dense_reason"]] == ["backbone.body.conv1"]
    assert path.stat().st_size <= 1.03 * bytes_of_part(sample.file, "backbone")


def test_the_backbone_verifies_and_shows_its_layers(
    sample: Sample, backbone: tuple[Path, dict]
) -> None:
    path, _ = backbone
    outcome = run("verify", path, sample.file, "--json")
    assert outcome.code == 0 and outcome.json["rel_l2"] <= 1e-4
    names = {row["name"] for row in run("inspect", path, "--json").json["layers"]}
    assert {"backbone.fpn.inner_blocks.0.0", "backbone.body.layer4.2.conv3"} <= names


@pytest.mark.parametrize("spoilt", [1.01, float("nan")])
def test_the_worst_feature_map_counts(spoilt: float) -> None:
    expected = {name: np.ones((1, 2, 3, 3), np.float32) for name in MAPS}
    got = expected | {"2": expected["2"] * np.float32(spoilt)}
    tolerance = Tolerance.for_model(binary_activations=False, float16=False)
    assert compare_outputs(expected, expected, tolerance).ok
    worst = compare_outputs(got, expected, tolerance)
    assert not worst.ok and not worst.rel_l2 < 0.009


def test_a_missing_feature_map_is_an_error() -> None:
    maps = {name: np.ones((1, 2, 3, 3), np.float32) for name in MAPS}
    tolerance = Tolerance.for_model(binary_activations=False, float16=False)
    with pytest.raises(InputError, match="outputs cannot be compared"):
        compare_outputs({"0": maps["0"]}, maps, tolerance)


def test_packing_is_refused(sample: Sample, tmp_path: Path) -> None:
    outcome = run("pack", sample.file, "-o", tmp_path / "packed.pth")
    assert outcome.code == 4 and "packed already" in outcome.err


def test_the_loaded_layers_have_upstreams_names(sample: Sample) -> None:
    names = dict(bitexport.load(sample.file).module.named_modules())
    assert type(names["backbone.fpn.layer_blocks.3.0"]).__name__ == "CodebookConv2d"
