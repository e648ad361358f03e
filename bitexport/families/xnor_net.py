"""XNOR-Net: checkpoints of its common PyTorch port.

Upstream: jiecaoyu/XNOR-Net-PyTorch (``ImageNet/networks``, ``CIFAR_10``, ``MNIST``). A binary
layer holds ``bn`` and ``conv`` or ``linear``, and latent weights. Evaluation first subtracts each
filter's mean over its input channels, clamps to [-1, 1], and then takes the signs and the mean
absolute value (``util.py``, ``BinOp.binarization``). The CIFAR-10 and MNIST networks raise every
BatchNorm's gamma to at least 0.01 as they run; AlexNet does not. ResNets are read in the two
layouts of :mod:`bitexport.models.xnor_resnet`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping

import torch
from torch import Tensor, nn

from bitexport.checkpoint import Checkpoint
from bitexport.errors import UnsupportedModel
from bitexport.families.base import LoadedModel, LoadOptions
from bitexport.families.sign_activated import blocks_of_arch, count_stages, named_arch
from bitexport.families.state import build_module, require_finite
from bitexport.layers import BinaryConv2d
from bitexport.models.xnor_net import AlexNet, AlexNetWidths, LeNet5, NetworkInNetwork
from bitexport.models.xnor_resnet import XnorResNet, XnorResNetLayout

__all__ = ["XnorNetFamily"]

_MARKS = {
    "alexnet": ("features.4.conv.weight", "classifier.0.linear.weight"),
    "nin": ("xnor.3.conv.weight", "xnor.3.bn.weight"),
    "lenet5": ("bin_conv2.conv.weight", "bin_ip1.linear.weight"),
}
_INPUTS = {"alexnet": (3, 227, 227), "nin": (3, 32, 32), "lenet5": (1, 28, 28)}
_NIN_LAYERS = (0, 3, 4, 6, 7, 8, 10, 11)
_LATENT_SUFFIXES = (".conv.weight", ".linear.weight")
_SMALLEST_GAMMA = 0.01
_RESNET = "resnet"
_RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
_BOTTLENECKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
_RESNET_BLOCK = re.compile(r"layer([1-4])\.(\d{1,3})\.conv1\.conv\.weight")
_RESNET_BOTTLENECK = "layer1.0.conv3.conv.weight"


class XnorNetFamily:
    """XNOR-Net's AlexNet, network-in-network and LeNet-5, and ResNets of its blocks."""

    name = "xnor-net"
    title = "XNOR-Net"
    paper = "https://arxiv.org/abs/1603.05279"

    def detect(self, checkpoint: Checkpoint) -> str | None:
        """The network whose binary layers the file has."""
        keys = _state(checkpoint).keys()
        stages = count_stages(_RESNET_BLOCK, keys)
        if stages is not None:
            wide = _RESNET_BOTTLENECK in keys
            return named_arch("resnet50" if wide else _RESNET, stages, _named_resnets(keys))
        return next((arch for arch, marks in _MARKS.items() if set(marks) <= keys), None)

    def build(self, checkpoint: Checkpoint, arch: str, options: LoadOptions) -> LoadedModel:
        """The network with weights centered and clamped as evaluation does."""
        known = arch in _BUILDERS or arch.startswith(_RESNET)
        if not known or "float" in (options.weights, options.activations):
            raise UnsupportedModel(
                "this XNOR-Net cannot be read as asked",
                got=f"{arch}, --weights {options.weights}, --activations {options.activations}",
                expected=f"{', '.join([*_BUILDERS, *_RESNETS])}, its weights and signs binary",
                fix="Leave the options out.",
            )
        state = _state(checkpoint)

        def factory() -> nn.Module:
            if arch.startswith(_RESNET):
                return _resnet(arch, state, lambda key: _shape(checkpoint, state, key))
            return _BUILDERS[arch](lambda key: _shape(checkpoint, state, key))

        with torch.device("meta"):
            own = factory().state_dict()
        module = build_module(factory, {k: _own_value(k, v, own) for k, v in _renamed(arch, state)})
        binary = {n for n, layer in module.named_modules() if isinstance(layer, BinaryConv2d)}
        if arch in ("nin", "lenet5"):
            _raise_gammas(module)
        dense = {
            name: "the first and the last layer are full precision upstream"
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear) and name not in binary
        }
        return LoadedModel(
            module=module.eval(),
            family=self.name,
            arch=arch,
            input_shape=_input_shape(arch, module),
            binary_activations=True,
            dense_reasons=dense,
            notes=_notes(module),
        )


