"""The form of a model that engine builders are given.

    file -> [float16] -> fresh functions, or functions inlined -> ModelProto

Functions that came with a file are replaced by our own: a stranger's body could compute anything.
Inlined, they need not measure which attributes a parser ignores (``ops/bodies.py``), which makes
engines smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import (
    DeduplicateInitializersPass,
    InlinePass,
    RemoveUnusedNodesPass,
    TopologicalSortPass,
)

from bitexport.errors import UnsupportedModel
from bitexport.graph.lowering import computes_in_float16
from bitexport.graph.passes.attach_functions import attach_functions
from bitexport.graph.passes.to_float16 import to_float16
from bitexport.ops.bodies import OPSET
from bitexport.ops.table import DOMAIN

__all__ = ["ImageInput", "engine_form", "image_input"]

_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class ImageInput:
    """The one input of an image classifier.

    Attributes:
        name: Of the input.
        shape: [N, C, H, W]; N is None where it is free.
    """

    name: str
    shape: tuple[int | None, int, int, int]


def image_input(model: ir.Model, where: object) -> ImageInput:
    """The input of a model that takes images.

    Raises:
        UnsupportedModel: It takes anything else.
    """
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    if len(inputs) < len(model.graph.inputs) and len(model.graph.outputs) > 1:
        raise UnsupportedModel(
            f"{where}: a whole detector",
            got="proposals and non-maximum suppression, whose shapes depend on the data",
            expected="a network that TensorRT's parser takes; it refuses NonZero, for one",
            fix="Build an engine of the backbone: `bitexport onnx CKPT --arch "
            "maskrcnn_resnet50_fpn_backbone`, then `bitexport trt`.",
        )
    shape = inputs[0].shape if len(inputs) == 1 else None
    if shape is None or len(shape) != 4 or inputs[0].dtype != ir.DataType.FLOAT:
        raise _no_classifier(where, f"{len(inputs)} inputs, the first of shape {shape}")
    batch, *image = (dim if isinstance(dim, int) and dim > 0 else None for dim in shape)
    channels, height, width = (n or 0 for n in image)
    if 0 in (channels, height, width):
        raise _no_classifier(where, f"an input of shape {shape}")
    return ImageInput(inputs[0].name or "", (batch, channels, height, width))


def engine_form(model: ir.Model, where: object, *, float16: bool, inlined: bool) -> bytes:
    """Prepare a model for an engine builder.

    Args:
        model: Changed in place; value types should have been inferred.
        where: Its file, for messages.
        float16: Compute in float16 behind a float32 input and output.
        inlined: Replace the custom ops by their bodies.

    Returns:
        ModelProto bytes; the same for the same model and options.

    Raises:
        UnsupportedModel: The model has ops of other domains, or does not fit float16.
    """
    custom = _has_custom_ops(model, where)
    if float16 and not computes_in_float16(model):
        to_float16(model)
    model.functions.clear()
    if custom:
        attach_functions(model, inlined=inlined)
        if inlined:
            InlinePass()(model)
            model.graph.opset_imports.pop(DOMAIN, None)
            DeduplicateInitializersPass()(model)
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _has_custom_ops(model: ir.Model, where: object) -> bool:
    domains = {node.domain for node in ir.traversal.RecursiveGraphIterator(model.graph)}
    foreign = sorted(domains - {*_STANDARD, DOMAIN})
    if foreign:
        raise UnsupportedModel(
            f"{where}: ops of other domains",
            got=", ".join(foreign),
            expected=f"standard operators and those of the domain {DOMAIN}",
            fix="Turn a QONNX file into one of ours first, with `bitexport onnx`.",
        )
    opset = model.graph.opset_imports.get("", OPSET)
    if DOMAIN in domains and opset != OPSET:
        raise UnsupportedModel(
            f"{where}: our ops beside another version of the standard operators",
            got=f"opset {opset}",
            expected=f"opset {OPSET}",
            fix="Export the model again with `bitexport onnx`.",
        )
    return DOMAIN in domains


def _no_classifier(where: object, got: object) -> UnsupportedModel:
    return UnsupportedModel(
        f"{where}: not a model of images",
        got=got,
        expected="one float32 input [N, C, H, W] with C, H and W fixed",
        fix="Export the model with `bitexport onnx`.",
    )
