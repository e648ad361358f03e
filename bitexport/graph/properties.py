"""What a file says of itself: the properties that an export writes, and their way back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import onnx_ir as ir

from bitexport import __version__
from bitexport.graph.layers import LayerInfo

__all__ = ["Origin", "record_of", "write_origin"]


@dataclass(frozen=True)
class Origin:
    """Where a file came from; no time and no paths, so that its bytes repeat.

    Attributes:
        family: Of the checkpoint.
        arch: Within the family.
        options: Those of the export that were not the usual ones, by name.
        source_sha256: Of the checkpoint; "" for a torch model.
        dense_reasons: Layer -> why its weight stayed dense.
        zero_weights: Layer -> weights of exactly 0 in 1-bit layers.
        preprocessing: How images were prepared in training.
        layers: As they are stored, where the graph will not show it.
    """

    family: str
    arch: str
    options: Mapping[str, object]
    source_sha256: str
    dense_reasons: Mapping[str, str] = field(default_factory=dict)
    zero_weights: Mapping[str, int] = field(default_factory=dict)
    preprocessing: str = ""
    layers: Sequence[LayerInfo] = ()


def write_origin(model: ir.Model, origin: Origin) -> None:
    """Write it into a graph's properties."""
    properties = {
        "version": __version__,
        "family": origin.family,
        "arch": origin.arch,
        "options": json.dumps(dict(origin.options), sort_keys=True),
    }
    if origin.source_sha256:
        properties["source_sha256"] = origin.source_sha256
    if origin.preprocessing:
        properties["preprocessing"] = origin.preprocessing
    if origin.dense_reasons:
        properties["dense"] = json.dumps(dict(origin.dense_reasons), sort_keys=True)
    if origin.zero_weights:
        properties["zero_weights"] = json.dumps(dict(origin.zero_weights), sort_keys=True)
    if origin.layers:
        properties["layers"] = json.dumps([*map(asdict, origin.layers)], sort_keys=True)
    model.metadata_props.update({f"bitexport.{key}": text for key, text in properties.items()})


def record_of(properties: Mapping[str, str], key: str) -> dict[str, object]:
    """A JSON object among a file's properties; anything else counts as empty."""
    try:
        record = json.loads(properties.get(f"bitexport.{key}", "{}"))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
