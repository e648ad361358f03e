"""A model's modes, training or evaluation, put back after use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """All layers in evaluation mode; at the end each is in the mode that it was in.

    An export between two epochs would otherwise stop BatchNorm's statistics and dropout.
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
