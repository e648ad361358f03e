"""Forks the process that a model is contained in; a new Python takes longer than most inputs."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from bitexport import onnx_library, worker
from bitexport.runtimes import contained, ort_int8
from fuzz.worker import SECONDS


def fork_contained() -> None:
    """From here on, in this process and in those that it forks."""
    worker.subprocess = SimpleNamespace(PIPE=-1, Popen=_Forked)


class _Forked:
    """As much of Popen as is asked for."""

    def __init__(self, command: Sequence[str], *, stdin: int, stdout: int, stderr: int) -> None:
        del stdin, stdout, stderr
        pipes = [os.pipe() for _ in range(3)]
        (job, jobs), (answers, answer), (words, word) = pipes
        self._process = os.fork()
        if self._process == 0:
            for ours, standard in zip((job, answer, word), range(3), strict=True):
                os.dup2(ours, standard)
            _work(_works(command), {end for pipe in pipes for end in pipe})
        for theirs in (job, answer, word):
            os.close(theirs)
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(jobs, "wb"), os.fdopen(answers, "rb"), os.fdopen(words, "rb")
        )  # fmt: skip

    def kill(self) -> None:
        os.kill(self._process, signal.SIGKILL)

    def wait(self) -> int:
        # Counted with RUSAGE_CHILDREN from here on.
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])


def _works(command: Sequence[str]) -> Callable[[], None]:
    modules = (contained, onnx_library, ort_int8)
    return next(m.work for m in modules if worker.python_command(m.__name__) == command)


def _work(work: Callable[[], None], pipes: set[int]) -> None:
    """The other side; never returns."""
    code = 1
    try:
        for pipe in pipes:
            os.close(pipe)
        most = SECONDS + int(sum(os.times()[:2])) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        # Closing the parent's streams would close the pipes, which have their numbers now.
        kept = sys.stdin, sys.stdout, sys.stderr
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, "rw"[i > 0]) for i in range(3))
        work()
        code = 0
        del kept
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
