"""Checkpoints that ``bitexport onnx`` takes without a flag.

The layout is the one of the system's own code, so that its readers are ours. Beside the weights
stand scalars that say what keys and shapes cannot:

    {"state_dict": {"conv0": ..., "group0.block0.conv0": ...}, "epoch": 30,
     "bitexport_family": "wide-resnet", "bitexport_arch": "wrn-14-1",
     "bitexport_weights": "binary", "bitexport_activations": "auto",
     "bitexport_input": "3x16x16", "bitexport_preprocessing": "{...}"}

They load with ``weights_only``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitexport.errors import InputError
from bitexport.files import write_atomically
from training.layouts import upstream_state

__all__ = ["Description", "load_resume", "save_checkpoint", "save_resume"]

# Families whose readers have no other weights, or no other activations, than the usual ones.
_ONLY_BINARY_ACTIVATIONS = ("bireal", "reactnet", "xnor-net", "siman", "rbnn")
_SUM = "recipe"


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about itself.

    Attributes:
        family: Name of the family that reads it.
        arch: Name within the family.
        binary: Whether the weights are binary.
        input_shape: (C, H, W).
        preprocessing: JSON.
    """

    family: str
    arch: str
    binary: bool
    input_shape: tuple[int, int, int]
    preprocessing: str

    def scalars(self) -> dict[str, str]:
        """As they stand in the file."""
        quantized = self.family not in ("resnet", "kill-the-bits")
        weights = ("binary" if self.binary else "float") if quantized else "auto"
        binary_activations = self.family in _ONLY_BINARY_ACTIVATIONS
        return {
            "bitexport_family": self.family,
            "bitexport_arch": self.arch,
            "bitexport_weights": weights,
            "bitexport_activations": "binary" if binary_activations else "auto",
            "bitexport_input": "x".join(map(str, self.input_shape)),
            "bitexport_preprocessing": self.preprocessing,
        }


def save_checkpoint(path: Path, model: nn.Module, description: Description, epoch: int) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file.
        model: With the system's estimators in place.
        description: What it is.
        epoch: Epochs trained so far.

    Raises:
        InputError: The file cannot be written.
        RuntimeFailure: The disk is full.
    """
    state = upstream_state(description.family, model, binary=description.binary)
    _save(path, {"state_dict": state, "epoch": epoch, **description.scalars()})


def save_resume(path: Path, record: dict[str, Any], fingerprint: str) -> None:
    """Write what a run needs to go on: weights, optimizer, where it stands."""
    _save(path, {**record, _SUM: fingerprint})


def load_resume(path: Path, fingerprint: str) -> dict[str, Any]:
    """Read what :func:`save_resume` wrote.

    Raises:
        InputError: It cannot be read, or is of another recipe.
    """
    try:
        record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises whatever a damaged file drives it to.
        raise InputError(
            f"cannot resume from {path}",
            got=str(error).split("\n", maxsplit=1)[0][:120],
            expected="the file of an interrupted run",
            fix="Leave --resume out to start again.",
        ) from error
    if record.get(_SUM) != fingerprint:
        raise InputError(
            f"cannot resume from {path}",
            got="a run with other settings",
            expected="the recipe and options of this run",
            fix="Repeat the options of the first run, or leave --resume out to start again.",
        )
    return record


def _save(path: Path, record: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(record, buffer)
    write_atomically(path, buffer.getvalue())
