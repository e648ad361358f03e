"""The data sets by name: digits, CIFAR-10, CIFAR-100, ImageNet folders.

Digits come with scikit-learn and need nothing; the others are torchvision's, read from a folder.
Augmentations are those of the papers:

    shift           up to a pixel in each direction, filled with background (digits)
    pad-crop-flip   4 reflected pixels around, crop, flip (McDonnell; SiMaN and RBNN with zeros)
    crop-flip       random resized crop, flip, AlexNet's lighting (Bi-Real Net, ReActNet)
    none
"""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets as vision
from torchvision.transforms import v2

from bitexport.errors import InputError, RuntimeFailure
from training.data import load_digits

__all__ = ["AUGMENTATIONS", "DATASETS", "DataOptions", "ImageData", "open_data"]

DATASETS = ("digits", "cifar10", "cifar100", "imagenet")
AUGMENTATIONS = ("none", "shift", "pad-crop-flip", "pad-crop-flip-zeros", "crop-flip")

Example = tuple[Tensor, int]
Transform = Callable[[Any], Tensor]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)
_CIFAR_PAD = 4
_RESIZE_RATIO = 256 / 224
# Eigenvalues and eigenvectors of ImageNet's pixels: Krizhevsky et al., NeurIPS 2012, section 4.1.
_PCA_STD = (0.2175, 0.0188, 0.0045)
_PCA_AXES = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
_LIGHTING = 0.1


@dataclass(frozen=True)
class DataOptions:
    """Which data, and what becomes of it.

    Attributes:
        name: One of ``DATASETS``.
        root: Folder of the files; digits need none.
        download: Let torchvision fetch what is missing.
        input_shape: (C, H, W) of the network's images.
        augmentation: One of ``AUGMENTATIONS``, for training images.
        limit: Use so many training images only; None for all.
    """

    name: str
    root: Path
    download: bool
    input_shape: tuple[int, int, int]
    augmentation: str
    limit: int | None = None


@dataclass(frozen=True)
class ImageData:
    """A data set, ready for a network.

    Attributes:
        train: (float32 [C, H, W], label) per image, augmented at random.
        test: The same for held-out images, never augmented.
        classes: Number of labels.
        preprocessing: JSON: how a pixel of 0 to 1 becomes the network's input.
    """

    train: Dataset[Example]
    test: Dataset[Example]
    classes: int
    preprocessing: str


def open_data(options: DataOptions) -> ImageData:
    """Open a data set.

    Raises:
        InputError: It has another name, or its files are missing; says where they were looked
            for and how to get them.
        RuntimeFailure: A download failed, or scikit-learn is missing.
    """
    for given, known, field in (
        (options.name, DATASETS, "data set"),
        (options.augmentation, AUGMENTATIONS, "augmentation"),
    ):
        if given not in known:
            raise InputError(
                f"unknown {field}", got=given, expected=" or ".join(known), fix="Correct it."
            )
    if options.name == "digits":
        return _digits(options)
    return _imagenet(options) if options.name == "imagenet" else _cifar(options)


class _Digits(Dataset[Example]):
    def __init__(self, images: Tensor, labels: Tensor, augment: Transform | None) -> None:
        self._images = images
        self._labels = labels.tolist()
        self._augment = augment

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        image = self._images[index]
        return (image if self._augment is None else self._augment(image)), self._labels[index]


