"""What is fuzzed: one visible table of programs that read a file, and of files to start from."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Exit codes of a file that is refused, or taken.
REFUSED_OR_DONE = frozenset({0, 2, 4})


@dataclass(frozen=True)
class Input:
    """A mutated file.

    Attributes:
        data: Its bytes.
        suffix: Of its name.
    """

    data: bytes
    suffix: str


@dataclass(frozen=True)
class Target:
    """A way to read files.

    Attributes:
        name: Its name; a finding's file starts with it.
        seeds: Makes the files to start from; called once, before any process is forked.
        mutate: A mutated input of the seeds.
        run: Reads a file as the command line does: ends with SystemExit, and says why on stderr.
        codes: Exit codes that it may end with.
        output: Names of what it writes where it succeeds.
        share: How many of a thousand inputs it gets.
        limited: Whether its address space can be limited; a sanitizer needs all of it.
        prepare: Called once in the folder where the inputs will lie.
    """

    name: str
    seeds: Callable[[Path], dict[str, bytes]]
    mutate: Callable[[dict[str, bytes], random.Random], Input]
    run: Callable[[Path], None]
    share: int
    codes: frozenset[int] = REFUSED_OR_DONE
    output: tuple[str, ...] = ()
    limited: bool = True
    prepare: Callable[[], None] | None = None
