"""Run a loaded engine once, on buffers of a device memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.errors import RuntimeFailure
from bitexport.runtimes.base import Arrays
from bitexport.runtimes.device_memory import DeviceMemory

__all__ = ["run_engine"]


def run_engine(
    trt: Any,  # noqa: ANN401
    context: Any,  # noqa: ANN401
    memory: DeviceMemory,
    inputs: Arrays,
) -> dict[str, npt.NDArray[np.float32]]:
    """Copy the inputs in, run, and copy the outputs back.

    Args:
        trt: The library's module.
        context: An ``IExecutionContext``.
        memory: Where the buffers go; its owner closes it.
        inputs: Input name -> array, of any layout; cast to the engine's element type.

    Returns:
        Output name -> float32 array.

    Raises:
        RuntimeFailure: An input is missing or of a shape that the engine does not take, or the
            engine fails.
    """
    engine = context.engine
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    is_input = {n: engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
    for name in (n for n in names if is_input[n]):
        if name not in inputs:
            raise _failure("an input is missing", ", ".join(inputs), name)
        array = np.ascontiguousarray(inputs[name], dtype=_dtype(trt, engine, name))
        if not context.set_input_shape(name, array.shape):
            raise _failure(
                f"input {name!r} has a shape that the engine does not take",
                list(array.shape),
                list(engine.get_tensor_shape(name)),
            )
        address = memory.allocate(array.nbytes)
        memory.upload(address, array)
        context.set_tensor_address(name, address)
    results = {}
    for name in (n for n in names if not is_input[n]):
        shape = tuple(context.get_tensor_shape(name))
        result = np.empty(shape, dtype=_dtype(trt, engine, name))
        results[name] = (memory.allocate(result.nbytes), result)
        context.set_tensor_address(name, results[name][0])
    if not context.execute_async_v3(memory.stream()):
        raise _failure("the engine does not run", "a refusal", "a run")
    for address, result in results.values():
        memory.download(address, result)
    return {name: np.asarray(result, np.float32) for name, (_, result) in results.items()}


def _dtype(trt: Any, engine: Any, name: str) -> np.dtype[Any]:  # noqa: ANN401
    dtype: np.dtype[Any] = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
    return dtype


def _failure(what: str, got: object, expected: object) -> RuntimeFailure:
    return RuntimeFailure(
        what,
        got=got,
        expected=expected,
        fix="Check the inputs and the engine's batch sizes.",
    )
