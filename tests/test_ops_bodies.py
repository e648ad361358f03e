"""The function bodies compute what the op table says, in every runtime at hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from single_node import expected, model_of, takes_residual, with_epilogue

from bitexport.ops.nodes import NodeData, node_data
from bitexport.ops.table import OPS
from bitexport.runtimes import EngineOptions
from bitexport.runtimes.tensorrt_rtx import TensorRTRTX
from bitexport.spec import (
    BinaryConvSpec,
    CodebookConvSpec,
    CodebookLinearSpec,
    ConvGeometry,
    SignConvSpec,
)

SEED = 7
# float32 sums of at most 360 terms against float64; half precision keeps 11 bits a product.
TOLERANCE = {ir.DataType.FLOAT: 3e-5, ir.DataType.FLOAT16: 2e-2}

GEOMETRIES = {
    "plain 3x3": (40, (3, 3), ConvGeometry()),
    "padded, 3 channels": (3, (3, 3), ConvGeometry(pads=(1, 1, 1, 1))),
    "strided": (32, (3, 3), ConvGeometry(strides=(2, 2), pads=(1, 1, 1, 1))),
    "uneven strides and pads": (33, (3, 3), ConvGeometry(strides=(2, 3), pads=(0, 1, 2, 1))),
    "1x1 strided": (65, (1, 1), ConvGeometry(strides=(2, 2))),
    "5x5": (7, (5, 5), ConvGeometry(pads=(2, 2, 2, 2))),
    "dilated": (8, (3, 3), ConvGeometry(dilations=(2, 3), pads=(2, 3, 2, 3))),
    "dilated and strided": (8, (3, 2), ConvGeometry(dilations=(3, 2), strides=(1, 2))),
    "grouped": (48, (3, 3), ConvGeometry(group=4, pads=(1, 1, 1, 1))),
    "depthwise": (6, (3, 3), ConvGeometry(group=6)),
}


def conv_node(op: str, channels: int, kernel: tuple[int, int], geometry: ConvGeometry) -> NodeData:
    rng = np.random.default_rng(SEED)
    out_channels = 12
    shape = (out_channels, channels // geometry.group, *kernel)
    scale = rng.normal(size=out_channels).astype(np.float32)
    bias = rng.normal(size=out_channels).astype(np.float32)
    signs = rng.choice(np.array([-1, 1], np.int8), shape)
    if op == "SignConv":
        return node_data(SignConvSpec(signs, scale, bias, geometry))
    if op.startswith("BinaryConv"):
        threshold = rng.normal(size=channels).astype(np.float32)
        node = node_data(BinaryConvSpec(signs, scale, bias, geometry, threshold))
        return with_epilogue(op, node, SEED)
    centroids = 256 if op == "CodebookConv" else 1000
    block = kernel[0] * kernel[1]
    codes = rng.integers(centroids, size=(out_channels, shape[1])).astype(np.uint16)
    codebook = rng.normal(size=(centroids, block)).astype(np.float16)
    return node_data(CodebookConvSpec(codes, codebook, shape, scale, bias, geometry))


def gemm_node() -> NodeData:
    rng = np.random.default_rng(SEED)
    codes = rng.integers(2000, size=(10, 9)).astype(np.uint16)
    codebook = rng.normal(size=(2000, 4)).astype(np.float16)
    ones = np.ones(10, np.float32)
    return node_data(CodebookLinearSpec(codes, codebook, (10, 36), 2 * ones, ones))


def activations(node: NodeData, channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(SEED + 1)
    if node.op.kind == "gemm":
        return {"X": rng.normal(size=(3, channels)).astype(np.float32)}
    x = rng.normal(size=(2, channels, 9, 11)).astype(np.float32)
    if node.op.takes_signs:
        return {"Signs": np.where(x < 0, np.float32(-1), np.float32(1))}
    feed = {"X": x}
    if takes_residual(node):
        feed["R"] = rng.normal(size=expected(node, x).shape).astype(np.float32)
    return feed


# The bodies with an activation differ from the others behind the convolution alone.
ACTIVATED = [op.name for op in OPS if op.name.endswith(("PRelu", "Clip", "Sign"))]
CONV_CASES = [
    pytest.param(op.name, *case, id=f"{op.name}-{name}")
    for op in OPS
    if op.kind == "conv"
    for name, case in GEOMETRIES.items()
    if op.name not in ACTIVATED or name == "uneven strides and pads"
]


@pytest.mark.parametrize("elem", TOLERANCE, ids=["float32", "float16"])
@pytest.mark.parametrize(("op", "channels", "kernel", "geometry"), CONV_CASES)
def test_conv_bodies_in_ort_and_reference(op, channels, kernel, geometry, elem):
    node = conv_node(op, channels, kernel, geometry)
    check(node, activations(node, channels), elem)


@pytest.mark.parametrize("elem", TOLERANCE, ids=["float32", "float16"])
def test_gemm_body_in_ort_and_reference(elem):
    node = gemm_node()
    check(node, activations(node, 36), elem)


def check(node: NodeData, feed: dict[str, np.ndarray], elem: ir.DataType) -> None:
    feed = {k: v.astype(elem.numpy()) for k, v in feed.items()}
    x = feed[node.op.inputs[0].name]
    want = expected(node, x.astype(np.float32), feed.get("R"))
    model = model_of(node, x.ndim, elem=elem)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for y in (session.run(None, feed)[0], ReferenceEvaluator(model).run(None, feed)[0]):
        assert y.dtype == elem.numpy()
        assert y.shape == want.shape
        error = np.abs(y.astype(np.float64) - want).max() / np.abs(want).max()
        assert error <= TOLERANCE[elem], f"relative error {error:.2e}, seed {SEED}"


@pytest.mark.parametrize("op", ["BinaryConvPRelu", "BinaryConvAddPRelu"])
def test_the_body_for_slopes_up_to_1_computes_the_same(op):
    node = conv_node(op, 3, (3, 3), ConvGeometry())
    slope = np.linspace(-1.5, 1, node.tensors["Slope"].size, dtype=np.float32)
    node = replace(node, tensors={**node.tensors, "Slope": slope.reshape(1, -1, 1, 1)})
    feed = activations(node, 3)
    results = []
    for steep in (True, False):
        model = model_of(node, 4, steep=steep)
        assert ("Max" in {n.op_type for n in model.functions[0].node}) != steep
        results.append(onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0])
    assert np.array_equal(*results)


@pytest.mark.parametrize("elem", TOLERANCE, ids=["float32", "float16"])
@pytest.mark.parametrize("op", [op.name for op in OPS])
def test_the_body_for_a_known_type_computes_the_same(op, elem):
    gemm = op == "CodebookGemm"
    node = gemm_node() if gemm else conv_node(op, *GEOMETRIES["uneven strides and pads"])
    feed = {k: v.astype(elem.numpy()) for k, v in activations(node, 36 if gemm else 33).items()}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    results = []
    for dtype in (None, elem):
        model = model_of(node, 2 if gemm else 4, elem=elem, dtype=dtype)
        written = {n.op_type for n in model.functions[0].node}
        assert ("CastLike" in written) == (dtype is None)
        # A codebook is float16 whatever X is.
        needless = dtype == ir.DataType.FLOAT and not op.startswith("Codebook")
        assert not (needless and "Cast" in written)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        results.append(session.run(None, feed)[0])
    assert results[0].dtype == results[1].dtype == elem.numpy()
    assert np.array_equal(*results)


def test_nan_compares_as_minus_one():
    node = conv_node("BinaryConv", 3, (1, 1), ConvGeometry())
    x = np.full((1, 3, 1, 1), np.nan, np.float32)
    session = onnxruntime.InferenceSession(model_of(node, 4).SerializeToString())
    low = np.full_like(x, -np.inf)
    assert np.array_equal(session.run(None, {"X": x})[0], session.run(None, {"X": low})[0])


@pytest.mark.rtx
@pytest.mark.parametrize(("op", "channels", "kernel", "geometry"), CONV_CASES)
def test_tensorrt_rtx_sees_the_right_output_shape(op, channels, kernel, geometry):
    """Its parser ignores strides and dilations inside functions; the bodies make up for it."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    assert trt is TensorRTRTX().module() or trt.__version__
    node = conv_node(op, channels, kernel, geometry)
    feed = activations(node, channels)
    model = model_of(node, 4)
    for declared in model.graph.input:
        for dim, n in zip(
            declared.type.tensor_type.shape.dim, feed[declared.name].shape, strict=True
        ):
            dim.dim_value = n
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), parser.get_error(0)
    want = expected(node, feed[node.op.inputs[0].name], feed.get("R"))
    assert tuple(network.get_output(0).shape) == want.shape
    engine = TensorRTRTX().build(model.SerializeToString(), EngineOptions())
    assert len(engine.data) > 1000
