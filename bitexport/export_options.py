"""What steers an export."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from bitexport.errors import InputError
from bitexport.families import LoadOptions
from bitexport.families.base import Precision
from bitexport.graph import ZeroWeights

__all__ = ["DenseWeights", "ExportOptions", "ZeroActivations", "asked_options"]

ZeroActivations = Literal["auto", "exact", "plus-one", "refuse"]
DenseWeights = Literal["exact", "int8"]


@dataclass(frozen=True)
class ExportOptions:
    """Everything that steers an export; the fields are the options of ``bitexport onnx``.

    Attributes:
        load: What the user says about the checkpoint.
        input_size: (H, W) of the images, or None for the family's usual size.
        float16: Compute in float16 behind float32 inputs and outputs.
        plain: Standard ONNX operators only.
        zero_weights: What to do with 1-bit weights of exactly 0.
        zero_activations: What to do with activations of exactly 0 in front of a sign: keep them
            0, which takes a second convolution, pack them as +1, or refuse the model if sample
            images show any. ``"auto"`` keeps them in the layers where samples show more than one
            in 10,000; fewer are chance.
        dense_weights: Keep the weights of layers that stay dense, or round them to 8 bits, with a
            step for each output channel (:func:`bitexport.layers.rounded_to_int8`); computed in
            float all the same.
        verify: Compare the result with the torch reference, and fail if they differ.

    Raises:
        InputError: A field has a value that it cannot have.
    """

    load: LoadOptions = field(default_factory=LoadOptions)
    input_size: tuple[int, int] | None = None
    float16: bool = False
    plain: bool = False
    zero_weights: ZeroWeights = "exact"
    zero_activations: ZeroActivations = "auto"
    dense_weights: DenseWeights = "exact"
    verify: bool = True

    def __post_init__(self) -> None:
        """Refuse a misspelt value, which would be taken for the usual one."""
        given = {
            "zero_weights": (self.zero_weights, get_args(ZeroWeights)),
            "zero_activations": (self.zero_activations, get_args(ZeroActivations)),
            "dense_weights": (self.dense_weights, get_args(DenseWeights)),
            "load.weights": (self.load.weights, get_args(Precision)),
            "load.activations": (self.load.activations, get_args(Precision)),
            "float16": (self.float16, (False, True)),
            "plain": (self.plain, (False, True)),
            "verify": (self.verify, (False, True)),
        }
        for name, (value, allowed) in given.items():
            # numpy's True equals ours, but no file takes it down; nor is an array one of them.
            if not isinstance(value, type(allowed[0])) or value not in allowed:
                raise InputError(
                    f"wrong option {name}",
                    got=repr(value),
                    expected=" or ".join(map(repr, allowed)),
                    fix="Correct it.",
                )


def asked_options(options: ExportOptions) -> dict[str, object]:
    """Those that are not the usual ones, by name."""
    usual = asdict(ExportOptions())
    return {k: v for k, v in asdict(options).items() if v != usual[k]}
