"""QONNX files: fused where our ops can, expanded where not, and equal to QONNX's own executor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from command_line import run
from onnx import TensorProto, helper, numpy_helper

import bitexport
from bitexport.errors import InputError, UnsupportedModel
from bitexport.export_options import ExportOptions
from bitexport.families import LoadOptions
from bitexport.graph.read import read_onnx
from bitexport.runtimes import runtime_named

DOMAIN = "qonnx.custom_op.general"
SEED = 3
SIZE = 12


class Network:
    """Collects nodes and constants of a QONNX file with one input [N, 3, 12, 12]."""

    def __init__(self, *, opset: int = 13, batch: int | str = "N", version: int = 1) -> None:
        self.rng = np.random.default_rng(SEED)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.opset, self.batch, self.version = opset, batch, version

    def constant(self, array, dtype=np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def node(self, op_type: str, *inputs: str, domain: str = "", **attributes) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(
                op_type, inputs, [output], name=f"/{op_type}_{output}/{op_type}",
                domain=domain, **attributes,
            )
        )  # fmt: skip
        return output

    def bipolar(self, x: str, scale=1.0, domain: str = DOMAIN) -> str:
        return self.node("BipolarQuant", x, self.constant(scale), domain=domain)

    def quant(self, x: str, scale=0.25, zero=0.0, bits=4.0, **attributes) -> str:
        settings = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} | attributes
        values = (self.constant(v) for v in (scale, zero, bits))
        return self.node("Quant", x, *values, domain=DOMAIN, **settings)

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.standard_normal(shape))

    def norm(self, x: str, channels: int) -> str:
        values = [self.weight(channels) for _ in range(3)]
        variance = self.constant(self.rng.uniform(0.5, 2, channels))
        return self.node("BatchNormalization", x, *values, variance, epsilon=1e-5)

    def conv(self, x: str, weight: str, *bias: str, side: int = 3, **attributes) -> str:
        return self.node("Conv", x, weight, *bias, kernel_shape=[side, side], **attributes)

    def save(self, path: Path, output: str) -> Path:
        interface = [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, [self.batch, 3, SIZE, SIZE]),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, None),
        ]
        graph = helper.make_graph(self.nodes, "net", interface[:1], interface[1:], self.constants)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(DOMAIN, self.version)]
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
        return path


def typical(net: Network) -> str:
    """Eight-bit input and first weights, then binary layers with a pool and a residual between."""
    x = net.quant("image", 2**-5, bits=8.0)
    x = net.conv(x, net.quant(net.weight(33, 3, 3, 3), 0.125, bits=8.0, narrow=1), pads=[1] * 4)
    x = net.norm(x, 33)
    a = net.bipolar(x, 0.5)
    scales = net.rng.uniform(-1, 1, (20, 1, 1, 1))
    x = net.conv(a, net.bipolar(net.weight(20, 33, 3, 3), scales), net.weight(20), strides=[2, 2])
    x = net.norm(x, 20)
    x = net.node("MaxPool", net.bipolar(x, 0.75), kernel_shape=[2, 2], strides=[1, 1])
    x = net.conv(x, net.bipolar(net.weight(8, 5, 1, 1), 0.3), side=1, group=4)
    x = net.node("Flatten", net.bipolar(net.norm(x, 8), 1.5))
    x = net.node("Gemm", x, net.bipolar(net.weight(9, 128), 0.1), net.weight(9), transB=1)
    return net.node("MatMul", x, net.bipolar(net.weight(9, 5), 0.2))


def images(count: int = 4) -> np.ndarray:
    shape = (count, 3, SIZE, SIZE)
    return np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)


def executed(path: Path, x: np.ndarray) -> np.ndarray:
    """The outputs by QONNX's own executor, sample by sample: it wants shapes that are fixed."""
    return np.concatenate([executed_at_once(path, row[None]) for row in x])


