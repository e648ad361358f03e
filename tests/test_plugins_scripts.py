"""The scripts behind `make plugins` say in one line what a machine lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import plugin_build
import pytest
import tensorrt_headers

SCRIPTS = Path(plugin_build.__file__).parent


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_a_named_folder_without_headers(tmp_path: Path) -> None:
    result = run("build_library.py", TensorRT_ROOT=str(tmp_path), BITEXPORT_TENSORRT_INCLUDE="")
    line = result.stderr.strip()
    assert result.returncode == 1
    assert line.startswith("error: ") and len(line.splitlines()) == 1
    assert "BITEXPORT_TENSORRT_INCLUDE" in line or "nvcc" in line


@pytest.mark.parametrize("below", ["", "include", "include/x86_64-linux-gnu"])
def test_headers_in_a_named_folder(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in tensorrt_headers.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert tensorrt_headers.given() is None
    monkeypatch.setenv("TensorRT_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"NvInferRuntime\.h in TensorRT_ROOT="):
        tensorrt_headers.given()
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "NvInferRuntime.h").write_text("")
    (folder / "NvInferVersion.h").write_text(
        "#define TRT_MAJOR_ENTERPRISE 11\n#define TRT_MINOR_ENTERPRISE 2\n"
    )
    found = tensorrt_headers.given()
    assert found is not None and found.samefile(folder)
    assert tensorrt_headers.version(found) == "11.2"


def test_a_package_index_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_headers, "WHEEL", "bitexport-has-no-such-wheel==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    reason = tensorrt_headers.from_index(tmp_path)
    assert isinstance(reason, str)
    assert reason and "\n" not in reason
    assert not list(tmp_path.iterdir())
