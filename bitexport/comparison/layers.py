"""Compare an exported graph with its torch reference layer by layer, and find where they part.

All values within a network are many times its inputs: they are looked at sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bitexport.comparison.figures import BitComparison, Divergence, RelativeL2
from bitexport.comparison.outputs import FloatArray, reference_logits
from bitexport.errors import ComparisonFailure
from bitexport.graph import computes_in_float16, float16_values
from bitexport.graph.constants import constant
from bitexport.graph.passes.chain_signs import unchained
from bitexport.layers import spec_of
from bitexport.ops.table import op_named
from bitexport.runtimes import Runtime
from bitexport.spec import BinaryConvSpec

__all__ = ["compare_bits", "first_divergence", "refuse_overflow", "zero_activation_shares"]


@dataclass
class _Binarized:
    """An input of a binary convolution in the graph, and what is known of it so far.

    Attributes:
        layer: Path of the torch layer.
        value: Its name in the graph.
        threshold: [1, C, 1, 1].
        flips: Channel by channel, how many activations have another sign than the reference's.
        count: Of how many a channel.
    """

    layer: str
    value: str
    threshold: npt.NDArray[Any]
    flips: npt.NDArray[np.int64]
    count: int = 0

    def add(self, got: FloatArray, reference: FloatArray) -> None:
        differs = (got >= self.threshold) != (reference >= 0)
        self.flips += differs.sum(axis=(0, 2, 3))
        self.count += differs.size // differs.shape[1]


def compare_bits(
    model: ir.Model, module: nn.Module, images: FloatArray, runtime: Runtime
) -> BitComparison | None:
    """Compare every binary activation of the graph with the torch reference's.

    A folded BatchNorm with a negative gamma stores a channel's activations with turned signs,
    so a channel counts its flips against the better of the two.

    Returns:
        None where the graph has no binary convolution that a torch layer can be told for.
    """
    model = unchained(model)
    layers = dict(module.named_modules())
    nodes = [
        node
        for node in model.graph
        if node.op_type.startswith("BinaryConv")
        and isinstance(spec_of(layers.get(_layer(node), nn.Identity())), BinaryConvSpec)
    ]
    if not nodes:
        return None
    inputs = [found for node in nodes if (found := _binarized(node)) is not None]
    taps = [value for node in nodes if (value := node.inputs[0]) is not None]
    names = {_layer(node) for node in nodes}
    zeros = 0
    for part, got in _tapped(model, taps, images, runtime):
        expected = _sign_inputs(module, names, part)
        zeros += sum(int((x == 0).sum()) for calls in expected.values() for x in calls)
        for each in inputs:
            calls = expected.get(each.layer, [])
            # Which of its several calls a node is, or what a layer of another model is, nobody
            # knows.
            if len(calls) == 1 and got[each.value].shape == calls[0].shape:
                each.add(got[each.value], calls[0])
    total = sum(each.count * each.flips.size for each in inputs)
    if not total:
        return None
    flips = sum(int(np.minimum(each.flips, each.count - each.flips).sum()) for each in inputs)
    return BitComparison(flips / total, zeros)


def _binarized(node: ir.Node) -> _Binarized | None:
    """What a node compares with its threshold; None where the threshold is no constant."""
    value = node.inputs[0]
    threshold = constant(node.inputs[op_named(node.op_type).input_index("Th")])
    if value is None or threshold is None:
        return None
    flips = np.zeros(threshold.size, np.int64)
    return _Binarized(_layer(node), value.name or "", threshold, flips)


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
    model = unchained(model)
    names = {name for name, _ in module.named_modules() if name}
    taps = [v for node in model.graph for v in node.outputs if v.name in names]
    errors = {value.name or "": RelativeL2() for value in taps}
    for part, got in _tapped(model, taps, images, runtime):
        expected = _module_outputs(module, list(errors), part)
        for name, error in errors.items():
            if name in expected and expected[name].shape == got[name].shape:
                error.add(got[name], expected[name])
    for name, error in errors.items():
        if not error.value() <= limit:
            return Divergence(name, error.value())
    return None


def refuse_overflow(
    model: ir.Model,
    images: FloatArray,
    runtime: Runtime,
    *,
    infer: Callable[[bytes], bytes] | None = None,
    at_once: int | None = None,
) -> None:
    """Check that float16 holds all values of a float16 graph.

    ONNX Runtime computes much of float16 in float32 on a CPU, and keeps values past 65504 that
    become infinite on a GPU; as outputs of the graph they are float16 there too.

    Args:
        model: The exported graph.
        images: float32 [N, C, H, W].
        runtime: Runs the graph.
        infer: What infers the shapes of a stranger's model, see ``float16_values``.
        at_once: How many values a run gives at most, where all together are too large.

    Raises:
        ComparisonFailure: A layer's values are not finite.
    """
    model = unchained(model)
    taps = float16_values(model, infer)
    for start in range(0, len(taps), at_once or max(1, len(taps))):
        some = taps[start:][:at_once]
        for _, got in _tapped(model, some, images, runtime):
            for value in some:
                _require_finite(value, got[value.name or ""])


def _require_finite(value: ir.Value, got: FloatArray) -> None:
    node = value.producer()
    if node is not None and not np.isfinite(got).all():
        raise ComparisonFailure(
            f"layer {_layer(node)!r} overflows in float16",
            got="values past 65504",
            expected="values that float16 holds, as a GPU makes the others infinite",
            fix="Leave --fp16 out. Nothing was written; --no-verify writes it anyway.",
        )


def _layer(node: ir.Node) -> str:
    return (node.name or "").split("/")[0]


def _tapped(
    model: ir.Model, values: Sequence[ir.Value], images: FloatArray, runtime: Runtime
) -> Iterator[tuple[FloatArray, dict[str, FloatArray]]]:
    """Run the graph with some of its inner values as further outputs, which are then taken back.

    Yields:
        Some of the images, one where the graph takes one, and all values for them, by name.
    """
    outputs = model.graph.outputs
    before = list(outputs)
    optional = model.graph.initializers
    given = [v for v in model.graph.inputs if v.name not in optional]
    kind = ir.DataType.FLOAT16 if computes_in_float16(model) else ir.DataType.FLOAT
    try:
        for value in dict.fromkeys(values):
            if value not in before and not value.is_graph_input():
                value.type = value.type or ir.TensorType(kind)
                outputs.append(value)
        runner = runtime.load(ir.to_proto(model).SerializeToString())
    finally:
        outputs[:] = before
    batches = [value.shape[0] for value in given if value.shape]
    step = len(images) if any(isinstance(batch, int) for batch in batches) else 1
    for start in range(0, len(images), max(1, step)):
        feed = {value.name or "": images[start : start + step] for value in given}
        yield images[start : start + step], {**feed, **runner.run(feed)}


def _sign_inputs(
    module: nn.Module, names: set[str], images: FloatArray
) -> dict[str, list[FloatArray]]:
    """What each binary layer takes the sign of, call by call: its input, less its threshold."""
    seen: dict[str, list[FloatArray]] = {}

    def remember(name: str, spec: BinaryConvSpec) -> Any:  # noqa: ANN401
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if x.dim() == 2:  # a linear layer, which is a convolution of one pixel
                x = x[:, :, None, None]
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
