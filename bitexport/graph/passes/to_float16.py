"""Compute in float16: the graph's input and output stay float32, behind one Cast each.

    input -> ... -> logits   =>   input -> Cast(16) -> ... (float16) -> Cast(32) -> logits

Dense weights become float16. The scales, biases and thresholds of custom ops stay float32, as
their schema says: they are applied to a float32 accumulator. So do inputs that a standard
operator takes in float32 only, such as the scales of Resize. A weight that is stored in 8 bits is
computed in float32 and rounded once:

    W uint8 -> Cast -> Sub -> Mul -> Conv   =>   W uint8 -> Cast -> Sub -> Mul -> Cast(16) -> Conv

Branches and loops are refused.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx
import onnx_ir as ir

from bitexport.errors import UnsupportedModel
from bitexport.graph.constants import constant, new_constant
from bitexport.graph.names import free_name
from bitexport.graph.passes.narrow_weights import levels_of
from bitexport.graph.records import Record
from bitexport.ops.bodies import OPSET
from bitexport.ops.table import DOMAIN

__all__ = ["to_float16"]

_RULE = "float16"
_FLOAT32_ONLY = "tensor(float)"
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def to_float16(model: ir.Model) -> list[Record]:
    """Convert in place.

    Raises:
        UnsupportedModel: A constant is too large for float16, or a node has graphs of its own.
    """
    graph = model.graph
    _refuse_branches(graph)
    values = [value for node in graph for value in node.outputs]
    weights = [levels for value in values if (levels := levels_of(value)) is not None]
    in_float32 = {node for levels in weights for node in levels.nodes}
    for name, value in list(graph.initializers.items()):
        _split_shared(graph, name, value, in_float32)
    records = [
        _narrow(graph, name, value)
        for name, value in list(graph.initializers.items())
        if _is_activation_typed(value, in_float32)
    ]
    for node in graph:
        if node in in_float32:
            continue
        _retarget_casts(node)
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(ir.DataType.FLOAT16)
    for levels in weights:
        _cast(graph, levels.nodes[-1].outputs[0], after=levels.nodes[-1])
    _cast_inputs(graph)
    _cast_outputs(graph)
    return records


def _refuse_branches(graph: ir.Graph) -> None:
    for node in graph:
        if any(a.type in _GRAPHS for a in node.attributes.values()):
            raise UnsupportedModel(
                f"{node.op_type} {node.name!r} is not computed in float16",
                got="a node with graphs of its own, which would stay float32",
                expected="one graph",
                fix="Export without --fp16.",
            )


def _is_activation_typed(value: ir.Value, in_float32: Container[ir.Node]) -> bool:
    uses = list(value.uses())
    if value.dtype != ir.DataType.FLOAT or not uses:
        return False
    return not any(_wants_float32(use.node, use.idx, in_float32) for use in uses)


def _wants_float32(node: ir.Node, index: int, in_float32: Container[ir.Node]) -> bool:
    """Whether this input has no other type, by the node's schema or by its place."""
    if node.domain == DOMAIN or node in in_float32:
        return True
    try:
        inputs = onnx.defs.get_schema(node.op_type, OPSET, node.domain).inputs
    except onnx.defs.SchemaError:
        return False
    # The last input of a variadic operator stands for all that follow.
    return bool(inputs) and inputs[min(index, len(inputs) - 1)].type_str == _FLOAT32_ONLY


def _split_shared(
    graph: ir.Graph, name: str, value: ir.Value, in_float32: Container[ir.Node]
) -> None:
    """Give the other readers a copy of a constant that one of them wants in float32."""
    array = constant(value) if value.dtype == ir.DataType.FLOAT else None
    uses = list(value.uses())
    narrowed = [use for use in uses if not _wants_float32(use.node, use.idx, in_float32)]
    if array is None or len(narrowed) in (0, len(uses)):
        return
    copy = new_constant(graph, f"{name}/float16", array)
    for use in narrowed:
        use.node.replace_input_with(use.idx, copy)


def _narrow(graph: ir.Graph, name: str, value: ir.Value) -> Record:
    array = constant(value)
    if array is None:
        raise TypeError(f"initializer {name!r} has no value")
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise UnsupportedModel(
            f"constant {name!r} does not fit float16",
            got=f"values up to {np.abs(array).max():.4g}",
            expected="at most 65504",
            fix="Export without --fp16.",
        )
    del graph.initializers[name]
    replacement = new_constant(graph, name, half)
    value.replace_all_uses_with(replacement)
    error = float(np.abs(half.astype(np.float32) - array).max(initial=0))
    return Record(_RULE, name, True, f"stored as float16, rounded by at most {error:.2g}")


def _retarget_casts(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)


def _cast_inputs(graph: ir.Graph) -> None:
    for value in graph.inputs:
        _cast(graph, value)


def _cast(graph: ir.Graph, value: ir.Value, after: ir.Node | None = None) -> None:
    """Give the readers of a value its float16, cast at the start of the graph or after a node."""
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16}, name=f"{value.name}/float16")
    cast.outputs[0].name = cast.name
    cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    cast.outputs[0].shape = value.shape
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    if after is None:
        graph.insert_before(next(iter(graph)), [cast])
    else:
        graph.insert_after(after, [cast])


def _cast_outputs(graph: ir.Graph) -> None:
    for index, value in enumerate(list(graph.outputs)):
        name = value.name
        value.name = f"{name}/float16"
        # A stranger's node may be called as what it computes.
        free = free_name(name or "", {node.name for node in graph})
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=free)
        cast.outputs[0].name = name
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        cast.outputs[0].shape = value.shape
        graph.append(cast)
        graph.outputs[index] = cast.outputs[0]
