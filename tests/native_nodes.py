"""Nodes of the ops that the op library has kernels for, and inputs for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import plugins_build
import tensorrt_headers
from single_node import expected, model_of, takes_residual, with_epilogue

from bitexport.ops.nodes import NodeData, node_data
from bitexport.spec import BinaryConvSpec, ConvGeometry

SEED = 11


def library() -> Path:
    """The op library of these sources; the installed one may be older."""
    return built("bitexport_ort")


def built(target: str) -> Path:
    """An op library: this one, or where CUDA's headers are the double of its CUDA side."""
    include = tensorrt_headers.cuda_include()
    options = [] if include is None else [f"-DCUDA_INCLUDE={include}"]
    folder = plugins_build.configure("ort", *options)
    return plugins_build.build_targets(folder, target) / f"lib{target}.so"


def sanitized_library(folder: Path) -> tuple[Path, dict[str, str]] | str:
    """The op library under ASan and UBSan, and the variables with which a Python loads it.

    Args:
        folder: An empty one, for trials.

    Returns:
        Why there is none, where the compiler has no sanitizers.
    """
    options = ("-DBUILD_TESTING=OFF", *plugins_build.SANITIZE_OPTIONS)
    build = plugins_build.configure("ort-sanitized", *options)
    compiler = plugins_build.compiler(build)
    reason = plugins_build.why_no_sanitizers(compiler, plugins_build.SANITIZERS, folder)
    if reason:
        return f"no sanitizers here: {reason}"
    runtimes = [
        plugins_build.run([compiler, f"-print-file-name={name}"]).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(runtime).is_absolute() for runtime in runtimes):
        return f"{compiler} has no shared sanitizer runtimes"
    plugins_build.build_targets(build, "bitexport_ort")
    # Python itself never frees some of its memory; an allocation that fails raises in C++.
    asan = "detect_leaks=0:allocator_may_return_null=1"
    variables = {"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": asan}
    return build / "libbitexport_ort.so", variables


def binary_node(
    op: str, channels: int, out_channels: int, kernel: tuple[int, int], geometry: ConvGeometry
) -> NodeData:
    rng = np.random.default_rng(SEED)
    signs = rng.choice(
        np.array([-1, 1], np.int8), (out_channels, channels // geometry.group, *kernel)
    )
    scale, bias = rng.normal(size=(2, out_channels)).astype(np.float32)
    threshold = rng.normal(size=channels).astype(np.float32)
    node = node_data(BinaryConvSpec(signs, scale, bias, geometry, threshold))
    return with_epilogue(op, node, SEED)


def unscaled(node: NodeData) -> NodeData:
    """S = 1 and B = 0: Y is the accumulator."""
    ones = np.ones_like(node.tensors["S"])
    return replace(node, tensors={**node.tensors, "S": ones, "B": 0 * ones})


def feed_of(node: NodeData, shape: tuple[int, ...], seed: int = SEED) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    # Some activations lie exactly on the threshold.
    x = np.where(rng.random(shape) < 0.1, node.tensors["Th"], x).astype(np.float32)
    feed = {"X": x}
    if takes_residual(node):
        size = expected(node, x).shape
        feed["R"] = rng.integers(-50, 50, size).astype(np.float32)
    return feed


def serialized(node: NodeData) -> bytes:
    return model_of(node, 4).SerializeToString()
