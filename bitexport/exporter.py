"""The main road: checkpoint or torch model in, verified ONNX file out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import Tensor, nn

from bitexport.checkpoint import read_checkpoint
from bitexport.comparison import (
    Comparison,
    ReferenceRun,
    Tolerance,
    compare_bits,
    compare_outputs,
    first_divergence,
    reference_run,
    refuse_overflow,
    sample_input,
    zero_activation_shares,
)
from bitexport.errors import ComparisonFailure, InputError, UnsupportedModel
from bitexport.export_options import ExportOptions, asked_options
from bitexport.families import LoadedModel, load_model
from bitexport.families.own import OWN_FAMILY, image_size, own_model
from bitexport.files import check_writable, write_atomically
from bitexport.graph import (
    Captured,
    LayerInfo,
    LoweringOptions,
    Record,
    capture,
    capture_traced,
    finish_traced,
    lower,
)
from bitexport.graph.properties import Origin, write_origin
from bitexport.layers import evaluating, float32_bytes, ones_for_zeros, rounded_to_int8
from bitexport.models.mask_rcnn import SCORE_THRESHOLD, Detector
from bitexport.runtimes import runtime_named

__all__ = [
    "ExportReport",
    "LoweredModel",
    "default_output",
    "export",
    "lowered_model",
]

FloatArray = npt.NDArray[np.float32]

_SYSTEMATIC_ZEROS = 1e-4
_ALIKE = 1e-2  # of single detections 10 times as much
_DIFFERS = "Nothing was written; --no-verify writes it all the same. Please report this."
_OWN_DIFFERS = (
    "Nothing was written. Check that the spec of the layer there, or in front of it, says what "
    "its forward computes: signs, scale, pads, threshold, zero_at_threshold."
)
_SUFFIXES = (".tar", ".pth", ".pt", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        family: Family of the checkpoint, or "module" for a torch model.
        arch: Architecture within the family.
        output: The written file.
        bytes: Its size.
        source_bytes: Size of the checkpoint; 0 for a torch model.
        fp32_bytes: Size of all weights and BatchNorm statistics in float32.
        layers: The layers as they are stored.
        zero_weights: Layer -> weights of exactly 0 in the 1-bit layers that have some.
        dense_reasons: Layer -> why its weight stayed dense.
        records: What each pass did, and what it left alone and why.
        notes: What was assumed because the file does not say.
        verify: The comparison with the torch reference, whose dense weights are rounded where that
            was asked for; None if it was not asked for.
        rounding: What that rounding does to the reference's outputs; None where nothing is
            rounded, or compared. Of a detector, a detection is found again where its box, score
            and mask are each within a tenth.
        seconds: Wall time.
    """

    family: str
    arch: str
    output: Path
    bytes: int
    source_bytes: int
    fp32_bytes: int
    layers: tuple[LayerInfo, ...]
    zero_weights: Mapping[str, int]
    dense_reasons: Mapping[str, str]
    records: tuple[Record, ...]
    notes: tuple[str, ...]
    verify: Comparison | None
    rounding: Comparison | None
    seconds: float


@dataclass(frozen=True)
class LoweredModel:
    """A model on its way out: the graph, and what the passes reported."""

    graph: ir.Model
    layers: tuple[LayerInfo, ...]
    records: tuple[Record, ...]
    zero_weights: Mapping[str, int]


def export(
    source: str | Path | nn.Module,
    example_input: Tensor | None = None,
    path: str | Path | None = None,
    *,
    options: ExportOptions | None = None,
) -> ExportReport:
    """Export a checkpoint or a torch model to one ONNX file.

    Args:
        source: Path of a checkpoint, or a model whose quantized layers are known to
            :func:`bitexport.register_layer`. It is exported in evaluation mode and left in
            the modes that its layers were in.
        example_input: float32 [N, C, H, W]; needed for a model, and overrides the input size
            for a checkpoint.
        path: The file to write; by default the checkpoint's name with ``.onnx``, in the
            current folder.
        options: See :class:`ExportOptions`.

    Returns:
        What was written, and how it compares with the torch reference.

    Raises:
        InputError: The checkpoint cannot be read, or the output not written, or the source is
            neither.
        UnsupportedModel: The model cannot be exported exactly.
        ComparisonFailure: The result differs from the torch reference; nothing is written.
    """
    if isinstance(source, nn.Module):
        with evaluating(source):
            return _export(source, example_input, path, options or ExportOptions())
    if not isinstance(source, str | os.PathLike):
        raise _no_source(source)
    return _export(source, example_input, path, options or ExportOptions())


