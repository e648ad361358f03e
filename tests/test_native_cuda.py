"""The CUDA side of the op library in ONNX Runtime.

Without a GPU its adapter runs whole models with the host in the GPU's place: its ops are for the
CPU's execution provider, the kernels a double that computes on the host. The library itself is
built, and must do no harm where nothing can run it. Where onnxruntime has the CUDA execution
provider and a GPU, the same models run there.
"""

from __future__ import annotations

from pathlib import Path

import gpu
import machine_code
import native_nodes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import plugins_build
import pytest
import tensorrt_build
from family_networks import BINARY, NAMES, export_family
from native_chains import Layer, computed, layer_nodes, model_of_layers, serialized
from native_models import run, session
from native_nodes import binary_node, feed_of, unscaled
from plugin_build import nvcc
from single_node import expected, model_of
from test_ops_bodies import CONV_CASES, SEED, TOLERANCE, activations, conv_node, gemm_node

import bitexport
from bitexport.graph.passes.chain_signs import chain_signs
from bitexport.ops.nodes import NodeData
from bitexport.ops.table import op_named
from bitexport.runtimes import OnnxRuntime
from bitexport.runtimes.driver import first_gpu
from bitexport.spec import ConvGeometry

CUDA = "CUDAExecutionProvider"
SAME = ConvGeometry(pads=(1, 1, 1, 1))
# No GPU has kernels for chains.
DEVICE_CASES = [c for c in CONV_CASES if not op_named(str(c.values[0])).chained]


@pytest.fixture(scope="module")
def double() -> Path:
    """The adapter with the host in the GPU's place."""
    tensorrt_build.cuda_include()
    return native_nodes.built("bitexport_ort_cuda_double")


@pytest.fixture(scope="module")
def library() -> Path:
    """The library itself, for one GPU."""
    if machine_code.nvcc() is None:
        pytest.skip("no nvcc here: the CUDA kernels are not compiled")
    folder = plugins_build.configure("cuda", *machine_code.ONE_GPU)
    plugins_build.build_targets(folder, "bitexport_ort_cuda")
    return folder / "libbitexport_ort_cuda.so"


def without_body(node: NodeData, rank: int, elem: ir.DataType = ir.DataType.FLOAT) -> bytes:
    """A model whose function body computes nonsense: only a kernel gives the right answer."""
    model = model_of(node, rank, elem=elem)
    (function,) = model.functions
    steps = [onnx.helper.make_node("Neg", ["X"], [function.output[0]])]
    del function.node[:]
    function.node.extend(steps)
    return model.SerializeToString()


def check(library: Path, node: NodeData, channels: int, elem: ir.DataType) -> None:
    feed = {k: v.astype(elem.numpy()) for k, v in activations(node, channels).items()}
    want = expected(node, feed["X"].astype(np.float32), feed.get("R"))
    y = run(without_body(node, feed["X"].ndim, elem), feed, library)
    assert (y.dtype, y.shape) == (elem.numpy(), want.shape)
    error = np.abs(y.astype(np.float64) - want).max() / np.abs(want).max()
    assert error <= TOLERANCE[elem], f"relative error {error:.2e}, seed {SEED}"


@pytest.mark.parametrize("elem", TOLERANCE, ids=["float32", "float16"])
@pytest.mark.parametrize(("op", "channels", "kernel", "geometry"), DEVICE_CASES)
def test_every_convolution(double, op, channels, kernel, geometry, elem):
    check(double, conv_node(op, channels, kernel, geometry), channels, elem)


@pytest.mark.parametrize("elem", TOLERANCE, ids=["float32", "float16"])
def test_the_linear_layer(double, elem):
    check(double, gemm_node(), 36, elem)


