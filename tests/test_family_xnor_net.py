"""XNOR-Net against a restatement of its evaluation, with random statistics."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from command_line import run_process

import bitexport
from bitexport.comparison import relative_l2
from bitexport.ops.table import OPS

SEED = 5


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A value for every key; variances positive, some gammas below 0.01 or negative."""
    generator = torch.Generator().manual_seed(SEED)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            value = value.abs() + 0.2
        elif key.endswith((".conv.weight", ".linear.weight")):
            value = value * 0.8 + 0.1
        elif len(shape) > 1:
            value = value / np.sqrt(np.prod(shape[1:]))
        state[key] = value
    return state


def norm(key: str, channels: int, *, affine: bool = True) -> dict[str, tuple[int, ...]]:
    names = ["running_mean", "running_var"] + (["weight", "bias"] if affine else [])
    return {f"{key}.{name}": (channels,) for name in names}


def block(key: str, weight: tuple[int, ...], channels: int | None = None):
    kind = "conv" if len(weight) == 4 else "linear"
    return {
        **norm(f"{key}.bn", channels or weight[1]),
        f"{key}.{kind}.weight": weight,
        f"{key}.{kind}.bias": (weight[0],),
    }


def layer(key: str, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": weight, f"{key}.bias": (weight[0],)}


ALEXNET = {
    **layer("features.0", (8, 3, 11, 11)),
    **norm("features.1", 8),
    **block("features.4", (12, 8, 5, 5)),
    **block("features.6", (10, 12, 3, 3)),
    **block("features.7", (14, 10, 3, 3)),
    **block("features.8", (6, 14, 3, 3)),
    **block("classifier.0", (20, 6 * 36)),
    **block("classifier.1", (24, 20)),
    **norm("classifier.2", 24),
    **layer("classifier.4", (7, 24)),
}
NIN = {
    **layer("xnor.0", (16, 3, 5, 5)),
    **norm("xnor.1", 16, affine=False),
    **block("xnor.3", (12, 16, 1, 1)),
    **block("xnor.4", (10, 12, 1, 1)),
    **block("xnor.6", (14, 10, 5, 5)),
    **block("xnor.7", (9, 14, 1, 1)),
    **block("xnor.8", (8, 9, 1, 1)),
    **block("xnor.10", (11, 8, 3, 3)),
    **block("xnor.11", (13, 11, 1, 1)),
    **norm("xnor.12", 13, affine=False),
    **layer("xnor.13", (5, 13, 1, 1)),
}
LENET5 = {
    **layer("conv1", (6, 1, 5, 5)),
    **norm("bn_conv1", 6, affine=False),
    **block("bin_conv2", (9, 6, 5, 5)),
    **block("bin_ip1", (17, 9 * 16), channels=9),
    **layer("ip2", (10, 17)),
}


def resnet_shapes(
    blocks: tuple[int, ...], *, bottleneck: bool, bias: bool, last_norm: bool, stem: int
) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the ports' ResNets, 8 channels wide."""
    expansion = 4 if bottleneck else 1
    shapes = {"conv1.weight": (8, 3, stem, stem), **norm("bn1", 8)}
    if last_norm:
        shapes |= {"conv1.bias": (8,), **norm("bn2", 64 * expansion)}

    def unit(key: str, ci: int, co: int, side: int) -> dict[str, tuple[int, ...]]:
        found = block(key, (co, ci, side, side))
        return {k: v for k, v in found.items() if bias or not k.endswith("conv.bias")}

    ci = 8
    for stage, count in enumerate(blocks):
        width = 8 << stage
        for i in range(count):
            key, co = f"layer{stage + 1}.{i}", width * expansion
            sides = (1, 3, 1) if bottleneck else (3, 3)
            channels = (ci, *[width] * (len(sides) - 1), co)
            for j, side in enumerate(sides):
                shapes |= unit(f"{key}.conv{j + 1}", channels[j], channels[j + 1], side)
            if i == 0 and (stage or ci != co):
                shapes |= unit(f"{key}.downsample", ci, co, 1)
            ci = co
    return shapes | layer("fc", (5, ci))


RESNET18 = resnet_shapes((2, 2, 2, 2), bottleneck=False, bias=True, last_norm=True, stem=7)
RESNET_SMALL = resnet_shapes((1, 2, 1, 1), bottleneck=False, bias=False, last_norm=False, stem=3)
RESNET_WIDE = resnet_shapes((1, 1, 2, 1), bottleneck=True, bias=False, last_norm=False, stem=7)


class Restated:
    """The forward of the port, on a plain dict of tensors."""

    def __init__(self, state: dict[str, torch.Tensor], smallest_gamma: float | None) -> None:
        self.state = state
        self.smallest_gamma = smallest_gamma

    def get(self, key: str) -> torch.Tensor | None:
        return self.state.get(key)

    def norm(self, x, key, eps=1e-4):
        gamma = self.get(f"{key}.weight")
        if gamma is not None and self.smallest_gamma is not None:
            gamma = gamma.clamp(min=self.smallest_gamma)
        mean, var = self.state[f"{key}.running_mean"], self.state[f"{key}.running_var"]
        return F.batch_norm(x, mean, var, gamma, self.get(f"{key}.bias"), eps=eps)

    def binary(self, x, key, *, padding=0, flatten=False, stride=1, relu=True):
        x = self.norm(x, f"{key}.bn").sign()
        if flatten:
            x = x.flatten(1)
        kind = "conv" if x.dim() == 4 else "linear"
        w = self.state[f"{key}.{kind}.weight"]
        w = (w - w.mean(1, keepdim=True)).clamp(-1, 1)
        alpha = w.abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)
        bias = self.get(f"{key}.{kind}.bias")
        w = w.sign() * alpha
        if kind == "conv":
            y = F.conv2d(x, w, bias, padding=padding, stride=stride)
        else:
            y = F.linear(x, w, bias)
        return y.relu() if relu else y

    def conv(self, x, key, **kw):
        return F.conv2d(x, self.state[f"{key}.weight"], self.get(f"{key}.bias"), **kw)

    def alexnet(self, x):
        h = self.norm(self.conv(x, "features.0", stride=4), "features.1").relu()
        h = self.binary(F.max_pool2d(h, 3, 2), "features.4", padding=2)
        h = F.max_pool2d(h, 3, 2)
        for index in (6, 7, 8):
            h = self.binary(h, f"features.{index}", padding=1)
        h = F.max_pool2d(h, 3, 2).flatten(1)
        h = self.binary(self.binary(h, "classifier.0"), "classifier.1")
        h = self.norm(h, "classifier.2", eps=1e-3)
        return F.linear(h, self.state["classifier.4.weight"], self.state["classifier.4.bias"])

    def nin(self, x):
        h = self.norm(self.conv(x, "xnor.0", padding=2), "xnor.1").relu()
        h = self.binary(self.binary(h, "xnor.3"), "xnor.4")
        h = self.binary(F.max_pool2d(h, 3, 2, 1), "xnor.6", padding=2)
        h = self.binary(self.binary(h, "xnor.7"), "xnor.8")
        h = self.binary(F.avg_pool2d(h, 3, 2, 1), "xnor.10", padding=1)
        h = self.norm(self.binary(h, "xnor.11"), "xnor.12")
        return F.avg_pool2d(self.conv(h, "xnor.13").relu(), 8, 1).flatten(1)

    def resnet_blocks(self, x):
        for stage in range(1, 5):
            i = 0
            while f"layer{stage}.{i}.conv1.conv.weight" in self.state:
                key, stride, y = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1, x
                units = 3 if f"{key}.conv3.conv.weight" in self.state else 2
                for j in range(1, units + 1):
                    side = self.state[f"{key}.conv{j}.conv.weight"].shape[-1]
                    step = stride if j == units - 1 else 1
                    y = self.binary(
                        y, f"{key}.conv{j}", padding=side // 2, stride=step, relu=j < units
                    )
                if f"{key}.downsample.conv.weight" in self.state:
                    x = self.binary(x, f"{key}.downsample", stride=stride, relu=False)
                x, i = (y + x).relu(), i + 1
        return x.mean((2, 3))

    def resnet18(self, x):
        h = F.max_pool2d(self.conv(x, "conv1", stride=2, padding=3), 3, 2, 1)
        h = self.resnet_blocks(self.norm(h, "bn1").relu())
        h = self.norm(h, "bn2").relu()
        return F.linear(h, self.state["fc.weight"], self.state["fc.bias"])

    def resnet_small(self, x):
        h = self.norm(self.conv(x, "conv1", padding=1), "bn1", eps=1e-5).relu()
        return F.linear(self.resnet_blocks(h), self.state["fc.weight"], self.state["fc.bias"])

    def resnet_wide(self, x):
        h = self.norm(self.conv(x, "conv1", stride=2, padding=3), "bn1", eps=1e-5).relu()
        h = self.resnet_blocks(F.max_pool2d(h, 3, 2, 1))
        return F.linear(h, self.state["fc.weight"], self.state["fc.bias"])

    def lenet5(self, x):
        h = F.max_pool2d(self.norm(self.conv(x, "conv1"), "bn_conv1").relu(), 2)
        h = F.max_pool2d(self.binary(h, "bin_conv2"), 2)
        h = self.binary(h, "bin_ip1", flatten=True)
        return F.linear(h, self.state["ip2.weight"], self.state["ip2.bias"])


