"""Runs that are killed, interrupted, out of room or in each other's way, as real processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import save_wrn

OLD = b"an older file"
SECONDS = 120


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wrn(tmp_path_factory.mktemp("unlucky") / "checkpoint.pth.tar")


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """A file that stands there before; whatever happens, nothing may lie beside it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(OLD)
    yield path
    assert list(tmp_path.iterdir()) == [path]


def start(*arguments: str | Path, **kwargs) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **kwargs.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "bitexport", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **kwargs,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors


WRITER = """
import sys
from pathlib import Path
from bitexport.files import write_atomically

print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        write_atomically(Path(sys.argv[1]), byte * (1 << 22))
"""


def test_a_kill_in_the_middle_of_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    for attempt in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, target], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.01 + 0.013 * attempt)
            writer.kill()
        if target.exists():
            data = target.read_bytes()
            assert data in (b"a" * (1 << 22), b"b" * (1 << 22)), len(data)
    assert target.exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("library", ["libtorch_cpu", "onnxruntime_pybind11"])
def test_an_interrupted_export_leaves_the_old_file(checkpoint, output, sent, code, library) -> None:
    """Interrupted while it reads the checkpoint, and later while it compares the results."""
    process = start("onnx", checkpoint, "-o", output, "--input-size", "256")
    maps, ends = Path(f"/proc/{process.pid}/maps"), time.monotonic() + SECONDS
    while library not in maps.read_text() and time.monotonic() < ends:
        time.sleep(0.02)
    process.send_signal(sent)
    returned, errors = finish(process)
    assert returned == code, errors
    assert errors.count("\n") == 1 and errors.startswith("error: interrupted"), errors
    assert output.read_bytes() == OLD


def test_no_room_leaves_the_old_file(checkpoint, output) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    returned, errors = finish(start("onnx", checkpoint, "-o", output, preexec_fn=limit))
    assert returned == 1, errors
    assert errors.count("\n") == 1 and "room on a working disk" in errors, errors
    assert output.read_bytes() == OLD


def test_the_same_bytes_on_every_run_even_into_one_file(checkpoint, output) -> None:
    """Two processes at once, in surroundings that differ, write what a third one writes."""

    def pin() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    ones = {"PYTHONHASHSEED": "1", "TZ": "UTC+9", "TMPDIR": "/nonexistent"}
    twos = {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2"}
    arguments = ("onnx", checkpoint, "-o", output)
    both = [start(*arguments, env=ones, preexec_fn=pin), start(*arguments, env=twos)]
    for process in both:
        returned, errors = finish(process)
        assert returned == 0, errors
    written = output.read_bytes()
    assert written != OLD
    assert finish(start(*arguments))[0] == 0
    assert output.read_bytes() == written
