"""What is installed and usable on this machine, and the command that mends what is missing."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path

from bitexport import __version__
from bitexport.errors import RuntimeFailure
from bitexport.runtimes import (
    ENGINE_BUILDERS,
    RUNTIMES,
    Availability,
    cuda_op_library_path,
    plugin_library_path,
)

__all__ = ["NEEDED", "diagnose"]

# What exporting, verifying and running on the CPU take; the others are for GPUs and engines.
NEEDED = ("torch", "torchvision", "onnx", "numpy", "ort", "ort-native", "reference")


def diagnose() -> list[Availability]:
    """Everything that bitexport can use, whether it is there or not."""
    return [
        Availability("bitexport", True, __version__),
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
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Availability(name, False, "not installed", f"Run: pip install {name}")
    try:
        import_module(name)
    except Exception as error:  # a torchvision built for another torch fails as it likes
        reason = f"{version} cannot be imported: {' '.join(str(error).split())}"
        return Availability(name, False, reason, f"Run: pip install --force-reinstall {name}")
    return Availability(name, True, version)


def _library(name: str, find: Callable[[], Path]) -> Availability:
    try:
        return Availability(name, True, str(find()))
    except RuntimeFailure as error:
        return Availability(name, False, error.got, error.fix)


def _gpu() -> Availability:
    try:
        import torch
    except Exception:  # its own row says why
        return Availability("GPU", False, "torch cannot be imported", "Mend torch first.")
    if torch.cuda.is_available():
        return Availability("GPU", True, torch.cuda.get_device_name())
    fix = "Where there is an NVIDIA GPU, look at nvidia-smi."
    return Availability("GPU", False, "torch sees no CUDA device", fix)


def _nvcc() -> Availability:
    path = shutil.which("nvcc")
    if path is not None:
        return Availability("nvcc", True, path)
    fix = "Only `make plugins` needs it: install the CUDA toolkit, 12.8 or newer."
    return Availability("nvcc", False, "not on the PATH", fix)
