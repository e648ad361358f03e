"""What a benchmark found: frozen records that every report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ENGINE_PART", "LayerTime", "Report", "Run", "Skip"]

# The kind of content that an engine has; it does not tell its parts.
ENGINE_PART = "engine"


@dataclass(frozen=True)
class Run:
    """One model in one runtime at one precision and batch size.

    Attributes:
        model: Name of the given file.
        runtime: Name of the runtime.
        precision: Of the given model (such as "1-bit"), or "fp32", "fp16", "int8" of its twin.
        subject: The given model itself, rather than a twin.
        batch: Images a run.
        threads: Threads inside an operator.
        median_ms: Of all runs, as are the other percentiles.
        p90_ms: 90 % of the runs took no longer.
        p95_ms: 95 %.
        p99_ms: 99 %; with fewer than a hundred samples, next to the slowest.
        mean_ms: Mean.
        min_ms: The fastest run.
        spread: Width of the middle half of the runs, as a share of the median: the noise.
        samples: Number of runs.
        throughput: Images a second at the median.
        bytes: Size of the model's file.
        load_seconds: Time to create the session, in a fresh process; None if not measured.
        peak_memory_bytes: Growth of the process's resident memory from before the model was
            loaded to the peak while it ran, in a fresh process; None if not measured.
        speedup_vs_fp32: Median over the turns of (fp32 twin's time / this one's) in the same
            runtime; None where there is no such twin, or the ratio lies within its noise.
        speedup_low: 10 % of the turns had a ratio below; None without a twin.
        speedup_high: 10 % of the turns had a ratio above; None without a twin.
        accuracy: Top-1 on the data set, in [0, 1]; None if there was none.
        accuracy_low: Lower end of its 95 % interval.
        accuracy_high: Upper end.
    """

    model: str
    runtime: str
    precision: str
    subject: bool
    batch: int
    threads: int
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    spread: float
    samples: int
    throughput: float
    bytes: int
    load_seconds: float | None = None
    peak_memory_bytes: int | None = None
    speedup_vs_fp32: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None

    @property
    def within_noise(self) -> bool:
        """There is a twin, but its ratio is smaller than the noise."""
        return self.speedup_low is not None and self.speedup_vs_fp32 is None


@dataclass(frozen=True)
class LayerTime:
    """One node of a model, as its runtime executed it.

    Attributes:
        model: Name of the given file.
        runtime: Name of the runtime.
        precision: As in :class:`Run`.
        batch: Images a run.
        name: The runtime's name of the node, after its fusions.
        op: op_type.
        ms: Median time.
        share: Of the sum of all nodes.
        bytes: Read and written: activations, weights as the runtime holds them.
        ops: Operations: two a multiply-accumulate, on bits for a binary layer.
        floor_ms: The least that its bytes and operations can take at this machine's measured
            rates.
        bound: "memory" or "compute", whichever sets the floor; "overhead" where the time is
            many times the floor.
    """

    model: str
    runtime: str
    precision: str
    batch: int
    name: str
    op: str
    ms: float
    share: float
    bytes: int
    ops: int
    floor_ms: float
    bound: str


@dataclass(frozen=True)
class Skip:
    """Something that was not measured, why, and the command that mends it."""

    model: str
    runtime: str
    precision: str
    reason: str
    fix: str


@dataclass(frozen=True)
class Report:
    """A whole benchmark.

    Attributes:
        machine: Processor, cores, memory, load, GPU.
        versions: Package -> version.
        method: How it was measured: threads, duration, affinity, calibration, rates.
        runs: The figures.
        layers: Nodes of the slowest kind first, where they were asked for.
        sizes: Model -> kind of content -> bytes in the file.
        skipped: What was not measured.
        warnings: What makes the figures doubtful.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    method: Mapping[str, Any]
    runs: tuple[Run, ...]
    layers: tuple[LayerTime, ...]
    sizes: Mapping[str, Mapping[str, int]]
    skipped: tuple[Skip, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)
