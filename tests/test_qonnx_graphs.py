"""QONNX files whose graphs are unusual: how constants come about, and what things are called."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from command_line import run
from onnx import TensorProto, helper
from test_qonnx import DOMAIN, SIZE, Network, check, executed, images

import bitexport
from bitexport.comparison import Tolerance, compare_logits, sample_input
from bitexport.errors import ComparisonFailure
from bitexport.export_options import ExportOptions
from bitexport.graph.qonnx import read_qonnx
from bitexport.runtimes import runtime_named

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


def test_a_quantized_weight_that_is_transposed(tmp_path):
    """As torch's older exporter writes a linear layer without bias."""
    net = Network()
    x = net.node("Flatten", net.bipolar("image", 0.5))
    weight = net.node("Transpose", net.bipolar(net.weight(5, 3 * SIZE**2), [0.25]), perm=[1, 0])
    path = net.save(tmp_path / "q.onnx", net.node("MatMul", x, weight))
    assert list(check(path, tmp_path / "m.onnx").values()) == ["BinaryConv"]


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


def branched(net: Network, *inner: onnx.NodeProto) -> str:
    """Signs that a branch alone reads, in front of further nodes: ``then_branch.row`` is theirs."""
    signs, columns = net.bipolar("image", 0.5), net.constant([0, -1], np.int64)
    zeros = net.constant(np.zeros((1, 3 * SIZE**2)))
    above = net.node("Greater", net.node("ReduceMean", "image", keepdims=0), net.constant(0.0))
    branches = {}
    for name, op_type, inputs, further in (
        ("then_branch", "Reshape", [signs, columns], inner),
        ("else_branch", "Identity", [zeros], ()),
    ):
        row = further[-1].output[0] if further else f"{name}.row"
        nodes = [
            helper.make_node(op_type, inputs, [f"{name}.row"], name=f"{name}/row"),
            *further,
            helper.make_node("Neg", [row], [name], name=name),
        ]
        made = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "columns"])
        branches[name] = helper.make_graph(nodes, name, [], [made])
    return net.node("If", above, **branches)


def test_a_quantizer_that_only_a_branch_reads(tmp_path):
    net = Network()
    path = net.save(tmp_path / "q.onnx", branched(net))
    report = bitexport.import_qonnx(path, tmp_path / "m.onnx")
    assert report.verify is not None and report.verify.ok


def test_a_quantizer_in_a_branch_is_refused(tmp_path):
    net = Network()
    inputs = ["then_branch.row", net.constant(0.5)]
    inner = helper.make_node("BipolarQuant", inputs, ["inner"], name="act", domain=DOMAIN)
    path = net.save(tmp_path / "q.onnx", branched(net, inner))
    outcome = run("onnx", path, "-o", tmp_path / "m.onnx", "--no-verify")
    assert outcome.code == 4 and outcome.err.count("\n") == 1
    assert "quantizer 'act' stands within If" in outcome.err
    assert not (tmp_path / "m.onnx").exists()


def test_a_branch_is_refused_in_float16(tmp_path):
    net = Network()
    path = net.save(tmp_path / "q.onnx", branched(net))
    outcome = run("onnx", path, "-o", tmp_path / "m.onnx", "--no-verify", "--fp16")
    assert outcome.code == 4 and outcome.err.count("\n") == 1
    assert "is not computed in float16" in outcome.err
    assert not (tmp_path / "m.onnx").exists()


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


def called(net: Network, output: str, name: str) -> str:
    """Name the node that computes a value."""
    next(node for node in net.nodes if output in node.output).name = name
    return output


def mul_in_front_of_norm(net: Network) -> str:
    x = called(net, binary(net), "/body/Conv")
    x = called(net, net.node("Mul", x, net.constant(3.0)), "/body/Mul")
    return called(net, net.norm(x, 8), "/body/BatchNormalization")


def mul_in_front_of_quantizer(net: Network) -> str:
    x = called(net, net.node("Mul", "image", net.constant(0.5)), "/act/Mul")
    x = called(net, net.quant(x), "/act/Quant")
    return net.conv(x, net.bipolar(net.weight(8, 3, 3, 3), 0.25))


def reshape_in_front_of_gemm(net: Network) -> str:
    shape = net.constant([-1, 3 * SIZE**2], np.int64)
    x = called(net, net.node("Flatten", "image"), "/fc/Flatten")
    x = called(net, net.node("Reshape", x, shape), "/fc/Reshape")
    weight = net.bipolar(net.weight(5, 3 * SIZE**2), 0.5)
    return called(net, net.node("Gemm", x, weight, transB=1), "/fc/Gemm")


