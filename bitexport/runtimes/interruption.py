"""Ctrl-C while native code calls back into Python.

Python raises KeyboardInterrupt in whatever Python code runs next. If that is a callback of a C++
library that must not throw, the process dies. So the signal only leaves a note, which callbacks
read and pass on in the library's own way, and the exception is raised when the library is done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_interrupt"]


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets, and raise KeyboardInterrupt at the end if it did.

    Outside the main thread, which alone gets signals, the event is never set.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(_signal: int, _frame: FrameType | None) -> None:
        noted.set()

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)
        if noted.is_set():
            raise KeyboardInterrupt
