"""Where our native libraries lie."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import bitexport
from bitexport.errors import RuntimeFailure

__all__ = ["cpu_kernel", "cuda_op_library_path", "op_library_path", "plugin_library_path"]

# More than one folder in an editable install: the sources, and what was built from plugins/.
_PACKAGE = [Path(folder) for folder in bitexport.__path__]
_CHECKOUT_BUILD = Path(__file__).resolve().parents[2] / "build" / "plugins"
# The others need the CUDA compiler, and are built from a checkout.
_IN_THE_PACKAGE = "libbitexport_ort.so"


def op_library_path() -> Path:
    """The ONNX Runtime op library: ``BITEXPORT_OP_LIBRARY``, or the one in the package.

    Raises:
        RuntimeFailure: There is none.
    """
    return _find("BITEXPORT_OP_LIBRARY", _IN_THE_PACKAGE, "op library")


def cuda_op_library_path() -> Path:
    """The op library with CUDA kernels: ``BITEXPORT_CUDA_OP_LIBRARY``, or the built one.

    It holds what the other op library holds, too. Sessions on the CPU alone take the other one: an
    op that is registered for CUDA hides its function body from the CPU.

    Raises:
        RuntimeFailure: There is none.
    """
    return _find("BITEXPORT_CUDA_OP_LIBRARY", "libbitexport_ort_cuda.so", "CUDA op library")


def cpu_kernel() -> str:
    """Name of the op library's kernel for this CPU, as ``BITEXPORT_CPU_KERNEL`` may force it.

    Raises:
        RuntimeFailure: There is no op library, or the variable names no kernel that runs here.
    """
    path = op_library_path()
    try:
        name_of_kernel = ctypes.CDLL(str(path)).BitexportCpuKernel
    except (OSError, AttributeError) as error:
        raise RuntimeFailure(
            "the op library cannot be used",
            got=str(error),
            expected="the op library of this version",
            fix="Install bitexport again.",
        ) from error
    name_of_kernel.restype = ctypes.c_char_p
    name = name_of_kernel()
    if name is None:
        raise RuntimeFailure(
            "BITEXPORT_CPU_KERNEL names no kernel that runs here",
            got=repr(os.environ.get("BITEXPORT_CPU_KERNEL")),
            expected="portable, avx2, avx512, avx512-vpopcntdq or neon, as this CPU has them",
            fix="Unset it to take the best.",
        )
    return str(name.decode())


def plugin_library_path() -> Path:
    """The TensorRT plugin library: ``BITEXPORT_PLUGIN_LIBRARY``, or the built one.

    Raises:
        RuntimeFailure: There is none.
    """
    return _find("BITEXPORT_PLUGIN_LIBRARY", "libbitexport_trt.so", "TensorRT plugin library")


def _find(variable: str, filename: str, title: str) -> Path:
    named = os.environ.get(variable)
    folders = [*(folder / "lib" for folder in _PACKAGE), _CHECKOUT_BUILD]
    places = [Path(named)] if named else [folder / filename for folder in folders]
    for path in places:
        if path.is_file():
            return path
    command = "pip install ." if filename == _IN_THE_PACKAGE else "make plugins"
    raise RuntimeFailure(
        f"the {title} is missing",
        got=f"no file {' or '.join(map(str, places))}",
        expected=filename,
        fix=f"In a checkout run: {command}. Or name its path in {variable}.",
    )
