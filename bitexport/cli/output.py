"""How the command line speaks: JSON or tables on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
import typer.main
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

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
    "size",
    "stdout",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say what every pass did.")]

# A pipe has no width: leave wrapping to whoever reads it.
stdout = Console(width=None if sys.stdout.isatty() else 160)
_stderr = Console(stderr=True)
_INTERRUPTED = 130
_INTERRUPTION = "interrupted (got Ctrl-C, expected to finish). Run it again."
# What torch's allocator and ONNX Runtime say when there is no memory left.
_MEMORY_HINTS = ("can't allocate memory", "not enough memory", "bad_alloc", "Failed to allocate")
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
    """One line on stderr."""
    _stderr.print(line, highlight=False, markup=False, soft_wrap=True)


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
    with _stderr.status(title):
        yield


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal that is told what is done and the share of the whole; quiet in a pipe."""
    if not _stderr.is_terminal:
        yield lambda _title, _share: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=_stderr, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda title, share: bar.update(task, description=printable(title), completed=share)


def run(app: typer.Typer) -> NoReturn:
    """Run the app; every failure is one line on stderr and the right exit code."""
    debug = "--debug" in sys.argv
    try:
        code = typer.main.get_command(app).main(standalone_mode=False)
        sys.stdout.flush()
    except BitexportError as error:
        _fail(str(error), error.exit_code, debug)
    except _UsageError as error:
        _fail_usage(error, debug)
    except (KeyboardInterrupt, typer.Abort):
        _fail(_INTERRUPTION, _INTERRUPTED, debug)
    except BrokenPipeError:
        # The reader of our output went away; silence Python's own complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
        what = f"{type(error).__name__}: {text or 'no message'}"
        _fail(
            f"internal error (got {what}, expected none). Please report it, with --debug.", 1, debug
        )
    if code == _INTERRUPTED:
        # The argument parser swallows Ctrl-C without a word.
        _fail(_INTERRUPTION, _INTERRUPTED, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _fail_usage(error: Exception, debug: bool) -> NoReturn:
    """A usage error of the argument parser, in our one line; without arguments, the help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        say(context.get_help() if context is not None else str(error))
        sys.exit(2)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    command = context.command_path if context is not None else "bitexport"
    what = " ".join(message.split()).rstrip(".")
    _fail(
        f"wrong usage (got {what}, expected what `{command} --help` shows). Correct the command.",
        2,
        debug,
    )


def _fail(line: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    say(f"error: {line}")
    sys.exit(code)
