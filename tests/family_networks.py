"""A small network of every family, exported, for tests of what comes after the export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from command_line import CLASSES, save_codebooks, save_wrn
from torch import nn

import bitexport
from bitexport.export_options import DenseWeights, ExportOptions
from bitexport.models.bireal import BiRealNet
from bitexport.models.centered_networks import ResNetPlan, build_network
from bitexport.models.reactnet import ReActNetA, reactnet_resnet
from bitexport.models.resnet import build_resnet
from bitexport.models.xnor_net import LeNet5

ONES = (1, 1, 1, 1)
SIMAN = ResNetPlan((1, 1), (16, 32), "prelu", "zero-pad", per_conv=True, stem_nonlinearity="relu")
RBNN = ResNetPlan((1, 1), (16, 32), "hardtanh", "binary", per_conv=False)

MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "bireal": (lambda: BiRealNet(ONES, CLASSES, width=16), (3, 32, 32)),
    "reactnet": (lambda: reactnet_resnet(ONES, CLASSES, width=16), (3, 32, 32)),
    "reactnet-a": (lambda: ReActNetA((16, 32, 32, 64), CLASSES), (3, 32, 32)),
    "xnor-net": (lambda: LeNet5(CLASSES, (8, 16, 40)), (1, 28, 28)),
    "siman": (lambda: build_network(SIMAN, CLASSES), (3, 16, 16)),
    "rbnn": (lambda: build_network(RBNN, CLASSES), (3, 16, 16)),
    "resnet": (lambda: build_resnet("resnet18", CLASSES), (3, 32, 32)),
}
NAMES = ("wide-resnet", "kill-the-bits", *MODULES)
# A rounding difference can flip a sign in them.
BINARY = frozenset(MODULES) - {"resnet"}


def export_family(
    name: str, path: Path, *, float16: bool = False, dense_weights: DenseWeights = "exact"
) -> Path:
    """Write the network's .onnx file; the same weights every time."""
    options = ExportOptions(float16=float16, dense_weights=dense_weights, verify=False)
    torch.manual_seed(0)
    if name in MODULES:
        build, shape = MODULES[name]
        module = build().eval()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None and layer.running_var is not None
                layer.running_mean.normal_(std=0.3)
                layer.running_var.uniform_(0.5, 2)
        bitexport.export(module, torch.zeros(1, *shape), path, options=options)
        return path
    save = save_wrn if name == "wide-resnet" else save_codebooks
    options = replace(options, input_size=(32, 32))
    bitexport.export(save(path.with_suffix(".pth")), path=path, options=options)
    return path
