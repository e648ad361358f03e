"""Plots as HTML and inline SVG: nothing to load, nothing to run.

Bars are boxes whose width is a percentage, so that they fit a phone; the plot over batch sizes is
an SVG that scales with the page. Colours are CSS variables, which the page sets for light and
dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["COLOURS", "Bar", "Segment", "Series", "bars", "lines", "stacked_bars"]

COLOURS = 8
_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 44


@dataclass(frozen=True)
class Bar:
    """A labelled value; ``low`` and ``high`` draw a whisker."""

    label: str
    value: float
    text: str
    colour: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Segment:
    """A part of a stacked bar."""

    label: str
    value: float
    text: str
    colour: int


@dataclass(frozen=True)
class Series:
    """Points (x, y), both above 0."""

    label: str
    points: tuple[tuple[float, float], ...]
    colour: int


def bars(rows: Sequence[Bar]) -> str:
    """Horizontal bars on one scale that starts at 0."""
    top = max((max(row.value, row.high or 0) for row in rows), default=0) or 1
    return f'<div class="bars">{"".join(_bar(row, top) for row in rows)}</div>'


def _bar(row: Bar, top: float) -> str:
    whisker = ""
    if row.low is not None and row.high is not None:
        left, width = 100 * row.low / top, 100 * (row.high - row.low) / top
        whisker = f'<i class="whisker" style="left:{left:.2f}%;width:{width:.2f}%"></i>'
    return (
        f'<div class="label">{escape(row.label)}</div>'
        f'<div class="track"><b class="c{row.colour % COLOURS}" '
        f'style="width:{100 * row.value / top:.2f}%"></b>{whisker}</div>'
        f'<div class="value">{escape(row.text)}</div>'
    )


def stacked_bars(rows: Sequence[tuple[str, str, Sequence[Segment]]]) -> str:
    """Label, total and segments of each bar, on one scale; the legend names every segment."""
    top = max((sum(s.value for s in segments) for _, _, segments in rows), default=0) or 1
    drawn = "".join(
        f'<div class="label">{escape(label)}</div><div class="track stack">'
        + "".join(
            f'<b class="c{s.colour % COLOURS}" style="width:{100 * s.value / top:.3f}%" '
            f'title="{escape(f"{s.label}: {s.text}")}"></b>'
            for s in segments
        )
        + f'</div><div class="value">{escape(total)}</div>'
        for label, total, segments in rows
    )
    return f'<div class="bars">{drawn}</div>'


def lines(series: Sequence[Series], x_title: str, y_title: str) -> str:
    """Lines with both axes logarithmic."""
    points = [p for each in series for p in each.points]
    xs = _Scale([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    ys = _Scale([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{ys.at(t):.1f}" '
        f'y2="{ys.at(t):.1f}"/><text x="{_LEFT - 8}" y="{ys.at(t) + 5:.1f}" '
        f'text-anchor="end">{t:g}</text>'
        for t in ys.ticks()
    ]
    parts += [
        f'<text x="{xs.at(t):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{t:g}</text>'
        for t in sorted({x for x, _ in points})
    ]
    middle, half = (_LEFT + _WIDTH - _RIGHT) / 2, (_HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text transform="translate(14 {half}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    for each in series:
        place = [(xs.at(x), ys.at(y)) for x, y in each.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in place)
        parts.append(
            f'<g class="s{each.colour % COLOURS}"><title>{escape(each.label)}</title>'
            f'<polyline points="{path}"/>{dots}</g>'
        )
    legend = "".join(
        f'<li><b class="c{each.colour % COLOURS}"></b>{escape(each.label)}</li>' for each in series
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(y_title)} against {escape(x_title)}">{"".join(parts)}</svg>'
        f'<ul class="legend">{legend}</ul>'
    )


class _Scale:
    """Logarithmic, from the values' whole range to pixels."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        self._low, self._high = (low, high) if low < high else (low / 2, high * 2)
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        share = math.log(value / self._low) / math.log(self._high / self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """1, 2, 5 and their tenfolds within the range; its ends where there are fewer than two."""
        first = math.floor(math.log10(self._low))
        last = math.ceil(math.log10(self._high))
        found = [
            float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)
        ]
        inside = [tick for tick in found if self._low <= tick <= self._high]
        return (
            inside if len(inside) > 1 else [float(f"{self._low:.3g}"), float(f"{self._high:.3g}")]
        )
