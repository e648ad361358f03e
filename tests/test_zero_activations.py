"""torch.sign(0) is 0: activations of exactly 0 stay 0, become +1 or are refused, as asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import bitexport
from bitexport import exporter
from bitexport.errors import ComparisonFailure, InputError, UnsupportedModel
from bitexport.export_options import ExportOptions
from bitexport.graph.read import read_onnx
from bitexport.layers import BinaryConv2d
from bitexport.runtimes import runtime_named
from bitexport.verification import verify_file

SEED = 5
SHAPE = (1, 3, 9, 10)
RUNTIMES = ("ort", "ort-native", "reference")


class AfterRelu(nn.Module):
    """Half of the inputs of its second binary layer are exactly 0, no input of the first is."""

    def __init__(self, *, shifted: bool = False, centered: bool = False, norm: bool = False):
        super().__init__()
        # Its bias keeps ReLU off sums of 0: ONNX Runtime merges the scale into the weights and
        # rounds such sums to one side or the other.
        self.first = BinaryConv2d(3, 33, 3, padding=1, bias=True)
        self.norm = nn.BatchNorm2d(33) if norm else nn.Identity()
        self.second = BinaryConv2d(
            33, 5, 3, padding=1, stride=2, shifted=shifted, centered=centered, bias=True
        )
        self.after = nn.BatchNorm2d(5)

    def forward(self, x):
        y = self.second(self.norm(torch.relu(self.first(x))))
        return self.after(y).flatten(2).mean(2)


def model_of(**kinds: bool) -> AfterRelu:
    torch.manual_seed(SEED)
    model = AfterRelu(**kinds)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    # A shift of 0 in some channels leaves the zeros there, a shift elsewhere moves them away.
    if model.second.shift is not None:
        with torch.no_grad():
            model.second.shift[:, ::2] = 0
    return model.eval()


def export(model: nn.Module, path, **options):
    return bitexport.export(model, torch.zeros(SHAPE), path, options=ExportOptions(**options))


def binary_nodes(path) -> dict[str, int]:
    graph, _ = read_onnx(path)
    names = [n.name.split("/")[0] for n in graph.graph if n.op_type.startswith("BinaryConv")]
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize("kinds", [{}, {"shifted": True}, {"norm": True}])
def test_layers_with_systematic_zeros_are_exact_without_being_asked(tmp_path, kinds):
    model = model_of(**kinds)
    if "norm" in kinds:
        nn.init.zeros_(model.norm.bias)
    report = export(model, tmp_path / "m.onnx")
    assert report.verify.rel_l2 < 1e-5
    assert report.verify.zero_activations > 100
    assert binary_nodes(tmp_path / "m.onnx") == {"first": 1, "second": 2}
    assert [r.layer for r in report.records if r.rule == "zero-activations"] == ["second"]


def test_both_halves_share_their_words(tmp_path):
    report = export(model_of(), tmp_path / "m.onnx")
    second = next(layer for layer in report.layers if layer.name == "second")
    assert second.bits_per_weight == 64 / 33  # two words for 33 channels, stored once


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("plain", [False, True])
def test_every_runtime_agrees(tmp_path, runtime, plain):
    model = model_of(shifted=True)
    export(model, tmp_path / "m.onnx", plain=plain)
    found = bitexport_logits(tmp_path / "m.onnx", model, runtime)
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


def bitexport_logits(path, model: nn.Module, runtime: str):
    images = torch.randn(3, *SHAPE[1:], generator=torch.Generator().manual_seed(SEED))
    availability = runtime_named(runtime).availability()
    if not availability.ok:
        pytest.skip(f"{availability.detail}. {availability.fix}")
    graph, data = read_onnx(path)
    output = graph.graph.outputs[0].name
    got = runtime_named(runtime).load(data).run({"input": images.numpy()})[output]
    with torch.no_grad():
        return got, model(images).numpy()


def test_exact_holds_for_nan_and_with_zero_weights(tmp_path):
    model = model_of()
    with torch.no_grad():
        model.second.weight[1, ::3] = 0
    export(model, tmp_path / "m.onnx", zero_activations="exact")
    _, data = read_onnx(tmp_path / "m.onnx")
    images = np.zeros((2, *SHAPE[1:]), np.float32)
    images[1, :, 3, 4] = np.nan
    got = runtime_named("ort").load(data).run({"input": images})["logits"]
    with torch.no_grad():
        want = model(torch.from_numpy(images)).numpy()
    assert np.isfinite(want).all()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_constant_images_in_a_centered_layer(tmp_path):
    """The mean of a constant image is its value: every activation is 0, as is its sum."""
    layer = BinaryConv2d(3, 4, 3, centered=True)
    model = nn.Sequential(layer, nn.Flatten()).eval()
    export(model, tmp_path / "m.onnx", zero_activations="exact")
    _, data = read_onnx(tmp_path / "m.onnx")
    images = np.full((2, *SHAPE[1:]), 0.5, np.float32)
    got = runtime_named("ort").load(data).run({"input": images})["logits"]
    np.testing.assert_allclose(got, np.zeros_like(got), atol=1e-6)


def test_plus_one_says_what_it_is_and_differs(tmp_path):
    report = export(model_of(), tmp_path / "m.onnx", zero_activations="plus-one")
    assert binary_nodes(tmp_path / "m.onnx") == {"first": 1, "second": 1}
    assert report.verify.rel_l2 > 1e-2
    assert report.verify.zero_activations > 100


def test_plus_one_excuses_zeros_only(tmp_path, monkeypatch):
    """A file that differs although there was no zero is still a failure."""
    model = nn.Sequential(BinaryConv2d(3, 4, 3), nn.Flatten()).eval()
    right = exporter.reference_run

    def wrong(*arguments):
        run = right(*arguments)
        return replace(run, outputs={name: y + 1 for name, y in run.outputs.items()})

    monkeypatch.setattr(exporter, "reference_run", wrong)
    with pytest.raises(ComparisonFailure, match="differs from the torch reference"):
        export(model, tmp_path / "m.onnx", zero_activations="plus-one", zero_weights="plus-one")
    assert not list(tmp_path.iterdir())


def test_refuse_names_the_layer(tmp_path):
    with pytest.raises(UnsupportedModel, match="'second' has activations of exactly 0"):
        export(model_of(), tmp_path / "m.onnx", zero_activations="refuse")
    assert not list(tmp_path.iterdir())


def test_refuse_accepts_a_model_without_zeros(tmp_path):
    model = nn.Sequential(BinaryConv2d(3, 4, 3), nn.Flatten()).eval()
    export(model, tmp_path / "m.onnx", zero_activations="refuse")
    assert binary_nodes(tmp_path / "m.onnx") == {"0": 1}


class CalledTwice(nn.Module):
    """One binary layer, on images of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, 3, 3, padding=1, bias=True)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.conv(y[:, :, ::2, ::2]).flatten(2).mean(2)


