"""The runtimes that can run or build what we export: two visible tables."""

from __future__ import annotations

from bitexport.errors import InputError
from bitexport.runtimes.base import (
    Arrays,
    Availability,
    Engine,
    EngineBuilder,
    EngineLayer,
    EngineOptions,
    ModelRefused,
    Runner,
    Runtime,
)
from bitexport.runtimes.driver import first_gpu
from bitexport.runtimes.libraries import op_library_path, plugin_library_path
from bitexport.runtimes.ort import OnnxRuntime, session
from bitexport.runtimes.plugin_nodes import without_functions
from bitexport.runtimes.reference import ReferenceRuntime
from bitexport.runtimes.tensorrt import TensorRT, timing_cache_path
from bitexport.runtimes.tensorrt_rtx import TensorRTRTX
from bitexport.runtimes.tensorrt_runner import TensorRTRuntime

__all__ = [
    "ENGINE_BUILDERS",
    "RUNTIMES",
    "Arrays",
    "Availability",
    "Engine",
    "EngineBuilder",
    "EngineLayer",
    "EngineOptions",
    "ModelRefused",
    "Runner",
    "Runtime",
    "TensorRTRTX",
    "first_gpu",
    "op_library_path",
    "plugin_library_path",
    "runtime_named",
    "session",
    "timing_cache_path",
    "without_functions",
]

RUNTIMES: tuple[Runtime, ...] = (
    OnnxRuntime(native=False),
    OnnxRuntime(native=True),
    OnnxRuntime(native=False, cuda=True),
    ReferenceRuntime(),
    TensorRTRuntime(),
)
ENGINE_BUILDERS: tuple[EngineBuilder, ...] = (TensorRT(), TensorRTRTX())


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