def executed_at_once(path: Path, x: np.ndarray) -> np.ndarray:
    """The outputs by QONNX's own executor, for all samples."""
    pytest.importorskip("qonnx", reason="QONNX's executor: pip install qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(onnx.load(path))
    name, output = model.graph.input[0].name, model.graph.output[0].name
    model.set_tensor_shape(name, list(x.shape))
    model = model.transform(InferShapes())
    # It runs each node in a model of the newest IR version, which may be too new for the runtime.
    with mock.patch("onnx.IR_VERSION", 10):
        return execute_onnx(model, {name: x})[output]


def check(path: Path, output: Path, runtime: str = "ort", **options) -> dict[str, str]:
    """Import, compare with QONNX's executor, and return layer -> op."""
    report = bitexport.import_qonnx(path, output, options=ExportOptions(**options))
    _, data = read_onnx(output)
    got = runtime_named(runtime).load(data).run({"input": images()})["logits"]
    np.testing.assert_allclose(got, executed(path, images()), rtol=1e-4, atol=1e-4)
    return {layer.name: layer.op for layer in report.layers}


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("runtime", ["ort", "ort-native"])
@pytest.mark.parametrize("opset", [11, 13, 18, 20])
def test_a_typical_network(tmp_path, opset, runtime):
    net = Network(opset=opset)
    path = net.save(tmp_path / "q.onnx", typical(net))
    layers = check(path, tmp_path / "m.onnx", runtime)
    assert sorted(layers.values()) == ["BinaryConv"] * 3 + ["Conv", "SignConv"]
    assert layers["Conv_v2"] == "Conv"


def test_plain_and_small(tmp_path):
    net = Network()
    path = net.save(tmp_path / "q.onnx", typical(net))
    check(path, tmp_path / "m.onnx", plain=True)
    report = bitexport.import_qonnx(path, tmp_path / "m.onnx")
    second = next(x for x in report.layers if x.weight_shape == (20, 33, 3, 3))
    assert second.bits_per_weight == 64 / 33
    (reason,) = report.dense_reasons.values()
    assert "no constant behind a bipolar quantizer" in reason


@pytest.mark.parametrize("domain", ["onnx.brevitas", "finn.custom_op.general"])
def test_older_domains(tmp_path, domain):
    net = Network()
    weight = net.bipolar(net.weight(4, 3, 3, 3), 0.5, domain)
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", net.conv("image", weight)))
    report = bitexport.import_qonnx(path, tmp_path / "m.onnx")
    assert [layer.op for layer in report.layers] == ["SignConv"]


def flat(net: Network) -> str:
    return net.node("Flatten", net.conv("image", net.bipolar(net.weight(4, 3, 3, 3), 0.5)))


def test_outputs_that_are_too_large_to_compare(tmp_path):
    net = Network()
    x = net.node("Tile", flat(net), net.constant([1, 1 << 14], np.int64))
    path = net.save(tmp_path / "q.onnx", x)
    with pytest.raises(InputError, match=r"too large to compare.*--no-verify"):
        bitexport.import_qonnx(path, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("batch", [1 << 18, -3])
def test_a_batch_beyond_all_measure(tmp_path, batch):
    net = Network(batch=batch)
    path = net.save(tmp_path / "q.onnx", flat(net))
    with pytest.raises(InputError, match="takes no images to compare with"):
        bitexport.import_qonnx(path, tmp_path / "m.onnx")


def test_one_bit_quant_is_bipolar(tmp_path):
    net = Network()
    weight = net.quant(net.weight(4, 3, 3, 3), 0.5, bits=1.0)
    x = net.conv(net.quant("image", 0.5, bits=1.0), weight)
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    assert list(check(path, tmp_path / "m.onnx").values()) == ["BinaryConv"]


def bits_of_a_negative_scale(net: Network) -> str:
    weight = net.quant(net.weight(4, 3, 3, 3), -0.5, bits=1.0)
    return net.conv(net.quant("image", -0.25, bits=1.0), weight)


def bits_of_scales_of_either_sign(net: Network) -> str:
    scales = np.array([0.5, -0.25, 0.75, 0.1], np.float32).reshape(4, 1, 1, 1)
    return net.conv("image", net.quant(net.weight(4, 3, 3, 3), scales, bits=1.0))


def bits_beside_a_zero_point(net: Network) -> str:
    weight = net.quant(net.weight(4, 3, 3, 3), 0.5, 1.0, bits=1.0)
    return net.conv(net.quant("image", 0.5, 1.0, bits=1.0), weight)


def bits_of_a_computed_scale(net: Network) -> str:
    mean = net.node("ReduceMean", net.node("Abs", "image"), axes=[1, 2, 3])
    signs = net.node("Quant", "image", mean, net.constant(0.0), net.constant(1.0),
                     domain=DOMAIN, signed=1, narrow=0, rounding_mode="ROUND")  # fmt: skip
    return net.conv(signs, net.quant(net.weight(4, 3, 3, 3), 0.5, bits=1.0))


@pytest.mark.filterwarnings("ignore:divide by zero")  # by the executor
def test_a_channel_whose_scale_is_zero_is_stored_in_bits(tmp_path):
    net = Network()
    scales = np.array([0.5, 0, 0.75, 0.1], np.float32).reshape(4, 1, 1, 1)
    weight = net.quant(net.weight(4, 3, 3, 3), scales, bits=1.0)
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", net.conv("image", weight)))
    assert list(check(path, tmp_path / "m.onnx").values()) == ["SignConv"]


def test_a_scale_that_constants_give(tmp_path):
    net = Network()
    latent = net.weight(4, 3, 3, 3)
    mean = net.node("ReduceMean", net.node("Abs", latent), axes=[1, 2, 3])
    weight = net.node("Quant", latent, mean, net.constant(0.0), net.constant(1.0),
                      domain=DOMAIN, signed=1, narrow=0)  # fmt: skip
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", net.conv("image", weight)))
    assert list(check(path, tmp_path / "m.onnx").values()) == ["SignConv"]


def test_what_quant_leaves_out_is_as_its_specification_says(tmp_path):
    """QONNX's executor wants both attributes; its page of the operator has signed 1, narrow 0."""
    paths = []
    for stated in ({}, {"signed": 1, "narrow": 0}):
        net = Network()
        values = (net.constant(value) for value in (0.25, 0.0, 4.0))
        x = net.node("Quant", "image", *values, domain=DOMAIN, **stated)
        x = net.conv(x, net.bipolar(net.weight(4, 3, 3, 3), 0.5))
        path = net.save(tmp_path / f"q{len(paths)}.onnx", net.node("Flatten", x))
        bitexport.import_qonnx(path, tmp_path / f"m{len(paths)}.onnx")
        paths.append(tmp_path / f"m{len(paths)}.onnx")
    first, second = (
        runtime_named("ort").load(read_onnx(path)[1]).run({"input": images()})["logits"]
        for path in paths
    )
    np.testing.assert_array_equal(first, second)


def test_nodes_need_no_names(tmp_path):
    net = Network()
    output = typical(net)
    for node in net.nodes:
        node.name = ""
    path = net.save(tmp_path / "q.onnx", output)
    layers = check(path, tmp_path / "m.onnx")
    assert sorted(layers.values()) == ["BinaryConv"] * 3 + ["Conv", "SignConv"]


def test_a_scale_of_the_images_dimensions_in_front_of_flatten(tmp_path):
    net = Network()
    x = net.node("Flatten", net.bipolar("image", np.full((1, 1, 1, 1), 0.5)))
    x = net.node("Gemm", x, net.weight(5, 3 * SIZE * SIZE), transB=1)
    path = net.save(tmp_path / "q.onnx", x)
    assert list(check(path, tmp_path / "m.onnx").values()) == ["Gemm"]


def added_convolutions(net: Network, rows: int, index: list[int] | None, axis: int = 1) -> str:
    """Two convolutions of one module, added; the name is all that a layer with zeros has too."""
    a = net.bipolar("image", 0.5)
    first = net.conv(a, net.bipolar(net.weight(8, 3, 3, 3), 0.25))
    second = net.conv(a, net.bipolar(net.weight(rows, 3, 3, 3), 0.25))
    if index is not None:
        second = net.node("Gather", second, net.constant(index, np.int64), axis=axis)
    added = net.node("Add", first, second)
    for node in net.nodes[-4:]:
        node.name = f"/block/{node.op_type}_{node.output[0]}"
    net.nodes[-1].name = "/block/Add"
    return net.norm(added, 8)


@pytest.mark.parametrize(
    ("rows", "index", "axis"),
    [(4, [0, 0, 1, 1, 2, 2, 3, 3], 1), (8, list(range(9, -1, -1)), 2), (1, None, 1), (8, None, 1)],
)
def test_convolutions_of_one_module_that_are_added(tmp_path, rows, index, axis):
    net = Network()
    path = net.save(
        tmp_path / "q.onnx", net.node("Flatten", added_convolutions(net, rows, index, axis))
    )
    check(path, tmp_path / "m.onnx")


def test_zero_is_plus_one(tmp_path):
    """sign(0) is +1 in QONNX, for weights and activations alike."""
    net = Network()
    latent = net.constant(np.zeros((4, 3, 3, 3)))
    x = net.node("Relu", net.node("Add", "image", net.constant(0.0)))
    x = net.conv(net.bipolar(x, 0.5), net.bipolar(latent, 0.5), pads=[1] * 4)
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    assert list(check(path, tmp_path / "m.onnx").values()) == ["BinaryConv"]


def scales_along_inputs(net: Network) -> str:
    scales = net.rng.uniform(0.5, 1, (1, 3, 1, 1))
    return net.conv("image", net.bipolar(net.weight(4, 3, 3, 3), scales))


def activation_scales_per_channel(net: Network) -> str:
    x = net.bipolar("image", net.rng.uniform(0.5, 1, (1, 3, 1, 1)))
    return net.conv(x, net.bipolar(net.weight(4, 3, 3, 3), 0.5))


def negative_scale_and_pool(net: Network) -> str:
    x = net.node("MaxPool", net.bipolar("image", -0.5), kernel_shape=[2, 2])
    return net.conv(x, net.bipolar(net.weight(4, 3, 3, 3), 0.5))


def channel_scales_and_pool(net: Network) -> str:
    a = net.bipolar("image", net.rng.uniform(0.5, 1, (1, 3, 1, 1)))
    x = net.node("MaxPool", a, kernel_shape=[2, 2])
    return net.conv(x, net.bipolar(net.weight(4, 3, 3, 3), 0.5))


def gemm_with(**factors: float) -> Callable[[Network], str]:
    def build(net: Network) -> str:
        x = net.node("Flatten", "image")
        weight = net.bipolar(net.weight(5, 3 * SIZE * SIZE), 0.5)
        return net.node("Gemm", x, weight, net.weight(5), transB=1, **factors)

    return build


def two_readers(net: Network) -> str:
    a = net.bipolar("image", 0.5)
    y = net.conv(a, net.bipolar(net.weight(3, 3, 3, 3), 0.5), pads=[1] * 4)
    return net.node("Add", y, a)


def unsigned_with_zero_point(net: Network) -> str:
    x = net.quant("image", 0.125, 7.0, 3.0, signed=0, narrow=1, rounding_mode="FLOOR")
    return net.conv(x, net.bipolar(net.weight(4, 3, 3, 3), 0.5))


@pytest.mark.parametrize(
    ("build", "op"),
    [
        (scales_along_inputs, "Conv"),
        (activation_scales_per_channel, "SignConv"),
        (negative_scale_and_pool, "SignConv"),
        (channel_scales_and_pool, "SignConv"),
        (gemm_with(alpha=0.5), "Gemm"),
        (gemm_with(beta=0.5), "Gemm"),
        (two_readers, "BinaryConvAdd"),
        (unsigned_with_zero_point, "SignConv"),
        # One signed bit is -1 or +1 with any scale and zero point.
        (bits_of_a_negative_scale, "Conv"),
        (bits_of_scales_of_either_sign, "Conv"),
        (bits_beside_a_zero_point, "Conv"),
        (bits_of_a_computed_scale, "SignConv"),
    ],
)
def test_what_cannot_be_fused_stays_exact(tmp_path, build, op):
    net = Network()
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", build(net)))
    assert list(check(path, tmp_path / "m.onnx").values()) == [op]


def refused_rounding(net: Network) -> str:
    return net.quant("image", rounding_mode="DPU")


def refused_bits(net: Network) -> str:
    return net.quant("image", bits=[[1.0, 2.0]])


def refused_quantizer(net: Network) -> str:
    return net.node("FloatQuant", "image", *[net.constant(1.0) for _ in range(5)], domain=DOMAIN)


def refused_domain(net: Network) -> str:
    return net.node("Mystery", net.bipolar("image"), domain="com.example")


def refused_plain(net: Network) -> str:
    return net.node("Relu", "image")


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (refused_rounding, "DPU"),
        (refused_bits, "bit width"),
        (refused_quantizer, "got FloatQuant, expected BipolarQuant, Quant or Trunc"),
        (refused_domain, "com.example"),
        (refused_plain, "no quantizer nodes"),
    ],
)
def test_refusals_are_one_line(tmp_path, build, text):
    net = Network()
    path = net.save(tmp_path / "q.onnx", net.node("Identity", build(net)))
    outcome = run("onnx", str(path), "-o", str(tmp_path / "m.onnx"))
    assert outcome.code == 4 and text in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "m.onnx").exists()


