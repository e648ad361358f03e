"""What models hold and cost, layer by layer, as one HTML page with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from bitexport.bench.charts import Bar, Segment, bars, stacked_bars
from bitexport.bench.page import legend, listing, page
from bitexport.bench.wording import compression, size
from bitexport.graph import LayerInfo
from bitexport.inspection import Inspection, size_by_kind

__all__ = ["sizes_page"]


def sizes_page(files: Mapping[str, Inspection]) -> str:
    """The page.

    Args:
        files: Name of each file -> what is in it.
    """
    kinds = list(dict.fromkeys(k.kind for each in files.values() for k in size_by_kind(each)))
    body = [
        f"<h1>{escape(' and '.join(files))}</h1>",
        listing([_headline(name, found) for name, found in files.items()], "headline"),
        "<h2>What the bytes are spent on</h2>",
        stacked_bars([_spent(name, found, kinds) for name, found in files.items()]),
        legend([(kind, index) for index, kind in enumerate(kinds)]),
    ]
    for name, found in files.items():
        where = f" of {escape(name)}" if len(files) > 1 else ""
        body += [
            f"<h2>Bytes of the layers{where}</h2>",
            bars([_bytes(layer, kinds) for layer in found.layers]),
            *_operations(f"Operations of the layers{where}", found.layers, kinds),
        ]
    return page(f"bitexport: {', '.join(files)}", body)


def _headline(name: str, found: Inspection) -> str:
    model = f"{found.arch} ({found.family})" if found.family else "a foreign ONNX model"
    return f"{name}: {model}, {size(found.bytes)}, {compression(found.bytes, found.fp32_bytes)}"


def _spent(name: str, found: Inspection, kinds: list[str]) -> tuple[str, str, list[Segment]]:
    spent = size_by_kind(found)
    segments = [Segment(k.kind, k.bytes, size(k.bytes), kinds.index(k.kind)) for k in spent]
    return name, size(sum(k.bytes for k in spent)), segments


def _bytes(layer: LayerInfo, kinds: list[str]) -> Bar:
    text = f"{size(layer.stored_bytes)}, {layer.bits_per_weight:.2f} bits a weight"
    return Bar(layer.name, layer.stored_bytes, text, kinds.index(layer.op))


def _operations(title: str, layers: Sequence[LayerInfo], kinds: list[str]) -> list[str]:
    """Multiply-accumulates, for one sample; nothing where no shape is known."""
    known = [layer for layer in layers if layer.macs is not None]
    rows = [
        Bar(
            layer.name,
            float(layer.macs or 0),
            f"{(layer.macs or 0) / 1e6:.1f}M {'BOPs' if layer.binary_activations else 'MACs'}",
            kinds.index(layer.op),
        )
        for layer in known
    ]
    return [f"<h2>{title}</h2>", bars(rows)] if rows else []
