"""A report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bitexport.bench import wording
from bitexport.bench.charts import COLOURS, Bar, Segment, Series, bars, lines, stacked_bars
from bitexport.bench.record import LayerTime, Report, Run

__all__ = ["html"]

# Told apart in both modes, and by readers who do not see red from green (Okabe and Ito, 2008).
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#a04000", "#777777")
_DARK = ("#4db2f0", "#ff9248", "#2fd0a0", "#eba3cc", "#e5c845", "#8fd3ff", "#e0a080", "#aaaaaa")
_PRECISIONS = {"fp32": 7, "fp16": 5, "int8": 4}
_NAMED_NODES = 7


def html(report: Report) -> str:
    """The page."""
    body = [
        "<h1>Benchmark</h1>",
        _list(wording.headline(report), "headline"),
        _list(report.warnings, "warnings"),
        *_latency(report),
        *_against_batch(report),
        *_sizes(report),
        *_layers(report),
        *_figures(report),
        "<h2>How it was measured</h2>",
        _list([*wording.machine_lines(report), *wording.skip_lines(report)], "method"),
        "<p>Models took turns, so that a slow moment met all of them. A speed-up is shown only "
        "where nine turns out of ten agree on which is faster.</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>bitexport benchmark</title><style>{_style()}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _figures(report: Report) -> list[str]:
    rows = [wording.row(report, run) for run in report.runs]
    return ["<h2>All figures</h2>", _table(wording.columns(report), rows)] if rows else []


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
    return [*parts, stacked_bars(stacked), _legend([(k, i) for i, k in enumerate(kinds)])]


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
    parts = ["<h2>Where the time goes</h2>", stacked_bars(rows), _legend(named)]
    for title, layers in summaries:
        parts.append(f"<h3>Slowest nodes: {escape(title)}</h3>")
        parts.append(_slowest(layers))
    return parts


def _slowest(layers: Sequence[LayerTime]) -> str:
    rows = [
        (x.name, x.op, f"{x.ms:.3f} ms", f"{x.share:.0%}", x.bound, f"{x.floor_ms:.3f} ms")
        for x in wording.slowest(layers)
    ]
    return _table(("node", "op", "time", "share", "bound by", "floor"), rows)


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


def _legend(entries: Sequence[tuple[str, int]]) -> str:
    items = "".join(f'<li><b class="c{c % COLOURS}"></b>{escape(name)}</li>' for name, c in entries)
    return f'<ul class="legend">{items}</ul>'


def _list(items: Sequence[str], name: str) -> str:
    return f'<ul class="{name}">{"".join(f"<li>{escape(x)}</li>" for x in items)}</ul>'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(x)}</th>" for x in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(x)}</td>' for x in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _style() -> str:
    light = "".join(f"--c{i}:{colour};" for i, colour in enumerate(_LIGHT))
    dark = "".join(f"--c{i}:{colour};" for i, colour in enumerate(_DARK))
    fills = "".join(
        f".c{i}{{background:var(--c{i})}}.s{i}{{stroke:var(--c{i});fill:var(--c{i})}}"
        for i in range(COLOURS)
    )
    return (
        f":root{{--bg:#fff;--fg:#1b1f24;--soft:#59636e;--line:#d8dee4;{light}"
        "color-scheme:light dark}"
        f"@media(prefers-color-scheme:dark){{:root{{--bg:#14181d;--fg:#e6edf3;--soft:#9aa5b1;"
        f"--line:#343c46;{dark}}}}}{_RULES}{fills}"
    )


_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}h3{font-size:1rem}
p,.method,.value{color:var(--soft)}
.headline{font-size:1.1rem;padding-left:1.2rem}.warnings{color:var(--c1)}
.bars{display:grid;grid-template-columns:minmax(8rem,14rem) 1fr minmax(7rem,auto);
gap:.35rem .75rem;align-items:center}
.track{position:relative;height:1.2rem;background:var(--line)}
.track b{display:block;height:100%;min-width:1px}
.stack{display:flex}.stack b{border-right:1px solid var(--bg);min-width:0}
.whisker{position:absolute;top:45%;height:10%;min-width:2px;background:var(--fg)}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.25rem 1rem}
.legend b{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.875rem;overflow-wrap:normal}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}
svg{width:100%;height:auto;font-size:14px}svg text{fill:var(--soft)}
.grid{stroke:var(--line)}polyline{fill:none;stroke-width:2}
@media(max-width:40rem){.bars{grid-template-columns:1fr auto}.track{grid-column:1/-1;grid-row:auto}
.label{grid-column:1}.value{grid-column:2;grid-row:auto;order:0}.bars{grid-auto-flow:dense}}
"""
