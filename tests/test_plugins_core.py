"""The C++ core builds without a warning, and passes its own tests, with sanitizers too."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

import plugins_build
import pytest


@pytest.fixture(scope="session")
def plain_build() -> Path:
    return plugins_build.build("plain")


def test_core_passes_its_tests(plain_build: Path) -> None:
    assert "100% tests passed" in plugins_build.ctest(plain_build)


def test_core_passes_its_tests_with_sanitizers(tmp_path: Path) -> None:
    folder = plugins_build.configure("sanitized", *plugins_build.SANITIZE_OPTIONS)
    skip_without(plugins_build.SANITIZERS, folder, tmp_path)
    plugins_build.build("sanitized", *plugins_build.SANITIZE_OPTIONS)
    assert "100% tests passed" in plugins_build.ctest(folder)


def test_threaded_kernels_have_no_races(tmp_path: Path) -> None:
    options = ("-DBITEXPORT_SANITIZE=thread", "-DBITEXPORT_ORT=OFF")
    folder = plugins_build.configure(
        "sanitized-thread", *options, *plugins_build.LITTLE_OPTIMIZATION
    )
    skip_without("thread", folder, tmp_path)
    plugins_build.build_targets(folder, "test_cpu_binary_conv")
    assert "100% tests passed" in plugins_build.ctest(folder, "-R", "test_cpu_binary_conv")


def test_core_passes_its_tests_built_by_clang() -> None:
    compiler = shutil.which("clang++")
    if compiler is None:
        pytest.skip("no clang++ on the PATH")
    folder = plugins_build.configure("clang", f"-DCMAKE_CXX_COMPILER={compiler}")
    plugins_build.build_targets(folder, "test_cpu_binary_conv", "bitexport_ort")
    assert "100% tests passed" in plugins_build.ctest(folder, "-R", "test_cpu_binary_conv")


def test_shared_code_runs_on_every_cpu(plain_build: Path) -> None:
    """What files share, the linker keeps one copy of: none may use what not every CPU has."""
    if platform.machine() != "x86_64" or shutil.which("objdump") is None:
        pytest.skip("needs objdump, and looks at instructions of x86-64")
    objects = [
        path
        for path in (plain_build / "kernels").rglob("*.o")
        if path.name.startswith(("avx", "depthwise_avx", "popcnt"))
    ]
    assert len(objects) >= 7
    for path in objects:
        weak = {
            line.split()[-1]
            for line in plugins_build.run(["nm", path]).splitlines()
            if line.split()[-2] in "WV"
        }
        code = plugins_build.run(["objdump", "-d", "--no-show-raw-insn", path])
        for name, body in re.findall(r"<(\S+)>:\n(.*?)(?:\n\n|\Z)", code, re.DOTALL):
            if name in weak:
                assert not re.search(r"\t(v[a-z0-9]+|popcnt)\b", body), f"{path.name}: {name}"


@pytest.mark.parametrize("name", ["test_packing", "test_conv_shape", "test_reference"])
def test_each_test_checks_something(plain_build: Path, name: str) -> None:
    report = plugins_build.run([plain_build / "tests" / name]).splitlines()[-1]
    checks, failures = report.removesuffix(" failures").split(" checks, ")
    assert int(checks) > 1000
    assert int(failures) == 0


def skip_without(sanitizers: str, folder: Path, scratch: Path) -> None:
    compiler = plugins_build.compiler(folder)
    reason = plugins_build.why_no_sanitizers(compiler, sanitizers, scratch)
    if reason:
        pytest.skip(f"no {sanitizers} sanitizers here: {reason}")
