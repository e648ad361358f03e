"""From a dense layer to one with a codebook, and the inputs that its blocks see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitexport.errors import UnsupportedModel
from bitexport.layers import CodebookConv2d, CodebookLinear

__all__ = ["BlockPlan", "block_inputs", "codebook_layer", "codebook_size", "fold_batch_norm"]

Dense = nn.Conv2d | nn.Linear
# A cluster must have so many blocks on average, or the codebook is larger than what it saves.
_BLOCKS_PER_CENTROID = 4


@dataclass(frozen=True)
class BlockPlan:
    """Block sizes and numbers of centroids: section 4.1 of the paper.

    Attributes:
        spatial: Block size of kernels larger than 1x1: 9 (small blocks) or 18 (large).
        pointwise: Block size of 1x1 convolutions.
        linear: Block size of the linear layer.
        centroids: K of convolutions.
        linear_centroids: K of the linear layer.
    """

    spatial: int = 9
    pointwise: int = 4
    linear: int = 4
    centroids: int = 256
    linear_centroids: int = 2048

    def block_size(self, name: str, layer: Dense) -> int:
        """Weights in a block.

        Raises:
            UnsupportedModel: They do not divide a filter.
        """
        if isinstance(layer, nn.Linear):
            size = self.linear
        else:
            size = self.spatial if layer.weight[0, 0].numel() > 1 else self.pointwise
        row = layer.weight[0].numel()
        if row % size:
            raise UnsupportedModel(
                f"layer {name!r} cannot be cut into blocks",
                got=f"filters of {row} weights",
                expected=f"a multiple of {size}",
                fix="Choose other --blocks.",
            )
        return size


def codebook_size(plan: BlockPlan, layer: Dense, block: int) -> int:
    """K: the plan's, or the largest power of two that leaves more than four blocks a centroid."""
    wanted = plan.linear_centroids if isinstance(layer, nn.Linear) else plan.centroids
    blocks = layer.weight.numel() / block
    most = 2 ** (math.ceil(math.log2(blocks / _BLOCKS_PER_CENTROID)) - 1)
    return int(max(1, min(wanted, most)))


def block_inputs(layer: Dense, inputs: Tensor, block: int, rows: int) -> Tensor:
    """What the layer's blocks are multiplied with: A of the EM, float [~rows * blocks, d].

    Args:
        layer: The dense layer.
        inputs: Its inputs, float [N, Ci, H, W] or [N, Ci].
        block: d.
        rows: Input positions to draw, without replacement.
    """
    if isinstance(layer, nn.Conv2d):
        inputs = _patches(layer, inputs)
    chosen = torch.randperm(len(inputs))[:rows].to(inputs.device)
    return inputs[chosen].reshape(-1, block)


def codebook_layer(
    layer: Dense, codebook: Tensor, codes: Tensor
) -> CodebookConv2d | CodebookLinear:
    """The layer with ``codebook[codes]`` for a weight; codes int64 [Co * blocks], by filters.

    The gradient of a centroid is the mean of its blocks' gradients, as the paper finetunes them
    (eq. 6); the sum would grow with the cluster.
    """
    out_channels = layer.weight.shape[0]
    table = codes.reshape(out_channels, -1)
    bias = None if layer.bias is None else layer.bias.detach()
    new: CodebookConv2d | CodebookLinear
    if isinstance(layer, nn.Conv2d):
        new = CodebookConv2d(
            table,
            codebook,
            cast(tuple[int, int, int, int], tuple(layer.weight.shape)),
            bias=bias,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )
    else:
        new = CodebookLinear(table, codebook, (layer.out_features, layer.in_features), bias=bias)
    counts = torch.bincount(codes, minlength=len(codebook)).clamp_min(1)[:, None]
    new.codebook.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: gradient / counts.to(gradient)
    )
    return new


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> None:
    """Move each BatchNorm's statistics into its weight and bias, and round those to float16.

    gamma' = gamma * sqrt(1 + eps) / sqrt(var + eps),    mean' = 0,    var' = 1,
    beta' = beta - gamma * mean / sqrt(var + eps): what kill-the-bits' files hold.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.BatchNorm2d):
            continue
        mean, variance = cast(Tensor, layer.running_mean), cast(Tensor, layer.running_var)
        scale = layer.weight.double() / (variance.double() + layer.eps).sqrt()
        bias = layer.bias.double() - scale * mean.double()
        layer.weight.copy_((scale * math.sqrt(1 + layer.eps)).half())
        layer.bias.copy_(bias.half())
        mean.zero_()
        variance.fill_(1)


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """The windows that a convolution sees, float [N * positions * groups, Ci/group * kh * kw]."""
    geometry: Any = {
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
    }
    windows = F.unfold(inputs, **geometry).transpose(1, 2)
    return windows.reshape(-1, layer.weight[0].numel())
