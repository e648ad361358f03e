"""Batches that depend on the seed and the epoch only.

Neither the number of processes and workers nor an interruption changes which images a step sees,
or how they are augmented: a batch is cut into equal parts, one for each process and each
accumulation step, and every image draws its augmentation from a seed of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bitexport.errors import InputError

__all__ = ["EpochBatches", "Sharding", "training_batches"]

_MOST_SEEDS = 2**62


class Sharding:
    """How a batch is shared.

    Args:
        batch_size: Images of one step of the optimizer, over all processes.
        rank: This process.
        world: Processes.
        accumulate: Parts of a process's share that are run one after the other.

    Raises:
        InputError: The batch cannot be cut into equal parts.
    """

    def __init__(
        self, batch_size: int, *, rank: int = 0, world: int = 1, accumulate: int = 1
    ) -> None:
        if batch_size % (world * accumulate):
            raise InputError(
                "a batch cannot be cut into equal parts",
                got=f"{batch_size} images for {world} processes and {accumulate} parts each",
                expected=f"a multiple of {world * accumulate}",
                fix="Correct --batch-size.",
            )
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.accumulate = accumulate


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The parts of this process, in order: (index, seed of the augmentation) of each image.

    Args:
        size: Images of the data set; where they do not fill a batch, its rest is left out.
        sharding: How a batch is shared.
        seed: Of order and augmentation.
    """

    def __init__(self, size: int, sharding: Sharding, seed: int) -> None:
        self.images = size
        self._sharding = sharding
        self._seed = seed
        self.epoch = 0

    @property
    def steps(self) -> int:
        """Steps of the optimizer in an epoch."""
        return max(1, self.images // self._sharding.batch_size)

    def __len__(self) -> int:
        """Parts in an epoch."""
        return self.steps * self._sharding.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """One epoch."""
        generator = torch.Generator().manual_seed(_mixed(self._seed, self.epoch))
        order = torch.randperm(self.images, generator=generator)
        seeds = torch.randint(_MOST_SEEDS, (self.images,), generator=generator)
        shared = self._sharding
        parts = shared.world * shared.accumulate
        for step in range(self.steps):
            start = step * shared.batch_size
            batch = order[start : start + shared.batch_size]
            chunks = torch.tensor_split(batch, parts)
            for part in range(shared.accumulate):
                chosen = chunks[shared.rank * shared.accumulate + part]
                yield [(int(i), int(seeds[i])) for i in chosen]


class _Seeded(Dataset[tuple[Tensor, int]]):
    """A data set whose augmentation draws from the seed that comes with the index."""

    def __init__(self, data: Dataset[tuple[Tensor, int]]) -> None:
        self._data = data

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, int]:
        number, seed = index
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._data[number]


def training_batches(
    data: Dataset[Any], sharding: Sharding, *, seed: int, workers: int = 0
) -> tuple[DataLoader[Any], EpochBatches]:
    """The loader, and its sampler, whose ``epoch`` is to be set before each pass."""
    sampler = EpochBatches(len(data), sharding, seed)  # type: ignore[arg-type]
    loader: DataLoader[Any] = DataLoader(
        _Seeded(data),
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
    )
    return loader, sampler


def _mixed(seed: int, epoch: int) -> int:
    """Seeds of different epochs, far apart."""
    return (seed * 1_000_003 + epoch) * 2_654_435_761 % _MOST_SEEDS
