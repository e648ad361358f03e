"""Run a detector's torch reference so that it can be compared, and compare detections.

A detector's outputs have no fixed number or order, and small differences do not stay small: two
boxes whose scores are equal but for rounding change places, and of two that overlap by just the
limit one or none is dropped. So every detection is looked for among the other side's, and most
must be found again, in all that is said about them.

Noise shows nothing that a trained detector is sure of, and an empty list equals an empty list
whatever the weights are. The reference therefore lowers its score threshold until there is
something to compare, into a gap between two scores, and the exported model gets the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitexport.comparison.figures import Comparison, Tolerance, relative_l2
from bitexport.errors import InputError
from bitexport.models.mask_rcnn import DETECTION_NAMES, Detector

__all__ = ["compare_detections", "detections_of"]

FloatArray = npt.NDArray[np.float32]
# Up to 1,000 boxes torchvision suppresses all classes in one go, as its ONNX path always does.
_MOST_CANDIDATES = 900
_FEWEST_CANDIDATES = 450
# Near ties cost single ones of up to 100 detections; a wrong weight costs nearly all.
_FOUND_AGAIN = 0.9


def detections_of(
    module: Detector, images: FloatArray
) -> tuple[dict[str, FloatArray], npt.NDArray[np.float32]]:
    """The reference's detections in an image, and the score threshold that it chose.

    Args:
        module: Left as it is.
        images: float32 [1, 3, H, W].

    Returns:
        Arrays by the names of ``DETECTION_NAMES``; the threshold, float32 [].
    """
    heads, chosen = module.roi_heads, [np.zeros((), np.float32)]

    def choose(_module: object, _inputs: object, output: tuple[Tensor, Tensor]) -> None:
        chosen[0] = _threshold(output[0].softmax(-1)[:, 1:].numpy())
        heads.score_thresh = float(chosen[0])

    handle = heads.box_predictor.register_forward_hook(choose)
    try:
        with torch.inference_mode():
            found = module(torch.from_numpy(images))
    finally:
        handle.remove()
    arrays = [tensor.numpy() for tensor in found]
    return dict(zip(DETECTION_NAMES, arrays, strict=True)), chosen[0]


def _threshold(scores: FloatArray) -> npt.NDArray[np.float32]:
    """The middle of the widest gap behind 450 to 900 candidates; 0 where there are fewer."""
    ranked = -np.sort(-scores.ravel())
    if len(ranked) <= _FEWEST_CANDIDATES:
        return np.zeros((), np.float32)
    ranked = ranked[_FEWEST_CANDIDATES - 1 : _MOST_CANDIDATES + 1]
    widest = int(np.argmax(ranked[:-1] - ranked[1:]))
    return np.asarray((ranked[widest] + ranked[widest + 1]) / 2, np.float32)


def compare_detections(
    got: Mapping[str, FloatArray], expected: Mapping[str, FloatArray], tolerance: Tolerance
) -> Comparison:
    """Compare detections by the names of ``DETECTION_NAMES``.

    One is found again where the other side has one of the same label whose box, score and mask
    are all within ``tolerance.rel_l2``. The result's ``samples`` are the detections of the side
    with more, its ``top1_agreement`` is the share of them that is found again, and its other
    figures are the worst of those. No detections at all are no agreement.

    Raises:
        InputError: The images had different sizes.
    """
    tolerance = replace(tolerance, top1=min(tolerance.top1, _FOUND_AGAIN))
    if got["masks"].shape[1:] != expected["masks"].shape[1:]:
        raise InputError(
            "the masks cannot be compared",
            got=list(got["masks"].shape[1:]),
            expected=list(expected["masks"].shape[1:]),
            fix="Give images of the same size.",
        )
    pairs = _pairs(got, expected)
    errors = [_error(got, expected, i, j) for i, j in pairs]
    found = [
        (error, pair)
        for error, pair in zip(errors, pairs, strict=True)
        if error <= tolerance.rel_l2
    ]
    count = max(len(got["scores"]), len(expected["scores"]))
    share = len(found) / count if count else 0.0
    largest = [
        max(float(np.abs(got[name][i] - expected[name][j]).max()) for name in DETECTION_NAMES)
        for _, (i, j) in found
    ]
    return Comparison(
        ok=bool(found) and share >= tolerance.top1,
        samples=count,
        max_abs_diff=max(largest, default=float("inf")),
        rel_l2=max((error for error, _ in found), default=min(errors, default=float("inf"))),
        top1_agreement=share,
    )


def _pairs(
    got: Mapping[str, FloatArray], expected: Mapping[str, FloatArray]
) -> list[tuple[int, int]]:
    """(index in got, index in expected) of each expected detection and the free one closest."""
    distance = np.abs(got["boxes"][:, None] - expected["boxes"][None]).max(axis=2)
    distance = distance / max(expected["masks"].shape[2:])
    distance = distance + np.abs(got["scores"][:, None] - expected["scores"][None])
    # NaN is nobody's neighbour.
    apart = (got["labels"][:, None] != expected["labels"][None]) | np.isnan(distance)
    distance = np.where(apart, np.inf, distance)
    pairs = []
    for j in range(distance.shape[1]) if len(distance) else ():
        i = int(distance[:, j].argmin())
        if distance[i, j] < np.inf:
            pairs.append((i, j))
            distance[i] = np.inf
    return pairs


def _error(
    got: Mapping[str, FloatArray], expected: Mapping[str, FloatArray], i: int, j: int
) -> float:
    """The largest relative L2 error of a detection's box, score and mask."""
    values = [(got[name][i], expected[name][j]) for name in ("boxes", "scores", "masks")]
    errors = [relative_l2(np.atleast_1d(a), np.atleast_1d(b)) for a, b in values]
    return float("inf") if np.isnan(errors).any() else max(errors)
