"""A file with chains of binary convolutions, in what reads files."""

from __future__ import annotations

from pathlib import Path

import native_nodes
import numpy as np
import onnx
import pytest
import torch
from native_models import run
from test_graph_chain_signs import SHAPE, Chain
from torch import nn

import bitexport
from bitexport.bench.subjects import read_subject
from bitexport.bench.twins import twins_of
from bitexport.engines.prepare import prepare
from bitexport.engines.request import EngineRequest
from bitexport.engines.trtexec import trtexec_line
from bitexport.errors import InputError
from bitexport.exporter import ExportOptions
from bitexport.families import LoadOptions
from bitexport.graph.chains import as_given
from bitexport.inspection import inspect_file
from bitexport.models.xnor_net import AlexNet, AlexNetWidths, NetworkInNetwork
from bitexport.verification import verify_file

SEED = 23
CHAINED = ["BinaryConvSign", "BinaryConvOfSignsSign", "BinaryConvOfSignsClip"]


@pytest.fixture(scope="module", name="library")
def built_library() -> Path:
    return native_nodes.library()


@pytest.fixture(scope="module", name="exported")
def an_exported_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chained") / "chain.onnx"
    report = bitexport.export(Chain(relu=True), torch.zeros(1, *SHAPE), path)
    assert [layer.op for layer in report.layers] == CHAINED
    # The export compared every sign with torch's.
    assert report.verify is not None
    assert (report.verify.ok, report.verify.flip_rate) == (True, 0)
    return path


def ops(data: bytes) -> list[str]:
    return [n.op_type for n in onnx.load_from_string(data).graph.node if n.domain == "bitexport"]


def test_inspect_shows_the_layers(exported):
    layers = inspect_file(exported, LoadOptions(), None).layers
    assert [layer.op for layer in layers] == CHAINED
    assert all(layer.binary_activations and layer.macs for layer in layers)


@pytest.mark.parametrize("runtime", ["ort", "ort-native", "reference"])
def test_verify_runs_it(exported, tmp_path, runtime):
    x = np.random.default_rng(SEED).normal(size=(4, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        logits = Chain(relu=True)(torch.from_numpy(x)).numpy()
    np.savez(tmp_path / "given.npz", input=x, logits=logits)
    found = verify_file(
        exported, checkpoint=None, inputs=tmp_path / "given.npz", runtime_name=runtime
    )
    assert found.comparison.ok


def test_engines_are_built_of_what_plugins_know(exported, tmp_path):
    model = prepare(exported, EngineRequest(), plugins=True)
    assert list(model.plugin_nodes.values()) == ["BinaryConv", "BinaryConv", "BinaryConvClip"]
    assert [layer.op for layer in model.layers] == list(model.plugin_nodes.values())
    assert model.unchained
    assert ops(prepare(exported, EngineRequest(), plugins=False).data) == []
    with pytest.raises(InputError, match=r"has to be changed first .*--save-onnx"):
        trtexec_line(exported, None, EngineRequest())
    saved = tmp_path / "saved.onnx"
    assert str(saved) in trtexec_line(exported, None, EngineRequest(save_onnx=saved))
    assert ops(saved.read_bytes()) == list(model.plugin_nodes.values())


def test_runtimes_on_a_gpu_are_given_no_chains(exported):
    data = exported.read_bytes()
    for name in ("ort", "ort-native", "reference"):
        assert as_given(data, name) is data
    for name in ("ort-cuda", "tensorrt", "tensorrt-rtx"):
        assert ops(as_given(data, name)) == ["BinaryConv", "BinaryConv", "BinaryConvClip"]


def test_its_twins_are_whole(exported):
    subject = read_subject(exported, ExportOptions())
    assert subject.precision == "1-bit"
    x = np.zeros((1, *SHAPE), np.float32)
    for twin in twins_of(subject, ("fp32", "int8"), [x]):
        graph = onnx.load_from_string(twin.data).graph
        assert sum(node.op_type == "Conv" for node in graph.node) == 3
        assert not twin.same_function


def settled(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The model with the BatchNorm statistics of noise, so that signs are mixed."""
    torch.manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if name.endswith("conv.weight"):
            nn.init.normal_(parameter, std=0.05)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        if norm.affine:
            nn.init.normal_(norm.bias, std=0.3)
    model.train()
    with torch.no_grad():
        model(torch.randn(4, *shape))
    return model.eval()


NETWORKS = {
    "nin": (lambda: NetworkInNetwork(10, (192, 40, 33, 64, 96, 33, 32, 64)), (3, 32, 32), 4),
    "alexnet": (
        lambda: AlexNet(10, AlexNetWidths(features=(32, 40, 64, 33, 32), hidden=(64, 70))),
        (3, 227, 227),
        3,
    ),
}


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_xnor_networks_have_chains_that_change_no_bit(library, tmp_path, name, float16):
    build, shape, links = NETWORKS[name]
    path = tmp_path / "model.onnx"
    options = ExportOptions(float16=float16, verify=False)
    report = bitexport.export(
        settled(build(), shape), torch.zeros(1, *shape), path, options=options
    )
    assert sum(record.rule == "chain-signs" for record in report.records) == links
    chained, apart = path.read_bytes(), as_given(path.read_bytes(), "tensorrt")
    assert not any("Sign" in op for op in ops(apart))
    rng = np.random.default_rng(SEED)
    feed = {"input": rng.standard_normal((3, *shape)).astype(np.float32)}
    for given in (library, None):
        y = run(chained, feed, given, threads=2)
        assert y.std() > 0
        assert np.array_equal(y, run(apart, feed, given, threads=2))
