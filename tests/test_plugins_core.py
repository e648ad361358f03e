"""The C++ core builds without a warning, and passes its own tests, with sanitizers too."""

from __future__ import annotations

from pathlib import Path

import plugins_build
import pytest


@pytest.fixture(scope="session")
def plain_build() -> Path:
    return plugins_build.build("plain")


@pytest.fixture(scope="session")
def sanitized_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = plugins_build.configure("sanitized", *plugins_build.SANITIZE_OPTIONS)
    reason = plugins_build.why_no_sanitizers(
        plugins_build.compiler(folder), plugins_build.SANITIZERS, tmp_path_factory.mktemp("trial")
    )
    if reason:
        pytest.skip(f"no {plugins_build.SANITIZERS} sanitizers here: {reason}")
    return plugins_build.build("sanitized", *plugins_build.SANITIZE_OPTIONS)


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
