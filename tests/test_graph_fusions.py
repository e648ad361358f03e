"""Thresholds, residuals and shifts move into the binary convolutions, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes.common import TopologicalSortPass
from torch import nn

from bitexport.graph import LoweringOptions, capture, lower
from bitexport.graph.passes.attach_functions import attach_functions
from bitexport.graph.passes.fold_threshold import exact_threshold
from bitexport.graph.passes.fuse_activation import split_activation
from bitexport.graph.passes.split_prelu import split_prelu
from bitexport.layers import BinaryConv2d

SEED = 11
SHAPE = (6, 8, 7)

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(gain=floats, shift=floats, threshold=floats, x=floats)
@settings(max_examples=400, derandomize=True, deadline=None)
def test_exact_threshold_decides_like_the_affine(gain, shift, threshold, x):
    g, h, th = (np.array([v], np.float32) for v in (gain, shift, threshold))
    bound, flip = exact_threshold(g, h, th)
    # The floats beside the bound are where a rounding error would show.
    with np.errstate(over="ignore"):
        near = [np.nextafter(bound, np.float32(s * np.inf)) for s in (-1, 1)]
    for value in (np.array([x], np.float32), bound, *near):
        if not np.isfinite(value).all():
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            want = g * value + h >= th
        assert np.array_equal((value >= bound) != flip, want), (g, h, th, value)


def randomized(model: nn.Module) -> nn.Module:
    torch.manual_seed(SEED)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 2)
    return model.eval()


def lowered(model: nn.Module, shape=SHAPE):
    captured = capture(model, shape)
    report = lower(captured.graph)
    return captured.graph, [(r.rule, r.applied) for r in report.records], report.records


def check_equal(model: nn.Module, graph: ir.Model, shape=SHAPE) -> None:
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(SEED))
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    got = session.run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        want = model(x).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def ops(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


class NormSignConv(nn.Module):
    """XNOR-Net's order, with groups and 6 channels, of which some have a negative gamma."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.conv = BinaryConv2d(6, 4, 3, padding=1, groups=groups)

    def forward(self, x):
        return self.conv(self.norm(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_before_a_sign_becomes_a_threshold(groups):
    model = randomized(NormSignConv(groups))
    assert (model.norm.weight < 0).any()
    graph, rules, records = lowered(model)
    assert ops(graph) == ["BinaryConv"]
    assert ("fold-threshold", True) in rules
    assert "channels flipped" in records[-1].detail
    check_equal(model, graph)


class PreNormResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.conv = BinaryConv2d(6, 6, 3, padding=1)

    def forward(self, x):
        y = self.norm(x)
        return self.conv(y) + y


def test_an_affine_that_others_read_stays():
    model = randomized(PreNormResidual())
    graph, rules, _ = lowered(model)
    assert ops(graph) == ["Mul", "Add", "BinaryConvAdd"]
    assert ("fold-threshold", False) in rules
    check_equal(model, graph)


class BiRealBlock(nn.Module):
    def __init__(self, *, shift: bool = False) -> None:
        super().__init__()
        self.conv = BinaryConv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.move = nn.Parameter(torch.randn(1, 6, 1, 1)) if shift else None

    def forward(self, x):
        y = self.norm(self.conv(x)) + x
        return y if self.move is None else torch.relu(y + self.move)


def test_residual_joins_the_convolution():
    model = randomized(BiRealBlock())
    graph, rules, _ = lowered(model)
    assert ops(graph) == ["BinaryConvAdd"]
    assert ("fuse-residual", True) in rules
    assert graph.graph.outputs[0].name == "logits"
    check_equal(model, graph)


def test_a_shift_after_the_sum_joins_the_bias():
    model = randomized(BiRealBlock(shift=True))
    graph, rules, _ = lowered(model)
    assert ops(graph) == ["BinaryConvAddClip"]
    assert ("fold-channel-shift", True) in rules
    check_equal(model, graph)


class TwoConvSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = BinaryConv2d(6, 6, 3, padding=1)
        self.two = BinaryConv2d(6, 6, 1)

    def forward(self, x):
        return self.one(x) + self.two(x)


def test_only_one_of_two_summands_takes_the_other():
    model = randomized(TwoConvSum())
    graph, _, _ = lowered(model)
    assert sorted(ops(graph)) == ["BinaryConv", "BinaryConvAdd"]
    check_equal(model, graph)


class PooledSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(6, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x) + x.mean(dim=(2, 3), keepdim=True)


def test_a_broadcast_summand_is_no_residual():
    model = randomized(PooledSum())
    graph, rules, _ = lowered(model)
    assert "BinaryConvAdd" not in ops(graph)
    assert ("fuse-residual", False) in rules
    check_equal(model, graph)


class SumReadTwice(nn.Module):
    """A convolution with something added that could join it, and another reader before that."""

    def __init__(self, *, shift: bool) -> None:
        super().__init__()
        self.conv = BinaryConv2d(6, 6, 3, padding=1)
        self.move = nn.Parameter(torch.randn(1, 6, 1, 1)) if shift else None

    def forward(self, x):
        y = self.conv(x)
        return y.mean(dim=(2, 3), keepdim=True) * (y + (x if self.move is None else self.move))


@pytest.mark.parametrize(
    ("shift", "rule"), [(False, "fuse-residual"), (True, "fold-channel-shift")]
)
def test_what_is_added_behind_another_reader_stays(shift, rule):
    model = randomized(SumReadTwice(shift=shift))
    graph, rules, _ = lowered(model)
    assert (rule, False) in rules
    assert "Add" in ops(graph)
    check_equal(model, graph)


# ---- Activations --------------------------------------------------------------------------------


class Activated(nn.Module):
    """A convolution, perhaps a residual, an activation, perhaps a shift."""

    def __init__(self, activation: nn.Module, *, residual: bool, shift: bool = False) -> None:
        super().__init__()
        self.conv = BinaryConv2d(6, 6, 3, padding=1)
        self.activation = activation
        self.residual = residual
        self.move = nn.Parameter(torch.randn(1, 6, 1, 1)) if shift else None

    def forward(self, x):
        y = self.conv(x)
        y = self.activation(y + x if self.residual else y)
        return y if self.move is None else y + self.move


def prelu_of(*slopes: float) -> nn.PReLU:
    prelu = nn.PReLU(len(slopes))
    prelu.weight.data = torch.tensor(slopes)
    return prelu


RAMP = prelu_of(-0.5, 0, 0.25, 0.5, 1, 1)
STEEP = prelu_of(-0.5, 0, 0.25, 1, 1.5, 3)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("activation", "shift", "suffix"),
    [
        (RAMP, True, "PRelu"),
        (STEEP, True, "PRelu"),
        (STEEP, False, "PRelu"),
        (prelu_of(0.3), False, "PRelu"),
        (nn.Hardtanh(), False, "Clip"),
        (nn.ReLU6(), False, "Clip"),
        (nn.ReLU(), False, "Clip"),
    ],
    ids=["shifted", "steep and shifted", "steep", "one slope", "hardtanh", "relu6", "relu"],
)
def test_an_activation_joins_the_convolution(activation, shift, suffix, residual):
    model = randomized(Activated(activation, residual=residual, shift=shift))
    graph, rules, _ = lowered(model)
    assert ops(graph) == ["BinaryConvAdd" + suffix if residual else "BinaryConv" + suffix]
    assert ("fuse-activation", True) in rules
    assert graph.graph.outputs[0].name == "logits"
    check_equal(model, graph)


@pytest.mark.parametrize("activation", [RAMP, STEEP, nn.Hardtanh()], ids=["ramp", "steep", "clip"])
def test_a_fused_activation_is_the_same_to_the_last_bit(activation):
    """As the file without the fusion, in which the same operators stand behind the node."""
    model = randomized(Activated(activation, residual=True))
    graph, _, _ = lowered(model)
    apart, _, _ = lowered(model)
    assert split_activation(apart)
    split_prelu(apart)
    attach_functions(apart)
    TopologicalSortPass()(apart)
    assert ops(apart)[0] == "BinaryConvAdd"
    assert len(ops(apart)) > 1
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(SEED)).numpy()
    results = [
        onnxruntime.InferenceSession(ir.to_proto(m).SerializeToString()).run(None, {"input": x})[0]
        for m in (graph, apart)
    ]
    assert np.array_equal(*results)


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(6, 6, 3, padding=1)
        self.prelu = nn.PReLU(6)

    def forward(self, x):
        y = self.conv(x) + x
        return self.prelu(y) + y.mean(dim=(2, 3), keepdim=True)