def _export(
    source: str | Path | nn.Module,
    example_input: Tensor | None,
    path: str | Path | None,
    options: ExportOptions,
) -> ExportReport:
    started = time.perf_counter()
    if example_input is not None:
        options = replace(options, input_size=image_size(example_input))
    if isinstance(source, nn.Module):
        checkpoint, output = None, _required_path(path)
        check_writable(output)
        model = own_model(source, example_input)
    else:
        output = Path(path) if path is not None else default_output(Path(source))
        check_writable(output, source=Path(source))
        checkpoint = read_checkpoint(source)
        model = load_model(checkpoint, options.load)
    exact = model
    if options.dense_weights == "int8":
        model = replace(model, module=rounded_to_int8(model.module))
    lowered = lowered_model(model, options)
    origin = Origin(
        family=model.family,
        arch=model.arch,
        options=asked_options(options),
        source_sha256="" if checkpoint is None else checkpoint.sha256,
        dense_reasons=model.dense_reasons,
        zero_weights=lowered.zero_weights,
        preprocessing=model.preprocessing,
        layers=lowered.layers if options.plain else (),
    )
    write_origin(lowered.graph, origin)
    data = ir.to_proto(lowered.graph).SerializeToString(deterministic=True)
    comparison = rounding = None
    if options.verify:
        images = _images(lowered, model, options)
        expected = _reference(model, images)
        comparison = _verify(data, lowered, model, options, images, expected)
        rounding = None if model is exact else _rounding(exact, images, expected)
    write_atomically(output, data)
    return ExportReport(
        family=model.family,
        arch=model.arch,
        output=output,
        bytes=len(data),
        source_bytes=0 if checkpoint is None else checkpoint.size,
        fp32_bytes=float32_bytes(model.module),
        layers=lowered.layers,
        zero_weights=lowered.zero_weights,
        dense_reasons=model.dense_reasons,
        records=lowered.records,
        notes=model.notes,
        verify=comparison,
        rounding=rounding,
        seconds=time.perf_counter() - started,
    )


def default_output(source: Path) -> Path:
    """The source's name with ``.onnx`` for its checkpoint suffixes, in the current folder."""
    name = source.name
    while Path(name).suffix in _SUFFIXES:
        name = Path(name).stem
    return Path(f"{name}.onnx")


def lowered_model(model: LoadedModel, options: ExportOptions) -> LoweredModel:
    """Capture and lower a loaded model."""
    captured = _captured(model, options)
    lowered = lower(captured.graph, LoweringOptions(float16=options.float16, plain=options.plain))
    if isinstance(model.module, Detector):
        finish_traced(captured.graph, SCORE_THRESHOLD)
    return LoweredModel(
        graph=captured.graph,
        layers=tuple(lowered.layers),
        records=(*captured.records, *lowered.records),
        zero_weights=captured.zero_weights,
    )


def _captured(model: LoadedModel, options: ExportOptions) -> Captured:
    if not isinstance(model.module, Detector):
        input_shape = _input_shape(model, options)
        ternary = _ternary_layers(model.module, input_shape, options)
        return capture(model.module, input_shape, options.zero_weights, ternary, model.outputs)
    if options.float16:
        raise UnsupportedModel(
            "a detector cannot be computed in float16",
            got="--fp16",
            expected="float32, as float16 holds a box's corners to whole pixels only",
            fix=f"Leave --fp16 out, or export the backbone: --arch {model.arch}_backbone.",
        )
    return capture_traced(model.module, model.outputs)


def _ternary_layers(
    module: nn.Module, input_shape: tuple[int, int, int], options: ExportOptions
) -> Container[str]:
    """The binary layers whose activations of exactly 0 are to stay 0."""
    policy = options.zero_activations
    if policy == "plus-one":
        return ()
    if policy == "exact":
        return {name for name, _ in module.named_modules()}
    try:
        shares = zero_activation_shares(module, sample_input(input_shape))
    except (RuntimeError, UnsupportedModel):
        return ()  # the capture meets the same trouble, and names the layer
    if policy == "refuse" and shares:
        name, share = max(shares.items(), key=lambda item: item[1])
        raise UnsupportedModel(
            f"layer {name!r} has activations of exactly 0, which have no sign",
            got=f"{share:.2%} of them",
            expected="none, as --zero-activations refuse asks",
            fix="Use --zero-activations exact, or plus-one to pack them as +1.",
        )
    return {name for name, share in shares.items() if share > _SYSTEMATIC_ZEROS}


