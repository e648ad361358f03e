"""``--dense-weights int8``: a smaller file that is held to the network with rounded weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import CLASSES, Outcome, random_images, run
from onnx import numpy_helper
from sign_activated_reference import resnet_state
from torch import nn

import bitexport
from bitexport import ExportOptions
from bitexport.errors import UnsupportedModel
from bitexport.layers import SignConv2d, rounded_to_int8

INT8 = ("--dense-weights", "int8")
ROUNDED = ExportOptions(dense_weights="int8")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow Bi-Real Net: 1-bit layers, a stem, shortcuts and a classifier that are dense."""
    path = tmp_path_factory.mktemp("dense") / "bireal.pth"
    torch.save(resnet_state((1, 1, 1, 1), width=16, classes=CLASSES), path)
    return path


def export(checkpoint: Path, output: Path, *options: str) -> Outcome:
    return run("onnx", checkpoint, "-o", output, "--input-size", "64", "--json", *options)


@pytest.mark.parametrize("more", [(), ("--plain",), ("--fp16",)])
def test_dense_layers_take_8_bits(checkpoint: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    usual = export(checkpoint, tmp_path / "usual.onnx", *more).json
    rounded = export(checkpoint, tmp_path / "rounded.onnx", *INT8, *more).json
    bits = {x["name"]: x["bits_per_weight"] for x in rounded["layers"] if x["dense_reason"]}
    assert set(bits.values()) == {8}
    assert {"conv1", "fc", "layer2.0.downsample.1"} <= bits.keys()
    saved = sum(x["weights"] for x in rounded["layers"] if x["name"] in bits)
    before = 2 if more == ("--fp16",) else 4
    steps_and_nodes = 1500 * len(bits)
    assert usual["bytes"] - rounded["bytes"] > (before - 1) * saved - steps_and_nodes
    assert usual["rounding"] is None


def test_the_file_is_the_rounded_network(checkpoint: Path, tmp_path: Path) -> None:
    report = export(checkpoint, tmp_path / "rounded.onnx", *INT8).json
    assert report["verify"]["ok"]
    # Further from the network that was given than from the rounded one.
    assert 1e-3 < report["rounding"]["rel_l2"] < 1
    assert report["rounding"]["samples"] == 8


def test_verify_knows_that_weights_were_rounded(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "rounded.onnx"
    export(checkpoint, path, *INT8)
    outcome = run("verify", path, checkpoint)
    assert outcome.code == 0
    assert outcome.err.startswith("note: ") and "8 bits" in outcome.err

    model = onnx.load(path)
    (codes,) = (x for x in model.graph.initializer if x.name == "fc.weight")
    array = numpy_helper.to_array(codes).copy()
    array[3] = 255 - array[3]
    codes.CopyFrom(numpy_helper.from_array(array, codes.name))
    onnx.save(model, path)
    assert run("verify", path, checkpoint).code == 3


def test_the_lines_say_what_rounding_does(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "rounded.onnx"
    outcome = run("onnx", checkpoint, "-o", path, *INT8)
    assert outcome.code == 0
    (line,) = (x for x in outcome.out.splitlines() if x.lstrip().startswith("rounded"))
    assert "8 bits" in line and "bitexport eval" in line


def test_a_qonnx_file_has_its_own_rounding(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"")
    outcome = run("onnx", path, *INT8)
    assert outcome.code == 2
    assert "--dense-weights" in outcome.err


def network() -> nn.Sequential:
    torch.manual_seed(9)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=True),
        SignConv2d(16, 16, 3),
        nn.ConvTranspose2d(16, 24, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    ).eval()


def test_rounding_is_to_the_nearest_level() -> None:
    model = network()
    twin = rounded_to_int8(model)
    for index, axis in ((0, 0), (2, 1), (5, 0)):
        before, after = (
            m[index].weight.detach().movedim(axis, 0).flatten(1) for m in (model, twin)
        )
        step = before.abs().amax(1, keepdim=True) / 127
        assert ((after - before).abs() <= step * 0.5001).all()
        assert torch.allclose(after / step, (after / step).round(), atol=1e-4)
        assert ((after - before).abs() > 0.1 * step).any()
        assert torch.equal(model[index].bias, twin[index].bias)
    assert torch.equal(model[1].weight, twin[1].weight)


class Centered(nn.Conv2d):
    """Its weight is not used as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def test_what_is_no_plain_product_stays(tmp_path: Path) -> None:
    model = nn.Sequential(Centered(3, 16, 3), nn.Flatten()).eval()
    assert torch.equal(rounded_to_int8(model)[0].weight, model[0].weight)
    report = bitexport.export(model, torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx", options=ROUNDED)
    assert [layer.bits_per_weight for layer in report.layers] == [32]
    assert report.rounding is not None and report.rounding.rel_l2 == 0


def test_a_filter_of_zeros_stays(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 5), nn.Flatten()).eval()
    with torch.no_grad():
        model[0].weight[4] = 0
    report = bitexport.export(model, torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx", options=ROUNDED)
    assert report.verify is not None and report.verify.ok
    assert [layer.bits_per_weight for layer in report.layers] == [8]


def test_a_layer_without_weights_stays() -> None:
    model = nn.Linear(1, 4)
    model.weight = nn.Parameter(torch.zeros(4, 0))
    assert torch.equal(rounded_to_int8(model)(torch.ones(2, 0)), model(torch.ones(2, 0)))


def test_the_given_model_keeps_its_weights(tmp_path: Path) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bitexport.export(model, torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx", options=ROUNDED)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_file_in_a_session(tmp_path: Path) -> None:
    model = network()
    bitexport.export(model, torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx", options=ROUNDED)
    images = random_images(4, 8, 8)
    (got,) = bitexport.session(tmp_path / "m.onnx").run(None, {"input": images})
    with torch.inference_mode():
        expected = rounded_to_int8(model)(torch.from_numpy(images)).numpy()
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("other", [SignConv2d(16, 16, 3), nn.ConvTranspose2d(16, 16, 3)])
def test_a_weight_that_another_kind_of_layer_shares_stays(other: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3), other, nn.Conv2d(16, 16, 3)).eval()
    model[1].weight = model[0].weight
    twin = rounded_to_int8(model)
    assert torch.equal(twin[1].weight, model[1].weight)
    assert twin[0].weight is twin[1].weight
    assert not torch.equal(twin[2].weight, model[2].weight)


def test_a_weight_that_two_layers_share_is_rounded_once() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)).eval()
    model[2].weight = model[0].weight
    twin, alone = rounded_to_int8(model), rounded_to_int8(model[0])
    assert twin[0].weight is twin[2].weight
    assert torch.equal(twin[0].weight, alone.weight)
    assert not torch.equal(twin[0].weight, model[0].weight)


class Uncopied(nn.Conv2d):
    """As some libraries' modules are."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("only leaves can be copied\nand more")


def test_a_model_that_cannot_be_copied(tmp_path: Path) -> None:
    model = nn.Sequential(Uncopied(3, 16, 3), nn.Flatten()).eval()
    with pytest.raises(UnsupportedModel, match="only leaves can be copied"):
        bitexport.export(model, torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx", options=ROUNDED)
    assert not (tmp_path / "m.onnx").exists()
