"""What the readers of SiMaN and RBNN share: which network a file holds, and filling it.

A 1-bit layer is recognised by its scale ``alpha`` [Co, 1, 1] and a tensor of the family beside
it. Everything else has the names of the network in ``bitexport.models``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadOptions
from bitexport.families.state import assign_state, require_finite
from bitexport.layers import SignConv2d
from bitexport.models.centered_networks import NetworkPlan, VggPlan

__all__ = [
    "ReadSigns",
    "check_options",
    "class_count",
    "dense_reasons",
    "detect_network",
    "fill_network",
    "plan_named",
    "upstream_name",
    "weight_tensor",
]

ReadSigns = Callable[[Checkpoint, str, torch.Size], Tensor]

_SCALE = ".alpha"
_FIRST_CONV = re.compile(r"layer(\d{1,3})\.(\d{1,3})\.conv1")
_UPSTREAM_SUFFIX = "_1w1a"


def upstream_name(name: str) -> str:
    """An architecture's name without upstream's ``_1w1a``."""
    return name.removesuffix(_UPSTREAM_SUFFIX)


def detect_network(
    checkpoint: Checkpoint, networks: Mapping[str, NetworkPlan], marker: str
) -> str | None:
    """The first network that has the file's stages, or None.

    Args:
        checkpoint: The file.
        networks: The family's architectures by name.
        marker: Name of a tensor that only this family's 1-bit layers have.
    """
    tensors = checkpoint.tensors()
    layers = {key.removesuffix(_SCALE) for key in tensors if key.endswith(_SCALE)}
    if not any(f"{layer}.{marker}" in tensors for layer in layers):
        return None
    found = [m for m in map(_FIRST_CONV.fullmatch, layers) if m]
    stages = sorted({int(m.group(1)) for m in found})
    depths = tuple(sum(int(m.group(1)) == stage for m in found) for stage in stages)
    widths = tuple(
        scale.numel() if (scale := tensors.get(f"layer{stage}.0.conv1{_SCALE}")) is not None else 0
        for stage in stages
    )
    for name, plan in networks.items():
        if f"{plan.head}.weight" not in tensors:
            continue
        if isinstance(plan, VggPlan):
            if not found and "conv5" in layers:
                return name
        elif (depths, widths) == (plan.depths, plan.widths):
            return name
    return None


def plan_named(arch: str, networks: Mapping[str, NetworkPlan], title: str) -> NetworkPlan:
    """The plan of an architecture.

    Raises:
        UnsupportedModel: The family has none of this name.
    """
    if arch not in networks:
        raise UnsupportedModel(
            f"unknown {title} architecture",
            got=arch,
            expected=" or ".join(networks),
            fix="Correct --arch, or leave it out to have it detected.",
        )
    return networks[arch]


def check_options(options: LoadOptions, title: str, *, real_activations: bool) -> None:
    """Refuse precisions that the family does not have.

    Args:
        options: What the user asked for.
        title: The family's name.
        real_activations: The family has networks with real activations.

    Raises:
        UnsupportedModel: It was asked for such a precision.
    """
    if options.weights != "float" and (real_activations or options.activations != "float"):
        return
    raise UnsupportedModel(
        f"a {title} network cannot be read as asked",
        got=f"--weights {options.weights} --activations {options.activations}",
        expected="1-bit weights" + ("" if real_activations else " and 1-bit activations"),
        fix="Leave the option out.",
    )


def class_count(checkpoint: Checkpoint, plan: NetworkPlan) -> int:
    """Length of the logits, from the linear layer's weight [classes, features].

    Raises:
        UnsupportedModel: The weight is missing or has a wrong shape.
    """
    key = f"{plan.head}.weight"
    weight = checkpoint.tensor(key)
    if weight.dim() != 2 or not weight.shape[0]:
        raise UnsupportedModel(
            f"tensor {key!r} has a wrong shape",
            got=list(weight.shape),
            expected="[classes, features]",
            fix="Check the file, or name the architecture with --arch.",
        )
    return int(weight.shape[0])


def weight_tensor(checkpoint: Checkpoint, key: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor that makes up a weight, as float32.

    Raises:
        UnsupportedModel: It is missing, misshapen or not finite.
    """
    tensor = checkpoint.tensor(key)
    if tuple(tensor.shape) != shape:
        raise UnsupportedModel(
            f"tensor {key!r} has a wrong shape",
            got=list(tensor.shape),
            expected=list(shape),
            fix="Check the file, or name the architecture with --arch.",
        )
    require_finite(key, tensor)
    return tensor.float()


def fill_network(
    module: nn.Module,
    checkpoint: Checkpoint,
    read_signs: ReadSigns,
    *,
    consumed: tuple[str, ...],
    dead: tuple[str, ...] = (),
) -> None:
    """Put a file's weights into a network.

    Args:
        module: Changed in place; the latent weights of its 1-bit layers become signs.
        checkpoint: The file.
        read_signs: (file, layer, weight shape) -> -1, 0 or +1 of that shape.
        consumed: Names of the tensors of a 1-bit layer that ``read_signs`` stands for, or that
            evaluation never looks at.
        dead: Prefixes of other tensors that evaluation never looks at.

    Raises:
        UnsupportedModel: A tensor is missing, unknown, misshapen or not finite.
    """
    state = {k: v for k, v in checkpoint.tensors().items() if not (dead and k.startswith(dead))}
    for name, layer in module.named_modules():
        if not isinstance(layer, SignConv2d):
            continue
        # The layer behind a normalization is one level deeper than in the file.
        source = name.removesuffix(".conv")
        scale = checkpoint.tensor(f"{source}{_SCALE}")
        signs = read_signs(checkpoint, source, layer.weight.shape)
        for field in ("alpha", *consumed):
            state.pop(f"{source}.{field}", None)
        state |= {f"{name}.alpha": scale, f"{name}.weight": signs}
    assign_state(module, state)


def dense_reasons(module: nn.Module) -> dict[str, str]:
    """Why each layer with real weights has them."""
    reasons = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            reasons[name] = "the classifier is full precision upstream"
        elif isinstance(layer, nn.Conv2d) and not isinstance(layer, SignConv2d):
            part = "shortcut convolution" if "." in name else "stem"
            reasons[name] = f"the {part} is full precision upstream"
    return reasons
