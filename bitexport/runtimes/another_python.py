"""The command line of another Python that runs a part of this package."""

from __future__ import annotations

import ctypes
import signal
import sys
from contextlib import suppress

__all__ = ["command", "end_with_starter"]

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in sys/prctl.h


def command(module: str) -> list[str]:
    """A Python that imports what this one does, and calls ``work`` of a module of ours.

    A new Python looks into the working directory first, where another bitexport may lie: the
    sources of a checkout, without compiled libraries. So its path becomes ours before it imports
    anything.
    """
    program = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import work; work()"
    return [sys.executable, "-c", program, *sys.path]


def end_with_starter() -> None:
    """Be killed when the thread that started this process ends, as a model may run for ever.

    Only Linux does that; elsewhere a process ends when it next looks for a job.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
