"""From the user's file to the ONNX model that an engine builder is given."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitexport.engines.request import EngineRequest
from bitexport.exporter import export
from bitexport.graph import ImageInput, LayerInfo, computes_in_float16, engine_form, image_input
from bitexport.graph.passes.chain_signs import unchain_signs
from bitexport.graph.read import checked_layers, read_onnx, refusing_malformed
from bitexport.runtimes import without_functions

__all__ = ["PreparedModel", "file_record", "is_onnx", "prepare"]

_ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True)
class PreparedModel:
    """An ONNX model as an engine builder is given it.

    Attributes:
        data: ModelProto bytes.
        family: Empty for a foreign model.
        arch: Empty for a foreign model.
        precision: "float32" or "float16".
        input: The image input.
        outputs: Names of the outputs.
        layers: As they are stored.
        plugin_nodes: Custom node that a plugin will run -> op_type.
        source: Path, bytes and SHA-256 of the user's file.
        notes: What was assumed or left undone.
        unchained: The source had chains of binary convolutions, which were taken apart.
    """

    data: bytes
    family: str
    arch: str
    precision: str
    input: ImageInput
    outputs: tuple[str, ...]
    layers: tuple[LayerInfo, ...]
    plugin_nodes: Mapping[str, str]
    source: Mapping[str, Any]
    notes: tuple[str, ...]
    unchained: bool

    def batches(self, request: EngineRequest) -> tuple[int, int, int]:
        """(smallest, usual, largest): the request's, unless the model has its own."""
        fixed = self.input.shape[0]
        return request.batches() if fixed is None else (fixed, fixed, fixed)


def prepare(source: Path, request: EngineRequest, *, plugins: bool) -> PreparedModel:
    """Read, or export, the source and put it into the form for a builder.

    Args:
        source: An .onnx file by its suffix, or a checkpoint.
        request: What engine is wanted.
        plugins: Whether plugins will run the custom ops; otherwise their bodies are inlined.
    """
    if is_onnx(source):
        return _prepared(source, source, request, plugins, ())
    with tempfile.TemporaryDirectory(prefix="bitexport-") as folder:
        path = Path(folder) / "model.onnx"
        report = export(source, path=path, options=replace(request.export, float16=request.float16))
        return _prepared(source, path, request, plugins, report.notes)


def _prepared(
    source: Path, path: Path, request: EngineRequest, plugins: bool, notes: tuple[str, ...]
) -> PreparedModel:
    graph, data = read_onnx(path, strict=True)
    with refusing_malformed(source):
        # Plugins know no chains.
        chained = unchain_signs(graph)
    layers = tuple(checked_layers(graph, source))
    image = image_input(graph, source)
    batch = image.shape[0]
    if batch is not None and request.batches() != (batch, batch, batch):
        notes = (*notes, f"the model's batch is fixed at {batch}; the batch options do nothing")
    if request.float16 and computes_in_float16(graph) and path == source:
        notes = (*notes, "the model computes in float16 already")
    properties = graph.metadata_props
    with refusing_malformed(source):
        form = engine_form(graph, source, float16=request.float16, inlined=not plugins)
    stripped = without_functions(form)
    return PreparedModel(
        data=stripped.data,
        family=properties.get("bitexport.family", ""),
        arch=properties.get("bitexport.arch", ""),
        precision="float16" if computes_in_float16(graph) else "float32",
        input=image,
        outputs=tuple(str(value.name) for value in graph.graph.outputs),
        layers=layers,
        plugin_nodes=stripped.nodes,
        source=file_record(source, data if path == source else source.read_bytes()),
        notes=notes,
        unchained=chained,
    )


def is_onnx(source: Path) -> bool:
    """Whether a file is an ONNX model, by its suffix."""
    return source.suffix.lower() == _ONNX_SUFFIX


def file_record(path: Path, data: bytes) -> dict[str, Any]:
    """What identifies a file: path, bytes and SHA-256."""
    return {
        "path": str(path),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
