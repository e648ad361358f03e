"""The rounding modes of QONNX: what they compute, and as which standard operators.

QONNX's ``custom_op/general/intquant.py`` gives for a number x:

    ROUND, HALF_EVEN            the nearest integer, the even one of two
    CEIL, FLOOR                 the next integer above, below
    UP          sign(x) * ceil(|x|)             away from 0
    DOWN        sign(x) * floor(|x|)            towards 0
    HALF_UP     sign(x) * floor(|x| + 0.5)      the nearest; of two, that away from 0
    HALF_DOWN   sign(x) * ceil(|x| - 0.5)       the nearest; of two, that towards 0

ROUND_TO_ZERO is what Brevitas writes for DOWN. The sums are float32's: the largest number below 0.5
is HALF_UP to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ROUNDINGS", "Rounding", "rounded"]

Float32Array = npt.NDArray[np.float32]
_INTEGERS: dict[str, Callable[[Float32Array], Float32Array]] = {
    "Round": np.round,
    "Ceil": np.ceil,
    "Floor": np.floor,
}


@dataclass(frozen=True)
class Rounding:
    """How a number becomes an integer.

    Attributes:
        operator: The standard operator that rounds: Round, Ceil or Floor.
        of_size: Whether it rounds the size of a number, which takes its sign again.
        shift: What is added to the size before.
    """

    operator: str
    of_size: bool = False
    shift: float = 0.0


_DOWN = Rounding("Floor", of_size=True)
ROUNDINGS = {
    "ROUND": Rounding("Round"),
    "HALF_EVEN": Rounding("Round"),
    "CEIL": Rounding("Ceil"),
    "FLOOR": Rounding("Floor"),
    "UP": Rounding("Ceil", of_size=True),
    "DOWN": _DOWN,
    "ROUND_TO_ZERO": _DOWN,
    "HALF_UP": Rounding("Floor", of_size=True, shift=0.5),
    "HALF_DOWN": Rounding("Ceil", of_size=True, shift=-0.5),
}


def rounded(x: Float32Array, rounding: Rounding) -> Float32Array:
    """The integers, as float32."""
    to_integers = _INTEGERS[rounding.operator]
    if not rounding.of_size:
        return np.asarray(to_integers(x), np.float32)
    size = to_integers(np.abs(x) + np.float32(rounding.shift))
    return np.asarray(np.sign(x) * size, np.float32)
