"""Compare an exported model with its torch reference, and find where they part.

After a sign, a rounding difference of 1e-7 can flip a bit and move the logits, so a largest
absolute difference says little about a binary network. What counts is the relative L2 error of
the logits, the agreement of the predicted classes, and for binary activations the share of bits
that flipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bitexport.comparison.detections import compare_detections, detections_of
from bitexport.comparison.figures import (
    BitComparison,
    Comparison,
    Divergence,
    Tolerance,
    relative_l2,
)
from bitexport.errors import InputError
from bitexport.graph import THRESHOLD_NAME, computes_in_float16
from bitexport.graph.constants import constant
from bitexport.layers import spec_of
from bitexport.models.mask_rcnn import DETECTION_NAMES, Detector
from bitexport.ops.table import op_named
from bitexport.runtimes import Runtime
from bitexport.spec import BinaryConvSpec

__all__ = [
    "ReferenceRun",
    "compare_bits",
    "compare_logits",
    "compare_outputs",
    "first_divergence",
    "reference_logits",
    "reference_run",
    "sample_input",
    "zero_activation_shares",
]

FloatArray = npt.NDArray[np.float32]
_SAMPLES = 8
_MOST_PIXELS = _SAMPLES * 448 * 448
_LARGEST_IMAGE = 1 << 26  # numbers: 256 MiB in float32
_PIXEL_TOP1 = 0.99
_SEED = 0


@dataclass(frozen=True)
class ReferenceRun:
    """What the torch reference gave.

    Attributes:
        outputs: By name.
        inputs: What an exported model must be given beside the images to do the same.
    """

    outputs: Mapping[str, FloatArray]
    inputs: Mapping[str, FloatArray] = field(default_factory=dict)


def compare_logits(
    got: FloatArray,
    expected: FloatArray,
    tolerance: Tolerance,
    bits: BitComparison | None = None,
) -> Comparison:
    """Compare logits [N, classes].

    Raises:
        InputError: The shapes differ.
    """
    if got.shape != expected.shape or got.ndim < 2:
        raise InputError(
            "logits cannot be compared",
            got=list(got.shape),
            expected=f"{list(expected.shape)} with at least two dimensions",
            fix="Give inputs and logits of the same model.",
        )
    rel_l2 = relative_l2(got, expected)
    agreement = float((got.argmax(axis=1) == expected.argmax(axis=1)).mean())
    pairs = zip(got, expected, strict=True)
    within = float(np.mean([relative_l2(a, b) <= tolerance.rel_l2 for a, b in pairs]))
    close = rel_l2 <= tolerance.rel_l2 if tolerance.samples == 1 else within >= tolerance.samples
    return Comparison(
        ok=bool(close and agreement >= tolerance.top1),
        samples=int(got.shape[0]),
        max_abs_diff=float(np.abs(got - expected).max(initial=0)),
        rel_l2=rel_l2,
        top1_agreement=agreement,
        flip_rate=None if bits is None else bits.flip_rate,
        zero_activations=None if bits is None else bits.zeros,
    )


def compare_outputs(
    got: Mapping[str, FloatArray],
    expected: Mapping[str, FloatArray],
    tolerance: Tolerance,
    bits: BitComparison | None = None,
) -> Comparison:
    """Compare every expected output; the figures are those of the worst one.

    Of several outputs, which are feature maps, some pixels may differ in their strongest channel:
    there are many, and in a few the first two are equal but for rounding. Detections are looked
    for one by one.

    Raises:
        InputError: An output is missing, or its shape differs.
    """
    if not expected.keys() <= got.keys():
        raise InputError(
            "the outputs cannot be compared",
            got=", ".join(got),
            expected=", ".join(expected),
            fix="Name the architecture that was exported with --arch.",
        )
    if tuple(expected) == DETECTION_NAMES:
        return compare_detections(got, expected, tolerance)
    if len(expected) > 1:
        tolerance = replace(tolerance, top1=min(tolerance.top1, _PIXEL_TOP1))
    compared = [compare_logits(got[k], expected[k], tolerance, bits) for k in expected]
    # A NaN is no smaller than anything, hence the negation.
    worst = max(compared, key=lambda c: (not c.ok, not c.rel_l2 < np.inf, c.rel_l2))
    return worst


def compare_bits(
    model: ir.Model, module: nn.Module, images: FloatArray, runtime: Runtime
) -> BitComparison | None:
    """Compare every binary activation of the graph with the torch reference's.

    A folded BatchNorm with a negative gamma stores a channel's activations with turned signs,
    so a channel counts its flips against the better of the two.

    Returns:
        None where the graph has no binary convolution that a torch layer can be told for.
    """
    layers = dict(module.named_modules())
    nodes = [
        node
        for node in model.graph
        if node.op_type.startswith("BinaryConv")
        and isinstance(spec_of(layers.get(_layer(node), nn.Identity())), BinaryConvSpec)
    ]
    if not nodes:
        return None
    taps = [node.inputs[0] for node in nodes]
    got = _tapped(model, [v for v in taps if v is not None], images, runtime)
    expected = _sign_inputs(module, {_layer(node) for node in nodes}, images)
    flips = total = 0
    for node, tap in zip(nodes, taps, strict=True):
        calls = expected.get(_layer(node), [])
        threshold = (
            None if tap is None else constant(node.inputs[op_named(node.op_type).input_index("Th")])
        )
        # Which of its several calls a node is, or what a layer of another model is, nobody knows.
        if tap is None or threshold is None or len(calls) != 1:
            continue
        (reference,) = calls
        if got[tap.name or ""].shape != reference.shape:
            continue
        differs = (got[tap.name or ""] >= threshold) != (reference >= 0)
        per_channel = differs.sum(axis=(0, 2, 3))
        count = differs.size // differs.shape[1]
        flips += int(np.minimum(per_channel, count - per_channel).sum())
        total += differs.size
    if not total:
        return None
    zeros = sum(int((x == 0).sum()) for calls in expected.values() for x in calls)
    return BitComparison(flips / total, zeros)


def zero_activation_shares(module: nn.Module, images: FloatArray) -> dict[str, float]:
    """Layer -> share of its activations that are 0 before the sign, where that is more than none.

    Only of the binary layers in which 0 has a sign of its own.

    Args:
        module: The torch reference.
        images: float32 [N, C, H, W].
    """
    names = {
        name
        for name, layer in module.named_modules()
        if isinstance(spec := spec_of(layer), BinaryConvSpec) and spec.zero_at_threshold
    }
    inputs = _sign_inputs(module, names, images) if names else {}
    shares = {
        name: sum(int((x == 0).sum()) for x in calls) / sum(x.size for x in calls)
        for name, calls in inputs.items()
    }
    return {name: share for name, share in shares.items() if share > 0}


def _layer(node: ir.Node) -> str:
    return (node.name or "").split("/")[0]


def _sign_inputs(
    module: nn.Module, names: set[str], images: FloatArray
) -> dict[str, list[FloatArray]]:
    """What each binary layer takes the sign of, call by call: its input, less its threshold."""
    seen: dict[str, list[FloatArray]] = {}

    def remember(name: str, spec: BinaryConvSpec) -> Any:  # noqa: ANN401
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if spec.centered:
                x = x - x.mean(dim=(1, 2, 3), keepdim=True)
            shifted = x - torch.from_numpy(spec.threshold).reshape(1, -1, 1, 1)
            seen.setdefault(name, []).append(shifted.numpy())

        return hook

    handles = []
    for name in names:
        layer = module.get_submodule(name)
        spec = spec_of(layer)
        if isinstance(spec, BinaryConvSpec):
            handles.append(layer.register_forward_pre_hook(remember(name, spec)))
    try:
        reference_logits(module, images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _tapped(
    model: ir.Model, values: list[ir.Value], images: FloatArray, runtime: Runtime
) -> dict[str, FloatArray]:
    """Run the graph with some of its inner values as further outputs, which are then taken back."""
    outputs = model.graph.outputs
    before = list(outputs)
    optional = model.graph.initializers
    given = {v.name: images for v in model.graph.inputs if v.name not in optional}
    kind = ir.DataType.FLOAT16 if computes_in_float16(model) else ir.DataType.FLOAT
    try:
        for value in dict.fromkeys(values):
            if value not in before and not value.is_graph_input():
                value.type = value.type or ir.TensorType(kind)
                outputs.append(value)
        runner = runtime.load(ir.to_proto(model).SerializeToString())
    finally:
        outputs[:] = before
    results = runner.run({name or "": images for name in given})
    return {**{k or "": v for k, v in given.items()}, **results}


def sample_input(input_shape: tuple[int, int, int], batch: object = None) -> FloatArray:
    """Standard normal images of a fixed seed: float32 [N, C, H, W].

    Args:
        input_shape: (C, H, W).
        batch: N, where it is a number; otherwise 8, or fewer if they are large.

    Raises:
        InputError: An image or the batch would be empty, or of more than ``_LARGEST_IMAGE``
            numbers.
    """
    fixed = (batch if isinstance(batch, int) else 1, *input_shape)
    if min(fixed) < 1 or math.prod(fixed) > _LARGEST_IMAGE:
        raise InputError(
            "the model takes no images to compare with",
            got=f"an input of shape [{batch or 'N'}, {', '.join(map(str, input_shape))}]",
            expected=f"images of 1 to {_LARGEST_IMAGE} numbers",
            fix="Check the model's input with `bitexport inspect`.",
        )
    rng = np.random.default_rng(_SEED)
    pixels = input_shape[1] * input_shape[2]
    samples = max(1, min(_SAMPLES, _MOST_PIXELS // max(1, pixels)))
    samples = batch if isinstance(batch, int) else samples
    return rng.standard_normal((samples, *input_shape), dtype=np.float32)


def reference_logits(module: nn.Module, images: FloatArray) -> FloatArray:
    """Logits of the torch reference: float32 [N, classes]; of several outputs the first."""
    return _reference(module, images)[0]


def reference_run(module: nn.Module, images: FloatArray, names: Sequence[str]) -> ReferenceRun:
    """All outputs of the torch reference by name."""
    if isinstance(module, Detector):
        found, threshold = detections_of(module, images)
        return ReferenceRun(found, {THRESHOLD_NAME: threshold})
    return ReferenceRun(dict(zip(names, _reference(module, images), strict=True)))


def _reference(module: nn.Module, images: FloatArray) -> tuple[FloatArray, ...]:
    with torch.inference_mode():
        result = module(torch.from_numpy(images))
    tensors: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
    return tuple(tensor.numpy() for tensor in tensors)


def first_divergence(
    model: ir.Model, module: nn.Module, images: FloatArray, runtime: Runtime, limit: float
) -> Divergence | None:
    """The first tensor whose relative L2 error passes ``limit``, in the graph's order.

    Values of the graph that carry a torch module's path are compared with that module's output.

    Args:
        model: The exported graph.
        module: The torch reference.
        images: float32 [N, C, H, W].
        runtime: Runs the graph.
        limit: Largest relative L2 error that still counts as equal.
    """
    names = {name for name, _ in module.named_modules() if name}
    taps = [v for node in model.graph for v in node.outputs if v.name in names]
    got = _tapped(model, taps, images, runtime)
    expected = _module_outputs(module, [v.name or "" for v in taps], images)
    for value in taps:
        name = value.name or ""
        if name in expected and expected[name].shape == got[name].shape:
            error = relative_l2(got[name], expected[name])
            if not error <= limit:
                return Divergence(name, error)
    return None


def _module_outputs(
    module: nn.Module, names: list[str], images: FloatArray
) -> dict[str, FloatArray]:
    outputs: dict[str, FloatArray] = {}

    def remember(name: str) -> Any:  # noqa: ANN401
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.numpy().copy()

        return hook

    handles = [module.get_submodule(n).register_forward_hook(remember(n)) for n in names]
    try:
        reference_logits(module, images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
