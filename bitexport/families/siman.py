"""SiMaN: checkpoints of networks whose signs are stored, not derived from latent weights.

Lin et al., "SiMaN: Sign-to-Magnitude Network Binarization", TPAMI 2022; upstream lmbxmu/SiMaN,
``modules/binarized_modules.py``. Each 1-bit layer holds ``B``, float 0 or 1, [Co, K] or
[Co, 1, K] with K = Ci * kh * kw:

    sign[co] = 2 * B[co] - 1        y = alpha * conv(sign(x - mean(x)), sign)

``weight`` and ``percent`` serve training only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel, LoadOptions
from bitexport.families.centered import (
    check_options,
    class_count,
    dense_reasons,
    detect_network,
    fill_network,
    plan_named,
    upstream_name,
)
from bitexport.models.centered_networks import build_network
from bitexport.models.siman import SIMAN_NETWORKS

__all__ = ["SimanFamily"]


class SimanFamily:
    """Networks whose signs were chosen by magnitude."""

    name = "siman"
    title = "SiMaN"
    paper = "https://arxiv.org/abs/2102.07981"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """The network that has the file's stages; whether a shortcut is binary, its ``B`` says."""
        return detect_network(checkpoint, SIMAN_NETWORKS, marker="B")

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The network, with the stored signs as weights."""
        arch = upstream_name(arch)
        plan = plan_named(arch, SIMAN_NETWORKS, self.title)
        check_options(options, self.title, real_activations=False)
        module = build_network(plan, class_count(checkpoint, plan))
        fill_network(module, checkpoint, _stored_signs, consumed=("weight", "percent", "B"))
        return LoadedModel(
            module=module.eval(),
            family=self.name,
            arch=arch,
            input_shape=plan.input_shape,
            binary_activations=True,
            dense_reasons=dense_reasons(module),
        )


def _stored_signs(checkpoint: Checkpoint, name: str, shape: torch.Size) -> Tensor:
    """The signs of a layer, float +-1 of ``shape``, from its ``B``."""
    key = f"{name}.B"
    bits = checkpoint.tensor(key)
    filters, per_filter = shape[0], shape[1:].numel()
    if tuple(bits.shape) not in ((filters, per_filter), (filters, 1, per_filter)):
        raise UnsupportedModel(
            f"tensor {key!r} has a wrong shape",
            got=list(bits.shape),
            expected=f"[{filters}, {per_filter}] or [{filters}, 1, {per_filter}]",
            fix="Check the file, or name the architecture with --arch.",
        )
    other = int(((bits != 0) & (bits != 1)).sum())
    if other:
        raise UnsupportedModel(
            f"tensor {key!r} holds values that are no bits",
            got=f"{other} values besides 0 and 1",
            expected="0 or 1",
            fix="The file is damaged or its network untrained; use a trained checkpoint.",
        )
    return bits.float().mul(2).sub(1).reshape(shape)
