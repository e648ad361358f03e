"""A run of a stranger's model in a process of its own, before it is measured in this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitexport.bench.cases import BenchOptions, feed
from bitexport.bench.subjects import Subject
from bitexport.errors import RuntimeFailure
from bitexport.graph.read import read_onnx
from bitexport.runtimes import ENGINE_RUNTIMES
from bitexport.runtimes.contained import ModelCrashed, contained

__all__ = ["try_out"]


def try_out(path: Path, subject: Subject, runtimes: Sequence[str], options: BenchOptions) -> None:
    """Run a file once in each runtime that it is to be measured in.

    What a runtime refuses in words is reported where it is measured. Builders of engines take
    minutes: for them the file is checked more strictly instead, as `bitexport trt` does.

    Raises:
        InputError: A runtime crashes on it, or onnx's checker finds fault with it.
    """
    builders = {runtime.name for runtime in ENGINE_RUNTIMES}
    if builders.intersection(runtimes) and path.suffix.lower() == ".onnx":
        read_onnx(path, strict=True)
    for name in runtimes:
        if name in builders:
            continue
        try:
            with contained(name) as runtime:
                runtime.load(subject.data, threads=options.threads).run(feed(subject, 1, options))
        except ModelCrashed as error:
            raise error.blaming(path) from error
        except RuntimeFailure:
            continue
