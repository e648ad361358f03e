"""Rates of the matrix instructions alone: which one a kernel should use.

    python -m benchmarks.gpu.mma_rates [--output RESULT.json]

``plugins/benchmarks/mma_rates.cu`` measures them. Bits are worth their unpacking where they are at
least twice as fast as float16; below that, int8 computes the same sums as fast, on every GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["SOURCE", "build_command", "measure_instructions", "table_rows"]

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "plugins" / "benchmarks" / "mma_rates.cu"
PROGRAM = ROOT / "build" / "gpu" / "mma_rates"
LIMIT_SECONDS = 120


def build_command(compiler: str, architecture: str, program: Path) -> list[str]:
    """The call of nvcc for one GPU, given as "90a" or, as CMake has it, "90a-real"."""
    arch = architecture.removesuffix("-real")
    code = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    # 177: what another GPU's instructions need is not used on this one.
    options = ["-std=c++17", "-O3", "-diag-suppress", "177", code]
    return [compiler, *options, "-o", str(program), str(SOURCE)]


def measure_instructions(compiler: str, architecture: str) -> dict[str, Any]:
    """Compile and run the program.

    Raises:
        subprocess.CalledProcessError: It does not compile, or fails on the GPU.
        subprocess.TimeoutExpired: It hangs.
    """
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(build_command(compiler, architecture, PROGRAM), check=True)  # noqa: S603
    run = subprocess.run(  # noqa: S603
        [PROGRAM], check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_SECONDS
    )
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def table_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the report's table, one row for each instruction."""
    rows = result["instructions"]
    half = max(row["operations_per_second"] for row in rows if ".f16.f16" in row["instruction"])
    return [
        (
            f"`{row['instruction']}`",
            f"{row['operations_per_second'] / 1e12:.0f}",
            f"{row['macs_per_clock_and_sm']:.0f}",
            f"{row['operations_per_second'] / half:.2f}x",
            "yes" if row["right"] else "**no**",
        )
        for row in rows
    ]


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "plugins" / "scripts"))
    from plugin_build import BuildFailure, nvcc

    import gpu

    try:
        result = measure_instructions(nvcc(), gpu.find().architecture)
    except BuildFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
        print(f"error: {failure}. The reason stands above.", file=sys.stderr)
        return 1
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
