"""Constants that nodes compute from other constants, in ways that no exporter folds itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def computed(draw: Any, *shape: int) -> str:
    """Nodes that give a constant of a shape."""
    pixels = len(shape) == 4
    ways: list[Callable[[], str]] = [
        lambda: draw.node("Mul", source(draw, *shape), draw.constant(0.5)),
        lambda: draw.node("Round", draw.node("Mul", source(draw, *shape), draw.constant(2.0))),
        lambda: draw.node(
            "Transpose", source(draw, *reversed(shape)), perm=[*reversed(range(len(shape)))]
        ),
        lambda: draw.node(
            "Reshape", source(draw, math.prod(shape)), draw.constant(shape, np.int64)
        ),
        lambda: draw.node("Cast", draw.constant(np.round(draw.numbers(*shape)), np.int64), to=1),
        lambda: draw.node("Expand", draw.constant(draw.numbers()), draw.constant(shape, np.int64)),
        lambda: _deviation(draw, *shape),
        lambda: _quotient(draw, *shape),
        lambda: _selected(draw, *shape),
    ]
    if shape:
        ways += [lambda: _sliced(draw, *shape), lambda: _joined(draw, *shape)]
    if not draw.exact and shape:
        ways += [lambda: draw.node("Softmax", source(draw, *shape), axis=len(shape) - 1)]
    if pixels:
        ways += [lambda: _pooled(draw, "MaxPool", *shape)] * 2
        ways += [lambda: _pooled(draw, "AveragePool", *shape), lambda: _filtered(draw, *shape)]
        ways += [lambda: _padded(draw, *shape)]
    if pixels and not draw.exact:
        ways += [lambda: draw.node("LRN", source(draw, *shape), size=draw.one(2, 3))]
        ways += [lambda: _normalized(draw, *shape)]
    return draw.one(*ways)()


def source(draw: Any, *shape: int) -> str:
    return draw.constant(draw.numbers(*shape))


def _turned(draw: Any, *shape: int) -> str:
    axes = [*reversed(range(len(shape)))]
    return draw.node("Transpose", source(draw, *reversed(shape)), perm=axes)


def _pooled(draw: Any, op_type: str, *shape: int) -> str:
    kernel = [draw.rng.randint(1, 2) for _ in range(2)]
    given = {"auto_pad": draw.one("SAME_UPPER", "SAME_LOWER")}
    if draw.chance(0.5):
        before = [draw.rng.randint(0, k - 1) for k in kernel]
        given = {"pads": [*before, *(k - 1 - b for k, b in zip(kernel, before, strict=True))]}
    if op_type == "AveragePool" and draw.chance(0.5):
        given["count_include_pad"] = 1
    return draw.node(op_type, source(draw, *shape), kernel_shape=kernel, **given)


def _filtered(draw: Any, *shape: int) -> str:
    weight = source(draw, shape[1], 1, 2, 2)
    pads = draw.one({"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"pads": [1, 0, 0, 1]})
    return draw.node("Conv", source(draw, *shape), weight, group=shape[1], **pads)


def _padded(draw: Any, *shape: int) -> str:
    inner = source(draw, *shape[:2], shape[2] + 1, shape[3] + 1)
    pads = [0, 0, -1, 0, 0, 0, 0, -1]
    if draw.opset < 11:
        return draw.node("Pad", inner, pads=pads)
    return draw.node("Pad", inner, draw.constant(pads, np.int64))


def _normalized(draw: Any, *shape: int) -> str:
    values = (source(draw, shape[1]) for _ in range(2))
    return draw.node("InstanceNormalization", source(draw, *shape), *values)


def _deviation(draw: Any, *shape: int) -> str:
    """What lies between a constant and its largest number."""
    x = source(draw, *shape)
    return draw.node("Sub", x, draw.node("ReduceMax", x))


def _quotient(draw: Any, *shape: int) -> str:
    """Of integers, which is cut off."""
    x = draw.constant(np.round(4 * draw.numbers(*shape)), np.int64)
    y = draw.constant(draw.one(2, -2, 3), np.int64)
    return draw.node("Cast", draw.node("Div", x, y), to=1)


def _selected(draw: Any, *shape: int) -> str:
    x, y = source(draw, *shape), source(draw, *shape)
    return draw.node("Where", draw.node("Less", x, y), x, y)


def _sliced(draw: Any, *shape: int) -> str:
    """Backwards, every other."""
    x = source(draw, 2 * shape[0], *shape[1:])
    if draw.opset < 10:
        return draw.node("Slice", x, axes=[0], starts=[0], ends=[shape[0]])
    bounds = (draw.constant([n], np.int64) for n in (-1, -(1 << 31), 0, -2))
    return draw.node("Slice", x, *bounds)


def _joined(draw: Any, *shape: int) -> str:
    first = shape[0] // 2
    parts = (source(draw, n, *shape[1:]) for n in (first, shape[0] - first) if n)
    return draw.node("Concat", *parts, axis=0)
