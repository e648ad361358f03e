"""A runtime in a process of its own: where a model brings it down, only that process ends.

Runtimes check what they read, but not everything: a size that ONNX Runtime infers to be negative,
or a division that the CPU refuses, ends the process that it is in. So the commands run a
stranger's file here. Shapes that are only known at run time can ask for any memory, and a loop for
any time: there are limits.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.errors import InputError
from bitexport.runtimes import Arrays, Availability, ModelRefused, Runner, Runtime, runtime_named
from bitexport.worker import (
    Said,
    Worker,
    WorkerCrash,
    WorkerKilled,
    WorkerTimeout,
    limit_memory,
    limit_time,
    serve,
)

__all__ = ["ModelCrashed", "ModelStopped", "ModelTooGreedy", "contained", "memory_for", "work"]

_NUMBERS = "biuf"  # kinds of dtypes
# Of all outputs of a run; large images may have large maps, as a detector's masks are.
_MOST_BYTES, _MOST_BYTES_EVER = 256 << 20, 1 << 30
# A model may take so much, and so many times its file: a bit becomes a float of 32 on the way to
# being folded, an index of 64, and both are there several times. Measured: 60 to 190 times.
_MEMORY = "BITEXPORT_MODEL_MEMORY"
_MIB, _GIB = 1 << 20, 1 << 30
_TIMES_THE_FILE = 256
# What a network takes for its inputs, at most: the first layers make large maps of few channels.
_TIMES_THE_INPUTS = 64
_SECONDS = "BITEXPORT_MODEL_SECONDS"
_USUAL_SECONDS = 600  # to load a model, or for one run
_SECONDS_A_MIB = 10  # of inputs that the user gives; an image of 224 x 224 is half of one
_LARGEST = (1 << 63) - 1
# Elsewhere the driver takes memory as it likes.
_ON_THE_CPU = ("ort", "ort-native", "reference")
# What ONNX Runtime says, and C++.
_NO_MEMORY = ("Failed to allocate", "bad allocation", "bad_alloc")


class ModelStopped(ModelRefused):
    """A model that must run nowhere else: the process that it ran in saw to that."""


class ModelCrashed(ModelStopped):
    """A model ended the process."""


class ModelTooGreedy(ModelStopped):
    """A model took more memory or time than it may have."""


def memory_for(input_shape: Sequence[int], count: int = 1) -> int:
    """Bytes that a model may well take for so many float32 inputs of a shape."""
    return _TIMES_THE_INPUTS * 4 * math.prod(input_shape) * count


@contextmanager
def contained(name: str, *, spare: int = 0) -> Iterator[Runtime]:
    """The runtime called ``name``, in a process that starts with its first model.

    Its errors are those of the runtime itself; a model that ends the process raises ModelCrashed,
    one that takes too much memory or time ModelTooGreedy.

    Args:
        name: The runtime's.
        spare: Bytes of memory that models may take beyond what is usual for their files: what the
            user asks for, with large batches say. They may take more time for it, too.

    Raises:
        InputError: There is no such runtime, or ``BITEXPORT_MODEL_MEMORY`` or
            ``BITEXPORT_MODEL_SECONDS`` is no positive number.
    """
    runtime = runtime_named(name)
    limits: _Limits | None = None
    if name in _ON_THE_CPU:
        given = spare // _TIMES_THE_INPUTS // _MIB
        limits = _Limits(
            memory=_variable(_MEMORY, 1, _GIB) + spare,
            seconds=_variable(_SECONDS, _USUAL_SECONDS, 1) + given * _SECONDS_A_MIB,
        )
    with Worker(__name__, name) as worker:
        yield _Contained(runtime, worker, limits)


def _variable(name: str, usual: int, unit: int) -> int:
    """A positive number of the environment, in units."""
    given = os.environ.get(name, str(usual))
    with suppress(ValueError, OverflowError):
        found = int(float(given) * unit)
        if 0 < found <= _LARGEST:
            return found
    raise InputError(
        f"{name} sets no limit",
        got=repr(given),
        expected="a positive number",
        fix=f"Correct the variable, or unset it for {usual}.",
    )


@dataclass(frozen=True)
class _Limits:
    """What a model may take.

    Attributes:
        memory: Bytes, beside many times its file.
        seconds: To load it, and for a run.
    """

    memory: int
    seconds: int


class _Contained:
    def __init__(self, inner: Runtime, worker: Worker, limits: _Limits | None) -> None:
        self.name = inner.name
        self._inner = inner
        self._worker = worker
        self._limits = limits
        self._numbers = count()
        self._dropped: list[int] = []

    def availability(self) -> Availability:
        """That of the runtime; here, as it runs nothing."""
        return self._inner.availability()

    def load(self, model: bytes, *, threads: int = 0) -> Runner:
        """Load a model in the other process, where it stays as long as the runner here."""
        number = next(self._numbers)
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        job = {"load": number, "runtime": self.name, "threads": threads, "dropped": dropped}
        self.ask(job, {"model": np.frombuffer(model, np.uint8)})
        runner = _ContainedRunner(self, number)
        weakref.finalize(runner, self._dropped.append, number)
        return runner

    def ask(self, job: Said, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
        limits = self._limits
        try:
            return self._worker.ask({**job, "limits": limits and asdict(limits)}, arrays)[1]
        except MemoryError as error:
            if limits is None or isinstance(error, WorkerKilled):
                raise
            most = f"{limits.memory / _GIB:.3g} GiB and {_TIMES_THE_FILE} times its file"
            raise _too_greedy("memory", most, f"{_MEMORY} to more GiB") from error
        except WorkerTimeout as crash:
            most = f"{limits.seconds if limits else 0} seconds"
            raise _too_greedy("time", most, f"{_SECONDS} to more") from crash
        except WorkerCrash as crash:
            raise ModelCrashed(
                f"{self.name} crashes on the model",
                got=crash,
                expected="a model that loads and runs",
                fix="Check the file with `bitexport inspect`.",
            ) from crash


def _too_greedy(what: str, most: str, setting: str) -> ModelTooGreedy:
    return ModelTooGreedy(
        f"the model takes too much {what}",
        got=f"more than {most}",
        expected="a model that loads and runs in less",
        fix=f"Give fewer images, or set {setting} if you trust the file.",
    )


class _ContainedRunner:
    def __init__(self, runtime: _Contained, number: int) -> None:
        self._runtime = runtime
        self._number = number

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run the model there."""
        return self._runtime.ask({"run": self._number}, inputs)


