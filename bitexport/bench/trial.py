"""A run of a stranger's model in a process of its own, before it is measured in this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitexport.bench.cases import BenchOptions, feed
from bitexport.bench.subjects import Subject
from bitexport.errors import RuntimeFailure
from bitexport.runtimes.contained import ModelCrashed, contained

__all__ = ["try_out"]


def try_out(path: Path, subject: Subject, runtimes: Sequence[str], options: BenchOptions) -> None:
    """Run a file once in each runtime that it is to be measured in.

    What a runtime refuses in words is reported where it is measured.

    Raises:
        InputError: A runtime crashes on it.
    """
    for name in runtimes:
        try:
            with contained(name) as runtime:
                runtime.load(subject.data, threads=options.threads).run(feed(subject, 1, options))
        except ModelCrashed as error:
            raise error.blaming(path) from error
        except RuntimeFailure:
            continue
