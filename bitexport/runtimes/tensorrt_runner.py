"""Models in TensorRT: an engine is built for the batch at hand, custom ops run by plugins."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.runtimes.base import Arrays, Availability, EngineOptions
from bitexport.runtimes.device_memory import device_memory, device_memory_availability
from bitexport.runtimes.engine_build import recording_logger, refusal
from bitexport.runtimes.engine_run import run_engine
from bitexport.runtimes.libraries import plugin_library_path
from bitexport.runtimes.plugin_nodes import without_functions
from bitexport.runtimes.tensorrt import TensorRT

__all__ = ["TensorRTRuntime"]


class TensorRTRuntime:
    """TensorRT as a runtime; device buffers by cuda-python or pycuda."""

    name = "tensorrt"

    def __init__(self) -> None:
        self._builder = TensorRT()

    def availability(self) -> Availability:
        """Whether TensorRT, a GPU and a package for device buffers are there."""
        title = "tensorrt runner"
        built, memory = self._builder.availability(), device_memory_availability()
        for needed in (built, memory):
            if not needed.ok:
                return Availability(title, False, needed.detail, needed.fix)
        return Availability(title, True, f"{built.detail}, buffers by {memory.detail}")

    def load(self, model: bytes, *, threads: int = 0) -> _Runner:
        """A runner; ``threads`` means nothing to a GPU.

        Raises:
            RuntimeFailure: Something is missing; a plugin library too, if the model has our ops.
        """
        del threads
        self.availability().require()
        return _Runner(self._builder, model)


class _Runner:
    def __init__(self, builder: TensorRT, model: bytes) -> None:
        self._builder = builder
        self._model = model
        self._library = plugin_library_path() if without_functions(model).nodes else None
        self._largest = 0
        self._context: Any = None
        self._runtime: Any = None

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        trt = self._builder.module()
        batch = max((array.shape[0] for array in inputs.values() if array.ndim), default=1)
        if batch > self._largest:
            self._load(trt, batch)
        memory = device_memory()
        try:
            return run_engine(trt, self._context, memory, inputs)
        finally:
            memory.close()

    def _load(self, trt: Any, batch: int) -> None:  # noqa: ANN401
        options = EngineOptions(1, batch, batch, plugin_library=self._library)
        engine_bytes = self._builder.build(self._model, options).data
        logger = recording_logger(trt)
        # The runtime must outlive what it made.
        self._runtime = trt.Runtime(logger)
        engine = self._runtime.deserialize_cuda_engine(engine_bytes)
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            raise refusal("TensorRT", "cannot run the engine", logger.last)
        self._context, self._largest = context, batch
