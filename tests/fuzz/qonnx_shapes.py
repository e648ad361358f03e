"""Random operators that move, select and join values, as each opset writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def reshaped(draw: Any, x: Any) -> Any:
    """One of them behind a value; None where it does not apply."""
    ways: list[Callable[[Any, Any], Any]] = [
        _reshape, _reshape, _transpose, _transpose, _concat, _concat, _split, _split, _pad, _pad,
        _slice, _gather, _squeeze, _mean, _centered, _identity, _depth_to_space, _upsample,
    ]  # fmt: skip
    return draw.one(*ways)(draw, x)


def _indices(draw: Any, *values: int) -> str:
    return draw.constant(list(values), np.int64)


def _value(x: Any, name: str, *shape: int) -> Any:
    return type(x)(name, tuple(shape))


def _reshape(draw: Any, x: Any) -> Any:
    """Flatten, other sides, three dimensions, or back to images."""
    whole = math.prod(x.shape)
    way = draw.rng.random()
    if len(x.shape) == 1:
        if x.shape[0] % 2:
            return None
        after: tuple[int, ...] = draw.one(
            (x.shape[0] // 2, 2), (x.shape[0] // 2, 2, 1), (2, x.shape[0] // 2, 1)
        )
    elif way < 0.25:
        return _value(x, draw.node("Flatten", x.name, **draw.one({}, {"axis": 1})), whole)
    elif way < 0.5:
        after = (whole,)
    else:
        after = (x.shape[0], math.prod(x.shape[1:]))
        after = draw.one(after, (*after, 1), (*reversed(after),))
    dims = list(after)
    if draw.chance(0.4):
        dims[draw.rng.randrange(len(dims))] = -1
    batch = 0 if -1 in dims or not isinstance(draw.batch, int) else draw.one(0, draw.batch)
    if -1 not in dims and draw.chance(0.3):
        batch = -1
    return _value(x, draw.node("Reshape", x.name, _indices(draw, batch, *dims)), *after)


def _transpose(draw: Any, x: Any) -> Any:
    axes = list(range(1, len(x.shape) + 1))
    draw.rng.shuffle(axes)
    y = draw.node("Transpose", x.name, perm=[0, *axes])
    y = (
        draw.act(_value(x, y, *(x.shape[i - 1] for i in axes)))
        if draw.chance(0.3)
        else _value(x, y, *(x.shape[i - 1] for i in axes))
    )
    if draw.chance(0.5):
        return y
    back = [0, *(1 + axes.index(i) for i in range(1, len(axes) + 1))]
    return _value(x, draw.node("Transpose", y.name, perm=back), *x.shape)


def _concat(draw: Any, x: Any) -> Any:
    """With itself, with what was there before, or with another layer's result."""
    others = [v for v in draw.seen if v.shape[1:] == x.shape[1:] and len(v.shape) == len(x.shape)]
    other = draw.one(*others) if others and draw.chance(0.6) else x
    if other is x and draw.chance(0.7):
        other = draw.conv_layer(x, keep=True) or x
    parts = [x, other]
    draw.rng.shuffle(parts)
    y = draw.node("Concat", *(v.name for v in parts), axis=draw.one(1, 1, -len(x.shape)))
    return _value(x, y, x.shape[0] + other.shape[0], *x.shape[1:])


def _split(draw: Any, x: Any) -> Any:
    """Into two parts, of which one is read, or both."""
    if x.shape[0] < 2:
        return None
    first = x.shape[0] // 2 if draw.chance(0.5) else draw.rng.randint(1, x.shape[0] - 1)
    sizes = [first, x.shape[0] - first]
    outputs = [f"s{len(draw.nodes)}", f"t{len(draw.nodes)}"]
    inputs, attributes = [x.name], {"axis": 1}
    if draw.opset < 13:
        attributes["split"] = sizes
    elif draw.opset >= 18 and sizes[0] == sizes[1] and draw.chance(0.5):
        attributes["num_outputs"] = 2
    else:
        inputs.append(_indices(draw, *sizes))
    draw.node("Split", *inputs, **attributes)
    draw.nodes[-1].output[:] = outputs
    parts = [_value(x, n, size, *x.shape[1:]) for n, size in zip(outputs, sizes, strict=True)]
    if draw.chance(0.5):
        return draw.one(*parts)
    if draw.chance(0.5):
        parts[0] = draw.act(parts[0])
    if sizes[0] == sizes[1] and draw.chance(0.5):
        return _value(x, draw.node("Add", *(v.name for v in parts)), *parts[0].shape)
    parts.reverse()
    return _value(x, draw.node("Concat", *(v.name for v in parts), axis=1), *x.shape)


