"""Random small networks of our layers among torch's, whose arithmetic is exact in float32.

All parameters are multiples of 1/4 and few bits wide, and BatchNorm has eps 0 and variances that
are powers of 4, so that sums come out the same in any order: a pass that folds or fuses must leave
every bit of the logits as it is. Activations of exactly 0 and values on a threshold are frequent.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitexport.layers import BinaryConv2d, CodebookConv2d, CodebookLinear, SignConv2d

__all__ = ["IMAGE", "RandomNetwork", "images"]

IMAGE = (4, 8, 8)
CLASSES = 5


class RandomNetwork(nn.Module):
    """A network drawn from a seed: float [N, 4, 8, 8] -> [N, 5].

    Args:
        seed: Draws layers and parameters.
        binary_activations: False leaves the layers with 1-bit activations out.
    """

    def __init__(self, seed: int, *, binary_activations: bool = True) -> None:
        super().__init__()
        self.seed, self.binary_activations = seed, binary_activations
        torch.manual_seed(seed)
        draw = _Draw(random.Random(seed), binary_activations)
        self.body, channels = draw.chain(IMAGE[0], draw.rng.randint(2, 4), depth=2)
        self.head = draw.head(channels)
        _round(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def images(seed: int, samples: int) -> Tensor:
    """Multiples of 1/8 in [-2, 2], exact zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-16, 17, (samples, *IMAGE), generator=generator) / 8