def test_statistics_of_each_batch_are_refused(tmp_path):
    net = Network(opset=15)
    x = net.norm(net.conv("image", net.bipolar(net.weight(4, 3, 3, 3), 0.5)), 4)
    net.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    net.nodes[-1].output.extend(["running_mean", "running_variance"])
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    model = onnx.load(path)
    name = model.graph.output[0].name
    # Older versions of onnx do not infer it here.
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4 * 10 * 10])
    model.graph.output[0].CopyFrom(output)
    onnx.save(model, path)
    with pytest.raises(UnsupportedModel, match=r"training_mode 1.*evaluation mode"):
        bitexport.import_qonnx(path, tmp_path / "m.onnx")


def test_what_was_exported_already_is_told_apart(tmp_path):
    net = Network()
    path = net.save(tmp_path / "q.onnx", typical(net))
    assert run("onnx", path, "-o", tmp_path / "m.onnx").code == 0
    again = run("onnx", tmp_path / "m.onnx", "-o", tmp_path / "n.onnx")
    assert again.code == 4 and "is exported already" in again.err


@pytest.mark.parametrize(("batch", "samples"), [(3, 8), (64, 64)])
def test_a_fixed_batch_of_any_size_is_verified(tmp_path, batch, samples):
    net = Network()
    path = net.save(tmp_path / "q.onnx", typical(net))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, path)
    report = bitexport.import_qonnx(path, tmp_path / "m.onnx")
    assert report.verify is not None and report.verify.samples == samples