ARCHITECTURES = {"resnet_small": "resnet-1-2-1-1", "resnet_wide": "resnet50-1-1-2-1"}
NETWORKS = {
    "alexnet": (ALEXNET, None, (3, 227, 227), "features.module."),
    "nin": (NIN, 0.01, (3, 32, 32), None),
    "lenet5": (LENET5, 0.01, (1, 28, 28), None),
    "resnet18": (RESNET18, None, (3, 224, 224), None),
    "resnet_small": (RESNET_SMALL, None, (3, 32, 32), None),
    "resnet_wide": (RESNET_WIDE, None, (3, 224, 224), None),
}


@pytest.fixture(params=NETWORKS)
def network(request, tmp_path):
    shapes, smallest_gamma, input_shape, prefix = NETWORKS[request.param]
    state = random_state(shapes)
    saved = {k.replace("features.", prefix) if prefix else k: v for k, v in state.items()}
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 3, "arch": request.param, "state_dict": saved}, path)
    images = torch.randn(6, *input_shape, generator=torch.Generator().manual_seed(SEED))
    want = getattr(Restated(state, smallest_gamma), request.param)(images)
    return request.param, path, images, want.numpy()


def test_loads_and_exports_as_the_port_evaluates(network, tmp_path):
    arch, path, images, want = network
    model = bitexport.load(path)
    assert (model.family, model.arch) == ("xnor-net", ARCHITECTURES.get(arch, arch))
    with torch.no_grad():
        assert relative_l2(model.module(images).numpy(), want) <= 1e-5
    report = bitexport.export(path, path=tmp_path / "model.onnx")
    ops = [layer.op for layer in report.layers]
    assert ops[0] == "Conv"
    # A ReLU behind a convolution is its bounds, and a chain's links have names of their own.
    wholes = {"BinaryConv", "BinaryConvAdd", "BinaryConvClip", "BinaryConvAddClip"}
    assert set(ops[1:-1]) <= wholes | {op.name for op in OPS if op.chained}
    assert report.verify.flip_rate <= 1e-4
    # Every sign takes its BatchNorm as a threshold.
    folds = [r for r in report.records if r.rule == "fold-threshold" and r.applied]
    assert len(folds) == len([layer for layer in report.layers if layer.binary_activations])
    logits = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(
        None, {"input": images.numpy()}
    )[0]
    close = [relative_l2(a, b) <= 1e-3 for a, b in zip(logits, want, strict=True)]
    assert np.mean(close) >= 0.8


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("xnor.7.conv.weight"), "xnor.7.conv.weight"),
        (lambda s: s.pop("xnor.7.bn.running_var"), "lacks tensors"),
        (lambda s: s.update({"xnor.7.bn.bias": torch.zeros(3)}), "wrong shape"),
        (lambda s: s["xnor.7.conv.weight"].fill_(torch.nan), "not finite"),
        (lambda s: s.update({"xnor.99.weight": torch.zeros(3)}), "unknown tensors"),
    ],
)
def test_refuses_a_damaged_state(change, match, tmp_path):
    state = random_state(NIN)
    change(state)
    path = tmp_path / "checkpoint.pth"
    torch.save(state, path)
    with pytest.raises(bitexport.BitexportError, match=match) as caught:
        bitexport.load(path)
    assert caught.value.exit_code == 4


def test_images_that_the_linear_layer_does_not_take(tmp_path):
    """torch logs an error of its own, with its traceback, as it traces."""
    torch.save(random_state(LENET5), tmp_path / "lenet5.pth")
    outcome = run_process("onnx", "lenet5.pth", "--input-size", "32", cwd=tmp_path)
    assert outcome.code == 4
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: torch could not export") and "[2, 1, 32, 32]" in line


@pytest.mark.parametrize("size", [16, 36])
def test_images_that_the_last_pooling_does_not_take(size, tmp_path):
    """Larger ones would have given the logits of several pixels, one after the other."""
    torch.save(random_state(NIN), tmp_path / "nin.pth")
    arguments = ("--input-size", str(size), "--no-verify")
    outcome = run_process("onnx", "nin.pth", *arguments, cwd=tmp_path)
    assert outcome.code == 4
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and "the input size does not fit" in line
    assert not (tmp_path / "nin.onnx").exists()
