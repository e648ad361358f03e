"""The TensorRT plugins without a GPU and without TensorRT: its headers, and a harness of ours.

The harness drives every creator and plugin object as TensorRT would. The CUDA kernels are replaced
by a double that computes on the host: what a plugin hands to them is checked by its result.
"""

from __future__ import annotations

import re
from pathlib import Path

import plugins_build
import pytest
import tensorrt_headers
from plugin_build import HEADER_CACHE

TESTS = ("test_trt_creators", "test_trt_build", "test_trt_runtime", "test_trt_enqueue")


@pytest.fixture(scope="session")
def cuda() -> Path:
    folder = tensorrt_headers.cuda_include()
    if folder is None:
        pytest.skip("no cuda_runtime_api.h: install the CUDA toolkit, or set CUDA_HOME")
    return folder


@pytest.fixture(scope="session", params=["of the package index", "of the environment"])
def headers(request: pytest.FixtureRequest) -> Path:
    if request.param == "of the environment":
        folder = tensorrt_headers.given()
        if folder is None:
            pytest.skip(f"none of {', '.join(tensorrt_headers.VARIABLES)} names TensorRT's headers")
        return folder
    found = tensorrt_headers.from_index(HEADER_CACHE)
    if isinstance(found, str):
        pytest.skip(f"no {tensorrt_headers.WHEEL}, which has TensorRT's headers: {found}")
    return found


@pytest.fixture(scope="session")
def harness(headers: Path, cuda: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of the harness, with sanitizers where the compiler has them."""
    name = f"tensorrt-{tensorrt_headers.version(headers)}"
    options = [f"-DTENSORRT_INCLUDE={headers}", f"-DCUDA_INCLUDE={cuda}", "-DBITEXPORT_ORT=OFF"]
    folder = plugins_build.configure(name, *options)
    trial = tmp_path_factory.mktemp("trial")
    compiler = plugins_build.compiler(folder)
    if not plugins_build.why_no_sanitizers(compiler, plugins_build.SANITIZERS, trial):
        folder = plugins_build.configure(name, *options, *plugins_build.SANITIZE_OPTIONS)
    return plugins_build.build_targets(folder, *TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_harness(harness: Path, name: str) -> None:
    report = plugins_build.ctest(harness, "--verbose", "-R", f"^{name}$")
    assert "100% tests passed, 0 tests failed out of 1" in report
    [checks] = [line for line in report.splitlines() if line.endswith(" checks, 0 failures")]
    assert int(checks.split()[-4]) > 1000


def test_cpp_of_the_docs_compiles(headers: Path, cuda: Path, tmp_path: Path) -> None:
    page = (plugins_build.ROOT / "docs" / "tensorrt.md").read_text()
    [code] = re.findall(r"^```cpp\n(.*?)^```", page, re.S | re.M)
    source = tmp_path / "run_engine.cpp"
    source.write_text(code)
    flags = ["-std=c++17", "-Wall", "-Werror", "-fsyntax-only"]
    plugins_build.run(["c++", *flags, "-isystem", headers, "-isystem", cuda, source])
