"""Function bodies: each custom op spelled out in standard ONNX operators.

A runtime without our kernels runs these. They are written for the strictest reader, TensorRT's
ONNX parser: no bit operators, no UINT8 and no INT64 arithmetic on weights. An int32 word falls
into bytes by floored Mod and exact Div, and a byte into eight signs by one Gather from a
[256, 8] table.

    W int32 [Co,kh,kw,words] -> bytes [Co,kh,kw,words,4] -> signs [Co,kh,kw,words*4,8]
      -> [Co,kh,kw,32*words] -> drop the fill-up channels -> [Co,Ci/group,kh,kw]

Scales and biases are float32 whatever T is, and are applied to a float32 accumulator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.ops.table import DOMAIN, OP_VERSION, OPS, PLUGIN_ATTRIBUTES, Op

__all__ = ["OPSET", "function_for"]

OPSET = 18

_BYTES_PER_WORD = 4
_CONV_ATTRIBUTES = ("strides", "pads", "dilations", "group")


class _Body:
    """A function body under construction; methods add nodes and return their output."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.inputs = {x.name: ir.Value(name=x.name) for x in op.inputs}
        self._tape = ir.tape.Tape()

    def __call__(
        self, op_type: str, *inputs: ir.Value, **attributes: int | list[int] | ir.Attr
    ) -> ir.Value:
        return self._tape.op(op_type, inputs, attributes=attributes)

    def constant(self, array: npt.NDArray[Any]) -> ir.Value:
        return self._tape.op("Constant", (), attributes={"value": ir.tensor(array)})

    def ints(self, *values: int) -> ir.Value:
        return self.constant(np.array(values, dtype=np.int64))

    def attribute(self, name: str, *, rename: str | None = None) -> ir.Attr:
        """The node's own attribute ``name``, handed on to an inner node."""
        scalar = next(a.count == 0 for a in self.op.attributes if a.name == name)
        kind = ir.AttributeType.INT if scalar else ir.AttributeType.INTS
        return ir.RefAttr(rename or name, name, kind)

    def weight_shape(self) -> ir.Value:
        return self("Constant", value_ints=self.attribute("wshape", rename="value_ints"))

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
            for value in node.outputs:
                value.name = value.name or f"t{index}"
        names = [a.name for a in self.op.attributes] + list(PLUGIN_ATTRIBUTES)
        return ir.Function(
            DOMAIN,
            self.op.name,
            graph=graph,
            attributes=[ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in names],
        )


def function_for(op: Op) -> ir.Function:
    """A fresh model-local function that computes ``op`` with operators of opset 18."""
    body = _Body(op)
    weight = _WEIGHTS[op.name](body)
    if op.kind == "gemm":
        accumulator = body("Gemm", body.inputs["X"], weight, transB=1)
    else:
        accumulator = body(
            "Conv",
            _activations(body),
            weight,
            **{name: body.attribute(name) for name in _CONV_ATTRIBUTES},
        )
    return body.finish(_epilogue(body, accumulator))


def _activations(body: _Body) -> ir.Value:
    """X itself, or +-1 by comparison with the threshold in float32 (NaN compares as -1)."""
    x = body.inputs["X"]
    if "Th" not in body.inputs:
        return x
    above = body("GreaterOrEqual", body("Cast", x, to=ir.DataType.FLOAT), body.inputs["Th"])
    one, minus_one = (body.constant(np.array(v, np.float32)) for v in (1.0, -1.0))
    return body("CastLike", body("Where", above, one, minus_one), x)


def _epilogue(body: _Body, accumulator: ir.Value) -> ir.Value:
    """Y = S * acc + B (+ R), in float32, then back to T."""
    y = body("Mul", body("Cast", accumulator, to=ir.DataType.FLOAT), body.inputs["S"])
    y = body("Add", y, body.inputs["B"])
    if "R" in body.inputs:
        y = body("Add", y, body("Cast", body.inputs["R"], to=ir.DataType.FLOAT))
    return body("CastLike", y, body.inputs["X"])


def _sign_weight(body: _Body) -> ir.Value:
    """Sign words [Co,kh,kw,words] -> T [Co,Ci/group,kh,kw] of +-1."""
    octets = _digits(body, body.inputs["W"], base=256, count=_BYTES_PER_WORD)
    table = body("CastLike", _sign_table(body), body.inputs["X"])
    signs = body("Gather", table, octets, axis=0)
    signs = body("Reshape", signs, body.ints(0, 0, 0, -1))
    channels = body("Slice", body.weight_shape(), body.ints(1), body.ints(2))
    signs = body("Slice", signs, body.ints(0), channels, body.ints(3))
    return body("Transpose", signs, perm=[0, 3, 1, 2])


def _sign_table(body: _Body) -> ir.Value:
    """[256, 8] table: row b holds the eight signs of byte b, least significant bit first.

    Built in the graph from the 16 rows of a nibble, which keeps 4 KB out of the file.
    """
    bits = (np.arange(16)[:, None] >> np.arange(4)) & 1
    nibble = body.constant((2 * bits - 1).astype(np.float16))
    low = body("Expand", body("Unsqueeze", nibble, body.ints(0)), body.ints(16, 16, 4))
    high = body("Expand", body("Unsqueeze", nibble, body.ints(1)), body.ints(16, 16, 4))
    return body("Reshape", body("Concat", low, high, axis=-1), body.ints(256, 8))


def _codebook_weight(code_bits: int) -> Callable[[_Body], ir.Value]:
    def weight(body: _Body) -> ir.Value:
        """Code words [Co,words] and codebook [K,d] -> T of shape ``wshape``."""
        codes = _digits(body, body.inputs["Codes"], base=1 << code_bits, count=32 // code_bits)
        codes = body("Reshape", codes, body.ints(0, -1))
        blocks = body("Gather", body.inputs["CB"], codes, axis=0)
        rows = body("Reshape", blocks, body.ints(0, -1))
        shape = body.weight_shape()
        row_length = body(
            "ReduceProd",
            body("Slice", shape, body.ints(1), body.ints(len(_wshape_axes(body.op)))),
            keepdims=1,
        )
        rows = body("Slice", rows, body.ints(0), row_length, body.ints(1))
        return body("CastLike", body("Reshape", rows, shape), body.inputs["X"])

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
    "CodebookConv": _codebook_weight(8),
    "CodebookConv16": _codebook_weight(16),
    "CodebookGemm": _codebook_weight(16),
}
if set(_WEIGHTS) != {op.name for op in OPS} or OP_VERSION != 1:
    raise RuntimeError("the op table and the function bodies disagree")
