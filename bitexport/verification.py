"""Compare an .onnx file with its checkpoint, or with recorded logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.checkpoint import read_checkpoint
from bitexport.comparison import (
    Comparison,
    Divergence,
    ReferenceRun,
    Tolerance,
    compare_bits,
    compare_outputs,
    first_divergence,
    reference_run,
    sample_input,
)
from bitexport.errors import ComparisonFailure, InputError
from bitexport.families import LoadedModel, LoadOptions, load_model
from bitexport.graph import computes_in_float16
from bitexport.graph.chains import as_given
from bitexport.graph.properties import record_of
from bitexport.graph.read import checked_layers, read_onnx
from bitexport.layers import rounded_to_int8
from bitexport.recordings import read_recording
from bitexport.runtimes import Arrays, ModelRefused, Runtime
from bitexport.runtimes.contained import contained, memory_for

__all__ = ["Verification", "verify_file"]

FloatArray = npt.NDArray[np.float32]
_DEFAULT_SIZE = 224
# A comparison with the threshold, and a sign in front of real weights.
_SIGN_OPS = ("GreaterOrEqual", "Sign")


@dataclass(frozen=True)
class Verification:
    """The outcome of a comparison.

    Attributes:
        comparison: The figures.
        tolerance: What counted as equal.
        divergence: The first tensor that differs, where there was a checkpoint to ask.
        other_source: The model's file says that it was exported from another checkpoint.
        rounded: The file says that its dense weights were rounded to 8 bits, and the reference's
            were for the comparison.
    """

    comparison: Comparison
    tolerance: Tolerance
    divergence: Divergence | None
    other_source: bool = False
    rounded: bool = False

    def failure(self) -> ComparisonFailure:
        """The error that the figures amount to when they are out of tolerance."""
        where = f", first at {self.divergence.layer!r}" if self.divergence else ""
        fix = "Export the model again, or widen --rel-l2 and --top1 if that is what you want."
        if self.other_source:
            fix = "The model was exported from another file: name that one, or export this one."
        return ComparisonFailure(
            f"the model differs from its reference{where}",
            got=f"relative L2 error {self.comparison.rel_l2:.2e}, "
            f"top-1 agreement {self.comparison.top1_agreement:.1%}",
            expected=f"at most {self.tolerance.rel_l2:.0e} and at least {self.tolerance.top1:.1%}",
            fix=fix,
        )


def verify_file(
    model_path: Path,
    *,
    checkpoint: Path | None,
    inputs: Path | None,
    runtime_name: str = "ort",
    rel_l2: float | None = None,
    top1: float | None = None,
    load_options: LoadOptions | None = None,
) -> Verification:
    """Run an exported model and compare its logits.

    Args:
        model_path: The .onnx file.
        checkpoint: The torch reference; without it, ``inputs`` must hold ``logits``.
        inputs: An .npz with ``input`` float32 [N, C, H, W] and perhaps ``logits``; without it,
            standard normal images of a fixed seed are used.
        runtime_name: Name of a runtime of the table.
        rel_l2: Overrides the usual tolerance.
        top1: Overrides the usual tolerance.
        load_options: What the user says about the checkpoint.

    Raises:
        InputError: A file cannot be read or run, or there is nothing to compare with.
        RuntimeFailure: The runtime is missing.
    """
    recorded = {} if inputs is None else read_recording(inputs)
    spare = memory_for(recorded["input"].shape) if "input" in recorded else 0
    with contained(runtime_name, spare=spare) as runtime:
        graph, data = read_onnx(model_path)
        checked_layers(graph, model_path)
        reference, fingerprint = _reference(checkpoint, load_options, graph)
        rounded = reference is not None and _was_rounded(graph)
        images = _images(graph, recorded, reference)
        expected = _expected(recorded, reference, images)
        input_name, outputs = _interface(graph, model_path)
        got = _run(runtime, model_path, data, {input_name: images, **expected.inputs})
        if len(outputs) == 1 == len(expected.outputs):
            # A foreign file may call its logits anything.
            got = dict(zip(expected.outputs, [got[outputs[0]]], strict=True))
        usual = Tolerance.for_model(
            binary_activations=_takes_signs(graph),
            float16=computes_in_float16(graph),
        )
        tolerance = Tolerance(
            usual.rel_l2 if rel_l2 is None else rel_l2,
            usual.top1 if top1 is None else top1,
            usual.samples if rel_l2 is None else 1.0,
        )
        bits = None
        if reference is not None:
            bits = compare_bits(graph, reference.module, images, runtime)
        comparison = compare_outputs(got, expected.outputs, tolerance, bits)
        divergence = None
        if not comparison.ok and reference is not None:
            divergence = first_divergence(
                graph, reference.module, images, runtime, limit=tolerance.rel_l2
            )
        source = graph.metadata_props.get("bitexport.source_sha256", fingerprint)
        other_source = reference is not None and source != fingerprint
        return Verification(comparison, tolerance, divergence, other_source, rounded)


def _run(runtime: Runtime, path: Path, data: bytes, feed: Arrays) -> Arrays:
    try:
        return runtime.load(as_given(data, runtime.name)).run(feed)
    except ModelRefused as error:
        raise error.blaming(path) from error


def _reference(
    checkpoint: Path | None, options: LoadOptions | None, graph: ir.Model
) -> tuple[LoadedModel | None, str]:
    """The checkpoint's torch model, and the hash of the file; without one, None and "".

    Of a detector it is the part that the file says it is, and its dense weights are rounded where
    the file says that they were.
    """
    if checkpoint is None:
        return None, ""
    opened = read_checkpoint(checkpoint)
    model = load_model(opened, options)
    properties, names = graph.metadata_props, {value.name for value in graph.graph.outputs}
    arch = properties.get("bitexport.arch", "")
    asked = options is not None and options.arch is not None
    same_family = properties.get("bitexport.family") == model.family
    other_outputs = len(names) > 1 and names != {*model.outputs}
    if arch and same_family and other_outputs and not asked:
        model = load_model(opened, replace(options or LoadOptions(), arch=arch))
    if _was_rounded(graph):
        model = replace(model, module=rounded_to_int8(model.module))
    return model, opened.sha256


def _was_rounded(graph: ir.Model) -> bool:
    return record_of(graph.metadata_props, "options").get("dense_weights") == "int8"


def _takes_signs(graph: ir.Model) -> bool:
    """Whether the graph binarizes activations, by ops of ours or, in a plain file, by others."""
    return any(
        node.op_type.startswith("BinaryConv") or node.op_type in _SIGN_OPS for node in graph.graph
    )


def _images(
    graph: ir.Model, recorded: dict[str, FloatArray], reference: LoadedModel | None
) -> FloatArray:
    shape = graph.graph.inputs[0].shape if graph.graph.inputs else None
    if "input" in recorded:
        return _of_shape(recorded["input"], shape)
    fallback = (3, _DEFAULT_SIZE, _DEFAULT_SIZE) if reference is None else reference.input_shape
    if shape is None or len(shape) != 4:
        return sample_input(fallback)
    batch = shape[0]
    channels, height, width = (
        dim if isinstance(dim, int) else usual
        for dim, usual in zip(shape[1:], fallback, strict=True)
    )
    return sample_input((channels, height, width), batch)


def _of_shape(images: FloatArray, shape: ir.Shape | None) -> FloatArray:
    """The images, if the model takes them."""
    if shape is None:
        return images
    fixed = [n if isinstance(n, int) else None for n in shape]
    pairs = zip(fixed, images.shape, strict=False)
    if len(fixed) != images.ndim or any(n is not None and n != m for n, m in pairs):
        fix = "Give inputs of the model's shape, or export it with --input-size for theirs."
        if [*images.shape[1:]] == fixed[1:]:
            fix = f"Give {fixed[0]} at a time: the batch of the model is fixed."
        raise InputError(
            "the model cannot take the inputs",
            got=list(images.shape),
            expected=[n if n is not None else "N" for n in fixed],
            fix=fix,
        )
    return images


def _expected(
    recorded: dict[str, FloatArray], reference: LoadedModel | None, images: FloatArray
) -> ReferenceRun:
    if reference is not None:
        try:
            return reference_run(reference.module, images, reference.outputs)
        except RuntimeError as error:
            raise InputError(
                "the torch reference cannot take the inputs",
                got=str(error),
                expected=f"images like [N, {', '.join(map(str, reference.input_shape))}]",
                fix="Give inputs of the right shape.",
            ) from error
    if "logits" in recorded:
        return ReferenceRun({"logits": recorded["logits"]})
    raise InputError(
        "nothing to compare with",
        got="neither a CKPT nor recorded logits",
        expected="one of them",
        fix="Name the checkpoint, or give --inputs FILE.npz with `input` and `logits`.",
    )


def _interface(graph: ir.Model, path: Path) -> tuple[str, list[str]]:
    optional, outputs = graph.graph.initializers, graph.graph.outputs
    inputs = [value for value in graph.graph.inputs if value.name not in optional]
    if len(inputs) != 1 or not outputs:
        raise InputError(
            f"{path}: not a model of images",
            got=f"{len(inputs)} inputs and {len(outputs)} outputs",
            expected="one input, and an output",
            fix="Export the model with `bitexport onnx`.",
        )
    return inputs[0].name or "", [output.name or "" for output in outputs]
