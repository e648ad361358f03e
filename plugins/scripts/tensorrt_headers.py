"""Finds the headers that the TensorRT plugins are compiled with: TensorRT's, and CUDA's."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# A wheel that carries NVIDIA's own headers of TensorRT 10.14, under the Apache License 2.0.
WHEEL = "kernel-lens==2.0.1"
IN_WHEEL = "kernel_lens/include/tensorrt"
# A folder with headers in it, or below it, in the order of precedence.
VARIABLES = ("BITEXPORT_TENSORRT_INCLUDE", "TensorRT_ROOT")
SYSTEM = (Path("/usr/local/tensorrt"), Path("/usr"))
BELOW = (".", "include", "include/x86_64-linux-gnu", "include/aarch64-linux-gnu")


def given() -> Path | None:
    """The headers that the environment names; None where it names none.

    Raises:
        FileNotFoundError: It names a folder without them.
    """
    for variable in VARIABLES:
        if variable in os.environ:
            found = _below(Path(os.environ[variable]))
            if found is None:
                raise FileNotFoundError(f"no NvInferRuntime.h in {variable}={os.environ[variable]}")
            return found
    return None


def installed() -> Path | None:
    """The headers of a system-wide installation."""
    return next((found for root in SYSTEM if (found := _below(root))), None)


@functools.cache
def from_index(cache: Path) -> Path | str:
    """The headers of ``WHEEL``, downloaded into ``cache`` once; else why not, in a line."""
    headers = cache / WHEEL / IN_WHEEL
    if headers.is_dir():
        return headers
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command = [*pip, "--dest", name, WHEEL]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return (result.stderr.strip() or "pip failed").splitlines()[-1]
        [wheel] = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = [n for n in archive.namelist() if n.startswith(f"{IN_WHEEL}/")]
            archive.extractall(folder / "unpacked", wanted)
        # Another process may have been quicker.
        if not headers.is_dir():
            headers.parents[2].mkdir(exist_ok=True)
            for part in (folder / "unpacked").iterdir():
                part.rename(headers.parents[2] / part.name)
    return headers


def cuda_include() -> Path | None:
    """The folder of ``cuda_runtime_api.h``; None where there is no toolkit."""
    roots = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), Path("/usr")]
    folders = [root / "include" for root in roots]
    return next((f for f in folders if (f / "cuda_runtime_api.h").is_file()), None)


def version(headers: Path) -> str:
    """Like "10.14"."""
    text = (headers / "NvInferVersion.h").read_text()
    found = re.findall(r"define (?:TRT|NV_TENSORRT)_(?:MAJOR|MINOR)(?:_ENTERPRISE)? (\d+)", text)
    return ".".join(found[:2]) if len(found) >= 2 else "unknown"


def _below(root: Path) -> Path | None:
    return next((root / f for f in BELOW if (root / f / "NvInferRuntime.h").is_file()), None)
