"""Turn a convolution or linear layer with bipolar weights into an op of ours.

    Conv(BipolarQuant(X, a), BipolarQuant(W, w), b)  =>  BinaryConv(X, bits of W, 0, a * w, b)
    Conv(X, BipolarQuant(W, w), b)                   =>  SignConv(X, bits of W, w, b)

a is one number and w one per output channel. Zero pads of Conv come after its quantizer, as they
do in our ops. A linear layer is a convolution of one pixel:

    Gemm(X, W) | MatMul(X, W)   =>   Reshape(X, [N, Ci, 1, 1]) -> ...Conv -> Reshape(Y, [N, Co])

It declines, with the reason, where the scales vary along other axes or the layer is not 2-D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.errors import UnsupportedModel
from bitexport.graph.constants import constant, graph_of, new_constant, take_over_output
from bitexport.graph.quantizers import bipolar_scale
from bitexport.graph.records import Record
from bitexport.ops.nodes import node_data
from bitexport.ops.table import DOMAIN
from bitexport.spec import BinaryConvSpec, ConvGeometry, SignConvSpec

__all__ = ["fuse_quantizers"]

_RULE = "fuse-quantizers"
_LINEAR = ("Gemm", "MatMul")
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Declined(Exception):
    """Why a layer stays as it is."""

    reason: str


def fuse_quantizers(model: ir.Model) -> list[Record]:
    """Fuse in place; quantizers that nobody reads any more are left for removal."""
    records = []
    for node in list(model.graph):
        if node.domain or node.op_type not in ("Conv", *_LINEAR):
            continue
        weight = _bipolar_weight(node.inputs[1])
        if weight is None:
            continue
        name = node.name or ""
        try:
            fused = _fuse(node, *weight)
        except (_Declined, UnsupportedModel) as error:
            reason = error.reason if isinstance(error, _Declined) else str(error)
            records.append(Record(_RULE, name, False, reason))
            continue
        records.append(Record(_RULE, name, True, f"{node.op_type} became {fused}"))
    return records


def _bipolar_weight(
    value: ir.Value | None,
) -> tuple[npt.NDArray[np.int8], Float32Array] | None:
    """(signs, scales), both of the weight's shape, of a constant behind a bipolar quantizer."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Transpose" and not producer.domain:
        inner = _bipolar_weight(producer.inputs[0])
        axes = producer.attributes.get_ints("perm", None)
        return None if inner is None else (inner[0].transpose(axes), inner[1].transpose(axes))
    scale = bipolar_scale(producer)
    latent = None if producer is None or scale is None else constant(producer.inputs[0])
    if scale is None or latent is None or latent.dtype != np.float32:
        return None
    signs = np.where(latent >= 0, 1, -1).astype(np.int8)
    try:
        return signs, np.broadcast_to(scale, signs.shape)
    except ValueError:
        return None


def _fuse(node: ir.Node, signs: npt.NDArray[np.int8], scales: Float32Array) -> str:
    linear = node.op_type in _LINEAR
    geometry = ConvGeometry() if linear else _geometry(node, signs)
    if linear:
        signs, scales = _rows(node, signs, scales)
        signs, scales = signs[:, :, None, None], scales[:, :, None, None]
    per_channel = scales.reshape(len(scales), -1)
    if (per_channel != per_channel[:, :1]).any():
        raise _Declined("its weight scale is not one per output channel")
    scale = per_channel[:, 0]
    bias = _bias(node, len(signs))
    x, activation_scale = _bipolar_input(node.inputs[0])
    spec = SignConvSpec(signs, scale, bias, geometry)
    if activation_scale is not None:
        zeros = np.zeros(spec.in_channels, np.float32)
        spec = BinaryConvSpec(
            signs, np.float32(activation_scale) * scale, bias, geometry, threshold=zeros
        )
    return _replace(node, x, spec, linear=linear)


