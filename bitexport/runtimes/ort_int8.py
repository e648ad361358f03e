"""Static int8 quantization by ONNX Runtime: QuantizeLinear and DequantizeLinear around layers.

It infers shapes with onnx's C++, which a stranger's graph can bring down, and so runs in a process
of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.errors import RuntimeFailure
from bitexport.runtimes.ort import imported
from bitexport.worker import Arrays, Said, Worker, WorkerCrash, WorkerKilled, limit_memory, serve

__all__ = ["static_int8", "work"]

FloatArray = npt.NDArray[np.float32]
_MODEL = "model"
_SOURCE, _TARGET = "float32.onnx", "int8.onnx"
# What quantizing takes, at most: several copies of the model, and the maps of all images.
_MOST_BYTES, _TIMES_THE_MODEL, _TIMES_THE_IMAGES = 1 << 30, 64, 64


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
    arrays: dict[str, npt.NDArray[Any]] = {str(i): batch for i, batch in enumerate(batches)}
    arrays[_MODEL] = np.frombuffer(model, np.uint8)
    # Here, as a process that crashes leaves it behind.
    with (
        tempfile.TemporaryDirectory(prefix="bitexport-") as folder,
        Worker(__name__, "ONNX Runtime's quantizer") as worker,
    ):
        try:
            worker.ask({"folder": folder, "input": input_name}, arrays)
        except WorkerKilled:
            raise
        except (WorkerCrash, MemoryError) as error:
            raise _refusal(error) from error
        return Path(folder, _TARGET).read_bytes()


def _refusal(reason: Exception) -> RuntimeFailure:
    return RuntimeFailure(
        "ONNX Runtime cannot quantize the model",
        got=reason,
        expected="a float32 model of supported operators",
        fix="Leave int8 out of --precisions.",
    )


def work() -> None:
    """The other process."""
    serve(_answer)


def _answer(job: Said, arrays: dict[str, npt.NDArray[Any]]) -> tuple[Said, Arrays]:
    model = arrays.pop(_MODEL)
    images = sum(batch.nbytes for batch in arrays.values())
    limit_memory(_MOST_BYTES + _TIMES_THE_MODEL * model.nbytes + _TIMES_THE_IMAGES * images)
    _quantize(Path(job["folder"]), model.tobytes(), job["input"], list(arrays.values()))
    return {}, {}


def _quantize(
    folder: Path, model: bytes, input_name: str, batches: Sequence[npt.NDArray[Any]]
) -> None:
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

    # From a file: given a ModelProto, ONNX Runtime 1.20 moves its weights to files of its own,
    # where onnx 1.20 does not find them.
    source = folder / _SOURCE
    source.write_bytes(model)
    try:
        quantize_static(
            source,
            folder / _TARGET,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    except MemoryError:
        raise
    except Exception as error:
        raise _refusal(error) from error
