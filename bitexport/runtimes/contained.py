"""A runtime in a process of its own: where a model brings it down, only that process ends.

Runtimes check what they read, but not everything. A size that ONNX Runtime infers to be negative,
for one, ends the process that it is in. So the commands run a stranger's file here.

The processes take turns over two pipes. A message is a line of JSON and then the bytes of the
arrays that the line describes: what comes back from a process that may have been taken over is
data, never code.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from bitexport.errors import BitexportError, InputError, RuntimeFailure, UnsupportedModel
from bitexport.runtimes import Arrays, Availability, ModelRefused, Runner, Runtime, runtime_named
from bitexport.runtimes.another_python import command, end_with_starter

__all__ = ["ModelCrashed", "contained", "work"]

# What a runtime raises, by the names that cross the pipe.
_ERRORS: Mapping[str, type[BitexportError]] = {
    kind.__name__: kind for kind in (ModelRefused, RuntimeFailure, InputError, UnsupportedModel)
}
_OUT_OF_MEMORY = MemoryError.__name__
_NUMBERS = "biuf"  # kinds of dtypes
_PATIENCE = 5  # seconds for the last words of a process that has ended


class ModelCrashed(ModelRefused):
    """A model ended the process that it ran in."""


@contextmanager
def contained(name: str) -> Iterator[Runtime]:
    """The runtime called ``name``, in a process that starts with its first model.

    Its errors are those of the runtime itself; a model that ends the process raises ModelCrashed.

    Raises:
        InputError: There is no such runtime.
    """
    process = _Process(name)
    try:
        yield _Contained(runtime_named(name), process)
    finally:
        process.end()


class _Contained:
    def __init__(self, inner: Runtime, process: _Process) -> None:
        self.name = inner.name
        self._inner = inner
        self._process = process
        self._numbers = count()

    def availability(self) -> Availability:
        """That of the runtime; here, as it runs nothing."""
        return self._inner.availability()

    def load(self, model: bytes, *, threads: int = 0) -> Runner:
        """Load a model in the other process, where it stays as long as the runner here."""
        number = next(self._numbers)
        job = {"load": number, "runtime": self.name, "threads": threads}
        self._process.ask(job, {"model": np.frombuffer(model, np.uint8)})
        runner = _ContainedRunner(self._process, number)
        weakref.finalize(runner, self._process.dropped.append, number)
        return runner


class _ContainedRunner:
    def __init__(self, process: _Process, number: int) -> None:
        self._process = process
        self._number = number

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run the model there."""
        _, outputs = self._process.ask({"run": self._number}, inputs)
        return outputs


