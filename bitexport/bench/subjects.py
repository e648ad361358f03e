"""What is measured: a checkpoint or an .onnx file, ready to run, and its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from bitexport.checkpoint import read_checkpoint
from bitexport.errors import RuntimeFailure
from bitexport.exporter import ExportOptions, lowered_model
from bitexport.families import load_model
from bitexport.graph import LayerInfo, computes_in_float16
from bitexport.graph.read import checked_layers, classifier_of, read_onnx

__all__ = ["Subject", "read_subject"]

_ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class Subject:
    """A model that is to be measured.

    Attributes:
        name: The file's name.
        graph: Its graph; never changed, twins are made from a copy.
        data: Serialized ModelProto.
        precision: "1-bit weights", "1-bit", "codebook", "fp32" or "fp16".
        input_name: Its only input.
        output_name: Its only output.
        input_shape: (C, H, W).
        preprocessing: JSON: what its training did to a pixel; "" where the file does not say.
        layers: As they are stored.
    """

    name: str
    graph: ir.Model
    data: bytes
    precision: str
    input_name: str
    output_name: str
    input_shape: tuple[int, int, int]
    preprocessing: str
    layers: tuple[LayerInfo, ...]

    def sizes(self) -> Mapping[str, int]:
        """Kind of content -> bytes in the file; they sum up to the file."""
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
    """Open an .onnx file by its suffix, or export a checkpoint in memory.

    Args:
        path: The file.
        options: How a checkpoint is to be exported; nothing is verified here.

    Raises:
        InputError: The file cannot be read, or is no image classifier.
        UnsupportedModel: It is a checkpoint of no known model.
        RuntimeFailure: It is an engine, and nothing here runs engines.
    """
    suffix = path.suffix.lower()
    if suffix in _ENGINE_SUFFIXES:
        raise RuntimeFailure(
            f"{path}: no runtime here runs engines",
            got="an engine file",
            expected="a GPU with TensorRT, or an .onnx file or a checkpoint",
            fix="Give the .onnx file that the engine was built from.",
        )
    if suffix == ".onnx":
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
    )


def _precision(graph: ir.Model, layers: tuple[LayerInfo, ...]) -> str:
    ops = {layer.op for layer in layers}
    half = " fp16" if computes_in_float16(graph) else ""
    if any(op.startswith("BinaryConv") for op in ops) or any(x.binary_activations for x in layers):
        return f"1-bit{half}"
    if "SignConv" in ops:
        return f"1-bit weights{half}"
    if any(op.startswith("Codebook") for op in ops):
        return f"codebook{half}"
    if "bitexport.layers" in graph.metadata_props:
        return f"plain{half}"
    return half.strip() or "fp32"
