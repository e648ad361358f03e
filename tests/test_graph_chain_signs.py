"""Binary convolutions hand signs on, and take them back, to the same bits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir.passes.common import TopologicalSortPass
from torch import nn

from bitexport.errors import UnsupportedModel
from bitexport.graph import LoweringOptions, capture, lower
from bitexport.graph.dense import to_dense
from bitexport.graph.passes.chain_signs import (
    chain_signs,
    has_chains,
    least_rounding_to,
    unchain_signs,
    unchained,
)
from bitexport.layers import BinaryConv2d

SEED = 17
SHAPE = (8, 9, 7)


class Chain(nn.Module):
    """Layers with a BatchNorm before each sign, and a ReLU or nothing behind each convolution."""

    def __init__(self, channels=(8, 40, 33, 64), *, relu=False, groups=1):
        super().__init__()
        torch.manual_seed(SEED)
        layers = []
        for before, after in pairwise(channels):
            layers += [nn.BatchNorm2d(before)]
            layers += [BinaryConv2d(before, after, 3, padding=1, groups=groups, bias=True)]
            layers += [nn.ReLU()] if relu else []
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=3)
                nn.init.uniform_(module.running_var, 0.2, 2)
        self.eval()

    def forward(self, x):
        return self.layers(x).mean(dim=(2, 3))


def lowered(model: nn.Module, **options: bool):
    captured = capture(model, SHAPE)
    report = lower(captured.graph, LoweringOptions(**options))
    return captured.graph, [r for r in report.records if r.rule == "chain-signs"], report.layers


def logits(graph: ir.Model) -> np.ndarray:
    x = np.random.default_rng(SEED).normal(size=(3, *SHAPE)).astype(np.float32)
    data = ir.to_proto(graph).SerializeToString()
    return onnxruntime.InferenceSession(data).run(None, {"input": x})[0]


def ops(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph if node.domain]


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_a_chain_forms_and_comes_apart_to_the_same_logits(relu, float16):
    graph, records, layers = lowered(Chain(relu=relu), float16=float16)
    last = "BinaryConvOfSignsClip" if relu else "BinaryConvOfSigns"
    assert ops(graph) == ["BinaryConvSign", "BinaryConvOfSignsSign", last]
    assert [record.layer for record in records] == ["layers.1", "layers.4" if relu else "layers.3"]
    assert [layer.op for layer in layers] == ops(graph)
    assert all(layer.binary_activations and layer.macs for layer in layers)
    apart = unchained(graph)
    assert has_chains(graph)
    assert ops(apart) == ["BinaryConv", "BinaryConv", "BinaryConvClip" if relu else "BinaryConv"]
    assert {name for _, name, _ in apart.functions} == set(ops(apart))
    got = logits(graph)
    assert np.array_equal(got, logits(apart))
    assert got.std() > 0
    # And again: what is left of a Clip is in the thresholds.
    assert len(chain_signs(apart)) == 2
    unchain_signs(apart)
    assert np.array_equal(got, logits(apart))


def test_the_signs_are_those_of_the_convolution_s_result():
    """Against the lowered graph as it was, with its Clips, and with thresholds beyond them."""
    model = Chain(relu=True)
    graph, _, _ = lowered(model)
    with torch.no_grad():
        want = model(
            torch.from_numpy(
                np.random.default_rng(SEED).normal(size=(3, *SHAPE)).astype(np.float32)
            )
        ).numpy()
    np.testing.assert_allclose(logits(graph), want, rtol=1e-4, atol=1e-4)
    bounds = [
        node.inputs[-1].const_value.numpy() for node in graph.graph if node.op_type.endswith("Sign")
    ]
    # A threshold of 0 or less passes every ReLU.
    assert any(np.isneginf(b).any() and np.isfinite(b).any() for b in bounds)


class Declined(Chain):
    """A chain that something stands against."""

    def __init__(self, how: str):
        channels = (8, 31, 8) if how == "31 channels" else (8, 32, 32)
        super().__init__(channels, groups=2 if how == "groups" else 1)
        self.how = how
        if how == "two thresholds":
            self.other = BinaryConv2d(32, 32, 1, shifted=True)
            nn.init.normal_(self.other.shift)

    def forward(self, x):
        y = self.layers[1](self.layers[0](x))
        z = self.layers[3](self.layers[2](y))
        if self.how == "a residual":
            z = z + y
        if self.how == "two thresholds":
            z = z + self.other(y)
        return z.mean(dim=(2, 3))


@pytest.mark.parametrize("how", ["31 channels", "groups", "a residual", "two thresholds"])
def test_it_declines(how):
    graph, records, _ = lowered(Declined(how).eval())
    assert records == []
    assert not has_chains(graph)


def test_it_forms_with_32_channels():
    graph, records, _ = lowered(Declined("nothing").eval())
    assert len(records) == 1
    assert ops(graph) == ["BinaryConvSign", "BinaryConvOfSigns"]


def test_a_plain_graph_has_no_chains():
    graph, records, _ = lowered(Chain(), plain=True)
    assert records == []
    assert ops(graph) == []


# The sums of the first convolution are at most 8 * 9.
@pytest.mark.parametrize(
    ("index", "value", "float16"),
    [(4, np.nan, False), (3, -np.inf, False), (3, 5e36, False), (4, 65520, True)],
)
def test_results_that_may_be_no_finite_numbers_stay(index, value, float16):
    """An infinity would be bound by a Clip, to less than a threshold of infinity."""
    graph, _, _ = lowered(Chain(relu=True), float16=float16)
    unchain_signs(graph)
    TopologicalSortPass()(graph)
    first = next(node for node in graph.graph if node.domain)
    constant = first.inputs[index]
    array = constant.const_value.numpy().copy()
    array[0, 2] = value
    constant.const_value = ir.tensor(array, name=constant.name)
    assert [record.layer for record in chain_signs(graph)] == ["layers.4"]


def test_signs_that_leave_the_chain_are_refused():
    graph, _, _ = lowered(Chain())
    signs = next(node for node in graph.graph if node.op_type == "BinaryConvSign").outputs[0]
    graph.graph.outputs.append(signs)
    with pytest.raises(UnsupportedModel, match=r"no link of a chain .got an output that other ops"):
        unchain_signs(graph)
    graph.graph.outputs.pop()
    reader = next(node for node in graph.graph if node.op_type == "BinaryConvOfSignsSign")
    reader.replace_input_with(0, graph.graph.inputs[0])
    with pytest.raises(UnsupportedModel, match=r"no link of a chain .got Signs that no node"):
        unchain_signs(graph)


def test_the_full_precision_twin_is_that_of_the_layers():
    graph, _, _ = lowered(Chain())
    assert to_dense(graph)
    assert [n.op_type for n in graph.graph if n.op_type.endswith("Conv")] == ["Conv"] * 3
    assert np.isfinite(logits(graph)).all()


halves = st.floats(width=16, allow_nan=False)
floats = st.floats(width=32, allow_nan=False)


@given(threshold=st.one_of(floats, halves), x=floats)
@settings(max_examples=500, derandomize=True, deadline=None)
def test_least_rounding_to_decides_like_the_rounded_number(threshold, x):
    th = np.array([threshold], np.float32)
    bound = least_rounding_to(th)
    infinity = np.float32(np.inf)
    with np.errstate(over="ignore"):
        near = [np.nextafter(v, s * infinity) for v in (bound, th) for s in (-1, 1)]
        for value in (np.array([x], np.float32), bound, th, *near):
            want = value.astype(np.float16).astype(np.float32) >= th
            assert np.array_equal(value >= bound, want), (th, value)


def test_least_rounding_to_at_the_ends():
    th = np.array([np.nan, -np.inf, np.inf, 65520, -70000, 0, -0.0, 2**-24], np.float32)
    bound = least_rounding_to(th)
    assert np.isnan(bound[0])
    assert bound[1] == -np.inf
    assert list(bound[2:4]) == [65520, 65520]
    assert bound[4] == np.nextafter(np.float32(-65520), np.float32(0))
    assert list(bound[5:7]) == [-(2.0**-25)] * 2
    assert bound[7] == np.nextafter(np.float32(2**-25), np.float32(1))
