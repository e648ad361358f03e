"""Drop the bias of a convolution that is all zeros.

    Conv(X, W, 0)   =>   Conv(X, W)

The exporter writes a zero bias for layers that have none.
"""

from __future__ import annotations

import onnx_ir as ir

from bitexport.graph.constants import constant

__all__ = ["drop_zero_bias"]


def drop_zero_bias(model: ir.Model) -> None:
    """Drop in place."""
    for node in model.graph:
        if node.op_type != "Conv" or len(node.inputs) < 3:
            continue
        bias = constant(node.inputs[2])
        if bias is not None and not bias.any():
            node.resize_inputs(2)
