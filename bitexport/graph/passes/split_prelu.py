"""Write PReLU as operators that runtimes have quick kernels for.

    slopes all <= 1:   PRelu(x, a)   =>   Max(x, Mul(x, a))
    slopes all >= 1:   PRelu(x, a)   =>   Min(x, Mul(x, a))
    else:              PRelu(x, a)   =>   Add(Relu(x), Mul(Min(x, 0), a))

Each is the same number, bit for bit, for every finite x: with a <= 1 the line a * x lies above x
for a negative x and below it for a positive one, with a >= 1 the other way round. (An infinite x
under a slope of 0 becomes NaN.) ONNX Runtime's PRelu branches at every element, and mispredicts at
every other one: these take a tenth of its time. It declines where the slopes are computed.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitexport.graph.constants import constant, graph_of, new_constant, take_over_output
from bitexport.graph.records import Record

__all__ = ["split_prelu"]

_RULE = "split-prelu"


def split_prelu(model: ir.Model) -> list[Record]:
    """Split in place."""
    return [
        _split(node) for node in list(model.graph) if node.op_type == "PRelu" and not node.domain
    ]


def _split(prelu: ir.Node) -> Record:
    layer = prelu.name or ""
    x, slope = prelu.inputs
    values = constant(slope)
    if values is None:
        return Record(_RULE, layer, False, "its slopes are computed")
    if np.all(values <= 1):
        scaled = _before(prelu, "Mul", [x, slope])
        result = _before(prelu, "Max", [x, scaled])
    elif np.all(values >= 1):
        scaled = _before(prelu, "Mul", [x, slope])
        result = _before(prelu, "Min", [x, scaled])
    else:
        zero = new_constant(graph_of(prelu), f"{layer}.zero", np.zeros((), values.dtype))
        negative = _before(prelu, "Min", [x, zero])
        scaled = _before(prelu, "Mul", [negative, slope])
        result = _before(prelu, "Add", [_before(prelu, "Relu", [x]), scaled])
    take_over_output(prelu, result)
    return Record(_RULE, layer, True, f"became {result.producer().op_type}")  # type: ignore[union-attr]


def _before(prelu: ir.Node, op_type: str, inputs: list[ir.Value | None]) -> ir.Value:
    """A new node's output, of the shape and type of the PReLU's."""
    node = ir.node(op_type, inputs, name=f"{prelu.name}/{op_type}")
    output = node.outputs[0]
    output.name = node.name
    output.type, output.shape = prelu.outputs[0].type, prelu.outputs[0].shape
    graph_of(prelu).insert_before(prelu, [node])
    return output
