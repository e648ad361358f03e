"""Time runners side by side.

A machine has slow moments. Runners therefore take turns: in each round every one of them runs for
a few milliseconds, in an order that is drawn anew, so that a slow moment meets all of them. A
ratio is formed within each round, between neighbours in time, and what is reported is the median
of those ratios with the range that holds 80 % of them.

A speed-up is only given where that range excludes 1: if more than one round in ten says the
opposite, the difference is smaller than the noise.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Ratio", "Timing", "pinned", "ratio_of", "take_turns"]

_MIN_ROUNDS = 10
_TURN_SECONDS = 0.005
_MOST_RUNS = 1000
_WARM_UP_RUNS = 3
_WARM_UP_SECONDS = 0.05
_SEED = 0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """The runs of one runner.

    Attributes:
        turns: float64 arrays of milliseconds, one for each round.
    """

    turns: tuple[npt.NDArray[np.float64], ...]

    @property
    def runs(self) -> npt.NDArray[np.float64]:
        """Milliseconds of every run."""
        return np.concatenate(self.turns)

    @property
    def medians(self) -> npt.NDArray[np.float64]:
        """Median milliseconds of each turn."""
        return np.array([np.median(turn) for turn in self.turns])


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a baseline.

    Attributes:
        median: Over the rounds.
        low: 10 % of the rounds lie below.
        high: 10 % of the rounds lie above.
    """

    median: float
    low: float
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the rounds agree on which of the two is faster."""
        return self.low > 1 or self.high < 1


def ratio_of(baseline: Timing, timing: Timing) -> Ratio:
    """Baseline's time over this one's, round by round."""
    ratios = baseline.medians / timing.medians
    low, median, high = (float(x) for x in np.percentile(ratios, [10, 50, 90]))
    return Ratio(median, low, high)


def take_turns(
    runners: Sequence[Callable[[], object]],
    seconds: float,
    show: Callable[[float], None] = lambda _: None,
) -> list[Timing]:
    """Warm up, then run in rounds for ``seconds`` a runner, and for ten rounds at least.

    Args:
        runners: Each call is one run.
        seconds: Time for each runner.
        show: Called after each round with the share that is done.
    """
    counts = [_runs_in_a_turn(run) for run in runners]
    turns: list[list[npt.NDArray[np.float64]]] = [[] for _ in runners]
    rng = np.random.default_rng(_SEED)
    budget = seconds * len(runners)
    started, rounds = time.perf_counter(), 0
    while rounds < _MIN_ROUNDS or time.perf_counter() - started < budget:
        for index in rng.permutation(len(runners)):
            turns[index].append(_timed(runners[index], counts[index]))
        rounds += 1
        elapsed = (time.perf_counter() - started) / budget if budget else 1.0
        show(min(1.0, elapsed, rounds / _MIN_ROUNDS))
    return [Timing(tuple(each)) for each in turns]


def _runs_in_a_turn(run: Callable[[], object]) -> int:
    """Warm a runner up, and see how many runs make a turn."""
    times: list[float] = []
    ends = time.perf_counter() + _WARM_UP_SECONDS
    while len(times) < _WARM_UP_RUNS or time.perf_counter() < ends:
        times.append(float(_timed(run, 1)[0]) / 1e3)
    return max(1, min(_MOST_RUNS, math.ceil(_TURN_SECONDS / max(1e-9, float(np.median(times))))))


def _timed(run: Callable[[], object], count: int) -> npt.NDArray[np.float64]:
    """Milliseconds of ``count`` runs, one after the other."""
    stamps = np.empty(count + 1, np.int64)
    for index in range(count):
        stamps[index] = time.perf_counter_ns()
        run()
    stamps[count] = time.perf_counter_ns()
    # The overhead of a stamp, some 100 ns, counts as part of the run.
    return np.diff(stamps) / 1e6


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[list[int] | None]:
    """Keep this thread, and those it starts meanwhile, on the ``threads`` idlest processors.

    Yields:
        The processors, or None where the system cannot pin.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    chosen = sorted(_idlest(before)[: max(1, threads)])
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


def _idlest(allowed: set[int]) -> list[int]:
    first = _idle_ticks()
    time.sleep(_LOOK_SECONDS)
    second = _idle_ticks()
    return sorted(allowed, key=lambda cpu: (first.get(cpu, 0) - second.get(cpu, 0), cpu))


def _idle_ticks() -> dict[int, int]:
    """Processor -> its idle time so far, in ticks."""
    ticks = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name != "cpu":
                ticks[int(name[3:])] = int(fields[3])
    return ticks
