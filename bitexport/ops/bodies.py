"""Function bodies: each custom op spelled out in standard ONNX operators.

A runtime without our kernels runs these. They are written for the strictest reader, TensorRT's
ONNX parser: no bit operators, no UINT8 and no INT64 arithmetic on weights. An int32 word falls
into bytes by floored Mod and exact Div, and a byte into eight signs by one Gather from a
[256, 8] table.

    W int32 [Co,kh,kw,words] -> bytes [Co,kh,kw,words,4] -> signs [Co,kh,kw,words*4,8]
      -> [Co,kh,kw,32*words] -> drop the fill-up channels -> [Co,Ci/group,kh,kw]

Weights are put together in float32 and cast to T last, as ONNX Runtime folds constants on the
CPU and has few float16 kernels there. Scales and biases are float32 whatever T is, and are
applied to a float32 accumulator. A body that is to be inlined knows T and casts only where it is
float16: ONNX Runtime drops a cast to the same type from a function, but not from a graph, where it
keeps a convolution from being fused with its scale.

TensorRT's parser reads a convolution's ``strides`` and ``dilations`` straight from the node, so
that inside a function a reference to the caller's attribute counts as 1 and the result is wrong
without a word (``getKernelParams`` in onnx-tensorrt, 10.1 to TensorRT-RTX 1.7). A body therefore
measures, on tiny constants, what its runtime left undone, and does it itself: by zeros between
the taps of the weight and by a strided Slice of the result. Elsewhere both measure 1, and a
runtime that folds constants drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.ops.table import DOMAIN, OP_VERSION, OPS, PLUGIN_ATTRIBUTES, Op

__all__ = ["MEASURABLE", "OPSET", "function_for"]

OPSET = 18
# Attributes that TensorRT's parser does not see through a function.
MEASURABLE = ("strides", "dilations")

_FLOAT = ir.DataType.FLOAT
_BYTES_PER_WORD = 4
_INT64_MAX = np.iinfo(np.int64).max
_CONV_ATTRIBUTES = ("strides", "pads", "dilations", "group")


class _Body:
    """A function body under construction; methods add nodes and return their output."""

    def __init__(self, op: Op, dtype: ir.DataType | None) -> None:
        self.op, self.dtype = op, dtype
        self.inputs = {x.name: ir.Value(name=x.name) for x in op.inputs}
        self.x = self.inputs[op.inputs[0].name]
        self._tape = ir.tape.Tape()

    def __call__(
        self, op_type: str, *inputs: ir.Value, **attributes: int | list[int] | ir.Attr
    ) -> ir.Value:
        return self._tape.op(op_type, inputs, attributes=attributes)

    def constant(self, array: npt.NDArray[Any]) -> ir.Value:
        return self._tape.op("Constant", (), attributes={"value": ir.tensor(array)})

    def to_float(self, value: ir.Value) -> ir.Value:
        """A value of X's type in float32."""
        return value if self.dtype == _FLOAT else self("Cast", value, to=_FLOAT)

    def like_x(self, value: ir.Value) -> ir.Value:
        """A float32 value in X's type."""
        if self.dtype is None:
            return self("CastLike", value, self.x)
        return value if self.dtype == _FLOAT else self("Cast", value, to=self.dtype)

    def ints(self, *values: int) -> ir.Value:
        return self.constant(np.array(values, dtype=np.int64))

    def attribute(self, name: str, *, rename: str | None = None) -> ir.Attr:
        """The node's own attribute ``name``, handed on to an inner node."""
        scalar = next(a.count == 0 for a in self.op.attributes if a.name == name)
        kind = ir.AttributeType.INT if scalar else ir.AttributeType.INTS
        return ir.RefAttr(rename or name, name, kind)

    def own_ints(self, name: str) -> ir.Value:
        """The node's attribute ``name`` as a tensor, int64 [n]."""
        return self("Constant", value_ints=self.attribute(name, rename="value_ints"))

    def finish(self, output: ir.Value) -> ir.Function:
        output.name = "Y"
        graph = ir.Graph(
            inputs=list(self.inputs.values()),
            outputs=[output],
            nodes=self._tape.nodes,
            opset_imports={"": OPSET},
            name=self.op.name,
        )
        for index, node in enumerate(self._tape.nodes):
            node.name = ""
            if node.outputs[0] is not output:
                node.outputs[0].name = f"t{index}"
        names = [a.name for a in self.op.attributes] + list(PLUGIN_ATTRIBUTES)
        return ir.Function(
            DOMAIN,
            self.op.name,
            graph=graph,
            attributes=[ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in names],
        )


