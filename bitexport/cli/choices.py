"""Arguments that several commands share, and how their texts become options."""

from __future__ import annotations

import math
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitexport.errors import InputError

if TYPE_CHECKING:
    from bitexport.families import LoadOptions

__all__ = [
    "Activations",
    "Arch",
    "Checkpoint",
    "Data",
    "Dataset",
    "DenseWeights",
    "DenseWeightsChoice",
    "Family",
    "InputSize",
    "PrecisionChoice",
    "Weights",
    "ZeroActivations",
    "ZeroActivationsChoice",
    "ZeroWeights",
    "ZeroWeightsChoice",
    "load_options",
    "parse_channels",
    "parse_input_size",
]


class PrecisionChoice(str, Enum):
    """Values of --weights and --activations."""

    auto = "auto"
    binary = "binary"
    float = "float"


class ZeroWeightsChoice(str, Enum):
    """Values of --zero-weights."""

    exact = "exact"
    plus_one = "plus-one"
    refuse = "refuse"


class DenseWeightsChoice(str, Enum):
    """Values of --dense-weights."""

    exact = "exact"
    int8 = "int8"


class ZeroActivationsChoice(str, Enum):
    """Values of --zero-activations."""

    auto = "auto"
    exact = "exact"
    plus_one = "plus-one"
    refuse = "refuse"


Checkpoint = Annotated[
    Path, typer.Argument(metavar="CKPT", help="A .pth, .pth.tar, .pt or .safetensors file.")
]
Family = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Such as bireal or siman; detected from the file by default."
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Such as birealnet18; detected from the file by default."),
]
InputSize = Annotated[
    str | None,
    typer.Option(metavar="H[xW]", help="Size of the images; the family's usual one by default."),
]
Dataset = Annotated[
    str, typer.Option(metavar="NAME", help="imagefolder, cifar10, cifar100 or digits.")
]
Data = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Folder of the data set; digits need none.")
]
Weights = Annotated[
    PrecisionChoice, typer.Option(help="Whether weights are 1-bit, where the file cannot say.")
]
Activations = Annotated[
    PrecisionChoice, typer.Option(help="Whether activations are 1-bit, where the file cannot say.")
]
DenseWeights = Annotated[
    DenseWeightsChoice,
    typer.Option(
        help="Weights of layers that stay dense: keep them, or round them to 8 bits, with a step "
        "for each output channel."
    ),
]
ZeroWeights = Annotated[
    ZeroWeightsChoice,
    typer.Option(help="1-bit weights of exactly 0: keep sign(0)=0, pack as +1, or refuse."),
]
ZeroActivations = Annotated[
    ZeroActivationsChoice,
    typer.Option(
        help="Activations of exactly 0 before a sign: keep sign(0)=0 at twice the work, pack "
        "as +1, refuse, or keep it where sample images show many."
    ),
]


def load_options(
    family: str | None,
    arch: str | None,
    weights: PrecisionChoice,
    activations: PrecisionChoice,
) -> LoadOptions:
    """The options record of the loading options."""
    from bitexport.families import LoadOptions

    return LoadOptions(
        family=family, arch=arch, weights=weights.value, activations=activations.value
    )


def parse_input_size(text: str | None) -> tuple[int, int] | None:
    """``"224"`` or ``"224x192"`` to (H, W).

    Raises:
        InputError: Anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None or 0 in (height := int(match[1]), width := int(match[2] or match[1])):
        raise InputError(
            "wrong --input-size",
            got=text,
            expected="H or HxW, such as 224 or 224x192",
            fix="Correct it.",
        )
    return height, width


def parse_channels(option: str, text: str | None) -> tuple[float, ...] | None:
    """``"0.5,0.5,0.5"`` to three numbers, for a network of one channel ``"0.5"`` to one.

    Raises:
        InputError: Anything else.
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not all(math.isfinite(x) for x in numbers):
        raise InputError(
            f"wrong {option}",
            got=text,
            expected="three numbers such as 0.485,0.456,0.406, or one for grey images",
            fix="Correct it.",
        )
    return numbers
