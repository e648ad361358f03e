"""XNOR-Net: networks of BatchNorm, sign, scaled binary convolution, ReLU.

Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
ECCV 2016, sections 3.2 and 3.3 (without the activations' scale K), on AlexNet, on the
network-in-network of its CIFAR-10 port and on LeNet-5. A binary linear layer is a convolution
over the whole of its input, so that the networks hold one kind of binary layer.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from bitexport.layers import BinaryConv2d
from bitexport.models.centered_blocks import pooled_features

__all__ = ["AlexNet", "AlexNetWidths", "BinaryBlock", "LeNet5", "NetworkInNetwork"]

_EPS = 1e-4
_LAST_EPS = 1e-3
_NIN_WINDOW = 8


class BinaryBlock(nn.Module):
    """BatchNorm -> sign -> scaled binary convolution with a bias -> ReLU.

    Args:
        in_channels: Ci.
        out_channels: Co.
        kernel_size: Side of the kernel.
        padding: Zeros on each side, after the sign.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels, eps=_EPS)
        self.conv = BinaryConv2d(in_channels, out_channels, kernel_size, padding=padding, bias=True)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        return cast(Tensor, self.relu(self.conv(self.bn(x))))


@dataclass(frozen=True)
class AlexNetWidths:
    """Channels of AlexNet's five convolutions and two hidden linear layers."""

    features: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    hidden: tuple[int, int] = (4096, 4096)
    positions: int = 36


class AlexNet(nn.Module):
    """AlexNet of XNOR-Net for images of 227 x 227.

    Args:
        num_classes: Length of the logits.
        widths: Channels, and the pixels that the last pooling leaves.
    """

    def __init__(self, num_classes: int, widths: AlexNetWidths | None = None) -> None:
        super().__init__()
        widths = widths or AlexNetWidths()
        c = widths.features
        self.features = nn.Sequential(
            nn.Conv2d(3, c[0], 11, stride=4),
            nn.BatchNorm2d(c[0], eps=_EPS),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            BinaryBlock(c[0], c[1], 5, padding=2),
            nn.MaxPool2d(3, stride=2),
            BinaryBlock(c[1], c[2], 3, padding=1),
            BinaryBlock(c[2], c[3], 3, padding=1),
            BinaryBlock(c[3], c[4], 3, padding=1),
            nn.MaxPool2d(3, stride=2),
        )
        # Each pixel of the last feature map is a channel of its own to the linear layers.
        flat = c[4] * widths.positions
        self.classifier = nn.Sequential(
            BinaryBlock(flat, widths.hidden[0], 1),
            BinaryBlock(widths.hidden[0], widths.hidden[1], 1),
            nn.BatchNorm2d(widths.hidden[1], eps=_LAST_EPS),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(widths.hidden[1], num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, 227, 227] -> logits, float [N, num_classes]."""
        h = self.features(x)
        return cast(Tensor, self.classifier(h.flatten(1)[:, :, None, None]))


class NetworkInNetwork(nn.Module):
    """Network-in-network of XNOR-Net's CIFAR-10 port, for images of 32 x 32.

    Args:
        num_classes: Length of the logits.
        widths: Output channels of the nine layers before the last.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, ...] = (192, 160, 96, 192, 192, 192, 192, 192),
    ) -> None:
        super().__init__()
        c = widths
        self.xnor = nn.Sequential(
            nn.Conv2d(3, c[0], 5, padding=2),
            nn.BatchNorm2d(c[0], eps=_EPS, affine=False),
            nn.ReLU(),
            BinaryBlock(c[0], c[1], 1),
            BinaryBlock(c[1], c[2], 1),
            nn.MaxPool2d(3, stride=2, padding=1),
            BinaryBlock(c[2], c[3], 5, padding=2),
            BinaryBlock(c[3], c[4], 1),
            BinaryBlock(c[4], c[5], 1),
            nn.AvgPool2d(3, stride=2, padding=1),
            BinaryBlock(c[5], c[6], 3, padding=1),
            BinaryBlock(c[6], c[7], 1),
            nn.BatchNorm2d(c[7], eps=_EPS, affine=False),
            nn.Conv2d(c[7], num_classes, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, 32, 32] -> logits, float [N, num_classes]."""
        return pooled_features(self.xnor(x), _NIN_WINDOW, 1)


class LeNet5(nn.Module):
    """LeNet-5 of XNOR-Net's MNIST port, for images of 28 x 28 with one channel.

    Args:
        num_classes: Length of the logits.
        widths: Output channels of the two convolutions and the hidden linear layer.
    """

    def __init__(self, num_classes: int, widths: tuple[int, int, int] = (20, 50, 500)) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, widths[0], 5),
                bn_conv1=nn.BatchNorm2d(widths[0], eps=_EPS, affine=False),
                relu_conv1=nn.ReLU(),
                pool1=nn.MaxPool2d(2, stride=2),
                bin_conv2=BinaryBlock(widths[0], widths[1], 5),
                pool2=nn.MaxPool2d(2, stride=2),
                bin_ip1=BinaryBlock(widths[1], widths[2], 4),
                flatten=nn.Flatten(),
                ip2=nn.Linear(widths[2], num_classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 1, 28, 28] -> logits, float [N, num_classes]."""
        return cast(Tensor, self.layers(x))
