"""The C++ core builds without a warning, and passes its own tests, with sanitizers too."""

from __future__ import annotations

import subprocess
from pathlib import Path

import plugins_build
import pytest

SANITIZERS = "address,undefined"
# Little optimization: sanitized code builds faster, and reports lines that can be found.
SANITIZE_OPTIONS = (
    f"-DBITEXPORT_SANITIZE={SANITIZERS}",
    "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
    "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1",
)


@pytest.fixture(scope="session")
def plain_build() -> Path:
    return plugins_build.build("plain")


@pytest.fixture(scope="session")
def sanitized_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = plugins_build.configure("sanitized", *SANITIZE_OPTIONS)
    reason = _why_no_sanitizers(plugins_build.compiler(folder), tmp_path_factory.mktemp("trial"))
    if reason:
        pytest.skip(f"no {SANITIZERS} sanitizers here: {reason}")
    return plugins_build.build("sanitized", *SANITIZE_OPTIONS)


def test_core_passes_its_tests(plain_build: Path) -> None:
    assert "100% tests passed" in plugins_build.ctest(plain_build)


def test_core_passes_its_tests_with_sanitizers(sanitized_build: Path) -> None:
    assert "100% tests passed" in plugins_build.ctest(sanitized_build)


@pytest.mark.parametrize("name", ["test_packing", "test_conv_shape", "test_reference"])
def test_each_test_checks_something(plain_build: Path, name: str) -> None:
    report = plugins_build.run([plain_build / "tests" / name]).splitlines()[-1]
    checks, failures = report.removesuffix(" failures").split(" checks, ")
    assert int(checks) > 1000
    assert int(failures) == 0


def _why_no_sanitizers(compiler: str, folder: Path) -> str:
    """Why a sanitized program cannot be built or run here; empty where it can."""
    source = folder / "trial.cpp"
    source.write_text("int main() { return 0; }\n")
    program = folder / "trial"
    commands = ([compiler, f"-fsanitize={SANITIZERS}", source, "-o", program], [program])
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
    return ""
