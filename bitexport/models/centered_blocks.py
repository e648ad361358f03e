"""What SiMaN's and RBNN's networks are made of: centered 1-bit convolutions and residual blocks.

Both systems subtract the mean over C, H, W from each sample's activations before the sign, and
scale each filter by a learned factor: Lin et al., "Rotated Binary Neural Network", NeurIPS
2020, and "SiMaN: Sign-to-Magnitude Network Binarization", TPAMI 2022. Upstream lmbxmu/RBNN and
lmbxmu/SiMaN, ``modules/binarized_modules.py``.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from bitexport.errors import UnsupportedModel
from bitexport.layers import BinaryConv2d, SignConv2d

__all__ = [
    "Activation",
    "NormalizedSignConv2d",
    "ResidualBlock",
    "Shortcut",
    "activation",
    "centered_conv",
    "pooled_features",
]

Activation = Literal["none", "relu", "hardtanh", "prelu"]
Shortcut = Literal["zero-pad", "binary", "float"]


class NormalizedSignConv2d(nn.Module):
    """1-bit weights on real, normalized activations: upstream's ``--a32``.

        Y = alpha * conv((x - mean) / std, sign(weight))

    Mean and standard deviation (unbiased, without eps) run over C, H, W of each sample.

    Args:
        in_channels: Ci.
        out_channels: Co.
        kernel_size: Height and width of the kernel.
        **conv: stride, padding (zeros only) of ``torch.nn.Conv2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        **conv: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        self.conv = SignConv2d(in_channels, out_channels, kernel_size, scale_rule="learned", **conv)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        values = x.shape[1] * x.shape[2] * x.shape[3]
        centered = x - x.mean(dim=(1, 2, 3), keepdim=True)
        # Not Tensor.std, which torch exports as a second centering and a computed Expand.
        variance = centered.square().mean(dim=(1, 2, 3), keepdim=True) * (values / (values - 1))
        return cast(Tensor, self.conv(centered / variance.sqrt()))


class ResidualBlock(nn.Module):
    """Two centered 1-bit convolutions with one shortcut around both, or one around each.

        around both:  act2(bn2(conv2(act1(bn1(conv1(x))))) + shortcut(x))
        around each:  h = act1(bn1(conv1(x)) + shortcut(x));  act2(bn2(conv2(h)) + h)

    Args:
        in_channels: Ci.
        out_channels: Co.
        stride: Of the first convolution and of the shortcut.
        nonlinearity: After each sum or BatchNorm above; a PReLU has one slope per channel.
        shortcut: ``"zero-pad"``: every second pixel, and Co/4 zero channels on both sides (He
            et al., "Deep Residual Learning", option A; needs Co = 2 Ci); ``"binary"``: a
            centered 1-bit 1x1 convolution and BatchNorm; ``"float"``: the same in full
            precision. The identity where neither size nor channels change.
        shortcut_name: Name of the shortcut module.
        per_conv: One shortcut around each convolution.
        binary_activations: False for 1-bit weights with real activations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        nonlinearity: Activation,
        shortcut: Shortcut,
        shortcut_name: str = "shortcut",
        per_conv: bool = False,
        binary_activations: bool = True,
    ) -> None:
        super().__init__()
        self.per_conv = per_conv
        self.shortcut_name = shortcut_name
        self.conv1 = centered_conv(
            in_channels, out_channels, 3, stride=stride, binary_activations=binary_activations
        )
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.nonlinear1 = activation(nonlinearity, out_channels)
        self.conv2 = centered_conv(
            out_channels, out_channels, 3, binary_activations=binary_activations
        )
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.nonlinear2 = activation(nonlinearity, out_channels)
        around: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            around = _shortcut(shortcut, in_channels, out_channels, stride, binary_activations)
        self.add_module(shortcut_name, around)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        shortcut = self.get_submodule(self.shortcut_name)(x)
        h = self.bn1(self.conv1(x))
        if self.per_conv:
            h = shortcut = self.nonlinear1(h + shortcut)
        else:
            h = self.nonlinear1(h)
        return cast(Tensor, self.nonlinear2(self.bn2(self.conv2(h)) + shortcut))


class _ZeroPadShortcut(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels, self.channels))


def centered_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    binary_activations: bool = True,
) -> nn.Module:
    """A 1-bit convolution, padded to keep the size at stride 1: [N, Ci, H, W] -> [N, Co, ., .]."""
    padding = kernel_size // 2
    if not binary_activations:
        return NormalizedSignConv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding
        )
    return BinaryConv2d(
        in_channels,
        out_channels,
        kernel_size,
        scale_rule="learned",
        centered=True,
        stride=stride,
        padding=padding,
    )


def activation(name: Activation, channels: int) -> nn.Module:
    """The nonlinearity called ``name``, for ``channels`` channels."""
    if name == "prelu":
        return nn.PReLU(channels)
    if name == "hardtanh":
        return nn.Hardtanh()
    return nn.ReLU() if name == "relu" else nn.Identity()


def pooled_features(x: Tensor, window: int, stride: int) -> Tensor:
    """Average pooling that leaves one pixel: float [N, C, H, W] -> float [N, C].

    Raises:
        UnsupportedModel: The image was too small or too large for it.
    """
    height, width = x.shape[2:]
    if min(height, width) >= window:
        pooled = F.avg_pool2d(x, window, stride=stride)
        if tuple(pooled.shape[2:]) == (1, 1):
            return pooled.flatten(1)
    raise UnsupportedModel(
        "the input size does not fit the network's pooling",
        got=f"{height}x{width} pixels before it",
        expected=f"pixels that a window of {window}x{window} reduces to one",
        fix="Use the input size that the network was trained with.",
    )


def _shortcut(
    kind: Shortcut, in_channels: int, out_channels: int, stride: int, binary_activations: bool
) -> nn.Module:
    if kind == "zero-pad":
        return _ZeroPadShortcut(out_channels // 4)
    conv: nn.Module = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    if kind == "binary":
        conv = centered_conv(
            in_channels, out_channels, 1, stride=stride, binary_activations=binary_activations
        )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
