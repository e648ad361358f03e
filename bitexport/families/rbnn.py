"""RBNN: checkpoints of networks whose latent weights are rotated before the sign.

Lin et al., "Rotated Binary Neural Network", NeurIPS 2020; upstream lmbxmu/RBNN,
``modules/binarized_modules.py``. Each 1-bit layer holds ``weight`` [Co, Ci, kh, kw], the
rotations ``R1`` [a, a] and ``R2`` [b, b] with a * b = K = Ci * kh * kw, and ``rotate``
[Co, 1, 1, 1]:

    w2 = (weight - mean) / std                     of each filter; std unbiased, without eps
    R  = R1^T @ w2[co].reshape(a, b) @ R2
    sign = torch.sign(w2 + |sin(rotate)| * (R - w2))

Activations are sign(x - mean(x)) per sample or, trained with ``--a32``, (x - mean(x)) / std(x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitexport.checkpoint import Checkpoint
from bitexport.families.base import LoadedModel, LoadOptions
from bitexport.families.centered import (
    check_options,
    class_count,
    dense_reasons,
    detect_network,
    fill_network,
    plan_named,
    upstream_name,
    weight_tensor,
)
from bitexport.models.centered_networks import build_network
from bitexport.models.rbnn import (
    RBNN_NETWORKS,
    nearest_factors,
    rotated_latent,
    standardized_filters,
)

__all__ = ["RbnnFamily"]

_RESNET20 = ("resnet20", "resnet20_bireal")
# A BatchNorm behind the classifier of the ImageNet networks that upstream never calls.
_DEAD_PREFIXES = ("bn3.",)


class RbnnFamily:
    """Networks whose latent weights are rotated."""

    name = "rbnn"
    title = "RBNN"
    paper = "https://arxiv.org/abs/2009.13055"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """The network that has the file's stages.

        ResNet-20 and its Bi-Real variant have the same tensors. The name that upstream saves
        beside them decides; without it the variant is taken, upstream's default.
        """
        arch = detect_network(checkpoint, RBNN_NETWORKS, marker="R1")
        if arch not in _RESNET20:
            return arch
        return _saved_resnet20(checkpoint) or "resnet20_bireal"

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The network, with the signs of the rotated weights."""
        arch = upstream_name(arch)
        plan = plan_named(arch, RBNN_NETWORKS, self.title)
        check_options(options, self.title, real_activations=True)
        binary = options.activations != "float"
        module = build_network(plan, class_count(checkpoint, plan), binary_activations=binary)
        fill_network(
            module,
            checkpoint,
            _rotated_signs,
            consumed=("weight", "rotate", "R1", "R2"),
            dead=_DEAD_PREFIXES if arch.endswith("_imagenet") else (),
        )
        return LoadedModel(
            module=module.eval(),
            family=self.name,
            arch=arch,
            input_shape=plan.input_shape,
            binary_activations=binary,
            dense_reasons=dense_reasons(module),
            notes=_notes(checkpoint, arch, options),
        )


def _saved_resnet20(checkpoint: Checkpoint) -> str | None:
    name = upstream_name(str(checkpoint.metadata.get("model", "")))
    return name if name in _RESNET20 else None


def _notes(checkpoint: Checkpoint, arch: str, options: LoadOptions) -> tuple[str, ...]:
    """What the file left open."""
    notes = []
    if arch in _RESNET20 and options.arch is None and _saved_resnet20(checkpoint) is None:
        notes.append(
            f"the file does not tell resnet20 from resnet20_bireal; took it as {arch}, "
            "upstream's default (--arch resnet20 for one shortcut around two convolutions)"
        )
    if options.activations == "auto":
        notes.append(
            "the file does not say whether activations are binarized; took them as 1-bit "
            "(--activations float for a network trained with --a32)"
        )
    return tuple(notes)


def _rotated_signs(checkpoint: Checkpoint, name: str, shape: torch.Size) -> Tensor:
    """The signs of a layer, float -1, 0 or +1 of ``shape``.

    In float32 and in upstream's order of operations: in float64 a few signs differ. A filter of
    equal weights has std 0 and gets the sign of NaN, which torch takes as 0, as upstream.
    """
    rows, columns = nearest_factors(shape[1:].numel())
    latent = weight_tensor(checkpoint, f"{name}.weight", tuple(shape))
    left = weight_tensor(checkpoint, f"{name}.R1", (rows, rows))
    right = weight_tensor(checkpoint, f"{name}.R2", (columns, columns))
    angle = weight_tensor(checkpoint, f"{name}.rotate", (shape[0], 1, 1, 1))
    return rotated_latent(standardized_filters(latent), left, right, angle).sign()
