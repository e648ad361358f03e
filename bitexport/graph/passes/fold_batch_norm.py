"""Fold BatchNorm into what stands before it, or turn it into one per-channel affine.

In evaluation BatchNorm is an affine map of each channel, with g = gamma / sqrt(var + eps):

    BN(y) = g * y + (beta - g * mean)

    SignConv/...(S, B) -> BN     =>   SignConv/...(S = g * S, B = g * B + beta - g * mean)
    Add(two parts of a layer)    =>   both S times g, one B as above (see graph/emit.py)
      -> BN
    Conv/Gemm(W, b)    -> BN     =>   Conv/Gemm(W = g * W, b = g * b + beta - g * mean)
    anything else      -> BN     =>   Mul(g) -> Add(beta - g * mean)

Every case holds for gamma < 0 and gamma = 0 too, as nothing is divided by g. It declines to fold
where another node reads the unnormalized value, and keeps a dense weight apart that float16
holds exactly and 256 levels do not, since folding would double its size; ONNX Runtime merges such
an affine into the convolution when it loads the model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.errors import UnsupportedModel
from bitexport.graph.constants import (
    constant,
    graph_of,
    new_constant,
    set_input_constant,
    take_over_output,
)
from bitexport.graph.passes.narrow_constants import fits_float16
from bitexport.graph.passes.narrow_weights import fits_levels
from bitexport.graph.records import Record
from bitexport.ops.table import DOMAIN, op_named

__all__ = ["fold_batch_norm"]

_RULE = "fold-batch-norm"
Float64Array = npt.NDArray[np.float64]


def fold_batch_norm(model: ir.Model, *, keep_float16: bool = True) -> list[Record]:
    """Remove every BatchNormalization of the graph, in place.

    Args:
        model: Changed in place; its nodes are named after torch modules.
        keep_float16: Keep an affine apart from a dense weight that float16 holds exactly.

    Returns:
        One record per BatchNorm.
    """
    records = []
    for node in list(model.graph):
        if node.op_type == "BatchNormalization" and node.domain == "":
            records.append(_remove(node, keep_float16))
    return records


def _remove(node: ir.Node, keep_float16: bool) -> Record:
    scale, shift = _affine(node)
    layer = node.name or ""
    source = node.inputs[0]
    producer = None if source is None else source.producer()
    parts = _split_parts(producer, len(scale))
    reason = None if parts else _reason_to_decline(producer, keep_float16)
    if producer is None or reason is not None:
        if node.outputs[0].shape is None:
            return Record(_RULE, layer, False, "stays, as the dimensions of its input are unknown")
        _insert_affine(node, scale, shift)
        return Record(_RULE, layer, False, f"became one per-channel affine: {reason}")
    if parts is not None:
        plus, minus, source_of = parts
        _fold_into_scale_and_bias(plus, scale, shift)
        _fold_into_scale_and_bias(minus, *_part_affine(minus, source_of, scale))
        into = "S and B of both parts"
    elif producer.domain == DOMAIN:
        _fold_into_scale_and_bias(producer, scale, shift)
        into = "S and B"
    else:
        _fold_into_weight(producer, scale, shift)
        into = "weight and bias"
    detail = f"folded into {into} of {producer.op_type} {producer.name!r}"
    take_over_output(node, producer.outputs[0])
    return Record(_RULE, layer, True, detail)


def _affine(node: ir.Node) -> tuple[Float64Array, Float64Array]:
    """(g, beta - g * mean), float64 [C]."""
    arrays = [constant(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        raise UnsupportedModel(
            f"BatchNorm {node.name!r} has computed parameters",
            got="a parameter that is no constant",
            expected="constant gamma, beta, mean and variance",
            fix="Put the model into evaluation mode.",
        )
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    # onnx stores eps as a float32; the nearest short decimal is what torch computed with.
    epsilon = float(f"{epsilon:.6g}")
    # A variance below zero gives NaN here, as it does in every runtime.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
        return scale, beta - scale * mean


def _split_parts(
    add: ir.Node | None, channels: int
) -> tuple[ir.Node, ir.Node, npt.NDArray[np.int64] | None] | None:
    """The two nodes of a sign layer that was split for its zero weights, if ``add`` sums them.

    Third comes the row of the second part for each channel; None where they are the same.
    """
    if add is None or add.op_type != "Add" or not _read_once(add):
        return None
    plus, minus = (None if v is None else v.producer() for v in add.inputs)
    source_of = None
    if minus is not None and minus.op_type == "Gather" and _read_once(minus):
        source_of = constant(minus.inputs[1])
        if minus.attributes.get_int("axis", 0) != 1 or source_of is None or source_of.ndim != 1:
            return None
        minus = None if minus.inputs[0] is None else minus.inputs[0].producer()
    if plus is None or minus is None:
        return None
    same_layer = all(
        part.domain == DOMAIN and _read_once(part) and (part.name or "").startswith(f"{add.name}/")
        for part in (plus, minus)
    )
    if not same_layer or _rows(plus) != channels:
        return None
    separate = _rows(minus) == channels if source_of is None else _separate(minus, source_of)
    return (plus, minus, source_of) if separate else None


def _rows(part: ir.Node) -> int:
    return part.attributes.get_ints("wshape")[0]


def _separate(minus: ir.Node, source_of: npt.NDArray[np.int64]) -> bool:
    """Whether no two channels read the same row of the second part, except one that gives 0."""
    rows, times = np.unique(source_of % _rows(minus), return_counts=True)
    op = op_named(minus.op_type)
    arrays = [constant(minus.inputs[op.input_index(name)]) for name in ("S", "B")]
    shared = rows[times > 1]
    return all(a is not None and not a.reshape(-1)[shared].any() for a in arrays)


def _part_affine(
    minus: ir.Node, source_of: npt.NDArray[np.int64] | None, scale: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """The factor g of each row of the second part; its shift is the first part's business."""
    if source_of is None:
        return scale, np.zeros_like(scale)
    rows = np.ones(_rows(minus))
    rows[source_of] = scale
    return rows, np.zeros_like(rows)