def _input_shape(model: LoadedModel, options: ExportOptions) -> tuple[int, int, int]:
    return (model.input_shape[0], *(options.input_size or model.input_shape[1:]))


def _images(lowered: LoweredModel, model: LoadedModel, options: ExportOptions) -> FloatArray:
    shape = lowered.graph.graph.inputs[0].shape
    return sample_input(_input_shape(model, options), None if shape is None else shape[0])


def _reference(model: LoadedModel, images: FloatArray) -> ReferenceRun:
    try:
        return reference_run(model.module, images, model.outputs)
    except RuntimeError as error:
        if model.family != OWN_FAMILY:
            raise
        raise UnsupportedModel(
            "torch cannot run the model",
            got=next(iter(str(error).splitlines()), type(error).__name__),
            expected=f"a model that takes images of shape {list(images.shape)}",
            fix="Check what its layers get: an nn.Conv2d of 1-bit weights takes no vectors, say.",
        ) from error


def _rounding(exact: LoadedModel, images: FloatArray, rounded: ReferenceRun) -> Comparison:
    """What the rounding of dense weights does to the outputs."""
    # Figures, not a verdict: what is lost in accuracy only a data set can say. Detections have to
    # be told apart all the same: any two of a label would be the same one within infinity.
    limit = _ALIKE if isinstance(exact.module, Detector) else math.inf
    tolerance = Tolerance(rel_l2=limit, top1=0)
    return compare_outputs(rounded.outputs, _reference(exact, images).outputs, tolerance)


def _verify(
    data: bytes,
    lowered: LoweredModel,
    model: LoadedModel,
    options: ExportOptions,
    images: FloatArray,
    expected: ReferenceRun,
) -> Comparison:
    runtime = runtime_named("ort")
    got = runtime.load(data).run({"input": images, **expected.inputs})
    binary = model.binary_activations or any(x.binary_activations for x in lowered.layers)
    tolerance = Tolerance.for_model(binary_activations=binary, float16=options.float16)
    bits = compare_bits(lowered.graph, model.module, images, runtime) if binary else None
    comparison = compare_outputs(got, expected.outputs, tolerance, bits)
    if comparison.ok:
        if options.float16:
            refuse_overflow(lowered.graph, images, runtime)
        return comparison
    if _changed_zeros(lowered, comparison, options):
        # What zeros are taken for is the only thing that may differ.
        if (twin := ones_for_zeros(model.module)) is not None:
            asked = replace(options, zero_weights="exact")
            model = replace(model, module=twin)
            _verify(data, lowered, model, asked, images, _reference(model, images))
        return comparison
    divergence = first_divergence(
        lowered.graph, model.module, images, runtime, limit=tolerance.rel_l2
    )
    where = f", first at {divergence.layer!r}" if divergence else ""
    raise ComparisonFailure(
        f"the exported model differs from the torch reference{where}",
        got=f"relative L2 error {comparison.rel_l2:.2e}, "
        f"top-1 agreement {comparison.top1_agreement:.0%}",
        expected=f"at most {tolerance.rel_l2:.0e} and at least {tolerance.top1:.0%}",
        fix=_OWN_DIFFERS if model.family == OWN_FAMILY else _DIFFERS,
    )


def _changed_zeros(lowered: LoweredModel, comparison: Comparison, options: ExportOptions) -> bool:
    """Whether zeros were there to be taken for +1, as was asked: the file must differ then."""
    weights = options.zero_weights == "plus-one" and any(lowered.zero_weights.values())
    return weights or (options.zero_activations == "plus-one" and bool(comparison.zero_activations))


def _no_source(source: object) -> InputError:
    kind = source.__name__ if isinstance(source, type) else type(source).__name__
    return InputError(
        "nothing to export",
        got=f"the class {kind}" if isinstance(source, type) else f"a value of type {kind}",
        expected="the path of a checkpoint, or a torch model",
        fix="Load a state dict into its model first, or save it with torch.save and name the file.",
    )


def _required_path(path: str | Path | None) -> Path:
    if path is None:
        raise InputError(
            "a torch model needs an output path",
            got="none",
            expected="the .onnx file to write",
            fix="Call bitexport.export(model, example_input, path).",
        )
    return Path(path)
