"""ONNX Runtime: stock (function bodies), or with our op library (native kernels)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.errors import RuntimeFailure
from bitexport.runtimes.base import Arrays, Availability
from bitexport.runtimes.libraries import cpu_kernel, op_library_path

__all__ = ["OnnxRuntime", "session"]

_ERRORS_ONLY = 3


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Args:
        native: Register our op library, so that its kernels run instead of the bodies.
    """

    def __init__(self, *, native: bool) -> None:
        self.name = "ort-native" if native else "ort"
        self._native = native

    def availability(self) -> Availability:
        """Whether onnxruntime imports and, for native, the op library is there."""
        try:
            import onnxruntime
        except ImportError as error:
            return Availability(self.name, False, str(error), "Run: pip install onnxruntime")
        detail = f"onnxruntime {onnxruntime.__version__}"
        if not self._native:
            return Availability(self.name, True, detail)
        try:
            path, kernel = op_library_path(), cpu_kernel()
        except RuntimeFailure as error:
            return Availability(self.name, False, error.got, error.fix)
        return Availability(self.name, True, f"{detail} with {path}, kernel {kernel}")

    def load(self, model: bytes, *, threads: int = 0) -> _Session:
        """An inference session on the CPU."""
        self.availability().require()
        return _Session(session(model, native=self._native, threads=threads))


def session(
    model: bytes | str,
    *,
    native: bool = True,
    threads: int = 0,
    providers: list[str] | None = None,
) -> Any:  # noqa: ANN401  (onnxruntime ships no types)
    """An ``onnxruntime.InferenceSession`` for a model's path or bytes.

    Args:
        model: Path of an .onnx file, or its bytes.
        native: Register our op library.
        threads: ``intra_op_num_threads``; 0 lets ONNX Runtime choose.
        providers: Execution providers; the CPU by default.

    Raises:
        RuntimeFailure: The op library is missing, or ONNX Runtime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    library = str(op_library_path()) if native else ""
    try:
        if native:
            options.register_custom_ops_library(library)
        return onnxruntime.InferenceSession(
            model, options, providers=providers or ["CPUExecutionProvider"]
        )
    except Exception as error:
        raise RuntimeFailure(
            "ONNX Runtime refuses the model",
            got=str(error),
            expected="a model that loads",
            fix="Check the file with `bitexport inspect`.",
        ) from error


class _Session:
    def __init__(self, inner: Any) -> None:  # noqa: ANN401
        self._inner = inner
        self._outputs = [output.name for output in inner.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        try:
            results = self._inner.run(self._outputs, dict(inputs))
        except Exception as error:
            raise RuntimeFailure(
                "ONNX Runtime could not run the model",
                got=str(error),
                expected="inputs that the model takes",
                fix="Check the names and shapes of the inputs.",
            ) from error
        return dict(zip(self._outputs, results, strict=True))
