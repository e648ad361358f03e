"""The quantizer nodes of QONNX, and what they compute.

Pappalardo et al., "QONNX: Representing Arbitrary-Precision Quantized Neural Networks", 2022; the
project's ``custom_op/general/{bipolar_quant,intquant,trunc}.py``:

    BipolarQuant(X, s)      = s * (X >= 0 ? +1 : -1)
    Quant(X, s, z, bits)    = s * (round(clip(X / s + z, low, high)) - z)
    Quant(X, s, z, 1)       = s * ((X / s + z >= 0 ? +1 : -1) - z)    if signed

low and high are -2^(bits-1) (one more if narrow) and 2^(bits-1) - 1 if signed, else 0 and
2^bits - 1 (one less if narrow).

Trunc drops the lowest bits of integers, n = ROUND(X / s + z), in one way in version 1 of its domain
and in another from 2 on:

    Trunc(X, s, z, from, bits)      = s * (round(n / d) - z)
                                      with d = 2^(from - bits)
    Trunc(X, s, z, from, t, bits)   = t * (round(clip(n / d, low, high)) - z / d)
                                      with d = 2^ROUND(log2(t / s))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.errors import UnsupportedModel
from bitexport.graph.constants import constant, graph_of
from bitexport.graph.rounding import ROUNDINGS, Rounding

__all__ = [
    "DOMAINS",
    "IntegerGrid",
    "Truncation",
    "bipolar_scale",
    "integer_grid",
    "is_quantizer",
    "quantizes_sums",
    "truncation",
]

# The second and third are what older files of Brevitas and FINN say.
DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
# Above 24 float32 lacks integers, bounds included: those of QONNX's executor are float32's as well.
_MOST_BITS = 64
_RESCALING = 2  # the version of the domain from which on Trunc has a scale for what it gives


@dataclass(frozen=True)
class IntegerGrid:
    """What a Quant or Trunc node rounds to.

    Attributes:
        low: The least integer; -inf where there is none.
        high: The greatest integer; inf where there is none.
        rounding: None takes high from 0 on and low below it.
    """

    low: float
    high: float
    rounding: Rounding | None


@dataclass(frozen=True)
class Truncation:
    """What a Trunc node does to integers.

    Attributes:
        divisor: Power of 2 that they are divided by, for each scale.
        grid: What the quotients are rounded to.
        zero: What is subtracted then; None stands for the zero point that was added.
        scale: Which input the result is multiplied with.
    """

    divisor: npt.NDArray[np.float32]
    grid: IntegerGrid
    zero: npt.NDArray[np.float32] | None
    scale: int


def is_quantizer(node: ir.Node | None) -> bool:
    """Whether the node stands in one of QONNX's domains."""
    return node is not None and node.domain in DOMAINS


def bipolar_scale(node: ir.Node | None) -> npt.NDArray[np.float32] | None:
    """The scale of a node whose output is scale * (X >= 0 ? +1 : -1), if it is a constant.

    A signed Quant of one bit around 0 is bipolar as well: exporters of QONNX write it so.
    """
    if node is None or not is_quantizer(node):
        return None
    scale = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if scale is None or scale.dtype != np.float32:
        return None
    if node.op_type == "BipolarQuant":
        return scale
    if node.op_type not in ("Quant", "IntQuant") or len(node.inputs) != 4:
        return None
    zero, bits = (constant(value) for value in node.inputs[2:4])
    signed = node.attributes.get_int("signed", 1)
    # X / s keeps the sign of X; where s is 0, so is the result.
    around_zero = zero is not None and not zero.any() and bool((scale >= 0).all())
    one_bit = bits is not None and bits.size == 1 and float(bits.reshape(-1)[0]) == 1
    return scale if around_zero and one_bit and signed else None


def integer_grid(node: ir.Node) -> IntegerGrid:
    """What a Quant node rounds to.

    Raises:
        UnsupportedModel: It is another quantizer, or its bit width or rounding is not known.
    """
    if node.op_type not in ("Quant", "IntQuant"):
        raise UnsupportedModel(
            f"quantizer {node.name!r} is not supported",
            got=node.op_type,
            expected="BipolarQuant, Quant or Trunc",
            fix="Change the quantizer, or export the layer in full precision.",
        )
    width = _width(node, node.inputs[3] if len(node.inputs) == 4 else None)
    if width == 1 and node.attributes.get_int("signed", 1) != 0:
        return IntegerGrid(-1, 1, None)
    return _grid(node, width, _rounding(node, "ROUND"))


