"""Memory and a stream on the GPU, by cuda-python or by pycuda."""

from __future__ import annotations

import importlib
import os
from typing import Any, Protocol

import numpy.typing as npt

from bitexport.errors import InputError, RuntimeFailure
from bitexport.runtimes.base import Availability

__all__ = [
    "DEVICE_MEMORIES",
    "CudaPythonMemory",
    "DeviceMemory",
    "PyCudaMemory",
    "device_memory",
    "device_memory_availability",
]

_VARIABLE = "BITEXPORT_DEVICE_MEMORY"
_INSTALL = "Run: pip install cuda-python"


class DeviceMemory(Protocol):
    """One stream of GPU 0, and buffers for it. All copies are complete when they return."""

    def stream(self) -> int:
        """The stream's handle."""
        ...

    def allocate(self, size: int) -> int:
        """Address of ``size`` fresh bytes, which live until :meth:`close`."""
        ...

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy a contiguous array to the device."""
        ...

    def download(self, address: int, array: npt.NDArray[Any]) -> None:
        """Wait for the stream, then fill a contiguous array from the device."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class CudaPythonMemory:
    """By NVIDIA's cuda-python.

    Raises:
        ImportError: It is not installed.
        RuntimeFailure: There is no GPU, or no driver for it.
    """

    name = "cuda-python"
    module = "cuda.bindings.runtime"

    def __init__(self) -> None:
        self._cuda = importlib.import_module(self.module)
        self._addresses: list[int] = []
        self._stream = self._call("cudaStreamCreate")

    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def allocate(self, size: int) -> int:
        """Address of fresh bytes; a tensor without elements gets one, as an address of its own."""
        address = int(self._call("cudaMalloc", max(1, size)))
        self._addresses.append(address)
        return address

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy to the device, in order with the stream."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def download(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy from the device, in order with the stream."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def close(self) -> None:
        """Free everything; errors of the work before were reported where it was done."""
        for address in self._addresses:
            self._cuda.cudaFree(address)
        self._addresses.clear()
        self._cuda.cudaStreamDestroy(self._stream)

    def _copy(self, destination: int, source: int, size: int, kind: Any) -> None:  # noqa: ANN401
        self._call("cudaMemcpyAsync", destination, source, size, kind, self._stream)
        self._call("cudaStreamSynchronize", self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401
        status, *results = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            raise _failure(f"{name}: {status.name}")
        return results[0] if results else None


class PyCudaMemory:
    """By pycuda, in the GPU's primary context, which TensorRT works in.

    Raises:
        ImportError: It is not installed, or finds no driver.
        RuntimeFailure: There is no GPU, or no driver for it.
    """

    name = "pycuda"
    module = "pycuda.driver"

    def __init__(self) -> None:
        self._cuda = importlib.import_module(self.module)
        try:
            self._cuda.init()
            self._context = self._cuda.Device(0).retain_primary_context()
        except self._cuda.Error as error:
            raise _failure(error) from error
        self._context.push()
        self._buffers: list[Any] = []
        self._stream = self._cuda.Stream()

    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.handle)

    def allocate(self, size: int) -> int:
        """Address of fresh bytes."""
        try:
            self._buffers.append(self._cuda.mem_alloc(max(1, size)))
        except self._cuda.Error as error:
            raise _failure(error) from error
        return int(self._buffers[-1])

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy to the device."""
        self._cuda.memcpy_htod(address, array)

    def download(self, address: int, array: npt.NDArray[Any]) -> None:
        """Wait for the stream, then copy from the device."""
        self._stream.synchronize()
        self._cuda.memcpy_dtoh(array, address)

    def close(self) -> None:
        """Free everything."""
        for buffer in self._buffers:
            buffer.free()
        self._buffers.clear()
        self._context.pop()


DEVICE_MEMORIES: tuple[type[CudaPythonMemory] | type[PyCudaMemory], ...] = (
    CudaPythonMemory,
    PyCudaMemory,
)


def device_memory() -> DeviceMemory:
    """Open the first of the table that is installed.

    ``BITEXPORT_DEVICE_MEMORY`` names another.

    Raises:
        InputError: The variable names none of them.
        RuntimeFailure: None is installed, or there is no GPU.
    """
    problem = "none is installed"
    for kind in _candidates():
        try:
            return kind()
        except ImportError as error:
            problem = f"{kind.name}: {error}"
    raise RuntimeFailure(
        "no way to GPU memory",
        got=problem,
        expected=" or ".join(kind.name for kind in DEVICE_MEMORIES),
        fix=_INSTALL,
    )


def device_memory_availability() -> Availability:
    """Which of the table would be used; the GPU itself is not touched."""
    problems = []
    for kind in _candidates():
        try:
            importlib.import_module(kind.module)
        except ImportError as error:
            problems.append(f"{kind.name}: {error}")
        else:
            return Availability("device memory", True, kind.name)
    return Availability("device memory", False, "; ".join(problems), _INSTALL)


def _candidates() -> tuple[type[CudaPythonMemory] | type[PyCudaMemory], ...]:
    named = os.environ.get(_VARIABLE)
    if not named:
        return DEVICE_MEMORIES
    found = tuple(kind for kind in DEVICE_MEMORIES if kind.name == named)
    if not found:
        raise InputError(
            f"wrong {_VARIABLE}",
            got=named,
            expected=" or ".join(kind.name for kind in DEVICE_MEMORIES),
            fix="Correct or unset it.",
        )
    return found


def _failure(got: object) -> RuntimeFailure:
    return RuntimeFailure(
        "the GPU cannot be used",
        got=got,
        expected="an NVIDIA GPU with a driver that fits",
        fix="Look at nvidia-smi.",
    )
