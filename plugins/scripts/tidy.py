"""`make lint-native`: clang-tidy over the C++ that ships, with the checks of .clang-tidy."""

from __future__ import annotations

import sys

import tensorrt_headers
from plugin_build import ROOT, BuildFailure, headers, run, tool

FOLDER = ROOT / "build" / "tidy"
SOURCES = ("ort", "tensorrt", "kernels/cpu", "kernels/cuda", "tests/fuzz")


def main() -> None:
    """Configure, so that the compiler's options are known, and look at every file."""
    cuda = tensorrt_headers.cuda_include()
    if cuda is None:
        raise BuildFailure("cuda_runtime_api.h is missing. Install the CUDA toolkit.")
    command = [tool("cmake"), "-S", str(ROOT / "plugins"), "-B", str(FOLDER), "-G", "Ninja"]
    command += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command += [f"-DTENSORRT_INCLUDE={headers()}", f"-DCUDA_INCLUDE={cuda}"]
    run([*command, "--log-level=WARNING"], "configuring the plugins")
    sources = [str(p) for s in SOURCES for p in sorted((ROOT / "plugins" / s).glob("*.cpp"))]
    # What only nvcc's build compiles is in no list of commands.
    known = (FOLDER / "compile_commands.json").read_text()
    sources = [source for source in sources if f'"{source}"' in known]
    # What only GCC understands.
    lenient = ["--removed-arg=-fno-tree-loop-distribute-patterns"]
    lenient += ["--extra-arg=-Wno-unknown-warning-option"]
    run([tool("clang-tidy"), "-p", str(FOLDER), "--quiet", *lenient, *sources], "clang-tidy")


if __name__ == "__main__":
    try:
        main()
    except BuildFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
