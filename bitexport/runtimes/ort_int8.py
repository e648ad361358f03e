"""Static int8 quantization by ONNX Runtime: QuantizeLinear and DequantizeLinear around layers."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.errors import RuntimeFailure
from bitexport.runtimes.ort import imported

__all__ = ["static_int8"]

FloatArray = npt.NDArray[np.float32]


def static_int8(model: bytes, input_name: str, batches: Sequence[FloatArray]) -> bytes:
    """Quantize a float32 model: int8 weights, a scale per channel, uint8 activations.

    With signed activations ONNX Runtime keeps most nodes in float32 on x86: four times as slow.

    Args:
        model: ModelProto bytes.
        input_name: The input that the batches are fed to.
        batches: float32 [N, C, H, W] each; the activations' ranges are their smallest and
            largest values.

    Returns:
        The quantized model in the QDQ format, which ONNX Runtime turns into integer kernels.

    Raises:
        RuntimeFailure: ONNX Runtime cannot quantize the model.
    """
    imported()
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Feeds the batches, once."""

        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Any]] = iter([{input_name: b} for b in batches])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory(prefix="bitexport-") as folder, _quiet():
        # From a file: given a ModelProto, ONNX Runtime 1.20 moves its weights to files of its own,
        # where onnx 1.20 does not find them.
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        try:
            quantize_static(
                source,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        except Exception as error:
            raise RuntimeFailure(
                "ONNX Runtime cannot quantize the model",
                got=error,
                expected="a float32 model of supported operators",
                fix="Leave int8 out of --precisions.",
            ) from error
        return target.read_bytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice on pre-processing off the terminal; our graph is folded.

    So is what numpy says of activations without a range, those of NaN weights.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        root.setLevel(level)
