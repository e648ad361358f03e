"""Bi-Real Net and ReActNet restated: their forward on a plain dict with upstream's keys."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F

SEED = 21
State = dict[str, torch.Tensor]


class Maker:
    """Random tensors under upstream's keys: statistics far from identity, gammas of both signs."""

    def __init__(self) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(SEED)

    def put(self, key: str, *shape: int, spread: float = 1.0) -> None:
        self.state[key] = torch.randn(shape, generator=self.generator) * spread

    def conv(self, key: str, *shape: int, flat: bool = False) -> None:
        spread = 1 / np.sqrt(np.prod(shape[1:]))
        if flat:
            self.put(f"{key}.weights", int(np.prod(shape)), 1, spread=spread)
        else:
            self.put(f"{key}.weight", *shape, spread=spread)

    def norm(self, key: str, channels: int) -> None:
        for name in ("weight", "bias", "running_mean"):
            self.put(f"{key}.{name}", channels)
        self.put(f"{key}.running_var", channels)
        self.state[f"{key}.running_var"].abs_().add_(0.3)
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def shift(self, key: str, channels: int) -> None:
        self.put(f"{key}.bias", 1, channels, 1, 1, spread=0.3)

    def prelu(self, key: str, channels: int) -> None:
        self.put(f"{key}.weight", channels, spread=0.3)

    def linear(self, key: str, out: int, inputs: int) -> None:
        self.put(f"{key}.weight", out, inputs)
        self.put(f"{key}.bias", out)


