"""Run the fuzzer, or one finding again: see the package's docstring."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# Before torch and ONNX Runtime: a process with threads cannot be forked.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TERM": "dumb", "COLUMNS": "4000"}

from native_nodes import sanitized_library

from fuzz.programs import table
from fuzz.targets import Input, Target
from fuzz.worker import Verdict, run_batch

BATCH = 40
FINDINGS = Path("build/fuzz")


@dataclass
class Tally:
    """What became of a target's inputs."""

    codes: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0
    slowest: float = 0


@dataclass(frozen=True)
class Job:
    """A run of inputs of one target: numbers ``first`` to ``last`` of a seed."""

    target: Target
    seeds: dict[str, bytes]
    seed: int
    first: int
    last: int
    keep: Path

    def input(self, index: int) -> Input:
        return self.target.mutate(
            self.seeds, random.Random(f"{self.seed}/{self.target.name}/{index}")
        )


def _run_job(job: Job) -> tuple[str, list[Verdict], list[str]]:
    inputs = [job.input(index) for index in range(job.first, job.last)]
    verdicts, findings = [], []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for i, verdict in enumerate(run_batch(job.target, inputs, Path(folder) / "work")):
            verdicts.append(verdict)
            if verdict.problem:
                name = f"{job.target.name}-{job.seed}-{job.first + i}{inputs[i].suffix}"
                job.keep.mkdir(parents=True, exist_ok=True)
                (job.keep / name).write_bytes(inputs[i].data)
                findings.append(f"{job.keep / name}: {verdict.problem}")
    return job.target.name, verdicts, findings


def _seeds(target: Target) -> dict[str, bytes]:
    """Made in a process of their own, as exporting may start threads."""
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
        multiprocessing.get_context("fork").Pool(1) as pool,
    ):
        return pool.apply(target.seeds, (Path(folder),))


def _jobs(targets: list[Target], count: int, seed: int, keep: Path) -> Iterator[Job]:
    whole = sum(target.share for target in targets)
    made = {target.seeds: _seeds(target) for target in targets}
    for target in targets:
        number = max(1, round(count * target.share / whole))
        for first in range(0, number, BATCH):
            last = min(number, first + BATCH)
            yield Job(target, made[target.seeds], seed, first, last, keep)


def _ignore_interrupts() -> None:
    """Ctrl-C is for the process that tallies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def fuzz(targets: list[Target], count: int, seed: int, keep: Path, jobs: int) -> int:
    """Run ``count`` inputs; the number of findings, which are kept as files."""
    tallies = {target.name: Tally() for target in targets}
    started = time.monotonic()
    work = list(_jobs(targets, count, seed, keep))
    # An interrupted run has then had its share of every target.
    random.Random(seed).shuffle(work)
    print(f"seed {seed}, {count} inputs", flush=True)
    with (
        contextlib.suppress(KeyboardInterrupt),
        multiprocessing.get_context("fork").Pool(jobs, _ignore_interrupts) as pool,
    ):
        for name, verdicts, findings in pool.imap_unordered(_run_job, work):
            tally = tallies[name]
            tally.codes.update(verdict.code for verdict in verdicts)
            tally.seconds += sum(verdict.seconds for verdict in verdicts)
            tally.slowest = max(tally.slowest, *(verdict.seconds for verdict in verdicts))
            tally.problems += findings
            for finding in findings:
                print(finding, flush=True)
            if sys.stderr.isatty():
                total = sum(tally.codes.total() for tally in tallies.values())
                print(f"\r{total} inputs", end="", file=sys.stderr)
    for name, tally in tallies.items():
        codes = ", ".join(f"{n} ended with {code}" for code, n in sorted(tally.codes.items()))
        print(
            f"{name:>8}: {tally.codes.total()} inputs, {len(tally.problems)} findings; {codes}; "
            f"{tally.seconds:.0f} s of CPU, at most {tally.slowest:.1f} s"
        )
    total = sum(tally.codes.total() for tally in tallies.values())
    findings = sum(len(tally.problems) for tally in tallies.values())
    print(f"{total} inputs, {findings} findings, {time.monotonic() - started:.0f} s")
    return findings


def replay(targets: list[Target], path: Path) -> int:
    """Run one kept file again, with what it says on the terminal."""
    (target,) = (t for t in targets if t.name == path.name.partition("-")[0])
    suffix = path.name[len(path.name.split(".", 1)[0]) :]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        work = Path(folder) / "work"
        (verdict,) = run_batch(target, [Input(path.read_bytes(), suffix)], work)
        for stream in ("out", "err"):
            sys.stdout.write((work / stream).read_text(errors="replace"))
        shutil.rmtree(work)
    print(f"exit code {verdict.code}, {verdict.seconds} s: {verdict.problem or 'no problem'}")
    return bool(verdict.problem)


def _start_sanitized() -> NoReturn:
    """This program again, with the sanitizers' runtimes, which must be loaded before all else."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        found = sanitized_library(Path(folder))
    if isinstance(found, str):
        sys.exit(f"error: {found}. Install gcc with its sanitizers.")
    library, variables = found
    command = [sys.executable, "-m", "fuzz", *sys.argv[1:], "--op-library", str(library)]
    os.execve(sys.executable, command, {**os.environ, **variables})


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", help="names, with commas; all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=FINDINGS, help="folder for findings")
    parser.add_argument("--op-library", type=Path, help="instead of the installed one")
    parser.add_argument("--sanitized", action="store_true", help="op library: ASan and UBSan")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a kept finding")
    given = parser.parse_args()
    if given.sanitized and given.op_library is None:
        _start_sanitized()
    targets = list(table(given.op_library))
    if given.replay:
        return replay(targets, given.replay)
    if given.targets:
        wanted = given.targets.split(",")
        targets = [target for target in targets if target.name in wanted]
    return min(1, fuzz(targets, given.count, given.seed, given.keep, given.jobs))


if __name__ == "__main__":
    sys.exit(main())
