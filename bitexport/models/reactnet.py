"""ReActNet: binary networks with learned shifts around sign and PReLU.

Liu et al., "ReActNet: Towards Precise Binary Neural Network with Generalized Activation
Functions", ECCV 2020, sections 4.1 to 4.3. RSign is sign(x + shift), a part of the binary
convolution; RPReLU is PReLU between two shifts.

    ResNet block:    RPReLU(BN(conv3x3(RSign x)) + shortcut(x))
    MobileNet block: y = RPReLU(BN(conv3x3(RSign x)) + pooled x)
                     z = RPReLU(BN(conv1x1(RSign y)) + y)         y twice where channels double
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bitexport.models.bireal import BiRealNet, pooled_shortcut, sign_activated_conv

__all__ = [
    "REACTNET_A",
    "RPReLU",
    "ReActBlock",
    "ReActNetA",
    "first_doubled",
    "reactnet_resnet",
]

# Channels after the stem and after every block of ReActNet-A.
REACTNET_A = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


class RPReLU(nn.Module):
    """PReLU(x + before) + after, each with one value a channel.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.prelu = nn.PReLU(channels)
        self.after = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C, H, W] -> the same shape."""
        return cast(Tensor, self.prelu(x + self.before) + self.after)


class ReActBlock(nn.Module):
    """Bi-Real Net's block with RSign and RPReLU.

    Args:
        in_channels: Ci.
        out_channels: Co.
        stride: 1, or 2 to halve the image.
        binary_weights: False keeps real weights, as the first step of the training does.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, binary_weights: bool = True
    ) -> None:
        super().__init__()
        self.binary_conv = sign_activated_conv(
            in_channels,
            out_channels,
            3,
            stride=stride,
            shifted=True,
            binary_weights=binary_weights,
        )
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.rprelu = RPReLU(out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.downsample = pooled_shortcut(in_channels, out_channels, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return cast(Tensor, self.rprelu(self.bn1(self.binary_conv(x)) + shortcut))


def reactnet_resnet(
    blocks: Sequence[int], num_classes: int, *, width: int = 64, binary_weights: bool = True
) -> BiRealNet:
    """Bi-Real Net with ReActNet's blocks."""
    return BiRealNet(
        blocks, num_classes, width=width, block=ReActBlock, binary_weights=binary_weights
    )


def first_doubled(channels: Sequence[int]) -> int | None:
    """The first width that differs from the one before it, or None."""
    return next((b for a, b in itertools.pairwise(channels) if a != b), None)


class _MobileBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, binary: bool) -> None:
        super().__init__()
        self.copies = out_channels // in_channels
        self.binary_3x3 = sign_activated_conv(
            in_channels, in_channels, 3, stride=stride, shifted=True, binary_weights=binary
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.pooling = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()
        self.rprelu1 = RPReLU(in_channels)
        self.binary_pw = sign_activated_conv(
            in_channels, out_channels, 1, shifted=True, binary_weights=binary
        )
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.rprelu2 = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.rprelu1(self.bn1(self.binary_3x3(x)) + self.pooling(x))
        wide = y if self.copies == 1 else torch.cat([y] * self.copies, dim=1)
        return cast(Tensor, self.rprelu2(self.bn2(self.binary_pw(y)) + wide))


class _Stem(nn.Module):
    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, out_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.bn1(self.conv1(x)))


class ReActNetA(nn.Module):
    """ReActNet-A, on the plan of MobileNet.

    A block that doubles the channels halves the image, except at one width.

    Args:
        channels: Channels after the stem and after every block; each block keeps or doubles them.
        num_classes: Length of the logits.
        unhalved: The width that is reached without halving the image, 64 in upstream's code; None
            takes the first that the channels double to, as in ReActNet-A.
        binary_weights: False keeps real weights, as the first step of the training does.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        unhalved: int | None = None,
        binary_weights: bool = True,
    ) -> None:
        super().__init__()
        self.feature = nn.ModuleList([_Stem(channels[0])])
        kept = first_doubled(channels) if unhalved is None else unhalved
        for before, after in itertools.pairwise(channels):
            stride = 2 if after not in (before, kept) else 1
            self.feature.append(_MobileBlock(before, after, stride, binary_weights))
        self.pool1 = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] -> logits, float [N, num_classes]."""
        for block in self.feature:
            x = block(x)
        return cast(Tensor, self.fc(self.pool1(x).flatten(1)))