def test_a_layer_that_is_called_twice(tmp_path):
    torch.manual_seed(SEED)
    model = CalledTwice()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    verified = export(model.eval(), tmp_path / "m.onnx").verify
    # Which call of the layer a node is, nobody knows: nothing is said about its bits.
    assert verified.ok and verified.flip_rate is None


def test_a_plain_file_is_judged_as_the_binary_network_it_is(tmp_path):
    x = np.random.default_rng(SEED).standard_normal(SHAPE, dtype=np.float32)
    tolerances = []
    for plain in (False, True):
        model = model_of()
        export(model, tmp_path / "m.onnx", plain=plain)
        with torch.no_grad():
            np.savez(tmp_path / "io.npz", input=x, logits=model(torch.from_numpy(x)).numpy())
        files = {"checkpoint": None, "inputs": tmp_path / "io.npz"}
        found = verify_file(tmp_path / "m.onnx", **files)
        tolerances.append(found.tolerance)
    assert tolerances[0] == tolerances[1]
    # A limit of the user's is one for all samples, not for most of them.
    given = verify_file(tmp_path / "m.onnx", **files, rel_l2=1e-4).tolerance
    assert tolerances[0].samples < 1 and given == replace(tolerances[0], rel_l2=1e-4, samples=1)


def test_a_model_of_another_type_is_refused(tmp_path):
    with pytest.raises(InputError, match="float64 on cpu"):
        export(model_of().double(), tmp_path / "m.onnx")
