"""Labelled images by the name of their data set, as a network wants them.

digits       scikit-learn's bundled digits: the held-out fifth (stratified, seed 0), 8x8 -> 16x16,
             grey, repeated over three channels for a colour network; nothing to download
cifar10/100  the test images of the python version, in a folder
imagefolder  one folder a class, in alphabetic order, such as ImageNet's val/; the shorter side is
             resized to 256/224 of the input, the middle is cut out; pictures of exactly the
             input's size are taken as they are

A network of one channel gets the others' images in grey (``L`` of Pillow, ITU-R BT.601).
Pixels of 0 to 1 are normalized by a mean and a deviation: those given, or those that the model's
file states, or the data set's usual ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bitexport.errors import InputError, RuntimeFailure

__all__ = ["DATASETS", "DataOptions", "LabelledImages", "open_images"]

DATASETS = ("imagefolder", "cifar10", "cifar100", "digits")
FloatArray = npt.NDArray[np.float32]
_STATISTICS: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "imagefolder": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)),
    "digits": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
_CROP = 224 / 256
_LARGEST_SIDE = 4096  # 48 MiB of a square picture
_DIGITS_BRIGHTEST, _DIGITS_SIZE = 16.0, 16
_TEST_SHARE, _SPLIT_SEED = 0.2, 0


@dataclass(frozen=True)
class DataOptions:
    """Which images.

    Attributes:
        name: One of ``DATASETS``.
        root: Folder of the files; digits need none.
        limit: Only so many, spread evenly over the set; None takes all.
        mean: Of each channel, for pixels of 0 to 1; None takes ``preprocessing``'s.
        std: Deviation of each channel.
        preprocessing: JSON with `mean` and `std` from the model's file; "" for the usual ones.
    """

    name: str
    root: Path | None = None
    limit: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preprocessing: str = ""


class LabelledImages:
    """Images and labels that are read when they are asked for.

    Args:
        read: Index -> pixels float32 [C, H, W] in [0, 1], and label.
        indices: Which of them, in order.
        classes: Number of classes.
        mean: Of each channel.
        std: Of each channel.
    """

    def __init__(
        self,
        read: Callable[[int], tuple[FloatArray, int]],
        indices: npt.NDArray[np.int64],
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self._read = read
        self._indices = indices
        self.classes = classes
        self._mean = np.array(mean, np.float32)[:, None, None]
        self._std = np.array(std, np.float32)[:, None, None]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._indices)

    def batch(self, start: int, end: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Normalized images float32 [n, C, H, W] and labels int64 [n]."""
        pairs = [self._read(int(index)) for index in self._indices[start:end]]
        images = np.stack([(pixels - self._mean) / self._std for pixels, _ in pairs])
        return images.astype(np.float32), np.array([label for _, label in pairs], np.int64)

    def sample(self, count: int) -> FloatArray:
        """About ``count`` images, spread evenly over the set: float32 [n, C, H, W]."""
        step = max(1, len(self) // count)
        chosen = range(0, len(self), step)[:count]
        return np.concatenate([self.batch(index, index + 1)[0] for index in chosen])


def open_images(options: DataOptions, input_shape: tuple[int, int, int]) -> LabelledImages:
    """Open a data set for a model that takes images of ``input_shape`` (C, H, W).

    Raises:
        InputError: Unknown name, missing files, or statistics that do not fit the channels.
        RuntimeFailure: scikit-learn is missing.
    """
    if options.name not in DATASETS:
        raise InputError(
            "unknown data set",
            got=options.name,
            expected=" or ".join(DATASETS),
            fix="Correct --dataset.",
        )
    if input_shape[0] not in (1, 3):
        raise InputError(
            "the model takes neither colour nor grey images",
            got=f"{input_shape[0]} channels",
            expected="3 or 1",
            fix="Name another model.",
        )
    mean, std = _statistics(options, input_shape[0])
    openers = {"digits": _digits, "imagefolder": _image_folder}
    read, indices, classes = openers.get(options.name, _cifar)(options, input_shape)
    if options.limit is not None and options.limit < len(indices):
        indices = indices[np.linspace(0, len(indices) - 1, options.limit).astype(np.int64)]
    return LabelledImages(read, indices, classes, mean, std)


_Opened = tuple[Callable[[int], tuple[FloatArray, int]], npt.NDArray[np.int64], int]


def _statistics(options: DataOptions, channels: int) -> tuple[Sequence[float], Sequence[float]]:
    mean, std = _STATISTICS[options.name]
    if channels == 1:  # known of digits, which are grey; of colours in grey nothing is usual
        grey = options.name == "digits"
        mean, std = (mean[:1], std[:1]) if grey else ((), ())
    stated = _stated(options.preprocessing, channels)
    mean = options.mean or stated.get("mean") or mean
    std = options.std or stated.get("std") or std
    if len(mean) != channels or len(std) != channels or not all(0 < s < np.inf for s in std):
        count = {1: "one number", 3: "three numbers"}[channels]
        raise InputError(
            "wrong mean or deviation",
            got=f"{list(mean)} and {list(std)}",
            expected=f"{count} each, the deviations above 0",
            fix="Correct --mean and --std.",
        )
    return mean, std


def _stated(text: str, channels: int) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of a file's statement; anything malformed counts as not stated."""
    try:
        record = json.loads(text) if text else {}
        found = {k: tuple(float(x) for x in record[k]) for k in ("mean", "std") if k in record}
    except (ValueError, TypeError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if len(v) == channels}


def _digits(_options: DataOptions, shape: tuple[int, int, int]) -> _Opened:
    channels, *size = shape
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise RuntimeFailure(
            "the handwritten digits need scikit-learn",
            got=error,
            expected="scikit-learn 1.4 or newer",
            fix="Run: pip install 'scikit-learn>=1.4'",
        ) from error
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    _, held_out = train_test_split(
        np.arange(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=_SPLIT_SEED
    )
    grey = torch.from_numpy(bunch.images).float().unsqueeze(1) / _DIGITS_BRIGHTEST
    grey = _resized(grey, (_DIGITS_SIZE, _DIGITS_SIZE))

    def read(index: int) -> tuple[FloatArray, int]:
        resized = _resized(grey[index : index + 1], size)
        pixels: FloatArray = resized.repeat(1, channels, 1, 1).numpy()
        return pixels[0], int(labels[index])

    return read, np.sort(held_out), 10


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False)


def _cifar(options: DataOptions, shape: tuple[int, int, int]) -> _Opened:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[options.name]
    root = _folder(options)
    try:
        data = kind(str(root), train=False)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{options.name} is not in {root}",
            got="missing or damaged files",
            expected=f"the folder {kind.base_folder} of the python version",
            fix="Run where there is a network: python -c 'from torchvision.datasets import "
            f"{kind.__name__}; {kind.__name__}({json.dumps(str(root))}, download=True)'",
        ) from error
    return _pillow_reader(data, shape, 1.0), np.arange(len(data)), len(data.classes)


