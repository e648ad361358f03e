"""Compare an exported model with its torch reference, and find where they part.

After a sign, a rounding difference of 1e-7 can flip a bit and move the logits, so a largest
absolute difference says little about a binary network. What counts is the relative L2 error of
the logits, the agreement of the predicted classes, and for binary activations the share of bits
that flipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bitexport.errors import InputError
from bitexport.runtimes import Runtime

__all__ = [
    "Comparison",
    "Divergence",
    "Tolerance",
    "compare_logits",
    "first_divergence",
    "reference_logits",
    "sample_input",
]

FloatArray = npt.NDArray[np.float32]
_SAMPLES = 8
_SEED = 0


@dataclass(frozen=True)
class Tolerance:
    """What still counts as equal.

    Attributes:
        rel_l2: Largest relative L2 error of the logits.
        top1: Least share of samples whose predicted class agrees.
    """

    rel_l2: float
    top1: float

    @classmethod
    def for_model(cls, *, binary_activations: bool, float16: bool) -> Tolerance:
        """The usual tolerance.

        float32 sums in another order differ by about 1e-6 relative, so 1e-4 leaves room for
        deep networks; flipped bits ask for 1e-3. Half precision rounds each layer to 11 bits:
        1e-2 without, and only the predicted class with binary activations.
        """
        if float16:
            return cls(1.0 if binary_activations else 1e-2, 0.75)
        return cls(1e-3 if binary_activations else 1e-4, 1.0)


@dataclass(frozen=True)
class Comparison:
    """How two sets of logits compare.

    Attributes:
        ok: Within the tolerance.
        samples: Number of samples.
        max_abs_diff: Largest absolute difference of a logit.
        rel_l2: ||got - expected|| / ||expected||.
        top1_agreement: Share of samples with the same predicted class.
        flip_rate: Share of binary activations that differ; None where there are none.
    """

    ok: bool
    samples: int
    max_abs_diff: float
    rel_l2: float
    top1_agreement: float
    flip_rate: float | None = None


@dataclass(frozen=True)
class Divergence:
    """The first tensor of the graph that differs from its torch module's output."""

    layer: str
    rel_l2: float


def compare_logits(
    got: FloatArray, expected: FloatArray, tolerance: Tolerance, flip_rate: float | None = None
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
    return Comparison(
        ok=bool(rel_l2 <= tolerance.rel_l2 and agreement >= tolerance.top1),
        samples=int(got.shape[0]),
        max_abs_diff=float(np.abs(got - expected).max(initial=0)),
        rel_l2=rel_l2,
        top1_agreement=agreement,
        flip_rate=flip_rate,
    )


def relative_l2(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """||got - expected|| / ||expected|| in float64; NaN unless both are finite."""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    norm = float(np.linalg.norm(b))
    difference = float(np.linalg.norm(a - b))
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / norm


def sample_input(input_shape: tuple[int, int, int], samples: int = _SAMPLES) -> FloatArray:
    """Standard normal images of a fixed seed: float32 [samples, C, H, W]."""
    rng = np.random.default_rng(_SEED)
    return rng.standard_normal((samples, *input_shape), dtype=np.float32)


def reference_logits(module: nn.Module, images: FloatArray) -> FloatArray:
    """Logits of the torch reference: float32 [N, classes]."""
    with torch.inference_mode():
        logits: FloatArray = module(torch.from_numpy(images)).numpy()
    return logits


def first_divergence(
    model: ir.Model, module: nn.Module, images: FloatArray, runtime: Runtime, limit: float
) -> Divergence | None:
    """The first tensor whose relative L2 error passes ``limit``, in the graph's order.

    Values of the graph that carry a torch module's path are compared with that module's output.

    Args:
        model: The exported graph; its outputs are extended.
        module: The torch reference.
        images: float32 [N, C, H, W].
        runtime: Runs the graph.
        limit: Largest relative L2 error that still counts as equal.
    """
    names = {name for name, _ in module.named_modules() if name}
    taps = [v for node in model.graph for v in node.outputs if v.name in names]
    known = {v.name for v in model.graph.outputs}
    model.graph.outputs.extend(v for v in taps if v.name not in known)
    for value in taps:
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    runner = runtime.load(ir.to_proto(model).SerializeToString())
    got = runner.run({model.graph.inputs[0].name or "": images})
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
