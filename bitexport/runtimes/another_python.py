"""The command line of another Python that runs a part of this package."""

from __future__ import annotations

import sys

__all__ = ["command"]


def command(module: str) -> list[str]:
    """A Python that imports what this one does, and calls ``work`` of a module of ours.

    A new Python looks into the working directory first, where another bitexport may lie: the
    sources of a checkout, without compiled libraries. So its path becomes ours before it imports
    anything.
    """
    program = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import work; work()"
    return [sys.executable, "-c", program, *sys.path]