def _image_folder(options: DataOptions, shape: tuple[int, int, int]) -> _Opened:
    from torchvision.datasets import ImageFolder

    root = _folder(options)
    folder = root / "val" if (root / "val").is_dir() else root
    try:
        data = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        raise InputError(
            f"no images in {folder}",
            got=str(error).splitlines()[0],
            expected="one folder a class with images in it",
            fix="Name the folder of the classes, or its parent if it is called val, with --data.",
        ) from error
    return _pillow_reader(data, shape, _CROP), np.arange(len(data)), len(data.classes)


def _folder(options: DataOptions) -> Path:
    if options.root is None or not options.root.is_dir():
        raise InputError(
            f"{options.name} needs a folder",
            got="no --data" if options.root is None else f"{options.root}, which is no folder",
            expected="the folder of its files",
            fix="Give its path with --data.",
        )
    return options.root


def _pillow_reader(
    data: Any,  # noqa: ANN401  (torchvision ships no types)
    shape: tuple[int, int, int],
    crop: float,
) -> Callable[[int], tuple[FloatArray, int]]:
    """Reads a Pillow image; resizes its shorter side to size / crop and cuts out the middle."""
    from torchvision.transforms import v2

    channels, height, width = shape
    side = round(max(height, width) / crop)
    if side > _LARGEST_SIDE:
        raise InputError(
            "the model takes too large images",
            got=f"{height} x {width} pixels, cut from {side} x {side}",
            expected=f"at most {_LARGEST_SIDE} pixels a side",
            fix="Name another model, or a smaller --input-size.",
        )
    resize = v2.Resize(side)
    cut = v2.CenterCrop([height, width])

    def read(index: int) -> tuple[FloatArray, int]:
        try:
            image, label = data[index]
        except OSError as error:
            raise InputError(
                f"cannot read image {index} of the data set",
                got=error,
                expected="an image file",
                fix="Remove or replace the damaged file.",
            ) from error
        if image.size != (width, height):
            image = cut(resize(image))
        values = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32)
        pixels: FloatArray = values.reshape(height, width, channels).transpose(2, 0, 1)
        return pixels / np.float32(255), int(label)

    return read
