"""Whole binary networks on the CPU: our op library against ONNX Runtime's float32, side by side.

    python benchmarks/cpu_native.py MODEL.onnx [--threads 1] [--batch 1] [--seconds 10]

The float32 side is the same file in stock ONNX Runtime, which expands the packed weights when it
loads the model and then runs the float32 network with every fold that we made. The two sessions
take turns in one process, so that a slow moment of the machine meets both; the figure to quote is
the median of the ratios of neighbouring runs. Threads spin within a run, as they do by default, and
stop at its end: else those of one session would take the cores of the other.

Refuses a model of whose binary convolutions some do not run in our kernels.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import bitexport
from bitexport.runtimes.ort_profile import profile_nodes


def make_session(model: str | bytes, threads: int, *, native: bool) -> onnxruntime.InferenceSession:
    """A session on the CPU, with or without our op library."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    if native:
        options.register_custom_ops_library(str(bitexport.op_library_path()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def require_kernels(path: str, feed: dict[str, np.ndarray], threads: int) -> None:
    """Exit unless ONNX Runtime runs every binary convolution of the model in our kernels."""
    wanted = {n.name for n in onnx.load(path).graph.node if n.op_type.startswith("BinaryConv")}
    nodes = profile_nodes(Path(path).read_bytes(), feed, native=True, threads=threads, runs=1)
    ours = {node.name for node in nodes if node.op.startswith("BinaryConv")}
    if not wanted or wanted - ours:
        raise SystemExit(
            f"error: {len(wanted - ours)} of {len(wanted)} binary convolutions run their bodies "
            f"(expected some, all in our kernels). Install bitexport again."
        )


def milliseconds(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    session.run(None, feed)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Time both sessions in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    float32 = make_session(options.model, options.threads, native=False)
    native = make_session(options.model, options.threads, native=True)
    shape = [options.batch, *float32.get_inputs()[0].shape[1:]]
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    feed = {float32.get_inputs()[0].name: images}
    require_kernels(options.model, feed, options.threads)
    expected, got = float32.run(None, feed)[0], native.run(None, feed)[0]
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    times: list[tuple[float, float]] = []
    end = time.monotonic() + options.seconds
    while time.monotonic() < end or len(times) < 5:
        times.append((milliseconds(float32, feed), milliseconds(native, feed)))
    ratios = sorted(a / b for a, b in times)
    low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    print(
        f"{options.model}: batch {options.batch}, {options.threads} threads, "
        f"onnxruntime {onnxruntime.__version__} on {platform.machine()}\n"
        f"  float32 {statistics.median(a for a, _ in times):.2f} ms, "
        f"native {statistics.median(b for _, b in times):.2f} ms, "
        f"{statistics.median(ratios):.2f}x (80 % of runs {low:.2f} to {high:.2f}), "
        f"rel-L2 of the logits {error:.1e}, {len(times)} pairs"
    )


if __name__ == "__main__":
    main()
