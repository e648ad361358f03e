"""What `make gpu-bench` does before and after it measures; the plugins run on the host's double."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gpu
import plugins_build
import pytest
import tensorrt_build
import torch
import torchvision
from single_node import expected

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import dense, measure, report
from benchmarks.gpu.floors import Rates, float16_traffic, floor_us, plugin_traffic
from benchmarks.gpu.networks import NETWORKS, LayerShape
from benchmarks.gpu.plugin_layer import LayerFailure, PluginLayer, PluginLibrary
from benchmarks.gpu.timing import repeats_for, spread
from bitexport.models.wide_resnet import WideResNet

LAYERS = {
    "SignConv": LayerShape("a", "SignConv", 20, 12, 7, 3, 2),
    "BinaryConv": LayerShape("b", "BinaryConv", 40, 9, 5, 3),
    "BinaryConvAdd": LayerShape("c", "BinaryConvAdd", 33, 16, 6, 3),
    "CodebookConv": LayerShape("d", "CodebookConv", 8, 10, 5, 3, 1, 60, 9),
    "CodebookConv16": LayerShape("e", "CodebookConv", 16, 10, 5, 1, 1, 300, 4),
    "CodebookGemm": LayerShape("f", "CodebookGemm", 40, 11, 1, entries=300, depth=4),
}

# ---- Networks -----------------------------------------------------------------------------------


def macs(model: torch.nn.Module, size: int, kernels: set[int], without: str = "") -> int:
    """Multiplications of all convolutions of some kernel sizes, but one, and of linear layers."""
    total = 0

    def count(module: torch.nn.Module, _: object, y: torch.Tensor) -> None:
        nonlocal total
        pixels = y[0, 0].numel() if y.dim() == 4 else 1
        total += module.weight.numel() * pixels

    for key, module in model.named_modules():
        is_conv = isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] in kernels
        if (is_conv and key != without) or (isinstance(module, torch.nn.Linear) and 1 in kernels):
            module.register_forward_hook(count)
    model.to("meta").eval()(torch.zeros(1, 3, size, size, device="meta"))
    return total


@pytest.mark.parametrize(
    ("network", "theirs", "kernels"),
    [("pq-resnet50", "resnet50", {1, 3}), ("bireal18", "resnet18", {3})],
)
def test_networks_have_the_layers_of_torchvisions(
    network: str, theirs: str, kernels: set[int]
) -> None:
    ours = sum(layer.operations(5) for layer in NETWORKS[network])
    model = getattr(torchvision.models, theirs)()
    assert ours == 2 * 5 * macs(model, 224, kernels, without="conv1")


def test_wide_resnet_has_the_layers_of_the_model() -> None:
    with torch.device("meta"):
        model = WideResNet(20, 10, 100, binarize=False)
    ours = sum(layer.operations(1) for layer in NETWORKS["wrn-20-10"])
    assert ours == 2 * macs(model, 32, {1, 3})


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_follow_each_other(network: str) -> None:
    layers = NETWORKS[network]
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        assert layer.input_shape(3)[:2] == (3, layer.in_channels)
        assert layer.output_shape(3)[1] == layer.out_channels
    if network != "pq-resnet50":
        for before, after in pairwise(layers):
            assert (before.out_channels, before.out_size) == (after.in_channels, after.size)


@pytest.mark.parametrize("op", LAYERS)
def test_nodes(op: str) -> None:
    layer = LAYERS[op]
    node = layer.node()
    assert node.op.name == op
    assert node.attributes["wshape"][:2] == (layer.out_channels, layer.in_channels)
    assert expected(node, torch.zeros(layer.input_shape(2)).numpy()).shape == layer.output_shape(2)


# ---- Floors and statistics ----------------------------------------------------------------------

RATES = Rates(copy=1e12, half=1e14, tf32=5e13, int8=2e14, binary=8e14)


def test_floor_by_hand() -> None:
    layer = LayerShape("x", "BinaryConvAdd", 64, 128, 56, 3, 2)
    ours = plugin_traffic(layer, 2)
    # X, R and Y in float16, nine words of two by 128, a threshold, a scale and a bias.
    activations = 2 * (2 * 64 * 56 * 56 + 2 * 2 * 128 * 28 * 28)
    assert ours.bytes == activations + 4 * 128 * 9 * 2 + 4 * 64 + 8 * 128
    assert ours.operations == 2 * 2 * 128 * 64 * 9 * 28 * 28
    assert floor_us(ours, RATES) == pytest.approx(1e6 * ours.bytes / 1e12)
    theirs = float16_traffic(layer, 2)
    assert theirs.bytes == activations + 2 * (128 * 64 * 9 + 128)
    slow = replace(RATES, half=1e12)
    assert floor_us(theirs, slow) == pytest.approx(1e6 * ours.operations / 1e12)


@pytest.mark.parametrize("op", LAYERS)
def test_packed_bytes_are_those_of_the_node(op: str) -> None:
    layer = replace(LAYERS[op], out_channels=32)
    constants = sum(array.nbytes for array in layer.node().tensors.values())
    images = 2 * (layer.in_channels * layer.size**2 + 32 * layer.out_size**2)
    if layer.has_residual:
        images += 2 * 32 * layer.out_size**2
    padding = 4 * 32  # a row of codes is filled up to whole words
    assert abs(plugin_traffic(layer, 1).bytes - images - constants) <= padding


def test_spread() -> None:
    result = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (result.median, result.least, result.replays) == (3.0, 1.0, 5)
    assert result.least < result.p10 < result.median < result.p90 <= 5.0
    assert spread([7.0]).p90 == 7.0
    with pytest.raises(ValueError, match="no samples"):
        spread([])


def test_graphs_last_long_enough() -> None:
    assert repeats_for(10.0) == 200
    assert repeats_for(1e9) == 1
    assert repeats_for(0.0) == 1000


# ---- The report ---------------------------------------------------------------------------------


def row(layer: str, ours: float, theirs: float) -> dict:
    times = {k: {"median": v} for k, v in (("ours", ours), ("float16", theirs), ("tf32", 40.0))}
    floors = {"floor_us": 1.0, "float16_floor_us": 2.0}
    return {"network": "bireal18", "batch": 32, "layer": layer, "tactic": 17, **times, **floors}


@pytest.fixture
def result() -> dict:
    return {
        "gpu": {"name": "NVIDIA H200"},
        "versions": {"torch": "2.9"},
        "rates": {"copy": 4e12, "half": 8e14, "tf32": 4e14, "int8": 1.6e15, "binary": 6e15},
        "layers": [row("a", 10.0, 20.0), row("b", 10.0, 80.0)],
        "networks": [row("", 20.0, 100.0)],
    }


def test_report(result: dict, tmp_path: Path) -> None:
    paths = report.write(result, tmp_path / "deep" / "gpu-x")
    assert [path.name for path in paths] == ["gpu-x.json", "gpu-x.md"]
    assert sorted(paths[0].parent.iterdir()) == paths
    assert json.loads(paths[0].read_text()) == result
    text = paths[1].read_text()
    assert "### bireal18, batch 32: 4.00x float16" in text
    assert "| a | 17 | 10.0 | 1.0 | 20.0 | 40.0 | - | 2.0 | 2.00x |" in text
    assert "| bireal18 | 32 | 20.0 | 1.0 | 100.0 | 40.0 | - | 2.0 | 5.00x |" in text
    assert "4.00 TB/s" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[3:6]} == {10}


def test_report_with_instructions(result: dict) -> None:
    half = {"operations_per_second": 5e14, "macs_per_clock_and_sm": 1000, "right": True}
    result["mma"] = {"instructions": [{"instruction": "mma.sync x.f32.f16.f16.f32", **half}]}
    text = report.markdown(result)
    assert "| `mma.sync x.f32.f16.f16.f32` | 500 | 1000 | 1.00x | yes |" in text
    assert text.index("Matrix instructions") < text.index("## Networks")


def test_slug_and_mean() -> None:
    assert report.slug("NVIDIA GeForce RTX 4090 (Laptop)") == "nvidia-geforce-rtx-4090-laptop"
    assert report.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no ratios"):
        report.geometric_mean([])


# ---- The command --------------------------------------------------------------------------------


def test_arguments() -> None:
    default = command.parse_arguments([])
    assert default.networks == list(NETWORKS)
    assert default.batches == [1, 32, 256]
    given = command.parse_arguments(["--networks", "bireal18", "--batches", "4,8"])
    assert (given.networks, given.batches) == (["bireal18"], [4, 8])


@pytest.mark.parametrize(
    "arguments",
    [["--networks", "vgg"], ["--batches", "0"], ["--batches", "1,x"], ["--replays", "-1"]],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.parse_arguments(arguments)
    assert "expected" in capsys.readouterr().err


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=plugins_build.ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("error: no GPU (got no nvidia-smi")
    assert len(outcome.stderr.splitlines()) == 1


# ---- Plugins on torch's buffers -----------------------------------------------------------------


@pytest.fixture(scope="session")
def library() -> PluginLibrary:
    target = "bitexport_trt_layers_double"
    return PluginLibrary(tensorrt_build.plain(target) / f"lib{target}.so")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("op", LAYERS)
def test_plugin_computes_the_op(library: PluginLibrary, op: str, dtype: torch.dtype) -> None:
    layer, batch = LAYERS[op], 3
    node = layer.node()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(layer.input_shape(batch), generator=generator).to(dtype)
    r = torch.randn(layer.output_shape(batch), generator=generator).to(dtype)
    r = r if layer.has_residual else None
    wanted = dense.reference(node, x, r)
    plain = expected(node, x.numpy(), None if r is None else r.numpy())
    assert torch.allclose(wanted, torch.from_numpy(plain), rtol=1e-4, atol=1e-4)
    for nhwc8 in (False, True):
        if nhwc8 and (layer.is_linear or dtype == torch.float32):
            continue
        options = {"nhwc8": nhwc8, "device": "cpu"}
        with PluginLayer(library, node, tuple(x.shape), dtype, **options) as plugin:
            y = plugin.to_memory(torch.full(layer.output_shape(batch), torch.nan))
            activations = {"X": plugin.to_memory(x)}
            if r is not None:
                activations["R"] = plugin.to_memory(r)
            assert len(plugin.tactics()) == 2
            for tactic in plugin.tactics():
                y.fill_(torch.nan)
                plugin.enqueue(tactic, activations, y)
                got = plugin.from_memory(y, layer.out_channels).double()
                tolerance = 1e-5 if dtype == torch.float32 else 1e-3
                assert torch.allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_a_layer_that_cannot_be(library: PluginLibrary) -> None:
    layer = LAYERS["SignConv"]
    options = {"nhwc8": False, "device": "cpu"}
    with pytest.raises(LayerFailure, match="SignConv"):
        PluginLayer(library, layer.node(), (1, 21, 7, 7), torch.float32, **options)


@pytest.fixture
def on_the_host(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No GPU: a launch is called once where a graph would be replayed; a list of what was timed."""
    timed: list[str] = []

    def in_turns(graphs: dict, replays: int) -> dict:
        timed.extend(graphs)
        for launch in graphs.values():
            launch(0)
        return {name: spread([1.0 + place] * replays) for place, name in enumerate(graphs)}

    monkeypatch.setattr(measure, "capture", lambda launch: launch)
    monkeypatch.setattr(measure, "in_turns", in_turns)
    monkeypatch.setattr(measure, "synchronize", lambda: None)
    small = {"RATE_SIZE": 64, "COPY_BYTES": 1024}
    for name, value in small.items():
        monkeypatch.setattr(measure, name, value)
    rate_layer = LayerShape("rate", "BinaryConv", 64, 32, 4)
    monkeypatch.setattr(measure, "BINARY_RATE_LAYER", rate_layer)
    return timed


