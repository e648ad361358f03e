"""Builds the TensorRT plugins' tests; skips with a reason where headers are not at hand."""

from __future__ import annotations

from pathlib import Path

import plugins_build
import pytest
import tensorrt_headers
from plugin_build import HEADER_CACHE


def cuda_include() -> Path:
    """The folder of ``cuda_runtime_api.h``."""
    folder = tensorrt_headers.cuda_include()
    if folder is None:
        pytest.skip("no cuda_runtime_api.h: install the CUDA toolkit, or set CUDA_HOME")
    return folder


def index_headers() -> Path:
    """TensorRT's headers from the package index."""
    found = tensorrt_headers.from_index(HEADER_CACHE)
    if isinstance(found, str):
        pytest.skip(f"no {tensorrt_headers.WHEEL}, which has TensorRT's headers: {found}")
    return found


def options(headers: Path) -> tuple[str, ...]:
    """How CMake is told about them."""
    include = f"-DTENSORRT_INCLUDE={headers}"
    return include, f"-DCUDA_INCLUDE={cuda_include()}", "-DBITEXPORT_ORT=OFF"


def plain(*targets: str) -> Path:
    """A build without sanitizers of some targets; its folder."""
    folder = plugins_build.configure("tensorrt-library", *options(index_headers()))
    return plugins_build.build_targets(folder, *targets)