def work() -> None:
    """The other process."""
    loaded: dict[int, tuple[Runner, int]] = {}

    def load(job: Said, model: bytes) -> None:
        for number in job["dropped"]:
            loaded.pop(number, None)
        if job["limits"] is not None:
            files = len(model) + sum(size for _, size in loaded.values())
            limit_memory(job["limits"]["memory"] + _TIMES_THE_FILE * files)
        runner = runtime_named(job["runtime"]).load(model, threads=job["threads"])
        loaded[job["load"]] = runner, len(model)

    def answer(job: Said, arrays: dict[str, npt.NDArray[Any]]) -> tuple[Said, Arrays]:
        try:
            if job["limits"] is not None:
                limit_time(job["limits"]["seconds"])
            if "run" in job:
                return {}, _checked(loaded[job["run"]][0].run(arrays), arrays)
            load(job, arrays["model"].tobytes())
        except ModelRefused as error:
            if any(words in error.got for words in _NO_MEMORY):
                raise MemoryError(error.got) from error
            raise
        finally:
            limit_time(0)
        return {}, {}

    serve(answer)


def _checked(outputs: Arrays, inputs: Arrays) -> Arrays:
    for name, output in outputs.items():
        # What is typed as an array may be a sequence, an optional or text.
        kind = getattr(output, "dtype", None)
        if kind is None or kind.kind not in _NUMBERS:
            raise ModelRefused(
                "the model gives something else than numbers",
                got=f"{kind or type(output).__name__} in its output {name!r}",
                expected="arrays of numbers",
                fix="Check the file with `bitexport inspect`.",
            )
    whole, given = (sum(array.nbytes for array in arrays.values()) for arrays in (outputs, inputs))
    most = min(max(_MOST_BYTES, _TIMES_THE_INPUTS * given), _MOST_BYTES_EVER)
    if whole > most:
        raise ModelRefused(
            "the model gives too much at once",
            got=f"{whole >> 20} MiB",
            expected=f"outputs of up to {most >> 20} MiB together",
            fix="Give fewer images; if few give so much, look where the file comes from.",
        )
    return outputs
