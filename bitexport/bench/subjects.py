"""What is measured: a checkpoint or an .onnx file, ready to run, and its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from bitexport.checkpoint import read_checkpoint
from bitexport.errors import InputError, RuntimeFailure, UnsupportedModel
from bitexport.exporter import ExportOptions, lowered_model
from bitexport.families import load_model
from bitexport.graph import LayerInfo, computes_in_float16
from bitexport.graph.read import checked_layers, read_onnx

__all__ = ["Subject", "read_subject"]

_ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
_DEFAULT_SIZE = 224


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
        layers: As they are stored.
    """

    name: str
    graph: ir.Model
    data: bytes
    precision: str
    input_name: str
    output_name: str
    input_shape: tuple[int, int, int]
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
        InputError: The file cannot be read.
        UnsupportedModel: It is a checkpoint of no known model, or no image classifier.
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
    inputs, outputs = graph.graph.inputs, graph.graph.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{path}: not an image classifier",
            got=f"{len(inputs)} inputs and {len(outputs)} outputs",
            expected="one of each",
            fix="Give a model that `bitexport onnx` wrote.",
        )
    return Subject(
        name=path.name,
        graph=graph,
        data=data,
        precision=_precision(graph, layers),
        input_name=inputs[0].name or "",
        output_name=outputs[0].name or "",
        input_shape=_input_shape(path, inputs[0], options.input_size),
        layers=layers,
    )


def _input_shape(path: Path, value: ir.Value, size: tuple[int, int] | None) -> tuple[int, int, int]:
    shape = value.shape
    if shape is None or len(shape) != 4:
        raise UnsupportedModel(
            f"{path}: the input is no image",
            got=None if shape is None else [str(n) for n in shape],
            expected="[N, C, H, W]",
            fix="Give a model that `bitexport onnx` wrote.",
        )
    usual = (3, *(size or (_DEFAULT_SIZE, _DEFAULT_SIZE)))
    channels, height, width = (
        n if isinstance(n, int) else other for n, other in zip(shape[1:], usual, strict=True)
    )
    return channels, height, width


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
