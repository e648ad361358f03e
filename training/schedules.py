"""Learning rates and optimizers of a stage.

cosine-restarts  half a cosine in cycles of T, 2T, 4T, ... epochs (Loshchilov and Hutter,
"SGDR", ICLR 2017); the last cycle takes what remains
cosine           half a cosine, epoch by epoch, after a linear warm-up
linear           1 - epoch / epochs (Bi-Real Net, ReActNet)
steps            a tenth after each milestone
constant
"""

from __future__ import annotations

import math

import torch
from torch import nn

from training.recipe import Stage
from training.systems import sign_layers

__all__ = ["cycle_lengths", "learning_rate", "make_optimizer"]


def learning_rate(stage: Stage, epoch: int, share: float) -> float:
    """The rate ``share`` (0 to 1) into epoch 0, 1, ... of a stage."""
    high, low = stage.learning_rate, stage.min_learning_rate
    if epoch < stage.warmup_epochs:
        return high * (epoch + 1) / stage.warmup_epochs
    if stage.schedule == "cosine-restarts":
        start = 0
        for length in cycle_lengths(stage.epochs, stage.first_cycle):
            if epoch < start + length:
                return _cosine(high, low, (epoch - start + share) / length)
            start += length
    if stage.schedule == "cosine":
        done = (epoch - stage.warmup_epochs) / max(1, stage.epochs - stage.warmup_epochs)
        return _cosine(high, low, done)
    if stage.schedule == "linear":
        return high * (1 - epoch / stage.epochs)
    if stage.schedule == "steps":
        passed = sum(epoch >= milestone * stage.epochs for milestone in stage.milestones)
        return high * 0.1**passed
    return high


def cycle_lengths(epochs: int, first: int = 2) -> list[int]:
    """Epochs of each cycle: doubling, and the last one takes what remains.

    So training always ends at the lowest rate: 30 -> [2, 4, 8, 16], 20 -> [2, 4, 14].
    """
    lengths: list[int] = []
    length = first
    while epochs - sum(lengths) >= length:
        lengths.append(length)
        length *= 2
    if not lengths:
        return [epochs]
    lengths[-1] += epochs - sum(lengths)
    return lengths


def make_optimizer(model: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    """The optimizer of a stage; the latent weights form a group of their own."""
    latent = {id(p) for _, layer in sign_layers(model) for p in layer.parameters(recurse=False)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = stage.weight_decay
    groups = [
        {"params": [p for p in trained if id(p) not in latent], "weight_decay": decay},
        {
            "params": [p for p in trained if id(p) in latent],
            "weight_decay": decay if stage.decay_latents else 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if stage.optimizer == "adam":
        return torch.optim.Adam(groups, lr=stage.learning_rate)
    return torch.optim.SGD(groups, lr=stage.learning_rate, momentum=stage.momentum)


def _cosine(high: float, low: float, done: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * done)) / 2
