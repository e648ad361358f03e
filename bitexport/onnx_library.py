"""What the onnx package's C++ does to a stranger's model, in a process of its own.

Its shape inference is written with assertions: a Slice of an axis whose size is below zero, for
one, ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bitexport.errors import InputError
from bitexport.worker import Arrays, Said, Worker, WorkerCrash, WorkerKilled, limit_memory, serve

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["OnnxLibrary", "OnnxRefusal", "work"]


# It parses, changes and writes a model; nothing of that makes much of little.
_MOST_BYTES = 1 << 30
_TIMES_THE_FILE = 16
_TIMES_READ = 4  # as bytes twice, and parsed
# A message takes two bytes of a file, and up to 2 KiB in the graph that we make of it, a graph or a
# function ten times the time of another, and a text little; a number takes one byte and up to 64
# here. What is honest has long runs of raw bytes instead.
_PARTS = {"text": 1, "message": 4, "graph": 40}
_MOST_PARTS = 1_000_000
_MOST_NUMBERS = 12 << 20
_BYTES_OF_A_NUMBER = 8  # and upwards: so many more bytes of the file allow one number more
_GRAPHS = ("GraphProto", "FunctionProto")
_NO_MEMORY = "alloc failed"  # what protobuf's parser says


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

    def require_modest(self, model: bytes) -> None:
        """Refuse a file of so many parts that all memory goes into what is made of them.

        Raises:
            OnnxRefusal: It cannot be parsed.
            InputError: It has too many messages, texts or numbers, or crashes the parser.
        """
        said, _ = self._ask("count", model)
        parts, numbers = said["parts"], said["numbers"]
        most = _MOST_NUMBERS + len(model) // _BYTES_OF_A_NUMBER
        if parts > _MOST_PARTS or numbers > most:
            raise InputError(
                f"{self._file}: the model has too many parts",
                got=f"over {_MOST_PARTS}"
                if parts > _MOST_PARTS
                else f"{numbers} numbers outside of raw data",
                expected=f"up to {_MOST_PARTS} for its messages and texts, and {most} numbers",
                fix="Look where the file comes from; it may have been made to do harm.",
            )

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
        _, inferred = self._ask("infer_shapes" if believing else "infer_shapes_anew", model)
        return inferred

    def convert(self, model: bytes, opset: int) -> bytes:
        """The model in another opset.

        Raises:
            OnnxRefusal: An operator has no counterpart there.
            InputError: It crashes.
        """
        return self._ask("convert", model, opset)[1]

    def _ask(self, function: str, model: bytes, opset: int = 0) -> tuple[Said, bytes]:
        job = {"function": function, "opset": opset}
        try:
            said, found = self.ask(job, {"model": np.frombuffer(model, np.uint8)})
        except WorkerKilled:
            raise
        except MemoryError as error:
            raise InputError(
                f"{self._file}: the onnx package takes too much memory for the model",
                got=f"more than {_MOST_BYTES >> 30} GiB and several times the file",
                expected="a model that it reads in less",
                fix="Look where the file comes from; it may have been made to do harm.",
            ) from error
        except WorkerCrash as crash:
            raise InputError(
                f"{self._file}: the model crashes the onnx package",
                got=crash,
                expected="a model that onnx can read",
                fix="The file is damaged; export the model again.",
            ) from crash
        if "refusal" in said:
            raise OnnxRefusal(said["refusal"])
        return said, found["model"].tobytes()


def work() -> None:
    """The other process."""
    serve(_answer)


def _answer(job: Said, arrays: dict[str, npt.NDArray[Any]]) -> tuple[Said, Arrays]:
    import onnx

    given = arrays["model"].tobytes()
    times = _TIMES_READ if job["function"] == "count" else _TIMES_THE_FILE
    limit_memory(_MOST_BYTES + times * len(given))
    try:
        found = onnx.ModelProto.FromString(given)
        if job["function"] == "count":
            parts, numbers = _count(found)
            return {"parts": parts, "numbers": numbers}, {"model": np.zeros(0, np.uint8)}
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
        if _NO_MEMORY in str(error):
            raise MemoryError(str(error)) from error
        return {"refusal": str(error).strip() or type(error).__name__}, {}
    data = b"" if job["function"] == "check" else found.SerializeToString()
    return {}, {"model": np.frombuffer(data, np.uint8)}


def _count(message: Message) -> tuple[int, int]:
    """The parts of a message, and how many numbers of variable length lie in it.

    More than ``_MOST_PARTS`` are not counted to their end.
    """
    parts = numbers = 0
    todo = [message]
    while todo:
        for kind, count, within in _fields(todo.pop()):
            numbers += count if kind == "number" else 0
            parts += _PARTS.get(kind, 0) * count
            if parts > _MOST_PARTS:
                return parts, numbers
            todo.extend(within)
    return parts, numbers


def _fields(message: Message) -> Iterator[tuple[str, int, Any]]:
    """(kind, count, the messages) of each field that is set; fixed-width numbers are no matter."""
    for field, value in message.ListFields():
        single = not hasattr(value, "__len__") or isinstance(value, str | bytes)
        count = 1 if single else len(value)
        if field.message_type is not None:
            kind = "graph" if field.message_type.name in _GRAPHS else "message"
            yield kind, count, (value,) if single else value
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            yield "text", count, ()
        elif not single and field.type not in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
            yield "number", count, ()