def truncation(node: ir.Node) -> Truncation:
    """What a Trunc node does.

    Raises:
        UnsupportedModel: Its inputs are not those of its version, its scales or bit widths are
            computed, or its rounding is not known.
    """
    version = graph_of(node).opset_imports.get(node.domain, 1)
    expected = 5 if version < _RESCALING else 6
    given = sum(value is not None for value in node.inputs)
    if not given == len(node.inputs) == expected:
        raise UnsupportedModel(
            f"quantizer {node.name!r} is malformed",
            got=f"Trunc with {given} inputs in version {version} of {node.domain!r}",
            expected=f"{expected} inputs in this version",
            fix="Export the network again with the version that the file is to say.",
        )
    rounding = _rounding(node, "FLOOR")
    if version < _RESCALING:
        widths = [_width(node, value) for value in node.inputs[3:]]
        unbounded = IntegerGrid(-np.inf, np.inf, rounding)
        divisor = np.array(2.0 ** (widths[0] - widths[1]), np.float32)
        return Truncation(divisor, unbounded, None, 1)
    scale, zero, after = (constant(node.inputs[index]) for index in (1, 2, 4))
    if scale is None or zero is None or after is None:
        raise UnsupportedModel(
            f"quantizer {node.name!r} has scales that are not supported",
            got="a scale or zero point of Trunc that is computed from the input",
            expected="constants, which say how many bits it drops",
            fix="Export the network with constant scales.",
        )
    with np.errstate(all="ignore"):
        divisor = np.asarray(2 ** np.round(np.log2(after / scale)), np.float32)
    if not (np.isfinite(divisor) & (divisor > 0)).all():
        raise UnsupportedModel(
            f"quantizer {node.name!r} has scales that are not supported",
            got=f"a Trunc from {scale.reshape(-1)[:4]} to {after.reshape(-1)[:4]}",
            expected="scales whose quotient is a positive number of float32",
            fix="Export the network with other scales.",
        )
    grid = _grid(node, _width(node, node.inputs[5]), rounding)
    return Truncation(divisor, grid, np.asarray(zero / divisor, np.float32), 4)


def _rounding(node: ir.Node, default: str) -> Rounding:
    mode = node.attributes.get_string("rounding_mode", default).upper()
    if mode not in ROUNDINGS:
        raise UnsupportedModel(
            f"quantizer {node.name!r} has a rounding mode that is not supported",
            got=f"{node.op_type} with rounding {mode}",
            expected=f"one of {', '.join(ROUNDINGS)}",
            fix="Train and export the network with one of them.",
        )
    return ROUNDINGS[mode]


def _width(node: ir.Node, value: ir.Value | None) -> float:
    """A constant bit width."""
    bits = constant(value)
    width = float(bits.reshape(-1)[0]) if bits is not None and bits.size == 1 else float("nan")
    if not (width.is_integer() and 1 <= width <= _MOST_BITS):
        raise UnsupportedModel(
            f"quantizer {node.name!r} has a bit width that is not supported",
            got="one that is computed" if bits is None else bits.tolist(),
            expected=f"one constant integer from 1 to {_MOST_BITS}",
            fix="Export the network with constant bit widths.",
        )
    return width


def _grid(node: ir.Node, width: float, rounding: Rounding) -> IntegerGrid:
    narrow = node.attributes.get_int("narrow", 0)
    if node.attributes.get_int("signed", 1) != 0:
        return IntegerGrid(-(2.0 ** (width - 1)) + narrow, 2.0 ** (width - 1) - 1, rounding)
    return IntegerGrid(0.0, 2.0**width - 1 - narrow, rounding)


def quantizes_sums(model: ir.Model) -> bool:
    """Whether a quantizer reads what a layer computed, which rounding moves across a step at times.

    What it reads of the input itself, or of constants, is the same in every runtime.
    """
    given, computed = set(model.graph.inputs), set[ir.Value | None]()
    for node in model.graph:
        if computed.intersection(node.inputs):
            if is_quantizer(node):
                return True
            computed.update(node.outputs)
        elif given.intersection(node.inputs):
            (given if is_quantizer(node) else computed).update(node.outputs)
    return False
