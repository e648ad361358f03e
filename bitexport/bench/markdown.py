"""A report as Markdown, to paste into an issue or a README."""

from __future__ import annotations

from collections.abc import Sequence

from bitexport.bench import wording
from bitexport.bench.record import Report

__all__ = ["markdown"]

_TEXT_COLUMNS = 3


def markdown(report: Report) -> str:
    """Headline, table, slowest nodes, machine."""
    parts = ["# Benchmark", "\n".join(f"- {_escaped(x)}" for x in wording.headline(report))]
    rows = [wording.row(report, run) for run in report.runs]
    if rows:
        parts.append(_table(wording.columns(report), rows))
    for title, layers in wording.layer_summaries(report):
        parts.append(f"## {_escaped(title)}: slowest nodes")
        parts.append(
            _table(
                ("node", "op", "bound by", "time", "share", "floor"),
                [
                    (x.name, x.op, x.bound, f"{x.ms:.3f} ms", f"{x.share:.0%}", f"{x.floor_ms:.3f}")
                    for x in wording.slowest(layers)
                ],
            )
        )
    remarks = [*report.warnings, *wording.skip_lines(report), *wording.machine_lines(report)]
    parts.append("## How it was measured")
    parts.append("\n".join(f"- {_escaped(line)}" for line in remarks))
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if i < _TEXT_COLUMNS else "---:" for i in range(len(headings))]
    lines = [headings, rule, *([_escaped(cell) for cell in each] for each in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Text of a foreign file without what Markdown would obey."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    for mark in ("\\", "|", "<", "`", "["):
        shown = shown.replace(mark, f"\\{mark}")
    return shown
