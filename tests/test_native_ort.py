"""The op library computes in ONNX Runtime what the bodies compute, and is safe to use there."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import native_nodes
import numpy as np
import onnx
import onnx_ir as ir
import plugins_build
import pytest
from native_models import run, session
from native_nodes import SEED, binary_node, feed_of, serialized, unscaled
from single_node import expected, model_of

import bitexport
from bitexport.errors import RuntimeFailure
from bitexport.ops.nodes import NodeData
from bitexport.ops.table import op_named
from bitexport.runtimes.libraries import cpu_kernel
from bitexport.runtimes.ort import OnnxRuntime
from bitexport.spec import ConvGeometry

OPS = ("BinaryConv", "BinaryConvAdd")
ACTIVATED = ("BinaryConvPRelu", "BinaryConvAddPRelu", "BinaryConvClip", "BinaryConvAddClip")
# S * acc, + B and + R round once each, and acc is exact.
ROUNDINGS = 3
EPSILON = np.finfo(np.float32).eps
# Stock ONNX Runtime multiplies S into its float32 weights and sums up to 1200 of those.
BODY_TOLERANCE = 3e-5

SAME = ConvGeometry(pads=(1, 1, 1, 1))
# X [N, Ci, H, W], out channels, kernel, geometry
CASES = {
    "plain 3x3": ((2, 40, 9, 11), 12, (3, 3), ConvGeometry()),
    "3 channels": ((2, 3, 9, 11), 12, (3, 3), SAME),
    "1 channel": ((1, 1, 5, 5), 1, (3, 3), SAME),
    "31 channels": ((1, 31, 6, 7), 5, (3, 3), SAME),
    "one word": ((1, 32, 14, 14), 32, (3, 3), SAME),
    "33 channels": ((2, 33, 8, 8), 7, (3, 3), SAME),
    "ResNet stage 1": ((1, 64, 56, 56), 64, (3, 3), SAME),
    "ResNet stage 2": ((2, 64, 28, 28), 128, (3, 3), replace(SAME, strides=(2, 2))),
    "ResNet stage 4": ((3, 130, 7, 7), 66, (3, 3), SAME),
    "strided": ((2, 32, 9, 11), 12, (3, 3), replace(SAME, strides=(2, 2))),
    "uneven": ((2, 33, 9, 11), 12, (3, 3), ConvGeometry(strides=(2, 3), pads=(0, 1, 2, 1))),
    "1x1": ((2, 96, 13, 9), 20, (1, 1), ConvGeometry()),
    "1x1 strided": ((2, 65, 9, 11), 12, (1, 1), ConvGeometry(strides=(2, 2))),
    "1x1 padded": ((1, 40, 3, 3), 4, (1, 1), ConvGeometry(pads=(1, 2, 0, 1))),
    "5x5": ((2, 7, 9, 11), 12, (5, 5), ConvGeometry(pads=(2, 2, 2, 2))),
    "7x7 strided": ((1, 48, 20, 18), 10, (7, 7), ConvGeometry(strides=(2, 2), pads=(3, 3, 3, 3))),
    "1x3": ((1, 36, 6, 9), 9, (1, 3), ConvGeometry(pads=(0, 1, 0, 1))),
    "dilated": ((2, 8, 9, 11), 12, (3, 3), ConvGeometry(dilations=(2, 3), pads=(2, 3, 2, 3))),
    "dilated and strided": ((2, 8, 9, 11), 12, (3, 2), ConvGeometry((1, 2), dilations=(3, 2))),
    "grouped": ((2, 48, 9, 11), 12, (3, 3), replace(SAME, group=4)),
    "grouped, 33 each": ((1, 66, 7, 7), 10, (3, 3), replace(SAME, group=2)),
    "depthwise": ((2, 6, 9, 11), 12, (3, 3), ConvGeometry(group=6)),
    "kernel larger than the input": ((1, 40, 2, 1), 6, (3, 3), SAME),
    "pads larger than the kernel": ((1, 33, 4, 5), 6, (3, 3), ConvGeometry(pads=(4, 0, 1, 5))),
    "one row": ((1, 32, 1, 40), 8, (3, 3), SAME),
    "batch 8": ((8, 64, 14, 14), 64, (3, 3), SAME),
    "more images than a cache holds": ((5, 512, 40, 40), 4, (3, 3), SAME),
}


@pytest.fixture(scope="module", name="library")
def built_library() -> Path:
    return native_nodes.library()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPS)
def test_accumulators_equal_the_body_s(library, op, case):
    shape, out_channels, kernel, geometry = CASES[case]
    node = unscaled(binary_node(op, shape[1], out_channels, kernel, geometry))
    feed = feed_of(node, shape)
    model = serialized(node)
    for threads in (1, 2):
        y = run(model, feed, library, threads)
        assert np.array_equal(y, run(model, feed, None)), f"{threads} threads, seed {SEED}"
        assert np.array_equal(y, expected(node, feed["X"], feed.get("R")))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPS)
def test_results_are_rounded_once_a_step(library, op, case):
    shape, out_channels, kernel, geometry = CASES[case]
    node = binary_node(op, shape[1], out_channels, kernel, geometry)
    feed = feed_of(node, shape)
    y = run(serialized(node), feed, library, threads=2)
    want = expected(node, feed["X"], feed.get("R"))
    r = np.abs(feed.get("R", np.float32(0)))
    bias = np.abs(node.tensors["B"])
    magnitude = np.abs(want - feed.get("R", 0) - node.tensors["B"]) + bias + r
    assert np.all(np.abs(y - want) <= ROUNDINGS * EPSILON / 2 * (magnitude + bias + r)), SEED
    body = run(serialized(node), feed, None)
    assert np.abs(y - body).max() <= BODY_TOLERANCE * np.abs(want).max(), SEED


@pytest.mark.parametrize("case", ["plain 3x3", "1x1 strided", "grouped", "depthwise", "batch 8"])
@pytest.mark.parametrize("op", ACTIVATED)
def test_activations_round_as_those_of_the_body(library, op, case):
    """With S = 1 and B = 0 all before the activation is exact, and so Y is equal bit for bit."""
    shape, out_channels, kernel, geometry = CASES[case]
    node = unscaled(binary_node(op, shape[1], out_channels, kernel, geometry))
    feed = feed_of(node, shape)
    y = run(serialized(node), feed, library, threads=2)
    assert np.array_equal(y, run(serialized(node), feed, None)), SEED
    want = expected(node, feed["X"], feed.get("R"))
    assert np.abs(y - want).max() <= 2 * EPSILON * np.abs(want).max()


@pytest.mark.parametrize("op", (*OPS, *ACTIVATED))
def test_the_kernel_runs_and_not_the_body(library, op):
    node = binary_node(op, 40, 12, (3, 3), SAME)
    feed = feed_of(node, (2, 40, 6, 6))
    model = model_of(node, 4)
    steps = model.functions[0].node
    next(step for step in reversed(steps) if step.op_type == "Add").op_type = "Sub"
    want = expected(node, feed["X"], feed.get("R"))
    wrong = model.SerializeToString()
    assert not np.allclose(run(wrong, feed, None), want, atol=1e-3)
    assert np.allclose(run(wrong, feed, library), want, atol=1e-3)


def test_ops_without_a_kernel_run_their_bodies(library):
    node = binary_node("BinaryConv", 40, 12, (3, 3), SAME)
    tensors = {name: node.tensors[name] for name in ("W", "S", "B")}
    sign = NodeData(op_named("SignConv"), tensors, node.attributes)
    x = feed_of(node, (1, 40, 5, 5))
    y = run(serialized(sign), x, library)
    assert np.array_equal(y, run(serialized(sign), x, None))


# ---- Numbers at the edge ------------------------------------------------------------------------

SPECIAL = np.array([np.nan, -np.inf, -1, -1e-45, -0.0, 0.0, 1e-45, 1, np.inf], np.float32)


def test_special_numbers_compare_as_ieee_754_says(library):
    """NaN is at or above no threshold, and no number at or above NaN; -0 equals +0."""
    channels = len(SPECIAL)
    node = unscaled(
        binary_node("BinaryConv", channels, channels, (1, 1), ConvGeometry(group=channels))
    )
    node = replace(node, tensors={**node.tensors, "Th": SPECIAL.reshape(1, -1, 1, 1)})
    x = np.broadcast_to(SPECIAL, (1, channels, 1, channels)).copy()
    y = run(serialized(node), {"X": x}, library)
    sign = expected(node, np.full_like(x, -np.inf))[0, :, 0, 0] * -1
    sign[1] *= -1  # -inf >= -inf
    assert np.array_equal(y[0, :, 0, :] * sign[:, None] > 0, SPECIAL[None, :] >= SPECIAL[:, None])
    assert np.array_equal(y, run(serialized(node), {"X": x}, None))


def test_special_numbers_in_scale_bias_and_residual_pass_through(library):
    node = binary_node("BinaryConvAdd", 32, len(SPECIAL), (1, 1), ConvGeometry())
    numbers = SPECIAL.reshape(1, -1, 1, 1)
    for name in ("S", "B", "R"):
        special = node if name == "R" else replace(node, tensors={**node.tensors, name: numbers})
        feed = feed_of(special, (1, 32, 4, 4))
        if name == "R":
            feed["R"] = np.broadcast_to(numbers, feed["R"].shape).copy()
        want = expected(special, feed["X"], feed["R"]).astype(np.float32)
        y = run(serialized(special), feed, library)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5, equal_nan=True)


# ---- float16 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["plain 3x3", "33 channels", "grouped", "one row"])
@pytest.mark.parametrize("op", OPS)
def test_float16_is_computed_in_float32_and_rounded_once(library, op, case):
    shape, out_channels, kernel, geometry = CASES[case]
    node = binary_node(op, shape[1], out_channels, kernel, geometry)
    feed = {name: array.astype(np.float16) for name, array in feed_of(node, shape).items()}
    model = model_of(node, 4, elem=ir.DataType.FLOAT16).SerializeToString()
    y = run(model, feed, library, threads=2)
    exact = run(serialized(node), {k: v.astype(np.float32) for k, v in feed.items()}, library)
    assert y.dtype == np.float16
    assert np.array_equal(y, exact.astype(np.float16))


def test_every_float16_passes_through(library):
    """R in and Y out, as S = B = 0; and S times +-1 rounds as numpy rounds."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 1, 256, 256)
    node = unscaled(binary_node("BinaryConvAdd", 1, 1, (1, 1), ConvGeometry()))
    node = replace(node, tensors={**node.tensors, "S": node.tensors["B"]})
    model = model_of(node, 4, elem=ir.DataType.FLOAT16).SerializeToString()
    y = run(model, {"X": np.ones_like(halves), "R": halves}, library)
    np.testing.assert_array_equal(y, halves)
    rng = np.random.default_rng(SEED)
    scale = rng.normal(size=20000) * 2.0 ** rng.integers(-30, 20, 20000)
    node = unscaled(binary_node("BinaryConv", 1, len(scale), (1, 1), ConvGeometry()))
    scaled = {**node.tensors, "S": scale.astype(np.float32).reshape(1, -1, 1, 1)}
    x = np.full((1, 1, 1, 1), np.inf, np.float16)
    sign = expected(node, x.astype(np.float32))
    model = model_of(replace(node, tensors=scaled), 4, elem=ir.DataType.FLOAT16)
    with np.errstate(over="ignore"):
        want = (scaled["S"] * sign).astype(np.float16)
    assert np.array_equal(run(model.SerializeToString(), {"X": x}, library), want), SEED


