"""Dense weights of no more than 256 levels are stored in 8 bits, and come back as they were."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bitexport.families import LoadOptions
from bitexport.graph import LoweringOptions, capture, layers_of, lower
from bitexport.graph.constants import constant
from bitexport.graph.dense import to_dense
from bitexport.graph.passes.narrow_weights import (
    fits_levels,
    levels_of,
    narrow_weights,
    widen_weights,
)
from bitexport.graph.passes.to_float16 import to_float16
from bitexport.inspection import inspect_file

CHANNELS = 24


def on_levels(
    shape: tuple[int, ...], axis: int = 0, low: int = -127, high: int = 127
) -> np.ndarray:
    """float32 weights of whole steps, a step for each output channel, which all reach the ends."""
    rng = np.random.default_rng(sum(shape))
    codes = np.moveaxis(rng.integers(low, high, shape, endpoint=True), axis, 0)
    ends = codes.reshape(shape[axis], -1)
    ends[:, 0], ends[:, -1] = low, high
    codes = np.moveaxis(ends.reshape(codes.shape), 0, axis)
    steps = rng.uniform(1e-4, 1e-1, [n if i == axis else 1 for i, n in enumerate(shape)])
    return codes.astype(np.float32) * steps.astype(np.float32)


def model_of(op: str, weight: np.ndarray, x: list[int], **attributes: object) -> ir.Model:
    """X -> op(X, weight) -> Y."""
    node = helper.make_node(op, ["X", "weight"], ["Y"], "layer", **attributes)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "graph",
        [value("X", TensorProto.FLOAT, x)],
        [value("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 18)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x})[0]


LAYERS = [
    ("Conv", (CHANNELS, 3, 5, 5), 0, [1, 3, 9, 9], {}),
    ("Conv", (CHANNELS, 1, 5, 5), 0, [1, CHANNELS, 9, 9], {"group": CHANNELS}),
    ("ConvTranspose", (3, CHANNELS, 5, 5), 1, [1, 3, 9, 9], {}),
    ("Gemm", (CHANNELS, 40), 0, [2, 40], {"transB": 1}),
    ("Gemm", (40, CHANNELS), 1, [2, 40], {}),
    ("MatMul", (40, CHANNELS), 1, [2, 40], {}),
]


@pytest.mark.parametrize(("op", "shape", "axis", "x", "attributes"), LAYERS)
def test_levels_come_back_bit_for_bit(op, shape, axis, x, attributes) -> None:
    weight = on_levels(shape, axis)
    model = model_of(op, weight, x, **attributes)
    image = np.random.default_rng(0).standard_normal(x, np.float32)
    before = run(model, image)

    (record,) = narrow_weights(model)

    assert record.applied
    levels = levels_of(next(n for n in model.graph if n.op_type == op).inputs[1])
    assert levels is not None
    assert constant(levels.codes).dtype == np.uint8
    assert constant(levels.step).size == CHANNELS
    assert np.array_equal(levels.weight(), weight)
    assert np.array_equal(run(model, image), before)

    widen_weights(model)
    assert [node.op_type for node in model.graph] == [op]
    assert np.array_equal(constant(model.graph[0].inputs[1]), weight)


@pytest.mark.parametrize("low", [-1, -2, -7, -127, -128])
def test_fewer_levels(low: int) -> None:
    weight = on_levels((CHANNELS, 3, 5, 5), 0, low, min(-low, 127))
    model = model_of("Conv", weight, [1, 3, 9, 9])
    narrow_weights(model)
    assert np.array_equal(levels_of(model.graph[-1].inputs[1]).weight(), weight)


def test_all_levels_turned_round() -> None:
    """A BatchNorm with negative gamma makes -128 steps 128 of them."""
    weight = on_levels((CHANNELS, 3, 5, 5), 0, -128, 127)
    weight[::2] *= -1
    model = model_of("Conv", weight, [1, 3, 9, 9])
    narrow_weights(model)
    assert np.array_equal(levels_of(model.graph[-1].inputs[1]).weight(), weight)


def test_levels_survive_a_batch_norm() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(3, CHANNELS, 5), nn.BatchNorm2d(CHANNELS)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.from_numpy(on_levels((CHANNELS, 3, 5, 5))))
        network[1].weight.copy_(torch.randn(CHANNELS))
        network[1].running_var.uniform_(0.1, 2)
    captured = capture(network, (3, 9, 9))
    lower(captured.graph)
    (layer,) = layers_of(captured.graph)
    assert layer.bits_per_weight == 8
    assert layer.weight_shape == (CHANNELS, 3, 5, 5)
    assert layer.stored_bytes == CHANNELS * (75 + 4 + 4)  # codes, steps and biases
    assert not any(node.op_type == "Add" for node in captured.graph.graph)


def test_a_batch_norm_is_folded_though_float16_holds_the_weight() -> None:
    codes = on_levels((CHANNELS, 3, 5, 5))
    codes = np.rint(codes / np.abs(codes).max((1, 2, 3), keepdims=True) * 127) / 1024
    network = nn.Sequential(nn.Conv2d(3, CHANNELS, 5), nn.BatchNorm2d(CHANNELS)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.from_numpy(codes))
        network[1].running_var.uniform_(0.1, 2)
    captured = capture(network, (3, 9, 9))
    lower(captured.graph)
    assert [n.op_type for n in captured.graph.graph] == ["Cast", "Sub", "Mul", "Conv"]


def off_levels(kind: str) -> np.ndarray:
    weight = on_levels((CHANNELS, 3, 5, 5))
    if kind == "one weight between two levels":
        weight[5, 2, 4, 3] = weight[5, 0, 0, 0] / 127 * 2.5
    elif kind == "one weight a rounding too far":
        weight[5, 2, 4, 3] = weight[5, 0, 0, 0] / 127 * (50 + 5e-4)
    elif kind == "a step for each input channel":
        weight = np.ascontiguousarray(weight.reshape(3, CHANNELS, 5, 5).swapaxes(0, 1))
    elif kind == "129 steps":
        weight = on_levels((CHANNELS, 3, 5, 5), 0, -129, 128)
    elif kind == "128 steps both ways":
        weight = on_levels((CHANNELS, 3, 5, 5), 0, -128, 128)
    elif kind == "128 steps both ways, one rounded":
        step = weight[:, 2, 4, 4] / 127
        weight[:, 0, 0, 0], weight[:, 2, 4, 4] = -128 * step, np.nextafter(128 * step, 0)
    elif kind == "steps too small for float32":
        weight *= np.float32(1e-38)
    elif kind == "zeros":
        weight[:] = 0
    elif kind == "an infinity":
        weight[0, 0, 0, 0] = np.inf
    else:
        weight = np.random.default_rng(3).standard_normal(weight.shape, np.float32)
    return weight


@pytest.mark.parametrize(
    "kind",
    [
        "one weight between two levels",
        "one weight a rounding too far",
        "a step for each input channel",
        "129 steps",
        "128 steps both ways",
        "128 steps both ways, one rounded",
        "steps too small for float32",
        "zeros",
        "an infinity",
        "normal",
    ],
)
def test_other_weights_stay(kind: str) -> None:
    weight = off_levels(kind)
    model = model_of("Conv", weight, [1, 3, 9, 9])
    assert narrow_weights(model) == []
    assert not fits_levels(weight, 0)
    assert np.array_equal(constant(model.graph[0].inputs[1]), weight)


def test_what_saves_nothing_stays() -> None:
    model = model_of("Conv", on_levels((4, 3, 3, 3)), [1, 3, 9, 9])
    assert narrow_weights(model) == []


def test_a_constant_that_is_no_weight_stays() -> None:
    assert narrow_weights(model_of("Mul", on_levels((CHANNELS, 3, 5, 5)), [1, 3, 5, 5])) == []


def test_one_weight_for_two_axes_stays() -> None:
    model = model_of("Gemm", on_levels((CHANNELS, CHANNELS)), [2, CHANNELS], transB=1)
    first = model.graph[0]
    other = ir.node("Gemm", [first.outputs[0], first.inputs[1]], name="other")
    model.graph.append(other)
    model.graph.outputs[0] = other.outputs[0]
    other.outputs[0].name, first.outputs[0].name = "Y", "between"
    assert narrow_weights(model) == []


def test_float16_rounds_the_weight_once() -> None:
    """Steps as small as these lose bits in float16, the weights that they make do not."""
    weight = on_levels((CHANNELS, 3, 5, 5)) * np.float32(1e-3)
    model = model_of("Conv", weight, [1, 3, 9, 9])
    narrow_weights(model)
    to_float16(model)
    image = np.random.default_rng(0).standard_normal((1, 3, 9, 9), np.float32)
    half = weight.astype(np.float16).astype(np.float32)
    expected = run(model_of("Conv", half, [1, 3, 9, 9]), image.astype(np.float16).astype("f4"))
    assert np.abs(run(model, image) - expected).max() < 1e-3 * np.abs(expected).max()
    (layer,) = layers_of(model)
    assert layer.bits_per_weight == 8


@pytest.mark.parametrize("half", [False, True])
def test_the_full_precision_twin_has_plain_weights(half: bool) -> None:
    weight = on_levels((CHANNELS, 3, 5, 5))
    model = model_of("Conv", weight, [1, 3, 9, 9])
    narrow_weights(model)
    if half:
        to_float16(model)
    assert to_dense(model) == half
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert np.array_equal(constant(model.graph[0].inputs[1]), weight)


def test_a_plain_file_says_so_too(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, CHANNELS, 5)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.from_numpy(on_levels((CHANNELS, 3, 5, 5))))
    captured = capture(network, (3, 9, 9))
    lower(captured.graph, LoweringOptions(plain=True))
    path = tmp_path / "plain.onnx"
    path.write_bytes(ir.to_proto(captured.graph).SerializeToString())
    (layer,) = inspect_file(path, LoadOptions(), None).layers
    assert (layer.op, layer.bits_per_weight) == ("Conv", 8)


def test_a_pruned_weight_of_no_levels_is_ruled_out_by_a_few_numbers() -> None:
    """Where the first weights of each row are 0, others must do."""
    weight = np.random.default_rng(4).standard_normal((64, 8192), np.float32)
    weight[:, :1024] = 0
    tracemalloc.start()
    try:
        assert not fits_levels(weight, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * weight.nbytes  # less than one copy in float64, which takes most of the time


def strangers(kind: str) -> ir.Model:
    model = model_of("Conv", on_levels((CHANNELS, 3, 5, 5)), [1, 3, 9, 9])
    narrow_weights(model)
    cast, sub, mul, _ = model.graph
    replaced = {
        "steps of another shape": (mul, 1, np.ones((7, 1, 1, 1), np.float32)),
        "steps of fewer dimensions": (mul, 1, np.ones((5, 5), np.float32)),
        "another middle": (sub, 1, np.array(127, np.float32)),
        "a middle for each column": (sub, 1, np.full((1, 1, 1, 5), 128, np.float32)),
        "words": (cast, 0, np.ones((CHANNELS, 3, 5, 5), np.int32)),
    }
    node, index, array = replaced[kind]
    value = ir.Value(name="strange", const_value=ir.tensor(array, name="strange"))
    model.graph.register_initializer(value)
    node.replace_input_with(index, value)
    return model


@pytest.mark.parametrize(
    "kind",
    [
        "steps of another shape",
        "steps of fewer dimensions",
        "another middle",
        "a middle for each column",
        "words",
    ],
)
def test_what_only_looks_like_it_is_left_alone(kind: str) -> None:
    model = strangers(kind)
    assert levels_of(model.graph[-1].inputs[1]) is None
    widen_weights(model)
    assert len(model.graph) == 4
    assert layers_of(model) == []


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("as_output", [False, True])
def test_nodes_that_somebody_else_reads_stay(place: int, as_output: bool, half: bool) -> None:
    """Of a stranger's Cast, Sub and Mul one is an output too, or read by a node that stays."""
    model = model_of("Conv", on_levels((CHANNELS, 3, 5, 5)), [1, 3, 9, 9])
    narrow_weights(model)
    value = model.graph[place].outputs[0]
    if as_output:
        model.graph.outputs.append(value)
    else:
        (first,) = model.graph[3].outputs
        mean = ir.node("ReduceMean", [value], {"keepdims": 0}, name="mean")
        mean.outputs[0].type, mean.outputs[0].shape = value.type, ir.Shape([])
        last = ir.node("Add", [first, mean.outputs[0]], name="last")
        last.outputs[0].type, first.name, last.outputs[0].name = first.type, "between", "Y"
        mean.outputs[0].name = "mean"
        model.graph.extend([mean, last])
        model.graph.outputs[0] = last.outputs[0]
    image = np.random.default_rng(0).standard_normal((1, 3, 9, 9), np.float32)
    expected = run(model, image)

    if half:
        to_float16(model)
    else:
        to_dense(model)

    assert np.abs(run(model, image) - expected).max() <= 5e-3 * half * np.abs(expected).max()
