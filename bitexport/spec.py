"""What a quantized layer is, free of any framework: frozen records of numpy arrays.

A torch layer becomes one of these records (``bitexport.layers``), a record becomes one ONNX
node (``bitexport.ops``). Whatever a family's training did to get its weights is over here:
signs are signs, scales are scales.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bitexport.errors import UnsupportedModel

__all__ = [
    "BinaryConvSpec",
    "CodebookConvSpec",
    "CodebookConvTransposeSpec",
    "CodebookLinearSpec",
    "ConvGeometry",
    "LayerSpec",
    "SignConvSpec",
]

Float32Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConvGeometry:
    """How a 2-D convolution walks over its input; the attributes of ONNX Conv.

    Attributes:
        strides: (vertical, horizontal).
        pads: (top, left, bottom, right), in pixels; a padded tap contributes exactly 0.
        dilations: (vertical, horizontal).
        group: Number of groups; divides the input and the output channels.
    """

    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1

    def __post_init__(self) -> None:
        for name, count in (("strides", 2), ("pads", 4), ("dilations", 2)):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != count:
                raise UnsupportedModel(
                    f"{name} of a convolution are wrong",
                    got=value,
                    expected=f"a tuple of {count} integers",
                    fix=f"Write {name} as {getattr(type(self)(), name)}, say.",
                )

    def output_size(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output for an input of height and width ``size``.

        Works on symbolic integers too (torch.export's), hence no checks here.
        """
        height, width = (
            (size[i] + self.pads[i] + self.pads[i + 2] - self.dilations[i] * (kernel[i] - 1) - 1)
            // self.strides[i]
            + 1
            for i in (0, 1)
        )
        return height, width


