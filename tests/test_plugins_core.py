"""The C++ core builds without a warning, and passes its own tests, with sanitizers too."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import plugins_build
import pytest

# Little optimization: sanitized code builds faster, and reports lines that can be found.
SANITIZE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
    "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1",
)


@pytest.fixture(scope="session")
def plain_build() -> Path:
    return plugins_build.build("plain")


def test_core_passes_its_tests(plain_build: Path) -> None:
    assert "100% tests passed" in plugins_build.ctest(plain_build)


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_core_passes_its_tests_with_sanitizers(sanitizers: str, tmp_path: Path) -> None:
    name = f"sanitized-{sanitizers.partition(',')[0]}"
    options = (f"-DBITEXPORT_SANITIZE={sanitizers}", "-DBITEXPORT_ORT=OFF", *SANITIZE_OPTIONS)
    reason = _why_no_sanitizers(
        plugins_build.compiler(plugins_build.configure(name, *options)), sanitizers, tmp_path
    )
    if reason:
        pytest.skip(f"no {sanitizers} sanitizers here: {reason}")
    assert "100% tests passed" in plugins_build.ctest(plugins_build.build(name, *options))


def test_core_passes_its_tests_built_by_clang() -> None:
    compiler = shutil.which("clang++")
    if compiler is None:
        pytest.skip("no clang++ on the PATH")
    folder = plugins_build.build("clang", f"-DCMAKE_CXX_COMPILER={compiler}")
    assert "100% tests passed" in plugins_build.ctest(folder)


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


def _why_no_sanitizers(compiler: str, sanitizers: str, folder: Path) -> str:
    """Why a sanitized program cannot be built or run here; empty where it can."""
    source = folder / "trial.cpp"
    source.write_text("int main() { return 0; }\n")
    program = folder / "trial"
    commands = ([compiler, f"-fsanitize={sanitizers}", source, "-o", program], [program])
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
    return ""
