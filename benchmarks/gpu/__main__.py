"""`make gpu-bench`: every plugin, and whole networks, against cuDNN on this machine's GPU.

    python -m benchmarks.gpu [--networks bireal18,...] [--batches 1,32,256] [--replays 30]

Needs NVIDIA's driver, nvcc and torch; TensorRT's headers are found as for `make plugins`. The
plugins are driven as an engine would drive them, by the harness of their tests. Results go to
benchmarks/results/gpu-NAME.json and .md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.mma_rates import measure_instructions
from benchmarks.gpu.networks import NETWORKS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build" / "gpu"
LIBRARY = "bitexport_trt_layers"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with code 2 where it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", type=_network_names, default=list(NETWORKS))
    parser.add_argument("--batches", type=_positive_numbers, default=[1, 32, 256])
    parser.add_argument("--replays", type=_positive_number, default=30)
    parser.add_argument("--output", type=Path, help="where to write, without .json or .md")
    parser.add_argument("--jobs", type=_positive_number, default=os.cpu_count() or 2)
    return parser.parse_args(arguments)


def _network_names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in NETWORKS:
            raise argparse.ArgumentTypeError(f"got {name}, expected some of {', '.join(NETWORKS)}")
    return names


def _positive_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected a number from 1 on")
    return int(text)


def _positive_numbers(text: str) -> list[int]:
    return [_positive_number(part) for part in text.split(",")]


def main() -> int:
    """Build, measure and write; returns the exit code."""
    arguments = parse_arguments()
    sys.path.insert(0, str(ROOT / "plugins" / "scripts"))
    from plugin_build import BuildFailure, build, configure, nvcc

    import gpu

    try:
        device = gpu.find()
        configure(BUILD, device.architecture)
        build(BUILD, [LIBRARY], arguments.jobs)
        instructions = _instructions(nvcc(), device.architecture)
    except BuildFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    import torch

    if not torch.cuda.is_available():
        print(
            f"error: torch does not see the GPU (got torch {torch.__version__}, expected a CUDA "
            "build that the driver can run). Install torch for this driver.",
            file=sys.stderr,
        )
        return 1
    from benchmarks.gpu import report
    from benchmarks.gpu.measure import measure

    with torch.device("cuda"):
        result = measure(BUILD / f"lib{LIBRARY}.so", device, arguments)
    result["mma"] = instructions
    stem = arguments.output or RESULTS / f"gpu-{report.slug(device.name)}"
    for path in report.write(result, stem):
        print(path)
    return 0


def _instructions(compiler: str, architecture: str) -> dict[str, Any] | None:
    """The rates of single instructions, or None with a line on stderr: the rest goes on."""
    try:
        return measure_instructions(compiler, architecture)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
        print(f"no rates of instructions: {failure}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
