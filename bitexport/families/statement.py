"""What a checkpoint says about itself, where its trainer wrote it down.

Upstream's files leave things open: whether weights are binarized, how large the images were. A
training script settles them with scalars beside the weights:

    {"state_dict": ..., "bitexport_family": "wide-resnet", "bitexport_arch": "wrn-20-10",
     "bitexport_weights": "float", "bitexport_input": "3x32x32", "bitexport_preprocessing": "..."}

What the user says goes first; without the scalars everything is detected as ever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import get_args

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel, LoadOptions, Precision

__all__ = ["Statement", "statement_of"]

_PREFIX = "bitexport_"
_INPUT = re.compile(r"([1-9]\d{0,2})x([1-9]\d{0,3})x([1-9]\d{0,3})")
_LONGEST = 4096


@dataclass(frozen=True)
class Statement:
    """The scalars of a file; an empty field was left out.

    Attributes:
        family: As in :class:`LoadOptions`.
        arch: As in :class:`LoadOptions`.
        weights: As in :class:`LoadOptions`.
        activations: As in :class:`LoadOptions`.
        input_shape: (C, H, W) of the training's images.
        preprocessing: JSON: what the training did to a pixel.
    """

    family: str | None = None
    arch: str | None = None
    weights: Precision = "auto"
    activations: Precision = "auto"
    input_shape: tuple[int, int, int] | None = None
    preprocessing: str = ""

    def fill(self, options: LoadOptions) -> LoadOptions:
        """``options``, with this where the user said nothing.

        The statement of another family than the user's says nothing about the user's.
        """
        if options.family is not None and self.family not in (None, options.family):
            return options
        return LoadOptions(
            family=options.family or self.family,
            arch=options.arch or self.arch,
            weights=self.weights if options.weights == "auto" else options.weights,
            activations=self.activations if options.activations == "auto" else options.activations,
        )

    def apply(self, model: LoadedModel) -> LoadedModel:
        """``model``, with the file's image size and preprocessing."""
        shape = self.input_shape or model.input_shape
        return replace(model, input_shape=shape, preprocessing=self.preprocessing)


def statement_of(checkpoint: Checkpoint) -> Statement:
    """Read the scalars.

    Raises:
        UnsupportedModel: One of them makes no sense.
    """
    shape = _text(checkpoint, "input")
    match = _INPUT.fullmatch(shape) if shape else None
    if shape and match is None:
        raise _senseless(checkpoint, "input", shape, "CHANNELSxHEIGHTxWIDTH")
    channels, height, width = map(int, match.groups()) if match else (0, 0, 0)
    return Statement(
        family=_text(checkpoint, "family") or None,
        arch=_text(checkpoint, "arch") or None,
        weights=_precision(checkpoint, "weights"),
        activations=_precision(checkpoint, "activations"),
        input_shape=(channels, height, width) if match else None,
        preprocessing=_text(checkpoint, "preprocessing"),
    )


def _text(checkpoint: Checkpoint, name: str) -> str:
    value = checkpoint.metadata.get(_PREFIX + name, "")
    if not isinstance(value, str) or len(value) > _LONGEST or not (value + " ").isprintable():
        raise _senseless(checkpoint, name, type(value).__name__, "a short line of text")
    return value


def _precision(checkpoint: Checkpoint, name: str) -> Precision:
    value = _text(checkpoint, name) or "auto"
    for known in get_args(Precision):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise _senseless(checkpoint, name, value, " or ".join(get_args(Precision)))


def _senseless(checkpoint: Checkpoint, name: str, got: str, expected: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{checkpoint.path}: {_PREFIX}{name} makes no sense",
        got=got[:80],
        expected=expected,
        fix="Save the checkpoint again, or take the scalar out.",
    )
