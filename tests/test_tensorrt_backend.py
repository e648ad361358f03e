"""What of the TensorRT backend runs without TensorRT and without a GPU.

TensorRT-RTX has the same Python interface, so its module stands in where nothing is executed.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from family_networks import export_family

from bitexport.errors import InputError, RuntimeFailure, UnsupportedModel
from bitexport.runtimes import tensorrt, without_functions
from bitexport.runtimes.device_memory import CudaPythonMemory, device_memory
from bitexport.runtimes.driver import first_gpu
from bitexport.runtimes.engine_build import NetworkBuild, layers_of_information
from bitexport.runtimes.engine_run import run_engine

RTX = "tensorrt_rtx_bindings"


@pytest.fixture(scope="module")
def wrn(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return export_family("wide-resnet", tmp_path_factory.mktemp("trt") / "m.onnx").read_bytes()


def rtx() -> Any:
    return pytest.importorskip(RTX, reason="TensorRT-RTX is not installed")


def test_old_versions_are_not_usable() -> None:
    """TensorRT-RTX counts from 1, which is below the oldest TensorRT that is taken."""
    rtx()
    found = tensorrt.TensorRT(RTX).availability()
    assert not found.ok
    assert "tensorrt>=10.12" in found.fix


def test_a_custom_node_without_its_plugin_fails_loudly(wrn: bytes) -> None:
    build = NetworkBuild(rtx(), "TensorRT")
    stripped = without_functions(wrn)
    assert len(stripped.nodes) == 6 and set(stripped.nodes.values()) == {"SignConv"}
    assert not onnx.load_from_string(stripped.data).functions
    with pytest.raises(UnsupportedModel, match="cannot parse"):
        build.parse(stripped.data)


def test_functions_are_no_plugin_layers(wrn: bytes) -> None:
    trt = rtx()
    build = NetworkBuild(trt, "TensorRT")
    build.parse(wrn)
    tensorrt.check_plugin_layers(trt, build.network, {})
    with pytest.raises(RuntimeFailure, match="0 plugin layers"):
        tensorrt.check_plugin_layers(trt, build.network, without_functions(wrn).nodes)


def test_a_library_that_is_none_does_not_load(tmp_path: Path) -> None:
    trt = rtx()
    with pytest.raises(RuntimeFailure, match="no such file"):
        tensorrt.load_plugins(trt, tmp_path / "none.so", ["SignConv"])
    text = tmp_path / "text.so"
    text.write_text("hello")
    with pytest.raises(RuntimeFailure, match="does not load"):
        tensorrt.load_plugins(trt, text, ["SignConv"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorRT-RTX times nothing
def test_a_timing_cache_is_kept_and_a_useless_one_replaced(tmp_path: Path) -> None:
    builds = []  # a cache does not outlive its builder

    def attached(path: Path | None) -> Any:
        builds.append(NetworkBuild(rtx(), "TensorRT"))
        return tensorrt._attach_timing_cache(builds[-1].config, path)

    path = tmp_path / "cache" / "kernels.timing"
    assert attached(None) is None
    tensorrt._keep(path, bytes(attached(path).serialize()))
    kept = path.read_bytes()
    assert kept
    for content in (kept, b"damaged", b""):
        path.write_bytes(content)
        assert bytes(attached(path).serialize()) == kept
    # No cache is no reason to lose an engine.
    tensorrt._keep(path / "below a file", kept)


@pytest.mark.parametrize("detailed", [True, False])
def test_plugin_layers_are_counted_in_the_engine(detailed: bool) -> None:
    names = ["conv0", "group0.conv0", "fc"]
    kinds = ["CaskConvolution", "PluginV3", "gemm"]
    records = [{"Name": n, "LayerType": k} for n, k in zip(names, kinds, strict=True)]
    text = json.dumps({"Layers": records if detailed else names, "Bindings": []})
    nodes = {"group0.conv0": "SignConv"}
    layers = layers_of_information(text, tuple(nodes))
    assert [layer.plugin for layer in layers] == [False, True, False]
    tensorrt.check_engine(layers, nodes)
    with pytest.raises(RuntimeFailure, match="1 plugin layers"):
        tensorrt.check_engine(layers, {**nodes, "group0.conv1": "SignConv"})


def test_device_memory_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITEXPORT_DEVICE_MEMORY", "nonsense")
    with pytest.raises(InputError, match="nonsense"):
        device_memory()
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if first_gpu() is not None:
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeFailure, match="nvidia-smi"):
        CudaPythonMemory()


class HostMemory:
    """Buffers in the host's memory."""

    def __init__(self) -> None:
        self.buffers: list[Any] = []

    def stream(self) -> int:
        return 7

    def allocate(self, size: int) -> int:
        self.buffers.append(ctypes.create_string_buffer(size))
        return ctypes.addressof(self.buffers[-1])

    def upload(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def close(self) -> None:
        self.buffers.clear()


class HostContext:
    """TensorRT's execution interface, computed by ONNX Runtime from and to raw addresses."""

    num_io_tensors = 2

    def __init__(self, model: bytes, largest: int) -> None:
        self.engine = self
        self._session = onnxruntime.InferenceSession(model)
        self._largest = largest
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return ("logits", "input")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "input" else "out"

    def get_tensor_dtype(self, name: str) -> type:
        return np.float32

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape if name == "input" else (*self._shape[:1], 10)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return shape[0] <= self._largest

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        raw = (ctypes.c_float * int(np.prod(self._shape))).from_address(self._addresses["input"])
        images = np.frombuffer(raw, np.float32).reshape(self._shape)
        result = self._session.run(["logits"], {"input": images})[0]
        ctypes.memmove(self._addresses["logits"], result.ctypes.data, result.nbytes)
        return stream == 7


def test_buffers_of_a_run(wrn: bytes) -> None:
    trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in"), nptype=lambda dtype: dtype)
    images = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).transpose(0, 3, 1, 2)
    context = HostContext(wrn, largest=3)
    got = run_engine(trt, context, HostMemory(), {"input": images})
    feed = {"input": images.astype(np.float32)}
    want = onnxruntime.InferenceSession(wrn).run(["logits"], feed)[0]
    assert set(got) == {"logits"}
    np.testing.assert_array_equal(got["logits"], want)
    with pytest.raises(RuntimeFailure, match="does not take"):
        run_engine(trt, context, HostMemory(), {"input": np.zeros((4, 3, 32, 32))})
    with pytest.raises(RuntimeFailure, match="missing"):
        run_engine(trt, context, HostMemory(), {"image": images})