class _Process:
    """The other process.

    Attributes:
        dropped: Numbers of models that it may forget.
    """

    def __init__(self, runtime: str) -> None:
        self.dropped: list[int] = []
        self._runtime = runtime
        self._process: subprocess.Popen[bytes] | None = None
        self._said: deque[bytes] = deque(maxlen=1)
        self._reader: threading.Thread | None = None

    def ask(self, job: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its answer: what it says, and its arrays.

        Raises:
            BitexportError: What the runtime raised there.
            ModelCrashed: The process came to an end.
        """
        process = self._process or self._start()
        dropped = [self.dropped.pop() for _ in range(len(self.dropped))]
        try:
            _send(_stream(process.stdin), {**job, "dropped": dropped}, arrays)
            answer, outputs = _receive(_stream(process.stdout))
        except (EOFError, BrokenPipeError):
            self._fail(process)
        _raise_error_of(answer)
        return answer, outputs

    def end(self) -> None:
        """Stop it, whatever it is at."""
        if self._process is not None:
            self._process.kill()
            self._wait(self._process)
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        process = self._reader = None
        self._said.clear()
        try:
            process = subprocess.Popen(  # noqa: S603  (our own code and path)
                command(__name__), stdin=pipe, stdout=pipe, stderr=pipe
            )
            self._process = process
            # Read all the time, as a process whose pipe is full stands still.
            reader = threading.Thread(
                target=self._said.extend, args=[_stream(process.stderr)], daemon=True
            )
            reader.start()
            self._reader = reader
            _receive(_stream(process.stdout))
        except (OSError, EOFError, RuntimeError, ValueError) as error:  # no thread, another hello
            self._process = None
            if process is not None:
                process.kill()
                self._wait(process)
            raise RuntimeFailure(
                f"cannot start a process for {self._runtime}",
                got=self._last_words() or error,
                expected=f"{sys.executable} with this package",
                fix="Raise the limits on processes, files and memory, or install bitexport again.",
            ) from error
        return process

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        code = process.wait()
        if self._reader is not None:
            self._reader.join(_PATIENCE)
        for stream in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):
                _stream(stream).close()
        return code

    def _last_words(self) -> str:
        return b" ".join(self._said).decode(errors="replace").strip()

    def _fail(self, process: subprocess.Popen[bytes]) -> NoReturn:
        code = self._wait(process)
        self._process = None
        words = self._last_words()
        # SIGKILL, which not every system has; or memory ran out over the arrays of a job.
        if code == -9 or (code == 1 and _OUT_OF_MEMORY in words):
            raise MemoryError(words or f"the system killed the process of {self._runtime}")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise ModelCrashed(
            f"{self._runtime} crashes on the model",
            got=": ".join(filter(None, (how, words))),
            expected="a model that loads and runs",
            fix="Check the file with `bitexport inspect`.",
        )


def _raise_error_of(answer: dict[str, Any]) -> None:
    """Raise what the runtime raised, if it did."""
    kind, text = answer.get("error"), answer.get("text", "")
    if kind is None:
        return
    if kind in _ERRORS:
        what, got, expected, fix = answer["fields"]
        raise _ERRORS[kind](what, got=got, expected=expected, fix=fix)
    if kind == _OUT_OF_MEMORY:
        raise MemoryError(text)
    raise RuntimeError(text)


# ---- The other process --------------------------------------------------------------------------


def work() -> None:
    """Answer the jobs on stdin until there are no more."""
    end_with_starter()
    logging.disable(logging.ERROR)
    jobs = sys.stdin.buffer
    # What native code prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _send(answers, {}, {})
    loaded: dict[int, Runner] = {}
    with suppress(EOFError, BrokenPipeError):
        while True:
            job, arrays = _receive(jobs)
            for number in job["dropped"]:
                loaded.pop(number, None)
            try:
                answer = _answer(job, arrays, loaded)
            except BitexportError as error:
                fields = (error.what, error.got, error.expected, error.fix)
                answer = {"error": type(error).__name__, "fields": fields}, {}
            except Exception as error:
                text = f"{error}\n{traceback.format_exc()}"
                # numpy raises a class of its own.
                kind = _OUT_OF_MEMORY if isinstance(error, MemoryError) else type(error).__name__
                answer = {"error": kind, "text": text}, {}
            _send(answers, *answer)


def _answer(
    job: dict[str, Any], arrays: dict[str, Any], loaded: dict[int, Runner]
) -> tuple[dict[str, Any], Arrays]:
    if "run" in job:
        outputs = loaded[job["run"]].run(arrays)
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
        return {}, outputs
    runtime = runtime_named(job["runtime"])
    loaded[job["load"]] = runtime.load(arrays["model"].tobytes(), threads=job["threads"])
    return {}, {}


# ---- Messages -----------------------------------------------------------------------------------


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return stream


def _send(stream: IO[bytes], said: dict[str, Any], arrays: Arrays) -> None:
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    shapes = [(name, x.dtype.str, x.shape) for name, x in whole.items()]
    stream.write(json.dumps([said, shapes]).encode() + b"\n")
    for array in whole.values():
        stream.write(array.tobytes() if array.ndim == 0 else array.reshape(-1).view(np.uint8).data)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Raises EOFError where the other side has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    said, shapes = json.loads(line)
    return said, {name: _array(stream, np.dtype(kind), shape) for name, kind, shape in shapes}


def _array(stream: IO[bytes], kind: np.dtype[Any], shape: list[int]) -> npt.NDArray[Any]:
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return np.frombuffer(data, kind).reshape(shape)
