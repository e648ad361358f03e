"""What the onnx package's C++ does to a stranger's model, in a process of its own.

Its shape inference is written with assertions: a Slice of an axis whose size is below zero, for
one, ends the process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.errors import InputError
from bitexport.worker import Arrays, Said, Worker, WorkerCrash, limit_memory, serve

__all__ = ["OnnxLibrary", "OnnxRefusal", "work"]


# It parses, changes and writes a model; nothing of that makes much of little.
_MOST_BYTES = 1 << 30
_TIMES_THE_FILE = 16


class OnnxRefusal(Exception):
    """What onnx says of a model that it does not take."""


class OnnxLibrary(Worker):
    """The functions of onnx, on serialized models; a context, which ends the process.

    Args:
        file: For messages.
    """

    def __init__(self, file: object) -> None:
        super().__init__(__name__, "onnx")
        self._file = file

    def check(self, model: bytes) -> None:
        """Let onnx's checker look at the model.

        Raises:
            OnnxRefusal: It finds fault with it.
            InputError: It crashes.
        """
        self._ask("check", model)

    def infer_shapes(self, model: bytes, *, believing: bool = True) -> bytes:
        """The model with the shapes that onnx can infer.

        Args:
            model: Serialized.
            believing: Keep what the file says of values within and of outputs, where onnx infers
                something else.

        Raises:
            OnnxRefusal: The shapes contradict each other.
            InputError: It crashes.
        """
        return self._ask("infer_shapes" if believing else "infer_shapes_anew", model)

    def convert(self, model: bytes, opset: int) -> bytes:
        """The model in another opset.

        Raises:
            OnnxRefusal: An operator has no counterpart there.
            InputError: It crashes.
        """
        return self._ask("convert", model, opset)

    def _ask(self, function: str, model: bytes, opset: int = 0) -> bytes:
        job = {"function": function, "opset": opset}
        try:
            said, found = self.ask(job, {"model": np.frombuffer(model, np.uint8)})
        except WorkerCrash as crash:
            raise InputError(
                f"{self._file}: the model crashes the onnx package",
                got=crash,
                expected="a model that onnx can read",
                fix="The file is damaged; export the model again.",
            ) from crash
        if "refusal" in said:
            raise OnnxRefusal(said["refusal"])
        return found["model"].tobytes()


def work() -> None:
    """The other process."""
    serve(_answer)


def _answer(job: Said, arrays: dict[str, npt.NDArray[Any]]) -> tuple[Said, Arrays]:
    import onnx

    given = arrays["model"].tobytes()
    limit_memory(_MOST_BYTES + _TIMES_THE_FILE * len(given))
    try:
        found = onnx.ModelProto.FromString(given)
        if job["function"] == "check":
            onnx.checker.check_model(found)
        elif job["function"].startswith("infer_shapes"):
            if job["function"] == "infer_shapes_anew":
                del found.graph.value_info[:]
                for output in found.graph.output:
                    if output.type.HasField("tensor_type"):
                        output.type.tensor_type.ClearField("shape")
            found = onnx.shape_inference.infer_shapes(found)
        else:
            found = onnx.version_converter.convert_version(found, job["opset"])
    except MemoryError:
        raise
    except Exception as error:
        return {"refusal": str(error).strip() or type(error).__name__}, {}
    data = b"" if job["function"] == "check" else found.SerializeToString()
    return {}, {"model": np.frombuffer(data, np.uint8)}
