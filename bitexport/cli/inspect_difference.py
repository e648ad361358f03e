"""``bitexport inspect A B``: two files side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from bitexport.cli.output import (
    printable,
    show,
    size,
    stdout,
)

if TYPE_CHECKING:
    from bitexport.graph import LayerInfo
    from bitexport.inspection import Inspection

__all__ = ["difference_as_json", "print_difference"]


def difference_as_json(first: Inspection, second: Inspection) -> dict[str, Any]:
    """Both totals, and each layer as both files hold it."""
    from bitexport.inspection import pair_layers

    return {
        "first": _file(first),
        "second": _file(second),
        "layers": [
            {
                "name": pair.name,
                "first": _layer(pair.first),
                "second": _layer(pair.second),
                "same": _layer(pair.first) == _layer(pair.second),
            }
            for pair in pair_layers(first, second)
        ],
    }


def _file(found: Inspection) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "family": found.family,
        "arch": found.arch,
        "bytes": found.bytes,
        "fp32_bytes": found.fp32_bytes,
    }


def _layer(layer: LayerInfo | None) -> dict[str, Any] | None:
    if layer is None:
        return None
    return {
        "op": layer.op,
        "shape": list(layer.weight_shape),
        "bits_per_weight": layer.bits_per_weight,
        "bytes": layer.stored_bytes,
    }


def print_difference(first: Inspection, second: Inspection) -> None:
    """A table of the layers that differ, and the totals."""
    from bitexport.inspection import pair_layers

    pairs = pair_layers(first, second)
    changed = [pair for pair in pairs if _layer(pair.first) != _layer(pair.second)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("layer", "first", "second"):
        table.add_column(column, no_wrap=True)
    for column in ("bytes", "bytes", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in changed:
        sizes = [0 if x is None else x.stored_bytes for x in (pair.first, pair.second)]
        table.add_row(
            escape(printable(pair.name)),
            _text(pair.first),
            _text(pair.second),
            *(f"{n:,}" for n in sizes),
            f"{sizes[1] - sizes[0]:+,}",
        )
    if changed:
        stdout.print(table)
    lines = (
        f"{len(pairs) - len(changed)} of {len(pairs)} layers are stored alike",
        f"{size(first.bytes)} and {size(second.bytes)}: the second is "
        f"{second.bytes / first.bytes:.3f} times the first",
    )
    for line in lines:
        show(line)


def _text(layer: LayerInfo | None) -> str:
    if layer is None:
        return "-"
    shape = "x".join(map(str, layer.weight_shape))
    return escape(printable(f"{layer.op} {shape} {layer.bits_per_weight:.2f} bits"))
