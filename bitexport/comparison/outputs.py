"""Compare what an exported model gives with what its torch reference gives.

After a sign, a rounding difference of 1e-7 can flip a bit and move the logits, so a largest
absolute difference says little about a binary network. What counts is the relative L2 error of
the logits, the agreement of the predicted classes, and for binary activations the share of bits
that flipped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bitexport.comparison.detections import compare_detections, detections_of
from bitexport.comparison.figures import (
    BitComparison,
    Comparison,
    Tolerance,
    largest_difference,
    relative_l2,
)
from bitexport.errors import InputError, UnsupportedModel
from bitexport.graph import THRESHOLD_NAME
from bitexport.models.mask_rcnn import DETECTION_NAMES, Detector

__all__ = [
    "ReferenceRun",
    "compare_logits",
    "compare_outputs",
    "reference_logits",
    "reference_run",
    "sample_input",
]

FloatArray = npt.NDArray[np.float32]
_SAMPLES = 8
_MOST_PIXELS = _SAMPLES * 448 * 448
_LARGEST_IMAGE = 1 << 26  # numbers: 256 MiB in float32
_PIXEL_TOP1 = 0.99
_ROUNDING = 1e-6  # of the largest logit: what sums of thousands of terms differ by in float32
_SEED = 0


@dataclass(frozen=True)
class ReferenceRun:
    """What the torch reference gave.

    Attributes:
        outputs: By name.
        inputs: What an exported model must be given beside the images to do the same.
    """

    outputs: Mapping[str, FloatArray]
    inputs: Mapping[str, FloatArray] = field(default_factory=dict)


def compare_logits(
    got: FloatArray,
    expected: FloatArray,
    tolerance: Tolerance,
    bits: BitComparison | None = None,
) -> Comparison:
    """Compare logits [N, classes].

    Raises:
        InputError: The shapes differ.
    """
    if got.shape != expected.shape or got.ndim < 2:
        raise InputError(
            "logits cannot be compared",
            got=list(got.shape),
            expected=f"{list(expected.shape)} with at least two dimensions",
            fix="Give inputs and logits of the same model.",
        )
    rel_l2 = relative_l2(got, expected)
    agreement = _agreement(got, expected)
    pairs = zip(got, expected, strict=True)
    within = float(np.mean([relative_l2(a, b) <= tolerance.rel_l2 for a, b in pairs]))
    close = rel_l2 <= tolerance.rel_l2 if tolerance.samples == 1 else within >= tolerance.samples
    return Comparison(
        ok=bool(close and agreement >= tolerance.top1),
        samples=int(got.shape[0]),
        max_abs_diff=largest_difference(got, expected),
        rel_l2=rel_l2,
        top1_agreement=agreement,
        flip_rate=None if bits is None else bits.flip_rate,
        zero_activations=None if bits is None else bits.zeros,
    )


def _agreement(got: FloatArray, expected: FloatArray) -> float:
    """Share of samples, or pixels, whose largest logit is of one class.

    A network of few bits gives several classes the same logit often, and what rounding adds to
    them in the one and in the other run decides which is the largest.
    """
    largest = expected.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(expected, got.argmax(axis=1)[:, None], axis=1)
    size = np.maximum(largest, -expected.min(axis=1, keepdims=True))
    # A NaN is the largest of its sample to argmax, and equal to nothing.
    same = got.argmax(axis=1) == expected.argmax(axis=1)
    return float((same | (largest - chosen <= _ROUNDING * size)[:, 0]).mean())


def compare_outputs(
    got: Mapping[str, FloatArray],
    expected: Mapping[str, FloatArray],
    tolerance: Tolerance,
    bits: BitComparison | None = None,
) -> Comparison:
    """Compare every expected output; the figures are those of the worst one.

    Of several outputs, which are feature maps, some pixels may differ in their strongest channel:
    there are many, and in a few the first two are equal but for rounding. Detections are looked
    for one by one.

    Raises:
        InputError: An output is missing, or its shape differs.
    """
    if not expected.keys() <= got.keys():
        raise InputError(
            "the outputs cannot be compared",
            got=", ".join(got),
            expected=", ".join(expected),
            fix="Name the architecture that was exported with --arch.",
        )
    if tuple(expected) == DETECTION_NAMES:
        return compare_detections(got, expected, tolerance)
    if len(expected) > 1:
        tolerance = replace(tolerance, top1=min(tolerance.top1, _PIXEL_TOP1))
    compared = [compare_logits(got[k], expected[k], tolerance, bits) for k in expected]
    # A NaN is no smaller than anything, hence the negation.
    worst = max(compared, key=lambda c: (not c.ok, not c.rel_l2 < np.inf, c.rel_l2))
    return worst


def sample_input(input_shape: tuple[int, int, int], batch: object = None) -> FloatArray:
    """Standard normal images of a fixed seed: float32 [N, C, H, W].

    Args:
        input_shape: (C, H, W).
        batch: N, where it is a number; otherwise 8, or fewer if they are large.

    Raises:
        InputError: An image or the batch would be empty, or of more than ``_LARGEST_IMAGE``
            numbers.
    """
    fixed = (batch if isinstance(batch, int) else 1, *input_shape)
    if min(fixed) < 1 or math.prod(fixed) > _LARGEST_IMAGE:
        raise InputError(
            "the model takes no images to compare with",
            got=f"an input of shape [{batch or 'N'}, {', '.join(map(str, input_shape))}]",
            expected=f"images of 1 to {_LARGEST_IMAGE} numbers",
            fix="Check the model's input with `bitexport inspect`.",
        )
    rng = np.random.default_rng(_SEED)
    pixels = input_shape[1] * input_shape[2]
    samples = max(1, min(_SAMPLES, _MOST_PIXELS // max(1, pixels)))
    samples = batch if isinstance(batch, int) else samples
    return rng.standard_normal((samples, *input_shape), dtype=np.float32)


def reference_logits(module: nn.Module, images: FloatArray) -> FloatArray:
    """Logits of the torch reference: float32 [N, classes]; of several outputs the first."""
    return _reference(module, images)[0]


def reference_run(module: nn.Module, images: FloatArray, names: Sequence[str]) -> ReferenceRun:
    """All outputs of the torch reference by name."""
    if isinstance(module, Detector):
        found, threshold = detections_of(module, images)
        return ReferenceRun(found, {THRESHOLD_NAME: threshold})
    return ReferenceRun(dict(zip(names, _reference(module, images), strict=True)))


def _uncompiled() -> AbstractContextManager[Any]:
    """Runs modules that torch.compile was called on as they are: hooks watch their layers."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled; its import takes a second
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _reference(module: nn.Module, images: FloatArray) -> tuple[FloatArray, ...]:
    with torch.inference_mode(), _uncompiled():
        result = module(torch.from_numpy(images))
    tensors = result if isinstance(result, tuple) else (result,)
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise UnsupportedModel(
            "the model's outputs cannot be compared",
            got=f"a {type(result).__name__}",
            expected="a tensor, or a tuple of tensors",
            fix="Wrap the model in a module whose forward returns the logits alone.",
        )
    return tuple(tensor.numpy() for tensor in tensors)