# ---- Shapes -------------------------------------------------------------------------------------


def test_one_session_takes_inputs_of_any_size(library):
    node = binary_node("BinaryConv", 33, 12, (3, 3), replace(SAME, strides=(1, 2)))
    native, stock = (session(serialized(node), lib) for lib in (library, None))
    # More sizes than the kernel keeps plans for, some of them twice.
    sizes = [(n % 3, 33, 1 + n % 20, 3 + n) for n in range(24)] * 2
    for shape in sizes:
        feed = feed_of(node, shape)
        y = native.run(None, feed)[0]
        assert y.shape == (shape[0], 12, shape[2], (shape[3] + 1) // 2)
        if shape[0]:
            assert np.allclose(y, stock.run(None, feed)[0], atol=1e-3), f"{shape}, seed {SEED}"


@pytest.mark.parametrize(
    ("x_shape", "geometry", "y_shape"),
    [
        ((2, 40, 9, 8), SAME, [2, 12, 9, 8]),
        ((2, 40, 9, 8), ConvGeometry(strides=(2, 3), dilations=(2, 1)), [2, 12, 3, 2]),
        (("N", 40, "H", "W"), SAME, ["N", 12, "H", "W"]),
        (("N", 40, 9, "W"), replace(SAME, strides=(2, 1)), ["N", 12, 5, "W"]),
        (("N", 40, "H", "W"), replace(SAME, strides=(2, 2)), None),
        ((None, 40, None, None), SAME, None),
        ((None, None, None, None), SAME, None),
        ((None, None, None), SAME, None),
        (None, SAME, None),
    ],
)
def test_the_output_shape_is_inferred_where_it_is_known(library, x_shape, geometry, y_shape):
    node = binary_node("BinaryConv", 40, 12, (3, 3), geometry)
    model = model_of(node, 4)
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("X", 1, x_shape))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("Y", 1, None))
    inferred = session(model.SerializeToString(), library).get_outputs()[0].shape
    assert inferred == (y_shape or inferred)
    assert y_shape or all(not isinstance(dim, int) for dim in inferred)