def _state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors, without the ``module.`` that a wrapped ``features`` carries inside its keys."""
    return {k.replace(".module.", "."): v for k, v in checkpoint.tensors().items()}


def _shape(checkpoint: Checkpoint, state: Mapping[str, Tensor], key: str) -> torch.Size:
    if key not in state:
        raise UnsupportedModel(
            f"{checkpoint.path}: tensor {key!r} is missing",
            got=f"{len(state)} other tensors",
            expected=key,
            fix="Check the file, or name the architecture with --arch.",
        )
    shape = state[key].shape
    if len(shape) not in (2, 4):
        raise UnsupportedModel(
            f"tensor {key!r} has a wrong shape",
            got=list(shape),
            expected="2 or 4 dimensions",
            fix="Check the file.",
        )
    return shape


def _named_resnets(keys: Container[str]) -> Mapping[str, tuple[int, ...]]:
    return _BOTTLENECKS if _RESNET_BOTTLENECK in keys else _RESNETS


def _resnet(
    arch: str, state: Mapping[str, Tensor], shape: Callable[[str], torch.Size]
) -> nn.Module:
    bottleneck = _RESNET_BOTTLENECK in state
    stem = shape("conv1.weight")
    layout = XnorResNetLayout(
        blocks=blocks_of_arch(arch, "resnet50" if bottleneck else _RESNET, _named_resnets(state)),
        width=stem[0],
        bottleneck=bottleneck,
        stem_kernel=7 if stem[-1] == 7 else 3,
        stem_bias="conv1.bias" in state,
        bias="layer1.0.conv1.conv.bias" in state,
        last_norm="bn2.running_mean" in state,
    )
    return XnorResNet(shape("fc.weight")[0], layout)


def _input_shape(arch: str, module: nn.Module) -> tuple[int, int, int]:
    if isinstance(module, XnorResNet):
        return (3, 224, 224) if module.layout.stem_kernel == 7 else (3, 32, 32)
    return _INPUTS[arch]


def _notes(module: nn.Module) -> tuple[str, ...]:
    if not isinstance(module, XnorResNet):
        return ()
    order = "pooling, BatchNorm, ReLU" if module.layout.last_norm else "BatchNorm, ReLU, pooling"
    return (
        "XNOR-Net's own port has no ResNet, and the file does not say all of its order; took the "
        f"stem as {order} and no ReLU before a shortcut is added",
    )


def _alexnet(shape: Callable[[str], torch.Size]) -> nn.Module:
    convs = ("features.0", "features.4.conv", "features.6.conv", "features.7.conv")
    c = [shape(f"{name}.weight")[0] for name in (*convs, "features.8.conv")]
    first, second = (shape(f"classifier.{i}.linear.weight") for i in (0, 1))
    widths = AlexNetWidths(
        features=(c[0], c[1], c[2], c[3], c[4]),
        hidden=(first[0], second[0]),
        positions=max(1, first[1] // c[4]),
    )
    return AlexNet(shape("classifier.4.weight")[0], widths)


def _nin(shape: Callable[[str], torch.Size]) -> nn.Module:
    names = [f"xnor.{i}.conv.weight" if i else "xnor.0.weight" for i in _NIN_LAYERS]
    widths = tuple(shape(name)[0] for name in names)
    return NetworkInNetwork(shape("xnor.13.weight")[0], widths)


def _lenet5(shape: Callable[[str], torch.Size]) -> nn.Module:
    names = ("conv1.weight", "bin_conv2.conv.weight", "bin_ip1.linear.weight")
    c = [shape(name)[0] for name in names]
    return LeNet5(shape("ip2.weight")[0], (c[0], c[1], c[2]))


_BUILDERS: Mapping[str, Callable[[Callable[[str], torch.Size]], nn.Module]] = {
    "alexnet": _alexnet,
    "nin": _nin,
    "lenet5": _lenet5,
}


def _renamed(arch: str, state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Upstream's keys as ours: every binary layer is a convolution."""
    prefix = "layers." if arch == "lenet5" else ""
    renamed = []
    for key, value in state.items():
        own = prefix + key.replace(".linear.", ".conv.")
        # Our classifier flattens in a module of its own, before the last layer.
        own = own.replace("classifier.4.", "classifier.5.")
        renamed.append((own, _latent(key, value)))
    return renamed


def _own_value(key: str, value: Tensor, own: Mapping[str, Tensor]) -> Tensor:
    """A linear layer's weight [Co, Ci * kh * kw] as the convolution's [Co, Ci, kh, kw]."""
    target = own.get(key)
    if target is None or value.dim() != 2 or target.dim() != 4:
        return value
    return value.reshape(target.shape) if value.numel() == target.numel() else value


def _latent(key: str, value: Tensor) -> Tensor:
    """Center a binary layer's filters over their input channels and clamp them, in float32.

    A linear weight [Co, K] has all its inputs on one axis, a convolution's [Co, Ci, kh, kw] is
    centered at each tap.
    """
    if not key.endswith(_LATENT_SUFFIXES):
        return value
    require_finite(key, value)
    latent = value.float()
    return (latent - latent.mean(dim=1, keepdim=True)).clamp(-1, 1)


def _raise_gammas(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            layer.weight.data.clamp_(min=_SMALLEST_GAMMA)
