"""What a run writes while it trains: ``log.csv``, TensorBoard's events, a progress bar."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bitexport.cli.output import say
from bitexport.errors import InputError
from bitexport.files import check_writable, write_atomically

__all__ = ["EpochReport", "RunLog", "make_folder", "show_progress"]

_PIPE_EVERY = 10


@dataclass(frozen=True)
class EpochReport:
    """One epoch.

    Attributes:
        stage: Name of the stage.
        epoch: From 1, within the stage.
        epochs: Of the stage.
        loss: Mean over the (augmented) training images, as measured while training.
        accuracy: Share of them that was predicted right.
        test_accuracy: Share of the held-out images.
        learning_rate: Of the epoch's last step.
        seconds: Wall time of this epoch.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    test_accuracy: float
    learning_rate: float
    seconds: float


def make_folder(out: Path) -> None:
    """Make the folder of a run, and find out before the training whether it can be written.

    Raises:
        InputError: It cannot be.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {out}",
            got=error.strerror or error,
            expected="a folder that can be written",
            fix="Name another --out.",
        ) from error
    check_writable(out / "log.csv")


class RunLog:
    """``log.csv``, a row an epoch, and TensorBoard's events where it is installed.

    Args:
        folder: Of the run.
        kept: Rows that stay from a run that is resumed; the others are cut off.
    """

    def __init__(self, folder: Path, kept: int) -> None:
        self._path = folder / "log.csv"
        rows = self._path.read_text().splitlines()[1 : kept + 1] if kept else []
        header = ",".join(f.name for f in fields(EpochReport))
        write_atomically(self._path, "".join(f"{r}\n" for r in [header, *rows]).encode())
        self._rows = len(rows)
        self._events = _tensorboard(folder)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._events is not None:
            self._events.close()

    def add(self, report: EpochReport) -> None:
        """Write one epoch."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(asdict(report).values())
        with self._path.open("a") as file:
            file.write(line.getvalue())
        self._rows += 1
        if self._events is not None:
            for name in ("loss", "accuracy", "test_accuracy", "learning_rate"):
                self._events.add_scalar(name, getattr(report, name), self._rows)


def _tensorboard(folder: Path) -> Any:  # noqa: ANN401
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


class _Quiet:
    def step(self, loss: float, accuracy: float) -> None:
        """Nothing: another process shows the progress."""

    def epoch(self, report: EpochReport) -> None:
        """Nothing."""


class _Lines(_Quiet):
    """A line every few epochs, where nobody watches."""

    def epoch(self, report: EpochReport) -> None:
        if report.epoch % _PIPE_EVERY == 0 or report.epoch == report.epochs:
            say(
                f"{report.stage}: epoch {report.epoch} of {report.epochs}, loss {report.loss:.3f}, "
                f"accuracy {report.accuracy:.1%}, held out {report.test_accuracy:.2%}"
            )


class _Bar(_Quiet):
    def __init__(self, advance: Callable[[dict[str, Any]], None]) -> None:
        self._advance = advance
        self._held_out = ""

    def step(self, loss: float, accuracy: float) -> None:
        status = f"loss {loss:.3f} accuracy {accuracy:.1%}{self._held_out}"
        self._advance({"advance": 1, "status": status})

    def epoch(self, report: EpochReport) -> None:
        self._held_out = f" held out {report.test_accuracy:.1%}"
        title = f"{report.stage} {report.epoch}/{report.epochs}"
        self._advance({"description": title})


@contextmanager
def show_progress(totals: Sequence[int], done: int, *, visible: bool) -> Iterator[_Quiet]:
    """Progress on stderr: a bar with loss, accuracy and the time to go, or lines in a pipe.

    Args:
        totals: Steps of each stage.
        done: Steps that an interrupted run made before.
        visible: False in all processes but one.
    """
    console = Console(stderr=True)
    if not visible or not console.is_terminal:
        yield _Lines() if visible else _Quiet()
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=sum(totals), completed=done, status="")
        yield _Bar(lambda changes: bar.update(task, **changes))
