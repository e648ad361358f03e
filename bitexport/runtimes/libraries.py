"""Where our native libraries lie."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import bitexport
from bitexport.errors import RuntimeFailure
from bitexport.ops.table import OPS

__all__ = [
    "cpu_kernel",
    "cuda_op_library_path",
    "op_library_of_this_version",
    "op_library_path",
    "plugin_library_path",
]

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


def op_library_of_this_version() -> Path:
    """The op library, which has a kernel for every op that is to have one.

    ONNX Runtime says nothing about an op that an older library does not know: it runs the function
    body, at a fraction of the speed.

    Raises:
        RuntimeFailure: There is none, or it lacks a kernel.
    """
    path = op_library_path()
    found = (_text(path, "BitexportCpuOps") or "").split()
    missing = [op.name for op in OPS if op.name.startswith("BinaryConv") and op.name not in found]
    if missing:
        raise _not_of_this_version(f"{path} without kernels for {', '.join(missing)}")
    return path


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
    name = _text(op_library_path(), "BitexportCpuKernel")
    if name is None:
        raise RuntimeFailure(
            "BITEXPORT_CPU_KERNEL names no kernel that runs here",
            got=repr(os.environ.get("BITEXPORT_CPU_KERNEL")),
            expected="portable, avx2, avx512, avx512-vpopcntdq, amx or neon, as this CPU has them",
            fix="Unset it to take the best.",
        )
    return name


def plugin_library_path() -> Path:
    """The TensorRT plugin library: ``BITEXPORT_PLUGIN_LIBRARY``, or the built one.

    Raises:
        RuntimeFailure: There is none.
    """
    return _find("BITEXPORT_PLUGIN_LIBRARY", "libbitexport_trt.so", "TensorRT plugin library")


def _text(library: Path, function: str) -> str | None:
    try:
        call = getattr(ctypes.CDLL(str(library)), function)
    except (OSError, AttributeError) as error:
        raise _not_of_this_version(str(error)) from error
    call.restype = ctypes.c_char_p
    text: bytes | None = call()
    return None if text is None else text.decode()


def _not_of_this_version(got: str) -> RuntimeFailure:
    return RuntimeFailure(
        "the op library cannot be used",
        got=got,
        expected="the op library of this version",
        fix="Install bitexport again.",
    )


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
