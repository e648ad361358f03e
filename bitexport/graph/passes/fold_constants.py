"""Compute in advance what depends on constants alone, where every runtime computes the same.

    Mul(c, d), Transpose(c), Slice(c, ..), ...   =>   a constant

onnxscript folds with onnx's reference evaluator. That takes the pads of pools in another order than
the specification and ONNX Runtime do, normalizes by LRN as many channels as there are samples, and
has no negative pads. So only operators without windows are folded: those that move numbers or
compute each by itself, sums and products. What else a file computes from constants stays in it, for
the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

__all__ = ["fold_constants"]

_MOVING = (
    "Cast", "CastLike", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "Identity", "Range", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip
_EACH = (
    "Abs", "Add", "And", "Ceil", "Clip", "Div", "Equal", "Exp", "Floor", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or",
    "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sqrt", "Sub", "Tanh", "Xor",
)  # fmt: skip
_SUMS = (
    "Gemm", "MatMul", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_FOLDED = frozenset((*_MOVING, *_EACH, *_SUMS))


def fold_constants(model: ir.Model, limits: Mapping[str, int] | None = None) -> None:
    """Fold in place.

    Args:
        model: Changed in place.
        limits: onnxscript's ``input_size_limit`` and ``output_size_limit``, in numbers of a tensor.
    """
    from onnxscript.optimizer import fold_constants as fold

    # A stranger's constants may overflow, as they do in every runtime.
    with np.errstate(all="ignore"):
        fold(model, should_fold=_should_fold, **(limits or {}))


def _should_fold(node: ir.Node) -> bool | None:
    """False forbids it; None leaves it to the limits on sizes."""
    return None if node.op_type in _FOLDED and not _may_round_down(node) else False


def _may_round_down(node: ir.Node) -> bool:
    """A quotient of integers rounds towards 0, but in the evaluator of onnx 1.20 downwards."""
    tensors = [None if value is None else value.const_value for value in node.inputs]
    given = [tensor for tensor in tensors if tensor is not None and tensor.dtype.is_integer()]
    if node.op_type != "Div" or len(given) != 2:
        return False
    a, b = (tensor.numpy() for tensor in given)
    return not b.all() or bool(((a % b != 0) & ((a < 0) != (b < 0))).any())
