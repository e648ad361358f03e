"""The runtimes that can run or build what we export: two visible tables."""

from __future__ import annotations

from bitexport.errors import InputError
from bitexport.runtimes.base import (
    Arrays,
    Availability,
    EngineBuilder,
    EngineOptions,
    Runner,
    Runtime,
)
from bitexport.runtimes.libraries import op_library_path, plugin_library_path
from bitexport.runtimes.ort import OnnxRuntime, session
from bitexport.runtimes.reference import ReferenceRuntime
from bitexport.runtimes.tensorrt_rtx import TensorRTRTX

__all__ = [
    "ENGINE_BUILDERS",
    "RUNTIMES",
    "Arrays",
    "Availability",
    "EngineBuilder",
    "EngineOptions",
    "Runner",
    "Runtime",
    "op_library_path",
    "plugin_library_path",
    "runtime_named",
    "session",
]

RUNTIMES: tuple[Runtime, ...] = (
    OnnxRuntime(native=False),
    OnnxRuntime(native=True),
    OnnxRuntime(native=False, cuda=True),
    ReferenceRuntime(),
)
ENGINE_BUILDERS: tuple[EngineBuilder, ...] = (TensorRTRTX(),)


def runtime_named(name: str) -> Runtime:
    """The runtime called ``name``.

    Raises:
        InputError: There is none.
    """
    for runtime in RUNTIMES:
        if runtime.name == name:
            return runtime
    raise InputError(
        "unknown runtime",
        got=name,
        expected=" or ".join(runtime.name for runtime in RUNTIMES),
        fix="Correct --runtime.",
    )