def function_for(
    op: Op,
    *,
    measured: Collection[str] = MEASURABLE,
    steep: bool = True,
    dtype: ir.DataType | None = None,
) -> ir.Function:
    """A fresh model-local function that computes ``op`` with operators of opset 18.

    Args:
        op: A row of the op table.
        measured: The attributes among ``MEASURABLE`` that some caller sets to anything but 1.
            Only these are measured; none, if the function is to be inlined into its callers.
        steep: Whether a slope of a caller may exceed 1; a PReLU takes half the operators without.
        dtype: T, where it is known; None writes a body that serves both types.
    """
    body = _Body(op, dtype)
    weight = _WEIGHTS[op.name](body)
    if op.kind == "gemm":
        accumulator = body("Gemm", body.x, body.like_x(weight), transB=1)
    else:
        accumulator = _convolution(body, _activations(body), weight, measured)
    return body.finish(body.like_x(_epilogue(body, accumulator, steep)))


def _convolution(body: _Body, x: ir.Value, weight: ir.Value, measured: Collection[str]) -> ir.Value:
    """Conv with the node's own attributes, also where the runtime ignores the measured ones."""
    if "dilations" in measured:
        weight = _spread_taps(body, weight)
    attributes = {name: body.attribute(name) for name in _CONV_ATTRIBUTES}
    y = body("Conv", x, body.like_x(weight), **attributes)
    if "strides" not in measured:
        return y
    ends = body.ints(_INT64_MAX, _INT64_MAX)
    return body("Slice", y, body.ints(0, 0), ends, body.ints(2, 3), _unapplied_strides(body))


def _unapplied_strides(body: _Body) -> ir.Value:
    """int64 [2]: 1 where the runtime applies the strides, the strides where it ignores them.

    Pooling one image of sh x sw pixels with these strides leaves one pixel, or all of them.
    """
    image = body("Expand", _image(body, (1, 1)), _spatial(body, body.own_ints("strides")))
    pooled = body("MaxPool", image, kernel_shape=[1, 1], strides=body.attribute("strides"))
    return body("Shape", pooled, start=2)


def _unapplied_dilations(body: _Body) -> ir.Value:
    """int64 [2]: 1 where the runtime applies the dilations, the dilations where it ignores them.

    Two taps a side, dilated, just fit into one image of (1 + dh) x (1 + dw) pixels.
    """
    side = body("Add", body.own_ints("dilations"), body.ints(1, 1))
    image = body("Expand", _image(body, (1, 1)), _spatial(body, side))
    taps = _image(body, (2, 2))
    return body("Shape", body("Conv", image, taps, dilations=body.attribute("dilations")), start=2)


def _spread_taps(body: _Body, weight: ir.Value) -> ir.Value:
    """Weight [Co,Ci/group,kh,kw] with the unapplied dilation as zeros between its taps.

    Each tap gets its zeros below and to the right; the ones behind the last tap are cut off.
    """
    spread = _unapplied_dilations(body)
    zeros = body("Sub", spread, body.ints(1, 1))
    below, right = (body("Slice", zeros, body.ints(i), body.ints(i + 1)) for i in (0, 1))
    pads = body(
        "Concat",
        body.ints(0, 0, 0, 0, 0, 0),
        body.ints(0, 0, 0),
        below,
        body.ints(0),
        right,
        axis=0,
    )
    padded = body("Pad", body("Unsqueeze", weight, body.ints(3, 5)), pads)
    shape = body("Shape", weight)
    size = body("Mul", body("Slice", shape, body.ints(2), body.ints(4)), spread)
    channels = body("Slice", shape, body.ints(0), body.ints(2))
    rows = body("Reshape", padded, body("Concat", channels, size, axis=0))
    return body("Slice", rows, body.ints(0, 0), body("Sub", size, zeros), body.ints(2, 3))


def _spatial(body: _Body, size: ir.Value) -> ir.Value:
    return body("Concat", body.ints(1, 1), size, axis=0)


def _image(body: _Body, size: tuple[int, int]) -> ir.Value:
    return body.constant(np.zeros((1, 1, *size), np.float32))


def _activations(body: _Body) -> ir.Value:
    """X or Signs, or +-1 by comparison with the threshold in float32 (NaN compares as -1)."""
    x = body.x
    if "Th" not in body.inputs:
        return x
    return body.like_x(_sign(body, body.to_float(x), body.inputs["Th"]))


def _sign(body: _Body, t: ir.Value, threshold: ir.Value) -> ir.Value:
    """+1 where t >= threshold, else -1; in float32."""
    above = body("GreaterOrEqual", t, threshold)
    one, minus_one = (body.constant(np.array(v, np.float32)) for v in (1.0, -1.0))
    return body("Where", above, one, minus_one)


def _epilogue(body: _Body, accumulator: ir.Value, steep: bool) -> ir.Value:
    """S * acc + B (+ R), then the op's activation; in float32."""
    y = body("Mul", body.to_float(accumulator), body.inputs["S"])
    y = body("Add", y, body.inputs["B"])
    if "R" in body.inputs:
        y = body("Add", y, body.to_float(body.inputs["R"]))
    if "Slope" in body.inputs:
        return body("Add", _prelu(body, y, steep), body.inputs["Shift"])
    if "Lo" in body.inputs:
        # ONNX's Clip takes scalars; ONNX Runtime merges it with the convolution.
        low, high = (body("Reshape", body.inputs[name], body.ints()) for name in ("Lo", "Hi"))
        return body("Clip", y, low, high)
    if "Next" in body.inputs:
        return _sign(body, y, body.inputs["Next"])
    return y


