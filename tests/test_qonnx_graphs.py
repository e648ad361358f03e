"""QONNX files whose graphs are unusual: how constants come about, and what things are called."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from command_line import run
from onnx import TensorProto, helper
from test_qonnx import SIZE, Network, check

import bitexport

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def binary(net: Network, channels: int = 8, **attributes) -> str:
    return net.conv("image", net.bipolar(net.weight(channels, 3, 3, 3), 0.25), **attributes)


def rename(net: Network, old: str, new: str) -> str:
    """Call a constant or value otherwise, wherever it is written and read."""
    for tensor in net.constants:
        tensor.name = new if tensor.name == old else tensor.name
    for node in net.nodes:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    return new


def transposed_matrix(net: Network) -> str:
    x = net.node("Flatten", net.node("GlobalAveragePool", binary(net)))
    return net.node("MatMul", x, net.node("Transpose", net.weight(5, 8), perm=[1, 0]))


def transposed_filters(net: Network) -> str:
    weight = net.node("Transpose", net.weight(3, 8, 3, 3), perm=[1, 0, 2, 3])
    return net.conv(net.quant("image"), weight)


def sliced_shift(net: Network) -> str:
    bounds = (net.constant([n], np.int64) for n in (0, 2 * SIZE, 3, 2))
    shift = net.node("Slice", net.weight(1, 3, SIZE, 2 * SIZE), *bounds)
    return net.conv(net.quant(net.node("Add", "image", shift)), net.weight(4, 3, 3, 3))


@pytest.mark.parametrize("build", [transposed_matrix, transposed_filters, sliced_shift])
def test_constants_that_fold_to_views(tmp_path, build: Callable[[Network], str]):
    net = Network()
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", build(net)))
    check(path, tmp_path / "m.onnx")


def test_a_bias_for_each_sample_stays_one(tmp_path):
    """Gemm broadcasts [M, 1] along the channels, also where there are as many as samples."""
    net = Network(batch=4)
    bias = net.constant(10.0 * np.arange(4).reshape(4, 1))
    weight = net.bipolar(net.weight(4, 3 * SIZE**2), 0.1)
    x = net.node("Gemm", net.node("Flatten", "image"), weight, bias, transB=1)
    path = net.save(tmp_path / "q.onnx", x)
    report = bitexport.import_qonnx(path, tmp_path / "m.onnx")
    (reason,) = report.dense_reasons.values()
    assert reason == "its bias is not one number per output channel"
    assert report.verify is not None and report.verify.ok


def test_a_quantizer_that_only_a_branch_reads(tmp_path):
    net = Network()
    signs, columns = net.bipolar("image", 0.5), net.constant([0, -1], np.int64)
    zeros = net.constant(np.zeros((1, 3 * SIZE**2)))
    above = net.node("Greater", net.node("ReduceMean", "image", keepdims=0), net.constant(0.0))
    branches = {}
    for name, op_type, inputs in (
        ("then_branch", "Reshape", [signs, columns]),
        ("else_branch", "Identity", [zeros]),
    ):
        nodes = [
            helper.make_node(op_type, inputs, [f"{name}/row"], name=f"{name}/row"),
            helper.make_node("Neg", [f"{name}/row"], [name], name=name),
        ]
        made = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "columns"])
        branches[name] = helper.make_graph(nodes, name, [], [made])
    path = net.save(tmp_path / "q.onnx", net.node("If", above, **branches))
    report = bitexport.import_qonnx(path, tmp_path / "m.onnx")
    assert report.verify is not None and report.verify.ok


@pytest.mark.parametrize("name", ["input", "logits"])
def test_a_constant_called_as_our_interface(tmp_path, name):
    net = Network()
    bias = net.constant(np.arange(4.0))
    x = net.conv("image", net.bipolar(net.weight(4, 3, 3, 3), 0.25), bias)
    rename(net, bias, name)
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    assert list(check(path, tmp_path / "m.onnx").values()) == ["SignConv"]


@pytest.mark.parametrize("name", ["input", "logits"])
def test_values_called_as_our_interface_and_as_what_it_replaces(tmp_path, name):
    net = Network()
    first = rename(net, net.node("Relu", "image"), name)
    inner = rename(net, net.node("Add", first, "image"), f"{name}.inner")
    x = net.conv(inner, net.bipolar(net.weight(4, 3, 3, 3), 0.25))
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    assert list(check(path, tmp_path / "m.onnx").values()) == ["SignConv"]


def test_an_output_that_is_the_input_is_refused(tmp_path):
    net = Network()
    net.bipolar("image", 0.5)
    outcome = run("onnx", net.save(tmp_path / "q.onnx", "image"), "-o", tmp_path / "m.onnx")
    assert outcome.code == 4 and outcome.err.count("\n") == 1
    assert "an output that is the input 'image' itself" in outcome.err
    assert not (tmp_path / "m.onnx").exists()
