"""Compute what a quantizer is written by, where constants alone give it.

    Quant(X, s, z, Add(2, 2))                =>   Quant(X, s, z, 4)
    Trunc(X, Div(s, 4), z, from, t, bits)    =>   Trunc(X, s / 4, z, from, t, bits)

Bit widths say where values are clipped, and the scales of Trunc how many bits it drops. Other
parameters are inputs of standard operators, whether they are constants or not.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from bitexport.graph.constants import constant, new_constant
from bitexport.graph.passes.fold_constants import fold_constants
from bitexport.graph.quantizers import is_quantizer

__all__ = ["fold_parameters"]

_DECIDING = {"Quant": (3,), "IntQuant": (3,), "Trunc": (1, 2, 3, 4, 5)}


def fold_parameters(model: ir.Model) -> None:
    """Fold in place; all else stays as the file has it."""
    nodes = list(model.graph)
    computed = [
        (position, index)
        for position, node in enumerate(nodes)
        if is_quantizer(node)
        for index in _DECIDING.get(node.op_type, ())
        if index < len(node.inputs) and _is_computed(node.inputs[index])
    ]
    if not computed:
        return
    twin = ir.from_proto(ir.to_proto(model))
    # Their values may take other names where those behind them are folded.
    twins = list(twin.graph)
    fold_constants(twin)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(twin)
    for position, index in computed:
        array, node = constant(twins[position].inputs[index]), nodes[position]
        if array is not None:
            name = f"{node.name}.{index}"
            node.replace_input_with(index, new_constant(model.graph, name, array))


def _is_computed(value: ir.Value | None) -> bool:
    return value is not None and value.producer() is not None
