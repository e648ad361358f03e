"""1-bit Wide ResNet: checkpoints of binary-wide-resnet, trained or packed.

Upstream: szagoruyko/binary-wide-resnet, ``main.py`` (training checkpoint) and
``evaluate_packed.py`` (np.packbits). Convolution weights are parameters named ``conv0`` and
``conv1`` without ``.weight``. A packed weight is uint8 [Co, Ci/8, kh, kw], most significant bit
first along the input channels, a set bit is +1. Nothing in the file tells a binarized training
checkpoint from a full-precision one.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel, LoadOptions
from bitexport.families.state import build_module
from bitexport.layers import SignConv2d
from bitexport.models.wide_resnet import GROUP_WIDTHS, WideResNet

__all__ = ["WideResNetFamily"]

_BLOCK_CONV = re.compile(r"group(\d+)\.block(\d+)\.conv[01]")
_ARCH = re.compile(r"wrn-(\d{1,4})-(\d{1,4}(?:\.\d{1,4})?)")
_CIFAR_SIZE = 32


class WideResNetFamily:
    """McDonnell's 1-bit Wide ResNet."""

    name = "wide-resnet"
    title = "1-bit Wide ResNet"
    paper = "https://arxiv.org/abs/1802.08530"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """``wrn-d-k`` from the number of blocks and the stem's channels."""
        tensors = checkpoint.tensors()
        blocks = [m for m in map(_BLOCK_CONV.fullmatch, tensors) if m]
        if not blocks or not {"conv0", "conv_last"} <= tensors.keys():
            return None
        # Counted, not read off the largest number: a forged name must not ask for a huge model.
        per_group = len({m.group(2) for m in blocks if m.group(1) == "0"})
        stem = tensors["conv0"].shape
        if not per_group or len(stem) != 4 or not stem[0]:
            return None
        # Upstream's width is a float: WRN-20-1.5 has 24, 48 and 96 channels.
        width = f"{stem[0] / GROUP_WIDTHS[0]:.4f}".rstrip("0").rstrip(".")
        return f"wrn-{6 * per_group + 2}-{width}"

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The model, with latent weights as trained or +-1 as unpacked."""
        depth, width = _depth_and_width(arch)
        tensors = checkpoint.tensors()
        packed = any(_is_packed(k, v) for k, v in tensors.items())
        notes = _check_precision(options, packed=packed)
        stem, head = checkpoint.tensor("conv0"), checkpoint.tensor("conv_last")
        if stem.dim() != 4 or head.dim() != 4:
            raise UnsupportedModel(
                "the stem or the last convolution has a wrong shape",
                got=f"conv0 {list(stem.shape)}, conv_last {list(head.shape)}",
                expected="four dimensions each",
                fix="Check the file.",
            )
        binarize = options.weights != "float"
        module = build_module(
            lambda: WideResNet(
                depth,
                width,
                num_classes=head.shape[0],
                in_channels=stem.shape[1],
                binarize=binarize,
            ),
            {_own_key(k): _unpack(k, v) for k, v in tensors.items()},
        )
        return LoadedModel(
            module=module.eval(),
            family=self.name,
            arch=arch,
            input_shape=(stem.shape[1], _CIFAR_SIZE, _CIFAR_SIZE),
            dense_reasons=_dense_reasons(module),
            notes=notes,
        )


def _dense_reasons(module: nn.Module) -> dict[str, str]:
    reasons = {
        "conv0": "the stem is full precision upstream",
        "conv_last": "the last convolution is full precision upstream",
    }
    dense = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, SignConv2d)
    ]
    return {name: reasons.get(name, "--weights float asks for it") for name in dense}


def _depth_and_width(arch: str) -> tuple[int, float]:
    match = _ARCH.fullmatch(arch)
    depth, width = (0, 0.0) if match is None else (int(match.group(1)), float(match.group(2)))
    if depth < 8 or (depth - 2) % 6 or not width or width * GROUP_WIDTHS[0] % 1:
        raise UnsupportedModel(
            "unknown Wide ResNet architecture",
            got=arch,
            expected="wrn-DEPTH-WIDTH with DEPTH = 6n + 2, such as wrn-20-10 or wrn-20-1.5",
            fix="Correct --arch, or leave it out to have it detected.",
        )
    return depth, width


def _check_precision(options: LoadOptions, *, packed: bool) -> tuple[str, ...]:
    if options.activations == "binary" or (packed and options.weights == "float"):
        raise UnsupportedModel(
            "this Wide ResNet cannot be read as asked",
            got=f"--weights {options.weights} --activations {options.activations}"
            + (" for a packed file" if packed else ""),
            expected="real activations, and 1-bit weights where the file is packed",
            fix="Leave the option out.",
        )
    if packed or options.weights != "auto":
        return ()
    return (
        "the file does not say whether its weights are binarized; took them as 1-bit "
        "(--weights float for a full-precision network)",
    )


def _own_key(key: str) -> str:
    bare = _BLOCK_CONV.fullmatch(key) or key in ("conv0", "conv_last")
    return f"{key}.weight" if bare else key


def _is_packed(key: str, tensor: Tensor) -> bool:
    return _BLOCK_CONV.fullmatch(key) is not None and tensor.dtype == torch.uint8


def _unpack(key: str, tensor: Tensor) -> Tensor:
    if not _is_packed(key, tensor):
        return tensor
    if tensor.dim() != 4:
        return tensor
    bits = np.unpackbits(tensor.numpy(), axis=1, bitorder="big")
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1)