def inputs_of(model: Path, samples: int) -> dict[str, np.ndarray]:
    (given,) = onnx.load(model).graph.input
    shape = [d.dim_value for d in given.type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(SEED)
    return {"input": rng.standard_normal((samples, *shape), dtype=np.float32)}


@pytest.mark.parametrize("name", NAMES)
def test_every_family(double, name, tmp_path):
    model = export_family(name, tmp_path / "model.onnx")
    feed = inputs_of(model, 2)
    stock, adapted = (run(model.read_bytes(), feed, path) for path in (None, double))
    assert np.abs(adapted - stock).max() <= 1e-5 * np.abs(stock).max()


def test_chains_run_their_bodies(double):
    nodes = layer_nodes(40, [Layer(64), Layer(33, op="BinaryConvClip"), Layer(8)], exact=True)
    model = model_of_layers(nodes)
    assert len(chain_signs(model)) == 2
    feed = feed_of(nodes[0], (2, 40, 6, 7))
    y = run(serialized(model), feed, double)
    assert np.array_equal(y, computed(nodes, feed["X"]))


def test_one_session_takes_any_batch_and_size(double):
    node = unscaled(binary_node("BinaryConvAdd", 40, 12, (3, 3), SAME))
    opened = session(without_body(node, 4), double)
    for shape in ((1, 40, 6, 6), (3, 40, 6, 6), (3, 40, 5, 9), (1, 40, 6, 6), (0, 40, 6, 6)):
        feed = feed_of(node, shape)
        y = opened.run(None, feed)[0]
        assert np.array_equal(y, expected(node, feed["X"], feed["R"])), shape


def wrong(node: NodeData, name: str, array: np.ndarray) -> NodeData:
    return NodeData(node.op, {**node.tensors, name: array}, node.attributes)


@pytest.mark.parametrize(
    ("op", "name", "shape", "said"),
    [
        ("SignConv", "W", (12, 3, 3, 1), "expected W of shape [12, 3, 3, 2], got [12, 3, 3, 1]"),
        ("BinaryConv", "Th", (1, 39, 1, 1), "expected Th of shape [1, 40, 1, 1]"),
        ("SignConv", "S", (1, 13, 1, 1), "expected S of shape [1, 12, 1, 1]"),
        ("CodebookConv", "Codes", (12, 9), "expected Codes of shape [12, 10], got [12, 9]"),
        ("CodebookConv", "CB", (257, 9), "K from 1 to 256"),
        ("CodebookConv16", "CB", (1000, 7), "a d that divides the 360 weights"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(double, op, name, shape, said):
    node = conv_node(op, 40, (3, 3), ConvGeometry())
    bad = wrong(node, name, np.zeros(shape, node.tensors[name].dtype))
    with pytest.raises(Exception, match=f"{op} node 'node_{op}") as caught:
        run(without_body(bad, 4), activations(node, 40), double)
    assert said in str(caught.value)


def test_images_that_do_not_fit_are_refused_by_name(double):
    node = conv_node("SignConv", 40, (3, 3), ConvGeometry())
    with pytest.raises(Exception, match=r"SignConv node 'node_.*the input is \[1, 39, 6, 6\]"):
        run(without_body(node, 4), {"X": np.zeros((1, 39, 6, 6), np.float32)}, double)
    with pytest.raises(Exception, match=r"expected X of shape \[N, 36\], got \[1, 35\]"):
        run(without_body(gemm_node(), 2), {"X": np.zeros((1, 35), np.float32)}, double)


# ---- The library itself -------------------------------------------------------------------------


def test_the_library_exports_what_the_cpu_s_does_and_imports_nothing_of_cuda(library):
    symbols = plugins_build.run(["nm", "-D", "--defined-only", library])
    assert [line.split()[-1] for line in symbols.splitlines()] == [
        "BitexportCpuKernel",
        "BitexportCpuOps",
        "RegisterCustomOps",
    ]
    dynamic = plugins_build.run(["readelf", "-dW", library])
    needed = {line.split("[")[1].split("]")[0] for line in dynamic.splitlines() if "NEEDED" in line}
    allowed = ("libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "ld-linux")
    assert all(name.startswith(allowed) for name in needed), needed
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic and "BIND_NOW" in dynamic


def test_models_still_run_where_nothing_can_run_cuda_kernels(library):
    if CUDA in onnxruntime.get_available_providers() and first_gpu() is not None:
        pytest.skip("CUDA kernels run here")
    for op in ("SignConv", "CodebookConv"):  # no kernel of the CPU: the body
        node = conv_node(op, 40, (3, 3), SAME)
        feed = activations(node, 40)
        model = model_of(node, 4).SerializeToString()
        assert np.array_equal(run(model, feed, library), run(model, feed, None))
    node = unscaled(binary_node("BinaryConv", 40, 12, (3, 3), SAME))
    feed = feed_of(node, (2, 40, 6, 6))
    assert np.array_equal(run(without_body(node, 4), feed, library), expected(node, feed["X"]))


def test_a_session_falls_back_to_the_cpu_s_library(tmp_path, monkeypatch):
    """As where the CUDA provider does not start, and ops that are for it hide the bodies."""
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA execution provider")
    useless = tmp_path / "libbitexport_ort_cuda.so"
    useless.write_text("no library")
    monkeypatch.setenv("BITEXPORT_CUDA_OP_LIBRARY", str(useless))
    monkeypatch.setenv("BITEXPORT_OP_LIBRARY", str(native_nodes.library()))
    node = unscaled(binary_node("BinaryConv", 40, 12, (3, 3), SAME))
    feed = feed_of(node, (1, 40, 6, 6))
    with pytest.warns(UserWarning, match=CUDA):
        opened = gpu_session(without_body(node, 4))
    assert opened.get_providers() == ["CPUExecutionProvider"]
    assert np.array_equal(opened.run(None, feed)[0], expected(node, feed["X"]))


# ---- On a GPU -----------------------------------------------------------------------------------


@pytest.fixture
def on_gpu(monkeypatch):
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA execution provider: pip install onnxruntime-gpu")
    if first_gpu() is None:
        pytest.skip("no GPU here")
    architecture = f"-DBITEXPORT_CUDA_ARCHITECTURES={gpu.find().architecture}"
    options = ("-DBITEXPORT_CUDA=ON", architecture, f"-DCMAKE_CUDA_COMPILER={nvcc()}")
    folder = plugins_build.configure("ort-cuda-gpu", *options, "-DBUILD_TESTING=OFF")
    plugins_build.build_targets(folder, "bitexport_ort_cuda")
    monkeypatch.setenv("BITEXPORT_CUDA_OP_LIBRARY", str(folder / "libbitexport_ort_cuda.so"))


def gpu_session(model: bytes):
    return bitexport.session(model, providers=[CUDA, "CPUExecutionProvider"])


@pytest.mark.gpu
@pytest.mark.parametrize("elem", TOLERANCE, ids=["float32", "float16"])
@pytest.mark.parametrize(("op", "channels", "kernel", "geometry"), DEVICE_CASES)
def test_every_convolution_on_the_gpu(on_gpu, op, channels, kernel, geometry, elem):
    node = conv_node(op, channels, kernel, geometry)
    feed = {k: v.astype(elem.numpy()) for k, v in activations(node, channels).items()}
    want = expected(node, feed["X"].astype(np.float32), feed.get("R"))
    y = gpu_session(without_body(node, 4, elem)).run(None, feed)[0].astype(np.float64)
    assert np.abs(y - want).max() <= TOLERANCE[elem] * np.abs(want).max()


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_every_family_on_the_gpu(on_gpu, name, tmp_path):
    model = export_family(name, tmp_path / "model.onnx")
    data = model.read_bytes()
    opened = gpu_session(data)
    for samples in (1, 3, 1):
        feed = inputs_of(model, samples)
        stock, ours = run(data, feed, None), opened.run(None, feed)[0]
        if name in BINARY:  # a rounding difference may flip a sign
            assert np.linalg.norm(ours - stock) <= 0.1 * np.linalg.norm(stock)
        else:
            assert np.abs(ours - stock).max() <= 1e-3 * np.abs(stock).max()


@pytest.mark.gpu
def test_bench_runs_our_kernels_on_the_gpu(on_gpu):
    node = conv_node("SignConv", 40, (3, 3), SAME)
    feed = activations(node, 40)
    runner = OnnxRuntime(native=False, cuda=True).load(without_body(node, 4))
    want = expected(node, feed["X"])
    assert np.abs(runner.run(feed)["Y"] - want).max() <= 3e-5 * np.abs(want).max()
