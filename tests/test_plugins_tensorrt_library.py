"""The TensorRT plugin library as a file: its symbols, and TensorRT-RTX's plugin registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import plugins_build
import pytest
import tensorrt_build
from single_node import model_of
from test_ops_bodies import GEOMETRIES, conv_node, gemm_node

from bitexport.errors import RuntimeFailure
from bitexport.ops.table import OPS, PLUGIN_ATTRIBUTES, Op
from bitexport.runtimes import plugin_library_path

REPORT = Path(__file__).with_name("registry_report.py")


# Chains have no plugins.
DEVICE_OPS = [op for op in OPS if not op.chained]


@pytest.fixture(scope="session", params=["with the double", "with the kernels"])
def library(request: pytest.FixtureRequest) -> Path:
    """A library linked like the real one, and the real one where it was built."""
    if request.param == "with the kernels":
        try:
            return plugin_library_path()
        except RuntimeFailure as failure:
            pytest.skip(f"`make plugins` was not run: {failure}")
    target = "bitexport_trt_double"
    return tensorrt_build.plain(target) / f"lib{target}.so"


def test_symbols(library: Path) -> None:
    defined = plugins_build.run(["nm", "-D", "--defined-only", library])
    assert {line.split()[-1] for line in defined.splitlines()} == {"getCreators", "setLoggerFinder"}
    undefined = plugins_build.run(["nm", "-DC", "--undefined-only", library])
    assert "nvinfer" not in undefined
    assert "getPluginRegistry" not in undefined


def test_it_needs_only_the_systems_libraries(library: Path) -> None:
    dynamic = plugins_build.run(["readelf", "-dW", library])
    needed = {line.split("[")[1].split("]")[0] for line in dynamic.splitlines() if "NEEDED" in line}
    assert needed <= {
        *(f"lib{name}" for name in ("c.so.6", "m.so.6", "dl.so.2", "rt.so.1", "pthread.so.0")),
        "ld-linux-x86-64.so.2",
    }
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    assert "BIND_NOW" in dynamic or "NOW" in dynamic
    assert "GNU_RELRO" in plugins_build.run(["readelf", "-lW", library])


def report(library: Path, *models: Path) -> dict[str, dict[str, list[str]]]:
    environment = {**os.environ, "BITEXPORT_TRT_VERBOSE": "1"}
    result = subprocess.run(
        [sys.executable, REPORT, library, *models],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="session")
def registry(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    pytest.importorskip("tensorrt_rtx_bindings")
    folder = tmp_path_factory.mktemp("models")
    models = []
    for op in DEVICE_OPS:
        node = gemm_node() if op.kind == "gemm" else conv_node(op.name, *GEOMETRIES["grouped"])
        model = model_of(node, 2 if op.kind == "gemm" else 4)
        model.graph.node[0].name = f"layer of {op.name}"
        models.append(folder / f"{op.name}.onnx")
        models[-1].write_bytes(model.SerializeToString())
    return report(library, *models)


def test_a_logger_of_another_major_version_is_left_alone(library: Path, tmp_path: Path) -> None:
    """Loggers changed between TensorRT 10 and 11: errors must go to stderr, and not astray."""
    source = tmp_path / "empty.c"
    source.write_text("")
    other = tmp_path / "libnvinfer.so.12"
    plugins_build.run(["cc", "-shared", f"-Wl,-soname,{other.name}", source, "-o", other])
    script = """
import ctypes, sys
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
library = ctypes.CDLL(sys.argv[2])
library.setLoggerFinder(ctypes.c_void_p(8))  # to follow it would be the end
count = ctypes.c_int32()
library.getCreators.restype = ctypes.POINTER(ctypes.c_void_p)
creators = library.getCreators(ctypes.byref(count))
table = ctypes.cast(creators[0], ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
prototype = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int
)
# The first function after getAPILanguage, getInterfaceInfo and the two destructors.
create_plugin = prototype(table[4])
assert create_plugin(creators[0], b"stem", None, 0) is None
"""
    command = [sys.executable, "-c", script, other, library]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "bitexport: SignConv layer 'stem': expected plugin fields, got none\n"


@pytest.mark.rtx
def test_registry_finds_every_creator(registry: dict) -> None:
    creators = registry["creators"]["result"]
    assert creators is not None, registry["creators"]["log"]
    ours = {(c["namespace"], c["name"]): c for c in creators}
    for op in DEVICE_OPS:
        for namespace in ("bitexport", ""):
            creator = ours[namespace, op.name]
            assert creator["version"] == PLUGIN_ATTRIBUTES["plugin_version"]
            assert creator["fields"] == {a.name: "INT32" for a in op.attributes}


@pytest.mark.rtx
def test_errors_name_the_layer(registry: dict) -> None:
    assert registry["refusal"]["result"] is True
    [line] = [x for x in registry["refusal"]["log"] if "bitexport:" in x]
    assert "bitexport: SignConv layer 'stem': attribute 'pads' is missing" in line


@pytest.mark.rtx
@pytest.mark.parametrize("op", DEVICE_OPS, ids=lambda op: op.name)
def test_parser_delivers_the_attributes(registry: dict, op: Op) -> None:
    """The parser finds our plugin for the node, in our namespace, and hands it every attribute."""
    parsed = registry["parsed"][DEVICE_OPS.index(op)]
    lines = [line for line in parsed["log"] if f"bitexport: {op.name} layer" in line]
    node = gemm_node() if op.kind == "gemm" else conv_node(op.name, *GEOMETRIES["grouped"])
    texts = []
    for attribute in op.attributes:
        value = node.attributes[attribute.name]
        numbers = value if isinstance(value, (list, tuple)) else [value]
        texts.append(f"{attribute.name}={','.join(map(str, numbers))}")
    expected = f"bitexport: {op.name} layer 'layer of {op.name}': {' '.join(texts)}"
    assert [line.removeprefix("VERBOSE ") for line in lines[:1]] == [expected], parsed["log"][-5:]
