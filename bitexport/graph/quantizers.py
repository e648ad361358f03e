"""The quantizer nodes of QONNX, and what they compute.

Pappalardo et al., "QONNX: Representing Arbitrary-Precision Quantized Neural Networks", 2022; the
project's ``custom_op/general/{bipolar_quant,intquant}.py``:

    BipolarQuant(X, s)      = s * (X >= 0 ? +1 : -1)
    Quant(X, s, z, bits)    = s * (round(clip(X / s + z, low, high)) - z)
    Quant(X, s, z, 1)       = s * ((X / s + z >= 0 ? +1 : -1) - z)    if signed

low and high are -2^(bits-1) (one more if narrow) and 2^(bits-1) - 1 if signed, else 0 and
2^bits - 1 (one less if narrow).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.errors import UnsupportedModel
from bitexport.graph.constants import constant

__all__ = [
    "DOMAINS",
    "IntegerGrid",
    "bipolar_scale",
    "integer_grid",
    "is_quantizer",
    "quantizes_sums",
]

# The second and third are what older files of Brevitas and FINN say.
DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
_ROUNDINGS = {"ROUND": "Round", "HALF_EVEN": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}
_MOST_BITS = 24  # integers that float32 holds


@dataclass(frozen=True)
class IntegerGrid:
    """What a Quant node rounds to.

    Attributes:
        low: The least integer.
        high: The greatest integer.
        rounding: The standard operator that rounds; None takes high from 0 on and low below it.
    """

    low: float
    high: float
    rounding: str | None


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
    bits = constant(node.inputs[3]) if len(node.inputs) == 4 else None
    rounding = node.attributes.get_string("rounding_mode", "ROUND").upper()
    if node.op_type not in ("Quant", "IntQuant") or rounding not in _ROUNDINGS:
        raise UnsupportedModel(
            f"quantizer {node.name!r} is not supported",
            got=f"{node.op_type} with rounding {rounding}",
            expected=f"BipolarQuant, or Quant with rounding {', '.join(_ROUNDINGS)}",
            fix="Change the quantizer, or export the layer in full precision.",
        )
    width = float(bits.reshape(-1)[0]) if bits is not None and bits.size == 1 else float("nan")
    if not (width.is_integer() and 1 <= width <= _MOST_BITS):
        raise UnsupportedModel(
            f"quantizer {node.name!r} has a bit width that is not supported",
            got="one that is computed" if bits is None else bits.tolist(),
            expected=f"one constant integer from 1 to {_MOST_BITS}",
            fix="Export the network with constant bit widths.",
        )
    signed, narrow = node.attributes.get_int("signed", 1), node.attributes.get_int("narrow", 0)
    if signed and width == 1:
        return IntegerGrid(-1, 1, None)
    if signed:
        low, high = -(2.0 ** (width - 1)) + narrow, 2.0 ** (width - 1) - 1
    else:
        low, high = 0.0, 2.0**width - 1 - narrow
    return IntegerGrid(low, high, _ROUNDINGS[rounding])


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
