"""Keep ONNX Runtime from merging Pad into the pool behind it.

    Pad(0) -> MaxPool | AveragePool   =>   Pad(0) -> Max -> MaxPool | AveragePool

Max of one value is that value. Pad writes zeros, which win over whatever is negative in a window
and count in its mean, while a pool leaves out what its own pads add. ONNX Runtime's Pad fusion
takes the one for the other: for MaxPool from 1.17 to 1.31 at least, for AveragePool in 1.20.
"""

from __future__ import annotations

import onnx_ir as ir

from bitexport.graph.constants import graph_of

__all__ = ["part_pad_and_pool"]

_POOLS = ("MaxPool", "AveragePool")


def part_pad_and_pool(model: ir.Model) -> None:
    """Rewrite in place."""
    for pool in list(model.graph):
        value = pool.inputs[0] if pool.op_type in _POOLS and not pool.domain else None
        pad = None if value is None else value.producer()
        if value is None or pad is None or pad.op_type != "Pad" or pad.domain:
            continue
        if pad.attributes.get_string("mode", "constant") == "constant":
            _part(pool, value)


def _part(pool: ir.Node, padded: ir.Value) -> None:
    apart = ir.node("Max", [padded], name=f"{pool.name}/Max")
    output = apart.outputs[0]
    output.name, output.type, output.shape = apart.name, padded.type, padded.shape
    graph_of(pool).insert_before(pool, [apart])
    pool.replace_input_with(0, output)
