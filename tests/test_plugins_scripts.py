"""The scripts behind `make plugins` say in one line what a machine lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gpu
import gpu_test
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


def test_the_cuda_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    with pytest.raises(plugin_build.BuildFailure, match="nvcc is missing"):
        plugin_build.configure(tmp_path / "build", None)
    compiler = tmp_path / "cuda" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.write_text("")
    compiler.chmod(0o755)
    assert plugin_build.nvcc() == str(compiler)


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


FAKE_SMI = """#!/bin/sh
echo "$ANSWER"
exit $CODE
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose nvidia-smi gives ``ANSWER`` and the exit code ``CODE``."""
    program = tmp_path / "nvidia-smi"
    program.write_text(FAKE_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CODE", "0")
    return monkeypatch


@pytest.mark.parametrize(
    ("answer", "name", "architecture"),
    [
        ("NVIDIA H200, 9.0, 570.1\nNVIDIA H200, 9.0, 570.1", "NVIDIA H200", "90a-real"),
        ("NVIDIA GeForce RTX 4090, 8.9, 560.35", "NVIDIA GeForce RTX 4090", "89-real"),
        ("NVIDIA B200, 10.0, 570.1", "NVIDIA B200", "100a-real"),
        ("Tesla T4, 7.5, 550.54", "Tesla T4", "75-real"),
    ],
)
def test_the_gpu_that_is_compiled_for(
    answer: str, name: str, architecture: str, smi: pytest.MonkeyPatch
) -> None:
    smi.setenv("ANSWER", answer)
    found = gpu.find()
    assert (found.name, found.architecture) == (name, architecture)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("NVIDIA-SMI has failed\nNo devices were found", "6", "No devices were found"),
        ("", "0", "is not understood"),
        ("NVIDIA H200, N/A, 570.1", "0", "is not understood"),
    ],
)
@pytest.mark.parametrize("script", ["gpu_test.py"])
def test_a_gpu_that_does_not_answer(
    script: str, answer: str, code: str, said: str, smi: pytest.MonkeyPatch
) -> None:
    smi.setenv("ANSWER", answer)
    smi.setenv("CODE", code)
    result = run(script)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["gpu_test.py"])
def test_a_machine_without_a_driver(script: str, tmp_path: Path) -> None:
    result = run(script, PATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == (
        "error: no GPU (got no nvidia-smi, expected NVIDIA's driver). "
        "Run this on a machine with an NVIDIA GPU and its driver.\n"
    )


def test_what_gpu_test_runs() -> None:
    titles = [title for title, _ in gpu_test.commands("compute-sanitizer", 5)]
    assert titles == [
        "the matrix of shapes",
        "compute-sanitizer memcheck",
        "compute-sanitizer racecheck",
        "ONNX Runtime's CUDA provider",
    ]
    *native, (_, onnxruntime) = gpu_test.commands("compute-sanitizer", 5)
    assert Path(onnxruntime[-1]).is_file() and onnxruntime[-3:-1] == ["-m", "gpu"]
    for title, command in native:
        assert str(gpu_test.PROGRAM) in command
        assert ("--error-exitcode" in command) == ("sanitizer" in title)
