"""The kernels with NEON, built by a cross compiler and run by an emulator of 64-bit ARM."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import plugins_build
import pytest

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"


@pytest.fixture(scope="module", name="folder")
def cross_build() -> Path:
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on the PATH")
    folder = plugins_build.configure(
        "aarch64",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
        f"-DCMAKE_CROSSCOMPILING_EMULATOR={EMULATOR};-L;{LIBRARIES}",
    )
    return plugins_build.build_targets(folder, "test_cpu_binary_conv", "bitexport_ort")


def test_neon_kernels_equal_the_reference(folder: Path) -> None:
    report = plugins_build.ctest(folder, "--verbose", "-R", "test_cpu_binary_conv")
    assert "kernel: neon" in report
    assert "100% tests passed" in report


def test_op_library_links_for_arm(folder: Path) -> None:
    """Undefined symbols fail the link; the compiler's libraries must not be needed either."""
    if shutil.which("readelf") is None:
        pytest.skip("no readelf on the PATH")
    library = folder / "libbitexport_ort.so"
    facts = plugins_build.run(["readelf", "--wide", "-h", "-d", "--dyn-syms", library])
    assert re.search(r"Machine: +AArch64", facts)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", facts))
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1"}
    exported = set(re.findall(r"FUNC +GLOBAL +DEFAULT +\d+ (\w+)", facts))
    assert exported == {"BitexportCpuKernel", "BitexportCpuOps", "RegisterCustomOps"}
