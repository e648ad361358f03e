"""``bitexport bench``: models beside their full-precision twins, in every runtime there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bitexport.cli import choices
from bitexport.cli.output import (
    Debug,
    json_text,
    print_json,
    printable,
    progress_bar,
    say,
    show,
    stdout,
)
from bitexport.errors import InputError

if TYPE_CHECKING:
    from bitexport.bench import Report

__all__ = ["bench"]

_LARGEST_BATCH = 65536
_STDOUT = Path("-")


def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help=".onnx files, checkpoints, engines.")
    ],
    runtimes: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Such as ort,ort-native; all that work by default."),
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Twins to build: fp32,fp16,int8 by default."),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="LIST", help="Batch sizes.")] = "1",
    threads: Annotated[int, typer.Option(min=1, help="Threads inside an operator.")] = 1,
    duration: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds for each model and precision.")
    ] = 2.0,
    layers: Annotated[bool, typer.Option("--layers", help="Name the slowest nodes.")] = False,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Do not measure memory and load time.")
    ] = False,
    inputs: Annotated[
        Path | None, typer.Option(help="An .npz with `input`: images to run and calibrate on.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Measure accuracy too: see `bitexport eval`.")
    ] = None,
    data: choices.Data = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many images of the data set.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the figures as JSON; - for stdout.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="PATH", help="Write Markdown.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write a page with plots.")
    ] = None,
    family: choices.Family = None,
    arch: choices.Arch = None,
    input_size: choices.InputSize = None,
    weights: choices.Weights = choices.PrecisionChoice.auto,
    activations: choices.Activations = choices.PrecisionChoice.auto,
    zero_weights: choices.ZeroWeights = choices.ZeroWeightsChoice.exact,
    zero_activations: choices.ZeroActivations = choices.ZeroActivationsChoice.auto,
    debug: Debug = False,
) -> None:
    """Measure latency, memory and size beside full precision, in turns.

    Example: bitexport bench model.onnx --batch 1,8 --html report.html
    """
    del debug
    from bitexport.bench import BenchOptions
    from bitexport.bench import bench as measure
    from bitexport.bench.twins import parse_precisions
    from bitexport.evaluation import DataOptions
    from bitexport.export_options import ExportOptions
    from bitexport.recordings import read_recording

    _check_outputs([json, markdown, html], [*models, *([inputs] if inputs else [])])
    options = BenchOptions(
        runtimes=_names(runtimes),
        precisions=parse_precisions(precisions),
        batches=_batches(batch),
        threads=threads,
        duration=duration,
        layers=layers,
        memory=not no_memory,
        images=None if inputs is None else read_recording(inputs)["input"],
        data=None if dataset is None else DataOptions(name=dataset, root=data, limit=limit),
        export=ExportOptions(
            load=choices.load_options(family, arch, weights, activations),
            input_size=choices.parse_input_size(input_size),
            zero_weights=zero_weights.value,
            zero_activations=zero_activations.value,
            verify=False,
        ),
    )
    with progress_bar("measuring") as bar:
        report = measure(
            models, options, lambda title, share: None if bar is None else bar(title, share, 1)
        )
    _write(report, json, markdown, html)
    if json != _STDOUT:
        _print(report)


def _check_outputs(paths: list[Path | None], sources: list[Path]) -> None:
    """Refuse before the long work what could not be written after it, or would replace a source."""
    from bitexport.files import check_writable

    given = [path for path in paths if path is not None and path != _STDOUT]
    if len({path.parent.resolve() / path.name for path in given}) < len(given):
        raise InputError(
            "two reports cannot go into one file",
            got=", ".join(map(str, given)),
            expected="a file for each of --json, --markdown and --html",
            fix="Name other files.",
        )
    for path in given:
        check_writable(path)
        for source in sources:
            check_writable(path, source=source)


def _write(report: Report, json: Path | None, markdown: Path | None, html: Path | None) -> None:
    from bitexport.bench.html import html as page
    from bitexport.bench.markdown import markdown as text
    from bitexport.files import write_atomically

    if json == _STDOUT:
        print_json(report.as_json())
    elif json is not None:
        write_atomically(json, json_text(report.as_json()).encode() + b"\n")
    if markdown is not None:
        write_atomically(markdown, text(report).encode(errors="replace"))
    if html is not None:
        write_atomically(html, page(report).encode(errors="replace"))


def _print(report: Report) -> None:
    from bitexport.bench import wording

    for line in wording.headline(report):
        show(line)
    headings = wording.columns(report)
    if report.runs:
        stdout.print(_table(headings, [wording.row(report, run) for run in report.runs], text=3))
    for title, nodes in wording.layer_summaries(report):
        rows = [
            (x.name, x.op, x.bound, f"{x.ms:.3f} ms", f"{x.share:.0%}", f"{x.floor_ms:.3f} ms")
            for x in wording.slowest(nodes)
        ]
        show(f"slowest nodes of {title}")
        stdout.print(_table(("node", "op", "bound by", "time", "share", "floor"), rows, text=3))
    for line in [*report.warnings, *wording.skip_lines(report), *wording.machine_lines(report)]:
        say(line)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, text: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(
            heading, justify="left" if index < text else "right", no_wrap=index >= text
        )
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise InputError(
            "wrong --runtimes",
            got=repr(text),
            expected="names such as ort,ort-native",
            fix="Correct it.",
        )
    return names


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    sizes = [int(part) if part.isascii() and part.isdigit() else 0 for part in parts]
    if not all(0 < count <= _LARGEST_BATCH for count in sizes):
        raise InputError(
            "wrong --batch",
            got=text,
            expected=f"sizes from 1 to {_LARGEST_BATCH}, such as 1,8,32",
            fix="Correct it.",
        )
    return tuple(sorted(set(sizes)))
