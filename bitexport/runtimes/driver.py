"""Which GPU is there, asked of the driver itself: no package and no CUDA toolkit is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

__all__ = ["Gpu", "first_gpu"]

_LIBRARY = "libcuda.so.1"
# CUdevice_attribute in cuda.h.
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As the driver calls it.
        sm: Its compute capability, such as "9.0".
    """

    name: str
    sm: str


def first_gpu() -> Gpu | None:
    """GPU 0, or None where there is no driver or no GPU that it shows."""
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    device = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if cuda.cuDeviceGetName(name, _NAME_BYTES, device) != 0:
        return None
    major, minor = ctypes.c_int(), ctypes.c_int()
    for value, attribute in ((major, _CAPABILITY_MAJOR), (minor, _CAPABILITY_MINOR)):
        if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")
