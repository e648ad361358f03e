"""`make gpu-test`: every plugin on this machine's GPU against the plain loops, then sanitizers.

    python plugins/scripts/gpu_test.py [--stride 5] [--jobs 8]

Needs NVIDIA's driver and nvcc; TensorRT is not needed, its headers are found as for `make plugins`.
Integer accumulators must be equal, results within the rounding of their type (the tolerance stands
in plugins/tests/tensorrt/layer_data.cpp). compute-sanitizer then repeats a part of the matrix, once
for memory accesses and once for races. Where this environment has onnxruntime-gpu, its CUDA
execution provider runs every op and a network of every family with our op library.
"""

from __future__ import annotations

import argparse
import os
import sys

import gpu
from plugin_build import ROOT, BuildFailure, build, configure, run

FOLDER = ROOT / "build" / "gpu"
PROGRAM = FOLDER / "tests" / "tensorrt" / "gpu_enqueue"
ONNX_RUNTIME = ROOT / "tests" / "test_native_cuda.py"
# Sanitized kernels run some hundred times slower: every so many of the small geometries.
SANITIZED_STRIDE = 97


def commands(sanitizer: str, stride: int) -> list[tuple[str, list[str]]]:
    """What is run, in order: a title and a command."""
    matrix = [str(PROGRAM), "--stride", str(stride)]
    part = [str(PROGRAM), "--stride", str(SANITIZED_STRIDE), "--small", "--no-guards"]
    listed: list[tuple[str, list[str]]] = [("the matrix of shapes", matrix)]
    for tool in ("memcheck", "racecheck"):
        options = ["--tool", tool, "--error-exitcode", "9"]
        if tool == "memcheck":
            options += ["--leak-check", "full"]
        listed.append((f"compute-sanitizer {tool}", [sanitizer, *options, *part]))
    tests = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), "-q", "-m", "gpu"]
    return [*listed, ("ONNX Runtime's CUDA provider", [*tests, str(ONNX_RUNTIME)])]


def main() -> int:
    """Build and run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=5, help="every so many small geometries")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    arguments = parser.parse_args()
    try:
        device = gpu.find()
        print(f"{device.name}, sm_{device.capability}, driver {device.driver}", flush=True)
        configure(FOLDER, device.architecture)
        build(FOLDER, ["gpu_enqueue"], arguments.jobs)
        sanitizer = gpu.compute_sanitizer(FOLDER / "sanitizer")
        for title, command in commands(sanitizer, arguments.stride):
            print(f"== {title}", flush=True)
            run(command, title)
    except BuildFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    print("all of it passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