def module_called_scale(net: Network) -> str:
    x = net.node("Mul", binary(net), net.constant(3.0))
    x = net.node("Relu", called(net, x, "/block/scale/Mul"))
    return called(net, net.norm(x, 8), "/block/BatchNormalization")


def module_called_as_weights(net: Network) -> str:
    x = called(net, net.node("Relu", "image"), "/block/W/Relu")
    x = net.conv(x, net.bipolar(net.weight(8, 3, 3, 3), 0.25))
    return called(net, x, "/block/Conv")


def weight_called_as_a_bound(net: Network) -> str:
    x = called(net, net.quant("image"), "act")
    weight = rename(net, net.quant(net.weight(8, 3, 3, 3)), "act.low")
    return net.conv(x, weight)


def value_called_as_a_bound(net: Network) -> str:
    x = called(net, net.quant("image"), "act")
    x = rename(net, net.node("Relu", x), "act.low")
    return net.conv(x, net.quant(net.weight(8, 3, 3, 3)))


def value_called_as_a_scale(net: Network) -> str:
    x = rename(net, net.node("Relu", "image"), "body.scale")
    return called(net, net.conv(x, net.bipolar(net.weight(8, 3, 3, 3), 0.25)), "body")


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        weight_called_as_a_bound,
        value_called_as_a_bound,
        value_called_as_a_scale,
        mul_in_front_of_norm,
        mul_in_front_of_quantizer,
        reshape_in_front_of_gemm,
        module_called_scale,
        module_called_as_weights,
    ],
)
def test_names_that_the_passes_give_too(tmp_path, build, plain):
    net = Network()
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", build(net)))
    layers = check(path, tmp_path / "m.onnx", plain=plain)
    graph = onnx.load(tmp_path / "m.onnx").graph
    names = [node.name for node in graph.node]
    values = [name for node in graph.node for name in node.output]
    values += [tensor.name for tensor in graph.initializer]
    assert len(set(names)) == len(names) and len(set(values)) == len(values)
    assert plain or {name.split("/")[0] for name in layers} <= {n.split("/")[0] for n in names}


def test_shapes_are_noted_of_the_values_they_are_of(tmp_path):
    """A value is called as one within the quantizer behind it, which has another shape."""
    net = Network()
    x = rename(net, net.node("AveragePool", "image", kernel_shape=[2, 2]), "/act/Quant/Div")
    y = called(net, net.quant("image"), "/act/Quant")
    net.nodes.insert(0, net.nodes.pop())
    x = net.conv(x, net.bipolar(net.weight(8, 3, 3, 3), 0.25))
    y = net.conv(y, net.bipolar(net.weight(8, 3, 3, 3), 0.25), strides=[1, 1])
    joined = net.node("Concat", net.node("Flatten", x), net.node("Flatten", y), axis=1)
    graph = read_qonnx(net.save(tmp_path / "q.onnx", joined)).graph
    pooled = next(node for node in graph.graph if node.op_type == "AveragePool").outputs[0]
    assert list(pooled.shape)[2:] == [SIZE - 1, SIZE - 1]


def pooled_by_pads(net: Network) -> str:
    shift = net.weight(1, 3, SIZE, SIZE)
    return net.node("MaxPool", shift, kernel_shape=[2, 2], pads=[1, 1, 0, 0])


def pooled_by_lower_pads(net: Network) -> str:
    shift, strides = net.weight(1, 3, 2 * SIZE - 1, 2 * SIZE - 1), [2, 2]
    return net.node("MaxPool", shift, kernel_shape=[2, 2], strides=strides, auto_pad="SAME_LOWER")


def normalized_locally(net: Network) -> str:
    return net.node("LRN", net.weight(1, 3, SIZE, SIZE), size=3, alpha=0.5)


def halved_integers(net: Network) -> str:
    """Quotients below 0, which the evaluator of onnx 1.20 rounds down."""
    whole = net.constant(net.rng.integers(-9, 9, (1, 3, SIZE, SIZE)), np.int64)
    halves = net.node("Div", whole, net.constant(2, np.int64))
    return net.node("Cast", halves, to=TensorProto.FLOAT)


@pytest.mark.parametrize(
    "compute", [pooled_by_pads, pooled_by_lower_pads, normalized_locally, halved_integers]
)
def test_constants_that_evaluators_compute_differently(tmp_path, compute: Callable[[Network], str]):
    """The evaluator of onnx, which folds constants, computes these as no runtime does, or did."""
    net = Network()
    x = net.node("Add", "image", compute(net))
    x = net.conv(x, net.bipolar(net.weight(4, 3, 3, 3), 0.25))
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    assert list(check(path, tmp_path / "m.onnx").values()) == ["SignConv"]


