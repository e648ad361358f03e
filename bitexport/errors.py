"""Every error that bitexport raises on purpose, and the exit code it ends the command with.

BitexportError                 the root; the command line catches it and prints one line
├── RuntimeFailure     exit 1  the machine lacks something: a runtime, a library, memory, a disk
├── InputError         exit 2  wrong usage, or a file that is unreadable, damaged or hostile
├── ComparisonFailure  exit 3  outputs were compared and are not equal enough
└── UnsupportedModel   exit 4  the file is readable, but holds a model that we cannot export
"""

from __future__ import annotations

__all__ = [
    "BitexportError",
    "ComparisonFailure",
    "InputError",
    "RuntimeFailure",
    "UnsupportedModel",
]


# Characters of what was found that a line shows: names in foreign files can be of any length.
_LONGEST = 1000


class BitexportError(Exception):
    """One line for the user: what is wrong, what was got and expected, and what to do.

    Args:
        what: The thing that is wrong; names the file, layer or tensor. No final full stop.
        got: What was found.
        expected: What would have been right.
        fix: The next step for the user, as an imperative sentence.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        self.what = what
        self.got = str(got)
        self.expected = str(expected)
        self.fix = fix
        super().__init__(what, got, expected, fix)

    def __str__(self) -> str:
        got = self.got if len(self.got) <= _LONGEST else f"{self.got[: _LONGEST - 3]}..."
        line = f"{self.what} (got {got}, expected {self.expected}). {self.fix}"
        return " ".join(line.split())


class RuntimeFailure(BitexportError):
    """The machine lacks something: a runtime, a library, a device, memory or disk space."""

    exit_code = 1


class InputError(BitexportError):
    """Wrong usage, or an input or output path that cannot be read, trusted or written."""

    exit_code = 2


class ComparisonFailure(BitexportError):
    """Outputs were compared and differ by more than the stated tolerance."""

    exit_code = 3


class UnsupportedModel(BitexportError):
    """The file is readable, but its model is none that bitexport can export exactly."""

    exit_code = 4
