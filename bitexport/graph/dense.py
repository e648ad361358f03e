"""The full-precision twin of a graph: the same architecture with plain float convolutions.

    X -> BinaryConv(W, Th, S, B)      =>  X -> Conv(S * W, B)
    X -> BinaryConvAdd(W, Th, S, B, R) =>  X -> Conv(S * W, B) -> Add(R)
    ..PRelu, ..Clip                    =>  the same, and the activation behind it
    X -> CodebookConv(Codes, CB, S, B) =>  X -> Conv(S * reshape(CB[Codes]), B)

The sign of the activations goes, and the mean that was subtracted for its sake. Layers that are
stored in parts (for weights or activations of exactly 0) become the one convolution they stand
for: every part is linear once the sign is gone, so their weights add up. What is left is what a
full-precision network of this architecture costs, with every fold that ours has.

Where only the weights were quantized, the twin computes the same function. Where the activations
were binary it does not: its weights were never trained without the sign. It is there for its
time and size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from bitexport.graph.constants import constant, graph_of, new_constant, take_over_output
from bitexport.graph.lowering import computes_in_float16
from bitexport.graph.passes.chain_signs import unchain_signs
from bitexport.graph.passes.fold_constants import fold_constants
from bitexport.graph.passes.fuse_activation import split_activation
from bitexport.graph.passes.narrow_weights import widen_weights
from bitexport.graph.passes.split_prelu import split_prelu
from bitexport.graph.passes.to_float16 import to_float16
from bitexport.ops.nodes import dense_weight
from bitexport.ops.table import DOMAIN, op_named

__all__ = ["to_dense", "to_float32", "to_half"]

Float32Array = npt.NDArray[np.float32]
_LARGEST_FOLDED = 1 << 30


@dataclass(frozen=True)
class _Linear:
    """conv(x, weight) + bias, plus residuals; gemm where ``strides`` and the rest are empty."""

    x: ir.Value
    weight: Float32Array
    bias: Float32Array
    residuals: tuple[ir.Value, ...]
    attributes: tuple[tuple[str, tuple[int, ...]], ...]
    module: str
    nodes: int = 1


def to_dense(model: ir.Model) -> bool:
    """Replace our layers by float32 ones, in place; a plain export's are found by their sign.

    Returns:
        Whether anything changed: False for a network that was full precision before.

    Raises:
        UnsupportedModel: A packed weight breaks the op's schema.
    """
    unchain_signs(model)
    widen_weights(model)
    changed = to_float32(model)
    graph = model.graph
    if split_activation(model):
        split_prelu(model)
    nodes = [node for node in graph if node.domain == DOMAIN]
    whole = [n for n in graph if n.op_type == "Add" and not n.domain]
    # An Add of two parts first: the parts are dead afterwards.
    for node in [*reversed(whole), *reversed(nodes)]:
        if node.graph is None or (
            not node.outputs[0].uses() and not node.outputs[0].is_graph_output()
        ):
            continue
        linear = _linear(node.outputs[0])
        if linear is not None and (node.domain == DOMAIN or linear.nodes > 1):
            _write(node, linear)
            changed = True
            RemoveUnusedNodesPass()(model)
    if not nodes:
        changed = _undo_inlined_bodies(model) or changed
    for key in [k for k in model.functions if k[0] == DOMAIN]:
        del model.functions[key]
    model.graph.opset_imports.pop(DOMAIN, None)
    RemoveUnusedNodesPass()(model)
    return changed


def to_half(model: ir.Model) -> None:
    """Compute a float32 graph in float16 behind its float32 inputs and outputs, in place."""
    to_float16(model)


def to_float32(model: ir.Model) -> bool:
    """Widen float16 constants and casts of a graph, in place; True where there were any."""
    graph, changed = model.graph, False
    for name, value in list(graph.initializers.items()):
        array = constant(value)
        if array is None or array.dtype != np.float16:
            continue
        del graph.initializers[name]
        value.replace_all_uses_with(new_constant(graph, name, array.astype(np.float32)))
        changed = True
    behind_casts = computes_in_float16(model)
    for node in list(graph):
        changed = _widen(node, behind_casts) or changed
    return changed


def _widen(node: ir.Node, behind_casts: bool) -> bool:
    changed, source = False, node.inputs[0] if node.inputs else None
    for value in node.outputs:
        if value.dtype == ir.DataType.FLOAT16:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    if node.op_type != "Cast" or source is None:
        return False
    if node.attributes.get_int("to", 0) == ir.DataType.FLOAT16:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
        changed = True
    if _does_nothing(node):
        node.outputs[0].replace_all_uses_with(source)
        graph_of(node).remove(node, safe=True)
    # The casts around a float16 graph go, so that the twin can be made float16 in its turn.
    if behind_casts and source.is_graph_input():
        node.outputs[0].replace_all_uses_with(source)
        graph_of(node).remove(node, safe=True)
    elif behind_casts and node.outputs[0].is_graph_output():
        shape = node.outputs[0].shape
        take_over_output(node, source)
        source.type, source.shape = ir.TensorType(ir.DataType.FLOAT), shape
    return changed


def _does_nothing(cast: ir.Node) -> bool:
    """Whether it casts a float32 constant to float32: quantizers look for plain weights."""
    array = constant(cast.inputs[0])
    same = array is not None and array.dtype == np.float32
    to = cast.attributes.get_int("to", 0)
    return same and to == ir.DataType.FLOAT and not cast.outputs[0].is_graph_output()


def _linear(value: ir.Value | None) -> _Linear | None:
    """What a value is of one input, if it is a layer of ours or the sum of its parts."""
    node = None if value is None else value.producer()
    if node is None:
        return None
    if node.domain == DOMAIN:
        return _layer(node)
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 1:
        part, source = _linear(node.inputs[0]), constant(node.inputs[1])
        if part is None or source is None or part.residuals:
            return None
        rows = source.ravel()
        return replace(part, weight=part.weight[rows], bias=part.bias[rows])
    if node.op_type == "Add":
        return _sum(_linear(node.inputs[0]), _linear(node.inputs[1]))
    return None


def _sum(a: _Linear | None, b: _Linear | None) -> _Linear | None:
    if a is None or b is None or a.x is not b.x or a.module != b.module:
        return None
    if a.attributes != b.attributes or a.weight.shape != b.weight.shape:
        return None
    return replace(
        a,
        weight=a.weight + b.weight,
        bias=a.bias + b.bias,
        residuals=(*a.residuals, *b.residuals),
        nodes=a.nodes + b.nodes,
    )


def _layer(node: ir.Node) -> _Linear | None:
    op = op_named(node.op_type)
    values = {d.name: v for d, v in zip(op.inputs, node.inputs, strict=True) if v is not None}
    arrays = {name: array for name, v in values.items() if (array := constant(v)) is not None}
    if not {"S", "B"} <= set(arrays) or not {"W", "Codes"} & set(arrays):
        return None
    shape = tuple(node.attributes.get_ints("wshape"))
    weight = dense_weight(op, arrays, shape)
    weight = weight * arrays["S"].reshape(-1, *(1,) * (len(shape) - 1)).astype(np.float32)
    x, factor = _without_sign(values["X"]) if "Th" in arrays else (values["X"], 1)
    attributes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    if op.kind == "conv":
        names = ("strides", "pads", "dilations")
        attributes = tuple((n, tuple(node.attributes.get_ints(n))) for n in names)
        attributes += (("group", (node.attributes.get_int("group", 1),)),)
    linear = _Linear(
        x=x,
        weight=np.float32(factor) * weight,
        bias=arrays["B"].ravel().astype(np.float32),
        residuals=(),
        attributes=attributes,
        module=(node.name or "").split("/")[0],
    )
    if "R" not in values:
        return linear
    # The residual may be another part of the same layer, fused like any other sum.
    whole = _sum(linear, _linear(values["R"]))
    return whole or replace(linear, residuals=(values["R"],))


def _without_sign(x: ir.Value) -> tuple[ir.Value, int]:
    """The value before what was done to it for the sake of its sign, and its factor."""
    node = x.producer()
    if node is None or node.domain:
        return x, 1
    if node.op_type == "Neg" and node.inputs[0] is not None:
        before, factor = _without_sign(node.inputs[0])
        return before, -factor
    if node.op_type == "Sub" and node.inputs[0] is not None:
        mean = node.inputs[1]
        while (step := None if mean is None else mean.producer()) and step.op_type == "ReduceMean":
            mean = step.inputs[0]
        if mean is node.inputs[0]:
            return node.inputs[0], 1
    return x, 1


def _write(node: ir.Node, linear: _Linear) -> None:
    """Put the float layer, and the sum with its residuals, in a node's place."""
    graph = graph_of(node)
    weight = new_constant(graph, f"{linear.module}.weight", linear.weight)
    bias = new_constant(graph, f"{linear.module}.bias", linear.bias)
    attributes: dict[str, int | list[int]] = {"transB": 1}
    if linear.attributes:
        given = dict(linear.attributes)
        (group,) = given.pop("group")
        attributes = {k: list(v) for k, v in given.items()} | {"group": group}
        attributes["kernel_shape"] = list(linear.weight.shape[2:])
    kind = "Conv" if linear.attributes else "Gemm"
    last = ir.node(kind, [linear.x, weight, bias], attributes, name=linear.module)
    added = [last]
    for residual in linear.residuals:
        added.append(ir.node("Add", [added[-1].outputs[0], residual], name=f"{linear.module}/Add"))
    output = node.outputs[0]
    for new in added:
        new.outputs[0].type, new.outputs[0].shape = output.type, output.shape
        new.outputs[0].name = f"{output.name}/{new.op_type}"
    graph.insert_after(node, added)
    take_over_output(node, added[-1].outputs[0])


def _undo_inlined_bodies(model: ir.Model) -> bool:
    """A plain export: compute its packed weights, and drop its signs."""
    if not any(n.op_type in ("GreaterOrEqual", "Mod") for n in model.graph):
        return False
    limit = _LARGEST_FOLDED
    fold_constants(model, {"input_size_limit": limit, "output_size_limit": limit})
    for node in list(model.graph):
        if node.op_type != "Where" or not _is_sign(node):
            continue
        condition = node.inputs[0].producer() if node.inputs[0] is not None else None
        x = condition.inputs[0] if condition is not None else None
        if x is not None:
            node.outputs[0].replace_all_uses_with(x)
    return True


def _is_sign(node: ir.Node) -> bool:
    condition = node.inputs[0].producer() if node.inputs[0] is not None else None
    if condition is None or condition.op_type != "GreaterOrEqual":
        return False
    values = [constant(v) for v in node.inputs[1:]]
    return [None if v is None else float(v) for v in values if v is None or v.size == 1] == [1, -1]
