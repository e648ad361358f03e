"""ReActNet: checkpoints of both training steps, on the plans of ResNet and of MobileNet.

Upstream: liuzechun/ReActNet, ``resnet`` and ``mobilenet``. The shifts are ``moveX.bias``
[1, C, 1, 1]: those before a sign belong to its convolution, the others to the PReLU between them.
Step 1 has binary activations and real weights. The MobileNet tells the steps apart (``weight``
4-D in step 1, flat ``weights`` in step 2), the ResNet does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel, LoadOptions
from bitexport.families.sign_activated import (
    blocks_of_arch,
    count_stages,
    dense_reasons,
    named_arch,
    refuse_real_activations,
    unflattened,
)
from bitexport.families.state import build_module, rows_of
from bitexport.models.reactnet import ReActNetA, reactnet_resnet

__all__ = ["ReActNetFamily"]

_MOBILE = "reactnet-a"
_NAMED = {"reactnet18": (4, 4, 4, 4), "reactnet34": (6, 8, 12, 6)}
_RESNET_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.move0\.bias")
_MOBILE_SHIFT = re.compile(r"feature\.(\d+)\.move22\.bias")
_RESNET_RENAMES = {
    "move0.bias": "binary_conv.shift",
    "move1.bias": "rprelu.before",
    "prelu.weight": "rprelu.prelu.weight",
    "move2.bias": "rprelu.after",
}
_MOBILE_RENAMES = {
    "move11.bias": "binary_3x3.shift",
    "move12.bias": "rprelu1.before",
    "prelu1.weight": "rprelu1.prelu.weight",
    "move13.bias": "rprelu1.after",
    "move21.bias": "binary_pw.shift",
    "move22.bias": "rprelu2.before",
    "prelu2.weight": "rprelu2.prelu.weight",
    "move23.bias": "rprelu2.after",
}
# Where channels double, upstream runs two 1x1 convolutions side by side: one of twice the filters.
_PAIRS = {"binary_pw_down1.": "binary_pw.", "bn2_1.": "bn2."}
_SECOND = {"binary_pw_down1.": "binary_pw_down2.", "bn2_1.": "bn2_2."}


class ReActNetFamily:
    """ReActNet-A and the Bi-Real ResNets with ReActNet's activations."""

    name = "reactnet"
    title = "ReActNet"
    paper = "https://arxiv.org/abs/2003.03488"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """``reactnet-a``, ``reactnet18``, or the blocks of each stage."""
        tensors = checkpoint.tensors()
        if any(map(_MOBILE_SHIFT.fullmatch, tensors)) and "feature.0.conv1.weight" in tensors:
            return _MOBILE
        stages = count_stages(_RESNET_BLOCK, tensors)
        return None if stages is None else named_arch("reactnet", stages, _NAMED)

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The network with its latent, or in step 1 its real, weights."""
        refuse_real_activations(options, self.title)
        classes = rows_of(checkpoint, "fc.weight", dimensions=2)
        tensors = checkpoint.tensors()
        notes: tuple[str, ...] = ()
        if arch == _MOBILE:
            binary = any(key.endswith(".weights") for key in tensors)
            _check_weights(options, binary)
            channels = _mobile_channels(checkpoint)
            state = _joined(_renamed(tensors, _MOBILE_RENAMES))

            def build(real: bool) -> torch.nn.Module:
                return ReActNetA(channels, classes, binary_weights=not real)

        else:
            binary = options.weights != "float"
            notes = _notes(options)
            blocks, width = (
                blocks_of_arch(arch, "reactnet", _NAMED),
                rows_of(checkpoint, "conv1.weight", dimensions=4),
            )
            state = _renamed(tensors, _RESNET_RENAMES)

            def build(real: bool) -> torch.nn.Module:
                return reactnet_resnet(blocks, classes, width=width, binary_weights=not real)

        module = build_module(
            lambda: build(not binary), unflattened(state, lambda: build(not binary))
        )
        return LoadedModel(
            module=module.eval(),
            family=self.name,
            arch=arch,
            input_shape=(3, 224, 224),
            binary_activations=True,
            dense_reasons=dense_reasons(module),
            notes=notes,
        )


def _check_weights(options: LoadOptions, binary: bool) -> None:
    asked = {"auto": binary, "binary": True, "float": False}[options.weights]
    if asked != binary:
        raise UnsupportedModel(
            "the file's weights are not as asked",
            got=f"--weights {options.weights} for a file of step {2 if binary else 1}",
            expected="auto",
            fix="Leave the option out.",
        )


def _notes(options: LoadOptions) -> tuple[str, ...]:
    if options.weights != "auto":
        return ()
    return (
        "the file does not say whether its weights are binarized (step 2) or real (step 1); "
        "took them as 1-bit (--weights float for step 1)",
    )


def _mobile_channels(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Channels after the stem and after every block.

    Raises:
        UnsupportedModel: A block is missing, or neither keeps nor doubles its channels.
    """
    count = len({m.group(1) for m in map(_MOBILE_SHIFT.fullmatch, checkpoint.values) if m})
    channels = [rows_of(checkpoint, "feature.0.conv1.weight", dimensions=4)]
    for index in range(1, count + 1):
        shift = checkpoint.tensor(f"feature.{index}.move22.bias")
        after = int(shift.shape[1]) if shift.dim() == 4 else 0
        if after not in (channels[-1], 2 * channels[-1]):
            raise UnsupportedModel(
                f"block {index} has a wrong number of channels",
                got=list(shift.shape),
                expected=f"{channels[-1]} or {2 * channels[-1]} channels",
                fix="Check the file.",
            )
        channels.append(after)
    return tuple(channels)


def _renamed(tensors: Mapping[str, Tensor], renames: Mapping[str, str]) -> dict[str, Tensor]:
    """Upstream's keys as ours, by their ends."""
    result = {}
    for key, value in tensors.items():
        end = next((e for e in renames if key.endswith(f".{e}")), None)
        result[key if end is None else key.removesuffix(end) + renames[end]] = value
    return result


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The two convolutions and BatchNorms of a doubling block as one of twice the filters."""
    result = dict(state)
    for key, value in state.items():
        part = next((p for p in _PAIRS if f".{p}" in key), None)
        second = None if part is None else key.replace(part, _SECOND[part])
        if part is None or second is None or second not in state or value.dim() == 0:
            continue
        del result[key], result[second]
        result[key.replace(part, _PAIRS[part])] = torch.cat([value, state[second]])
    return {k: v for k, v in result.items() if not k.endswith("num_batches_tracked")}
