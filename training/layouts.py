"""From a model's own state to the tensors that its system's checkpoints hold.

The inverse of what ``bitexport.families`` does on reading, one function a family. A latent weight
is stored as it was trained; only SiMaN stores its signs as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bitexport.layers import BinaryConv2d
from training.systems import is_linear_upstream, sign_layers

__all__ = ["State", "upstream_state"]

State = OrderedDict[str, Tensor]

_WEIGHT = ".weight"
_REACT_ENDS = {
    "binary_conv.shift": "move0.bias",
    "rprelu.before": "move1.bias",
    "rprelu.prelu.weight": "prelu.weight",
    "rprelu.after": "move2.bias",
    "binary_3x3.shift": "move11.bias",
    "rprelu1.before": "move12.bias",
    "rprelu1.prelu.weight": "prelu1.weight",
    "rprelu1.after": "move13.bias",
    "binary_pw.shift": "move21.bias",
    "rprelu2.before": "move22.bias",
    "rprelu2.prelu.weight": "prelu2.weight",
    "rprelu2.after": "move23.bias",
}
_PAIRS = {
    "binary_pw.": ("binary_pw_down1.", "binary_pw_down2."),
    "bn2.": ("bn2_1.", "bn2_2."),
}


def upstream_state(family: str, model: nn.Module, *, binary: bool = True) -> State:
    """The tensors of a checkpoint of ``family``.

    Args:
        family: Its name.
        model: In any mode; not changed.
        binary: False for real weights: the first of two steps, or a full-precision twin.
    """
    state = OrderedDict(
        (key, value.detach().cpu().contiguous()) for key, value in model.state_dict().items()
    )
    return _LAYOUTS.get(family, _as_it_is)(model, state, binary)


def _as_it_is(model: nn.Module, state: State, binary: bool) -> State:
    del model, binary
    return state


def _wide_resnet(model: nn.Module, state: State, binary: bool) -> State:
    """szagoruyko/binary-wide-resnet: a convolution's weight has the convolution's name."""
    del binary
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    bare = {f"{name}{_WEIGHT}": name for name in convolutions}
    return OrderedDict((bare.get(key, key), value) for key, value in state.items())


def _bireal(model: nn.Module, state: State, binary: bool) -> State:
    """liuzechun/Bi-Real-net: the binary weights of 18 and 34 are flat, those of 50 are not."""
    return _flattened(model, state, ".binary_conv") if binary else state


def _reactnet(model: nn.Module, state: State, binary: bool) -> State:
    """liuzechun/ReActNet: shifts are ``moveX.bias``; step 2 of ReActNet-A has flat weights."""
    renamed: State = OrderedDict()
    for key, value in state.items():
        end = next((e for e in _REACT_ENDS if key.endswith(f".{e}")), None)
        renamed[key if end is None else key.removesuffix(end) + _REACT_ENDS[end]] = value
    for name, layer in model.named_modules():
        if getattr(layer, "copies", 1) > 1:
            _split(renamed, name)
    if binary and any(".binary_3x3." in key for key in renamed):
        flat = (".binary_3x3.weight", ".binary_pw.weight", "_down1.weight", "_down2.weight")
        return OrderedDict(
            (f"{k}s", v.reshape(-1, 1)) if k.endswith(flat) else (k, v) for k, v in renamed.items()
        )
    return renamed


def _split(state: State, block: str) -> None:
    """Where channels double upstream runs two convolutions side by side, each with a BatchNorm."""
    for part, halves in _PAIRS.items():
        for key in [k for k in state if k.startswith(f"{block}.{part}")]:
            value = state.pop(key)
            both = value.chunk(2) if value.dim() else (value, value)
            for half, tensor in zip(halves, both, strict=True):
                state[key.replace(part, half)] = tensor.clone()


def _xnor_net(model: nn.Module, state: State, binary: bool) -> State:
    """jiecaoyu/XNOR-Net-PyTorch: ``linear`` for the binary linear layers."""
    del binary
    linear = {
        n for n, m in model.named_modules() if isinstance(m, BinaryConv2d) and is_linear_upstream(n)
    }
    result: State = OrderedDict()
    for key, value in state.items():
        layer, _, field = key.rpartition(".")
        own, tensor = key, value
        if layer in linear:
            own = f"{layer.removesuffix('conv')}linear.{field}"
            tensor = value.flatten(1) if field == "weight" else value
        own = own.removeprefix("layers.").replace("classifier.5.", "classifier.4.")
        result[own] = tensor
    return result


@torch.no_grad()
def _siman(model: nn.Module, state: State, binary: bool) -> State:
    """lmbxmu/SiMaN: the bits ``B`` [Co, 1, K] beside the latent weight."""
    del binary
    for name, layer in sign_layers(model):
        signs = layer.estimator.weight_signs(layer.weight, torch.ones(()))
        state[f"{name}.B"] = (signs.flatten(1).unsqueeze(1).cpu() > 0).float()
        state[f"{name}.percent"] = torch.zeros(())
    return state


def _rbnn(model: nn.Module, state: State, binary: bool) -> State:
    """lmbxmu/RBNN: the angle and the rotations are the layer's own."""
    del model, binary
    return OrderedDict((key.replace(".estimator.", "."), value) for key, value in state.items())


def _flattened(model: nn.Module, state: State, end: str) -> State:
    flat = {f"{n}{_WEIGHT}" for n, m in model.named_modules() if n.endswith(end) and m is not None}
    return OrderedDict(
        (f"{key}s", value.reshape(-1, 1)) if key in flat else (key, value)
        for key, value in state.items()
    )


_LAYOUTS: Mapping[str, Callable[[nn.Module, State, bool], State]] = {
    "wide-resnet": _wide_resnet,
    "bireal": _bireal,
    "reactnet": _reactnet,
    "xnor-net": _xnor_net,
    "siman": _siman,
    "rbnn": _rbnn,
}
