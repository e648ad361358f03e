"""Runs that are killed, interrupted, out of room or in each other's way, as real processes."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command_line import save_wrn

OLD = b"an older file"
SECONDS = 120
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to chown and mount")


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


def start(*arguments: str | Path, through: tuple[str, ...] = (), **kwargs) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **kwargs.pop("env", {})}
    return subprocess.Popen(
        [*through, sys.executable, "-m", "bitexport", *arguments],
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


NATIVE = """
import ctypes, os, signal
import typer
from bitexport.cli.output import run

app = typer.Typer()

@app.command()
def imports():
    # As numpy's C API does: it prints what came up in an import, and raises an error of its own.
    code = b"import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert ctypes.pythonapi.PyRun_SimpleString(code) == -1
    raise ImportError("numpy.core.multiarray failed to import")

run(app)
"""


def test_an_interruption_that_native_code_prints() -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", NATIVE], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert outcome.returncode == 143, outcome.stderr
    expected = "error: interrupted (got SIGTERM, expected to finish). Run it again.\n"
    assert outcome.stderr == expected


IN_AN_IMPORT = """
import os, signal, sys
from bitexport.runtimes.ort import imported

def interrupt(event, arguments):
    if event == "import" and arguments[0].endswith("onnxruntime_pybind11_state"):
        os.kill(os.getpid(), signal.SIGINT)

# A shell starts what runs in its background deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(interrupt)
try:
    imported()
except KeyboardInterrupt:
    print("onnxruntime" in sys.modules)
"""


def test_an_interruption_waits_for_onnx_runtime_to_be_imported() -> None:
    """Its native code may swallow one, and the run would go on."""
    outcome = subprocess.run(
        [sys.executable, "-c", IN_AN_IMPORT],
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert outcome.stdout == "True\n", outcome.stderr


IN_TEXT = """
import os, signal
import typer
from bitexport.cli.output import run

app = typer.Typer()

@app.command()
def imports():
    # As a dataclass or a named tuple is made.
    exec("os.kill(os.getpid(), signal.SIGTERM)")

run(app)
"""


def test_an_interruption_of_text_that_runs(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(IN_TEXT)
    outcome = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        capture_output=True, text=True, check=False, timeout=SECONDS, cwd=tmp_path,
    )  # fmt: skip
    assert outcome.returncode == 143, outcome.stderr
    expected = "error: interrupted (got SIGTERM, expected to finish). Run it again.\n"
    assert outcome.stderr == expected


def test_no_room_leaves_the_old_file(checkpoint, output) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    returned, errors = finish(start("onnx", checkpoint, "-o", output, preexec_fn=limit))
    assert returned == 1, errors
    assert errors.count("\n") == 1 and "room on a working disk" in errors, errors
    assert output.read_bytes() == OLD


def test_no_folder_for_temporary_files_leaves_the_old_file(checkpoint, output) -> None:
    """Python falls back on /tmp and on the working directory; here none of them takes a byte."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    returned, errors = finish(start("onnx", checkpoint, "-o", output, preexec_fn=limit))
    assert returned == 1, errors
    assert errors.count("\n") == 1 and "Set TMPDIR" in errors, errors
    assert output.read_bytes() == OLD


def test_closed_streams_and_a_full_disk_behind_stdout(checkpoint) -> None:
    command = [sys.executable, "-m", "bitexport", "inspect", checkpoint]

    def close() -> None:
        os.close(0)
        os.close(1)

    closed = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False, preexec_fn=close, timeout=SECONDS
    )
    assert closed.returncode == 0 and "error" not in closed.stderr, closed.stderr
    with Path("/dev/full").open("w") as full:
        outcome = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=SECONDS
        )
    errors = [line for line in outcome.stderr.splitlines() if not line.startswith("note: ")]
    assert outcome.returncode == 1 and len(errors) == 1, outcome.stderr
    assert "room on a working disk" in errors[0]


