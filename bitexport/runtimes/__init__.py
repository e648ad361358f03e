"""The runtimes that can run or build what we export: two visible tables."""

from __future__ import annotations

from bitexport.errors import InputError
from bitexport.runtimes.base import (
    Arrays,
    Availability,
    BuiltEngine,
    Engine,
    EngineBuilder,
    EngineLayer,
    EngineOptions,
    ModelRefused,
    Runner,
    Runtime,
)
from bitexport.runtimes.driver import first_gpu
from bitexport.runtimes.libraries import (
    cuda_op_library_path,
    op_library_path,
    plugin_library_path,
)
from bitexport.runtimes.ort import OnnxRuntime, session
from bitexport.runtimes.plugin_nodes import without_functions
from bitexport.runtimes.reference import ReferenceRuntime
from bitexport.runtimes.tensorrt import TensorRT, timing_cache_path
from bitexport.runtimes.tensorrt_rtx import TensorRTRTX
from bitexport.runtimes.tensorrt_runner import EngineRuntime

__all__ = [
    "ENGINE_BUILDERS",
    "ENGINE_RUNTIMES",
    "RUNTIMES",
    "Arrays",
    "Availability",
    "BuiltEngine",
    "Engine",
    "EngineBuilder",
    "EngineLayer",
    "EngineOptions",
    "EngineRuntime",
    "ModelRefused",
    "Runner",
    "Runtime",
    "TensorRTRTX",
    "cuda_op_library_path",
    "engine_runtime",
    "first_gpu",
    "load",
    "op_library_path",
    "plugin_library_path",
    "runtime_named",
    "session",
    "timing_cache_path",
    "without_functions",
]

_ENGINE_LIBRARIES = (TensorRT(), TensorRTRTX())
ENGINE_BUILDERS: tuple[EngineBuilder, ...] = _ENGINE_LIBRARIES
ENGINE_RUNTIMES = tuple(EngineRuntime(library) for library in _ENGINE_LIBRARIES)
RUNTIMES: tuple[Runtime, ...] = (
    OnnxRuntime(native=False),
    OnnxRuntime(native=True),
    OnnxRuntime(native=False, cuda=True),
    ReferenceRuntime(),
    *ENGINE_RUNTIMES,
)


def engine_runtime(name: str) -> EngineRuntime:
    """The runtime of the engines that the builder called ``name`` builds.

    Raises:
        InputError: There is none.
    """
    for runtime in ENGINE_RUNTIMES:
        if runtime.name == name:
            return runtime
    raise InputError(
        "an engine of an unknown library",
        got=name,
        expected=" or ".join(runtime.name for runtime in ENGINE_RUNTIMES),
        fix="Build the engine with `bitexport trt`.",
    )


def load(name: str, model: bytes | BuiltEngine, *, threads: int = 0) -> Runner:
    """A runner for an ONNX model, or for an engine in the library that built it.

    Args:
        name: The runtime's.
        model: ModelProto bytes, or an engine.
        threads: Threads inside an operator; 0 lets the runtime choose.

    Raises:
        InputError: There is no such runtime.
        RuntimeFailure: It is missing, or refuses the model.
    """
    if isinstance(model, BuiltEngine):
        return engine_runtime(name).load_engine(model)
    return runtime_named(name).load(model, threads=threads)


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
