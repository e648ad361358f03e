"""Another process for what native libraries do to a stranger's file: if it crashes, only that ends.

The processes take turns over two pipes. A message is a line of JSON and then the bytes of the
arrays that the line describes: what comes back from a process that may have been taken over is
data, never code. It is no sandbox.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from bitexport.errors import BitexportError, RuntimeFailure

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = [
    "Arrays",
    "Said",
    "Worker",
    "WorkerCrash",
    "WorkerKilled",
    "WorkerTimeout",
    "end_with_starter",
    "limit_memory",
    "limit_time",
    "python_command",
    "serve",
]

Said = dict[str, Any]
Arrays = Mapping[str, npt.NDArray[Any]]
_OUT_OF_MEMORY = MemoryError.__name__
_BAD_ALLOC = "std::bad_alloc"  # among the last words of C++
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in sys/prctl.h
_LONGEST = (1 << 31) - 1  # seconds
_LARGEST_STACK = 64 << 20  # bytes of a thread's; the system may set no limit at all
_PATIENCE = 5  # seconds for the last words of a process that has ended
_Self = TypeVar("_Self", bound="Worker")  # typing.Self is of Python 3.11


class WorkerCrash(Exception):
    """The process ended in the middle of a job; the text says how."""


class WorkerTimeout(WorkerCrash):
    """The time was up that the process had set itself."""


class WorkerKilled(MemoryError):
    """The system killed the process, which it does where memory runs out."""


def python_command(module: str) -> list[str]:
    """A Python that imports what this one does, and calls ``work`` of a module of ours.

    A new Python looks into the working directory first, where another bitexport may lie: the
    sources of a checkout, without compiled libraries. So its path becomes ours before it imports
    anything.
    """
    program = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import work; work()"
    return [sys.executable or "python", "-c", program, *sys.path]


def end_with_starter() -> None:
    """Be killed when the thread that started this process ends, as a model may run for ever.

    Only Linux does that; elsewhere a process ends when it next looks for a job. A crash leaves no
    core file.
    """
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def limit_memory(most: int) -> None:
    """Let this process have no more than ``most`` bytes; whoever asks for more gets none.

    What can be written to counts, whether it is used or not. The stacks of a thread a core do not.
    Only Linux counts that way; elsewhere there is no limit.
    """
    if sys.platform != "linux" or resource is None:
        return
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stacks = (os.cpu_count() or 1) * (min(stack, _LARGEST_STACK) if stack > 0 else _LARGEST_STACK)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = min(most + stacks, sys.maxsize)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def limit_time(seconds: int) -> None:
    """End this process after so many seconds, whatever it is at then; 0 takes that back.

    Not on Windows.
    """
    if hasattr(signal, "alarm"):
        # Whoever started the command may ignore or block the signal, which is passed on.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.alarm(min(seconds, _LONGEST))


class Worker:
    """A process that starts with its first job and ends with the context.

    Args:
        module: One of ours, whose ``work`` calls :func:`serve`.
        title: What it runs, for messages.
    """

    def __init__(self, module: str, title: str) -> None:
        self._module = module
        self._title = title
        self._process: subprocess.Popen[bytes] | None = None
        self._said: deque[bytes] = deque(maxlen=1)
        self._reader: threading.Thread | None = None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, whatever it is at."""
        if self._process is not None:
            self._process.kill()
            self._wait(self._process)
            self._process = None

    def ask(self, job: Said, arrays: Arrays) -> tuple[Said, dict[str, npt.NDArray[Any]]]:
        """Its answer.

        Raises:
            WorkerCrash: It came to an end, WorkerTimeout by its own limit; the next job starts
                another one.
            BitexportError: What was raised there, of the same class.
            MemoryError: It ran out of memory; WorkerKilled where the system put an end to it.
            RuntimeFailure: It does not start.
        """
        process = self._process or self._start()
        try:
            _send(_stream(process.stdin), job, arrays)
            answer, outputs = _receive(_stream(process.stdout))
        except (EOFError, BrokenPipeError):
            self._fail(process)
        _raise_error_of(answer)
        return answer, outputs

    def _start(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        process = self._reader = None
        self._said.clear()
        try:
            process = subprocess.Popen(  # noqa: S603  (our own code and path)
                python_command(self._module), stdin=pipe, stdout=pipe, stderr=pipe
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
                f"cannot start a process for {self._title}",
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
        if code == -9:  # SIGKILL, which not every system has
            raise WorkerKilled(words or f"the system killed the process of {self._title}")
        # Over the arrays of a job, or where native code does not look whether it gets any.
        if (code == 1 and _OUT_OF_MEMORY in words) or _BAD_ALLOC in words:
            raise MemoryError(words)
        how = _signal_name(-code) if code < 0 else f"exit code {code}"
        if how == "SIGALRM":
            raise WorkerTimeout(how)
        raise WorkerCrash(": ".join(filter(None, (how, words))))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _raise_error_of(answer: Said) -> None:
    """Raise what was raised in the other process, if anything was."""
    kind, text = answer.get("error"), answer.get("text", "")
    if kind is None:
        return
    ours = {error.__name__: error for error in _with_subclasses(BitexportError)}
    if kind in ours:
        what, got, expected, fix = answer["fields"]
        raise ours[kind](what, got=got, expected=expected, fix=fix)
    if kind == _OUT_OF_MEMORY:
        raise MemoryError(text)
    raise RuntimeError(text)


def _with_subclasses(kind: type[BitexportError]) -> list[type[BitexportError]]:
    return [kind, *(x for below in kind.__subclasses__() for x in _with_subclasses(below))]


# ---- The other process --------------------------------------------------------------------------


def serve(answer: Callable[[Said, dict[str, npt.NDArray[Any]]], tuple[Said, Arrays]]) -> None:
    """Answer the jobs on stdin until there are no more; errors are answers too."""
    end_with_starter()
    logging.disable(logging.ERROR)
    jobs = sys.stdin.buffer
    # What native code prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _send(answers, {}, {})
    with suppress(EOFError, BrokenPipeError):
        while True:
            job, arrays = _receive(jobs)
            try:
                said, outputs = answer(job, arrays)
            except BitexportError as error:
                fields = (error.what, error.got, error.expected, error.fix)
                said, outputs = {"error": type(error).__name__, "fields": fields}, {}
            except Exception as error:
                text = f"{error}\n{traceback.format_exc()}"
                # numpy raises a class of its own.
                kind = _OUT_OF_MEMORY if isinstance(error, MemoryError) else type(error).__name__
                said, outputs = {"error": kind, "text": text}, {}
            _send(answers, said, outputs)


# ---- Messages -----------------------------------------------------------------------------------


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return stream


def _send(stream: IO[bytes], said: Said, arrays: Arrays) -> None:
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    shapes = [(name, x.dtype.str, x.shape) for name, x in whole.items()]
    stream.write(json.dumps([said, shapes]).encode() + b"\n")
    for array in whole.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[Said, dict[str, npt.NDArray[Any]]]:
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