def _digits(options: DataOptions) -> ImageData:
    channels, height, width = options.input_shape
    digits = load_digits()

    def fit(images: Tensor) -> Tensor:
        sized = F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
        return sized[:, :channels].contiguous()

    augment = None
    if options.augmentation != "none":
        augment = v2.RandomCrop((height, width), padding=max(1, height // 16), fill=-1)
    count = options.limit
    preprocessing = _preprocessing(options, (0.5,) * channels, (0.5,) * channels)
    return ImageData(
        _Digits(fit(digits.train_images[:count]), digits.train_labels[:count], augment),
        _Digits(fit(digits.test_images), digits.test_labels, None),
        classes=10,
        preprocessing=preprocessing,
    )


def _cifar(options: DataOptions) -> ImageData:
    cls = {"cifar10": vision.CIFAR10, "cifar100": vision.CIFAR100}[options.name]
    size = options.input_shape[1]
    mode = "reflect" if options.augmentation == "pad-crop-flip" else "constant"
    augment: list[Any] = []
    if options.augmentation != "none":
        crop = v2.RandomCrop(32, padding=_CIFAR_PAD, padding_mode=mode)
        augment = [v2.RandomHorizontalFlip(), crop]
    resize = [] if size == 32 else [v2.Resize(size)]
    plain = [v2.ToImage(), *resize, *_to_float(_CIFAR_MEAN, _CIFAR_STD)]
    try:
        train = cls(options.root, True, v2.Compose([*augment, *plain]), download=options.download)
        test = cls(options.root, False, v2.Compose(plain), download=options.download)
    except (urllib.error.URLError, OSError) as error:
        raise RuntimeFailure(
            f"cannot download {options.name} to {options.root}",
            got=error,
            expected="a connection to the data set's site, and a writable folder",
            fix=f"Download it elsewhere and copy it to {options.root}.",
        ) from error
    except RuntimeError as error:
        folder = Path(options.root) / cls.base_folder
        raise InputError(
            f"{options.name} is not at {folder}",
            got="missing or damaged files",
            expected="the files of the python version",
            fix="Run again with --download, or on another machine: "
            f"python -c 'from torchvision.datasets import {cls.__name__}; "
            f"{cls.__name__}({json.dumps(str(options.root))}, download=True)'",
        ) from error
    return ImageData(
        _limited(train, options.limit),
        test,
        classes=len(train.classes),
        preprocessing=_preprocessing(options, _CIFAR_MEAN, _CIFAR_STD),
    )


def _imagenet(options: DataOptions) -> ImageData:
    size = options.input_shape[1]
    folders = [Path(options.root) / part for part in ("train", "val")]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"no image folder at {folder}",
                got="no such folder",
                expected="one folder a class: train/n01440764/*.JPEG, val/n01440764/*.JPEG",
                fix="Name its parent with --data. ImageNet needs an account at image-net.org; put "
                "its archives there and run: python -c 'from torchvision.datasets import ImageNet; "
                f'[ImageNet({json.dumps(str(options.root))}, part) for part in ("train", "val")]\'',
            )
    final = _to_float(_IMAGENET_MEAN, _IMAGENET_STD)
    resized = [v2.ToImage(), v2.Resize(round(size * _RESIZE_RATIO)), v2.CenterCrop(size)]
    augment = [v2.ToImage(), v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    # The lighting is added to pixels of 0 to 1, before they are normalized.
    lit = [*augment, *final[:-1], _lighting, final[-1]]
    plain = v2.Compose([*resized, *final])
    train_transform = plain if options.augmentation == "none" else v2.Compose(lit)
    train, test = (
        vision.ImageFolder(str(folder), transform)
        for folder, transform in zip(folders, (train_transform, plain), strict=True)
    )
    return ImageData(
        _limited(train, options.limit),
        test,
        classes=len(train.classes),
        preprocessing=_preprocessing(options, _IMAGENET_MEAN, _IMAGENET_STD),
    )


def _to_float(mean: tuple[float, ...], std: tuple[float, ...]) -> list[Any]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]


def _lighting(image: Tensor) -> Tensor:
    """Add a random multiple of the pixels' principal components; [3, H, W] in 0 to 1."""
    amounts = torch.randn(3) * _LIGHTING * torch.tensor(_PCA_STD)
    return image + (torch.tensor(_PCA_AXES) @ amounts)[:, None, None]


def _limited(data: Any, limit: int | None) -> Dataset[Example]:  # noqa: ANN401
    return torch.utils.data.Subset(data, range(min(limit, len(data)))) if limit else data


def _preprocessing(options: DataOptions, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    record: Mapping[str, Any] = {
        "dataset": options.name,
        "size": list(options.input_shape[1:]),
        "pixels": [0, 1],
        "mean": list(mean),
        "std": list(std),
    }
    return json.dumps(record, sort_keys=True)
