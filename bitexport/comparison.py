"""Compare an exported model with its torch reference, and find where they part.

After a sign, a rounding difference of 1e-7 can flip a bit and move the logits, so a largest
absolute difference says little about a binary network. What counts is the relative L2 error of
the logits, the agreement of the predicted classes, and for binary activations the share of bits
that flipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bitexport.errors import InputError
from bitexport.graph import computes_in_float16
from bitexport.graph.constants import constant
from bitexport.layers import spec_of
from bitexport.ops.table import op_named
from bitexport.runtimes import Runtime
from bitexport.spec import BinaryConvSpec

__all__ = [
    "BitComparison",
    "Comparison",
    "Divergence",
    "Tolerance",
    "compare_bits",
    "compare_logits",
    "compare_outputs",
    "first_divergence",
    "reference_logits",
    "reference_outputs",
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
class Tolerance:
    """What still counts as equal.

    Attributes:
        rel_l2: Largest relative L2 error of a sample's logits.
        top1: Least share of samples whose predicted class agrees.
        samples: Least share of samples within ``rel_l2``. With 1, the error over all samples
            together must be within it too.
    """

    rel_l2: float
    top1: float
    samples: float = 1.0

    @classmethod
    def for_model(cls, *, binary_activations: bool, float16: bool) -> Tolerance:
        """The usual tolerance.

        float32 sums in another order differ by about 1e-6 relative, so 1e-4 leaves room for
        deep networks. With binary activations about one of 1e6 signs lies so close to its
        threshold that rounding decides it; the logits of some samples then move, while a wrong
        export moves those of all: most samples must be within 1e-3. Half precision rounds each
        layer to 11 bits, which with binary activations leaves only the predicted class.
        """
        if float16:
            return cls(1.5 if binary_activations else 1e-2, 0.5 if binary_activations else 0.75)
        if binary_activations:
            return cls(1e-3, 0.75, 0.75)
        return cls(1e-4, 1.0)


@dataclass(frozen=True)
class Comparison:
    """How two sets of logits compare.

    Attributes:
        ok: Within the tolerance.
        samples: Number of samples.
        max_abs_diff: Largest absolute difference of a logit.
        rel_l2: ||got - expected|| / ||expected||.
        top1_agreement: Share of samples with the same predicted class; of feature maps, share of
            pixels with the same strongest channel.
        flip_rate: Share of binary activations that differ; None where there are none.
        zero_activations: Activations of exactly 0 before a sign, where torch's sign is 0 and a
            bit is +1; None where there are no binary activations.
    """

    ok: bool
    samples: int
    max_abs_diff: float
    rel_l2: float
    top1_agreement: float
    flip_rate: float | None = None
    zero_activations: int | None = None


@dataclass(frozen=True)
class BitComparison:
    """How the binary activations of two runs compare.

    Attributes:
        flip_rate: Share that differ.
        zeros: How many are exactly 0 before the sign.
    """

    flip_rate: float
    zeros: int


@dataclass(frozen=True)
class Divergence:
    """The first tensor of the graph that differs from its torch module's output."""

    layer: str
    rel_l2: float


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
    there are many, and in a few the first two are equal but for rounding.

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
        None where the graph has no binary convolutions of a known torch layer.
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
        threshold = (
            None if tap is None else constant(node.inputs[op_named(node.op_type).input_index("Th")])
        )
        if tap is None or threshold is None:
            continue
        reference = expected[_layer(node)]
        differs = (got[tap.name or ""] >= threshold) != (reference >= 0)
        per_channel = differs.sum(axis=(0, 2, 3))
        count = differs.size // differs.shape[1]
        flips += int(np.minimum(per_channel, count - per_channel).sum())
        total += differs.size
    zeros = sum(int((reference == 0).sum()) for reference in expected.values())
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
    shares = {name: float((x == 0).mean()) for name, x in inputs.items()}
    return {name: share for name, share in shares.items() if share > 0}


def _layer(node: ir.Node) -> str:
    return (node.name or "").split("/")[0]


def _sign_inputs(module: nn.Module, names: set[str], images: FloatArray) -> dict[str, FloatArray]:
    """What each binary layer takes the sign of: its input, centered and less its threshold."""
    seen: dict[str, FloatArray] = {}

    def remember(name: str, spec: BinaryConvSpec) -> Any:  # noqa: ANN401
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if spec.centered:
                x = x - x.mean(dim=(1, 2, 3), keepdim=True)
            seen[name] = (x - torch.from_numpy(spec.threshold).reshape(1, -1, 1, 1)).numpy()

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
    given = {v.name: images for v in model.graph.inputs}
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


def relative_l2(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """||got - expected|| / ||expected|| in float64; NaN unless both are finite."""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    norm = float(np.linalg.norm(b))
    difference = float(np.linalg.norm(a - b))
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / norm


def sample_input(input_shape: tuple[int, int, int]) -> FloatArray:
    """Standard normal images of a fixed seed: float32 [N, C, H, W], fewer of large ones.

    Raises:
        InputError: An image would be empty, or of more than ``_LARGEST_IMAGE`` numbers.
    """
    if not all(n > 0 for n in input_shape) or math.prod(input_shape) > _LARGEST_IMAGE:
        raise InputError(
            "the model takes no images to compare with",
            got=f"an input of shape [N, {', '.join(map(str, input_shape))}]",
            expected=f"images of 1 to {_LARGEST_IMAGE} numbers",
            fix="Check the model's input with `bitexport inspect`.",
        )
    rng = np.random.default_rng(_SEED)
    pixels = input_shape[1] * input_shape[2]
    samples = max(1, min(_SAMPLES, _MOST_PIXELS // max(1, pixels)))
    return rng.standard_normal((samples, *input_shape), dtype=np.float32)


def reference_logits(module: nn.Module, images: FloatArray) -> FloatArray:
    """Logits of the torch reference: float32 [N, classes]; of several outputs the first."""
    return _reference(module, images)[0]


def reference_outputs(
    module: nn.Module, images: FloatArray, names: Sequence[str]
) -> dict[str, FloatArray]:
    """All outputs of the torch reference by name."""
    return dict(zip(names, _reference(module, images), strict=True))


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