def normed_differently(net: Network, weight: np.ndarray, mean: np.ndarray, shift: float) -> str:
    """A layer of one input channel, and a BatchNorm that undoes the size of each weight."""
    channels = len(weight)
    x = net.conv(net.quant("image", 2.0**-20, bits=24.0), net.constant(weight), side=1)
    variance = net.rng.uniform(0.5, 2, channels)
    gamma = np.sqrt(variance) / weight[:, 0, 0, 0]
    norm = (gamma, np.full(channels, shift), mean * weight[:, 0, 0, 0], variance)
    return net.node("BatchNormalization", x, *(net.constant(n) for n in norm), epsilon=0.0)


def test_a_quantizer_whose_step_rounding_decides(tmp_path):
    """Many activations of one image are 0 but for the rounding of a folded BatchNorm."""
    net = Network()
    weight = np.zeros((64, 3, 1, 1), np.float32)
    weight[:, 0, 0, 0] = net.rng.uniform(1, 2, 64)
    pixel = np.round(sample_input((3, SIZE, SIZE))[0, 0, 0, 0] * 2**20) / 2**20
    x = net.bipolar(normed_differently(net, weight, pixel, 0.0), 0.5)
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    report = bitexport.import_qonnx(path, tmp_path / "m.onnx")
    assert report.verify is not None and report.verify.samples == 8
    assert 0 < report.verify.rel_l2 < 0.1


def test_classes_whose_logits_are_the_same_but_for_rounding(tmp_path):
    net = Network()
    weight = np.zeros((64, 3, 1, 1), np.float32)
    weight[:, 0, 0, 0] = net.rng.uniform(1, 2, 64)
    x = net.node("GlobalMaxPool", normed_differently(net, weight, np.zeros(64), 0.1))
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    report = bitexport.import_qonnx(path, tmp_path / "m.onnx")
    assert report.verify is not None and report.verify.top1_agreement == 1


def test_classes_that_more_than_rounding_tells_apart():
    expected = np.array([[1, 1.00001, 0]], np.float32)
    tolerance = Tolerance.for_model(binary_activations=False, float16=False)
    assert compare_logits(expected, expected, tolerance).top1_agreement == 1
    other = expected[:, [1, 0, 2]]
    compared = compare_logits(other, expected, tolerance)
    assert compared.top1_agreement == 0 and not compared.ok


@pytest.mark.parametrize("batch", ["N", 3])
def test_what_overflows_in_float16_is_refused(tmp_path, batch):
    """ONNX Runtime on a CPU keeps the values that a GPU makes infinite."""
    for scale, fits in ((100, True), (20000, False)):
        net = Network(batch=batch)
        x = called(net, net.conv("image", net.bipolar(net.weight(4, 3, 3, 3), scale)), "/a/Conv")
        x = net.node("Flatten", net.node("Mul", x, net.constant(2**-10)))
        path, options = net.save(tmp_path / "q.onnx", x), ExportOptions(float16=True)
        if fits:
            report = bitexport.import_qonnx(path, tmp_path / "m.onnx", options=options)
            assert report.verify is not None and report.verify.ok
            (tmp_path / "m.onnx").unlink()
            continue
        with pytest.raises(ComparisonFailure, match=r"layer 'a' overflows in float16.*--fp16"):
            bitexport.import_qonnx(path, tmp_path / "m.onnx", options=options)
        assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("between", [False, True])
def test_zeros_that_pad_puts_in_front_of_a_pool(tmp_path, between, float16):
    """ONNX Runtime would make them pads of the pool, which leaves those out."""
    net = Network()
    x = net.node("Sub", "image", net.constant(8.0))
    x = net.node("Pad", x, net.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    x = net.node("MaxPool", net.bipolar(x, 0.5) if between else x, kernel_shape=[2, 2])
    x = net.conv(x, net.bipolar(net.weight(4, 3, 3, 3), 0.25))
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    options = ExportOptions(float16=float16)
    bitexport.import_qonnx(path, tmp_path / "m.onnx", options=options)
    got = runtime_named("ort").load((tmp_path / "m.onnx").read_bytes()).run({"input": images()})
    limit = 2e-2 if float16 else 1e-4
    np.testing.assert_allclose(got["logits"], executed(path, images()), rtol=limit, atol=limit)
