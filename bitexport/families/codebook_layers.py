"""Read the quantized layers of kill-the-bits files; the layout is told in ``kill_the_bits.py``."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.state import require_finite
from bitexport.layers import CodebookConv2d, CodebookConvTranspose2d, CodebookLinear

__all__ = ["CODES_SUFFIX", "dense_tensors", "quantized_layers", "replace_layer"]

CODES_SUFFIX = ".assignments"
_QUANTIZED_FIELDS = ("centroids", "assignments", "n_blocks", "is_conv", "k")
_CODE_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def quantized_layers(checkpoint: Checkpoint) -> list[str]:
    """Paths of the layers that the file holds as codes."""
    keys = checkpoint.values
    return [key.removesuffix(CODES_SUFFIX) for key in keys if key.endswith(CODES_SUFFIX)]


def dense_tensors(checkpoint: Checkpoint, quantized: list[str]) -> dict[str, Tensor]:
    """The tensors that belong to no quantized layer."""
    taken = {f"{name}.{field}" for name in quantized for field in _QUANTIZED_FIELDS}
    return {key: v for key, v in checkpoint.tensors().items() if key not in taken}


def replace_layer(module: nn.Module, name: str, checkpoint: Checkpoint) -> None:
    """Put the codebook layer ``name`` where the architecture has a dense one.

    Args:
        module: Changed in place.
        name: Path of the layer, in the module and in the file.
        checkpoint: Holds its ``centroids`` and ``assignments``.

    Raises:
        UnsupportedModel: The architecture has no such layer, or the codes do not fit it.
    """
    parent_name, _, attribute = name.rpartition(".")
    try:
        dense = module.get_submodule(name)
    except AttributeError:
        dense = None
    if not isinstance(dense, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        raise UnsupportedModel(
            "the checkpoint quantizes a layer that the architecture lacks",
            got=repr(name),
            expected="convolutions and linear layers of the architecture",
            fix="Name the architecture with --arch.",
        )
    codebook = checkpoint.tensor(f"{name}.centroids")
    codes = _codes(name, checkpoint, codebook, dense.weight.shape)
    bias = None if dense.bias is None else dense.bias.detach()
    layer: nn.Module
    if isinstance(dense, nn.Linear):
        shape = (dense.out_features, dense.in_features)
        layer = CodebookLinear(codes, codebook, shape, bias=bias)
    else:
        layer_type = CodebookConv2d if isinstance(dense, nn.Conv2d) else CodebookConvTranspose2d
        layer = layer_type(
            codes,
            codebook,
            cast(tuple[int, int, int, int], tuple(dense.weight.shape)),
            bias=bias,
            stride=dense.stride,
            padding=dense.padding,
            dilation=dense.dilation,
            groups=dense.groups,
        )
    setattr(module.get_submodule(parent_name), attribute, layer)


def _codes(name: str, checkpoint: Checkpoint, codebook: Tensor, shape: torch.Size) -> Tensor:
    """The codes [rows, blocks] of a layer, checked against its codebook and its weight's shape."""
    require_finite(f"{name}.centroids", codebook)
    assignments = checkpoint.tensor(f"{name}.assignments")
    rows, row = shape[0], shape[1:].numel()
    if codebook.dim() != 2 or 0 in codebook.shape or row % codebook.shape[1]:
        raise UnsupportedModel(
            f"layer {name!r} has a codebook of a wrong shape",
            got=list(codebook.shape),
            expected=f"[K, d] with d a divisor of {row}",
            fix="Check the file, or name the architecture with --arch.",
        )
    blocks = row // codebook.shape[1]
    stated = checkpoint.values.get(f"{name}.n_blocks", blocks)
    # The file may hold anything here, a tensor of many elements for instance.
    shown = stated if isinstance(stated, int) else type(stated).__name__
    if assignments.dtype not in _CODE_DTYPES:
        raise UnsupportedModel(
            f"layer {name!r} has codes of a wrong type",
            got=assignments.dtype,
            expected="integers",
            fix="Check the file.",
        )
    if assignments.dim() != 1:
        raise UnsupportedModel(
            f"layer {name!r} has codes of a wrong shape",
            got=list(assignments.shape),
            expected=f"[{blocks * rows}], with the output channel running fastest",
            fix="Save the codes in one dimension, block after block.",
        )
    if assignments.numel() != blocks * rows or shown != blocks:
        raise UnsupportedModel(
            f"layer {name!r} has a wrong number of codes",
            got=f"{assignments.numel()} codes, n_blocks {shown}",
            expected=f"{blocks * rows} codes in {blocks} blocks for {list(shape)}",
            fix="Check the file, or name the architecture with --arch.",
        )
    codes = assignments.long()
    if int(codes.min()) < 0 or int(codes.max()) >= codebook.shape[0]:
        raise UnsupportedModel(
            f"layer {name!r} has a code past its codebook",
            got=f"codes {int(codes.min())}..{int(codes.max())}",
            expected=f"0..{codebook.shape[0] - 1}",
            fix="The file is damaged; quantize the layer again.",
        )
    return codes.reshape(blocks, rows).T.contiguous()
