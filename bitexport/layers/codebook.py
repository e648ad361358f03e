"""Layers with product-quantized weights: a codebook of centroids, and one code per block.

Stock et al., "And the Bit Goes Down: Revisiting the Quantization of Neural Networks", ICLR
2020, section 3. A weight is flattened to rows [Co, Ci/group * kh * kw]; each row is cut into
blocks of d weights, and each block is replaced by its centroid.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CodebookConv2d", "CodebookConvTranspose2d", "CodebookLinear"]


class CodebookConv2d(nn.Module):
    """Convolution whose weight is ``codebook[codes]``.

    Args:
        codes: int64 [Co, blocks].
        codebook: float [K, d]; float16 values are kept exactly.
        weight_shape: (Co, Ci/group, kh, kw), with blocks * d = Ci/group * kh * kw.
        bias: float [Co], or None.
        **conv: stride, padding, dilation, groups as ``torch.nn.functional.conv2d`` takes them.
    """

    codes: Tensor

    def __init__(
        self,
        codes: Tensor,
        codebook: Tensor,
        weight_shape: tuple[int, int, int, int],
        bias: Tensor | None = None,
        **conv: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        self.register_buffer("codes", codes.long())
        self.codebook = nn.Parameter(codebook.float())
        self.bias = None if bias is None else nn.Parameter(bias.float())
        self.weight_shape = tuple(weight_shape)
        self.conv = conv

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, float [Co, Ci/group, kh, kw]."""
        return self.codebook[self.codes].reshape(self.weight_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        return F.conv2d(x, self.weight, self.bias, **self.conv)


class CodebookConvTranspose2d(CodebookConv2d):
    """Transposed convolution whose weight is ``codebook[codes]``.

    Arguments are those of :class:`CodebookConv2d`, with a weight [Ci, Co/group, kh, kw] as torch
    has it, so that a row of codes belongs to an input channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci, H, W] -> float [N, Co, Ho, Wo]."""
        return F.conv_transpose2d(x, self.weight, self.bias, **self.conv)


class CodebookLinear(nn.Module):
    """Linear layer whose weight is ``codebook[codes]``.

    Args:
        codes: int64 [Co, blocks].
        codebook: float [K, d].
        weight_shape: (Co, Ci), with blocks * d = Ci.
        bias: float [Co], or None.
    """

    codes: Tensor

    def __init__(
        self,
        codes: Tensor,
        codebook: Tensor,
        weight_shape: tuple[int, int],
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("codes", codes.long())
        self.codebook = nn.Parameter(codebook.float())
        self.bias = None if bias is None else nn.Parameter(bias.float())
        self.weight_shape = tuple(weight_shape)

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, float [Co, Ci]."""
        return self.codebook[self.codes].reshape(self.weight_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, Ci] -> float [N, Co]."""
        return F.linear(x, self.weight, self.bias)
