"""What engine is wanted, and who builds it with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bitexport.errors import InputError, RuntimeFailure
from bitexport.export_options import ExportOptions
from bitexport.runtimes import ENGINE_BUILDERS, EngineBuilder, plugin_library_path

__all__ = ["EngineRequest", "chosen_builder", "plugin_library"]

_LARGEST_BATCH = 1 << 16


@dataclass(frozen=True)
class EngineRequest:
    """What engine is wanted; the fields are the options of ``bitexport trt``.

    Attributes:
        backend: Name of an engine builder, or "auto" for the first that is installed.
        float16: Compute in float16 behind float32 inputs and outputs.
        min_batch: Smallest batch that the engine is to take.
        opt_batch: The batch to choose kernels for; None for the largest.
        max_batch: Largest batch that the engine is to take; None for the larger of the others.
        plugins: Run our custom ops by plugins, where the backend has plugins.
        plugin_library: The library with them; None for the one that is installed.
        save_onnx: Where to leave the ONNX model as the builder was given it.
        timing_cache: File of kernel timings; None for one in the user's cache folder.
        export: How a checkpoint is turned into ONNX first.
        progress: Called with (phase, steps done, steps in all) while the builder works.
    """

    backend: str = "auto"
    float16: bool = False
    min_batch: int = 1
    opt_batch: int | None = None
    max_batch: int | None = None
    plugins: bool = True
    plugin_library: Path | None = None
    save_onnx: Path | None = None
    timing_cache: Path | None = None
    export: ExportOptions = field(default_factory=ExportOptions)
    progress: Callable[[str, int, int], None] | None = None

    def batches(self) -> tuple[int, int, int]:
        """(smallest, usual, largest).

        Raises:
            InputError: They are out of order or out of bounds.
        """
        largest, usual = self.max_batch, self.opt_batch
        if largest is None:
            largest = self.min_batch if usual is None else max(self.min_batch, usual)
        batches = (self.min_batch, largest if usual is None else usual, largest)
        if not 1 <= batches[0] <= batches[1] <= batches[2] <= _LARGEST_BATCH:
            raise InputError(
                "wrong batch sizes",
                got="min {}, opt {}, max {}".format(*batches),
                expected=f"1 <= min <= opt <= max <= {_LARGEST_BATCH}",
                fix="Correct --min-batch, --opt-batch and --max-batch.",
            )
        return batches


def chosen_builder(backend: str) -> EngineBuilder:
    """The builder of that name; for "auto" the first that is installed.

    Raises:
        RuntimeFailure: None is installed.
    """
    named = {builder.name: builder for builder in ENGINE_BUILDERS}
    if backend in named:
        return named[backend]
    for builder in ENGINE_BUILDERS:
        if _installed(builder):
            return builder
    raise RuntimeFailure(
        "no engine builder is installed",
        got=f"neither of {', '.join(named)}",
        expected="one of them",
        fix=ENGINE_BUILDERS[0].availability().fix
        + ", or "
        + ENGINE_BUILDERS[1].availability().fix.removeprefix("Run: "),
    )


def plugin_library(builder: EngineBuilder, request: EngineRequest) -> Path | None:
    """The plugin library to build with, or None for function bodies.

    Raises:
        InputError: One is named for a builder without plugins, or together with --no-plugins.
        RuntimeFailure: It is missing.
    """
    named = request.plugin_library
    if named is not None and not (builder.takes_plugins and request.plugins):
        raise InputError(
            "a plugin library that would not be used",
            got=f"--plugin-library with {'--no-plugins' if not request.plugins else builder.name}",
            expected="--backend tensorrt, with plugins",
            fix="Leave --plugin-library out, or change the other option.",
        )
    if not (builder.takes_plugins and request.plugins):
        return None
    return plugin_library_path() if named is None else named


def _installed(builder: EngineBuilder) -> bool:
    try:
        builder.version()
    except ImportError:
        return False
    return True
