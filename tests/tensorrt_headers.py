"""Finds the headers that the TensorRT plugins are compiled with."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import plugins_build

# A wheel that carries NVIDIA's own headers of TensorRT 10.14; 150 kB.
WHEEL = "kernel-lens==2.0.1"
IN_WHEEL = "kernel_lens/include/tensorrt/"
# Folders that may hold headers of another version, each the folder or its parent.
VARIABLES = ("BITEXPORT_TENSORRT_INCLUDE", "TensorRT_ROOT")


def given() -> Path | None:
    """The headers that the environment names; None where it names none."""
    for variable in VARIABLES:
        if variable in os.environ:
            root = Path(os.environ[variable])
            for folder in (root, root / "include", root / "include" / "x86_64-linux-gnu"):
                if (folder / "NvInferRuntime.h").is_file():
                    return folder
            raise RuntimeError(f"no NvInferRuntime.h below {variable}={root}")
    return None


@functools.cache
def from_index() -> Path | str:
    """The headers of ``WHEEL``, downloaded once; else why not."""
    folder = plugins_build.BUILD_ROOT / "tensorrt-headers"
    with plugins_build.locked("tensorrt-headers"):
        headers = folder / IN_WHEEL
        if not (headers / "NvInferRuntime.h").is_file():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command = [*pip, "--dest", str(folder), WHEEL]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                return (result.stderr.strip() or "pip failed").splitlines()[-1]
            [wheel] = folder.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if name.startswith(IN_WHEEL)]
                archive.extractall(folder, names)
    return headers


def cuda_include() -> Path | None:
    """The folder of ``cuda_runtime_api.h``; None where there is no toolkit."""
    roots = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), Path("/usr")]
    folders = [root / "include" for root in roots]
    return next((f for f in folders if (f / "cuda_runtime_api.h").is_file()), None)


def version(headers: Path) -> str:
    """Like "10.14"."""
    text = (headers / "NvInferVersion.h").read_text()
    found = re.findall(r"define TRT_(?:MAJOR|MINOR)_ENTERPRISE (\d+)", text)
    return ".".join(found[:2]) if len(found) >= 2 else "unknown"
