"""Times on a GPU: CUDA graphs of repeated launches, between two events, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

__all__ = ["Spread", "capture", "in_turns", "repeats_for", "spread", "synchronize"]

# A graph of launches lasts this long, so that the launch of the graph itself does not count.
GRAPH_SECONDS = 2e-3
MOST_REPEATS = 1000


@dataclass(frozen=True)
class Spread:
    """Microseconds of one launch over all replays."""

    median: float
    p10: float
    p90: float
    least: float
    replays: int

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {key: round(value, 3) for key, value in asdict(self).items()}


def spread(samples: Sequence[float]) -> Spread:
    """What the samples say; at least one is needed."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples")
    if len(ordered) == 1:
        ordered = ordered * 2
    deciles = statistics.quantiles(ordered, n=10, method="inclusive")
    return Spread(statistics.median(ordered), deciles[0], deciles[-1], ordered[0], len(samples))


def repeats_for(microseconds: float) -> int:
    """Launches in a graph, by the time of one."""
    wanted = GRAPH_SECONDS * 1e6 / max(microseconds, 1e-3)
    return max(1, min(MOST_REPEATS, round(wanted)))


def synchronize() -> None:
    """Wait until the GPU has done everything."""
    torch.cuda.synchronize()


def capture(launch: Callable[[int], None]) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of as many launches as last long enough, and their number.

    ``launch`` gets the stream's handle.
    """
    synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            launch(stream.cuda_stream)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        for _ in range(5):
            launch(stream.cuda_stream)
        end.record(stream)
    end.synchronize()
    repeats = repeats_for(1e3 * start.elapsed_time(end) / 5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(repeats):
            launch(stream.cuda_stream)
    return graph, repeats


def in_turns(
    graphs: dict[str, tuple[torch.cuda.CUDAGraph, int]], replays: int
) -> dict[str, Spread]:
    """Replay all graphs one after the other, ``replays`` times, so that all see the same clocks."""
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(replays):
        for name, (graph, repeats) in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            samples[name].append(1e3 * start.elapsed_time(end) / repeats)
    return {name: spread(values) for name, values in samples.items()}
