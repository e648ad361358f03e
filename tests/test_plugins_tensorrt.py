"""The TensorRT plugins without a GPU and without TensorRT: its headers, and a harness of ours.

The harness drives every creator and plugin object as TensorRT would. The CUDA kernels are replaced
by a double that computes on the host: what a plugin hands to them is checked by its result.
"""

from __future__ import annotations

import re
from pathlib import Path

import plugins_build
import pytest
import tensorrt_build
import tensorrt_headers

TESTS = (
    "test_trt_creators",
    "test_trt_build",
    "test_trt_runtime",
    "test_trt_enqueue",
    "fuzz_trt_plugin",
)


@pytest.fixture(scope="session", params=["of the package index", "of the environment"])
def headers(request: pytest.FixtureRequest) -> Path:
    if request.param == "of the environment":
        folder = tensorrt_headers.given()
        if folder is None:
            pytest.skip(f"none of {', '.join(tensorrt_headers.VARIABLES)} names TensorRT's headers")
        return folder
    return tensorrt_build.index_headers()


@pytest.fixture(scope="session")
def harness(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of the harness, with sanitizers where the compiler has them."""
    name = f"tensorrt-{tensorrt_headers.version(headers)}"
    options = tensorrt_build.options(headers)
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


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_harness_with_the_kernels_emulated(capability: int) -> None:
    """The plugins with the kernels' own code, on three generations of GPUs."""
    folder = tensorrt_build.plain("test_trt_emulated")
    report = plugins_build.ctest(folder, "--verbose", "-R", f"^test_trt_emulated_{capability}$")
    assert "100% tests passed, 0 tests failed out of 1" in report
    assert f"compute capability {capability}" in report


def test_cpp_of_the_docs_compiles(headers: Path, tmp_path: Path) -> None:
    page = (plugins_build.ROOT / "docs" / "tensorrt-plugins.md").read_text()
    [code] = re.findall(r"^```cpp\n(.*?)^```", page, re.S | re.M)
    source = tmp_path / "run_engine.cpp"
    source.write_text(code)
    flags = ["-std=c++17", "-Wall", "-Werror", "-fsyntax-only"]
    includes = ["-isystem", headers, "-isystem", tensorrt_build.cuda_include()]
    plugins_build.run(["c++", *flags, *includes, source])
