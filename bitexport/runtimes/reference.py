"""onnx's own reference evaluator: slow, plain numpy, nobody's optimizations."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from bitexport.runtimes.base import Arrays, Availability, ModelRefused

__all__ = ["ReferenceRuntime"]


class ReferenceRuntime:
    """Evaluates the function bodies node by node."""

    name = "reference"

    def availability(self) -> Availability:
        """Always there: onnx is a dependency."""
        return Availability(self.name, True, f"onnx {onnx.__version__}")

    def load(self, model: bytes, *, threads: int = 0) -> _Evaluator:
        """An evaluator; ``threads`` means nothing to it."""
        del threads
        try:
            return _Evaluator(ReferenceEvaluator(onnx.load_model_from_string(model)))
        except Exception as error:
            raise _failure(error) from error


class _Evaluator:
    def __init__(self, inner: ReferenceEvaluator) -> None:
        self._inner = inner

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        try:
            results = cast(list[Any], self._inner.run(None, dict(inputs)))
        except Exception as error:
            raise _failure(error) from error
        return dict(zip(self._inner.output_names, results, strict=True))


def _failure(error: Exception) -> ModelRefused:
    return ModelRefused(
        "onnx's reference evaluator cannot run the model",
        got=error,
        expected="standard operators and well-formed inputs",
        fix="Check the file with `bitexport inspect`.",
    )
