"""What a comparison says, and what still counts as equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BitComparison", "Comparison", "Divergence", "Tolerance", "relative_l2"]


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
        deep networks. With binary activations about one of 1e6 signs lies so close to its
        threshold that rounding decides it; the logits of some samples then move, while a wrong
        export moves those of all: most samples must be within 1e-3. Half precision rounds each
        layer to 11 bits, which with binary activations leaves only the predicted class.
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
        top1_agreement: Share of samples with the same predicted class; of feature maps, share of
            pixels with the same strongest channel; of detections, share that is found again.
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


def relative_l2(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """||got - expected|| / ||expected|| in float64; NaN unless both are finite."""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    norm = float(np.linalg.norm(b))
    difference = float(np.linalg.norm(a - b))
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / norm