def test_a_sum_that_others_read_keeps_its_activation_apart():
    model = randomized(ReadTwice())
    graph, rules, records = lowered(model)
    assert "BinaryConvAdd" in ops(graph)
    assert ("fuse-activation", False) in rules
    assert any("other nodes read its sum" in r.detail for r in records)
    check_equal(model, graph)


def test_a_shift_that_comes_after_other_readers_stays():
    class Twice(Activated):
        def forward(self, x):
            y = self.activation(self.conv(x))
            return y + self.move + torch.relu(y)

    graph, _, _ = lowered(model := randomized(Twice(RAMP, residual=False, shift=True)))
    assert ops(graph)[0] == "BinaryConvPRelu"
    assert "Add" in ops(graph)
    check_equal(model, graph)


# ---- PReLU --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slopes", "last"),
    [((-1.5, 0.25, 1.0), "Max"), ((1.0, 1.5, 3.0), "Min"), ((-0.5, 0.0, 2.0), "Add")],
)
def test_prelu_is_split_bit_for_bit(slopes, last):
    prelu = nn.PReLU(3)
    prelu.weight.data = torch.tensor(slopes)
    graph, rules, _ = lowered(prelu.eval(), (3, 5, 7))
    assert ("split-prelu", True) in rules
    assert list(graph.graph)[-1].op_type == last
    assert "PRelu" not in {node.op_type for node in graph.graph}
    x = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(SEED))
    x[0, :, 0, :3] = torch.tensor([0.0, 1e-45, -1e-45])
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    got = session.run(None, {"input": x.numpy()})[0]
    assert np.array_equal(got, prelu(x).detach().numpy())


