"""What the readers of Bi-Real Net and ReActNet share: stages, widths, flat weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadOptions
from bitexport.layers import BinaryConv2d, SignInputConv2d

__all__ = [
    "blocks_of_arch",
    "count_stages",
    "dense_reasons",
    "named_arch",
    "refuse_real_activations",
    "unflattened",
]

_STAGES = 4


def count_stages(pattern: re.Pattern[str], keys: Iterable[str]) -> tuple[int, ...] | None:
    """Blocks in each of the four stages, counted from the keys; None unless all four have some."""
    found = [m for m in map(pattern.fullmatch, keys) if m]
    counts = tuple(
        len({m.group(2) for m in found if m.group(1) == str(stage)})
        for stage in range(1, _STAGES + 1)
    )
    return counts if all(counts) else None


def named_arch(prefix: str, blocks: tuple[int, ...], named: Mapping[str, tuple[int, ...]]) -> str:
    """The architecture's usual name, or ``prefix-a-b-c-d``."""
    for name, known in named.items():
        if known == blocks:
            return name
    return "-".join([prefix, *map(str, blocks)])


def blocks_of_arch(arch: str, prefix: str, named: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Inverse of :func:`named_arch`.

    Raises:
        UnsupportedModel: The name is none of these.
    """
    if arch in named:
        return named[arch]
    match = re.fullmatch(rf"{prefix}((?:-\d{{1,3}}){{{_STAGES}}})", arch)
    if match is None or "-0" in match.group(1):
        raise UnsupportedModel(
            "unknown architecture",
            got=arch,
            expected=f"{', '.join(named)} or {prefix}-A-B-C-D with the blocks of each stage",
            fix="Correct --arch, or leave it out to have it detected.",
        )
    return tuple(int(n) for n in match.group(1).split("-")[1:])


def refuse_real_activations(options: LoadOptions, title: str) -> None:
    """Raise UnsupportedModel for ``--activations float``."""
    if options.activations == "float":
        raise UnsupportedModel(
            f"{title} has no real activations",
            got="--activations float",
            expected="auto or binary",
            fix="Leave the option out.",
        )


def unflattened(state: Mapping[str, Tensor], factory: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Flat weights, ``NAME.weights`` [N, 1], as ``NAME.weight`` of the shape they have in a twin.

    A number of values that does not fit is left for the check of shapes to refuse.

    Raises:
        UnsupportedModel: A layer has a flat weight and another one.
    """
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in factory().state_dict().items()}
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        own = f"{key.removesuffix('.weights')}.weight" if key.endswith(".weights") else key
        if own in result or (own != key and own in state):
            raise UnsupportedModel(
                f"layer {own.removesuffix('.weight')!r} has two weights",
                got="`weight` and `weights`",
                expected="one of them",
                fix="Check the file.",
            )
        shape = shapes.get(own)
        flat = own != key and value.dim() == 2 and value.shape[1] == 1
        fits = flat and shape is not None and math.prod(shape) == value.numel()
        result[own] = value.reshape(shape) if fits and shape is not None else value
    return result


def dense_reasons(module: nn.Module) -> dict[str, str]:
    """Layer -> why its weight stays dense."""
    reasons = {}
    for name, layer in module.named_modules():
        if isinstance(layer, SignInputConv2d):
            reasons[name] = "its weights are real, only its activations are binary"
        elif isinstance(layer, BinaryConv2d):
            continue
        elif isinstance(layer, nn.Linear):
            reasons[name] = "the classifier is full precision upstream"
        elif isinstance(layer, nn.Conv2d):
            part = "shortcut" if "down" in name else "stem"
            reasons[name] = f"the {part} is full precision upstream"
    return reasons
