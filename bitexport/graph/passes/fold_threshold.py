"""Fold a per-channel affine in front of a binary convolution into its threshold.

    Mul(g) -> Add(h) -> BinaryConv(W, Th)   =>   BinaryConv(W', Th')

The activation is +1 where fl(fl(g*x) + h) >= th, rounding included. That is monotone in x, so for
g > 0 some float t has it true exactly for x >= t, and bisection over the floats finds t. For
g < 0 it is true exactly for x < t: the activation is -(x >= t), and the sign moves into the
channel's weights, which leaves padded taps at 0. For g = 0 it is constant, t = -inf or +inf.

XNOR-Net binarizes right after BatchNorm. It declines where another node reads the affine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.graph.constants import constant, set_input_constant
from bitexport.graph.records import Record
from bitexport.ops.table import DOMAIN, op_named
from bitexport.packing import pack_signs, unpack_signs

__all__ = ["exact_threshold", "fold_threshold"]

_RULE = "fold-threshold"
Float32Array = npt.NDArray[np.float32]


def fold_threshold(model: ir.Model) -> list[Record]:
    """Fold in place; the affines that nobody reads any more are left for removal."""
    records = []
    for node in model.graph:
        if node.domain != DOMAIN or not node.op_type.startswith("BinaryConv"):
            continue
        found = _affine(node.inputs[0], node.attributes.get_ints("wshape")[1] * _group(node))
        if found is not None:
            records.append(_fold(node, *found))
    return records


def _group(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1)


def _affine(
    value: ir.Value | None, channels: int
) -> tuple[ir.Value, Float32Array, Float32Array] | None:
    """(x, g, h) of ``g * x + h`` with one constant for each channel or for all, or None."""
    add = None if value is None else value.producer()
    if add is None or add.op_type != "Add" or constant(add.inputs[1]) is None:
        return None
    mul = None if add.inputs[0] is None else add.inputs[0].producer()
    if mul is None or mul.op_type != "Mul" or constant(mul.inputs[1]) is None:
        return None
    factors = [constant(mul.inputs[1]), constant(add.inputs[1])]
    x = mul.inputs[0]
    # The affine may widen x, too: one channel to many, say.
    if value is None or x is None or x.shape != value.shape:
        return None
    shapes = ((1, channels, 1, 1), (1, 1, 1, 1))
    if any(f is None or f.dtype != np.float32 or f.shape not in shapes for f in factors):
        return None
    gain, shift = (np.broadcast_to(np.ravel(f), channels) for f in factors if f is not None)
    return x, gain, shift


def _fold(node: ir.Node, x: ir.Value, gain: Float32Array, shift: Float32Array) -> Record:
    layer, affine = node.name or "", node.inputs[0]
    op = op_named(node.op_type)
    th_index, w_index = op.input_index("Th"), op.weight_input
    threshold, words = constant(node.inputs[th_index]), constant(node.inputs[w_index])
    if affine is None or threshold is None or words is None:
        return Record(_RULE, layer, False, "its weight or threshold is computed")
    readers = {use.node for use in affine.uses()}
    if affine.is_graph_output() or any(_affine_is_an_operand(r, affine) for r in readers):
        return Record(_RULE, layer, False, f"other nodes read {affine.name!r} too")
    new_threshold, flip = exact_threshold(gain, shift, threshold.reshape(-1))
    set_input_constant(node, th_index, new_threshold.reshape(threshold.shape), "Th")
    if flip.any():
        set_input_constant(node, w_index, _flip_channels(node, words, flip), "W")
    node.replace_input_with(0, x)
    return Record(_RULE, layer, True, f"{affine.name!r} folded, {int(flip.sum())} channels flipped")


def _affine_is_an_operand(reader: ir.Node, affine: ir.Value) -> bool:
    """Whether a node needs the affine's value and not only its comparison."""
    binary = reader.domain == DOMAIN and reader.op_type.startswith("BinaryConv")
    return not binary or affine in reader.inputs[1:]


def exact_threshold(
    gain: Float32Array, shift: Float32Array, threshold: Float32Array
) -> tuple[Float32Array, npt.NDArray[np.bool_]]:
    """Thresholds on x that decide ``gain * x + shift >= threshold`` as float32 does.

    Args:
        gain: float32 [C].
        shift: float32 [C].
        threshold: float32 [C].

    Returns:
        t float32 [C] and flip bool [C]: the activation is +1 exactly where x >= t, or where flip
        is set, exactly where x < t. Holds for every finite x.
    """

    def above(x: Float32Array) -> npt.NDArray[np.bool_]:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(gain * x + shift >= threshold)

    # Floats in their order are consecutive integers. "passed" turns from False to True once.
    flip = np.asarray(gain < 0)
    low = np.full(gain.shape, _key(np.array(-np.inf, np.float32)))
    high = np.full(gain.shape, _key(np.array(np.inf, np.float32)))
    while (high - low > 1).any():
        middle = (low + high) // 2
        passed = above(_float(middle)) != flip
        high = np.where(passed, middle, high)
        low = np.where(passed, low, middle)
    bound = _float(high)
    constant_one = (gain == 0) & (shift >= threshold)
    constant_minus_one = (gain == 0) & ~(shift >= threshold)
    bound = np.where(constant_one, -np.inf, np.where(constant_minus_one, np.inf, bound))
    return bound.astype(np.float32), flip


def _key(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Integers in the order of the floats; -0 and +0 share 0."""
    bits = x.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _float(key: npt.NDArray[np.int64]) -> Float32Array:
    bits = np.where(key < 0, (-key) | 0x80000000, key)
    return bits.astype(np.uint32).view(np.float32)


def _flip_channels(
    node: ir.Node, words: npt.NDArray[Any], flip: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """The sign words [Co,kh,kw,words] with the signs of the flipped input channels turned."""
    out_channels, per_group = node.attributes.get_ints("wshape")[:2]
    group = _group(node)
    positive = unpack_signs(words, per_group)
    own = np.repeat(flip.reshape(group, per_group), out_channels // group, axis=0)
    return pack_signs(positive ^ own[:, None, None, :])