def test_options_of_checkpoints_do_not_apply(tmp_path):
    net = Network()
    path = net.save(tmp_path / "q.onnx", typical(net))
    options = ExportOptions(load=LoadOptions(family="siman"))
    with pytest.raises(InputError, match="does not apply to a QONNX file"):
        bitexport.import_qonnx(path, tmp_path / "m.onnx", options=options)


def lacks_values(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"\x00" * 3


def claims_terabytes(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].dims[:] = [1 << 40]


def takes_terabytes(model: onnx.ModelProto) -> None:
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 1 << 30


def wrong_type(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Quant")
    node.attribute[0].CopyFrom(helper.make_attribute(node.attribute[0].name, [0.5]))


def shapes_disagree(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


@pytest.mark.parametrize(
    "damage", [lacks_values, claims_terabytes, takes_terabytes, wrong_type, shapes_disagree]
)
def test_malformed_files_are_one_line(tmp_path, damage):
    net = Network()
    path = net.save(tmp_path / "q.onnx", net.quant(typical(net)))
    model = onnx.load(path)
    damage(model)
    path.write_bytes(model.SerializeToString())
    outcome = run("onnx", str(path), "-o", str(tmp_path / "m.onnx"))
    assert outcome.code in (2, 4) and outcome.err.count("\n") == 1, outcome.err
    assert not (tmp_path / "m.onnx").exists()


def test_damaged_files_are_refused(tmp_path):
    net = Network()
    data = bytearray(net.save(tmp_path / "q.onnx", typical(net)).read_bytes())
    rng = np.random.default_rng(SEED)
    for _ in range(40):
        broken = data.copy()
        for position in rng.integers(0, len(data), 8):
            broken[position] = rng.integers(256)
        (tmp_path / "b.onnx").write_bytes(broken[: rng.integers(1, len(data) + 1)])
        try:
            bitexport.import_qonnx(tmp_path / "b.onnx", tmp_path / "m.onnx")
        except bitexport.BitexportError:
            continue


BREVITAS = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from torch import nn
import brevitas.nn as qnn
from brevitas.export import export_qonnx
from brevitas.quant import SignedBinaryActPerTensorConst as A, SignedBinaryWeightPerTensorConst as W

torch.manual_seed(3)
model = nn.Sequential(
    qnn.QuantIdentity(bit_width=8),
    qnn.QuantConv2d(3, 16, 3, bias=False, weight_quant=W), nn.BatchNorm2d(16),
    qnn.QuantIdentity(act_quant=A),
    qnn.QuantConv2d(16, 40, 3, bias=True, padding=1, weight_quant=W), nn.BatchNorm2d(40),
    qnn.QuantIdentity(act_quant=A), nn.MaxPool2d(2), nn.Flatten(),
    qnn.QuantLinear(40 * 25, 10, bias=False, weight_quant=W),
)
for layer in model:
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
x = torch.randn(1, 3, 12, 12)
model(x)  # calibrates the scales
model.eval()
y = model(x)
np.savez(sys.argv[2], input=x.numpy(), logits=getattr(y, "value", y).detach().numpy())
export_qonnx(model, args=x, export_path=sys.argv[1])
"""


def test_a_file_that_brevitas_writes(tmp_path):
    pytest.importorskip("onnxoptimizer", reason="Brevitas exports with it: pip install brevitas")
    source, recorded = tmp_path / "q.onnx", tmp_path / "io.npz"
    written = subprocess.run(
        [sys.executable, "-c", BREVITAS, str(source), str(recorded)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert written.returncode == 0, written.stderr
    outcome = run("onnx", str(source), "-o", str(tmp_path / "m.onnx"))
    assert outcome.code == 0, outcome.err
    outcome = run("verify", str(tmp_path / "m.onnx"), "--inputs", str(recorded))
    assert outcome.code == 0, outcome.err
    graph, _ = read_onnx(tmp_path / "m.onnx")
    ours = [node.op_type for node in graph.graph if node.domain == "bitexport"]
    assert ours == ["SignConv", "BinaryConv", "BinaryConv"]


def test_a_batch_that_no_machine_holds(tmp_path: Path) -> None:
    net = Network(batch=2**40)
    path = net.save(tmp_path / "net.onnx", net.node("Flatten", net.quant("image")))
    outcome = run("onnx", path, "-o", tmp_path / "out.onnx")
    assert outcome.code == 2 and "1099511627776, 3, 12, 12] from an input" in outcome.err
