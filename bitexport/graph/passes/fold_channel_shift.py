"""Fold a constant per channel that is added to a custom op's result into its bias.

    SignConv/...(..., B) -> Add(c [1, C, 1, 1])   =>   SignConv/...(..., B = B + c)

ReActNet shifts every sum before its PReLU. It declines where another node reads the unshifted
value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.graph.constants import constant, set_input_constant, take_over_output
from bitexport.graph.records import Record
from bitexport.ops.table import DOMAIN, op_named

__all__ = ["fold_channel_shift"]

_RULE = "fold-channel-shift"


def fold_channel_shift(model: ir.Model) -> list[Record]:
    """Fold in place."""
    records = []
    for add in list(model.graph):
        if add.op_type != "Add" or add.domain:
            continue
        for value, other in (add.inputs, add.inputs[::-1]):
            producer = None if value is None else value.producer()
            shift = constant(other)
            if shift is not None and producer is not None and producer.domain == DOMAIN:
                records.append(_fold(producer, add, shift))
                break
    return records


def _fold(producer: ir.Node, add: ir.Node, shift: npt.NDArray[Any]) -> Record:
    layer = producer.name or ""
    output = producer.outputs[0]
    if len(output.uses()) > 1 or output.is_graph_output():
        return Record(_RULE, layer, False, f"other nodes read {layer!r} too")
    op = op_named(producer.op_type)
    index = op.input_index("B")
    bias = constant(producer.inputs[index])
    if bias is None:
        return Record(_RULE, layer, False, "its bias is computed")
    try:
        per_channel = np.broadcast_to(shift, bias.shape)
    except ValueError:
        return Record(_RULE, layer, False, f"{add.name!r} does not add one value per channel")
    total = bias.astype(np.float64) + per_channel.astype(np.float64)
    set_input_constant(producer, index, total.astype(np.float32), "B")
    take_over_output(add, output)
    return Record(_RULE, layer, True, f"{add.name!r} folded into B")