def _pad(draw: Any, x: Any) -> Any:
    rank = len(x.shape) + 1
    mode = draw.one("constant", "constant", "constant", "reflect", "edge")
    before, after = ([0, 0] + [draw.rng.randint(0, 1) for _ in range(rank - 2)] for _ in range(2))
    if mode == "reflect" and min(x.shape[1:], default=0) < 2:
        return None
    if mode == "constant" and draw.chance(0.2):
        after[1] = 1
    value = draw.one(0.0, 0.0, 0.0, 0.5, -1.0) if mode == "constant" else 0.0
    attributes: dict[str, Any] = {"mode": mode} if mode != "constant" or draw.chance(0.5) else {}
    if draw.opset < 11:
        attributes |= {"pads": [*before, *after], "value": value}
        y = draw.node("Pad", x.name, **attributes)
    else:
        fill = [draw.constant(value)] if value or draw.chance(0.5) else []
        y = draw.node("Pad", x.name, _indices(draw, *before, *after), *fill, **attributes)
    sides = zip(x.shape, before[1:], after[1:], strict=True)
    return _value(x, y, *(n + a + b for n, a, b in sides))


def _slice(draw: Any, x: Any) -> Any:
    axis = draw.rng.randrange(len(x.shape))
    if x.shape[axis] < 2:
        return None
    start, end = draw.one((0, x.shape[axis] - 1), (1, x.shape[axis]), (1, 1 << 31))
    shape = list(x.shape)
    shape[axis] -= 1
    if draw.opset < 10:
        y = draw.node("Slice", x.name, axes=[axis + 1], starts=[start], ends=[end])
    else:
        y = draw.node("Slice", x.name, *(_indices(draw, n) for n in (start, end, axis + 1)))
    return _value(x, y, *shape)


def _gather(draw: Any, x: Any) -> Any:
    """Channels in another order, some of them twice."""
    rows = [draw.rng.randrange(x.shape[0]) for _ in range(draw.rng.randint(1, x.shape[0] + 1))]
    y = draw.node("Gather", x.name, _indices(draw, *rows), axis=1)
    return _value(x, y, len(rows), *x.shape[1:])


def _squeeze(draw: Any, x: Any) -> Any:
    if len(x.shape) == 3 and x.shape[2] != 1:
        x = _value(x, draw.node("GlobalAveragePool", x.name), x.shape[0], 1, 1)
    op_type, shape = "Squeeze", x.shape[:-1]
    if len(x.shape) < 3:
        op_type, shape = "Unsqueeze", (*x.shape, 1)
    axis = max(len(x.shape), len(shape))
    if draw.opset < 13:
        return _value(x, draw.node(op_type, x.name, axes=[axis]), *shape)
    return _value(x, draw.node(op_type, x.name, _indices(draw, axis)), *shape)


def _reduce(draw: Any, x: Any, axes: list[int], keepdims: int) -> str:
    if draw.opset < 18:
        return draw.node("ReduceMean", x.name, axes=axes, keepdims=keepdims)
    return draw.node("ReduceMean", x.name, _indices(draw, *axes), keepdims=keepdims)


def _mean(draw: Any, x: Any) -> Any:
    if len(x.shape) != 3:
        return None
    if draw.chance(0.5):
        return _value(x, _reduce(draw, x, [2, 3], 0), x.shape[0])
    return _value(x, _reduce(draw, x, [-2, -1], 1), x.shape[0], 1, 1)


def _centered(draw: Any, x: Any) -> Any:
    """As SiMaN and RBNN center their activations; rarely exact."""
    if draw.exact and math.prod(x.shape) & (math.prod(x.shape) - 1):
        return None
    axes = list(range(1, len(x.shape) + 1))
    mean = _reduce(draw, x, axes, 1)
    return draw.act(_value(x, draw.node("Sub", x.name, mean), *x.shape))


def _identity(draw: Any, x: Any) -> Any:
    """What evaluation leaves as it is."""
    if draw.chance(0.6):
        return _value(x, draw.node("Identity", x.name), *x.shape)
    if draw.chance(0.5):
        return _value(x, draw.node("Cast", x.name, to=1), *x.shape)
    attributes = {"ratio": 0.5} if draw.opset < 12 else {}
    return _value(x, draw.node("Dropout", x.name, **attributes), *x.shape)


def _depth_to_space(draw: Any, x: Any) -> Any:
    if len(x.shape) != 3 or x.shape[0] % 4:
        return None
    y = draw.node("DepthToSpace", x.name, blocksize=2)
    return _value(x, y, x.shape[0] // 4, 2 * x.shape[1], 2 * x.shape[2])


def _upsample(draw: Any, x: Any) -> Any:
    if len(x.shape) != 3 or draw.opset < 11:
        return None
    scales = draw.constant([1, 1, 2, 2])
    nothing = draw.constant(np.zeros(0))
    y = draw.node(
        "Resize", x.name, nothing, scales, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip
    return _value(x, y, x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
