"""How the command line speaks: JSON or tables on stdout, everything else on stderr."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
import typer.main
from rich.console import Console
from rich.markup import escape

from bitexport.errors import BitexportError

__all__ = [
    "Debug",
    "Json",
    "Verbose",
    "json_text",
    "print_json",
    "printable",
    "progress",
    "progress_bar",
    "run",
    "say",
    "show",
    "show_fields",
    "size",
    "stdout",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say what every pass did.")]

# Who closed one of them wants nothing of it; its number must not become that of another file.
for _name, _mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, _mode))  # noqa: PTH123, SIM115

# A pipe has no width: leave wrapping to whoever reads it.
stdout = Console(width=None if sys.stdout.isatty() else 160)
_stderr = Console(stderr=True)
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_INTERRUPTED = 128 + signal.SIGINT
# What torch's allocator and ONNX Runtime say when there is no memory left.
_MEMORY_HINTS = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "Failed to allocate",
    "failed to map segment",  # of a library
)
_NO_TEMPORARY_FOLDER = "No usable temporary directory"  # which torch asks for as it is imported
# The argument parser's base class; typer brings its own click or the installed one.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB")


def print_json(record: Mapping[str, Any]) -> None:
    """One JSON object on stdout; NaN and infinities become null, as JSON has none."""
    typer.echo(json_text(record))


def json_text(record: Mapping[str, Any]) -> str:
    """What :func:`print_json` prints."""
    return json.dumps(_plain(record), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def say(line: str) -> None:
    """One line on stderr; names from foreign files may hold what a terminal would obey."""
    _stderr.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def show(line: str) -> None:
    """One line on stdout; names as in :func:`say`."""
    stdout.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def show_fields(rows: Iterable[tuple[str, str]]) -> None:
    """A line on stdout for each (name, text), the names in bold under each other."""
    for name, text in rows:
        stdout.print(f"[bold]{name:>12}[/bold]  ", end="")
        show(text)


def printable(text: str) -> str:
    """Text of a foreign file without what a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def size(count: int) -> str:
    """Bytes for people: ``1.62 MiB``."""
    value = float(count)
    for unit in _BINARY_UNITS:
        if value < 1024 or unit == _BINARY_UNITS[-1]:
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"


@contextmanager
def progress(title: str) -> Iterator[None]:
    """A spinner on a terminal; nothing in a pipe."""
    if not _stderr.is_terminal:
        yield
        return
    with _stderr.status(escape(printable(title))):
        yield


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float, float], None] | None]:
    """A bar on a terminal; yields its (phase, steps done, steps in all), None in a pipe."""
    if not _stderr.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[title]}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}", markup=False),
    )
    with Progress(*columns, console=_stderr, transient=True) as bar:
        task = bar.add_task("", total=None, title=title, phase="")

        def report(phase: str, done: float, total: float) -> None:
            bar.update(task, phase=printable(phase), completed=done, total=total or None)

        yield report


# The signal that ended the run, if one did.
_received: list[int] = []


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that files half written are removed on the way out.

    Native code that was importing something prints the exception, and raises one of its own.
    """
    _received.append(number)
    if "--debug" not in sys.argv:
        sys.excepthook = lambda *_: None
        sys.unraisablehook = lambda _: None
    raise KeyboardInterrupt


def run(app: typer.Typer) -> NoReturn:
    """Run the app; every failure is one line on stderr and the right exit code."""
    _received.clear()
    hooks = sys.excepthook, sys.unraisablehook
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        _run(app)
    finally:
        sys.excepthook, sys.unraisablehook = hooks
        logging.disable(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(app: typer.Typer) -> NoReturn:
    debug = "--debug" in sys.argv
    if not debug:
        # What the libraries below log about a damaged file is said in our one line.
        logging.disable(logging.ERROR)
    try:
        code = typer.main.get_command(app).main(standalone_mode=False)
        sys.stdout.flush()
    except BitexportError as error:
        _fail(str(error), error.exit_code, debug)
    except _UsageError as error:
        _fail_usage(error, debug)
    except (KeyboardInterrupt, typer.Abort):
        _fail_interrupted(debug)
    except BrokenPipeError:
        # The reader of our output went away.
        _drop_output()
        sys.exit(0)
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError) or any(hint in text for hint in _MEMORY_HINTS):
            _fail(
                "out of memory (got a model too large for this machine, expected one that "
                "fits). Use a larger machine.",
                1,
                debug,
            )
        if _NO_TEMPORARY_FOLDER in text:
            _fail(
                f"no folder for temporary files (got {text}, expected one that can be written). "
                "Set TMPDIR to one.",
                1,
                debug,
            )
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _drop_output()
            _fail(
                f"the output cannot be written (got {error.strerror}, expected room on a working "
                "disk). Free some space, or send it elsewhere.",
                1,
                debug,
            )
        what = f"{type(error).__name__}: {text or 'no message'}"
        _fail(
            f"internal error (got {what}, expected none). Please report it, with --debug.", 1, debug
        )
    if code == _INTERRUPTED:
        # The argument parser swallows Ctrl-C without a word.
        _fail_interrupted(debug)
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """Let go of what stdout does not take, of which Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail_usage(error: Exception, debug: bool) -> NoReturn:
    """A usage error of the argument parser, in our one line; without arguments, the help."""
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        # With rich, typer printed the help as it made the error, and left no text in it.
        if message:
            _stderr.print(message, highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    command = context.command_path if context is not None else "bitexport"
    what = " ".join(message.split()).rstrip(".")
    _fail(
        f"wrong usage (got {what}, expected what `{command} --help` shows). Correct the command.",
        2,
        debug,
    )


def _fail_interrupted(debug: bool) -> NoReturn:
    _received[:] = _received or [signal.SIGINT]
    _fail("", _INTERRUPTED, debug)


def _fail(line: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    if _received:
        # What an interruption breaks on its way out, a library's import say, is not the reason.
        number = _received[0]
        name = _SIGNALS[signal.Signals(number)]
        line = f"interrupted (got {name}, expected to finish). Run it again."
        code = 128 + number
        # Python remembers that text it ran, a dataclass's say, was interrupted; with `python -m` it
        # would end by SIGINT, whatever the code. Other text makes it forget.
        exec("")  # noqa: S102
    try:
        say(f"error: {line}")
    except MemoryError:  # as rich imports modules of its own
        sys.stderr.write(f"error: {printable(line)}\n")
    sys.exit(code)
