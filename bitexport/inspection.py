"""What a checkpoint or an .onnx file holds, layer by layer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bitexport.checkpoint import read_checkpoint
from bitexport.export_options import ExportOptions
from bitexport.exporter import lowered_model
from bitexport.families import LoadOptions, load_model
from bitexport.graph import LayerInfo
from bitexport.graph.properties import record_of
from bitexport.graph.read import checked_layers, read_onnx
from bitexport.layers import float32_bytes

__all__ = ["Inspection", "KindSize", "LayerPair", "inspect_file", "pair_layers", "size_by_kind"]

_ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True)
class Inspection:
    """A file's contents.

    Attributes:
        kind: "checkpoint" or "onnx".
        family: Empty for a foreign .onnx.
        arch: Empty for a foreign .onnx.
        bytes: Size of the file.
        fp32_bytes: Size of all weights in float32; for an .onnx without its BatchNorms.
        layers: In the order of execution; a checkpoint's as they would be exported.
        zero_weights: Layer -> weights of exactly 0 in 1-bit layers.
        dense_reasons: Layer -> why its weight stayed dense.
        metadata: Properties of the file.
        notes: What was assumed because the file does not say.
    """

    kind: str
    family: str
    arch: str
    bytes: int
    fp32_bytes: int
    layers: tuple[LayerInfo, ...]
    zero_weights: Mapping[str, int] = field(default_factory=dict)
    dense_reasons: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KindSize:
    """All layers that are stored one way, or everything that belongs to no layer.

    Attributes:
        kind: The op, or "the rest": the graph, affines, names.
        layers: How many there are.
        weights: Their weights.
        bytes: Their constants.
    """

    kind: str
    layers: int
    weights: int
    bytes: int


@dataclass(frozen=True)
class LayerPair:
    """One layer in two files; None where a file lacks it."""

    name: str
    first: LayerInfo | None
    second: LayerInfo | None


def size_by_kind(found: Inspection) -> list[KindSize]:
    """What the bytes of an .onnx file, or of the one a checkpoint would become, are spent on.

    The largest first. Only a file that lies there has a rest.
    """
    kinds: dict[str, list[LayerInfo]] = {}
    for layer in found.layers:
        kinds.setdefault(layer.op, []).append(layer)
    sizes = [
        KindSize(
            kind, len(layers), sum(x.weights for x in layers), sum(x.stored_bytes for x in layers)
        )
        for kind, layers in kinds.items()
    ]
    rest = found.bytes - sum(size.bytes for size in sizes)
    if found.kind == "onnx" and rest > 0:
        sizes.append(KindSize("the rest", 0, 0, rest))
    return sorted(sizes, key=lambda size: -size.bytes)


def pair_layers(first: Inspection, second: Inspection) -> list[LayerPair]:
    """The layers of two files by name: in the first's order, then those only the second has."""
    ones, twos = map(_by_name, (first, second))
    return [LayerPair(key[0], ones.get(key), twos.get(key)) for key in {**ones, **twos}]


def _by_name(found: Inspection) -> dict[tuple[str, int], LayerInfo]:
    """Layers by name and by which of that name they are: foreign files may repeat one."""
    layers: dict[tuple[str, int], LayerInfo] = {}
    seen: Counter[str] = Counter()
    for layer in found.layers:
        layers[layer.name, seen[layer.name]] = layer
        seen[layer.name] += 1
    return layers


def inspect_file(path: Path, load: LoadOptions, input_size: tuple[int, int] | None) -> Inspection:
    """Inspect a checkpoint, or an .onnx by its suffix.

    Raises:
        InputError: The file cannot be read.
        UnsupportedModel: It is a checkpoint of no known model.
    """
    if path.suffix.lower() == _ONNX_SUFFIX:
        return _inspect_onnx(path)
    return _inspect_checkpoint(path, load, input_size)


def _inspect_checkpoint(
    path: Path, load: LoadOptions, input_size: tuple[int, int] | None
) -> Inspection:
    checkpoint = read_checkpoint(path)
    model = load_model(checkpoint, load)
    lowered = lowered_model(model, ExportOptions(load=load, input_size=input_size))
    return Inspection(
        kind="checkpoint",
        family=model.family,
        arch=model.arch,
        bytes=checkpoint.size,
        fp32_bytes=float32_bytes(model.module),
        layers=lowered.layers,
        zero_weights=lowered.zero_weights,
        dense_reasons=model.dense_reasons,
        metadata={**checkpoint.metadata, "container": checkpoint.container},
        notes=model.notes,
    )


def _inspect_onnx(path: Path) -> Inspection:
    model, data = read_onnx(path)
    layers = tuple(checked_layers(model, path))
    properties = model.metadata_props
    if "bitexport.layers" in properties:
        layers = _written_layers(properties) or layers
    return Inspection(
        kind="onnx",
        family=properties.get("bitexport.family", ""),
        arch=properties.get("bitexport.arch", ""),
        bytes=len(data),
        fp32_bytes=4 * sum(layer.weights for layer in layers),
        layers=layers,
        zero_weights={
            k: int(v)
            for k, v in record_of(properties, "zero_weights").items()
            if isinstance(v, int)
        },
        dense_reasons={k: str(v) for k, v in record_of(properties, "dense").items()},
        metadata=dict(properties),
    )


def _written_layers(properties: Mapping[str, str]) -> tuple[LayerInfo, ...]:
    """The layers that a plain export wrote down, as its graph does not show them any more."""
    try:
        rows = json.loads(properties["bitexport.layers"])
        return tuple(
            LayerInfo(
                name=str(row["name"]),
                op=str(row["op"]),
                weight_shape=tuple(int(n) for n in row["weight_shape"]),
                stored_bytes=int(row["stored_bytes"]),
                bits_per_weight=float(row["bits_per_weight"]),
                macs=None if row["macs"] is None else int(row["macs"]),
                binary_activations=bool(row["binary_activations"]),
            )
            for row in rows
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ()
