"""The families of checkpoints that bitexport reads: one visible table."""

from __future__ import annotations

import warnings
from pathlib import Path

from bitexport.checkpoint import Checkpoint, read_checkpoint
from bitexport.errors import InputError, UnsupportedModel
from bitexport.families.base import Family, LoadedModel, LoadOptions, Precision
from bitexport.families.bireal import BiRealFamily
from bitexport.families.kill_the_bits import KillTheBitsFamily
from bitexport.families.rbnn import RbnnFamily
from bitexport.families.reactnet import ReActNetFamily
from bitexport.families.siman import SimanFamily
from bitexport.families.statement import statement_of
from bitexport.families.torchvision_resnet import TorchvisionResNetFamily
from bitexport.families.wide_resnet import WideResNetFamily
from bitexport.families.xnor_net import XnorNetFamily

__all__ = [
    "FAMILIES",
    "Family",
    "LoadOptions",
    "LoadedModel",
    "Precision",
    "family_named",
    "load",
    "load_model",
]

FAMILIES: tuple[Family, ...] = (
    WideResNetFamily(),
    BiRealFamily(),
    ReActNetFamily(),
    KillTheBitsFamily(),
    SimanFamily(),
    RbnnFamily(),
    XnorNetFamily(),
    TorchvisionResNetFamily(),
)


def family_named(name: str) -> Family:
    """The family called ``name``.

    Raises:
        InputError: There is none.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise InputError(
        "unknown family",
        got=name,
        expected=" or ".join(family.name for family in FAMILIES),
        fix="Correct --family, or leave it out to have it detected.",
    )


def load(path: str | Path, options: LoadOptions | None = None) -> LoadedModel:
    """Read a checkpoint file and rebuild its model in torch.

    Raises:
        InputError: The file cannot be read safely.
        UnsupportedModel: It holds no model that we know.
    """
    return load_model(read_checkpoint(path), options)


def load_model(checkpoint: Checkpoint, options: LoadOptions | None = None) -> LoadedModel:
    """Rebuild a checkpoint's model.

    Family and architecture are those of the options, or else the file's own statement, or else
    detected.

    Raises:
        InputError: ``options.family`` is no family.
        UnsupportedModel: No family knows the checkpoint, or its tensors do not fit.
    """
    statement = statement_of(checkpoint)
    with warnings.catch_warnings():
        # Shapes of the file may make a layer of no weights, which is not worth a line of its own.
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return statement.apply(_build(checkpoint, statement.fill(options or LoadOptions())))


def _build(checkpoint: Checkpoint, options: LoadOptions) -> LoadedModel:
    if options.family is not None:
        family = family_named(options.family)
        arch = options.arch or family.detect(checkpoint)
        if arch is None:
            raise UnsupportedModel(
                f"{checkpoint.path}: not a model of the family {family.name}",
                got=_sample_of_keys(checkpoint),
                expected=f"the keys of {family.title}",
                fix="Leave --family out to have it detected, or name the architecture with --arch.",
            )
        return family.build(checkpoint, arch, options)
    found = [(f, arch) for f in FAMILIES if (arch := f.detect(checkpoint)) is not None]
    if len(found) != 1:
        names = ", ".join(f.name for f, _ in found or [(f, "") for f in FAMILIES])
        raise _unknown(checkpoint, f"keys of exactly one family of: {names}")
    family, arch = found[0]
    return family.build(checkpoint, options.arch or arch, options)


def _unknown(checkpoint: Checkpoint, expected: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{checkpoint.path}: not a model we know",
        got=_sample_of_keys(checkpoint),
        expected=expected,
        fix="Name the family with --family, or export the module itself with bitexport.export().",
    )


def _sample_of_keys(checkpoint: Checkpoint) -> str:
    tensors = checkpoint.tensors()
    return f"{len(tensors)} tensors: {', '.join(list(tensors)[:3])}, ..."
