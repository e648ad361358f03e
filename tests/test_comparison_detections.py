"""How detections are compared, and the score threshold that gives something to compare."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from bitexport.comparison import Tolerance, compare_detections
from bitexport.comparison.detections import detections_of
from bitexport.models.mask_rcnn import Detector

TOLERANCE = Tolerance.for_model(binary_activations=False, float16=False)
Arrays = dict[str, npt.NDArray[Any]]


def detections(count: int = 20) -> Arrays:
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 50, (count, 2))
    return {
        "boxes": np.hstack([corner, corner + rng.uniform(5, 40, (count, 2))]).astype(np.float32),
        "labels": rng.integers(1, 3, count),
        "scores": np.sort(rng.random(count).astype(np.float32))[::-1],
        "masks": rng.random((count, 1, 30, 100), dtype=np.float32),
    }


def changed(name: str, change: Callable[[npt.NDArray[Any]], object]) -> Arrays:
    found = detections()
    found[name] = found[name].copy()
    change(found[name])
    return found


def test_order_and_single_detections_do_not_matter() -> None:
    want = detections()
    order = np.random.default_rng(6).permutation(20)
    shuffled = {name: array[order] for name, array in want.items()}
    assert compare_detections(shuffled, want, TOLERANCE).top1_agreement == 1
    one_less = {name: array[1:] for name, array in want.items()}
    for pair in ((one_less, want), (want, one_less)):
        comparison = compare_detections(*pair, TOLERANCE)
        assert comparison.ok and comparison.top1_agreement == 0.95 and comparison.rel_l2 == 0


@pytest.mark.parametrize(
    "spoilt",
    [
        {name: array[:17] for name, array in detections().items()},
        {name: array[:0] for name, array in detections().items()},
        changed("boxes", lambda x: x.__imul__(np.float32(1.01))),
        changed("scores", lambda x: x.__imul__(np.float32(1.01))),
        changed("masks", lambda x: x.__imul__(np.float32(1.01))),
        changed("labels", lambda x: x.__iadd__(1)),
        changed("boxes", lambda x: x.fill(np.nan)),
        changed("masks", lambda x: x.fill(np.nan)),
    ],
    ids=["fewer", "none", "boxes", "scores", "masks", "labels", "nan-boxes", "nan-masks"],
)
def test_other_detections_are_not_the_same(spoilt: Arrays) -> None:
    assert not compare_detections(spoilt, detections(), TOLERANCE).ok
    assert not compare_detections(detections(), spoilt, TOLERANCE).ok


def test_nothing_is_no_proof() -> None:
    nothing = {name: array[:0] for name, array in detections().items()}
    for tolerance in (TOLERANCE, Tolerance(rel_l2=1, top1=0)):
        compared = compare_detections(nothing, nothing, tolerance)
        assert not compared.ok and compared.rel_l2 == np.inf


@pytest.mark.parametrize(("lost", "ok"), [(2, True), (3, False)])
def test_nine_of_ten_must_be_found_again(lost: int, ok: bool) -> None:
    want = detections()
    assert compare_detections({k: v[lost:] for k, v in want.items()}, want, TOLERANCE).ok is ok


@pytest.mark.parametrize("name", ["boxes", "scores", "masks"])
@pytest.mark.parametrize(("error", "ok"), [(0.9e-3, True), (1.1e-3, False)])
def test_one_detection_may_differ_by_ten_times_the_tolerance(
    name: str, error: float, ok: bool
) -> None:
    got = changed(name, lambda x: x.__imul__(np.float32(1 + error)))
    assert compare_detections(got, detections(), TOLERANCE).ok is ok


def test_one_detection_is_not_found_twice() -> None:
    want = detections()
    same = {name: np.repeat(array[:1], 20, axis=0) for name, array in want.items()}
    for pair in ((same, want), (want, same)):
        assert compare_detections(*pair, TOLERANCE).top1_agreement == 0.05


@pytest.mark.parametrize("moved", [0.0, 0.4])
def test_of_two_that_lie_together_the_scores_tell(moved: float) -> None:
    """Boxes count in parts of the image, so a part of a pixel is less than a part of a score."""
    box = np.array([500, 500, 600, 600], np.float32)
    want = {
        "boxes": np.stack([box, box + np.float32(moved)]),
        "labels": np.ones(2, np.int64),
        "scores": np.array([0.9, 0.8], np.float32),
        "masks": np.ones((2, 1, 10, 1000), np.float32),
    }
    got = want | {"boxes": want["boxes"][::-1]}
    swapped = {name: array[::-1] for name, array in got.items()}
    assert compare_detections(got, want, TOLERANCE).top1_agreement == 1
    assert compare_detections(swapped, want, TOLERANCE).top1_agreement == 1


class Scored(nn.Module):
    """Detects nothing, with a box predictor that gives candidates of one class known scores."""

    def __init__(self, scores: npt.NDArray[np.float64]) -> None:
        super().__init__()
        given = torch.from_numpy(scores)
        self.predictor = nn.Identity()
        self.logits = torch.stack([1 - given, given], 1).log().float()
        self.roi_heads = SimpleNamespace(box_predictor=self.predictor, score_thresh=None)

    def forward(self, images: Tensor) -> list[Tensor]:
        self.predictor((self.logits, images))
        return [torch.zeros(0)] * 4


def chosen(scores: npt.NDArray[np.float64]) -> float:
    module = Scored(np.random.default_rng(7).permutation(scores))
    _, threshold = detections_of(cast(Detector, module), np.zeros((1, 3, 4, 4), np.float32))
    assert threshold.dtype == np.float32 and module.roi_heads.score_thresh == threshold
    module.roi_heads.score_thresh = None
    module(torch.zeros(1))
    assert module.roi_heads.score_thresh is None, "the detector still lowers its threshold"
    return float(threshold)


@pytest.mark.parametrize("behind", [450, 600, 900])
def test_the_threshold_lies_amid_the_widest_gap_behind_450_to_900_candidates(behind: int) -> None:
    steps = np.full(1200, 1e-5)
    steps[[449, 901]] = 0.1
    steps[behind] = 0.05
    scores = 0.4 - np.cumsum(steps)
    assert chosen(scores) == pytest.approx((scores[behind - 1] + scores[behind]) / 2, abs=1e-6)


@pytest.mark.parametrize("candidates", [7, 450])
def test_where_there_are_few_candidates_all_count(candidates: int) -> None:
    assert chosen(np.linspace(0.4, 0.1, candidates)) == 0
