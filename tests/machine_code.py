"""Machine code of CUDA kernels: compile it with nvcc, take it apart with cuobjdump, count."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import plugins_build

INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)([^;]*);")
BLOCK = re.compile(r"ConvBlockILNS\w+?5MmaOpE(\d)ELNS\w+?12WeightSourceE(\d)ELi(\d+)ELi(\d+)E")


# How CMake is told to compile the kernels for one GPU.
ONE_GPU = ("-DBITEXPORT_CUDA=ON", "-DBITEXPORT_CUDA_ARCHITECTURES=90a-real")


@dataclass(frozen=True)
class Kernel:
    """One kernel as machine code.

    Attributes:
        arch: The GPU, for example ``sm_90a``.
        block: Template arguments of its ConvBlock: MmaOp, WeightSource, rows, columns.
        text: What cuobjdump printed.
    """

    arch: str
    block: tuple[int, int, int, int]
    text: str

    @cached_property
    def instructions(self) -> list[tuple[int, str, str]]:
        """Address, opcode and operands, in order."""
        found = INSTRUCTION.findall(self.text)
        return [(int(address, 16), opcode, operands) for address, opcode, operands in found]

    def opcodes(self) -> Counter[str]:
        """How often each opcode stands in the code."""
        return Counter(opcode for _, opcode, _ in self.instructions)

    def mma(self) -> set[str]:
        """The tensor core instructions."""
        return {opcode for opcode in self.opcodes() if opcode.split(".")[0].endswith("MMA")}

    def instructions_per_mma(self) -> float:
        """Instructions of the main loop, the shortest loop with an MMA in it, for each MMA."""
        bodies = []
        for address, opcode, operands in self.instructions:
            target = re.search(r"0x([0-9a-f]+)", operands)
            if opcode.split(".")[0] == "BRA" and target and int(target[1], 16) < address:
                start = int(target[1], 16)
                body = [op for at, op, _ in self.instructions if start <= at <= address]
                count = sum("MMA" in op for op in body)
                if count:
                    bodies.append(len(body) / count)
        return min(bodies)


def nvcc() -> str | None:
    """The CUDA compiler, if there is one."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def cuobjdump() -> str | None:
    """The disassembler: the toolkit's, or the one that comes with triton."""
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path="/usr/local/cuda/bin")
    triton = importlib.util.find_spec("triton")
    if found is None and triton is not None and triton.origin is not None:
        beside = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
        found = shutil.which("cuobjdump", path=str(beside))
    return found


def compile_for(source: Path, archs: tuple[str, ...], output: Path) -> Path:
    """Compile a ``.cu`` file of ``plugins/`` for the given GPUs (``90a``); returns a fat binary."""
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    options = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Werror=all-warnings"]
    include = f"-I{plugins_build.ROOT / 'plugins'}"
    threads = ["--threads", plugins_build.JOBS]
    compiler = nvcc()
    assert compiler is not None
    plugins_build.run(
        [compiler, *options, *threads, include, *codes, "-fatbin", "-o", output, source]
    )
    return output


def disassemble(binary: Path) -> list[Kernel]:
    """The kernels of a fat binary, for every GPU in it."""
    tool = cuobjdump()
    assert tool is not None
    text = subprocess.run(
        [tool, "-sass", binary], capture_output=True, text=True, check=True
    ).stdout
    kernels = []
    for part in re.split(r"(?=\barch = )", text)[1:]:
        arch = part.split("=", 1)[1].split(None, 1)[0]
        for function in re.split(r"(?=Function : )", part)[1:]:
            block = BLOCK.search(function)
            assert block is not None, function.splitlines()[0]
            op, source, rows, columns = (int(number) for number in block.groups())
            kernels.append(Kernel(arch, (op, source, rows, columns), function))
    return kernels