def _prelu(body: _Body, t: ir.Value, steep: bool) -> ir.Value:
    """PReLU without ONNX's operator, which is slow in ONNX Runtime; see ``split_prelu.py``."""
    slope = body.inputs["Slope"]
    if not steep:
        return body("Max", t, body("Mul", t, slope))
    negative = body("Min", t, body.constant(np.zeros((), np.float32)))
    return body("Add", body("Relu", t), body("Mul", negative, slope))


def _sign_weight(body: _Body) -> ir.Value:
    """Sign words [Co,kh,kw,words] -> float32 [Co,Ci/group,kh,kw] of +-1."""
    octets = _digits(body, body.inputs["W"], base=256, count=_BYTES_PER_WORD)
    signs = body("Gather", _sign_table(body), octets, axis=0)
    signs = body("Reshape", signs, body.ints(0, 0, 0, -1))
    channels = body("Slice", body.own_ints("wshape"), body.ints(1), body.ints(2))
    signs = body("Slice", signs, body.ints(0), channels, body.ints(3))
    return body("Transpose", signs, perm=[0, 3, 1, 2])


def _sign_table(body: _Body) -> ir.Value:
    """[256, 8] table: row b holds the eight signs of byte b, least significant bit first.

    Built in the graph from the 16 rows of a nibble, which keeps 4 KB out of the file.
    """
    bits = (np.arange(16)[:, None] >> np.arange(4)) & 1
    nibble = body.constant((2 * bits - 1).astype(np.float32))
    low = body("Expand", body("Unsqueeze", nibble, body.ints(0)), body.ints(16, 16, 4))
    high = body("Expand", body("Unsqueeze", nibble, body.ints(1)), body.ints(16, 16, 4))
    return body("Reshape", body("Concat", low, high, axis=-1), body.ints(256, 8))


def _codebook_weight(code_bits: int) -> Callable[[_Body], ir.Value]:
    def weight(body: _Body) -> ir.Value:
        """Code words [Co,words] and codebook [K,d] -> float32 of shape ``wshape``."""
        codes = _digits(body, body.inputs["Codes"], base=1 << code_bits, count=32 // code_bits)
        codes = body("Reshape", codes, body.ints(0, -1))
        blocks = body("Gather", body.inputs["CB"], codes, axis=0)
        rows = body("Reshape", blocks, body.ints(0, -1))
        shape = body.own_ints("wshape")
        row_length = body(
            "ReduceProd",
            body("Slice", shape, body.ints(1), body.ints(len(_wshape_axes(body.op)))),
            keepdims=1,
        )
        rows = body("Slice", rows, body.ints(0), row_length, body.ints(1))
        return body("Cast", body("Reshape", rows, shape), to=_FLOAT)

    return weight


def _wshape_axes(op: Op) -> range:
    return range(next(a.count for a in op.attributes if a.name == "wshape"))


def _digits(body: _Body, words: ir.Value, *, base: int, count: int) -> ir.Value:
    """Digits of int32 words, least significant first, on a new last axis of ``count``.

    Mod is floored, so the digit of a negative word is the one of its two's complement, and
    (word - digit) / base is exact.
    """
    divisor = body.constant(np.array(base, np.int32))
    last = body.ints(-1)
    digits = []
    rest = words
    for index in range(count):
        digit = body("Mod", rest, divisor)
        digits.append(body("Unsqueeze", digit, last))
        if index + 1 < count:
            rest = body("Div", body("Sub", rest, digit), divisor)
    return body("Concat", *digits, axis=-1)


_WEIGHTS: dict[str, Callable[[_Body], ir.Value]] = {
    "SignConv": _sign_weight,
    "BinaryConv": _sign_weight,
    "BinaryConvAdd": _sign_weight,
    "BinaryConvPRelu": _sign_weight,
    "BinaryConvAddPRelu": _sign_weight,
    "BinaryConvClip": _sign_weight,
    "BinaryConvAddClip": _sign_weight,
    "BinaryConvSign": _sign_weight,
    "BinaryConvOfSigns": _sign_weight,
    "BinaryConvOfSignsClip": _sign_weight,
    "BinaryConvOfSignsSign": _sign_weight,
    "CodebookConv": _codebook_weight(8),
    "CodebookConv16": _codebook_weight(16),
    "CodebookGemm": _codebook_weight(16),
}
if set(_WEIGHTS) != {op.name for op in OPS} or OP_VERSION != 1:
    raise RuntimeError("the op table and the function bodies disagree")
