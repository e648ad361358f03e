"""Configures and builds the TensorRT plugins with CMake, for `make plugins` and `make gpu-test`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import tensorrt_headers

ROOT = Path(__file__).resolve().parents[2]
HEADER_CACHE = ROOT / "build" / "tensorrt-headers"
TOOLKIT = "/usr/local/cuda"


class BuildFailure(Exception):
    """A line for the user: what is missing or failed, and what to do."""


def tool(name: str) -> str:
    """Path of a program: from PATH, else from the environment of this Python."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        raise BuildFailure(f"{name} is missing. Run: pip install {name}")
    return path


def nvcc() -> str:
    """The CUDA compiler: from PATH, else of CUDA_HOME or the toolkit's usual folder."""
    home = os.environ.get("CUDA_HOME", TOOLKIT)
    found = shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))
    if found is None:
        raise BuildFailure(
            "nvcc is missing. Install the CUDA toolkit, 12.8 or newer, and put nvcc on PATH."
        )
    return found


def headers() -> Path:
    """TensorRT's headers: named by the environment, installed, or from the package index."""
    try:
        found = tensorrt_headers.given() or tensorrt_headers.installed()
    except FileNotFoundError as error:
        raise BuildFailure(f"{error}. Set it to TensorRT's folder.") from error
    if found is None:
        downloaded = tensorrt_headers.from_index(HEADER_CACHE)
        if isinstance(downloaded, str):
            raise BuildFailure(
                f"TensorRT's headers are missing (the package index says: {downloaded}). "
                "Set TensorRT_ROOT to the folder where TensorRT is installed."
            )
        found = downloaded
    return found


def configure(folder: Path, architectures: str | None, *options: str) -> None:
    """Configure a build of the plugins with their kernels; CMake's errors go to stderr."""
    compiler = nvcc()
    include = headers()
    print(f"TensorRT {tensorrt_headers.version(include)} headers: {include}", flush=True)
    command = [tool("cmake"), "-S", str(ROOT / "plugins"), "-B", str(folder), "-G", "Ninja"]
    command += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-DBITEXPORT_TENSORRT=ON"]
    command += [f"-DTENSORRT_INCLUDE={include}", *options]
    command.append(f"-DCMAKE_CUDA_COMPILER={compiler}")
    if architectures is not None:
        command.append(f"-DBITEXPORT_CUDA_ARCHITECTURES={architectures}")
    run([*command, "--log-level=WARNING"], "configuring the plugins")


def build(folder: Path, targets: list[str], jobs: int) -> None:
    """Build targets of a configured folder."""
    command = [tool("cmake"), "--build", str(folder), "--parallel", str(jobs)]
    run([*command, "--target", *targets], "building the plugins")


def ctest(folder: Path, pattern: str) -> None:
    """Run the tests of a build folder whose names match."""
    beside_cmake = str(Path(tool("cmake")).parent)
    program = shutil.which("ctest", path=beside_cmake) or tool("ctest")
    options = ["--output-on-failure", "--no-tests=error", "-R", pattern]
    run([program, "--test-dir", str(folder), *options], "the plugins' harness")


def run(command: list[str], what: str) -> None:
    """Run a command whose output is the user's to read."""
    if subprocess.run(command, check=False).returncode != 0:
        raise BuildFailure(f"{what} failed. The reason stands above.")
