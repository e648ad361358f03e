"""The machine and the versions that figures belong to."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from bitexport import __version__

__all__ = ["load_warning", "machine", "versions"]

_PACKAGES = (
    *("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings"),
    *("onnx", "torch", "numpy"),
)
_FLAGS = ("avx2", "fma", "avx512f", "avx512_vpopcntdq", "avx512_vnni", "amx_int8", "asimd")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, clock governor, load and GPU, as far as the system says."""
    info = _cpuinfo()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": info.get("model name") or platform.processor() or "unknown",
        "instructions": [f for f in _FLAGS if f in info.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "memory_bytes": _memory(),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": _load(),
        "gpu": _gpu(),
    }


def versions() -> dict[str, str]:
    """Ours, Python's and those of the packages that are installed."""
    found = {"bitexport": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def load_warning(found: dict[str, Any], threads: int) -> str | None:
    """What to say where other work occupies the machine."""
    load, cores = found["load_average"], found["cores"]
    if load is None or not cores or load + threads <= cores:
        return None
    return (
        f"the machine was busy: load {load:.1f} on {cores} cores before we began; "
        "trust ratios, not milliseconds"
    )


def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def _memory() -> int | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _load() -> float | None:
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None


def _gpu() -> str | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = ["--query-gpu=name,driver_version,clocks.sm,clocks.max.sm", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(  # noqa: S603  (a fixed command)
            [command, *query], capture_output=True, text=True, timeout=10, check=True
        )
        return result.stdout.strip().splitlines()[0] or None
    return None


def _first_line(path: str) -> str | None:
    with contextlib.suppress(OSError, IndexError):
        return Path(path).read_text().splitlines()[0]
    return None
