"""A fixed share of the fuzzer's inputs, and proof that it notices what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COUNT = 2000
# As the Makefile has it.
PATHS = os.pathsep.join(str(ROOT / folder) for folder in ("tests", ".", "plugins/scripts"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATHS}
# Where forking is not to be had, the fuzzer is not either.
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for its inputs")


def python(*arguments: str | Path, seconds: int = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=ENVIRONMENT, timeout=seconds,
    )  # fmt: skip


def test_inputs_of_a_fixed_seed(tmp_path: Path) -> None:
    arguments = ("--count", str(COUNT), "--seed", "1", "--jobs", "1", "--keep", str(tmp_path))
    outcome = python("-m", "fuzz", *arguments)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    last = outcome.stdout.splitlines()[-1]
    assert int(last.split()[0]) >= COUNT - 10 and ", 0 findings," in last
    assert not list(tmp_path.iterdir())


WATCHED = """
import mmap, os, signal, sys
from pathlib import Path
from fuzz import worker
from fuzz.targets import Input, Target

worker.SECONDS = 1

def say(code, *lines):
    for line in lines:
        print(line, file=sys.stderr)
    sys.exit(code)

def loop():
    while True:
        pass

def hold():
    held = mmap.mmap(-1, 1300 << 20)
    say(2, "error: held")

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def deep():
    def call(n):
        return call(n + 1)
    call(0)

behaviours = {
    "refused": lambda: say(2, "error: no model"),
    "done": lambda: Path("result").write_text("whole"),
    "code": lambda: (Path("canary").touch(), say(2, "error: ran")),
    "system": lambda: (os.system("true"), say(2, "error: ran")),
    "outside": lambda: (open("../outside", "w").close(), say(2, "error: wrote")),
    "half": lambda: (Path("result.part").touch(), say(2, "error: left")),
    "nothing": lambda: say(0),
    "internal": lambda: say(1, "error: internal error"),
    "traceback": lambda: say(2, "Traceback", "error: two lines"),
    "silent": lambda: say(4),
    "escape": lambda: say(2, "error: \\x1b[2J"),
    "raised": deep,
    "crash": crash,
    "trap": lambda: open("trap").close(),
    "hang": loop,
    "memory": hold,
}
worker.STALLED = 2
target = Target("t", dict, None, lambda path: behaviours[path.read_text()](), 1, output=("result",))
inputs = [Input(name.encode(), ".txt") for name in behaviours]
for given, verdict in zip(inputs, worker.run_batch(target, inputs, Path(sys.argv[1])), strict=True):
    print(given.data.decode(), verdict.problem.split(":")[0].replace(" ", "-") or "fine")
"""
NOTICED = {
    "refused": "fine",
    "done": "fine",
    "code": "code-of-the-input-was-run",
    "system": "forbidden",
    "outside": "forbidden",
    "half": "left-behind",
    "nothing": "exit-code-0,-but-no-result",
    "internal": "exit-code-1",
    "traceback": "not-one-line-with-exit-code-2",
    "silent": "not-one-line-with-exit-code-4",
    "escape": "not-one-line-with-exit-code-2",
    "raised": "escaped",
    "crash": "crash",
    "trap": "hang",
    "hang": "hang",
    "memory": "memory",
}


def test_it_notices_what_it_looks_for(tmp_path: Path) -> None:
    outcome = python("-c", WATCHED, tmp_path / "work")
    assert outcome.returncode == 0, outcome.stderr
    assert dict(line.split() for line in outcome.stdout.splitlines()) == NOTICED