class Shift(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Residual(nn.Module):
    """The sum of a branch and a shortcut that brings x to its shape, in either order."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, *, swapped: bool) -> None:
        super().__init__()
        self.branch, self.shortcut, self.swapped = branch, shortcut, swapped

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.branch(x), self.shortcut(x)
        return z + y if self.swapped else y + z


class Fork(nn.Module):
    """Branches of the same size, side by side on the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class ZeroChannels(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.pad = (0, 0, 0, 0, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pad)


class Leaking(nn.Module):
    """What a branch computed beside its activation: a value that two nodes read."""

    def __init__(self, branch: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.branch, self.after = branch, after

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return self.after(y) - y


class _Draw:
    """Draws modules; ``made`` holds those that keep their input's shape, to be used again."""

    def __init__(self, rng: random.Random, binary_activations: bool) -> None:
        self.rng = rng
        self.made: dict[int, list[nn.Module]] = {}
        self.layers = [self.sign_conv, self.codebook_conv, self.conv]
        if binary_activations:
            self.layers += [self.binary_conv] * 4

    def chain(self, channels: int, length: int, depth: int) -> tuple[nn.Sequential, int]:
        parts: list[nn.Module] = []
        for _ in range(length):
            kind = self.rng.random()
            if depth and kind < 0.5:
                part, channels = self.composite(channels, depth - 1)
                parts.append(part)
            else:
                if kind < 0.6 and self.made.get(channels):
                    parts.append(self.rng.choice(self.made[channels]))
                    continue
                parts += self.before(channels)
                after = self.rng.choice([channels, channels, 4, 6, 8])
                parts += [self.rng.choice(self.layers)(channels, after), *self.behind(after)]
                if after == channels:
                    self.made.setdefault(channels, []).append(parts[-1])
                    self.made[channels].append(nn.Sequential(*parts[-2:]))
                channels = after
        return nn.Sequential(*parts), channels

    def composite(self, channels: int, depth: int) -> tuple[nn.Module, int]:
        branch, after = self.chain(channels, self.rng.randint(1, 2), depth)
        kind = self.rng.random()
        if kind < 0.5:
            if after == channels:
                shortcut: nn.Module = nn.Identity()
            elif after > channels and self.rng.random() < 0.5:
                low = (after - channels) // 2
                shortcut = ZeroChannels(low, after - channels - low)
            else:
                shortcut = nn.Sequential(self.conv(channels, after, 1), self.norm(after))
            whole: nn.Module = Residual(branch, shortcut, swapped=self.rng.random() < 0.5)
            return nn.Sequential(whole, *self.behind(after)), after
        if kind < 0.75:
            other, second = self.chain(channels, 1, 0)
            return Fork(branch, other), after + second
        return Leaking(branch, self.norm(after) if self.coin() else self.activation(after)), after

    def before(self, channels: int) -> list[nn.Module]:
        """What stands in front of a layer: it may fold into a threshold."""
        found: list[nn.Module] = []
        if self.coin():
            found.append(self.rng.choice([self.norm, Shift, self.pool])(channels))
        return found

    def behind(self, channels: int) -> list[nn.Module]:
        """What follows a layer: it may fold into its scale or fuse with it."""
        found: list[nn.Module] = [self.norm(channels)] if self.rng.random() < 0.7 else []
        kinds: list[Callable[[int], nn.Module]] = [self.activation, Shift]
        found += [self.rng.choice(kinds)(channels) for _ in range(self.rng.randint(0, 3))]
        return found or [nn.Identity()]

    def coin(self) -> bool:
        return self.rng.random() < 0.5

    def norm(self, channels: int) -> nn.Module:
        affine = self.rng.random() < 0.8
        layer = nn.BatchNorm2d(channels, eps=0, affine=affine)
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.normal_()
        layer.running_var.copy_(torch.tensor([1.0, 4.0, 0.25])[torch.randint(0, 3, (channels,))])
        if affine:
            gammas = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, 0.0])
            layer.weight.data = gammas[torch.randint(0, 6, (channels,))]
            layer.bias.data.normal_()
        return layer

    def activation(self, channels: int) -> nn.Module:
        slopes = nn.PReLU(channels if self.coin() else 1)
        slopes.weight.data.normal_()
        bounded = nn.Hardtanh(-1.0, self.rng.choice([1.0, 2.0]))
        return self.rng.choice([slopes, bounded, nn.ReLU(), nn.ReLU6(), nn.Identity()])

    def pool(self, channels: int) -> nn.Module:
        del channels
        average = nn.AvgPool2d(2, 1, padding=1, count_include_pad=True)
        # Every pool must keep the size, as branches are added up.
        return nn.Sequential(average, nn.MaxPool2d(2, 1)) if self.coin() else nn.MaxPool2d(3, 1, 1)

    def conv(self, channels: int, after: int, kernel: int = 3) -> nn.Module:
        layer = nn.Conv2d(channels, after, kernel, padding=kernel // 2, bias=self.coin())
        layer.weight.data.normal_()
        return layer

    def geometry(self, channels: int, after: int) -> tuple[int, dict[str, int]]:
        kernel = self.rng.choice([1, 3, 3])
        dilation = self.rng.choice([1, 1, 2]) if kernel > 1 else 1
        groups = 2 if channels % 2 == after % 2 == 0 and self.rng.random() < 0.3 else 1
        padding = dilation * (kernel // 2)
        return kernel, {"padding": padding, "dilation": dilation, "groups": groups}

    def sign_conv(self, channels: int, after: int) -> nn.Module:
        kernel, geometry = self.geometry(channels, after)
        layer = SignConv2d(channels, after, kernel, scale_rule="learned", **geometry)
        return self.latent(layer)

    def binary_conv(self, channels: int, after: int) -> nn.Module:
        kernel, geometry = self.geometry(channels, after)
        flags = {name: self.rng.random() < 0.3 for name in ("centered", "shifted", "bias")}
        layer = BinaryConv2d(channels, after, kernel, scale_rule="learned", **flags, **geometry)
        for extra in (layer.shift, layer.bias):
            if extra is not None:
                extra.data.normal_()
        return self.latent(layer)

    def latent(self, layer: SignConv2d) -> nn.Module:
        layer.alpha.data = torch.tensor([0.25, -0.25, 0.5, 1.0])[
            torch.randint(0, 4, layer.alpha.shape)
        ]
        layer.weight.data.normal_()
        if self.rng.random() < 0.3:
            layer.weight.data[torch.rand(layer.weight.shape) < 0.05] = 0
        return layer

    def codebook_conv(self, channels: int, after: int) -> nn.Module:
        kernel, geometry = self.geometry(channels, after)
        shape = (after, channels // geometry["groups"], kernel, kernel)
        row = shape[1] * kernel * kernel
        codes = torch.randint(0, 7, (after, row))
        bias = torch.randn(after) if self.coin() else None
        return CodebookConv2d(codes, torch.randn(7, 1), shape, bias=bias, **geometry)

    def head(self, channels: int) -> nn.Module:
        pool = self.rng.choice([nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(8)])
        linear: nn.Module = nn.Linear(channels, CLASSES, bias=self.coin())
        if self.coin():
            codes = torch.randint(0, 7, (CLASSES, channels))
            linear = CodebookLinear(codes, torch.randn(7, 1), (CLASSES, channels))
        between: list[nn.Module] = []
        if self.coin():
            norm = nn.BatchNorm1d(channels, eps=0)
            norm.weight.data.mul_(-0.5)
            between.append(norm)
        return nn.Sequential(pool, nn.Flatten(), *between, linear)


def _round(module: nn.Module) -> None:
    """Everything that was drawn from a normal distribution, to multiples of 1/4."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        zeros = tensor == 0
        if tensor.is_floating_point() and not name.endswith("running_var"):
            tensor.data = (tensor.data * 4).round().clamp(-6, 6) / 4
        if name.endswith("weight") and tensor.dim() == 4:
            # A latent weight is 0 only where it was made so.
            tensor.data = torch.where((tensor == 0) & ~zeros, 0.25, tensor)
