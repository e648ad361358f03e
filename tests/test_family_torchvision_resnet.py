"""Full-precision and product-quantized ResNets of every depth, from state dicts made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

import bitexport
from bitexport import ExportOptions
from bitexport.comparison import relative_l2

SEED = 4


def random_resnet(make, **kw) -> nn.Module:
    torch.manual_seed(SEED)
    model = make(**kw).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


def test_full_precision_resnet(tmp_path: Path) -> None:
    model = random_resnet(resnet18, num_classes=12)
    path = tmp_path / "resnet.pth"
    torch.save(model.state_dict(), path)
    options = ExportOptions(input_size=(64, 64))
    report = bitexport.export(path, path=tmp_path / "m.onnx", options=options)
    assert (report.family, report.arch) == ("resnet", "resnet18")
    assert {layer.op for layer in report.layers} == {"Conv", "Gemm"}
    assert not [r for r in report.records if r.rule == "fold-batch-norm" and not r.applied]
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = model(x).numpy()
    got = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"input": x.numpy()})[0]
    assert relative_l2(got, want) <= 1e-5


def quantize(model: nn.Module, dense: set[str]) -> dict[str, object]:
    """kill-the-bits' file of a model, with random codes; the named layers stay dense."""
    rng = np.random.default_rng(SEED)
    state: dict[str, object] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1)
            half = {"weight": module.weight.detach().half(), "bias": module.bias.detach().half()}
            with torch.no_grad():
                module.weight.copy_(half["weight"])
                module.bias.copy_(half["bias"])
            state[name] = half
        elif isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            if name == "conv1" or name in dense:
                state[name] = {"weight": weight.half()}
                module.weight.data.copy_(weight.half())
                continue
            rows = weight.shape[0]
            block = 4 if weight.dim() == 2 or weight.shape[-1] == 1 else 9
            blocks = weight[0].numel() // block
            centroids = torch.tensor(rng.normal(size=(32, block)) * 0.05).half()
            codes = torch.tensor(rng.integers(32, size=(blocks, rows)))
            value = centroids[codes].transpose(0, 1).reshape(weight.shape)
            module.weight.data.copy_(value)
            state[name] = {
                "centroids": centroids,
                "assignments": codes.flatten().to(torch.uint8),
                "n_blocks": blocks,
                "is_conv": weight.dim() == 4,
                "k": weight.shape[-1] if weight.dim() == 4 else 1,
            }
            if isinstance(module, nn.Linear):
                state["fc_bias"] = {"bias": module.bias.detach()}
    return state


@pytest.mark.parametrize(
    ("make", "arch", "dense"),
    [
        (resnet18, "resnet18", set()),
        (resnet50, "resnet50", {"layer1.0.conv3", "layer1.0.downsample.0"}),
    ],
    ids=["resnet18", "semi-supervised resnet50"],
)
def test_product_quantized_resnet(make, arch: str, dense: set[str], tmp_path: Path) -> None:
    model = random_resnet(make, num_classes=16)
    state = quantize(model, dense)
    path = tmp_path / "quantized.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    options = ExportOptions(input_size=(64, 64))
    report = bitexport.export(path, path=tmp_path / "m.onnx", options=options)
    assert (report.family, report.arch) == ("kill-the-bits", arch)
    assert {layer.name for layer in report.layers if layer.dense} == {"conv1", *dense}
    assert report.bytes <= 1.06 * path.stat().st_size
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = model(x).numpy()
    got = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"input": x.numpy()})[0]
    assert relative_l2(got, want) <= 1e-4