def test_no_memory_to_import_torch(checkpoint, output) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    returned, errors = finish(start("onnx", checkpoint, "-o", output, preexec_fn=limit))
    assert returned == 1, errors
    assert errors.count("\n") == 1 and errors.startswith("error: out of memory"), errors
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


SAVER = """
import sys
import torch

large, small = {"large": torch.zeros(1 << 18)}, {"small": torch.zeros(4)}
print("ready", flush=True)
while True:
    torch.save(large, sys.argv[1])
    torch.save(small, sys.argv[1])
"""
READER = """
import sys, time
from bitexport.checkpoint import read_checkpoint
from bitexport.errors import InputError

read, changed, ends = 0, 0, time.monotonic() + 60
while (read < 20 or changed < 200) and time.monotonic() < ends:
    try:
        sums = [float(x.sum()) for x in read_checkpoint(sys.argv[1]).tensors().values()]
        assert sums == [0], sums
        read += 1
    except InputError:
        changed += 1
print(read >= 20, changed >= 200)
"""


def test_a_checkpoint_that_training_saves_over(tmp_path) -> None:
    """In place, as torch.save does; a process that has a file mapped dies as that gets shorter."""
    path = tmp_path / "checkpoint.pth"
    path.touch()
    with subprocess.Popen([sys.executable, "-c", SAVER, path], stdout=subprocess.PIPE) as saver:
        assert saver.stdout is not None
        assert saver.stdout.readline() == b"ready\n"
        reader = subprocess.run(
            [sys.executable, "-c", READER, path],
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        saver.kill()
    assert (reader.returncode, reader.stdout) == (0, "True True\n"), reader.stderr


def test_no_home_and_closed_streams(checkpoint, output) -> None:
    """The output is for its owner alone, where the user wants files so."""

    def close() -> None:
        os.umask(0o077)
        for stream in (0, 1):
            os.close(stream)

    returned, errors = finish(
        start("onnx", checkpoint, "-o", output, env={"HOME": "/nonexistent"}, preexec_fn=close)
    )
    assert returned == 0, errors
    assert all(line.startswith("note: ") for line in errors.splitlines()), errors
    assert output.read_bytes() != OLD
    assert output.stat().st_mode & 0o777 == 0o600


def test_no_working_directory(checkpoint, output, tmp_path_factory) -> None:
    gone = tmp_path_factory.mktemp("gone")

    def leave() -> None:
        os.chdir(gone)
        gone.rmdir()

    returned, errors = finish(start("onnx", checkpoint, "-o", output, preexec_fn=leave))
    assert returned == 1, errors
    assert errors.count("\n") == 1 and "working directory is gone" in errors, errors
    assert output.read_bytes() == OLD


def test_a_target_that_is_a_link(checkpoint, tmp_path) -> None:
    """The link gives way to the file; what it led to is somebody else's."""
    other, link = tmp_path / "other.onnx", tmp_path / "model.onnx"
    other.write_bytes(OLD)
    link.symlink_to(other)
    returned, errors = finish(start("pack", checkpoint, "-o", link))
    assert returned == 0, errors
    assert other.read_bytes() == OLD
    assert not link.is_symlink() and link.stat().st_size > len(OLD)


# ---- Where nothing can be written ---------------------------------------------------------------

NOBODY = 65534
_DROP_CAPABILITY = 24  # PR_CAPBSET_DROP
_MAY_WRITE_ALL, _MAY_READ_ALL = 1, 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
LIBC = ctypes.CDLL(None, use_errno=True)


def like_others() -> None:
    """Root may write and read everything; from here on only what permissions say."""
    for capability in (_MAY_WRITE_ALL, _MAY_READ_ALL):
        if LIBC.prctl(_DROP_CAPABILITY, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


@pytest.fixture
def others(checkpoint: Path) -> Iterator[Path]:
    """A folder of somebody else, with the checkpoint and an old output in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(checkpoint, folder / "checkpoint.pth")
        (folder / "model.onnx").write_bytes(OLD)
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        yield folder


def refused(folder: Path, *named: str, **kwargs) -> None:
    """One line, exit code 2, the old file untouched and nothing beside it."""
    before = sorted(folder.iterdir())
    arguments = ("onnx", folder / "checkpoint.pth", "-o", folder / "model.onnx")
    returned, errors = finish(start(*arguments, cwd="/", **kwargs))
    assert returned == 2, errors
    assert errors.count("\n") == 1 and errors.startswith("error: "), errors
    for text in named:
        assert text in errors
    assert (folder / "model.onnx").read_bytes() == OLD
    assert sorted(folder.iterdir()) == before


@needs_root
def test_no_permission_to_write(others) -> None:
    refused(others, "no permission to write", preexec_fn=like_others)


@needs_root
def test_no_permission_to_read(others) -> None:
    others.chmod(0o777)
    (others / "checkpoint.pth").chmod(0o600)
    refused(others, "not readable", preexec_fn=like_others)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system of its own, where this machine lets us."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"cannot mount: {tried.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_root
def test_a_full_disk(checkpoint, tmp_path) -> None:
    """The old file fits, the new one beside it does not."""
    with mounted(tmp_path, "size=16k"):
        (tmp_path / "model.onnx").write_bytes(OLD)
        returned, errors = finish(start("onnx", checkpoint, "-o", tmp_path / "model.onnx"))
        assert returned == 1, errors
        assert errors.count("\n") == 1 and "No space left" in errors, errors
        assert [p.read_bytes() for p in tmp_path.iterdir()] == [OLD]


@needs_root
def test_a_read_only_disk(checkpoint, tmp_path) -> None:
    with mounted(tmp_path, "size=1m"):
        shutil.copy(checkpoint, tmp_path / "checkpoint.pth")
        (tmp_path / "model.onnx").write_bytes(OLD)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        refused(tmp_path, "cannot write")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_the_input_under_another_name(checkpoint, tmp_path, link) -> None:
    before = checkpoint.read_bytes()
    link(checkpoint, tmp_path / "model.onnx")
    returned, errors = finish(start("onnx", checkpoint, "-o", tmp_path / "model.onnx"))
    assert (returned, errors.count("\n")) == (2, 1) and "the input file itself" in errors, errors
    assert checkpoint.read_bytes() == before


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.parametrize("times", [("-4000d", "+9000d")])
def test_the_clock_is_in_no_file(checkpoint, tmp_path, times) -> None:
    """Years ago and years ahead; the clock runs a hundred times too fast on the second run."""
    if FAKETIME is None:
        pytest.skip("no libfaketime; on Debian: apt install faketime")
    written = []
    for speed, offset in zip(("", " x100"), times, strict=True):
        output = tmp_path / f"model{len(written)}.onnx"
        env = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset + speed}
        returned, errors = finish(start("onnx", checkpoint, "-o", output, env=env))
        assert returned == 0, errors
        written.append(output.read_bytes())
    assert written[0] == written[1]
    assert finish(start("onnx", checkpoint, "-o", tmp_path / "now.onnx"))[0] == 0
    assert (tmp_path / "now.onnx").read_bytes() == written[0]


def test_the_same_bytes_whatever_surrounds_them(checkpoint, tmp_path) -> None:
    """Another folder, name, locale, hash seed and number of threads; relative paths too."""
    away = tmp_path / "another folder"
    away.mkdir()
    renamed = away / "renommé.pt"
    shutil.copy(checkpoint, renamed)
    env = {"PYTHONHASHSEED": "77", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "1"}
    threads = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}
    both = [
        start("onnx", checkpoint, "-o", tmp_path / "plain.onnx"),
        start("onnx", renamed.name, "-o", "there.onnx", cwd=away, env={**env, **threads}),
    ]
    for process in both:
        returned, errors = finish(process)
        assert returned == 0, errors
    assert (away / "there.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


# ---- Few threads and little of a processor ------------------------------------------------------


def with_few_processes(most: int, *arguments: str | Path, threads: str) -> tuple[int, str]:
    """A command as a user who has no other process, as root may start as many as it likes.

    It reads all files nevertheless: this Python and its packages may lie in root's home.
    """
    through: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("no setpriv to become another user; on Debian: apt install util-linux")
        rights = "-all,+dac_read_search"
        user = f"--reuid={3_000_000 + os.getpid()}"
        through = ("setpriv", user, f"--inh-caps={rights}", f"--ambient-caps={rights}")
    elif most:
        pytest.skip("takes root to become a user without other processes")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))

    environment = {"OMP_NUM_THREADS": threads}
    return finish(start(*arguments, through=through, cwd="/", env=environment, preexec_fn=limit))


@pytest.mark.parametrize("most", [0, 2])
@pytest.mark.parametrize("command", ["onnx", "inspect", "verify", "pack"])
def test_too_few_processes(checkpoint, output, command, most) -> None:
    """numpy's BLAS would end it as Ctrl-C does, with four lines; torch's OpenMP with another."""
    to = ["-o", output] if command in ("onnx", "pack") else []
    returned, errors = with_few_processes(most, command, checkpoint, *to, threads="2")
    assert returned == 1, errors
    assert errors.count("\n") == 1 and errors.startswith("error: "), errors
    assert "too few threads" in errors and f"`ulimit -u` at {most}" in errors
    assert output.read_bytes() == OLD


@needs_root
def test_as_few_processes_as_it_asks_for(others) -> None:
    """For one thread: itself, a process for the model and a thread that listens to it."""
    others.chmod(0o777)
    checkpoint, output = others / "checkpoint.pth", others / "new.onnx"
    for command, threads in (
        (("onnx", checkpoint, "-o", output), ""),
        (("verify", output, checkpoint), "1"),
    ):
        returned, errors = with_few_processes(3, *command, threads=threads)
        assert returned == 0, errors
        assert all(line.startswith("note: ") for line in errors.splitlines()), errors


@contextmanager
def one_processor() -> Iterator[Path]:
    """A control group that has one processor's time, where this machine lets us make one."""
    name = f"bitexport-{os.getpid()}"
    for root, limits in (
        (Path("/sys/fs/cgroup"), {"cpu.max": "100000 100000"}),
        (
            Path("/sys/fs/cgroup/cpu"),
            {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"},
        ),
    ):
        group = root / name
        with suppress(OSError):
            (root / "cgroup.procs").read_text()  # else no control group itself
            group.mkdir()
            try:
                for file, limit in limits.items():
                    (group / file).write_text(limit)
            except OSError:
                group.rmdir()
                raise
            break
    else:
        pytest.skip("cannot make a control group with a limit on processor time")
    try:
        yield group
    finally:
        group.rmdir()


THREADS = """
import os
from bitexport.cli.libraries import prepare_libraries
prepare_libraries()
import torch
from bitexport.runtimes import runtime_named
before = len(os.listdir("/proc/self/task"))
model = open({model!r}, "rb").read()
runner = runtime_named("ort").load(model)
print(torch.get_num_threads(), len(os.listdir("/proc/self/task")) - before)
"""


@needs_root
def test_a_share_of_the_processors(checkpoint, tmp_path) -> None:
    """As many threads as the share, not as many as there are processors."""
    output = tmp_path / "model.onnx"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    with one_processor() as group:

        def join() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

        export = [sys.executable, "-m", "bitexport", "onnx", checkpoint, "-o", output]
        count = [sys.executable, "-c", THREADS.format(model=str(output))]
        for command in (export, count):
            outcome = subprocess.run(
                command, capture_output=True, text=True, check=False, preexec_fn=join,
                env=environment, timeout=SECONDS,
            )  # fmt: skip
            assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "1 0\n"
