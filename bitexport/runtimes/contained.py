"""A runtime in a process of its own: where a model brings it down, only that process ends.

Runtimes check what they read, but not everything: a size that ONNX Runtime infers to be negative,
or a division that the CPU refuses, ends the process that it is in. So the commands run a
stranger's file here.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from bitexport.runtimes import Arrays, Availability, ModelRefused, Runner, Runtime, runtime_named
from bitexport.worker import Said, Worker, WorkerCrash, serve

__all__ = ["ModelCrashed", "contained", "work"]

_NUMBERS = "biuf"  # kinds of dtypes
_MOST_BYTES = 1 << 30


class ModelCrashed(ModelRefused):
    """A model ended the process that it ran in."""


@contextmanager
def contained(name: str) -> Iterator[Runtime]:
    """The runtime called ``name``, in a process that starts with its first model.

    Its errors are those of the runtime itself; a model that ends the process raises ModelCrashed.

    Raises:
        InputError: There is no such runtime.
    """
    runtime = runtime_named(name)
    with Worker(__name__, name) as worker:
        yield _Contained(runtime, worker)


class _Contained:
    def __init__(self, inner: Runtime, worker: Worker) -> None:
        self.name = inner.name
        self._inner = inner
        self._worker = worker
        self._numbers = count()
        self._dropped: list[int] = []

    def availability(self) -> Availability:
        """That of the runtime; here, as it runs nothing."""
        return self._inner.availability()

    def load(self, model: bytes, *, threads: int = 0) -> Runner:
        """Load a model in the other process, where it stays as long as the runner here."""
        number = next(self._numbers)
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        job = {"load": number, "runtime": self.name, "threads": threads, "dropped": dropped}
        self.ask(job, {"model": np.frombuffer(model, np.uint8)})
        runner = _ContainedRunner(self, number)
        weakref.finalize(runner, self._dropped.append, number)
        return runner

    def ask(self, job: Said, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
        try:
            return self._worker.ask(job, arrays)[1]
        except WorkerCrash as crash:
            raise ModelCrashed(
                f"{self.name} crashes on the model",
                got=crash,
                expected="a model that loads and runs",
                fix="Check the file with `bitexport inspect`.",
            ) from crash


class _ContainedRunner:
    def __init__(self, runtime: _Contained, number: int) -> None:
        self._runtime = runtime
        self._number = number

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run the model there."""
        return self._runtime.ask({"run": self._number}, inputs)


def work() -> None:
    """The other process."""
    loaded: dict[int, Runner] = {}

    def answer(job: Said, arrays: dict[str, npt.NDArray[Any]]) -> tuple[Said, Arrays]:
        if "run" in job:
            return {}, _checked(loaded[job["run"]].run(arrays))
        for number in job["dropped"]:
            loaded.pop(number, None)
        runtime = runtime_named(job["runtime"])
        loaded[job["load"]] = runtime.load(arrays["model"].tobytes(), threads=job["threads"])
        return {}, {}

    serve(answer)


def _checked(outputs: Arrays) -> Arrays:
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
    whole = sum(output.nbytes for output in outputs.values())
    if whole > _MOST_BYTES:
        raise ModelRefused(
            "the model gives too much at once",
            got=f"{whole >> 20} MiB",
            expected=f"outputs of up to {_MOST_BYTES >> 20} MiB together",
            fix="Give fewer images; if few give so much, look where the file comes from.",
        )
    return outputs
