"""Random numbers, quantizers, weights and biases of QONNX files."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
from test_qonnx import DOMAIN, Network

from fuzz.qonnx_constants import computed

Shape = tuple[int, ...]
# The first more often, as in networks.
_MODES = (
    "ROUND", "ROUND", "ROUND", "ROUND", "FLOOR", "FLOOR", "CEIL", "HALF_EVEN", "round", "floor",
    "UP", "DOWN", "HALF_UP", "HALF_DOWN", "half_up",
)  # fmt: skip


class Quantizers(Network):
    """Draws constants and what quantizes them.

    Args:
        rng: Of which all is drawn.

    Attributes:
        exact: Whether all numbers are few bits wide.
        version: Of the quantizers' domain, which tells one Trunc from another.
        weights: Shape -> the quantized weights of it so far, to be read again.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__(opset=rng.choice((9, 10, 11, 11, 12, 13, 13, 13, 14, 15, 16, 17, 18, 18)))
        self.rng, self.exact = rng, rng.random() < 0.75
        self.batch = rng.choice(("N", "N", 1, 2, 4))
        self.version = rng.choice((1, 2, 2))
        self.weights: dict[Shape, list[str]] = {}

    # ---- Numbers ----------------------------------------------------------------------------

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def one(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def numbers(self, *shape: int, most: float = 2, zeros: bool = True) -> np.ndarray:
        """Multiples of 1/4, or of any size where the graph is not exact."""
        count = math.prod(shape)
        if not self.exact:
            return np.reshape([self.rng.gauss(0, most / 2) for _ in range(count)], shape)
        steps = int(4 * most)
        drawn = [self.rng.randint(-steps, steps) / 4 for _ in range(count)]
        return np.reshape([x if x or zeros else 0.25 for x in drawn], shape)

    def scale(self, *shape: int, negative: float = 0.05) -> np.ndarray:
        """Powers of 2, or any."""
        sign = -1 if self.chance(negative) else 1
        mixed = self.chance(negative)
        drawn = [
            (self.one(-1, 1) if mixed else sign)
            * (self.one(0.125, 0.25, 0.5, 1) if self.exact else self.rng.uniform(0.05, 1))
            for _ in range(math.prod(shape))
        ]
        return np.reshape(drawn, shape)

    def number(self, array: Any) -> str:
        """A constant, or nodes that compute it."""
        way = self.rng.random()
        if way < 0.9:
            return self.constant(array)
        array = np.asarray(array, np.float32)
        if way < 0.93:
            return self.node("Mul", self.constant(array * 2), self.constant(0.5))
        if way < 0.96:
            return self.node("Identity", self.constant(array))
        if way < 0.98 or not self.exact:
            return self.node("Abs" if (array >= 0).all() else "Identity", self.constant(array))
        return self.node("Sub", self.constant(array + 1), self.constant(1.0))

    # ---- Quantizers -------------------------------------------------------------------------

    def scale_shape(self, shape: Shape, axis: int = 1) -> Shape:
        """Of a scale for a value of the shape, its batch included."""
        rank = len(shape)
        along = tuple(shape[i] if i == axis else 1 for i in range(rank))
        way = self.rng.random()
        if way < 0.65:
            return ()
        if way < 0.75:
            return self.one((1,), (1,) * rank)
        if way < 0.95 or None in shape:
            return along if self.chance(0.8) or axis == 0 else along[1:]
        return self.one(shape, along)

    def quantized(self, x: str, shape: Shape, axis: int = 1) -> str:
        """Behind a quantizer of any kind; a batch is None in the shape."""
        way, scales = self.rng.random(), self.scale_shape(shape, axis)
        domain = (
            DOMAIN if self.chance(0.97) else self.one("onnx.brevitas", "finn.custom_op.general")
        )
        if way < 0.5:
            return self.node("BipolarQuant", x, self.number(self.scale(*scales)), domain=domain)
        if way > 0.92:
            return self.truncated(x, self.scale(*scales), domain)
        bits = float(self.one(1, 1, 2, 2, 3, 4, 8) if self.chance(0.97) else self.one(16, 32))
        signed = int(self.chance(0.7))
        zero: Any = 0.0
        if self.chance(0.2):
            zero = np.round(self.numbers(*self.one((), (), scales))) + 0.0
        elif self.chance(0.1):
            zero = self.numbers()
        mode = self.one(*_MODES)
        attributes = {"signed": signed, "narrow": int(self.chance(0.3)), "rounding_mode": mode}
        running = axis == 1 and None in shape and self.chance(0.02)
        if running:  # ReActNet's and XNOR-Net's scales, though no Brevitas writes them
            highest = self.node("GlobalMaxPool", self.node("Abs", x)) if len(shape) == 4 else x
            zero_free = self.node("Add", self.node("Abs", highest), self.constant(1.0))
        bits_shape = () if self.chance(0.9) else (1,)
        return self.node(
            self.one("Quant", "Quant", "Quant", "IntQuant") if domain == DOMAIN else "Quant",
            x, zero_free if running else self.number(self.scale(*scales)), self.number(zero),
            self.number(np.full(bits_shape, bits)), domain=domain, **attributes,
        )  # fmt: skip

    def truncated(self, x: str, scale: np.ndarray, domain: str = DOMAIN) -> str:
        """Behind Trunc, as version 1 or 2 of its domain has it."""
        bits = self.rng.randint(1, 8)
        given, dropped = bits + self.rng.randint(-1, 4), self.rng.randint(-1, 4)
        zero: Any = 0.0
        if self.chance(0.2):
            zero = np.round(self.numbers(*self.one((), (), scale.shape))) + 0.0
        numbers: list[Any] = [scale, zero, float(max(1, given))]
        attributes: dict[str, Any] = {"rounding_mode": self.one(*_MODES)}
        if self.version > 1:
            uneven = 1.0 if self.exact else self.rng.uniform(0.8, 1.3)
            numbers.append(scale * 2.0**dropped * uneven)
            attributes |= {"signed": int(self.chance(0.7)), "narrow": int(self.chance(0.2))}
        names = [self.number(n) for n in (*numbers, float(bits))]
        return self.node("Trunc", x, *names, domain=domain, **attributes)

    def weight_of(self, *shape: int, axis: int = 0) -> str:
        """A weight, quantized most of the time, perhaps one that another layer has already."""
        if self.weights.get(shape) and self.chance(0.3):
            return self.one(*self.weights[shape])
        turned = len(shape) > 1 and self.chance(0.08)
        axes = self.rng.sample(range(len(shape)), len(shape)) if turned else []
        stored = shape
        if turned:  # axes[i] of what is stored becomes axis i
            sizes = dict(zip(axes, shape, strict=True))
            stored = tuple(sizes[i] for i in range(len(shape)))
        plain = self.chance(0.92)
        latent = self.constant(self.numbers(*stored)) if plain else computed(self, *stored)
        before = turned and self.chance(0.3)
        if before:
            latent = self.node("Transpose", latent, perm=axes)
        if self.chance(0.05):
            latent = self.node("Identity", latent)
        if self.chance(0.9):
            own = axis if before or not turned else axes[axis]
            latent = self.quantized(latent, shape if before else stored, own)
        if turned and not before:
            latent = self.node("Transpose", latent, perm=axes)
        if self.chance(0.05):
            latent = self.node("Identity", latent)
        self.weights.setdefault(shape, []).append(latent)
        return latent

    def bias_of(self, channels: int) -> list[str]:
        way = self.rng.random()
        if way < 0.4:
            return []
        if way < 0.5:
            return [self.constant(np.zeros(channels))]
        bias = self.number(self.numbers(channels))
        return [self.quantized(bias, (channels,), 0)] if way > 0.9 else [bias]
