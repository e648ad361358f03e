"""Builds ``plugins/`` for the tests that need its binaries; quick where nothing changed."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD_ROOT = ROOT / "build" / "plugins-tests"
JOBS = "2"


def tool(name: str) -> str:
    """Path of a build tool: from PATH, else from the environment that runs the tests."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        raise RuntimeError(
            f"{name} is needed to build plugins/; install it, or `pip install {name}`"
        )
    return path


@functools.cache
def configure(configuration: str, *options: str) -> Path:
    """Configure ``plugins/`` with CMake ``options``; returns the build folder."""
    folder = BUILD_ROOT / configuration
    with _locked(configuration):
        setup: list[str | Path] = [tool("cmake"), "-S", ROOT / "plugins", "-B", folder]
        ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
        run([*setup, "-G", "Ninja", ninja, "-DBITEXPORT_WERROR=ON", *options])
    return folder


@functools.cache
def build(configuration: str, *options: str) -> Path:
    """Configure and build ``plugins/``; returns the build folder."""
    folder = configure(configuration, *options)
    with _locked(configuration):
        run([tool("cmake"), "--build", folder, "--parallel", JOBS])
    return folder


def ctest(folder: Path) -> str:
    """Run the C++ tests of a build folder; returns what they printed."""
    # ctest is of the same installation as cmake, but not always on PATH.
    beside_cmake = str(Path(tool("cmake")).parent)
    program = shutil.which("ctest", path=beside_cmake) or tool("ctest")
    return run([program, "--test-dir", folder, "--output-on-failure", "--no-tests=error"])


def compiler(folder: Path) -> str:
    """The C++ compiler that CMake chose for a configured build folder."""
    for line in (folder / "CMakeCache.txt").read_text().splitlines():
        if line.startswith("CMAKE_CXX_COMPILER:"):
            return line.split("=", 1)[1]
    raise RuntimeError(f"{folder} has no C++ compiler in its CMakeCache.txt")


def run(command: list[str | Path]) -> str:
    """Run a command; its output, or an AssertionError that shows it."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        shown = " ".join(str(part) for part in command)
        raise AssertionError(f"exit code {result.returncode} from {shown}\n{result.stdout}")
    return result.stdout


@contextmanager
def _locked(configuration: str) -> Iterator[None]:
    """One build at a time in a folder: each pytest-xdist worker wants it built."""
    BUILD_ROOT.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(BUILD_ROOT / f"{configuration}.lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
