"""ReActNet: checkpoints of both training steps, on the plans of ResNet and of MobileNet.

Upstream: liuzechun/ReActNet, ``resnet`` and ``mobilenet``. The shifts are ``moveX.bias``
[1, C, 1, 1]: those before a sign belong to its convolution, the others to the PReLU between them.
Step 1 has binary activations and real weights. The MobileNet tells the steps apart (``weight``
4-D in step 1, flat ``weights`` in step 2), the ResNet does not (4-D in both). Nor does a MobileNet
of other widths say which blocks halve the image. Upstream's code halves it wherever the channels
change, except to 64: ``reactnet-mobilenet``. ``reactnet-a`` keeps ReActNet-A's places at any width.
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
from bitexport.models.reactnet import ReActNetA, first_doubled, reactnet_resnet

__all__ = ["ReActNetFamily"]

_MOBILE = "reactnet-a"
_MOBILE_64 = "reactnet-mobilenet"
_NAMED = {"reactnet18": (4, 4, 4, 4), "reactnet34": (6, 8, 12, 6)}
_BINARY_WEIGHT = re.compile(r".+\.binary_(?:conv|3x3|pw|pw_down[12])\.(weights?)")
# The one width that upstream's MobileNet reaches without halving the image, in both steps' code.
_UNHALVED_WIDTH = 64
_RESNET_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.move0\.bias")
_MOBILE_SHIFT = re.compile(r"feature\.(\d{1,3})\.move22\.bias")
_RESNET_RENAMES = {
    "move0.bias": "binary_conv.shift",
    "move1.bias": "rprelu.before",
    "prelu.weight": "rprelu.prelu.weight",
    "move2.bias": "rprelu.after",
}
_MOBILE_STEM = "feature.0.conv1.weight"
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
        """``reactnet-a``, ``reactnet-mobilenet``, ``reactnet18``, or the blocks of each stage."""
        tensors = checkpoint.tensors()
        if any(map(_MOBILE_SHIFT.fullmatch, tensors)) and _MOBILE_STEM in tensors:
            return _mobile_arch(tensors)
        stages = count_stages(_RESNET_BLOCK, tensors)
        return None if stages is None else named_arch("reactnet", stages, _NAMED)

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The network with its latent, or in step 1 its real, weights."""
        refuse_real_activations(options, self.title)
        classes = rows_of(checkpoint, "fc.weight", dimensions=2)
        tensors = checkpoint.tensors()
        binary, notes = _binary_weights(options, arch, flat=_stored_flat(tensors))
        if arch in (_MOBILE, _MOBILE_64):
            channels = _mobile_channels(checkpoint)
            unhalved = _UNHALVED_WIDTH if arch == _MOBILE_64 else None
            notes += _plan_notes(arch, options)
            state = _joined(_renamed(tensors, _MOBILE_RENAMES))

            def build(real: bool) -> torch.nn.Module:
                return ReActNetA(channels, classes, unhalved=unhalved, binary_weights=not real)

        else:
            blocks = blocks_of_arch(arch, "reactnet", _NAMED)
            width = rows_of(checkpoint, "conv1.weight", dimensions=4)
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


def _stored_flat(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the weights behind the signs are stored flat, as only binarized ones are.

    Raises:
        UnsupportedModel: Some are, and some are not.
    """
    found = {m.group(1): m.group() for m in map(_BINARY_WEIGHT.fullmatch, tensors) if m}
    if len(found) > 1:
        raise UnsupportedModel(
            "the checkpoint mixes flat and 4-D weights",
            got=" and ".join(sorted(found.values())),
            expected="weights of one training step",
            fix="Use the checkpoint as one training step saved it.",
        )
    return "weights" in found


def _binary_weights(options: LoadOptions, arch: str, *, flat: bool) -> tuple[bool, tuple[str, ...]]:
    """Whether to binarize the weights, and what was assumed for it.

    Raises:
        UnsupportedModel: The file's weights are binarized, and real ones are asked for.
    """
    if flat and options.weights == "float":
        raise UnsupportedModel(
            "the file's weights are not as asked",
            got="--weights float for weights stored flat, as only step 2 stores them",
            expected="auto or binary",
            fix="Leave the option out.",
        )
    if flat or options.weights != "auto":
        return options.weights != "float", ()
    if arch in (_MOBILE, _MOBILE_64):
        return False, (
            "the weights are stored in 4 dimensions, as step 1 of this network stores them; took "
            "them as real (--weights binary for 1-bit ones)",
        )
    return True, (
        "the file does not say whether its weights are binarized (step 2) or real (step 1); "
        "took them as 1-bit (--weights float for step 1)",
    )


def _mobile_arch(tensors: Mapping[str, Tensor]) -> str:
    """The name for which nothing is to be said, or else upstream's rule."""
    shifts = {int(m.group(1)): m.group() for m in map(_MOBILE_SHIFT.fullmatch, tensors) if m}
    stem = tensors[_MOBILE_STEM]
    widths = [tensors[shifts[index]].numel() for index in sorted(shifts)]
    channels = [stem.shape[0] if stem.dim() else 0, *widths]
    return _MOBILE if first_doubled(channels) in (None, _UNHALVED_WIDTH) else _MOBILE_64


def _plan_notes(arch: str, options: LoadOptions) -> tuple[str, ...]:
    if arch != _MOBILE_64 or options.arch is not None:
        return ()
    return (
        "the file does not say which blocks halve the image; took all that double the channels, "
        f"except to {_UNHALVED_WIDTH}, as upstream's code does (--arch {_MOBILE} for all but the "
        "first, as in ReActNet-A)",
    )


def _mobile_channels(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Channels after the stem and after every block.

    Raises:
        UnsupportedModel: A block is missing, or neither keeps nor doubles its channels.
    """
    count = len({m.group(1) for m in map(_MOBILE_SHIFT.fullmatch, checkpoint.values) if m})
    channels = [rows_of(checkpoint, _MOBILE_STEM, dimensions=4)]
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
    """The two convolutions and BatchNorms of a doubling block as one of twice the filters.

    A half without its other half is left for the check of keys to refuse.

    Raises:
        UnsupportedModel: Two halves differ in shape or type.
    """
    result = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    for key in list(result):
        part = next((p for p in _PAIRS if f".{p}" in key), None)
        if part is None:
            continue
        second, whole = key.replace(part, _SECOND[part]), key.replace(part, _PAIRS[part])
        if second in result and whole not in result:
            _check_halves(key, result[key], result[second])
            result[whole] = torch.cat([result.pop(key), result.pop(second)])
    return result


def _check_halves(key: str, first: Tensor, second: Tensor) -> None:
    if first.dim() and first.shape == second.shape and first.dtype == second.dtype:
        return
    raise UnsupportedModel(
        f"tensor {key!r} and its second half do not fit together",
        got=f"{list(first.shape)} {first.dtype} and {list(second.shape)} {second.dtype}",
        expected="tensors of one shape and one type",
        fix="The file is damaged; use another checkpoint.",
    )
