"""Logits and accuracy of a model over a data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

__all__ = ["accuracy", "predict"]

_BATCH = 256


@torch.no_grad()
def predict(
    model: nn.Module,
    data: Any,  # noqa: ANN401
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Logits of a model in evaluation mode, and the labels.

    Args:
        model: On ``device``; its mode is restored.
        data: A data set of (float32 [C, H, W], label).
        device: Where to compute.

    Returns:
        float32 [N, classes] and int64 [N], on the CPU, in the data set's order.
    """
    was_training = model.training
    model.eval()
    parts = [
        (model(images.to(device)).float().cpu(), labels)
        for images, labels in DataLoader(data, batch_size=_BATCH)
    ]
    model.train(was_training)
    logits, labels = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the rows of logits [N, classes] whose largest entry is at the label."""
    return float((logits.argmax(dim=1) == labels).double().mean())
