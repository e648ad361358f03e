"""Random QONNX files, drawn from a seed: what Brevitas writes, and what else the format allows.

In most of them all numbers are dyadic and few bits wide, so that sums are the same in any order and
values lie on thresholds often. Where QONNX's executor does not take a graph, it is none of ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from test_qonnx import DOMAIN

from fuzz.qonnx_constants import computed
from fuzz.qonnx_quantizers import Quantizers, Shape
from fuzz.qonnx_shapes import reshaped
from fuzz.qonnx_spelling import spelled

_SAME = ("SAME_UPPER", "SAME_LOWER")
_MOST = 4096  # numbers of a value


@dataclass(frozen=True)
class Value:
    """A value of the graph; its shape is that of one sample."""

    name: str
    shape: Shape

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def sides(self) -> Shape:
        return self.shape[1:]


def random_graph(seed: str) -> onnx.ModelProto:
    """A QONNX model with one input and, mostly, one output."""
    draw = _Draw(random.Random(seed))
    image = Value(
        "image", (draw.one(1, 2, 3, 4, 8), draw.rng.randint(4, 9), draw.rng.randint(4, 9))
    )
    x = draw.chain(image, draw.rng.randint(2, 7))
    x = draw.head(x) if draw.chance(0.8) else x
    graph_outputs = [x.name]
    if draw.chance(0.01):
        graph_outputs.append(draw.one(*draw.nodes).output[0])
    return spelled(draw, image.shape, graph_outputs)


class _Draw(Quantizers):
    """Draws operators; ``seen`` holds the values so far, to be read again."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.seen: list[Value] = []

    # ---- Layers -----------------------------------------------------------------------------

    def act(self, x: Value) -> Value:
        return Value(self.quantized(x.name, (None, *x.shape)), x.shape)

    def window(self, sides: Shape, *, dilated: bool = True) -> tuple[dict[str, Any], Shape]:
        """Attributes of a convolution or pool, and the sides of what it gives."""
        kernel = [self.rng.randint(1, 3) for _ in sides]
        if self.exact and not dilated:
            kernel = [self.one(1, 2, 2) for _ in sides]
        strides = [self.one(1, 1, 2) for _ in sides]
        dilations = [self.one(1, 1, 1, 2) if dilated else 1 for _ in sides]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        attributes: dict[str, Any] = {"kernel_shape": kernel}
        if any(s > 1 for s in strides) or self.chance(0.3):
            attributes["strides"] = strides
        if any(d > 1 for d in dilations):
            attributes["dilations"] = dilations
        way = self.rng.random()
        if way < 0.12 and max(dilations) == 1:
            attributes["auto_pad"] = self.one(*_SAME)
            return attributes, tuple(-(-n // s) for n, s in zip(sides, strides, strict=True))
        pads = [0] * (2 * len(sides))
        if way > 0.3:
            pads = [self.rng.randint(0, r - 1) for r in (*reach, *reach)]
            attributes["pads"] = pads
        elif way > 0.25:
            attributes["auto_pad"] = self.one("VALID", "NOTSET")
        ends = zip(sides, pads, pads[len(sides) :], reach, strides, strict=False)
        after = [(n + a + b - r) // s + 1 if n + a + b >= r else 0 for n, a, b, r, s in ends]
        return attributes, tuple(after)

    def conv_layer(self, x: Value, keep: bool = False) -> Value | None:
        if len(x.shape) < 2:
            return None
        attributes, sides = self.window(x.sides)
        if keep:
            attributes, sides = {"kernel_shape": [3] * len(x.sides)}, x.sides
            attributes |= (
                {"pads": [1] * 2 * len(sides)} if self.chance(0.8) else {"auto_pad": "SAME_UPPER"}
            )
        if min(sides, default=0) < 1:
            return None
        groups = [g for g in (1, 2, 4, x.channels) if x.channels % g == 0]
        group = self.one(*groups) if self.chance(0.3) else 1
        out = x.channels if keep else group * self.one(1, 2, 3, 4, 8)
        out = out if self.chance(0.97) or keep else group * self.one(32, 33)
        if group > 1 or self.chance(0.1):
            attributes["group"] = group
        if keep and out % group:
            return None
        shape = (out, x.channels // group, *attributes["kernel_shape"])
        weight = self.weight_of(*shape)
        if self.chance(0.1):
            del attributes["kernel_shape"]
        y = self.node("Conv", x.name, weight, *self.bias_of(out), **attributes)
        return Value(y, (out, *sides))

    def linear(self, x: Value) -> Value | None:
        """Gemm or MatMul, from either side."""
        if len(x.shape) != 1:
            if x.channels > 64 or len(x.shape) < 2:
                return None
            inner, out = x.shape[-1], self.rng.randint(1, 6)
            if self.chance(0.3):
                y = self.node("MatMul", self.weight_of(out, x.shape[-2]), x.name)
                return Value(y, (*x.shape[:-2], out, inner)) if len(x.shape) > 2 else None
            y = self.node("MatMul", x.name, self.weight_of(inner, out, axis=1))
            return Value(y, (*x.shape[:-1], out))
        inner, out, way = x.channels, self.rng.randint(1, 9), self.rng.random()
        if way < 0.2:
            y = self.node("MatMul", x.name, self.weight_of(inner, out, axis=1))
        elif way < 0.3:
            turned = self.node("Transpose", x.name, perm=[1, 0])
            y = self.node("MatMul", self.weight_of(out, inner), turned)
            y = self.node("Transpose", y, perm=[1, 0])
        else:
            y = self.gemm(x.name, inner, out)
        return Value(y, (out,))

    def gemm(self, x: str, inner: int, out: int) -> str:
        attributes: dict[str, Any] = {}
        if self.chance(0.7):
            attributes["transB"] = 1
        weight = self.weight_of(out, inner) if attributes else self.weight_of(inner, out, axis=1)
        for name in ("alpha", "beta"):
            if self.chance(0.12):
                attributes[name] = self.one(0.5, 2.0, 0.0, -1.0)
        if self.chance(0.08):
            x = self.node("Transpose", x, perm=[1, 0])
            attributes["transA"] = 1
        shapes: list[Shape] = [(out,)] * 4 + [(1, out), (1,), (1, 1), ()]
        if isinstance(self.batch, int):
            shapes += [(self.batch, 1), (self.batch, out)]
        bias = [self.number(self.numbers(*self.one(*shapes)))]
        bias = [] if self.opset >= 11 and self.chance(0.3) else bias
        return self.node("Gemm", x, weight, *bias, **attributes)

    def batch_norm(self, x: Value) -> Value:
        count = x.channels
        variance = np.array([self.one(0.25, 1.0, 4.0) for _ in range(count)])
        epsilon = 0.0
        if not self.exact:
            variance = np.array([self.rng.uniform(0.1, 2) for _ in range(count)])
            epsilon = self.one(1e-5, 1e-3, 0.1, 0.00123456789)
        values = [self.number(self.numbers(count)) for _ in range(3)]
        attributes = {"momentum": 0.9} if self.chance(0.5) else {}
        y = self.node(
            "BatchNormalization", x.name, *values, self.constant(variance), epsilon=epsilon,
            **attributes,
        )  # fmt: skip
        return Value(y, x.shape)

    def operand(self, x: Value) -> np.ndarray:
        """A constant to add to a value or to multiply it with."""
        rank = len(x.shape)
        per_channel = (x.channels, *[1] * (rank - 1))
        shapes = [(), (1,), (1,) * (rank + 1), per_channel, (1, *per_channel), (1, *per_channel)]
        if self.chance(0.1):
            shapes = [x.shape, x.shape[-1:], (1, *x.shape)]
        return self.numbers(*self.one(*shapes))

    def arithmetic(self, x: Value) -> Value:
        op_type = self.one("Add", "Mul", "Sub", "Div", "Add", "Mul", "Min", "Max")
        array = self.operand(x)
        if op_type == "Div":
            array = np.where(array < 0, -1, 1) * (0.5 if self.exact else 0.3) * np.ones_like(array)
        inputs = [x.name, self.number(array)]
        if self.chance(0.15) and op_type != "Div":
            inputs[1] = computed(self, 1, *x.shape)
        if self.chance(0.4) and op_type != "Div":
            inputs.reverse()
        return Value(self.node(op_type, *inputs), x.shape)

    def activation(self, x: Value) -> Value:
        kinds: list[Callable[[], str]] = [
            lambda: self.node("Relu", x.name),
            lambda: self.node("LeakyRelu", x.name, alpha=self.one(0.25, 0.5, 2.0, -0.5)),
            lambda: self.prelu(x),
            lambda: self.prelu(x),
            lambda: self.clip(x.name),
            lambda: self.clip(x.name),
            lambda: self.node("Abs", x.name),
            lambda: self.node("Neg", x.name),
            lambda: self.node("Identity", x.name),
            lambda: self.node("HardSigmoid", x.name, alpha=0.25, beta=0.5),
        ]
        if not self.exact:
            kinds += [lambda: self.node(self.one("Sigmoid", "Tanh"), x.name)]
        return Value(self.one(*kinds)(), x.shape)

    def prelu(self, x: Value) -> str:
        per_channel = (x.channels, *[1] * (len(x.shape) - 1))
        shape = self.one((1,), per_channel, per_channel, (1, *per_channel), x.shape)
        return self.node("PRelu", x.name, self.number(self.numbers(*shape)))

    def clip(self, x: str) -> str:
        low, high = self.one(
            (-1.0, 1.0), (0.0, 6.0), (-0.5, 2.0), (None, 1.0), (0.0, None), (1.0, -1.0)
        )
        if self.opset < 11:
            given = {"min": low, "max": high}
            return self.node("Clip", x, **{k: v for k, v in given.items() if v is not None})
        inputs = ["" if n is None else self.number(n) for n in (low, high)]
        return self.node("Clip", x, *(inputs if inputs[1] else inputs[:1]))

    def residual(self, x: Value) -> Value | None:
        same = [v for v in self.seen if v.shape == x.shape and v.name != x.name]
        if same and self.chance(0.6):
            return Value(self.node("Add", x.name, self.one(*same).name), x.shape)
        if len(x.shape) < 3:
            return Value(self.node("Add", x.name, x.name), x.shape)
        before = self.act(x) if self.chance(0.7) else x
        y = self.conv_layer(before, keep=True)
        if y is None:
            return None
        y = self.batch_norm(y) if self.chance(0.5) else y
        terms = [y.name, self.one(x, before).name]
        self.rng.shuffle(terms)
        return Value(self.node("Add", *terms), x.shape)

    def pool(self, x: Value) -> Value | None:
        if len(x.shape) < 3:
            return None
        way = self.rng.random()
        if way < 0.15:
            op_type = self.one("GlobalMaxPool", "GlobalAveragePool")
            return Value(self.node(op_type, x.name), (x.channels, 1, 1))
        op_type = self.one("MaxPool", "MaxPool", "AveragePool")
        attributes, sides = self.window(x.sides, dilated=False)
        if min(sides) < 1:
            return None
        if op_type == "AveragePool" and self.chance(0.5):
            attributes["count_include_pad"] = 1
        if self.opset >= 10 and "auto_pad" not in attributes and self.chance(0.1):
            attributes["ceil_mode"] = 1
            return (
                None
                if any(s > 1 for s in attributes.get("strides", ()))
                else Value(self.node(op_type, x.name, **attributes), (x.channels, *sides))
            )
        return Value(self.node(op_type, x.name, **attributes), (x.channels, *sides))

    def truncated_pool(self, x: Value) -> Value | None:
        """As Brevitas' TruncAvgPool2d: the sums over windows are integers, whose lowest bits go."""
        if len(x.shape) < 3:
            return None
        kernel = [self.one(1, 2, 2, 4) if self.exact else self.rng.randint(1, 3) for _ in x.sides]
        if min(n - k for n, k in zip(x.sides, kernel, strict=True)) < 0:
            return None
        scale = np.abs(self.scale())
        numbers = (self.constant(n) for n in (scale, 0.0, float(self.rng.randint(2, 6))))
        attributes = {"signed": int(self.chance(0.5)), "narrow": 0, "rounding_mode": "ROUND"}
        y = self.node("Quant", x.name, *numbers, domain=DOMAIN, **attributes)
        y = self.node("AveragePool", y, kernel_shape=kernel, strides=kernel)
        sides = (n // k for n, k in zip(x.sides, kernel, strict=True))
        return Value(self.truncated(y, scale / math.prod(kernel)), (x.channels, *sides))

    def chain(self, x: Value, steps: int) -> Value:
        kinds: list[tuple[int, Callable[[Value], Value | None]]] = [
            (8, self.quantized_layer),
            (5, self.binary_block),
            (2, self.conv_layer),
            (3, self.act),
            (4, self.batch_norm),
            (3, self.activation),
            (2, self.arithmetic),
            (3, self.residual),
            (2, self.pool),
            (1, self.truncated_pool),
            (3, lambda v: reshaped(self, v)),
            (1, self.linear),
        ]
        weights, ways = zip(*kinds, strict=True)
        for _ in range(steps):
            way = self.rng.choices(ways, weights)[0]
            nodes, constants = len(self.nodes), len(self.constants)
            weights_before = {k: list(v) for k, v in self.weights.items()}
            y = way(x)
            if y is None or not 0 < math.prod(y.shape) <= _MOST:
                del self.nodes[nodes:], self.constants[constants:]
                self.weights = weights_before
                continue
            self.seen.append(x)
            x = y
        return x

    def quantized_layer(self, x: Value) -> Value | None:
        """Activation, layer and BatchNorm, as they mostly stand."""
        layer = self.linear if len(x.shape) == 1 else self.conv_layer
        y = layer(self.act(x) if self.chance(0.8) else x)
        return self.batch_norm(y) if y is not None and self.chance(0.5) else y

    def binary_block(self, x: Value) -> Value | None:
        """What Bi-Real Net, ReActNet and XNOR-Net put around a binary convolution, with gaps."""
        if len(x.shape) != 3:
            return None
        first = x
        steps: list[tuple[float, Callable[[Value], Value | None]]] = [
            (0.4, self.batch_norm),
            (0.2, self.arithmetic),
            (1, self.signs),
            (0.1, self.pool),
            (1, lambda v: self.binary_conv(v, keep=self.chance(0.5))),
            (0.5, self.batch_norm),
            (0.3, lambda v: self.added(v, first)),
            (0.3, self.arithmetic),
            (0.7, lambda v: Value(self.one(self.prelu, self.bounded)(v), v.shape)),
            (0.2, self.arithmetic),
            (0.4, lambda v: self.binary_conv(self.signs(v), keep=self.chance(0.5))),
        ]
        y: Value | None = x
        for probability, step in steps:
            if y is not None and self.chance(probability):
                y = step(y)
        return y

    def signs(self, x: Value) -> Value:
        return Value(self.bipolar(x.name, self.scale(negative=0.1)), x.shape)

    def binary_conv(self, x: Value, *, keep: bool) -> Value | None:
        """With bits in groups or in all, and at times enough of them for a chain."""
        attributes, sides = self.window(x.sides)
        if keep:
            attributes, sides = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, x.sides
        out = x.channels if keep else self.one(2, 4, 8, 32, 33, 40)
        group = self.one(1, 1, 1, 2, x.channels)
        if min(sides) < 1 or x.channels % group or out % group:
            return None
        shape = (out, x.channels // group, *attributes["kernel_shape"])
        scales = self.scale(*self.one((), (out, 1, 1, 1)))
        weight = self.bipolar(self.constant(self.numbers(*shape)), scales)
        bias = self.bias_of(out) if self.chance(0.3) else []
        y = self.node("Conv", x.name, weight, *bias, group=group, **attributes)
        return Value(y, (out, *sides))

    def added(self, x: Value, first: Value) -> Value:
        terms = [x.name, first.name if first.shape == x.shape else x.name]
        self.rng.shuffle(terms)
        return Value(self.node("Add", *terms), x.shape)

    def bounded(self, x: Value) -> str:
        return self.node("Relu", x.name) if self.chance(0.3) else self.clip(x.name)

    def head(self, x: Value) -> Value:
        if len(x.shape) > 1:
            if self.chance(0.3):
                x = self.pool(x) or x
            x = Value(self.node("Flatten", x.name), (math.prod(x.shape),))
        return self.chain(x, self.rng.randint(0, 3))
