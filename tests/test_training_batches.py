"""Data sets, their errors, and batches that depend on seed and epoch only."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets as vision

from bitexport.errors import InputError, RuntimeFailure
from training.batches import EpochBatches, Sharding, training_batches
from training.datasets import DataOptions, ImageData, open_data


def options(name: str, root: Path = Path("data"), **changes: object) -> DataOptions:
    fields: dict[str, object] = {
        "name": name,
        "root": root,
        "download": False,
        "input_shape": (3, 32, 32),
        "augmentation": "none",
    }
    return DataOptions(**{**fields, **changes})  # type: ignore[arg-type]


def sizes(data: ImageData) -> tuple[int, int]:
    return len(data.train), len(data.test)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 28)])
def test_digits_take_the_networks_shape(shape: tuple[int, int, int]) -> None:
    data = open_data(options("digits", input_shape=shape, augmentation="shift", limit=100))
    assert sizes(data) == (100, 360)
    image, label = data.train[0]
    assert image.shape == shape and 0 <= label <= 9
    record = json.loads(data.preprocessing)
    assert record["dataset"] == "digits" and record["size"] == list(shape[1:])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet"])
def test_missing_data_names_the_path_and_a_command_that_parses(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_data(options(name, tmp_path))
    line = str(caught.value)
    assert str(tmp_path) in line
    assert "--download" in line or name == "imagenet"
    command = line[line.index("python -c '") + len("python -c '") : line.rindex("'")]
    compile(command, "the command", "exec")
    assert str(tmp_path) in command


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown data set"):
        open_data(options("mnist"))
    with pytest.raises(InputError, match="unknown augmentation"):
        open_data(options("digits", augmentation="cutmix"))


def test_missing_scikit_learn_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(RuntimeFailure, match="pip install 'scikit-learn"):
        open_data(options("digits"))


@pytest.mark.parametrize("augmentation", ["none", "pad-crop-flip", "pad-crop-flip-zeros"])
def test_cifar_from_its_own_files(
    augmentation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in CIFAR-10's format, made here; only torchvision's checksums are replaced."""
    folder = tmp_path / vision.CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    entries = []
    for name, _ in [*vision.CIFAR10.train_list, *vision.CIFAR10.test_list]:
        record = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(record))
        entries.append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
    meta = {"label_names": [str(n) for n in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    checksum = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(vision.CIFAR10, "train_list", entries[:5])
    monkeypatch.setattr(vision.CIFAR10, "test_list", entries[5:])
    changed = {**vision.CIFAR10.meta, "md5": checksum}
    monkeypatch.setattr(vision.CIFAR10, "meta", changed)

    data = open_data(options("cifar10", tmp_path, augmentation=augmentation, limit=10))

    assert sizes(data) == (10, 4) and data.classes == 10
    image, label = data.train[3]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32 and label == 9
    mean = torch.stack([data.test[i][0] for i in range(4)]).mean()
    assert abs(float(mean)) < 0.3


def test_imagenet_folders(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label in ("n01", "n02"):
            (tmp_path / part / label).mkdir(parents=True)
            for index in range(3):
                image = Image.new("RGB", (50, 40), (index * 80, 100, 200))
                image.save(tmp_path / part / label / f"{index}.png")
    data = open_data(options("imagenet", tmp_path, augmentation="crop-flip"))
    assert sizes(data) == (6, 6) and data.classes == 2
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 32, 32)
    same = [data.test[0][0] for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(data.train[0][0], data.train[0][0])


# --- batches ---


class _Noisy(Dataset[tuple[torch.Tensor, int]]):
    """Images that say their index and what their augmentation drew."""

    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.stack([torch.tensor(float(index)), torch.rand(())]), index


def epoch(sharding: Sharding, number: int = 0, workers: int = 0) -> list[torch.Tensor]:
    loader, sampler = training_batches(_Noisy(), sharding, seed=3, workers=workers)
    sampler.epoch = number
    return [images for images, _ in loader]


def test_an_epoch_sees_each_image_once_in_a_new_order() -> None:
    first, second = epoch(Sharding(16)), epoch(Sharding(16), 1)
    assert [len(part) for part in first] == [16] * 4
    seen = torch.cat(first)[:, 0].tolist()
    assert len(set(seen)) == 64
    assert seen != torch.cat(second)[:, 0].tolist()
    # 128 of the 2**24 float32 numbers that the augmentation may draw.
    drawn = torch.cat([*first, *second])[:, 1]
    assert len(drawn.unique()) == 128
    again = epoch(Sharding(16))
    assert torch.equal(torch.cat(first), torch.cat(again))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_and_parts_see_the_same_images_with_the_same_augmentation(world: int) -> None:
    whole = epoch(Sharding(16))
    parts = epoch(Sharding(16, accumulate=world))
    shares = [epoch(Sharding(16, rank=rank, world=world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat(parts[step * world : (step + 1) * world]), batch)
        assert torch.equal(torch.cat([share[step] for share in shares]), batch)


def test_workers_change_nothing() -> None:
    """In a process of its own, as forking one with threads warns."""
    script = (
        "from tests.test_training_batches import epoch, Sharding\nimport torch\n"
        "alone, helped = (torch.cat(epoch(Sharding(16), workers=n)) for n in (0, 1))\n"
        "assert torch.equal(alone, helped)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of 6"):
        Sharding(16, world=3, accumulate=2)


def test_fewer_images_than_a_batch_still_make_a_step() -> None:
    batches = EpochBatches(5, Sharding(16), seed=0)
    assert [len(part) for part in batches] == [5]