class Restated:
    """The operations of the papers, by key."""

    def __init__(self, state: State, *, real_weights: bool = False) -> None:
        self.state = state
        self.real_weights = real_weights

    def norm(self, x, key):
        s = self.state
        mean, var = s[f"{key}.running_mean"], s[f"{key}.running_var"]
        return F.batch_norm(x, mean, var, s[f"{key}.weight"], s[f"{key}.bias"])

    def conv(self, x, key, **kw):
        return F.conv2d(x, self.state[f"{key}.weight"], **kw)

    def binary(self, x, key, shape, *, stride=1):
        """conv(sign x, mean|w| sign w), with zero padding that keeps the size."""
        flat = self.state.get(f"{key}.weights")
        w = self.state[f"{key}.weight"] if flat is None else flat.reshape(shape)
        assert tuple(w.shape) == tuple(shape)
        if not self.real_weights:
            w = w.abs().mean(dim=(1, 2, 3), keepdim=True) * w.sign()
        return F.conv2d(x.sign(), w, stride=stride, padding=shape[-1] // 2)

    def shifted(self, x, key):
        return x + self.state[f"{key}.bias"]

    def rprelu(self, x, before, prelu, after):
        y = F.prelu(self.shifted(x, before), self.state[f"{prelu}.weight"])
        return self.shifted(y, after)

    def pooled(self, x, key, stride):
        return self.norm(self.conv(F.avg_pool2d(x, stride, stride), f"{key}.1"), f"{key}.2")

    def head(self, x):
        return F.linear(x.mean((2, 3)), self.state["fc.weight"], self.state["fc.bias"])

    def stem(self, x):
        h = self.norm(self.conv(x, "conv1", stride=2, padding=3), "bn1")
        return F.max_pool2d(h, 3, 2, 1)


def resnet_state(blocks, *, width=16, classes=7, react=False, flat=True) -> State:
    make = Maker()
    make.conv("conv1", width, 3, 7, 7)
    make.norm("bn1", width)
    before = width
    for stage, count in enumerate(blocks, start=1):
        after = width << (stage - 1)
        for index in range(count):
            key = f"layer{stage}.{index}"
            if react:
                make.shift(f"{key}.move0", before)
                for name in ("move1", "move2"):
                    make.shift(f"{key}.{name}", after)
                make.prelu(f"{key}.prelu", after)
            make.conv(f"{key}.binary_conv", after, before, 3, 3, flat=flat)
            make.norm(f"{key}.bn1", after)
            if before != after:
                make.conv(f"{key}.downsample.1", after, before, 1, 1)
                make.norm(f"{key}.downsample.2", after)
            before = after
    make.linear("fc", classes, before)
    return make.state


def resnet(state: State, x, blocks, *, width=16, react=False, real_weights=False, shortcut=True):
    net = Restated(state, real_weights=real_weights)
    h, before = net.stem(x), width
    for stage, count in enumerate(blocks, start=1):
        after = width << (stage - 1)
        for index in range(count):
            key = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            signed = net.shifted(h, f"{key}.move0") if react else h
            y = net.binary(signed, f"{key}.binary_conv", (after, before, 3, 3), stride=stride)
            y = net.norm(y, f"{key}.bn1")
            if shortcut:
                y = y + (h if before == after else net.pooled(h, f"{key}.downsample", stride))
            h = net.rprelu(y, f"{key}.move1", f"{key}.prelu", f"{key}.move2") if react else y
            before = after
    return net.head(h)


def bottleneck_plan(blocks, width):
    before = width
    for stage, count in enumerate(blocks):
        after = width * 4 << stage
        for index in range(count):
            yield before, after, 2 if stage and not index else 1
            before = after


def bottleneck_state(blocks, *, width=8, classes=5) -> State:
    make = Maker()
    make.conv("conv1", width, 3, 7, 7)
    make.norm("bn1", width)
    after = width
    for index, (before, after, _) in enumerate(bottleneck_plan(blocks, width)):
        key, middle = f"layers.{index}", after // 4
        make.conv(f"{key}.conv1", middle, before, 1, 1)
        make.conv(f"{key}.conv2", middle, middle, 3, 3)
        make.conv(f"{key}.conv3", after, middle, 1, 1)
        for number, channels in ((1, middle), (2, middle), (3, after)):
            make.norm(f"{key}.bn{number}", channels)
        if before != after:
            make.conv(f"{key}.down_conv1x1", middle, before // 4, 1, 1)
            make.conv(f"{key}.downsample.1", after, before, 1, 1)
            make.norm(f"{key}.downsample.2", after)
    make.linear("fc", classes, after)
    return make.state


def bottleneck(state: State, x, blocks, *, width=8):
    net = Restated(state)
    x1 = x2 = net.stem(x)
    for index, (before, after, stride) in enumerate(bottleneck_plan(blocks, width)):
        key, middle = f"layers.{index}", after // 4
        if index == 0:
            clipped = torch.where(x2 < -1, 0.1 * x2 - 0.9, torch.where(x2 > 1, 0.1 * x2 + 0.9, x2))
            out1 = net.norm(net.conv(clipped, f"{key}.conv1"), f"{key}.bn1")
        else:
            out1 = net.norm(net.binary(x2, f"{key}.conv1", (middle, before, 1, 1)), f"{key}.bn1")
            out1 = out1 + (net.conv(x1, f"{key}.down_conv1x1") if before != after else x1)
        out2 = net.binary(out1, f"{key}.conv2", (middle, middle, 3, 3), stride=stride)
        out2 = net.norm(out2, f"{key}.bn2") + (F.avg_pool2d(out1, 2, 2) if stride == 2 else out1)
        out3 = net.norm(net.binary(out2, f"{key}.conv3", (after, middle, 1, 1)), f"{key}.bn3")
        wide = net.pooled(x2, f"{key}.downsample", stride) if before != after else x2
        x1, x2 = out2, out3 + wide
    return net.head(x2)


def mobile_state(channels, *, classes=6, flat=True) -> State:
    make = Maker()
    make.conv("feature.0.conv1", channels[0], 3, 3, 3)
    make.norm("feature.0.bn1", channels[0])
    for index, (before, after) in enumerate(itertools.pairwise(channels), start=1):
        key = f"feature.{index}"
        for name in ("move11", "move12", "move13", "move21"):
            make.shift(f"{key}.{name}", before)
        for name in ("move22", "move23"):
            make.shift(f"{key}.{name}", after)
        make.prelu(f"{key}.prelu1", before)
        make.prelu(f"{key}.prelu2", after)
        make.conv(f"{key}.binary_3x3", before, before, 3, 3, flat=flat)
        make.norm(f"{key}.bn1", before)
        if before == after:
            make.conv(f"{key}.binary_pw", before, before, 1, 1, flat=flat)
            make.norm(f"{key}.bn2", before)
        else:
            for number in (1, 2):
                make.conv(f"{key}.binary_pw_down{number}", before, before, 1, 1, flat=flat)
                make.norm(f"{key}.bn2_{number}", before)
    make.linear("fc", classes, channels[-1])
    return make.state


def mobile(state: State, x, channels, *, real_weights=False, unhalved=64):
    """Upstream names the width 64, which it reaches without halving the image."""
    net = Restated(state, real_weights=real_weights)
    h = net.norm(net.conv(x, "feature.0.conv1", stride=2, padding=1), "feature.0.bn1")
    for index, (before, after) in enumerate(itertools.pairwise(channels), start=1):
        key = f"feature.{index}"
        stride = 2 if after not in (before, unhalved) else 1
        shape = (before, before, 3, 3)
        y = net.binary(net.shifted(h, f"{key}.move11"), f"{key}.binary_3x3", shape, stride=stride)
        y = net.norm(y, f"{key}.bn1") + (F.avg_pool2d(h, 2, 2) if stride == 2 else h)
        y = net.rprelu(y, f"{key}.move12", f"{key}.prelu1", f"{key}.move13")
        signed, shape = net.shifted(y, f"{key}.move21"), (before, before, 1, 1)
        if before == after:
            z = net.norm(net.binary(signed, f"{key}.binary_pw", shape), f"{key}.bn2") + y
        else:
            halves = [
                net.norm(net.binary(signed, f"{key}.binary_pw_down{n}", shape), f"{key}.bn2_{n}")
                + y
                for n in (1, 2)
            ]
            z = torch.cat(halves, dim=1)
        h = net.rprelu(z, f"{key}.move22", f"{key}.prelu2", f"{key}.move23")
    return net.head(h)