def test_everything_is_measured(
    library: PluginLibrary,
    on_the_host: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    layers = [LAYERS["BinaryConvAdd"], LAYERS["CodebookGemm"], LAYERS["CodebookConv"]]
    again = replace(layers[0], name="again")
    monkeypatch.setitem(NETWORKS, "small", [*layers, again])
    device = gpu.Gpu("A GPU", 90, "1.2")
    arguments = argparse.Namespace(networks=["small"], batches=[2], replays=2)
    result = measure.measure(Path(library.functions._name), device, arguments)
    assert [(r["layer"], r["count"]) for r in result["layers"]] == [("c", 2), ("f", 1), ("d", 1)]
    for found in result["layers"]:
        assert {"ours", "float16", "tf32", "floor_us", "float16_floor_us"} <= found.keys()
        assert found["tactic"] in (3, 7, 0x51)
    network = result["networks"][0]
    counts = [2, 1, 1]
    floors = [r["floor_us"] for r in result["layers"]]
    assert network["floor_us"] == pytest.approx(
        sum(c * f for c, f in zip(counts, floors, strict=True))
    )
    assert {"copy", "half", "tf32", "int8", "binary"} <= set(on_the_host)
    assert "A GPU" in report.write(result, tmp_path / "x")[1].read_text()


def test_a_wrong_kernel_is_not_timed(
    library: PluginLibrary, on_the_host: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "reference", lambda node, x, r: torch.ones(1, 12, 4, 4).double())
    with pytest.raises(LayerFailure, match=r"SignConv.* relative error"):
        measure.Runner(library, LAYERS["SignConv"], 1)
    assert not on_the_host
