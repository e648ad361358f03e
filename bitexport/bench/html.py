"""A report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bitexport.bench import wording
from bitexport.bench.charts import Bar, Segment, Series, bars, lines, stacked_bars
from bitexport.bench.page import legend, listing, page, table
from bitexport.bench.record import LayerTime, Report, Run

__all__ = ["html"]

_PRECISIONS = {"fp32": 7, "fp16": 5, "int8": 4}
_NAMED_NODES = 7


def html(report: Report) -> str:
    """The page."""
    body = [
        "<h1>Benchmark</h1>",
        listing(wording.headline(report), "headline"),
        listing(report.warnings, "warnings"),
        *_latency(report),
        *_against_batch(report),
        *_sizes(report),
        *_layers(report),
        *_figures(report),
        "<h2>How it was measured</h2>",
        listing([*wording.machine_lines(report), *wording.skip_lines(report)], "method"),
        "<p>Models took turns, so that a slow moment met all of them. A speed-up is shown only "
        "where nine turns out of ten agree on which is faster.</p>",
    ]
    return page("bitexport benchmark", body)


def _figures(report: Report) -> list[str]:
    rows = [wording.row(report, run) for run in report.runs]
    return ["<h2>All figures</h2>", table(wording.columns(report), rows)] if rows else []


def _latency(report: Report) -> list[str]:
    if not report.runs:
        return []
    parts = [
        "<h2>Latency</h2><p>Median; the line spans the fastest run to the 90th percentile.</p>"
    ]
    for batch in dict.fromkeys(run.batch for run in report.runs):
        parts.append(f"<h3>Batch {batch}</h3>")
        parts.append(
            bars(
                [
                    Bar(
                        label=_label(report, run),
                        value=run.median_ms,
                        text=" ".join(x for x in (f"{run.median_ms:.3f} ms", _versus(run)) if x),
                        colour=_colour(run),
                        low=run.min_ms,
                        high=run.p90_ms,
                    )
                    for run in report.runs
                    if run.batch == batch
                ]
            )
        )
    return parts


def _against_batch(report: Report) -> list[str]:
    groups: dict[str, list[Run]] = {}
    for run in report.runs:
        groups.setdefault(_label(report, run), []).append(run)
    if all(len(runs) < 2 for runs in groups.values()):
        return []
    series = [
        Series(label, tuple((r.batch, r.median_ms / r.batch) for r in runs), index)
        for index, (label, runs) in enumerate(groups.items())
    ]
    return ["<h2>Latency against batch</h2>", lines(series, "batch", "ms an image")]


def _sizes(report: Report) -> list[str]:
    files: dict[tuple[str, str], Run] = {}
    for run in report.runs:
        files.setdefault((run.model, run.precision), run)
    several = len({model for model, _ in files}) > 1
    rows = [
        Bar(
            label=f"{model} {precision}" if several else precision,
            value=run.bytes,
            text=wording.size(run.bytes),
            colour=_colour(run),
        )
        for (model, precision), run in files.items()
    ]
    parts = ["<h2>Size on disk</h2>", *([bars(rows)] if rows else [])]
    parts.append("<h3>What the file holds</h3>")
    kinds = list(dict.fromkeys(kind for sizes in report.sizes.values() for kind in sizes))
    stacked = [
        (
            model,
            wording.size(sum(sizes.values())),
            [Segment(k, n, wording.size(n), kinds.index(k)) for k, n in sizes.items()],
        )
        for model, sizes in report.sizes.items()
    ]
    return [*parts, stacked_bars(stacked), legend([(k, i) for i, k in enumerate(kinds)])]


def _layers(report: Report) -> list[str]:
    summaries = wording.layer_summaries(report)
    if not summaries:
        return []
    rows, ops = [], list(dict.fromkeys(layer.op for _, each in summaries for layer in each))
    by_time = {op: sum(x.ms for _, each in summaries for x in each if x.op == op) for op in ops}
    ops.sort(key=lambda op: -by_time[op])
    for title, layers in summaries:
        segments = [
            Segment(f"{x.name} ({x.op})", x.ms, f"{x.ms:.3f} ms", _rank(ops, x.op)) for x in layers
        ]
        rows.append((title, f"{sum(x.ms for x in layers):.3f} ms", segments))
    named = [(op, i) for i, op in enumerate(ops[:_NAMED_NODES])]
    if len(ops) > _NAMED_NODES:
        named.append(("other", _NAMED_NODES))
    parts = ["<h2>Where the time goes</h2>", stacked_bars(rows), legend(named)]
    for title, layers in summaries:
        parts.append(f"<h3>Slowest nodes: {escape(title)}</h3>")
        parts.append(_slowest(layers))
    return parts


def _slowest(layers: Sequence[LayerTime]) -> str:
    rows = [
        (x.name, x.op, f"{x.ms:.3f} ms", f"{x.share:.0%}", x.bound, f"{x.floor_ms:.3f} ms")
        for x in wording.slowest(layers)
    ]
    return table(("node", "op", "time", "share", "bound by", "floor"), rows)


def _rank(ops: Sequence[str], op: str) -> int:
    return min(ops.index(op), _NAMED_NODES)


def _label(report: Report, run: Run) -> str:
    several = len({each.model for each in report.runs}) > 1
    return f"{run.model + ' ' if several else ''}{run.precision}, {run.runtime}"


def _versus(run: Run) -> str:
    text = wording.speedup(run)
    return f"({text})" if text else ""


def _colour(run: Run) -> int:
    return 1 if run.subject else _PRECISIONS.get(run.precision, 0)
