"""What is installed and usable on this machine, and the command that mends what is missing."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from bitexport.errors import RuntimeFailure
from bitexport.runtimes import (
    ENGINE_BUILDERS,
    RUNTIMES,
    Availability,
    cuda_op_library_path,
    plugin_library_path,
)

__all__ = ["diagnose"]


def diagnose() -> list[Availability]:
    """Everything that bitexport can use, whether it is there or not."""
    return [
        Availability("python", True, f"{platform.python_version()} on {platform.machine()}"),
        *(_package(name) for name in ("torch", "torchvision", "onnx", "numpy")),
        *(runtime.availability() for runtime in RUNTIMES),
        *(builder.availability() for builder in ENGINE_BUILDERS),
        _library("TensorRT plugin library", plugin_library_path),
        _library("CUDA op library", cuda_op_library_path),
        _gpu(),
        _nvcc(),
    ]


def _package(name: str) -> Availability:
    try:
        return Availability(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Availability(name, False, "not installed", f"Run: pip install {name}")


def _library(name: str, find: Callable[[], Path]) -> Availability:
    try:
        return Availability(name, True, str(find()))
    except RuntimeFailure as error:
        return Availability(name, False, error.got, error.fix)


def _gpu() -> Availability:
    import torch

    if torch.cuda.is_available():
        return Availability("GPU", True, torch.cuda.get_device_name())
    return Availability("GPU", False, "torch sees no CUDA device", "Look at nvidia-smi.")


def _nvcc() -> Availability:
    path = shutil.which("nvcc")
    if path is not None:
        return Availability("nvcc", True, path)
    return Availability(
        "nvcc", False, "not on the PATH", "Run: apt-get install nvidia-cuda-toolkit"
    )
