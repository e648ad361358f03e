"""The CUDA kernels as machine code: the right tensor core instructions, and no spilled registers.

No GPU is needed. One kernel of every family is compiled for every GPU that the library is for.
"""

from __future__ import annotations

import machine_code
import plugins_build
import pytest
from machine_code import Kernel

ARCHS = ("75", "80", "86", "89", "90a", "100a", "120a")
PROBE = plugins_build.ROOT / "plugins" / "tests" / "sass_probe.cu"

# MmaOp and WeightSource in plugins/kernels/cuda/conv_block.h.
XOR, AND, BYTES, HALF, BFLOAT = range(5)
BITS, SIGNS, CODES, DENSE = range(4)

XOR_OF = {"75": "BMMA.88128.XOR.POPC"} | dict.fromkeys(("80", "86", "89"), "BMMA.168256.XOR.POPC")
AND_OF = {"90a": "BMMA.168256.AND.POPC"}
BYTES_OF = dict.fromkeys(ARCHS, "IMMA.16832.U8.S8") | {"75": "IMMA.8816.U8.S8"}
HALF_OF = dict.fromkeys(ARCHS, "HMMA.16816.F32") | {"75": "HMMA.1688.F32"}
BFLOAT_OF = dict.fromkeys(ARCHS[1:], "HMMA.16816.F32.BF16")
EXPECTED = {XOR: XOR_OF, AND: AND_OF, BYTES: BYTES_OF, HALF: HALF_OF, BFLOAT: BFLOAT_OF}

# Instructions of the main loop for each MMA. What was read in the code when it was written, and a
# quarter more; a change that lets registers be indexed at run time, say, goes far beyond.
MOST_PER_MMA = {
    (XOR, BITS): 8.0,
    (AND, BITS): 7.5,
    (BYTES, BITS): 7.0,
    (HALF, SIGNS): 8.5,
    (BFLOAT, SIGNS): 10.5,
    (HALF, CODES): 29.0,
    (BFLOAT, CODES): 56.0,
    (HALF, DENSE): 7.0,
}


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> list[Kernel]:
    if machine_code.nvcc() is None:
        pytest.skip("no nvcc here: the CUDA kernels are not compiled")
    if machine_code.cuobjdump() is None:
        pytest.skip("no cuobjdump here, neither of the CUDA toolkit nor of triton")
    fat = tmp_path_factory.mktemp("sass") / "probe.fatbin"
    return machine_code.disassemble(machine_code.compile_for(PROBE, ARCHS, fat))


def kernels_of(probe: list[Kernel], arch: str) -> list[Kernel]:
    return [kernel for kernel in probe if kernel.arch == f"sm_{arch}"]


@pytest.mark.parametrize("arch", ARCHS)
def test_every_family_is_there(probe: list[Kernel], arch: str) -> None:
    blocks = {kernel.block[:2] for kernel in kernels_of(probe, arch)}
    assert blocks == set(MOST_PER_MMA)


@pytest.mark.parametrize("arch", ARCHS)
def test_tensor_core_instructions(probe: list[Kernel], arch: str) -> None:
    """Each kernel has its one instruction; where a GPU lacks it, nothing but a trap."""
    for kernel in kernels_of(probe, arch):
        op = kernel.block[0]
        expected = EXPECTED[op].get(arch)
        assert kernel.mma() == ({expected} if expected else set()), kernel.block
        if expected is None:
            assert "BPT.TRAP" in kernel.opcodes()


@pytest.mark.parametrize("arch", ARCHS)
def test_no_local_memory(probe: list[Kernel], arch: str) -> None:
    for kernel in kernels_of(probe, arch):
        local = [op for op in kernel.opcodes() if op.split(".")[0] in ("LDL", "STL")]
        assert local == [], kernel.block


@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch != "75"])
def test_main_loops_are_tight(probe: list[Kernel], arch: str) -> None:
    for kernel in kernels_of(probe, arch):
        if kernel.mma():
            assert kernel.instructions_per_mma() <= MOST_PER_MMA[kernel.block[:2]], kernel.block


@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch != "75"])
def test_copies_are_asynchronous_and_wide(probe: list[Kernel], arch: str) -> None:
    for kernel in kernels_of(probe, arch):
        if kernel.mma():
            wide = [op for op in kernel.opcodes() if op.startswith("LDGSTS.E.BYPASS.128")]
            assert wide, kernel.block
            assert any(op.startswith("LDSM.16.M88.4") for op in kernel.opcodes()), kernel.block


def test_library_builds_and_links_for_one_gpu() -> None:
    """The whole library, warnings as errors, and its launchers' answers without a GPU."""
    if machine_code.nvcc() is None:
        pytest.skip("no nvcc here: the CUDA kernels are not compiled")
    folder = plugins_build.configure("cuda", *machine_code.ONE_GPU)
    build = [plugins_build.tool("cmake"), "--build", folder, "--parallel", plugins_build.JOBS]
    plugins_build.run([*build, "--target", "test_cuda_launch"])
    assert " 0 failures" in plugins_build.run([folder / "tests" / "test_cuda_launch"])
