"""Move a bipolar quantizer behind what only moves or selects values.

    BipolarQuant -> Reshape | Flatten | Transpose | ...   =>   Reshape | ... -> BipolarQuant
    BipolarQuant(s > 0) -> MaxPool                        =>   MaxPool -> BipolarQuant

x -> s * (x >= 0 ? +1 : -1) acts on each value alone, and for s > 0 it does not decrease, so the
largest of a window stays the largest. A convolution behind the pool then finds the quantizer right
in front of it. It declines where other nodes read the quantized value, and with constants: a weight
stands behind its quantizer, whatever moves it then.
"""

from __future__ import annotations

import onnx_ir as ir

from bitexport.graph.constants import constant, graph_of, set_input_constant
from bitexport.graph.quantizers import bipolar_scale

__all__ = ["move_quantizers"]

_MOVING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")


def move_quantizers(model: ir.Model) -> None:
    """Rewrite in place."""
    for node in list(model.graph):
        scale = bipolar_scale(node)
        # One scale for all values: the others would have to move along.
        if scale is None or scale.size != 1 or scale.ndim > _rank(node.inputs[0]):
            continue
        if constant(node.inputs[0]) is not None:
            continue
        while (reader := _only_reader(node)) is not None and _passes(reader, float(scale.max())):
            _swap(node, reader)
            # What is read now may have fewer dimensions than the scale.
            set_input_constant(node, 1, scale.reshape(()), "scale")


def _rank(value: ir.Value | None) -> int:
    """Dimensions of a value, as far as they are known."""
    return 0 if value is None or value.shape is None else len(value.shape)


def _only_reader(node: ir.Node) -> ir.Node | None:
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or uses[0].idx != 0 or output.is_graph_output():
        return None
    reader = uses[0].node
    # A branch of an If reads it too, but is a graph of its own.
    return reader if reader.graph is node.graph else None


def _passes(reader: ir.Node, scale: float) -> bool:
    if reader.domain or reader.outputs[0].is_graph_output():
        return False
    if reader.op_type == "MaxPool":
        return scale > 0 and all(not out.uses() for out in reader.outputs[1:])
    return reader.op_type in _MOVING


def _swap(quantizer: ir.Node, reader: ir.Node) -> None:
    """Quantizer -> reader becomes reader -> quantizer; values keep their names and readers."""
    inner, outer = quantizer.outputs[0], reader.outputs[0]
    source = quantizer.inputs[0]
    readers = list(outer.uses())
    reader.replace_input_with(0, source)
    quantizer.replace_input_with(0, outer)
    for use in readers:
        use.node.replace_input_with(use.idx, inner)
    inner.type, inner.shape = outer.type, outer.shape
    graph = graph_of(reader)
    graph.remove(quantizer)
    graph.insert_after(reader, quantizer)
