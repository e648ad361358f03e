"""The same sources give the same wheel, byte for byte, wherever they lie: `make wheel`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("bitexport", "plugins", "pyproject.toml", "README.md", "LICENSE")
# Not optimized: a quarter of the time, and no other paths, times or orders get into the bytes.
FLAGS = "-Ccmake.define.CMAKE_CXX_FLAGS_RELEASE=-O0 -DNDEBUG"


def wheel(folder: Path, mask: int, **environment: str) -> Path:
    """Copies the sources to ``folder`` and builds them there."""
    folder.mkdir(parents=True)
    for source in (ROOT / name for name in SOURCES):
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / source.name, ignore=ignored)
        else:
            shutil.copy2(source, folder)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", folder / "dist", FLAGS, folder),
        ],
        check=True, cwd=folder, umask=mask, timeout=600,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **environment},
    )  # fmt: skip
    (built,) = (folder / "dist").iterdir()
    return built


def test_two_builds_are_equal(tmp_path: Path) -> None:
    first = wheel(tmp_path / "first", 0o022, PYTHONHASHSEED="1", TZ="UTC")
    second = wheel(tmp_path / "a" / "deeper folder", 0o077, PYTHONHASHSEED="2", TZ="Asia/Tokyo")
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        assert one.namelist() == other.namelist()
        assert "bitexport/lib/libbitexport_ort.so" in one.namelist()
        assert [n for n in one.namelist() if one.read(n) != other.read(n)] == []
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
