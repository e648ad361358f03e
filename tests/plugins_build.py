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
    with locked(configuration):
        setup: list[str | Path] = [tool("cmake"), "-S", ROOT / "plugins", "-B", folder]
        ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
        run([*setup, "-G", "Ninja", ninja, "-DBITEXPORT_WERROR=ON", *options])
    return folder


# Little optimization: sanitized code builds faster, and reports lines that can be found.
LITTLE_OPTIMIZATION = (
    "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
    "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1",
)
SANITIZERS = "address,undefined"
SANITIZE_OPTIONS = (f"-DBITEXPORT_SANITIZE={SANITIZERS}", *LITTLE_OPTIMIZATION)


@functools.cache
def build(configuration: str, *options: str) -> Path:
    """Configure and build ``plugins/``; returns the build folder."""
    folder = configure(configuration, *options)
    with locked(configuration):
        run([tool("cmake"), "--build", folder, "--parallel", JOBS])
    return folder


def build_targets(folder: Path, *targets: str) -> Path:
    """Build some targets of a configured build folder; returns the folder."""
    with locked(folder.name):
        run([tool("cmake"), "--build", folder, "--parallel", JOBS, "--target", *targets])
    return folder


def ctest(folder: Path, *options: str) -> str:
    """Run the C++ tests of a build folder; returns what they printed."""
    # ctest is of the same installation as cmake, but not always on PATH.
    beside_cmake = str(Path(tool("cmake")).parent)
    program = shutil.which("ctest", path=beside_cmake) or tool("ctest")
    return run([program, "--test-dir", folder, "--output-on-failure", "--no-tests=error", *options])


def compiler(folder: Path) -> str:
    """The C++ compiler that CMake chose for a configured build folder."""
    for line in (folder / "CMakeCache.txt").read_text().splitlines():
        if line.startswith("CMAKE_CXX_COMPILER:"):
            return line.split("=", 1)[1]
    raise RuntimeError(f"{folder} has no C++ compiler in its CMakeCache.txt")


def why_no_sanitizers(compiler: str, sanitizers: str, folder: Path) -> str:
    """Why a sanitized program cannot be built or run here; empty where it can."""
    source = folder / "trial.cpp"
    source.write_text("int main() { return 0; }\n")
    program = folder / "trial"
    for command in ([compiler, f"-fsanitize={sanitizers}", source, "-o", program], [program]):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
    return ""


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
def locked(configuration: str) -> Iterator[None]:
    """One build at a time in a folder: each pytest-xdist worker wants it built."""
    BUILD_ROOT.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(BUILD_ROOT / f"{configuration}.lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
