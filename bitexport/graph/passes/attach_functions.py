"""Attach the function body of every custom op that the graph uses.

A runtime without our kernels runs the body; one that has a kernel registered prefers it.
"""

from __future__ import annotations

import onnx_ir as ir

from bitexport.ops.bodies import OPSET, function_for
from bitexport.ops.table import DOMAIN, OP_VERSION, OPS

__all__ = ["attach_functions"]


def attach_functions(model: ir.Model, *, inlined: bool = False) -> None:
    """Attach in place, in the order of the op table; ``inlined`` if they are to be inlined."""
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for op in OPS:
        if op.name in used:
            function = function_for(op, inlined=inlined)
            model.functions[function.identifier()] = function
    model.graph.opset_imports.clear()
    model.graph.opset_imports[""] = OPSET
    if used:
        model.graph.opset_imports[DOMAIN] = OP_VERSION
