"""The page around the plots: one HTML file that needs nothing else, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bitexport.bench.charts import COLOURS

__all__ = ["legend", "listing", "page", "table"]

# Told apart in both modes, and by readers who do not see red from green (Okabe and Ito, 2008).
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#a04000", "#777777")
_DARK = ("#4db2f0", "#ff9248", "#2fd0a0", "#eba3cc", "#e5c845", "#8fd3ff", "#e0a080", "#aaaaaa")


def page(title: str, body: Sequence[str]) -> str:
    """A whole file of a title and of pieces of HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_style()}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def legend(entries: Sequence[tuple[str, int]]) -> str:
    """What the colours stand for: (name, colour)."""
    items = "".join(f'<li><b class="c{c % COLOURS}"></b>{escape(name)}</li>' for name, c in entries)
    return f'<ul class="legend">{items}</ul>'


def listing(items: Sequence[str], name: str) -> str:
    """Lines of text under a class of the style sheet."""
    return f'<ul class="{name}">{"".join(f"<li>{escape(x)}</li>" for x in items)}</ul>'


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Scrolls by itself where the screen is narrow."""
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
