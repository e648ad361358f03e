"""scikit-learn's bundled handwritten digits: real images, and nothing to download.

1797 grey images of 8x8 pixels, ten classes, from 43 writers (the test half of UCI's "Optical
Recognition of Handwritten Digits"). Each is upsampled to 16x16, repeated over three channels,
and scaled to [-1, 1], so that a network for small colour images takes it as it is.

    load_digits().images  float64 [1797, 8, 8], 0 (background) to 16
                 -> image float32 [3, 16, 16], -1 (background) to 1

The split does not keep writers apart, because the bundled data does not name them. Accuracies on
it are therefore higher than on the digits of new writers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bitexport.errors import RuntimeFailure

__all__ = [
    "IMAGE_SHAPE",
    "Digits",
    "load_digits",
    "split_indices",
]

IMAGE_SHAPE = (3, 16, 16)
_BRIGHTEST = 16.0
_TEST_SHARE = 0.2
_SPLIT_SEED = 0

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """The digits, split once and for all.

    Attributes:
        train_images: float32 [1437, 3, 16, 16] in [-1, 1].
        train_labels: int64 [1437], 0 to 9.
        test_images: float32 [360, 3, 16, 16] in [-1, 1]; held out.
        test_labels: int64 [360], 0 to 9.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """Load and split the digits.

    Raises:
        RuntimeFailure: scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise _no_scikit_learn(error) from error
    bunch = datasets.load_digits()
    images = _to_images(bunch.images)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = map(torch.from_numpy, split_indices(bunch.target))
    return Digits(images[train], labels[train], images[test], labels[test])


def split_indices(labels: npt.NDArray[np.int64]) -> tuple[IndexArray, IndexArray]:
    """Indices of the training and of the held-out images: always the same 80 % and 20 %.

    Args:
        labels: int64 [N]. Each class is split in the same proportion.

    Raises:
        RuntimeFailure: scikit-learn is missing.
    """
    try:
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise _no_scikit_learn(error) from error
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=_SPLIT_SEED
    )
    return np.sort(train), np.sort(test)


def _to_images(grey: npt.NDArray[np.float64]) -> Tensor:
    """[N, 8, 8] in 0 to 16 -> float32 [N, 3, 16, 16] in [-1, 1]."""
    channels, height, width = IMAGE_SHAPE
    scaled = torch.from_numpy(grey).float().unsqueeze(1) * (2 / _BRIGHTEST) - 1
    upsampled = F.interpolate(scaled, size=(height, width), mode="bilinear", align_corners=False)
    return upsampled.repeat(1, channels, 1, 1)


def _no_scikit_learn(error: ImportError) -> RuntimeFailure:
    return RuntimeFailure(
        "the handwritten digits need scikit-learn",
        got=error,
        expected="scikit-learn 1.4 or newer",
        fix="Run: pip install 'scikit-learn>=1.4'",
    )
