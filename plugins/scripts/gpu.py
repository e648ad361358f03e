"""The GPU of this machine, as the builds and checks that need one see it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from plugin_build import BuildFailure

# Architectures whose own instructions are only in code compiled for exactly them.
SPECIFIC = ("90", "100", "103", "120", "121")
SANITIZER_WHEEL = "nvidia-cuda-sanitizer-api"


@dataclass(frozen=True)
class Gpu:
    """Name, compute capability as major * 10 + minor, and driver version."""

    name: str
    capability: int
    driver: str

    @property
    def architecture(self) -> str:
        """The architecture to compile for, as CMake takes it."""
        number = str(self.capability)
        return f"{number}{'a' if number in SPECIFIC else ''}-real"


def find() -> Gpu:
    """The first GPU of this machine.

    Raises:
        BuildFailure: There is none, or no driver.
    """
    advice = "Run this on a machine with an NVIDIA GPU and its driver."
    if shutil.which("nvidia-smi") is None:
        raise BuildFailure(f"no GPU (got no nvidia-smi, expected NVIDIA's driver). {advice}")
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = " ".join((result.stdout + result.stderr).split())
        raise BuildFailure(f"no GPU (nvidia-smi says: {said}). {advice}")
    return parse(result.stdout)


def parse(answer: str) -> Gpu:
    """The first GPU of nvidia-smi's answer.

    Raises:
        BuildFailure: The answer names none.
    """
    parts = [part.strip() for part in answer.strip().partition("\n")[0].split(",")]
    try:
        name, capability, driver = parts
        major, minor = capability.split(".")
        return Gpu(name, int(major) * 10 + int(minor), driver)
    except ValueError as error:
        raise BuildFailure(
            f"nvidia-smi's answer is not understood (got {answer.strip()!r}, expected a name, "
            "a compute capability and a driver version). Update the driver."
        ) from error


def compute_sanitizer(folder: Path) -> str:
    """Path of compute-sanitizer: the toolkit's, else from its wheel, installed into ``folder``.

    Raises:
        BuildFailure: There is neither.
    """
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer",
        path=os.pathsep.join(str(home / f) for f in ("bin", "compute-sanitizer")),
    )
    if found is not None:
        return found
    pattern = "nvidia/*/compute-sanitizer/compute-sanitizer"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), SANITIZER_WHEEL], check=False)
    programs = list(folder.glob(pattern))
    if not programs:
        raise BuildFailure(
            "compute-sanitizer is missing. Install the CUDA toolkit's, or run: "
            f"pip install {SANITIZER_WHEEL}"
        )
    programs[0].chmod(0o755)
    return str(programs[0])
