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
_COMPARED = ("boxes", "scores", "masks")
# Up to 1,000 boxes torchvision suppresses all classes in one go, as its ONNX path always does.
_MOST_CANDIDATES = 900
_FEWEST_CANDIDATES = 450
# One detection is a small sample, whose error lies further from the usual than that of many.
_ONE_DETECTION = 10
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
    are each within 10 times ``tolerance.rel_l2``. The result's ``samples`` are the detections of
    the side with more, its ``top1_agreement`` is the share of them that is found again, and its
    other figures are those of all of these together. No detections at all are no agreement.

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
    limit = _ONE_DETECTION * tolerance.rel_l2
    pairs = [pair for pair in _pairs(got, expected) if _same(got, expected, pair, limit)]
    count = max(len(got["scores"]), len(expected["scores"]))
    share = len(pairs) / count if count else 0.0
    mine, theirs = np.array(pairs, np.int64).reshape(-1, 2).T
    found = [(got[name][mine], expected[name][theirs]) for name in _COMPARED]
    return Comparison(
        ok=bool(pairs) and share >= tolerance.top1,
        samples=count,
        max_abs_diff=max((float(np.abs(a - b).max(initial=0)) for a, b in found)),
        rel_l2=max(relative_l2(a, b) for a, b in found) if pairs else float("inf"),
        top1_agreement=share,
    )


def _pairs(
    got: Mapping[str, FloatArray], expected: Mapping[str, FloatArray]
) -> list[tuple[int, int]]:
    """(index in got, index in expected) of neighbours of one label, the closest first."""
    distance = np.abs(got["boxes"][:, None] - expected["boxes"][None]).max(axis=2)
    distance = distance / max(expected["masks"].shape[2:])
    distance = distance + np.abs(got["scores"][:, None] - expected["scores"][None])
    distance[got["labels"][:, None] != expected["labels"][None]] = np.inf
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for place in np.argsort(distance, axis=None, kind="stable"):
        i, j = divmod(int(place), distance.shape[1])
        # NaN is nobody's neighbour.
        if distance[i, j] < np.inf and i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return list(pairs.items())


def _same(
    got: Mapping[str, FloatArray],
    expected: Mapping[str, FloatArray],
    pair: tuple[int, int],
    limit: float,
) -> bool:
    """Whether box, score and mask of two detections are each within a relative L2 error."""
    i, j = pair
    values = [(np.atleast_1d(got[k][i]), np.atleast_1d(expected[k][j])) for k in _COMPARED]
    return all(relative_l2(a, b) <= limit for a, b in values)
