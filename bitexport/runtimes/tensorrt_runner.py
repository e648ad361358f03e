"""Models and engines in TensorRT or TensorRT-RTX, on a GPU.

A model is built into an engine for the batch at hand, its custom ops run by plugins where the
library has plugins; an engine that was built before is loaded as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.runtimes.base import Arrays, Availability, BuiltEngine, EngineOptions
from bitexport.runtimes.device_memory import device_memory, device_memory_availability
from bitexport.runtimes.driver import first_gpu
from bitexport.runtimes.engine_build import recording_logger, refusal
from bitexport.runtimes.engine_run import run_engine
from bitexport.runtimes.libraries import plugin_library_path
from bitexport.runtimes.plugin_nodes import without_functions
from bitexport.runtimes.tensorrt import TensorRT, load_plugins
from bitexport.runtimes.tensorrt_rtx import TensorRTRTX

__all__ = ["EngineRuntime"]

_NO_GPU = "Run it on a machine with an NVIDIA GPU; there, look at nvidia-smi."


class EngineRuntime:
    """A library of engines as a runtime; device buffers by cuda-python or pycuda.

    Args:
        builder: The library.
    """

    def __init__(self, builder: TensorRT | TensorRTRTX) -> None:
        self.name = builder.name
        self._builder = builder

    def availability(self) -> Availability:
        """Whether the library, a GPU and a package for device buffers are there."""
        title = f"{self.name} runner"
        built, memory = self._builder.availability(), device_memory_availability()
        if not built.ok:
            return Availability(title, False, built.detail, built.fix)
        if first_gpu() is None:
            return Availability(title, False, f"{built.detail}, but no GPU to run on", _NO_GPU)
        if not memory.ok:
            return Availability(title, False, memory.detail, memory.fix)
        return Availability(title, True, f"{built.detail}, buffers by {memory.detail}")

    def load(self, model: bytes, *, threads: int = 0) -> _ModelRunner:
        """A runner; ``threads`` means nothing to a GPU.

        Raises:
            RuntimeFailure: Something is missing; a plugin library too, if the model has our ops.
        """
        del threads
        self.availability().require()
        return _ModelRunner(self._builder, model)

    def load_engine(self, engine: BuiltEngine) -> _EngineRunner:
        """A runner of an engine that was built before.

        Raises:
            RuntimeFailure: Something is missing, or the library refuses the engine: another
                version built it, or it is for another GPU.
        """
        self.availability().require()
        trt = self._builder.module()
        if engine.plugin_library is not None:
            load_plugins(trt, engine.plugin_library, engine.ops)
        return _EngineRunner(trt, self._builder.title, engine.data)


class _EngineRunner:
    def __init__(self, trt: Any, title: str, data: bytes) -> None:  # noqa: ANN401
        self._trt = trt
        logger = recording_logger(trt)
        # The runtime must outlive what it made.
        self._runtime = trt.Runtime(logger)
        engine = self._runtime.deserialize_cuda_engine(data)
        self._context = None if engine is None else engine.create_execution_context()
        if self._context is None:
            raise refusal(title, "cannot run the engine", logger.last)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        memory = device_memory()
        try:
            return run_engine(self._trt, self._context, memory, inputs)
        finally:
            memory.close()


class _ModelRunner:
    def __init__(self, builder: TensorRT | TensorRTRTX, model: bytes) -> None:
        self._builder = builder
        self._model = model
        self._library = _library_for(builder, model)
        self._largest = 0
        self._engine: _EngineRunner | None = None

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        batch = max((array.shape[0] for array in inputs.values() if array.ndim), default=1)
        if self._engine is None or batch > self._largest:
            options = EngineOptions(1, batch, batch, plugin_library=self._library)
            data = self._builder.build(self._model, options).data
            self._engine = _EngineRunner(self._builder.module(), self._builder.title, data)
            self._largest = batch
        return self._engine.run(inputs)


def _library_for(builder: TensorRT | TensorRTRTX, model: bytes) -> Path | None:
    takes = builder.takes_plugins and without_functions(model).nodes
    return plugin_library_path() if takes else None
