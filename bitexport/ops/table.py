"""The op table: names, inputs and attributes of the custom ops, as every runtime sees them.

Function bodies (``bodies.py``), the emitter (``nodes.py``), the C++ op spec
(``plugins/core/op_spec.h``) and the op reference in the docs all follow this table, and tests
hold them to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "DOMAIN",
    "OPS",
    "OP_VERSION",
    "PLUGIN_ATTRIBUTES",
    "Attribute",
    "Input",
    "Op",
    "op_named",
]

DOMAIN = "bitexport"
OP_VERSION = 1

# TensorRT (10.15 and later) prefers a plugin to a function body of the same name only where
# the node says which plugin it means.
PLUGIN_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": str(OP_VERSION)}


@dataclass(frozen=True)
class Input:
    """One input: its letter, element type ("T" is float or float16) and shape."""

    name: str
    dtype: Literal["T", "float", "float16", "int32"]
    shape: str
    meaning: str


@dataclass(frozen=True)
class Attribute:
    """One attribute that every node carries, and how many integers it holds."""

    name: str
    count: int
    meaning: str


@dataclass(frozen=True)
class Op:
    """One op_type of the domain ``bitexport``."""

    name: str
    summary: str
    formula: str
    inputs: tuple[Input, ...]
    attributes: tuple[Attribute, ...]
    kind: Literal["conv", "gemm"]

    @property
    def binary_activations(self) -> bool:
        """Whether the activations are bits: signs, or compared with a threshold."""
        return any(x.name in ("Th", "Signs") for x in self.inputs)

    @property
    def takes_signs(self) -> bool:
        """Whether the first input is the signs that another op made."""
        return self.inputs[0].name == "Signs"

    @property
    def makes_signs(self) -> bool:
        """Whether the output is signs for another op."""
        return self.inputs[-1].name == "Next"

    @property
    def chained(self) -> bool:
        """Whether it is a link of a chain: no GPU has kernels for those."""
        return self.takes_signs or self.makes_signs

    @property
    def weight_input(self) -> int:
        """Index of the packed weight (sign words or code words) among the inputs."""
        return next(i for i, x in enumerate(self.inputs) if x.name in ("W", "Codes"))

    def input_index(self, name: str) -> int:
        """Index of the input called ``name``."""
        return next(i for i, x in enumerate(self.inputs) if x.name == name)


_X4 = Input("X", "T", "[N, Ci, H, W]", "activations")
_X2 = Input("X", "T", "[N, Ci]", "activations")
_W = Input("W", "int32", "[Co, kh, kw, ceil(Ci/group/32)]", "sign words; a set bit is +1")
_TH = Input("Th", "float", "[1, Ci, 1, 1]", "threshold: the activation is +1 where X >= Th")
_S4 = Input("S", "float", "[1, Co, 1, 1]", "scale")
_B4 = Input("B", "float", "[1, Co, 1, 1]", "bias")
_R = Input("R", "T", "[N, Co, Ho, Wo]", "residual that is added to the result")
_SLOPE = Input("Slope", "float", "[1, Co, 1, 1]", "slope of the negative half of t")
_SHIFT = Input("Shift", "float", "[1, Co, 1, 1]", "added after the PReLU")
_LO = Input("Lo", "float", "[1, 1, 1, 1]", "lower bound; -inf for none")
_HI = Input("Hi", "float", "[1, 1, 1, 1]", "upper bound, no less than Lo; +inf for none")
_SIGNS = Input(
    "Signs",
    "T",
    "[N, Ci, H, W]",
    "+1 or -1, straight from another op's signs; at least 32 channels, group 1",
)
_NEXT = Input(
    "Next", "float", "[1, Co, 1, 1]", "threshold of the ops that read Y; S and B must be finite"
)
_CB = Input("CB", "float16", "[K, d]", "codebook: K centroids of d weights")


def _codes(bits: int, per_word: str) -> Input:
    return Input(
        "Codes",
        "int32",
        f"[Co, ceil(blocks*{bits}/32)]",
        f"code words, {per_word} a word, the first in the low bits",
    )


_CONV_ATTRIBUTES = (
    Attribute("strides", 2, "vertical, horizontal"),
    Attribute("pads", 4, "top, left, bottom, right; a padded tap contributes 0"),
    Attribute("dilations", 2, "vertical, horizontal"),
    Attribute("group", 0, "number of groups"),
    Attribute("wshape", 4, "Co, Ci/group, kh, kw of the weight"),
)
_GEMM_ATTRIBUTES = (Attribute("wshape", 2, "Co, Ci of the weight"),)

OPS: tuple[Op, ...] = (
    Op(
        "SignConv",
        "1-bit weights, real activations",
        "Y = S * conv(X, W) + B",
        (_X4, _W, _S4, _B4),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConv",
        "1-bit weights, 1-bit activations",
        "Y = S * conv(X >= Th ? +1 : -1, W) + B",
        (_X4, _W, _TH, _S4, _B4),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConvAdd",
        "1-bit weights, 1-bit activations, with a residual",
        "Y = S * conv(X >= Th ? +1 : -1, W) + B + R",
        (_X4, _W, _TH, _S4, _B4, _R),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConvPRelu",
        "1-bit weights, 1-bit activations, then a PReLU",
        "t = S * conv(X >= Th ? +1 : -1, W) + B;  Y = (t >= 0 ? t : Slope * t) + Shift",
        (_X4, _W, _TH, _S4, _B4, _SLOPE, _SHIFT),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConvAddPRelu",
        "1-bit weights, 1-bit activations, with a residual, then a PReLU",
        "t = S * conv(X >= Th ? +1 : -1, W) + B + R;  Y = (t >= 0 ? t : Slope * t) + Shift",
        (_X4, _W, _TH, _S4, _B4, _R, _SLOPE, _SHIFT),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConvClip",
        "1-bit weights, 1-bit activations, then bounds: a hard tanh or a ReLU",
        "t = S * conv(X >= Th ? +1 : -1, W) + B;  Y = min(max(t, Lo), Hi)",
        (_X4, _W, _TH, _S4, _B4, _LO, _HI),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConvAddClip",
        "1-bit weights, 1-bit activations, with a residual, then bounds: a hard tanh or a ReLU",
        "t = S * conv(X >= Th ? +1 : -1, W) + B + R;  Y = min(max(t, Lo), Hi)",
        (_X4, _W, _TH, _S4, _B4, _R, _LO, _HI),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "CodebookConv",
        "product-quantized convolution with at most 256 centroids",
        "Y = S * conv(X, reshape(CB[Codes], wshape)) + B",
        (_X4, _codes(8, "four uint8"), _CB, _S4, _B4),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "CodebookConv16",
        "product-quantized convolution with at most 65536 centroids",
        "Y = S * conv(X, reshape(CB[Codes], wshape)) + B",
        (_X4, _codes(16, "two uint16"), _CB, _S4, _B4),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "CodebookGemm",
        "product-quantized linear layer with at most 65536 centroids",
        "Y = S * (X @ reshape(CB[Codes], wshape).T) + B",
        (
            _X2,
            _codes(16, "two uint16"),
            _CB,
            Input("S", "float", "[1, Co]", "scale"),
            Input("B", "float", "[1, Co]", "bias"),
        ),
        _GEMM_ATTRIBUTES,
        "gemm",
    ),
    # Links of chains, see graph/passes/chain_signs.py. The last ones, as no GPU has kernels for
    # them: TensorRT's plugins and the CUDA op library end before (plugins/core/op_spec.h).
    Op(
        "BinaryConvSign",
        "1-bit weights, 1-bit activations, then the signs that another one takes",
        "t = S * conv(X >= Th ? +1 : -1, W) + B;  Y = t >= Next ? +1 : -1",
        (_X4, _W, _TH, _S4, _B4, _NEXT),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConvOfSigns",
        "1-bit weights, signs that another one made",
        "Y = S * conv(Signs, W) + B",
        (_SIGNS, _W, _S4, _B4),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConvOfSignsClip",
        "1-bit weights, signs that another one made, then bounds: a hard tanh or a ReLU",
        "t = S * conv(Signs, W) + B;  Y = min(max(t, Lo), Hi)",
        (_SIGNS, _W, _S4, _B4, _LO, _HI),
        _CONV_ATTRIBUTES,
        "conv",
    ),
    Op(
        "BinaryConvOfSignsSign",
        "1-bit weights, signs that another one made, then the signs that a third one takes",
        "t = S * conv(Signs, W) + B;  Y = t >= Next ? +1 : -1",
        (_SIGNS, _W, _S4, _B4, _NEXT),
        _CONV_ATTRIBUTES,
        "conv",
    ),
)

_BY_NAME = {op.name: op for op in OPS}
if len(_BY_NAME) != len(OPS):
    raise RuntimeError("two ops of the table share a name")


def op_named(name: str) -> Op:
    """The table's row for an op_type.

    Raises:
        KeyError: No op of that name.
    """
    return _BY_NAME[name]
