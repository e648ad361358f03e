"""Let a binary convolution add its residual.

    BinaryConv(X, W, Th, S, B) -> Add(R)   =>   BinaryConvAdd(X, W, Th, S, B, R)

Bi-Real Net adds the shortcut right after the (folded) BatchNorm of every convolution. It declines
where another node reads the sum's summand, or where R would be broadcast.
"""

from __future__ import annotations

import onnx_ir as ir

from bitexport.graph.constants import constant, graph_of, take_over_output
from bitexport.graph.records import Record
from bitexport.ops.table import DOMAIN

__all__ = ["fuse_residual"]

_RULE = "fuse-residual"


def fuse_residual(model: ir.Model) -> list[Record]:
    """Fuse in place; the exporter's shapes must still be there."""
    records = []
    for add in list(model.graph):
        if add.op_type != "Add" or add.domain:
            continue
        for index in (1, 0):
            conv = _binary_conv(add.inputs[index])
            if conv is None:
                continue
            records.append(_fuse(conv, add, add.inputs[1 - index]))
            if records[-1].applied:
                break
    return records


def _binary_conv(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    if node is None or node.domain != DOMAIN or node.op_type != "BinaryConv":
        return None
    return node


def _fuse(conv: ir.Node, add: ir.Node, residual: ir.Value | None) -> Record:
    layer, output = conv.name or "", conv.outputs[0]
    if residual is None or constant(residual) is not None or residual.shape != output.shape:
        return Record(_RULE, layer, False, f"{add.name!r} adds something of another shape")
    if len(output.uses()) > 1 or output.is_graph_output():
        return Record(_RULE, layer, False, f"other nodes read {layer!r} too")
    fused = ir.node(
        "BinaryConvAdd",
        [*conv.inputs, residual],
        domain=DOMAIN,
        name=layer,
        attributes=dict(conv.attributes),
    )
    fused.outputs[0].type, fused.outputs[0].shape = output.type, output.shape
    graph_of(add).insert_before(add, [fused])
    take_over_output(add, fused.outputs[0])
    graph_of(conv).remove(conv, safe=True)
    return Record(_RULE, layer, True, f"adds {residual.name!r} itself")
