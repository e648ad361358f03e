"""The training loop: SGD with momentum, and a cosine learning rate with warm restarts.

McDonnell, ICLR 2018, trains 1-bit networks this way: the rate falls from 0.1 to 1e-4 along half a
cosine, jumps back, and takes twice as long each time (Loshchilov and Hutter, "SGDR", ICLR 2017).
The same loop trains the full-precision twin.

    rate(t) = 1e-4 + (0.1 - 1e-4) * (1 + cos(pi * t / T)) / 2,  in cycles of T = 2, 4, 8, 16 epochs
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitexport.errors import InputError, RuntimeFailure

__all__ = [
    "EpochReport",
    "LabelledBatches",
    "TrainOptions",
    "accuracy",
    "cosine_with_restarts",
    "cycle_lengths",
    "one_thread",
    "predict",
    "train",
]

_EVALUATION_BATCH = 256


class LabelledBatches(Protocol):
    """What the loop trains on; ``torch.utils.data.DataLoader`` is one, too."""

    def __len__(self) -> int:
        """Batches in a pass."""
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the data: images float32 [n, C, H, W] and labels int64 [n]."""
        ...


@dataclass(frozen=True)
class TrainOptions:
    """Hyperparameters, by default those of McDonnell.

    Attributes:
        epochs: Passes over the data.
        learning_rate: At the start of each cycle.
        min_learning_rate: At the end of each cycle.
        first_cycle: Epochs of the first cycle; each later cycle takes twice as long.
        momentum: Of SGD.
        weight_decay: L2 penalty on all parameters.
    """

    epochs: int = 30
    learning_rate: float = 0.1
    min_learning_rate: float = 1e-4
    first_cycle: int = 2
    momentum: float = 0.9
    weight_decay: float = 5e-4


@dataclass(frozen=True)
class EpochReport:
    """One epoch, as measured while training.

    Attributes:
        epoch: From 1.
        epochs: In all.
        loss: Mean cross-entropy of the (augmented) training images.
        accuracy: Share of them that was predicted right.
        learning_rate: Of the epoch's last step.
        seconds: Wall time of this epoch.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float


def train(
    model: nn.Module,
    batches: LabelledBatches,
    options: TrainOptions,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> list[EpochReport]:
    """Train a classifier in place.

    All randomness is that of ``batches`` and of the model's initial weights.

    Args:
        model: float [N, C, H, W] -> logits [N, classes]; in evaluation mode afterwards.
        batches: The training data.
        options: Hyperparameters.
        on_epoch: Called after each epoch.

    Returns:
        A report of each epoch.

    Raises:
        InputError: There is no epoch to train.
        RuntimeFailure: The loss is no longer finite.
    """
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    rates = cosine_with_restarts(options, len(batches))
    reports = []
    model.train()
    for epoch in range(1, options.epochs + 1):
        report = _train_epoch(model, batches, optimizer, rates, (epoch, options.epochs))
        reports.append(report)
        if on_epoch is not None:
            on_epoch(report)
    model.eval()
    return reports


def cosine_with_restarts(options: TrainOptions, steps_per_epoch: int) -> Iterator[float]:
    """The learning rate of each step.

    Raises:
        InputError: There is no epoch to train.
    """
    lengths = [n * steps_per_epoch for n in cycle_lengths(options.epochs, options.first_cycle)]
    low, high = options.min_learning_rate, options.learning_rate
    return (
        low + (high - low) * (1 + math.cos(math.pi * step / length)) / 2
        for length in lengths
        for step in range(length)
    )


def cycle_lengths(epochs: int, first: int = 2) -> list[int]:
    """Epochs of each cycle: doubling, and the last one takes what remains.

    So training always ends at the lowest rate: 30 -> [2, 4, 8, 16], 20 -> [2, 4, 14].

    Raises:
        InputError: There is no epoch to train.
    """
    if epochs < 1:
        raise InputError(
            "training needs at least one epoch",
            got=epochs,
            expected="1 or more",
            fix="Correct --epochs.",
        )
    lengths: list[int] = []
    length = first
    while epochs - sum(lengths) >= length:
        lengths.append(length)
        length *= 2
    if not lengths:
        return [epochs]
    lengths[-1] += epochs - sum(lengths)
    return lengths


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread meanwhile.

    The convolutions of a small network are too short to share: a second thread saves a third of
    the time while both cores are idle, and costs five times as much once other work keeps them
    busy. With one thread the result does not depend on the number of cores, either.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of a model in evaluation mode: float32 [N, C, H, W] -> float32 [N, classes]."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(part) for part in torch.split(images, _EVALUATION_BATCH)])
    model.train(was_training)
    return logits


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the rows of logits [N, classes] whose largest entry is at the label."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def _train_epoch(
    model: nn.Module,
    batches: LabelledBatches,
    optimizer: torch.optim.Optimizer,
    rates: Iterator[float],
    position: tuple[int, int],
) -> EpochReport:
    started = time.perf_counter()
    epoch, epochs = position
    total_loss, correct, seen, rate = 0.0, 0, 0, 0.0
    # The schedule goes second: zip must not take a rate when the epoch has no batch left.
    for (images, labels), rate in zip(batches, rates, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total_loss += loss.item() * len(labels)
        correct += int((logits.argmax(dim=1) == labels).sum())
        seen += len(labels)
    if not math.isfinite(total_loss):
        raise RuntimeFailure(
            f"training diverged in epoch {epoch}",
            got=f"a loss of {total_loss}",
            expected="a finite loss",
            fix="Lower the learning rate, or try another seed.",
        )
    return EpochReport(
        epoch=epoch,
        epochs=epochs,
        loss=total_loss / seen,
        accuracy=correct / seen,
        learning_rate=rate,
        seconds=time.perf_counter() - started,
    )
