"""Where ONNX Runtime spends its time: its own profiler, node by node."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitexport.errors import RuntimeFailure
from bitexport.runtimes.base import Arrays
from bitexport.runtimes.ort import profiling_session

__all__ = ["NodeTime", "Tensor", "profile_nodes"]

_WARM_UP = 3
_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class Tensor:
    """A tensor that a node read or wrote: element type as ONNX Runtime spells it, and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NodeTime:
    """A node of the optimized graph.

    Attributes:
        name: As ONNX Runtime has it after its own fusions.
        op: op_type.
        microseconds: Median over the runs.
        inputs: What it read, constants included.
        outputs: What it wrote.
    """

    name: str
    op: str
    microseconds: float
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def profile_nodes(
    model: bytes, inputs: Arrays, *, native: bool, threads: int, runs: int
) -> list[NodeTime]:
    """Run a model under the profiler, on the CPU.

    Args:
        model: ModelProto bytes.
        inputs: Input name -> array.
        native: Register our op library.
        threads: Threads inside an operator.
        runs: How often to run it, besides the warm-up.

    Returns:
        The nodes in the order of execution.

    Raises:
        RuntimeFailure: ONNX Runtime refuses the model, or its profile cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="bitexport-") as folder:
        session = profiling_session(model, native, threads, str(Path(folder, "profile")))
        for _ in range(_WARM_UP + runs):
            session.run(None, dict(inputs))
        text = Path(session.end_profiling()).read_text()
    try:
        events = [e for e in json.loads(text) if e.get("cat") == "Node"]
        times: dict[str, list[float]] = defaultdict(list)
        seen: dict[str, Mapping[str, Any]] = {}
        for event in events:
            if event["name"].endswith(_SUFFIX):
                name = event["name"].removesuffix(_SUFFIX)
                times[name].append(float(event["dur"]))
                seen.setdefault(name, event["args"])
        return [
            NodeTime(
                name=name,
                op=str(seen[name]["op_name"]),
                microseconds=statistics.median(durations[_WARM_UP:] or durations),
                inputs=_tensors(seen[name].get("input_type_shape", [])),
                outputs=_tensors(seen[name].get("output_type_shape", [])),
            )
            for name, durations in times.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeFailure(
            "ONNX Runtime wrote a profile that cannot be read",
            got=error,
            expected="events of nodes with their names and shapes",
            fix="Leave --layers out, or use a released version of onnxruntime.",
        ) from error


def _tensors(listed: list[dict[str, list[int]]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(dtype, tuple(int(n) for n in shape))
        for entry in listed
        for dtype, shape in entry.items()
    )
