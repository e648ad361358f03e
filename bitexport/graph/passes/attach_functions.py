"""Attach the function body of every custom op that the graph uses.

A runtime without our kernels runs the body; one that has a kernel registered prefers it.
"""

from __future__ import annotations

import onnx_ir as ir

from bitexport.graph.constants import constant
from bitexport.ops.bodies import MEASURABLE, OPSET, function_for
from bitexport.ops.table import DOMAIN, OP_VERSION, OPS, Op

__all__ = ["attach_functions"]


def attach_functions(model: ir.Model, *, inlined: bool = False) -> None:
    """Attach in place, in the order of the op table.

    Args:
        model: Changed in place.
        inlined: The functions are to be inlined, where no runtime can miss an attribute and the
            types are known.
    """
    nodes = [node for node in model.graph if node.domain == DOMAIN]
    for op in OPS:
        callers = [node for node in nodes if node.op_type == op.name]
        if callers:
            measured = () if inlined else _set_attributes(callers)
            dtype = _common_type(callers) if inlined else None
            function = function_for(
                op, measured=measured, steep=_is_steep(op, callers), dtype=dtype
            )
            model.functions[function.identifier()] = function
    model.graph.opset_imports.clear()
    model.graph.opset_imports[""] = OPSET
    if nodes:
        model.graph.opset_imports[DOMAIN] = OP_VERSION


def _set_attributes(callers: list[ir.Node]) -> tuple[str, ...]:
    """The measurable attributes that some caller sets to anything but 1."""
    return tuple(
        name
        for name in MEASURABLE
        if any(set(node.attributes.get_ints(name, (1,))) != {1} for node in callers)
    )


def _common_type(callers: list[ir.Node]) -> ir.DataType | None:
    """The type of X in all of them; None where they differ or one is not known."""
    types = {None if node.inputs[0] is None else node.inputs[0].dtype for node in callers}
    return types.pop() if len(types) == 1 else None


def _is_steep(op: Op, callers: list[ir.Node]) -> bool:
    """Whether a slope of a caller may exceed 1."""
    if all(declared.name != "Slope" for declared in op.inputs):
        return False
    slopes = [constant(node.inputs[op.input_index("Slope")]) for node in callers]
    return any(values is None or (values > 1).any() for values in slopes)
