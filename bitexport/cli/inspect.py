"""``bitexport inspect``: what is in a checkpoint or an .onnx file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.bar import Bar
from rich.markup import escape
from rich.table import Table

from bitexport.cli import choices
from bitexport.cli.inspect_difference import difference_as_json, print_difference
from bitexport.cli.output import (
    Debug,
    Json,
    print_json,
    printable,
    progress,
    say,
    show,
    size,
    stdout,
)

if TYPE_CHECKING:
    from bitexport.inspection import Inspection

__all__ = ["inspect"]

_BAR_WIDTH = 24
_BIT_OPS = ("SignConv", "BinaryConv", "BinaryConvAdd", "BinaryConvOfSigns")


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint or an .onnx file.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="Another one, to show side by side.")
    ] = None,
    family: choices.Family = None,
    arch: choices.Arch = None,
    input_size: choices.InputSize = None,
    weights: choices.Weights = choices.PrecisionChoice.auto,
    activations: choices.Activations = choices.PrecisionChoice.auto,
    html: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write a page with plots, too.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a model's layers: how each weight is stored, how large it is, what it costs.

    MACs are multiply-accumulates for one image, BOPs those on single bits. With two files, show
    what differs between their layers.

    Example: bitexport inspect model.onnx
    """
    del debug
    from bitexport.files import check_writable
    from bitexport.inspection import inspect_file

    load = choices.load_options(family, arch, weights, activations)
    paths = [file] if other is None else [file, other]
    if html is not None:
        for path in paths:
            check_writable(html, source=path)
    shown = []
    for path in paths:
        with progress(f"reading {path}"):
            shown.append(inspect_file(path, load, choices.parse_input_size(input_size)))
        for note in shown[-1].notes:
            say(f"note: {note}" if other is None else f"note: {path}: {note}")
    if html is not None:
        _write_page(html, paths, shown)
    if json:
        print_json(_as_json(*shown) if other is None else difference_as_json(*shown))
    elif other is None:
        _print(*shown)
    else:
        print_difference(*shown)


def _write_page(html: Path, paths: list[Path], shown: list[Inspection]) -> None:
    from bitexport.bench.sizes_page import sizes_page
    from bitexport.files import write_atomically

    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    write_atomically(
        html, sizes_page(dict(zip(names, shown, strict=True))).encode(errors="replace")
    )


def _as_json(found: Inspection) -> dict[str, Any]:
    from bitexport.inspection import size_by_kind

    return {
        "kind": found.kind,
        "family": found.family,
        "arch": found.arch,
        "bytes": found.bytes,
        "fp32_bytes": found.fp32_bytes,
        "compression": found.fp32_bytes / found.bytes,
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "shape": list(layer.weight_shape),
                "bits_per_weight": layer.bits_per_weight,
                "weights": layer.weights,
                "bytes": layer.stored_bytes,
                "macs": 0 if layer.binary_activations else layer.macs,
                "bops": layer.macs if layer.binary_activations else 0,
                "zero_weights": found.zero_weights.get(layer.name, 0),
                "dense_reason": found.dense_reasons.get(layer.name) if layer.dense else None,
            }
            for layer in found.layers
        ],
        "kinds": [asdict(size) for size in size_by_kind(found)],
        "totals": _totals(found),
        "metadata": dict(found.metadata),
        "notes": list(found.notes),
    }


def _totals(found: Inspection) -> dict[str, int]:
    return {
        "weights": sum(layer.weights for layer in found.layers),
        "bytes": sum(layer.stored_bytes for layer in found.layers),
        "macs": sum(layer.macs or 0 for layer in found.layers if not layer.binary_activations),
        "bops": sum(layer.macs or 0 for layer in found.layers if layer.binary_activations),
    }


def _print(found: Inspection) -> None:
    from bitexport.bench.wording import compression

    title = f"{found.arch} ({found.family})" if found.family else "a foreign ONNX model"
    show(f"{title}, {size(found.bytes)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("layer", "op", "shape"):
        table.add_column(column, no_wrap=True)
    for column in ("bits", "bytes", "MACs", "BOPs"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in found.layers:
        macs, bops = (None, layer.macs) if layer.binary_activations else (layer.macs, None)
        table.add_row(
            escape(printable(layer.name)),
            escape(printable(layer.op)),
            "x".join(map(str, layer.weight_shape)),
            f"{layer.bits_per_weight:.2f}",
            f"{layer.stored_bytes:,}",
            _millions(macs),
            _millions(bops),
        )
    stdout.print(table)
    stdout.print()
    _print_kinds(found)
    totals = _totals(found)
    lines = [
        *_origin(found.metadata),
        f"{totals['weights']:,} weights, {_millions(totals['macs'])} MACs, "
        f"{_millions(totals['bops'])} BOPs",
        compression(found.bytes, found.fp32_bytes),
        *(
            f"{layer.name} stayed dense: {found.dense_reasons[layer.name]}"
            for layer in found.layers
            if layer.dense and layer.name in found.dense_reasons
        ),
    ]
    if any(layer.op in _BIT_OPS and layer.bits_per_weight > 1 for layer in found.layers):
        lines.append(
            "more than 1 bit a weight: input channels fill words of 32 bits, and filters with "
            "weights of exactly 0 are stored twice"
        )
    unknown = sum(layer.macs is None for layer in found.layers)
    if unknown:
        lines.insert(1, f"not counted: the work of {unknown} layers that depends on the image")
    for line in lines:
        show(line)


def _origin(metadata: Mapping[str, object]) -> list[str]:
    """What an exported file says about how it was made."""
    version, source, options = (
        str(metadata.get(f"bitexport.{key}", "")) for key in ("version", "source_sha256", "options")
    )
    if not version:
        return []
    made = f"made by bitexport {version}"
    made += f" from a file of SHA-256 {source}" if source else ""
    return [f"{made}, options {options}" if options not in ("", "{}") else made]


def _print_kinds(found: Inspection) -> None:
    from bitexport.inspection import size_by_kind

    kinds = size_by_kind(found)
    whole = max(1, sum(kind.bytes for kind in kinds))
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stored as", no_wrap=True)
    for column in ("layers", "weights", "bytes", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for kind in kinds:
        share = kind.bytes / whole
        table.add_row(
            escape(printable(kind.kind)),
            str(kind.layers or ""),
            f"{kind.weights:,}" if kind.weights else "",
            f"{kind.bytes:,}",
            f"{share:.1%}",
            Bar(1, 0, share, width=_BAR_WIDTH),
        )
    stdout.print(table)


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}M"
