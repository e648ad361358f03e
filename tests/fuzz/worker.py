"""Runs inputs in a forked process, under limits, and judges what becomes of them.

A process is forked for a batch, as a fork takes longer than most inputs. Input by input it says
over a pipe that it starts, and what it found; where it dies or stays silent, the input that it was
at is to blame and the next process goes on behind it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.targets import Input, Target

SECONDS = 10  # of CPU time, an input
STALLED = 120  # seconds that pass without an answer: it waits for something
SLACK_BYTES = 1 << 30  # of memory, beyond the size of the file
MOST_VIRTUAL = 256 << 30
LONGEST_LINE = 4096
TRAP = "trap"  # a pipe without a writer: native code that opens it for reading hangs
CANARY = "canary"  # what code in an input would leave behind
TOLD = "forbidden"  # what a process of the command was caught at
_TICKS = os.sysconf("SC_CLK_TCK")
_FORBIDDEN = frozenset(
    {
        "os.exec",
        "os.posix_spawn",
        "os.system",
        "pty.spawn",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "webbrowser.open",
    }
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Verdict:
    """What became of an input.

    Attributes:
        code: Exit code of the command; -1 where it did not get so far.
        problem: What it did that it must not; empty where all is well.
        seconds: Of CPU time.
    """

    code: int
    problem: str
    seconds: float


def run_batch(target: Target, inputs: list[Input], folder: Path) -> Iterator[Verdict]:
    """Verdicts in the order of the inputs."""
    done = 0
    while done < len(inputs):
        for verdict in _run_until_it_dies(target, inputs[done:], folder):
            done += 1
            yield verdict


def _run_until_it_dies(target: Target, inputs: list[Input], folder: Path) -> Iterator[Verdict]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _serve(target, inputs, folder, writing)
    os.close(writing)
    answered = 0
    try:
        with os.fdopen(reading, "rb") as answers:
            while answered < len(inputs):
                problem = _wait(child, answers)
                line = b"" if problem else answers.readline()
                if not line:
                    break
                yield Verdict(**json.loads(line))
                answered += 1
    finally:
        if answered < len(inputs):
            os.kill(child, signal.SIGKILL) if problem else None
        _, status = os.waitpid(child, 0)
    if answered < len(inputs):
        code = os.waitstatus_to_exitcode(status)
        died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        yield Verdict(-1, problem or f"crash: {died}", 0)


def _wait(child: int, answers: Any) -> str:
    """Until there is an answer, or the process ended; else why there will be none."""
    cpu, started = _cpu_seconds(child), time.monotonic()
    memory = _status("VmRSS", child) + 2 * SLACK_BYTES
    while not select.select([answers], [], [], 0.25)[0]:
        if _cpu_seconds(child) - cpu > SECONDS:
            return f"hang: more than {SECONDS} s of CPU time"
        if _status("VmRSS", child) > memory:
            return "memory: taken and taken"
        if time.monotonic() - started > STALLED:
            return f"hang: no answer for {STALLED} s"
    return ""


def _cpu_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


# ---- In the forked process ----------------------------------------------------------------------

_events: list[str] = []
_judging: list[int] = []


def _serve(target: Target, inputs: list[Input], folder: Path, answers: int) -> None:
    """Run all inputs and leave; never returns."""
    try:
        os.chdir(folder)
        os.mkfifo(TRAP)
        Path("cache").mkdir()
        tempfile.tempdir = str(folder)
        os.environ |= {"TMPDIR": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if target.limited:
            # What claims terabytes fails, whatever this machine promises.
            resource.setrlimit(resource.RLIMIT_AS, (MOST_VIRTUAL, MOST_VIRTUAL))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = [os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for name in ("out", "err")]
        os.dup2(output[0], 1)
        os.dup2(output[1], 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if target.prepare is not None:
            target.prepare()
        _judging.append(os.getpid())
        sys.addaudithook(_watch)
        for given in inputs:
            verdict = _judge(target, given)
            os.write(answers, json.dumps(verdict.__dict__).encode() + b"\n")
        os._exit(0)
    except BaseException as error:
        os.write(
            answers, json.dumps(Verdict(-1, f"fuzzer: {error!r}", 0).__dict__).encode() + b"\n"
        )
        os._exit(0)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN:
        _tell(f"{event} {str(arguments)[:200]}")
    elif event == "shutil.rmtree":
        _watch_path("removed", arguments[0])
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & _WRITING:
        _watch_path("wrote", arguments[0])


def _watch_path(verb: str, path: str | Path) -> None:
    full = os.path.abspath(path)  # noqa: PTH100
    if not full.startswith((os.getcwd(), "/dev/null")):  # noqa: PTH109
        _tell(f"{verb} {full[:200]}")


def _tell(caught: str) -> None:
    """Remember it; a process that an input was contained in leaves a file, which is a finding."""
    if os.getpid() == _judging[-1]:
        _events.append(caught)
    else:
        with os.fdopen(os.open(TOLD, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w") as file:
            file.write(caught)


def _judge(target: Target, given: Input) -> Verdict:
    path = Path(f"input{given.suffix}")
    path.write_bytes(given.data)
    for stream in (1, 2):
        os.ftruncate(stream, 0)
        os.lseek(stream, 0, os.SEEK_SET)
    _events.clear()
    before = _names()
    allowed = max(_status("VmPeak"), _status("VmSize") + len(given.data) + SLACK_BYTES)
    children = max(_children()[1], _status("VmRSS") + len(given.data) + SLACK_BYTES)
    cpu = time.process_time() + _children()[0]
    code, failure = _run(target, path)
    seconds = time.process_time() + _children()[0] - cpu
    beyond = max(_status("VmPeak") - allowed, _children()[1] - children)
    if target.limited and beyond > 0:
        failure = failure or f"memory: {(beyond + SLACK_BYTES) >> 20} MiB"
    if seconds > SECONDS:
        failure = failure or f"hang: {seconds:.0f} s of CPU time"
    sys.stdout.flush()
    sys.stderr.flush()
    left = _names() - before
    problem = failure or _misbehaviour(target, code, left)
    for name in left | {path.name}:
        shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)  # noqa: PTH112, PTH108
    return Verdict(code, problem, round(seconds, 3))


def _names() -> set[str]:
    return {path.name for path in Path().iterdir()}


def _run(target: Target, path: Path) -> tuple[int, str]:
    try:
        target.run(path)
    except SystemExit as ended:
        return (ended.code if isinstance(ended.code, int) else 0), ""
    except BaseException as error:
        return -1, f"escaped: {type(error).__name__}: {str(error)[:300]}"
    return 0, ""


def _misbehaviour(target: Target, code: int, left: set[str]) -> str:
    # Rewound, as the stream's position is where the output ends.
    complaint = os.pread(2, 1 << 16, 0).decode(errors="replace")
    if _events:
        return f"forbidden: {_events[0]}"
    if CANARY in left:
        return "code of the input was run"
    if code not in target.codes:
        return f"exit code {code}: {complaint[-600:].strip()}"
    expected = {*target.output} if code == 0 else set()
    if {name for name in left if not name.startswith("torchinductor")} - expected:
        return f"left behind: {sorted(left - expected)}"
    if expected - left:
        return f"exit code 0, but no {min(expected - left)}"
    lines = [line for line in complaint.splitlines() if not line.startswith("note: ")]
    if code == 0:
        return f"said: {complaint[:600]}" if lines else ""
    sound = len(lines) == 1 and lines[0].startswith("error: ") and lines[0].isprintable()
    if not sound or len(lines[0]) > LONGEST_LINE:
        return f"not one line with exit code {code}: {complaint[:600]!r}"
    return ""


def _children() -> tuple[float, int]:
    """CPU time of the processes that were waited for, and the most memory that one has had."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss << 10


def _status(field: str, process: int | str = "self") -> int:
    """A figure of the process in bytes; 0 where there is none any more."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) << 10 for x in lines if x.startswith(f"{field}:")), 0)
