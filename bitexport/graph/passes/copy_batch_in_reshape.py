"""Let Reshape copy the batch dimension instead of computing it.

    Shape(input) -> Squeeze -> Reshape -> Concat([n], [C]) -> Reshape(X, [n, C])
      =>   Reshape(X, [0, C])

Torch writes ``flatten`` with a computed batch size; in ONNX a 0 copies the dimension of X.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitexport.graph.constants import constant, set_input_constant

__all__ = ["copy_batch_in_reshape"]


def copy_batch_in_reshape(model: ir.Model) -> None:
    """Rewrite in place; the exporter's shapes must still be there."""
    for node in model.graph:
        if node.op_type != "Reshape" or node.domain or constant(node.inputs[1]) is not None:
            continue
        source = node.inputs[0]
        before = None if source is None else source.shape
        after = node.outputs[0].shape
        if before is None or after is None or not _same_batch(before, after):
            continue
        rest = [dim for dim in after[1:] if isinstance(dim, int) and dim > 0]
        if len(rest) == len(after) - 1:
            set_input_constant(node, 1, np.array([0, *rest], np.int64), "shape")
            node.attributes.pop("allowzero", None)


def _same_batch(before: ir.Shape, after: ir.Shape) -> bool:
    """Whether both have the same first dimension; two that nobody knows are not the same."""
    if len(before) == 0 or len(after) == 0 or before[0] != after[0]:
        return False
    return isinstance(before[0], int) or before[0].value is not None
