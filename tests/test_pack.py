"""`bitexport pack`: the packed file is the same model, and upstream's packed file comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import codebook_state, run, save_codebooks, save_wrn, wrn_state
from torch import nn

import bitexport
from bitexport.checkpoint import read_checkpoint
from bitexport.families import LoadedModel
from bitexport.families.packed import packed_state
from bitexport.layers import CodebookConv2d


def assert_same_model(one: Path, other: Path) -> None:
    models = [bitexport.load(path) for path in (one, other)]
    assert models[0].arch == models[1].arch
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        first, second = (model.module(x) for model in models)
    assert torch.equal(first, second)


def test_wide_resnet_round_trip(tmp_path: Path) -> None:
    source = save_wrn(tmp_path / "checkpoint.pth.tar", wrn_state())
    packed, again = tmp_path / "packed.pth.tar", tmp_path / "again.pth.tar"
    assert run("pack", source, "-o", packed).code == 0
    assert packed.stat().st_size < source.stat().st_size / 4
    state = torch.load(packed, weights_only=True)
    weight = state["module.group1.block0.conv1"]
    assert (weight.dtype, tuple(weight.shape)) == (torch.uint8, (32, 4, 3, 3))
    assert_same_model(source, packed)
    assert run("pack", packed, "-o", again).code == 0
    assert all(torch.equal(v, torch.load(again, weights_only=True)[k]) for k, v in state.items())


def test_codebook_round_trip(tmp_path: Path) -> None:
    source = save_codebooks(tmp_path / "quantized.pth")
    packed = tmp_path / "packed.pth"
    assert run("pack", source, "-o", packed).code == 0
    assert_same_model(source, packed)
    before, after = (read_checkpoint(path).values for path in (source, packed))
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if torch.is_tensor(value) else value == after[key]
        assert same, key


def test_upstreams_packed_file_comes_back(shared: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.pth.tar"
    assert run("pack", shared / "fixtures/wrn20_1_bin/checkpoint.pth.tar", "-o", packed).code == 0
    upstream = shared / "fixtures/wrn20_1_bin_packed/wrn20-1-1bit-packed.pth.tar"
    want, got = (torch.load(p, weights_only=True) for p in (upstream, packed))
    assert want.keys() == got.keys()
    assert all(torch.equal(v, got[k]) and v.dtype == got[k].dtype for k, v in want.items())


@pytest.mark.parametrize("zeros", [True, False])
def test_refuses_what_the_format_cannot_hold(zeros: bool, tmp_path: Path) -> None:
    state = wrn_state()
    if zeros:
        state["group0.block0.conv0"][0, 0, 0, 0] = 0
    source = save_wrn(tmp_path / "checkpoint.pth.tar", state)
    output = tmp_path / "packed.pth.tar"
    options = () if zeros else ("--arch", "wrn-14-1")
    outcome = run("pack", source, "-o", output, *options)
    assert outcome.code == 4
    assert outcome.err.startswith("error: ")
    assert not output.exists()


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 2.0), (0.5, 1.0)])
def test_statistics_that_the_format_has_no_place_for(
    mean: float, variance: float, tmp_path: Path
) -> None:
    state = codebook_state()
    state["bn1"]["running_mean"] = torch.full((64,), mean)
    state["bn1"]["running_var"] = torch.full((64,), variance)
    source = save_codebooks(tmp_path / "quantized.pth", state)
    outcome = run("pack", source, "-o", tmp_path / "packed.pth")
    assert outcome.code == 4 and "bn1" in outcome.err


@pytest.mark.parametrize("key", ["conv1.weight", "bn1.bias", "fc.centroids"])
def test_numbers_that_float16_would_round(key: str, tmp_path: Path) -> None:
    state = codebook_state()
    layer, _, field = key.partition(".")
    holder, name = (state, key) if key in state else (state[layer], field)
    holder[name] = holder[name].float() + 2**-20
    source = save_codebooks(tmp_path / "quantized.pth", state)
    outcome = run("pack", source, "-o", tmp_path / "packed.pth")
    assert outcome.code == 4 and "float16" in outcome.err
    assert not (tmp_path / "packed.pth").exists()


@pytest.mark.parametrize(
    ("last", "dtype"),
    [
        (255, torch.uint8),
        (256, torch.int16),
        (32_767, torch.int16),
        (32_768, torch.int32),
        (40_000, torch.int32),
    ],
)
def test_codes_take_the_narrowest_type_that_holds_them(last: int, dtype: torch.dtype) -> None:
    layer = CodebookConv2d(torch.tensor([[0, last]]), torch.zeros(last + 1, 2), (1, 4, 1, 1))
    model = LoadedModel(nn.Sequential(layer), "kill-the-bits", "resnet18", (3, 32, 32))
    codes = packed_state(model)["0"]["assignments"]
    assert codes.dtype == dtype and codes.tolist() == [0, last]
