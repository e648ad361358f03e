"""kill-the-bits: ResNets whose weights are a codebook and codes.

Stock et al., "And the Bit Goes Down", ICLR 2020; upstream facebookresearch/kill-the-bits,
``src/inference.py``. Each quantized layer holds ``centroids`` float16 [K, d], ``assignments``
[blocks * Co] with the output channel running fastest, ``n_blocks``, ``is_conv`` and ``k`` (the
kernel's size):

    weight.flatten(1)[co, j*d:(j+1)*d] = centroids[assignments[j * Co + co]]

BatchNorm layers carry float16 weight and bias only: running mean 0, variance 1, eps 1e-5. The
bias of ``fc`` is a key of its own, ``fc_bias``.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel, LoadOptions
from bitexport.families.state import assign_state, require_finite
from bitexport.layers import CodebookConv2d, CodebookLinear
from bitexport.models.resnet import RESNETS, build_resnet, resnet_of_keys

__all__ = ["KillTheBitsFamily"]

_CODES = ".assignments"
_QUANTIZED_FIELDS = ("centroids", "assignments", "n_blocks", "is_conv", "k")
_DENSE_REASON = "the checkpoint holds this layer unquantized"
_CODE_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_IMAGENET_SHAPE = (3, 224, 224)
# Batch statistics are folded into weight and bias upstream; codebook layers come complete.
_MAY_MISS = ("running_mean", "running_var", ".codes", ".codebook")


class KillTheBitsFamily:
    """Product-quantized torchvision ResNets."""

    name = "kill-the-bits"
    title = "kill-the-bits (product quantization)"
    paper = "https://arxiv.org/abs/1907.05686"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """The torchvision ResNet whose blocks the file has."""
        values = checkpoint.values
        if not any(key.endswith(_CODES) for key in values):
            return None
        return resnet_of_keys(values)

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The ResNet with codebook layers in place of the quantized ones."""
        _check_options(arch, options)
        quantized = [k.removesuffix(_CODES) for k in checkpoint.values if k.endswith(_CODES)]
        module = build_resnet(arch, _num_classes(checkpoint))
        for name in quantized:
            _replace_layer(module, name, checkpoint)
        assign_state(module, _dense_state(checkpoint, quantized), optional=_MAY_MISS)
        dense = {
            name: _DENSE_REASON
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        }
        return LoadedModel(
            module=module.eval(),
            family=self.name,
            arch=arch,
            input_shape=_IMAGENET_SHAPE,
            dense_reasons=dense,
        )


def _check_options(arch: str, options: LoadOptions) -> None:
    if arch not in RESNETS:
        raise UnsupportedModel(
            "unknown kill-the-bits architecture",
            got=arch,
            expected=" or ".join(RESNETS),
            fix="Correct --arch, or leave it out to have it detected.",
        )
    if "binary" in (options.weights, options.activations) or options.weights == "float":
        raise UnsupportedModel(
            "product-quantized weights are neither binary nor float",
            got=f"--weights {options.weights} --activations {options.activations}",
            expected="auto",
            fix="Leave the options out.",
        )


def _num_classes(checkpoint: Checkpoint) -> int:
    key = "fc.bias" if "fc.bias" in checkpoint.values else "fc_bias.bias"
    bias = checkpoint.tensor(key)
    if bias.dim() != 1:
        raise UnsupportedModel(
            f"tensor {key!r} has a wrong shape",
            got=list(bias.shape),
            expected="one dimension",
            fix="Check the file.",
        )
    return int(bias.shape[0])


def _dense_state(checkpoint: Checkpoint, quantized: list[str]) -> dict[str, Tensor]:
    """The tensors that are no codes, under torchvision's names."""
    taken = {f"{name}.{field}" for name in quantized for field in _QUANTIZED_FIELDS}
    state = {k: v for k, v in checkpoint.tensors().items() if k not in taken}
    if "fc_bias.bias" in state:
        state["fc.bias"] = state.pop("fc_bias.bias")
    return state


def _replace_layer(module: nn.Module, name: str, checkpoint: Checkpoint) -> None:
    """Put the codebook layer ``name`` where the architecture has a dense one."""
    parent_name, _, attribute = name.rpartition(".")
    try:
        dense = module.get_submodule(name)
    except AttributeError:
        dense = None
    if not isinstance(dense, nn.Conv2d | nn.Linear):
        raise UnsupportedModel(
            "the checkpoint quantizes a layer that the architecture lacks",
            got=repr(name),
            expected="convolutions and the linear layer of the architecture",
            fix="Name the architecture with --arch.",
        )
    codebook = checkpoint.tensor(f"{name}.centroids")
    codes = _codes(name, checkpoint, codebook, dense.weight.shape)
    layer: nn.Module
    if isinstance(dense, nn.Conv2d):
        layer = CodebookConv2d(
            codes,
            codebook,
            cast(tuple[int, int, int, int], tuple(dense.weight.shape)),
            stride=dense.stride,
            padding=dense.padding,
            dilation=dense.dilation,
            groups=dense.groups,
        )
    else:
        layer = CodebookLinear(
            codes,
            codebook,
            (dense.out_features, dense.in_features),
            bias=dense.bias.detach(),
        )
    setattr(module.get_submodule(parent_name), attribute, layer)


def _codes(name: str, checkpoint: Checkpoint, codebook: Tensor, shape: torch.Size) -> Tensor:
    """The codes [Co, blocks] of a layer, checked against its codebook and its weight's shape."""
    require_finite(f"{name}.centroids", codebook)
    assignments = checkpoint.tensor(f"{name}.assignments")
    out_channels, row = shape[0], shape[1:].numel()
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
    if assignments.numel() != blocks * out_channels or shown != blocks:
        raise UnsupportedModel(
            f"layer {name!r} has a wrong number of codes",
            got=f"{assignments.numel()} codes, n_blocks {shown}",
            expected=f"{blocks * out_channels} codes in {blocks} blocks for {list(shape)}",
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
    return codes.reshape(blocks, out_channels).T.contiguous()
