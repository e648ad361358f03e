"""Bi-Real Net: checkpoints of its PyTorch implementation.

Upstream: liuzechun/Bi-Real-net, ``pytorch_implementation``. In networks 18 and 34 a binary weight
is ``layerS.B.binary_conv.weights``, flat [Co * Ci * 9, 1]; network 50 has its blocks in one list,
``layers.B``, and 4-D weights. ``layers.0.down_conv1x1`` is never used. Only binarized weights are
stored flat; nothing tells 4-D ones that are binarized from real ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
from bitexport.models.bireal import BiRealNet
from bitexport.models.bireal50 import BiRealNet50

__all__ = ["BiRealFamily"]

_NAMED = {"birealnet18": (4, 4, 4, 4), "birealnet34": (6, 8, 12, 6)}
_NAMED_50 = {"birealnet50": (3, 4, 6, 3)}
_FLAT_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.binary_conv\.weights")
_LIST_BLOCK = re.compile(r"layers\.(\d{1,4})\.conv2\.weight")
_REACT_SHIFT = ".move0.bias"
_UNUSED = "layers.0.down_conv1x1.weight"


class BiRealFamily:
    """Bi-Real Net 18, 34 and 50."""

    name = "bireal"
    title = "Bi-Real Net"
    paper = "https://arxiv.org/abs/1808.00278"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """``birealnet18``, ``birealnet50``, or the blocks of each stage behind such a name."""
        tensors = checkpoint.tensors()
        if any(key.endswith(_REACT_SHIFT) for key in tensors):
            return None
        stages = count_stages(_FLAT_BLOCK, tensors)
        if stages is not None:
            return named_arch("birealnet", stages, _NAMED)
        stages = _stages_of_list(tensors)
        return None if stages is None else named_arch("birealnet50", stages, _NAMED_50)

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The network with its latent weights."""
        refuse_real_activations(options, self.title)
        bottlenecks = arch.startswith("birealnet50")
        named = _NAMED_50 if bottlenecks else _NAMED
        prefix = "birealnet50" if bottlenecks else "birealnet"
        blocks = blocks_of_arch(arch, prefix, named)
        classes = rows_of(checkpoint, "fc.weight", dimensions=2)
        width = rows_of(checkpoint, "conv1.weight", dimensions=4)
        network = BiRealNet50 if bottlenecks else BiRealNet
        state = {k: v for k, v in checkpoint.tensors().items() if k != _UNUSED}
        flat = any(key.endswith(".weights") for key in state)
        notes = _check_weights(options, flat=flat)
        binary = options.weights != "float"
        module = build_module(
            lambda: network(blocks, classes, width=width, binary_weights=binary),
            unflattened(state, lambda: network(blocks, classes, width=width)),
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


def _check_weights(options: LoadOptions, *, flat: bool) -> tuple[str, ...]:
    """What was assumed about the weights; UnsupportedModel where the file says otherwise."""
    if flat and options.weights == "float":
        raise UnsupportedModel(
            "the file's weights are not as asked",
            got="--weights float for weights stored flat, as only binarized ones are",
            expected="auto or binary",
            fix="Leave the option out.",
        )
    if flat or options.weights != "auto":
        return ()
    return (
        "the file does not say whether the weights of its blocks are binarized; took them as "
        "1-bit (--weights float for real ones)",
    )


def _stages_of_list(tensors: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """Blocks a stage of network 50: a stage begins where a block has a shortcut of its own."""
    indices = sorted(int(m.group(1)) for m in map(_LIST_BLOCK.fullmatch, tensors) if m)
    if not indices or indices != list(range(len(indices))) or "layers.0.bn3.weight" not in tensors:
        return None
    starts = [i for i in indices if f"layers.{i}.downsample.1.weight" in tensors]
    if len(starts) != 4 or starts[0] != 0:
        return None
    return tuple(b - a for a, b in zip(starts, [*starts[1:], len(indices)], strict=True))
