"""`make fuzz-plugin`: the TensorRT plugins from arbitrary bytes, by libFuzzer where clang has it.

Inputs that crash lie in build/fuzz-plugin; --replay runs one again. Elsewhere the same program
draws its inputs at random, and leaves the one it was at in fuzz-input.bin.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tensorrt_headers
from plugin_build import ROOT, BuildFailure, build, headers, run, tool

FOLDER = ROOT / "build" / "fuzz-plugin"
PROGRAM = "fuzz_trt_plugin"
SANITIZERS = "address,undefined"


def libfuzzer() -> str | None:
    """A clang++ that links libFuzzer."""
    compiler = shutil.which("clang++")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text('extern "C" int LLVMFuzzerTestOneInput(const char*, long) { return 0; }')
        command = [compiler or "", f"-fsanitize=fuzzer,{SANITIZERS}", str(source)]
        trial = [*command, "-o", f"{folder}/trial"]
        works = compiler and subprocess.run(trial, capture_output=True, check=False).returncode == 0
    return compiler if works else None


def configure(compiler: str | None) -> Path:
    """A build folder with sanitizers."""
    cuda = tensorrt_headers.cuda_include()
    if cuda is None:
        raise BuildFailure("cuda_runtime_api.h is missing. Install the CUDA toolkit.")
    folder = FOLDER / ("libfuzzer" if compiler else "random")
    command = [tool("cmake"), "-S", str(ROOT / "plugins"), "-B", str(folder), "-G", "Ninja"]
    command += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DBITEXPORT_SANITIZE={SANITIZERS}"]
    command += [f"-DTENSORRT_INCLUDE={headers()}", f"-DCUDA_INCLUDE={cuda}", "-DBITEXPORT_ORT=OFF"]
    command += ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1"]
    if compiler:
        command += [f"-DCMAKE_CXX_COMPILER={compiler}", "-DBITEXPORT_FUZZER=ON"]
    run([*command, "--log-level=WARNING"], "configuring the fuzzer")
    return folder


def main() -> None:
    """Build and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path, help="a kept input")
    given = parser.parse_args()
    compiler = libfuzzer()
    folder = configure(compiler)
    build(folder, [PROGRAM], 2)
    program = [str(folder / "tests" / "tensorrt" / PROGRAM)]
    if given.replay:
        run([*program, str(given.replay)], "the input")
        return
    command = [*program, f"-runs={given.count}", f"-seed={given.seed}"]
    if compiler:
        corpus = FOLDER / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        limits = ["-max_len=600", "-timeout=10", "-rss_limit_mb=1500"]
        command += [*limits, f"-artifact_prefix={FOLDER}/", str(corpus)]
    run(command, "fuzzing the plugins")


if __name__ == "__main__":
    try:
        main()
    except BuildFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
