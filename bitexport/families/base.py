"""What a family is: it recognises its checkpoints and rebuilds their model in torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import nn

from bitexport.checkpoint import Checkpoint

__all__ = ["Family", "LoadOptions", "LoadedModel", "Precision"]

Precision = Literal["auto", "binary", "float"]


@dataclass(frozen=True)
class LoadOptions:
    """What the user says about a checkpoint because the file may not.

    Attributes:
        family: Name of a family, or None to detect it.
        arch: Architecture within the family, or None to detect it.
        weights: Whether the weights are to be binarized; "auto" takes the family's usual case.
        activations: The same for activations.
    """

    family: str | None = None
    arch: str | None = None
    weights: Precision = "auto"
    activations: Precision = "auto"


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint rebuilt as a torch model that computes what the authors' code computes.

    Attributes:
        module: In evaluation mode, float32, on the CPU: float [N, C, H, W] -> logits [N, classes],
            or a tuple of as many tensors as ``outputs`` names.
        family: Name of the family.
        arch: Name of the architecture, as ``--arch`` takes it.
        input_shape: (C, H, W) that the family's training used.
        outputs: Names of what the module returns.
        binary_activations: A rounding difference can flip an activation's sign, so comparisons
            need the wider tolerance.
        dense_reasons: Layer -> why its weight stayed dense.
        notes: What was assumed because the file does not say; shown to the user.
        preprocessing: JSON: what the training did to a pixel; empty where the file does not say.
    """

    module: nn.Module
    family: str
    arch: str
    input_shape: tuple[int, int, int]
    outputs: tuple[str, ...] = ("logits",)
    binary_activations: bool = False
    dense_reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    preprocessing: str = ""


class Family(Protocol):
    """One upstream system. Implementations are listed in ``families/__init__.py``."""

    name: str
    title: str
    paper: str

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """The architecture, or None where the checkpoint is of another family.

        Looks at keys, shapes and dtypes only.
        """
        ...

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """Rebuild the model.

        Raises:
            UnsupportedModel: A tensor is missing, misshapen or not finite, or the architecture
                is none of this family's.
        """
        ...