# ---- Sessions and threads -----------------------------------------------------------------------


def test_runs_overlap(library):
    node = binary_node("BinaryConvAdd", 64, 32, (3, 3), SAME)
    shared = session(serialized(node), library, threads=2)
    feeds = [feed_of(node, (1 + i % 2, 64, 6 + i % 3, 7 + i), seed=i) for i in range(8)]
    want = [shared.run(None, feed)[0] for feed in feeds]
    shared = session(serialized(node), library, threads=2)  # without plans
    wrong: list[int] = []

    def work(first: int) -> None:
        for i in range(40):
            k = (first + i) % len(feeds)
            if not np.array_equal(shared.run(None, feeds[k])[0], want[k]):
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(2 * i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_sessions_come_and_go(library):
    node = binary_node("BinaryConv", 40, 12, (3, 3), SAME)
    feed = feed_of(node, (1, 40, 6, 6))
    model = serialized(node)
    want = run(model, feed, library)
    kept = [session(model, library) for _ in range(20)]
    for _ in range(30):
        assert np.array_equal(run(model, feed, library), want)
    assert all(np.array_equal(s.run(None, feed)[0], want) for s in kept)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_runs_leave_no_memory_behind(library):
    node = binary_node("BinaryConv", 64, 16, (3, 3), SAME)
    feed = feed_of(node, (8, 64, 56, 56))
    once = session(serialized(node), library)
    for _ in range(3):
        once.run(None, feed)
    before = resident_bytes()
    for _ in range(60):
        once.run(None, feed)
    # A leaked workspace is over 100 KB a Run for the bits alone.
    assert resident_bytes() - before < 4 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# ---- The kernel for this CPU --------------------------------------------------------------------

KERNELS = ("portable", "avx2", "avx512", "avx512-vpopcntdq", "amx", "neon")


def test_every_kernel_of_this_cpu_gives_the_same(library, monkeypatch):
    monkeypatch.setenv("BITEXPORT_OP_LIBRARY", str(library))
    node = binary_node("BinaryConvAdd", 64, 70, (3, 3), SAME)
    feed = feed_of(node, (2, 64, 9, 11))
    results = {}
    for kernel in KERNELS:
        monkeypatch.setenv("BITEXPORT_CPU_KERNEL", kernel)
        try:
            assert cpu_kernel() == kernel
        except RuntimeFailure:
            with pytest.raises(Exception, match="BITEXPORT_CPU_KERNEL to be one of portable"):
                session(serialized(node), library)
            continue
        results[kernel] = run(serialized(node), feed, library, threads=2)
    monkeypatch.delenv("BITEXPORT_CPU_KERNEL")
    assert cpu_kernel() == list(results)[-1]
    for kernel, y in results.items():
        assert np.array_equal(y, results["portable"]), kernel


def test_diagnosis_names_the_kernel(library, monkeypatch):
    monkeypatch.setenv("BITEXPORT_OP_LIBRARY", str(library))
    monkeypatch.setenv("BITEXPORT_CPU_KERNEL", "portable")
    assert OnnxRuntime(native=True).availability().detail.endswith("kernel portable")
    monkeypatch.setenv("BITEXPORT_CPU_KERNEL", "abacus")
    found = OnnxRuntime(native=True).availability()
    assert (found.ok, found.detail) == (False, "'abacus'")
    assert found.fix


def test_a_library_without_all_kernels_is_refused(tmp_path, monkeypatch):
    """ONNX Runtime itself would run the bodies of the ops that are not there, and say nothing."""
    source, old = tmp_path / "old.cpp", tmp_path / "old.so"
    source.write_text('extern "C" const char* BitexportCpuOps() { return "BinaryConv"; }\n')
    plugins_build.run([os.environ.get("CXX", "c++"), "-shared", "-fPIC", "-o", old, source])
    monkeypatch.setenv("BITEXPORT_OP_LIBRARY", str(old))
    node = binary_node("BinaryConv", 40, 12, (3, 3), SAME)
    with pytest.raises(RuntimeFailure, match=r"without kernels for BinaryConvAdd, .*Install"):
        bitexport.session(serialized(node))
    assert not OnnxRuntime(native=True).availability().ok


# ---- The library as a file ----------------------------------------------------------------------


def test_session_uses_the_library(library, monkeypatch):
    monkeypatch.setenv("BITEXPORT_OP_LIBRARY", str(library))
    assert bitexport.op_library_path() == library
    node = unscaled(binary_node("BinaryConv", 40, 12, (3, 3), SAME))
    feed = feed_of(node, (1, 40, 6, 6))
    native = bitexport.session(serialized(node), threads=1)
    assert np.array_equal(native.run(None, feed)[0], expected(node, feed["X"]))


def test_the_library_exports_three_symbols_and_brings_its_runtime(library):
    symbols = plugins_build.run(["nm", "-D", "--defined-only", library])
    assert [line.split()[-1] for line in symbols.splitlines()] == [
        "BitexportCpuKernel",
        "BitexportCpuOps",
        "RegisterCustomOps",
    ]
    dynamic = plugins_build.run(["readelf", "-dW", library])
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    assert "libstdc++" not in dynamic
    assert "BIND_NOW" in dynamic


def test_our_slice_of_the_c_api_is_the_real_one():
    places = [os.environ.get("ONNXRUNTIME_INCLUDE"), "/usr/include/onnxruntime"]
    header = next((p for p in places if p and Path(p, "onnxruntime_c_api.h").exists()), None)
    if header is None:
        pytest.skip("no onnxruntime_c_api.h; set ONNXRUNTIME_INCLUDE to its folder")
    folder = plugins_build.build("ort-abi", f"-DONNXRUNTIME_INCLUDE={header}")
    report = plugins_build.run([folder / "tests" / "check_ort_abi"])
    assert report.splitlines()[-1].endswith("0 failures")
