"""`make plugins`: builds the libraries with CUDA kernels and runs the plugins' GPU-less harness.

    python plugins/scripts/build_library.py [--architectures "90a-real"] [--jobs 2]

They are build/plugins/libbitexport_trt.so, the plugins of TensorRT, and libbitexport_ort_cuda.so,
the op library for ONNX Runtime's CUDA execution provider.

TensorRT's headers are those of BITEXPORT_TENSORRT_INCLUDE or TensorRT_ROOT, of the system, or of a
wheel on the package index. TensorRT itself is not needed, and neither is a GPU.
"""

from __future__ import annotations

import argparse
import sys

from plugin_build import ROOT, BuildFailure, build, configure, ctest

FOLDER = ROOT / "build" / "plugins"
LIBRARIES = ("bitexport_trt", "bitexport_ort_cuda")
TESTS = tuple(
    f"test_trt_{name}" for name in ("creators", "build", "runtime", "enqueue", "emulated")
)


def main() -> int:
    """Build and test; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", help="GPUs to compile for, as CMake takes them")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    try:
        configure(FOLDER, arguments.architectures)
        build(FOLDER, [*LIBRARIES, *TESTS], arguments.jobs)
        # Those of the double, and those that take the library as a file.
        ctest(FOLDER, "^(test_trt|library)_")
    except BuildFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    for name in LIBRARIES:
        library = FOLDER / f"lib{name}.so"
        print(f"{library} ({library.stat().st_size / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
