"""Top-1 and top-5 with an interval that says how far a test set of this size can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bitexport.errors import InputError
from bitexport.evaluation.datasets import LabelledImages
from bitexport.runtimes import Runner

__all__ = ["Accuracy", "evaluate", "usual_batch", "wilson_interval"]

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution: a two-sided 95 % interval
_TOP = 5
_USUAL_BATCH = 32
_LARGEST_BATCH = 1 << 24  # numbers: 64 MiB in float32


@dataclass(frozen=True)
class Accuracy:
    """What a model got right.

    Attributes:
        samples: Images.
        correct: How many have their label first.
        correct_top5: How many have it among the first five.
        classes: Length of the logits.
        not_numbers: How many have a NaN among their logits; they count as wrong.
    """

    samples: int
    correct: int
    correct_top5: int
    classes: int
    not_numbers: int

    @property
    def top1(self) -> float:
        """Share of images whose label comes first."""
        return self.correct / self.samples

    @property
    def top5(self) -> float:
        """Share of images whose label is among the first five."""
        return self.correct_top5 / self.samples

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % interval of ``top1``."""
        return wilson_interval(self.correct, self.samples)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """95 % interval of ``top5``."""
        return wilson_interval(self.correct_top5, self.samples)


def usual_batch(input_shape: tuple[int, int, int]) -> int:
    """Images a run: 32, or fewer large ones.

    Args:
        input_shape: (C, H, W).
    """
    return max(1, min(_USUAL_BATCH, _LARGEST_BATCH // math.prod(input_shape)))


def evaluate(
    runner: Runner,
    input_name: str,
    output_name: str,
    data: LabelledImages,
    *,
    batch: int,
    whole: bool = False,
    show: Callable[[float], None] = lambda _: None,
) -> Accuracy:
    """Run a model on all images.

    Args:
        runner: The loaded model.
        input_name: Takes float32 [N, C, H, W].
        output_name: Gives logits [N, classes].
        data: The images and their labels.
        batch: Images a run; the last run has the rest.
        whole: The model takes no fewer: the last run has some images again, uncounted.
        show: Called with the share that is done.

    Raises:
        InputError: The model gives no row of logits for each image, or a label lies beyond them.
        RuntimeFailure: The runtime refuses an input.
    """
    correct = correct_top5 = not_numbers = classes = 0
    for start in range(0, len(data), batch):
        images, labels = data.batch(start, min(start + batch, len(data)))
        if whole:
            images = np.resize(images, (batch, *images.shape[1:]))
        # A foreign file may give bytes or truth values, which have no negatives to sort.
        logits = np.asarray(runner.run({input_name: images})[output_name], np.float64)
        rows = logits.ndim == 2 and len(logits) == len(images)
        if not rows or labels.max(initial=0) >= logits.shape[1]:
            raise InputError(
                "the model and the data set do not fit",
                got=f"logits of shape {list(logits.shape)}",
                expected=f"[{len(images)}, classes] with at least {data.classes} classes",
                fix="Name the data set that the model was trained for.",
            )
        logits = logits[: len(labels)]
        classes = logits.shape[1]
        unordered = np.isnan(logits).any(axis=1)
        not_numbers += int(unordered.sum())
        best = np.argsort(-logits, axis=1, kind="stable")[:, :_TOP] == labels[:, None]
        best[unordered] = False
        correct += int(best[:, 0].sum())
        correct_top5 += int(best.any(axis=1).sum())
        show(min(1.0, (start + batch) / len(data)))
    return Accuracy(len(data), correct, correct_top5, classes, not_numbers)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a share; sound near 0 and 1, where p +- 2 s is not.

        (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, squared = successes / trials, _Z**2
    middle = share + squared / (2 * trials)
    width = _Z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials**2))
    scale = 1 + squared / trials
    # Exact at the ends, where rounding would leave 1e-17.
    low = 0.0 if successes == 0 else (middle - width) / scale
    high = 1.0 if successes == trials else (middle + width) / scale
    return low, high