class ComputedSlopes(nn.Module):
    def forward(self, x):
        return torch.prelu(x, x.abs().mean(dim=(0, 2, 3)))


def test_computed_slopes_stay():
    graph, rules, _ = lowered(model := ComputedSlopes().eval())
    assert ("split-prelu", False) in rules
    check_equal(model, graph)


class Affine(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(shape))
        self.shift = nn.Parameter(torch.zeros(shape))
        self.conv = BinaryConv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x * self.gain + self.shift)


@pytest.mark.parametrize(
    ("shape", "folds"),
    [
        ((1, 1, 1, 1), True),
        # As many columns, or rows, as channels.
        ((1, 1, 1, 6), False),
        ((1, 1, 6, 1), False),
    ],
)
def test_only_an_affine_of_channels_becomes_a_threshold(shape, folds):
    torch.manual_seed(3)
    model = Affine(shape).eval()
    nn.init.uniform_(model.gain, -2, -1)
    nn.init.normal_(model.shift)
    x = torch.randn(4, 6, 6, 6)
    captured = capture(model, (6, 6, 6))
    lower(captured.graph)
    assert (ops(captured.graph) == ["BinaryConv"]) is folds
    data = ir.to_proto(captured.graph).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        want = model(x).numpy()
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], want, atol=1e-4)


def test_scales_of_a_resize_stay_float32():
    model = nn.Sequential(BinaryConv2d(6, 4, 3), nn.Upsample(scale_factor=2)).eval()
    captured = capture(model, (6, 7, 9))
    lower(captured.graph, LoweringOptions(float16=True))
    data = ir.to_proto(captured.graph).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    x = torch.randn(2, 6, 7, 9)
    with torch.no_grad():
        want = model(x).numpy()
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], want, atol=1e-2)
