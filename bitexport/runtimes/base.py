"""What every runtime offers: whether it works here, and a runner for a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bitexport.errors import RuntimeFailure

__all__ = ["Arrays", "Availability", "EngineBuilder", "EngineOptions", "Runner", "Runtime"]

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Availability:
    """Whether something works on this machine.

    Attributes:
        name: Of the runtime or library.
        ok: It works.
        detail: Its version and device, or what is missing.
        fix: The command that mends it; empty where nothing is to be done.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def require(self) -> None:
        """Raise RuntimeFailure unless it works."""
        if not self.ok:
            raise RuntimeFailure(
                f"{self.name} is not usable here",
                got=self.detail,
                expected=f"a working {self.name}",
                fix=self.fix or "See `bitexport doctor`.",
            )


class Runner(Protocol):
    """A loaded model."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Input name -> array, to output name -> array."""
        ...


class Runtime(Protocol):
    """Runs ONNX models; listed in ``runtimes/__init__.py``."""

    name: str

    def availability(self) -> Availability:
        """Whether it works here; imports the runtime, runs nothing."""
        ...

    def load(self, model: bytes, *, threads: int = 0) -> Runner:
        """Load a serialized ONNX model.

        Args:
            model: ModelProto bytes.
            threads: Threads inside an operator; 0 lets the runtime choose.

        Raises:
            RuntimeFailure: The runtime is missing, or refuses the model.
        """
        ...


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to be built: the batch sizes of its optimization profile."""

    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 1


class EngineBuilder(Protocol):
    """Builds device engines from ONNX models."""

    name: str

    def availability(self) -> Availability:
        """Whether it works here."""
        ...

    def build(self, model: bytes, options: EngineOptions) -> bytes:
        """The serialized engine of a serialized ONNX model.

        Raises:
            RuntimeFailure: The builder is missing, or refuses the model.
        """
        ...
