"""1-bit Wide ResNet for small images.

McDonnell, "Training wide residual networks for deployment using a single bit for each
weight", ICLR 2018. Pre-activation blocks, BatchNorm without affine parameters except for the
last one, shortcuts without parameters, and a 1x1 convolution in place of a linear layer. The
weights of the blocks are signs; the stem, the last convolution and all activations are real.

    x -> conv0 -> group0 -> group1 -> group2 -> bn, ReLU -> conv_last -> bn_last -> mean -> logits
    block: x + conv1(relu(bn1(conv0(relu(bn0(x))))))
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from bitexport.layers import SignConv2d

__all__ = ["GROUP_WIDTHS", "WideResNet"]

GROUP_WIDTHS = (16, 32, 64)


class WideResNet(nn.Module):
    """WRN-d-k with 1-bit (or full-precision) weights.

    Args:
        depth: d = 6n + 2, with n blocks a group.
        width: k; the groups have 16k, 32k and 64k channels, so k is a whole number of sixteenths.
        num_classes: Length of the logits.
        in_channels: Channels of the input image.
        binarize: False gives the full-precision twin.
    """

    def __init__(
        self,
        depth: int,
        width: float,
        num_classes: int,
        *,
        in_channels: int = 3,
        binarize: bool = True,
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        groups = [int(base * width) for base in GROUP_WIDTHS]
        if blocks < 1 or depth != 6 * blocks + 2 or groups[0] < 1 or groups[0] != 16 * width:
            raise ValueError(
                f"a WRN-d-k has d = 6n + 2 >= 8 and k in sixteenths, not WRN-{depth}-{width}"
            )
        channels = [groups[0], *groups]
        self.conv0 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        for index, (before, after) in enumerate(pairwise(channels)):
            self.add_module(f"group{index}", _group(before, after, blocks, binarize))
        self.bn = nn.BatchNorm2d(channels[-1], affine=False)
        self.conv_last = nn.Conv2d(channels[-1], num_classes, 1, bias=False)
        self.bn_last = nn.BatchNorm2d(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C, H, W] -> logits, float [N, num_classes]."""
        h = self.conv0(x)
        for index in range(len(GROUP_WIDTHS)):
            h = self.get_submodule(f"group{index}")(h)
        h = self.bn_last(self.conv_last(F.relu(self.bn(h))))
        return cast(Tensor, h.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, binarize: bool) -> None:
        super().__init__()
        self.extra_channels = out_channels - in_channels
        stride = 2 if self.extra_channels else 1
        self.bn0 = nn.BatchNorm2d(in_channels, affine=False)
        self.conv0 = _conv3x3(in_channels, out_channels, stride, binarize)
        self.bn1 = nn.BatchNorm2d(out_channels, affine=False)
        self.conv1 = _conv3x3(out_channels, out_channels, 1, binarize)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(F.relu(self.bn0(x)))
        h = self.conv1(F.relu(self.bn1(h)))
        return cast(Tensor, h + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.extra_channels:
            return x
        pooled = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=True)
        return F.pad(pooled, (0, 0, 0, 0, 0, self.extra_channels))


def _conv3x3(in_channels: int, out_channels: int, stride: int, binarize: bool) -> nn.Module:
    if binarize:
        return SignConv2d(in_channels, out_channels, 3, stride=stride, padding=1)
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _group(in_channels: int, out_channels: int, blocks: int, binarize: bool) -> nn.Sequential:
    inputs = [in_channels] + [out_channels] * (blocks - 1)
    return nn.Sequential(
        OrderedDict(
            (f"block{index}", _Block(channels, out_channels, binarize))
            for index, channels in enumerate(inputs)
        )
    )
