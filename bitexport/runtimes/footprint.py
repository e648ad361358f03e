"""Load time and peak memory of a model, measured in a process of its own.

That process reads one job as JSON, and prints one JSON object. The runtime is imported and the file
read before the clock starts, so that what is counted is the model.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitexport.errors import RuntimeFailure
from bitexport.runtimes import BuiltEngine, load, runtime_named
from bitexport.runtimes.another_python import command, end_with_starter

__all__ = ["Footprint", "footprint", "work"]

_RUNS = 3
_TIMEOUT = 600


@dataclass(frozen=True)
class Footprint:
    """What a model costs a process.

    Attributes:
        load_seconds: Time to create the session.
        peak_bytes: Batch size -> growth of the resident memory up to its peak; empty where the
            system does not say.
    """

    load_seconds: float
    peak_bytes: dict[int, int]


def footprint(
    runtime: str,
    model: bytes | BuiltEngine,
    input_name: str,
    input_shape: tuple[int, int, int],
    batches: Sequence[int],
    threads: int,
) -> Footprint:
    """Load and run a model, or an engine, in a fresh process.

    Raises:
        RuntimeFailure: The process failed.
    """
    with tempfile.TemporaryDirectory(prefix="bitexport-") as folder:
        path = Path(folder, "model")
        path.write_bytes(model if isinstance(model, bytes) else model.data)
        job = {
            "runtime": runtime,
            "model": str(path),
            "engine": None if isinstance(model, bytes) else _needs(model),
            "input": input_name,
            "shape": input_shape,
            "batches": sorted(batches),
            "threads": threads,
        }
        try:
            result = subprocess.run(  # noqa: S603  (our own code and path)
                command(__name__),
                input=json.dumps(job),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=True,
            )
            found = json.loads(result.stdout)
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            said = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise RuntimeFailure(
                f"cannot measure the memory of a model in {runtime}",
                got=said[-1] if said else error,
                expected="a process that loads and runs it",
                fix="Leave it out with --no-memory.",
            ) from error
    peaks = {int(batch): int(count) for batch, count in found["peak_bytes"].items()}
    return Footprint(float(found["load_seconds"]), peaks)


def work() -> None:
    """The other process: do the job on stdin, and print what it took."""
    end_with_starter()
    job: dict[str, Any] = json.load(sys.stdin)
    data = Path(job["model"]).read_bytes()
    runtime_named(job["runtime"]).availability().require()
    model = data if job["engine"] is None else _engine(data, job["engine"])
    before = _status("VmRSS")
    started = time.perf_counter()
    runner = load(job["runtime"], model, threads=job["threads"])
    load_seconds = time.perf_counter() - started
    peaks = {}
    for batch in job["batches"]:
        images = np.zeros((batch, *job["shape"]), np.float32)
        _forget_peak()
        for _ in range(_RUNS):
            runner.run({job["input"]: images})
        peak = _status("VmHWM")
        if before is not None and peak is not None:
            peaks[batch] = max(0, peak - before)
    sys.stdout.write(json.dumps({"load_seconds": load_seconds, "peak_bytes": peaks}))


def _needs(engine: BuiltEngine) -> dict[str, Any]:
    library = engine.plugin_library
    return {"plugin_library": None if library is None else str(library), "ops": engine.ops}


def _engine(data: bytes, needs: dict[str, Any]) -> BuiltEngine:
    library = needs["plugin_library"]
    return BuiltEngine(data, None if library is None else Path(library), tuple(needs["ops"]))


def _status(key: str) -> int | None:
    """A figure of this process in bytes, where the system has /proc."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return 1024 * int(line.split()[1])
    return None


def _forget_peak() -> None:
    """Start the peak anew, where the system lets us; otherwise it is that of all batches so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
