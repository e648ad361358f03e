"""Wide ResNets of other depths and widths than upstream's, against their formulas restated."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F

import bitexport
from bitexport import ExportOptions
from bitexport.comparison import relative_l2
from bitexport.errors import UnsupportedModel
from bitexport.families import LoadOptions, load

State = dict[str, torch.Tensor]
SEED = 4
CLASSES = 7


def upstream_state(blocks: int, stem: int, in_channels: int) -> State:
    """Random tensors under upstream's keys; ``stem`` channels after the first convolution."""
    generator = torch.Generator().manual_seed(SEED)
    state: State = {}

    def conv(key: str, *shape: int) -> None:
        state[key] = torch.randn(shape, generator=generator) * 0.1

    def norm(key: str, channels: int) -> None:
        state[f"{key}.running_mean"] = torch.randn(channels, generator=generator) * 0.3
        state[f"{key}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{key}.num_batches_tracked"] = torch.tensor(3)

    conv("conv0", stem, in_channels, 3, 3)
    before = stem
    for group in range(3):
        after = stem << group
        for block in range(blocks):
            key = f"group{group}.block{block}"
            norm(f"{key}.bn0", before)
            conv(f"{key}.conv0", after, before, 3, 3)
            norm(f"{key}.bn1", after)
            conv(f"{key}.conv1", after, after, 3, 3)
            before = after
    norm("bn", before)
    conv("conv_last", CLASSES, before, 1, 1)
    norm("bn_last", CLASSES)
    for name in ("weight", "bias"):
        state[f"bn_last.{name}"] = torch.randn(CLASSES, generator=generator)
    return state


def restated(state: State, x: torch.Tensor, blocks: int) -> torch.Tensor:
    def norm(key: str, h: torch.Tensor) -> torch.Tensor:
        affine = (state.get(f"{key}.{name}") for name in ("weight", "bias"))
        mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        return F.batch_norm(h, mean, var, *affine)

    def binary(key: str, h: torch.Tensor, stride: int = 1) -> torch.Tensor:
        w = state[key]
        w = (2 / w[0].numel()) ** 0.5 * w.sign()
        return F.conv2d(h, w, stride=stride, padding=1)

    h = F.conv2d(x, state["conv0"], padding=1)
    for group in range(3):
        for block in range(blocks):
            key, halves = f"group{group}.block{block}", group > 0 and block == 0
            y = binary(f"{key}.conv0", norm(f"{key}.bn0", h).relu(), 2 if halves else 1)
            y = binary(f"{key}.conv1", norm(f"{key}.bn1", y).relu())
            if halves:
                pooled = F.avg_pool2d(h, 3, stride=2, padding=1)
                h = torch.cat([pooled, torch.zeros_like(pooled)], dim=1)
            h = h + y
    h = norm("bn_last", F.conv2d(norm("bn", h).relu(), state["conv_last"]))
    return h.mean((2, 3))


@pytest.mark.parametrize(
    ("blocks", "stem", "in_channels", "arch"),
    [
        (1, 24, 3, "wrn-8-1.5"),
        (2, 8, 1, "wrn-14-0.5"),
        (1, 33, 3, "wrn-8-2.0625"),
    ],
)
def test_exact_for_any_width(
    blocks: int, stem: int, in_channels: int, arch: str, tmp_path: Path
) -> None:
    state = upstream_state(blocks, stem, in_channels)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "net.pth")
    options = ExportOptions(input_size=(19, 27))
    report = bitexport.export(tmp_path / "net.pth", path=tmp_path / "net.onnx", options=options)
    assert (report.family, report.arch) == ("wide-resnet", arch)
    named = load(tmp_path / "net.pth", LoadOptions(family="wide-resnet", arch=arch))
    x = torch.randn(3, in_channels, 19, 27, generator=torch.Generator().manual_seed(SEED))
    expected = restated(state, x, blocks)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert relative_l2(session.run(None, {"input": x.numpy()})[0], expected.numpy()) < 1e-5
    with torch.no_grad():
        assert relative_l2(named.module(x).numpy(), expected.numpy()) < 1e-5


def test_a_channel_of_variance_0_is_read_and_one_below_0_is_not(tmp_path: Path) -> None:
    """A channel that is dead behind a ReLU has no variance."""
    state = upstream_state(1, 16, 3)
    for value in (0.0, -1e-3):
        state["bn.running_var"][5] = value
        torch.save(state, tmp_path / "net.pth")
        if value < 0:
            with pytest.raises(UnsupportedModel, match="a negative variance"):
                load(tmp_path / "net.pth")
        else:
            variances = load(tmp_path / "net.pth").module.state_dict()["bn.running_var"]
            assert torch.equal(variances, state["bn.running_var"])


def test_a_number_beyond_float32_is_refused(tmp_path: Path) -> None:
    state = {k: v.double() for k, v in upstream_state(1, 16, 3).items()}
    state["conv0"][0, 0, 0, 0] = 1e39
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UnsupportedModel, match=r"'conv0\.weight' is not finite"):
        load(tmp_path / "net.pth")
