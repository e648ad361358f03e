"""The program that measures matrix instructions: it has them, and its report says what counts."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import machine_code
import pytest

from benchmarks.gpu.mma_rates import build_command, table_rows

# What one round of every loop must consist of, by the GPU. Chains of mma.sync are unrolled eight
# times, wgmma four times.
EXPECTED = {
    "80": {"BMMA.168256.AND.POPC": 8, "BMMA.168256.XOR.POPC": 8, "HMMA.16816.F32": 8},
    "90a": {"BGMMA": 4, "IGMMA": 4, "HGMMA": 4, "QGMMA": 4, "IMMA.16832.S8.S8": 8},
}


@pytest.mark.parametrize("arch", EXPECTED)
def test_program_has_the_instructions(arch: str, tmp_path: Path) -> None:
    compiler, disassembler = machine_code.nvcc(), machine_code.cuobjdump()
    if compiler is None or disassembler is None:
        pytest.skip("no nvcc or no cuobjdump here")
    program = tmp_path / "mma_rates"
    built = subprocess.run(
        build_command(compiler, f"{arch}-real", program), capture_output=True, text=True, check=True
    )
    # ptxas would say here that it made wgmma wait for each other.
    assert built.stdout + built.stderr == ""
    code = subprocess.run(
        [disassembler, "-sass", program], capture_output=True, text=True, check=True
    ).stdout
    assert not re.search(r"\b(LDL|STL)\b", code)
    found = Counter(re.findall(r"\b((?:[BIHQ]GMMA)|(?:[BIHQ]MMA\.[\w.]+))", code))
    assert {name: found[name] for name in EXPECTED[arch]} == EXPECTED[arch]


def test_table_compares_with_the_faster_float16() -> None:
    def row(instruction: str, rate: float, *, right: bool = True) -> dict:
        measured = {"operations_per_second": rate, "macs_per_clock_and_sm": 12.4}
        return {"instruction": instruction, **measured, "right": right}

    rows = table_rows(
        {
            "instructions": [
                row("mma.sync m16n8k256.row.col.s32.b1.b1.s32.and.popc", 4e15, right=False),
                row("mma.sync m16n8k16.row.col.f32.f16.f16.f32", 5e14),
                row("wgmma m64n256k16.f32.f16.f16", 8e14),
            ]
        }
    )
    assert [r[3] for r in rows] == ["5.00x", "0.62x", "1.00x"]
    assert rows[0][1:3] == ("4000", "12")
    assert [r[4] for r in rows] == ["**no**", "yes", "yes"]
