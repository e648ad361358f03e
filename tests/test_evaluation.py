"""Counting over several batches, and what a data set refuses, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from torchvision import datasets

from bitexport.errors import InputError
from bitexport.evaluation import (
    DataOptions,
    LabelledImages,
    evaluate,
    open_images,
    usual_batch,
    wilson_interval,
)

CLASSES = 1000
Array = npt.NDArray[Any]


def numbered(labels: list[int]) -> LabelledImages:
    """Images whose pixels are their own index."""

    def read(index: int) -> tuple[Array, int]:
        return np.full((3, 1, 1), index, np.float32), labels[index]

    return LabelledImages(read, np.arange(len(labels)), CLASSES, (0, 0, 0), (1, 1, 1))


class Ranking:
    """Ranks the classes of image i so that 7 comes (i + 1)-th; those behind 9 are equal."""

    def __init__(self, undecided: tuple[int, ...] = ()) -> None:
        self.undecided = undecided
        self.batches: list[int] = []

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        numbers = inputs["input"][:, 0, 0, 0].astype(int)
        self.batches.append(len(numbers))
        logits = np.zeros((len(numbers), CLASSES), np.float32)
        for row, number in zip(logits, numbers, strict=True):
            others = [c for c in range(10) if c != 7]
            others.insert(number, 7)
            row[others] = np.arange(10, 0, -1)
            if number in self.undecided:
                row[500] = np.nan
        return {"logits": logits}


@pytest.mark.parametrize("whole", [False, True])
def test_every_image_counts_once_in_whatever_batches(whole: bool) -> None:
    runner = Ranking(undecided=(1, 9))
    shown: list[float] = []
    data = numbered([7] * 10)
    found = evaluate(runner, "input", "logits", data, batch=4, whole=whole, show=shown.append)
    assert runner.batches == [4, 4, 4 if whole else 2]
    assert (found.samples, found.classes, found.not_numbers) == (10, CLASSES, 2)
    # The first has its label first; the fifth has it fifth, the sixth has it sixth.
    assert (found.correct, found.correct_top5) == (1, 4)
    assert shown == [0.4, 0.8, 1.0]
    assert found.top1_interval == wilson_interval(1, 10)
    assert found.top5_interval == wilson_interval(4, 10)


def test_images_that_fill_up_a_batch_do_not_count() -> None:
    class Own:
        """Sure of the class that is the image's number."""

        def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
            return {"logits": np.eye(CLASSES)[inputs["input"][:, 0, 0, 0].astype(int)]}

    data = numbered([20] * 8 + [8, 9, 10])
    assert evaluate(Own(), "input", "logits", data, batch=4, whole=True).correct == 3


def test_the_first_of_equal_logits_comes_first() -> None:
    class Halves:
        """Odd classes, which are equal, before even ones."""

        def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
            return {"logits": np.tile(np.arange(CLASSES) % 2, (len(inputs["input"]), 1))}

    found = evaluate(Halves(), "input", "logits", numbered([1, 9, 11, 0, 999]), batch=4)
    assert (found.correct, found.correct_top5) == (1, 2)


def test_one_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match="do not fit"):
        evaluate(Ranking(), "input", "logits", numbered([7, CLASSES, 7]), batch=3)
    evaluate(Ranking(), "input", "logits", numbered([7, CLASSES - 1, 7]), batch=3)


@pytest.mark.parametrize(("successes", "end"), [(0, 0), (13, 1)])
def test_an_interval_ends_exactly_at_0_and_1(successes: int, end: int) -> None:
    for trials in range(13, 2000, 13):
        assert wilson_interval(successes * trials // 13, trials)[end] == end


def test_a_sample_is_spread_over_the_set_and_no_larger_than_asked() -> None:
    data = numbered([0] * 11)
    assert data.sample(3)[:, 0, 0, 0].tolist() == [0, 3, 6]
    assert len(data.sample(20)) == 11


@pytest.mark.parametrize("size", [2364, 2365, 5000])
def test_at_least_one_image_is_run(size: int) -> None:
    assert usual_batch((3, size, size)) == 1


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((8, 8, 3), 51, np.uint8)).save(tmp_path / "a" / "x.png")
    return tmp_path


@pytest.mark.parametrize(
    "stated",
    [
        "",
        "no JSON",
        "null",
        "5",
        "[]",
        "[" * 100_000,
        '{"mean": null, "std": 3}',
        '{"mean": ["a", "b", "c"]}',
        '{"mean": [1, 2], "std": [1, 2, 3, 4]}',
    ],
    ids=lambda text: text[:20],
)
def test_statistics_that_are_malformed_count_as_not_stated(stated: str, pictures: Path) -> None:
    options = DataOptions("imagefolder", pictures, preprocessing=stated)
    images, _ = open_images(options, (3, 8, 8)).batch(0, 1)
    want = (0.2 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(images[0, :, 0, 0], want, rtol=1e-5)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_limit_beyond_the_set_takes_each_image_once(limit: int, pictures: Path) -> None:
    assert len(open_images(DataOptions("imagefolder", pictures, limit=limit), (3, 8, 8))) == 1


@pytest.mark.parametrize("std", [(1, 0, 1), (1, 1, np.inf), (1, np.nan, 1), (-1, 1, 1), (1, 1)])
def test_deviations_that_nothing_can_be_divided_by(std: tuple[float, ...], pictures: Path) -> None:
    with pytest.raises(InputError, match="wrong mean or deviation"):
        open_images(DataOptions("imagefolder", pictures, std=std), (3, 8, 8))


@pytest.mark.parametrize("channels", [2, 4])
def test_models_of_neither_colour_nor_grey_images(channels: int, pictures: Path) -> None:
    with pytest.raises(InputError, match="takes neither colour nor grey images"):
        open_images(DataOptions("imagefolder", pictures), (channels, 8, 8))


def test_the_largest_picture_to_cut_from(pictures: Path) -> None:
    """3584 of 224/256 is 4096."""
    options = DataOptions("imagefolder", pictures)
    open_images(options, (3, 8, 3584))
    with pytest.raises(InputError, match="too large images"):
        open_images(options, (3, 8, 3585))


def test_a_damaged_picture_is_named(pictures: Path) -> None:
    (pictures / "a" / "y.png").write_bytes(b"no picture")
    data = open_images(DataOptions("imagefolder", pictures), (3, 8, 8))
    with pytest.raises(InputError, match="cannot read image 1 of the data set"):
        data.batch(0, 2)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_images_of_another_size_are_resized_whole(
    name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stand:
        """One test image with a white frame of 2 pixels, where torchvision would read files."""

        base_folder = "folder"

        def __init__(self, root: str, *, train: bool) -> None:
            assert (root, train) == (str(tmp_path), False)
            self.classes = [str(i) for i in range(classes)]

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            pixels = np.full((32, 32, 3), 255, np.uint8)
            pixels[2:-2, 2:-2] = 0
            return Image.fromarray(pixels), classes - 1

    monkeypatch.setattr(datasets, name.upper(), Stand)
    options = DataOptions(name, tmp_path, mean=(0, 0, 0), std=(1, 1, 1))
    data = open_images(options, (3, 16, 16))
    images, labels = data.batch(0, 1)
    assert (data.classes, labels.tolist()) == (classes, [classes - 1])
    assert images[0, :, 0].min() > 0.6 and images[0, :, :, -1].min() > 0.6
