"""A copy of ONNX Runtime that takes this CPU for one with AVX2 only.

    python benchmarks/avx2_onnxruntime.py build/avx2
    PYTHONPATH=build/avx2 BITEXPORT_CPU_KERNEL=avx2 python benchmarks/cpu_layers.py

ONNX Runtime has no switch for it, and a CPU with AVX-512 says little about one without: its int8
convolutions gain more from VNNI than ours from wider vectors. So the copy's machine code is changed
where it asks the CPU: the register that says which vector state the system saves (XGETBV) reads as
SSE and AVX, and AVX-VNNI, which needs no AVX-512, as absent. For measuring only; x86-64 Linux.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import onnxruntime

# xor ecx, ecx; xgetbv  ->  xor ecx, ecx; mov al, 7; nop: x87, SSE and AVX, not AVX-512.
_XGETBV = (bytes.fromhex("31c9 0f01d0"), bytes.fromhex("31c9 b007 90"))
# cpuid; test al, 16  ->  cpuid; test al, 0: the bit of AVX-VNNI, where leaf 7.1 was asked for.
_AVX_VNNI = (bytes.fromhex("0fa2 a810"), bytes.fromhex("0fa2 a800"))


def without_avx512(library: bytes) -> bytes:
    """Machine code that finds AVX2 where it would find AVX-512.

    Raises:
        ValueError: It does not ask in the way that is known here.
    """
    for before, after in (_XGETBV, _AVX_VNNI):
        if before not in library:
            raise ValueError(
                f"expected the instructions {before.hex(' ')} in the library of onnxruntime "
                f"{onnxruntime.__version__}, got none; measure on a CPU without AVX-512"
            )
        library = library.replace(before, after)
    return library


def main(target: Path) -> None:
    """Write the copy into ``target``."""
    package = Path(onnxruntime.__file__).parent
    copy = target / package.name
    shutil.copytree(package, copy, dirs_exist_ok=True)
    for library in copy.glob("capi/onnxruntime_pybind11_state*.so"):
        library.write_bytes(without_avx512(library.read_bytes()))
    print(f"wrote {copy}; put PYTHONPATH={target} before a benchmark")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    try:
        main(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
