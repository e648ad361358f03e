"""What the libraries below are told before they are imported, and whether they can run here.

numpy's BLAS, torch and ONNX Runtime start a thread for every processor that the affinity names. A
container's share of the processors is no affinity: with 1 of 64, 64 threads stand in each other's
way. Where the system allows too few threads, one of them interrupts the process and another ends
it, with lines of their own.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bitexport.cli.output import say
from bitexport.errors import RuntimeFailure

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["prepare_libraries", "shares"]

# What numpy and torch heed, and our sessions of ONNX Runtime.
_VARIABLE = "OMP_NUM_THREADS"
_STACK = 1 << 18
_GROUPS, _GROUP_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def prepare_libraries() -> None:
    """Tell the libraries about a container's share of the processors; see whether there is room.

    Intel's MKL, in torch, ends a process without a working directory.

    ONNX Runtime 1.31 can report its use to its makers, from a thread of its own, and says a line
    where it cannot write to HOME; what a command does with a file is nobody's business.

    Raises:
        RuntimeFailure: The system allows fewer threads and processes than a command takes, or the
            working directory is gone.
    """
    _require_working_directory()
    _name_the_user()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not os.environ.get(_VARIABLE):
        os.environ.pop(_VARIABLE, None)  # OpenMP complains of an empty one
    told, processors = _told(), _affinity()
    share = math.ceil(min([processors, *shares(_GROUPS, _GROUP_OF_PROCESS)]))
    threads = told or max(1, share)
    if threads < processors and not told:
        os.environ[_VARIABLE] = str(threads)
    found = _startable(_room(threads))
    if found >= _room(threads):
        return
    fitting = next((n for n in range(threads, 0, -1) if _room(n) <= found), 0)
    if told or not fitting:
        raise RuntimeFailure(
            "the system allows too few threads and processes",
            got=f"room for {found} more{_limit()}",
            expected=f"for {_room(told or 1)}",
            fix="Raise `ulimit -u` or the container's limit on processes"
            + (f", or set {_VARIABLE}={fitting}." if fitting else "."),
        )
    os.environ[_VARIABLE] = str(fitting)
    say(f"note: there is room for {found} more threads and processes{_limit()}: using {fitting}")


def _room(threads: int) -> int:
    """Threads and processes that a command starts.

    Two libraries have threads of their own here and in the process that is started for a file;
    that process itself, and the thread that listens to it.
    """
    return 4 * threads - 2


def _require_working_directory() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise RuntimeFailure(
            "the working directory is gone",
            got=error.strerror,
            expected="one that is there",
            fix="Change to another one.",
        ) from error


def _name_the_user() -> None:
    """Older torch names a folder after the user, who in a container may have no name."""
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _told() -> int:
    """What the user set; 0 where nobody did."""
    with contextlib.suppress(ValueError):
        return max(0, int(os.environ.get(_VARIABLE, "").partition(",")[0]))
    return 0


def shares(groups: Path, group_of_process: Path) -> Iterator[float]:
    """Processors' worth of time that control groups allow this process, version 1 and 2.

    Args:
        groups: Where they are mounted.
        group_of_process: Lines ``number:controllers:path``; none of the path is there in a
            container, which sees its own group as the root.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in group_of_process.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            group = PurePosixPath("/") / path
            for above in (group, *group.parents):
                inside = above.relative_to("/")
                if not controllers:
                    yield from _share(groups / inside / "cpu.max")
                elif "cpu" in controllers.split(","):
                    folder = groups / controllers / inside
                    yield from _share(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _share(*files: Path) -> Iterator[float]:
    """``200000 100000`` in one file or in two: 2 processors; no share where there is no limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = " ".join(file.read_text() for file in files).split()
        if int(quota) > 0:
            yield int(quota) / int(period)


def _startable(wanted: int) -> int:
    """How many of so many threads start when all are there at once."""
    done = threading.Event()
    before = threading.stack_size(_STACK)
    threads: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:  # no thread
        pass
    finally:
        done.set()
        threading.stack_size(before)
        for thread in threads:
            thread.join()
    return len(threads)


def _limit() -> str:
    """The limit on a user's processes, where there is one."""
    if resource is None:
        return ""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return "" if soft == resource.RLIM_INFINITY else f" with `ulimit -u` at {soft}"