@dataclass(frozen=True)
class SignConvSpec:
    """Convolution with weights in {-1, 0, +1} and real activations (W1A32).

    Y = scale * conv(X, signs) + bias.

    Attributes:
        signs: int8 [Co, Ci / group, kh, kw]. 0 is legal: ``torch.sign(0)`` is 0, and an exact
            export must keep it although a bit has no 0.
        scale: float32 [Co].
        bias: float32 [Co].
        geometry: Strides, pads, dilations, group.

    Raises:
        UnsupportedModel: Shapes or values break the contract above.
    """

    signs: npt.NDArray[np.int8]
    scale: Float32Array
    bias: Float32Array
    geometry: ConvGeometry = field(default_factory=ConvGeometry)

    def __post_init__(self) -> None:
        _require_shape("signs", self.signs, 4)
        if self.signs.dtype == np.bool_:
            raise UnsupportedModel(
                "sign weights are truth values",
                got="bool",
                expected="-1, 0 or +1",
                fix="Give np.where(signs, 1, -1).astype(np.int8).",
            )
        if np.abs(self.signs).max(initial=0) > 1:
            raise UnsupportedModel(
                "sign weights are out of range",
                got=f"{self.signs.min()}..{self.signs.max()}",
                expected="-1, 0 or +1",
                fix="Binarize the latent weights before making a spec.",
            )
        _require_per_channel("scale", self.scale, self.out_channels)
        _require_per_channel("bias", self.bias, self.out_channels)

    @property
    def out_channels(self) -> int:
        """Co."""
        return int(self.signs.shape[0])

    @property
    def in_channels(self) -> int:
        """Ci, over all groups."""
        return int(self.signs.shape[1]) * self.geometry.group

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(Co, Ci / group, kh, kw)."""
        return tuple(int(n) for n in self.signs.shape)

    @property
    def zero_weights(self) -> int:
        """How many weights are exactly 0."""
        return int(self.signs.size - np.count_nonzero(self.signs))


@dataclass(frozen=True)
class BinaryConvSpec(SignConvSpec):
    """Convolution with binary weights and binary activations (W1A1).

    Y = scale * conv(where(X >= threshold, +1, -1), signs) + bias, where a padded tap is 0.

    Attributes:
        threshold: float32 [Ci].
        centered: X stands for X minus its mean over C, H, W, sample by sample.
        zero_at_threshold: An activation that equals its threshold, or is NaN, is 0 as with
            ``torch.sign``. A bit cannot say so; see :mod:`bitexport.graph.emit`.
    """

    threshold: Float32Array = field(default_factory=lambda: np.zeros(0, np.float32))
    centered: bool = False
    zero_at_threshold: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_per_channel("threshold", self.threshold, self.in_channels)


@dataclass(frozen=True)
class _CodebookSpec:
    codes: npt.NDArray[np.uint16]
    codebook: npt.NDArray[np.float16]
    weight_shape: tuple[int, ...]
    scale: Float32Array
    bias: Float32Array

    def __post_init__(self) -> None:
        _require_shape("codes", self.codes, 2)
        _require_shape("codebook", self.codebook, 2)
        centroids, block = self.codebook.shape
        per_row = int(np.prod(self.weight_shape[1:]))
        if self.codes.shape != (self.weight_shape[0], per_row // block) or per_row % block:
            raise UnsupportedModel(
                "codes do not tile the weight",
                got=f"codes {list(self.codes.shape)} with blocks of {block}",
                expected=f"{per_row} weights a row in whole blocks for {list(self.weight_shape)}",
                fix="Check n_blocks and the block size of this layer in the checkpoint.",
            )
        if self.codes.size and int(self.codes.max()) >= centroids:
            raise UnsupportedModel(
                "a code points past the codebook",
                got=f"code {int(self.codes.max())}",
                expected=f"codes below {centroids}",
                fix="The checkpoint is damaged; quantize the layer again.",
            )
        _require_per_channel("scale", self.scale, self.out_channels)
        _require_per_channel("bias", self.bias, self.out_channels)

    @property
    def out_channels(self) -> int:
        """Co."""
        return int(self.weight_shape[0])

    def weight(self) -> npt.NDArray[np.float16]:
        """The weight that the codes stand for: float16, of shape ``weight_shape``."""
        return self.codebook[self.codes].reshape(self.weight_shape)


@dataclass(frozen=True)
class CodebookConvSpec(_CodebookSpec):
    """Convolution whose weight is product-quantized.

    Y = scale * conv(X, reshape(codebook[codes])) + bias.

    Attributes:
        codes: uint16 [Co, blocks]; block ``b`` of a row covers the weights ``b*d`` to
            ``(b+1)*d`` of the flattened (Ci/group, kh, kw).
        codebook: float16 [K, d], K <= 65536.
        weight_shape: (Co, Ci / group, kh, kw).
        scale: float32 [Co].
        bias: float32 [Co].
        geometry: Strides, pads, dilations, group.

    Raises:
        UnsupportedModel: Codes do not tile the weight, or point past the codebook.
    """

    geometry: ConvGeometry = field(default_factory=ConvGeometry)


@dataclass(frozen=True)
class CodebookLinearSpec(_CodebookSpec):
    """Linear layer whose weight is product-quantized; ``weight_shape`` is (Co, Ci).

    Y = scale * (X @ reshape(codebook[codes]).T) + bias.
    """


@dataclass(frozen=True)
class CodebookConvTransposeSpec(_CodebookSpec):
    """Transposed convolution whose weight is product-quantized, without overlaps.

    Each input pixel becomes kh x kw output pixels of its own: strides equal the kernel's size,
    nothing is padded, dilated or grouped. ``weight_shape`` is (Ci, Co, kh, kw), so that a row of
    ``codes`` belongs to an input channel.

    Raises:
        UnsupportedModel: Codes do not tile the weight, or point past the codebook.
    """

    @property
    def out_channels(self) -> int:
        """Co."""
        return int(self.weight_shape[1])

    def parts(self) -> tuple[CodebookConvSpec, ...]:
        """The layer as 1x1 convolutions side by side, one for each weight of a centroid.

        Position t of a row is output channel t // taps and tap t % taps, with taps = kh * kw.
        Block b of the codes covers t = b*d to (b+1)*d - 1, hence convolution c computes the
        positions b*d + c from the transposed codes and the column c of the codebook. All parts
        have the same codes.
        """
        in_channels, _, height, width = self.weight_shape
        blocks, block = self.codes.shape[1], self.codebook.shape[1]
        channels = np.arange(blocks * block).reshape(blocks, block) // (height * width)
        return tuple(
            CodebookConvSpec(
                codes=np.ascontiguousarray(self.codes.T),
                codebook=self.codebook[:, column : column + 1],
                weight_shape=(blocks, in_channels, 1, 1),
                scale=self.scale[channels[:, column]],
                bias=self.bias[channels[:, column]],
            )
            for column in range(block)
        )

    def depth_order(self) -> npt.NDArray[np.int64]:
        """Where the channels that ONNX's DepthToSpace (DCR) wants stand in the parts' outputs.

        int64 [kh * kw * Co]; DepthToSpace wants tap-major channels, tap * Co + co, and the
        outputs of the parts, concatenated, have position b*d + c at c * blocks + b.
        """
        _, out_channels, height, width = self.weight_shape
        taps, (_, block) = height * width, self.codebook.shape
        position = np.arange(out_channels * taps).reshape(out_channels, taps).T.ravel()
        order: npt.NDArray[np.int64] = position % block * self.codes.shape[1] + position // block
        return order


LayerSpec: TypeAlias = (
    SignConvSpec
    | BinaryConvSpec
    | CodebookConvSpec
    | CodebookConvTransposeSpec
    | CodebookLinearSpec
)


def _require_array(name: str, array: object) -> None:
    if not isinstance(array, np.ndarray):
        raise UnsupportedModel(
            f"{name} is no numpy array",
            got=type(array).__name__,
            expected="numpy.ndarray",
            fix="Of a tensor give tensor.detach().cpu().numpy().",
        )


def _require_shape(name: str, array: npt.NDArray[Any], rank: int) -> None:
    _require_array(name, array)
    if array.ndim != rank or 0 in array.shape:
        raise UnsupportedModel(
            f"{name} has a wrong shape",
            got=list(array.shape),
            expected=f"{rank} non-empty dimensions",
            fix="Check the layer's shape in the checkpoint.",
        )


def _require_per_channel(name: str, array: Float32Array, channels: int) -> None:
    _require_array(name, array)
    if array.shape != (channels,):
        raise UnsupportedModel(
            f"{name} has a wrong shape",
            got=list(array.shape),
            expected=[channels],
            fix="Give one value per channel.",
        )
    if array.dtype != np.float32:
        raise UnsupportedModel(
            f"{name} has a wrong type",
            got=str(array.dtype),
            expected="float32",
            fix=f"Give {name}.astype(np.float32).",
        )
    if not np.isfinite(array).all() and name != "threshold":
        raise UnsupportedModel(
            f"{name} is not finite",
            got=f"{int((~np.isfinite(array)).sum())} NaN or infinite values",
            expected="finite values",
            fix="The checkpoint is damaged or its training diverged; use an earlier one.",
        )
