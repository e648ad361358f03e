"""What is measured: a checkpoint, an .onnx file or an engine, ready to run, and its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from bitexport.bench.record import ENGINE_PART
from bitexport.checkpoint import read_checkpoint
from bitexport.engines import EngineFile, is_engine, read_engine
from bitexport.errors import BitexportError
from bitexport.export_options import ExportOptions
from bitexport.exporter import lowered_model
from bitexport.families import load_model
from bitexport.graph import LayerInfo, computes_in_float16
from bitexport.graph.read import checked_layers, classifier_of, read_onnx

__all__ = ["Subject", "read_subject"]

_DENSE, _HALF = "fp32", "fp16"
# Prefix of an op_type -> what a model with such a layer is called; the first that fits.
_KINDS = {"BinaryConv": "1-bit", "SignConv": "1-bit weights", "Codebook": "codebook"}


@dataclass(frozen=True)
class Subject:
    """A model that is to be measured.

    Attributes:
        name: The file's name.
        graph: Its graph; never changed, twins are made from a copy. That of an engine's source;
            None where it is not at hand.
        data: Serialized ModelProto, or engine.
        precision: "1-bit weights", "1-bit", "codebook", "fp32" or "fp16".
        input_name: Its only input.
        output_name: Its only output.
        input_shape: (C, H, W).
        preprocessing: JSON: what its training did to a pixel; "" where the file does not say.
        layers: As they are stored.
        fixed_batch: The only batch size that an .onnx file takes; None for any.
        engine: What it is where it is an engine.
        without_twins: Why an engine has no twins.
    """

    name: str
    graph: ir.Model | None
    data: bytes
    precision: str
    input_name: str
    output_name: str
    input_shape: tuple[int, int, int]
    preprocessing: str
    layers: tuple[LayerInfo, ...]
    fixed_batch: int | None = None
    engine: EngineFile | None = None
    without_twins: str = ""

    def sizes(self) -> Mapping[str, int]:
        """Kind of content -> bytes in the file; they sum up to the file."""
        if self.engine is not None or self.graph is None:
            return {ENGINE_PART: len(self.data)}
        kinds: dict[str, int] = {}
        for layer in self.layers:
            kinds[layer.op] = kinds.get(layer.op, 0) + layer.stored_bytes
        shared = sum(
            v.const_value.nbytes
            for v in self.graph.graph.initializers.values()
            if v.const_value is not None
        ) - sum(kinds.values())
        if shared > 0:
            kinds["other constants"] = shared
        rest = len(self.data) - sum(kinds.values())
        if rest > 0:
            kinds["graph and function bodies"] = rest
        return dict(sorted(kinds.items(), key=lambda kind: -kind[1]))


def read_subject(path: Path, options: ExportOptions) -> Subject:
    """Open an .onnx file or an engine by its suffix, or export a checkpoint in memory.

    Args:
        path: The file.
        options: How a checkpoint is to be exported; nothing is verified here.

    Raises:
        InputError: The file cannot be read, is no image classifier, or is an engine that does not
            fit its description.
        UnsupportedModel: It is a checkpoint of no known model.
    """
    if is_engine(path):
        return _engine_subject(path, options)
    if path.suffix.lower() == ".onnx":
        graph, data = read_onnx(path)
        layers = tuple(checked_layers(graph, path))
    else:
        model = load_model(read_checkpoint(path), options.load)
        lowered = lowered_model(model, options)
        graph, layers = lowered.graph, lowered.layers
        data = ir.to_proto(graph).SerializeToString(deterministic=True)
    classifier = classifier_of(path, graph, data, options.input_size)
    return Subject(
        name=path.name,
        graph=graph,
        data=data,
        precision=_precision(graph, layers),
        input_name=classifier.input_name,
        output_name=classifier.output_name,
        input_shape=classifier.input_shape,
        preprocessing=classifier.preprocessing,
        layers=layers,
        fixed_batch=classifier.fixed_batch,
    )


def _engine_subject(path: Path, options: ExportOptions) -> Subject:
    """An engine, with the graph of the file that it was built from to make twins of."""
    engine = read_engine(path)
    source: Subject | None = None
    without = f"{engine.source_name}, which it was built from, is gone or has changed"
    if engine.source is not None:
        try:
            source = read_subject(engine.source, options)
        except BitexportError as error:
            without = str(error)
    half = engine.precision == "float16"
    return Subject(
        name=path.name,
        graph=None if source is None else source.graph,
        data=engine.engine.data,
        precision=_kind(engine.ops, half) if source is None else _as_built(source.precision, half),
        input_name=engine.input_name,
        output_name=engine.output_name,
        input_shape=engine.input_shape,
        preprocessing="" if source is None else source.preprocessing,
        layers=() if source is None else source.layers,
        engine=engine,
        without_twins="" if source is not None else without,
    )


def _precision(graph: ir.Model, layers: tuple[LayerInfo, ...]) -> str:
    half = computes_in_float16(graph)
    if any(layer.binary_activations for layer in layers):
        return _labelled("1-bit", half)
    kind = _kind([layer.op for layer in layers], half)
    plain = "bitexport.layers" in graph.metadata_props and kind in (_DENSE, _HALF)
    return _labelled("plain", half) if plain else kind


def _kind(ops: Sequence[str], half: bool) -> str:
    for prefix, kind in _KINDS.items():
        if any(op.startswith(prefix) for op in ops):
            return _labelled(kind, half)
    return _HALF if half else _DENSE


def _labelled(kind: str, half: bool) -> str:
    return f"{kind} {_HALF}" if half else kind


def _as_built(precision: str, half: bool) -> str:
    """The precision of an engine, whose builder may have been told to compute in float16."""
    if not half or precision.endswith(_HALF):
        return precision
    return _HALF if precision == _DENSE else _labelled(precision, half)
