"""Convolution with 1-bit weights and real activations."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from bitexport.layers.estimator import SignEstimator, StraightThrough

__all__ = ["ScaleRule", "SignConv2d"]

ScaleRule = Literal["he", "filter-mean", "learned"]


class SignConv2d(nn.Conv2d):
    """Convolution whose weight is ``scale * sign(latent)``, without a bias.

    The latent weight is the parameter ``weight``, float [Co, Ci/group, kh, kw]; only its signs
    (``torch.sign``: 0 stays 0) and its scale reach the output. How the gradient passes the sign is
    up to the attribute ``estimator``.

    Args:
        in_channels: Ci.
        out_channels: Co.
        kernel_size: Height and width of the kernel.
        scale_rule: ``"he"``: one constant sqrt(2 / (Ci/group * kh * kw)), McDonnell, "Training
            wide residual networks for deployment using a single bit for each weight", ICLR
            2018, eq. 1; ``"filter-mean"``: mean absolute latent weight of each filter,
            Rastegari et al., "XNOR-Net", ECCV 2016, eq. 6; ``"learned"``: the parameter
            ``alpha``, float [Co, 1, 1], which may be negative.
        **conv: stride, padding (zeros only), dilation, groups of ``torch.nn.Conv2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        scale_rule: ScaleRule = "he",
        **conv: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=False, **conv)
        self.scale_rule = scale_rule
        self.estimator: SignEstimator = StraightThrough()
        if scale_rule == "learned":
            self.alpha = nn.Parameter(torch.ones(out_channels, 1, 1))

    def scale(self) -> Tensor:
        """Scale of each filter: float [Co, 1, 1, 1]; only a learned one has a gradient."""
        if self.scale_rule == "he":
            he = math.sqrt(2 / self.weight[0].numel())
            return self.weight.new_full((self.out_channels, 1, 1, 1), he)
        if self.scale_rule == "learned":
            return self.alpha.unsqueeze(-1)
        return self.weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        scale = self.scale()
        weight = scale * self.estimator.weight_signs(self.weight, scale)
        return cast(Tensor, self._conv_forward(x, weight, None))

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"{self.in_channels}, {self.out_channels}, scale_rule={self.scale_rule}"
