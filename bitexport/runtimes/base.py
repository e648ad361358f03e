"""What every runtime offers: whether it works here, and a runner for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bitexport.errors import InputError, RuntimeFailure

__all__ = [
    "Arrays",
    "Availability",
    "BuiltEngine",
    "Engine",
    "EngineBuilder",
    "EngineLayer",
    "EngineOptions",
    "ModelRefused",
    "Runner",
    "Runtime",
]

Arrays = Mapping[str, npt.NDArray[Any]]


class ModelRefused(RuntimeFailure):
    """A runtime that works does not take the model; a stranger's file is to blame itself."""

    def blaming(self, file: object) -> InputError:
        """The same as a fault of the file, not of this machine."""
        return InputError(
            f"{file}: {self.what}", got=self.got, expected=self.expected, fix=self.fix
        )


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
            RuntimeFailure: The runtime is missing.
            ModelRefused: It refuses the model.
        """
        ...


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to be built.

    Attributes:
        min_batch: Smallest batch of the optimization profile.
        opt_batch: The batch that kernels are chosen for.
        max_batch: Largest batch of the profile.
        plugin_library: Plugins to run our custom ops with, or None to run their function bodies.
        timing_cache: File of earlier kernel timings; read where it fits, and written anew. None
            for no cache. Of no use to a builder that times nothing.
        progress: Called with (phase, steps done, steps in all) while the builder works, from any
            thread.
    """

    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 1
    plugin_library: Path | None = None
    timing_cache: Path | None = None
    progress: Callable[[str, int, int], None] | None = None


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    Attributes:
        name: As the engine's inspector gives it; fused layers name all their parts.
        kind: The inspector's type of the layer; empty where it says none.
        plugin: One of our plugins runs it.
    """

    name: str
    kind: str
    plugin: bool


@dataclass(frozen=True)
class Engine:
    """A built engine.

    Attributes:
        data: The serialized engine.
        sm: Compute capability of the GPUs that it runs on, such as "9.0"; "8.0+" for that and
            later.
        layers: What its inspector shows, or None where no GPU is there to load it with.
    """

    data: bytes
    sm: str
    layers: tuple[EngineLayer, ...] | None


@dataclass(frozen=True)
class BuiltEngine:
    """An engine from a file, with what it needs to be loaded.

    Attributes:
        data: The serialized engine.
        plugin_library: The plugins that it runs, or None.
        ops: op_types that the plugins must offer.
    """

    data: bytes
    plugin_library: Path | None = None
    ops: tuple[str, ...] = ()


class EngineBuilder(Protocol):
    """Builds device engines from ONNX models; listed in ``runtimes/__init__.py``."""

    name: str
    takes_plugins: bool

    def availability(self) -> Availability:
        """Whether it works here."""
        ...

    def version(self) -> str:
        """Of the library behind it, which must be available."""
        ...

    def build(self, model: bytes, options: EngineOptions) -> Engine:
        """Build an engine from a serialized ONNX model.

        Raises:
            RuntimeFailure: The builder is missing, or cannot build the engine.
            UnsupportedModel: Its parser refuses the model.
            KeyboardInterrupt: Ctrl-C, at the builder's next step.
        """
        ...
