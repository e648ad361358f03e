"""What a comparison says, and what still counts as equal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "BitComparison",
    "Comparison",
    "Divergence",
    "RelativeL2",
    "Tolerance",
    "largest_difference",
    "relative_l2",
]

_BLOCK = 1 << 20  # numbers


@dataclass(frozen=True)
class Tolerance:
    """What still counts as equal.

    Attributes:
        rel_l2: Largest relative L2 error of a sample's logits.
        top1: Least share of samples whose predicted class agrees.
        samples: Least share of samples within ``rel_l2``. With 1, the error over all samples
            together must be within it too.
    """

    rel_l2: float
    top1: float
    samples: float = 1.0

    @classmethod
    def for_model(cls, *, binary_activations: bool, float16: bool) -> Tolerance:
        """The usual tolerance.

        float32 sums in another order differ by about 1e-6 relative, so 1e-4 leaves room for
        deep networks. With binary activations, and others that a quantizer rounds, about one of
        1e6 lies so close to its threshold that rounding decides it; the logits of some samples
        then move, while a wrong export moves those of all: most samples must be within 1e-3. Half
        precision rounds each layer to 11 bits, which with binary activations leaves only the
        predicted class.
        """
        if float16:
            return cls(1.5 if binary_activations else 1e-2, 0.5 if binary_activations else 0.75)
        if binary_activations:
            return cls(1e-3, 0.75, 0.75)
        return cls(1e-4, 1.0)


@dataclass(frozen=True)
class Comparison:
    """How two sets of logits compare.

    Attributes:
        ok: Within the tolerance.
        samples: Number of samples.
        max_abs_diff: Largest absolute difference of a logit.
        rel_l2: ||got - expected|| / ||expected||.
        top1_agreement: Share of samples with the same predicted class, or one that the reference
            tells from it by rounding alone; of feature maps, share of pixels with the same
            strongest channel; of detections, share that is found again.
        flip_rate: Share of binary activations that differ; None where there are none.
        zero_activations: Activations of exactly 0 before a sign, where torch's sign is 0 and a
            bit is +1; None where there are no binary activations.
    """

    ok: bool
    samples: int
    max_abs_diff: float
    rel_l2: float
    top1_agreement: float
    flip_rate: float | None = None
    zero_activations: int | None = None


@dataclass(frozen=True)
class BitComparison:
    """How the binary activations of two runs compare.

    Attributes:
        flip_rate: Share that differ.
        zeros: How many are exactly 0 before the sign.
    """

    flip_rate: float
    zeros: int


@dataclass(frozen=True)
class Divergence:
    """The first tensor of the graph that differs from its torch module's output."""

    layer: str
    rel_l2: float


class RelativeL2:
    """||got - expected|| / ||expected|| in float64, of arrays that come in parts."""

    def __init__(self) -> None:
        self._difference = self._expected = 0.0

    def add(self, got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
        """One more part: two arrays of one shape."""
        for part, other in _blocks(got, expected):
            a, b = part.astype(np.float64), other.astype(np.float64)
            self._expected += float(b @ b)
            a -= b
            self._difference += float(a @ a)

    def value(self) -> float:
        """Of all parts; NaN unless all are finite, and 0 of none."""
        if self._expected == 0:
            return 0.0 if self._difference == 0 else math.inf
        return math.sqrt(self._difference) / math.sqrt(self._expected)


def relative_l2(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """||got - expected|| / ||expected|| in float64; NaN unless both are finite."""
    error = RelativeL2()
    error.add(got, expected)
    return error.value()


def largest_difference(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest |got - expected|; NaN where one is, and 0 of nothing."""
    largest = [np.abs(a - b).max() for a, b in _blocks(got, expected)]
    return float(np.max(largest, initial=0))


def _blocks(
    got: npt.NDArray[Any], expected: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Flat, and not all at once: what is made of them on the way takes memory, too."""
    a, b = got.reshape(-1), expected.reshape(-1)
    for start in range(0, a.size, _BLOCK):
        yield a[start : start + _BLOCK], b[start : start + _BLOCK]
