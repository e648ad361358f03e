"""ONNX Runtime: stock (function bodies), or with our op library (native kernels)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from bitexport.errors import RuntimeFailure
from bitexport.ops.loose_signs import SIGN_MAKERS, loose_signs
from bitexport.runtimes.base import Arrays, Availability, ModelRefused
from bitexport.runtimes.driver import first_gpu
from bitexport.runtimes.libraries import (
    cpu_kernel,
    cuda_op_library_path,
    op_library_of_this_version,
)

__all__ = ["OnnxRuntime", "imported", "profiling_session", "session"]

# Its errors come as exceptions; on stderr they would stand there twice.
_FATAL_ONLY = 4
_NO_THREAD = "pthread_create failed"
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_CUDA_FIX = (
    "Run: pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu, "
    "on a machine with an NVIDIA GPU"
)


class OnnxRuntime:
    """ONNX Runtime on the CPU, or with its CUDA execution provider.

    Args:
        native: Register our op library, so that its kernels run instead of the bodies.
        cuda: Run on the GPU.
    """

    def __init__(self, *, native: bool, cuda: bool = False) -> None:
        self.name = "ort-native" if native else "ort-cuda" if cuda else "ort"
        self._native = native
        self._cuda = cuda

    def availability(self) -> Availability:
        """Whether onnxruntime imports and, for native, the op library is there."""
        try:
            onnxruntime = imported()
        except ImportError as error:
            return Availability(self.name, False, str(error), "Run: pip install onnxruntime")
        detail = f"onnxruntime {onnxruntime.__version__}"
        if self._cuda:
            if _CUDA not in onnxruntime.get_available_providers():
                return Availability(self.name, False, f"{detail} without {_CUDA}", _CUDA_FIX)
            if first_gpu() is None:
                return Availability(
                    self.name, False, f"{detail}, but no GPU", "Look at nvidia-smi."
                )
            library = _cuda_library()
            how = "function bodies" if library is None else str(library)
            return Availability(self.name, True, f"{detail} with {how}")
        if not self._native:
            return Availability(self.name, True, detail)
        try:
            path, kernel = op_library_of_this_version(), cpu_kernel()
        except RuntimeFailure as error:
            return Availability(self.name, False, error.got, error.fix)
        return Availability(self.name, True, f"{detail} with {path}, kernel {kernel}")

    def load(self, model: bytes, *, threads: int = 0) -> _Session:
        """An inference session whose threads sleep between runs instead of spinning.

        ONNX Runtime itself does not heed OMP_NUM_THREADS, which numbers the threads of all else.
        """
        self.availability().require()
        told = os.environ.get("OMP_NUM_THREADS", "")
        threads = threads or (int(told) if told.isdecimal() else 0)
        providers = [_CUDA, _CPU] if self._cuda else [_CPU]
        native = self._native or (self._cuda and _cuda_library() is not None)
        inner = session(model, native=native, threads=threads, providers=providers, spinning=False)
        if self._cuda and _CUDA not in inner.get_providers():
            raise RuntimeFailure(
                "ONNX Runtime does not start on the GPU",
                got=f"only {', '.join(inner.get_providers())}",
                expected=_CUDA,
                fix="Look at nvidia-smi, and at the CUDA and cuDNN that onnxruntime-gpu needs.",
            )
        return _Session(inner)


def session(
    model: bytes | str,
    *,
    native: bool = True,
    threads: int = 0,
    providers: list[str] | None = None,
    spinning: bool = True,
) -> Any:  # noqa: ANN401  (onnxruntime ships no types)
    """An ``onnxruntime.InferenceSession`` for a model's path or bytes.

    Args:
        model: Path of an .onnx file, or its bytes.
        native: Register our op library; the one with CUDA kernels where the CUDA provider is named
            and the library is there.
        threads: ``intra_op_num_threads``; 0 lets ONNX Runtime choose.
        providers: Execution providers; the CPU by default.
        spinning: Threads burn their cores for a while after each run, too, as ONNX Runtime has it;
            sessions that take turns disturb each other that way.

    Raises:
        RuntimeFailure: The op library is missing, or of another version.
        ModelRefused: ONNX Runtime refuses the model.
    """
    cuda = _cuda_library() if native and _CUDA in (providers or ()) else None
    if cuda is None:
        library = op_library_of_this_version() if native else None
        return _open(model, _options(threads, spinning), library, providers)
    try:
        return _open(model, _options(threads, spinning), cuda, providers)
    except RuntimeFailure:
        # Where the provider does not start, ONNX Runtime goes on with the CPU, from which ops that
        # are registered for CUDA hide their bodies.
        library = op_library_of_this_version()
        found = _open(model, _options(threads, spinning), library, providers)
        if _CUDA in found.get_providers():
            raise
        return found


def profiling_session(model: bytes, native: bool, threads: int, prefix: str) -> Any:  # noqa: ANN401
    """A session on the CPU that writes what its nodes take to a file that starts with ``prefix``.

    Raises:
        RuntimeFailure: The op library is missing.
        ModelRefused: ONNX Runtime refuses the model.
    """
    options = _options(threads, spinning=False)
    options.enable_profiling = True
    options.profile_file_prefix = prefix
    library = op_library_of_this_version() if native else None
    return _open(model, options, library, None)


def imported() -> Any:  # noqa: ANN401
    """The onnxruntime module, silent in a process that has silenced its logs, as our commands do.

    What goes wrong before a session has a logger of its own, an overflow of an initializer's size
    say, goes to the default logger. Nobody can ask it how much it says, and so restore that: it
    stays as it is for a program that uses this package.
    """
    with _signals_held():
        import onnxruntime

    if not logging.getLogger(onnxruntime.__name__).isEnabledFor(logging.WARNING):
        onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    return onnxruntime


@contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait: an interruption while native code sets up a module may get lost."""
    held: list[int] = []
    numbers: tuple[signal.Signals, ...] = ()
    if "onnxruntime" not in sys.modules and threading.current_thread() is threading.main_thread():
        numbers = signal.SIGINT, signal.SIGTERM
    before = {n: handler for n in numbers if (handler := signal.getsignal(n)) is not None}
    for number in before:
        signal.signal(number, lambda received, _: held.append(received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for received in held:
            signal.raise_signal(received)


def _options(threads: int, spinning: bool) -> Any:  # noqa: ANN401
    options = imported().SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL_ONLY
    if not spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _open(
    model: bytes | str,
    options: Any,  # noqa: ANN401
    library: Path | None,
    providers: list[str] | None,
) -> Any:  # noqa: ANN401
    try:
        if library is not None:
            options.register_custom_ops_library(str(library))
    except Exception as error:
        raise RuntimeFailure(
            "ONNX Runtime does not load the op library",
            got=str(error),
            expected=f"{library} of this version",
            fix="Install bitexport again.",
        ) from error
    if library is not None:
        _require_whole_chains(model)
    try:
        return imported().InferenceSession(model, options, providers=providers or [_CPU])
    except Exception as error:
        if _NO_THREAD in str(error):
            raise RuntimeFailure(
                "ONNX Runtime cannot start its threads",
                got=_NO_THREAD,
                expected="room for one a processor",
                fix="Raise `ulimit -u` or the container's limit on processes, or set "
                "OMP_NUM_THREADS=1.",
            ) from error
        raise ModelRefused(
            "ONNX Runtime refuses the model",
            got=str(error),
            expected="a model that loads",
            fix="Check the file with `bitexport inspect`.",
        ) from error


def _require_whole_chains(model: bytes | str) -> None:
    """Refuse a model in which our kernels' signs reach other ops, see ops/loose_signs.py.

    Most models have no signs: of those nothing is parsed.

    Raises:
        ModelRefused: It is one.
    """
    try:
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
    except OSError:
        return  # ONNX Runtime says what is wrong with it
    if not any(name.encode() in data for name in SIGN_MAKERS):
        return
    import onnx

    try:
        found = loose_signs(onnx.ModelProto.FromString(data))
    except DecodeError as error:
        found = f"what is no ONNX file: {error}"
    if found is not None:
        raise ModelRefused(
            "The op library does not take the model",
            got=found,
            expected="signs that go from one op of a chain straight to others",
            fix="Export the model again with `bitexport onnx`.",
        )


def _cuda_library() -> Path | None:
    try:
        return cuda_op_library_path()
    except RuntimeFailure:
        return None


class _Session:
    def __init__(self, inner: Any) -> None:  # noqa: ANN401
        self._inner = inner
        self._outputs = [output.name for output in inner.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        try:
            results = self._inner.run(self._outputs, dict(inputs))
        except Exception as error:
            raise ModelRefused(
                "ONNX Runtime could not run the model",
                got=str(error),
                expected="inputs that the model takes",
                fix="Check the names and shapes of the inputs.",
            ) from error
        return dict(zip(self._outputs, results, strict=True))
