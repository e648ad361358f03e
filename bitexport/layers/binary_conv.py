"""Convolution with 1-bit weights and 1-bit activations."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from bitexport.layers.estimator import SignEstimator, StraightThrough
from bitexport.layers.sign_conv import ScaleRule, SignConv2d

__all__ = ["BinaryConv2d", "SignInputConv2d"]


class BinaryConv2d(SignConv2d):
    """Convolution of sign activations with ``scale * sign(latent)``.

        Y = scale * conv(sign(x - mean + shift), sign(weight)) + bias

    A padded tap contributes 0, as the padding comes after the sign. The sums of +-1 are exact
    integers, so the scale is applied to them and not to the weight.

    Args:
        in_channels: Ci.
        out_channels: Co.
        kernel_size: Height and width of the kernel.
        scale_rule: As in :class:`SignConv2d`.
        centered: Subtract the mean over C, H, W of each sample before the sign; Lin et al.,
            "SiMaN" and "Rotated Binary Neural Network".
        shifted: Add a learned shift per channel before the sign, the parameter ``shift``,
            float [1, Ci, 1, 1]; the RSign of Liu et al., "ReActNet", ECCV 2020, eq. 2.
        bias: Add a learned bias, float [Co].
        **conv: stride, padding (zeros only), dilation, groups of ``torch.nn.Conv2d``.
    """

    shift: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        scale_rule: ScaleRule = "filter-mean",
        centered: bool = False,
        shifted: bool = False,
        bias: bool = False,
        **conv: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, scale_rule=scale_rule, **conv)
        self.centered = centered
        shift = nn.Parameter(torch.zeros(1, in_channels, 1, 1)) if shifted else None
        self.register_parameter("shift", shift)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        if self.centered:
            x = x - x.mean(dim=(1, 2, 3), keepdim=True)
        if self.shift is not None:
            x = x + self.shift
        scale = self.scale()
        signs = self.estimator.weight_signs(self.weight, scale)
        accumulator = self._conv_forward(self.estimator.activation_signs(x), signs, None)
        y = accumulator * scale.reshape(1, -1, 1, 1)
        return cast(Tensor, y if self.bias is None else y + self.bias.reshape(1, -1, 1, 1))


class SignInputConv2d(nn.Conv2d):
    """Convolution of sign activations with real weights: the first of ReActNet's two steps.

        Y = conv(sign(x + shift), weight)

    Args:
        in_channels: Ci.
        out_channels: Co.
        kernel_size: Height and width of the kernel.
        shifted: As in :class:`BinaryConv2d`.
        **conv: stride, padding (zeros only), dilation, groups of ``torch.nn.Conv2d``.
    """

    shift: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        shifted: bool = False,
        **conv: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=False, **conv)
        shift = nn.Parameter(torch.zeros(1, in_channels, 1, 1)) if shifted else None
        self.register_parameter("shift", shift)
        self.estimator: SignEstimator = StraightThrough()

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        if self.shift is not None:
            x = x + self.shift
        signs = self.estimator.activation_signs(x)
        return cast(Tensor, self._conv_forward(signs, self.weight, None))