def _geometry(node: ir.Node, signs: npt.NDArray[np.int8]) -> ConvGeometry:
    if signs.ndim != 4:
        raise _Declined(f"its weight has {signs.ndim} dimensions, not 4")
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise _Declined("it pads automatically")
    strides, pads, dilations = (
        tuple(node.attributes.get_ints(name, default))
        for name, default in (("strides", (1, 1)), ("pads", (0,) * 4), ("dilations", (1, 1)))
    )
    if len(strides) != 2 or len(pads) != 4 or len(dilations) != 2:
        raise _Declined("its attributes are not those of a 2-D convolution")
    return ConvGeometry(
        (strides[0], strides[1]),
        (pads[0], pads[1], pads[2], pads[3]),
        (dilations[0], dilations[1]),
        node.attributes.get_int("group", 1),
    )


def _rows(
    node: ir.Node, signs: npt.NDArray[np.int8], scales: Float32Array
) -> tuple[npt.NDArray[np.int8], Float32Array]:
    """A linear layer's weight as [Co, Ci]."""
    source = node.inputs[0]
    if signs.ndim != 2 or source is None or source.shape is None or len(source.shape) != 2:
        raise _Declined("its input or weight is not known to have 2 dimensions")
    plain = all(node.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))
    if not plain or node.attributes.get_int("transA", 0) != 0:
        raise _Declined("it scales or transposes its input")
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 0:
        return signs, scales
    return signs.T, scales.T


def _bias(node: ir.Node, channels: int) -> Float32Array:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(channels, np.float32)
    bias = constant(node.inputs[2])
    if bias is None or bias.dtype != np.float32:
        raise _Declined("its bias is no constant")
    # Gemm's may have other rows for each sample.
    if bias.shape not in ((), (1,), (channels,), (1, 1), (1, channels)):
        raise _Declined("its bias is not one number per output channel")
    return np.broadcast_to(bias.reshape(-1), (channels,)).astype(np.float32)


def _bipolar_input(value: ir.Value | None) -> tuple[ir.Value, float | None]:
    """What a quantizer in front of the layer reads, and its scale; else the input itself."""
    if value is None:
        raise _Declined("it has no input")
    producer = value.producer()
    scale = bipolar_scale(producer)
    if producer is None or scale is None or scale.size != 1 or producer.inputs[0] is None:
        return value, None
    return producer.inputs[0], float(scale.reshape(-1)[0])


def _replace(node: ir.Node, x: ir.Value, spec: SignConvSpec, *, linear: bool) -> str:
    graph, name = graph_of(node), node.name or ""
    data = node_data(spec)
    constants = [new_constant(graph, f"{name}.{k}", array) for k, array in data.tensors.items()]
    attributes = {k: list(v) if isinstance(v, tuple) else v for k, v in data.attributes.items()}
    new = [ir.node(data.op.name, [x, *constants], attributes, domain=DOMAIN, name=name)]
    last = new[0].outputs[0]
    if linear:
        last.type, last.shape = node.outputs[0].type, ir.Shape([None, spec.out_channels, 1, 1])
        last.name = f"{name}/{data.op.name}"
        new[0].name = last.name
        columns = np.array([0, spec.in_channels, 1, 1], np.int64)
        rows = np.array([0, spec.out_channels], np.int64)
        shapes = [new_constant(graph, f"{name}.shape", shape) for shape in (columns, rows)]
        before = ir.node("Reshape", [x, shapes[0]], name=f"{name}/Reshape")
        before.outputs[0].name, before.outputs[0].type = f"{name}/Reshape", x.type
        new[0].replace_input_with(0, before.outputs[0])
        after = ir.node("Reshape", [last, shapes[1]], name=name)
        new = [before, new[0], after]
        last = after.outputs[0]
    last.type, last.shape = node.outputs[0].type, node.outputs[0].shape
    graph.insert_before(node, new)
    take_over_output(node, last)
    return data.op.name