def _read_once(node: ir.Node) -> bool:
    output = node.outputs[0]
    return len(output.uses()) == 1 and not output.is_graph_output()


def _reason_to_decline(producer: ir.Node | None, keep_float16: bool) -> str | None:
    if producer is None:
        return "it normalizes the graph's input"
    foldable = producer.domain == DOMAIN or producer.op_type in ("Conv", "Gemm")
    if not foldable:
        return f"its input comes from {producer.op_type} {producer.name!r}"
    if not _read_once(producer):
        return f"other nodes read {producer.op_type} {producer.name!r} too"
    if producer.domain == DOMAIN:
        if producer.op_type == "BinaryConvAdd":
            return f"{producer.name!r} adds a residual after its scale"
        return None
    weight = constant(producer.inputs[1])
    if weight is None:
        return f"the weight of {producer.op_type} {producer.name!r} is no constant"
    bias = producer.inputs[2] if len(producer.inputs) > 2 else None
    if bias is not None and constant(bias) is None:
        return f"the bias of {producer.op_type} {producer.name!r} is no constant"
    axis = _output_axis(producer)
    if keep_float16 and fits_float16(weight) and not fits_levels(weight, axis):
        return f"float16 holds the weight of {producer.name!r} exactly, and folding would widen it"
    return None


def _fold_into_scale_and_bias(producer: ir.Node, scale: Float64Array, shift: Float64Array) -> None:
    op = op_named(producer.op_type)
    s_index, b_index = op.input_index("S"), op.input_index("B")
    s, b = constant(producer.inputs[s_index]), constant(producer.inputs[b_index])
    if s is None or b is None:
        raise TypeError(f"{producer.name!r} has a computed scale or bias")
    scale, shift = scale.reshape(s.shape), shift.reshape(b.shape)
    set_input_constant(producer, s_index, (scale * s).astype(np.float32), "S")
    set_input_constant(producer, b_index, (scale * b + shift).astype(np.float32), "B")


def _fold_into_weight(producer: ir.Node, scale: Float64Array, shift: Float64Array) -> None:
    weight = constant(producer.inputs[1])
    if weight is None:
        raise TypeError(f"{producer.name!r} has a computed weight")
    bias = constant(producer.inputs[2]) if len(producer.inputs) > 2 else None
    per_row = scale if _output_axis(producer) else scale.reshape(-1, *[1] * (weight.ndim - 1))
    # Gemm multiplies its bias by beta, which must not reach the shift.
    beta = producer.attributes.get_float("beta", 1.0)
    producer.attributes.pop("beta", None)
    new_bias = shift if bias is None else scale * (beta * bias) + shift
    set_input_constant(producer, 1, (per_row * weight).astype(np.float32), "weight")
    set_input_constant(producer, 2, new_bias.astype(np.float32), "bias")


def _output_axis(producer: ir.Node) -> int:
    """The axis of the output channels in the weight of a Conv or Gemm."""
    out_axis_last = producer.op_type == "Gemm" and not producer.attributes.get_int("transB", 0)
    return 1 if out_axis_last else 0


def _insert_affine(node: ir.Node, scale: Float64Array, shift: Float64Array) -> None:
    graph, output = graph_of(node), node.outputs[0]
    if output.shape is None:
        raise TypeError(f"{node.name!r} has an unknown rank")
    view = (1, -1, *[1] * (len(output.shape) - 2))
    factors = {
        name: new_constant(graph, f"{node.name}.{name}", array.astype(np.float32).reshape(view))
        for name, array in (("scale", scale), ("shift", shift))
    }
    mul = ir.node("Mul", [node.inputs[0], factors["scale"]], name=f"{node.name}/Mul")
    add = ir.node("Add", [mul.outputs[0], factors["shift"]], name=node.name)
    mul.outputs[0].name = f"{node.name}/Mul"
    for new in (mul, add):
        new.outputs[0].type, new.outputs[0].shape = output.type, output.shape
    graph.insert_before(node, [mul, add])
    take_over_output(node, add.outputs[0])
