"""Checkpoints as the upstream training script of the 1-bit Wide ResNet writes them.

szagoruyko/binary-wide-resnet, ``main.py``: a dict with the ``state_dict`` and the ``epoch``, in
which the weight of a convolution is named like the convolution, without ``.weight``:

    {"state_dict": {"conv0": ..., "group0.block0.conv0": ..., "bn_last.weight": ...}, "epoch": 30}

A latent weight is stored as it was trained, in float32. Nothing says whether it is binarized.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from bitexport.checkpoint import read_checkpoint
from bitexport.families.state import assign_state
from bitexport.files import write_atomically

__all__ = ["load_checkpoint", "save_checkpoint"]

_SUFFIX = ".weight"


def save_checkpoint(path: Path, model: nn.Module, epoch: int) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file.
        model: Its parameters and BatchNorm statistics are saved.
        epoch: Epochs trained so far.

    Raises:
        InputError: The file cannot be written.
        RuntimeFailure: The disk is full.
    """
    names = _upstream_names(model)
    state: OrderedDict[str, Tensor] = OrderedDict(
        (names[key], value.detach().cpu().contiguous()) for key, value in model.state_dict().items()
    )
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "epoch": epoch}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, model: nn.Module) -> int:
    """Load a checkpoint into a model of the same architecture.

    Args:
        path: A file of :func:`save_checkpoint`, or of the upstream script.
        model: Changed in place.

    Returns:
        Epochs trained so far; 0 where the file does not say.

    Raises:
        InputError: The file cannot be read.
        UnsupportedModel: Its tensors are not those of the model.
    """
    checkpoint = read_checkpoint(path)
    own_names = {upstream: own for own, upstream in _upstream_names(model).items()}
    tensors = checkpoint.tensors()
    assign_state(model, {own_names.get(key, key): value for key, value in tensors.items()})
    return int(checkpoint.metadata.get("epoch", 0))


def _upstream_names(model: nn.Module) -> dict[str, str]:
    """Key of ``model.state_dict()`` -> key in the file."""
    weights = {
        f"{name}{_SUFFIX}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    return {key: key.removesuffix(_SUFFIX) if key in weights else key for key in model.state_dict()}
