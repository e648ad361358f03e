"""A file with chains of binary convolutions, in what reads files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import native_nodes
import numpy as np
import onnx
import pytest
import torch
from native_models import run
from onnx import helper
from test_graph_chain_signs import SHAPE, Chain
from torch import nn

import bitexport
from bitexport.bench.subjects import read_subject
from bitexport.bench.twins import twins_of
from bitexport.engines.prepare import prepare
from bitexport.engines.request import EngineRequest
from bitexport.engines.trtexec import trtexec_line
from bitexport.errors import InputError
from bitexport.export_options import ExportOptions
from bitexport.families import LoadOptions
from bitexport.graph.chains import as_given
from bitexport.graph.read import read_onnx
from bitexport.inspection import inspect_file
from bitexport.models.xnor_net import AlexNet, AlexNetWidths, NetworkInNetwork
from bitexport.ops.loose_signs import SIGN_MAKERS, loose_signs
from bitexport.runtimes import ModelRefused
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


def made_output(model: onnx.ModelProto, name: str) -> None:
    model.graph.output.append(helper.make_tensor_value_info(name, 1, None))


def read_by(op: str) -> Callable[[onnx.ModelProto, str], None]:
    """A node that hands the signs out."""

    def change(model: onnx.ModelProto, name: str) -> None:
        model.graph.node.append(helper.make_node(op, [name], ["copy"], name="thief"))
        made_output(model, "copy")

    return change


def as_bias(model: onnx.ModelProto, name: str) -> None:
    """A reader of signs takes them at another input, too."""
    reader = next(node for node in model.graph.node if name in node.input)
    reader.input[3] = name


def branched(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """A node in both branches of an If, whose result the model hands out."""
    out = helper.make_tensor_value_info(node.output[0], 1, None)
    branch = helper.make_graph([node], "branch", [], [out])
    true = helper.make_node("Constant", [], ["true"], value=helper.make_tensor("t", 9, [], [1]))
    choice = helper.make_node("If", ["true"], ["copy"], then_branch=branch, else_branch=branch)
    model.graph.node.extend([true, choice])
    made_output(model, "copy")


def maker_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """A copy of the node that makes the signs, with another output."""
    inner = onnx.NodeProto()
    inner.CopyFrom(next(node for node in model.graph.node if name in node.output))
    inner.output[0] = "made"
    return inner


def in_a_branch(model: onnx.ModelProto, name: str) -> None:
    """A subgraph takes them from outside."""
    branched(model, helper.make_node("Identity", [name], ["copied"]))


def made_in_a_branch(model: onnx.ModelProto, name: str) -> None:
    """A subgraph makes them, and hands them out."""
    branched(model, maker_of(model, name))


def made_in_a_function(model: onnx.ModelProto, name: str) -> None:
    maker = maker_of(model, name)
    model.functions.append(
        helper.make_function(
            "stranger", "F", list(maker.input), ["made"], [maker], list(model.opset_import)
        )
    )
    model.opset_import.append(helper.make_opsetid("stranger", 1))
    call = helper.make_node("F", list(maker.input), ["copy"], domain="stranger")
    model.graph.node.append(call)
    made_output(model, "copy")


def of_the_input(model: onnx.ModelProto, name: str) -> None:
    """Signs that nobody made."""
    reader = next(node for node in model.graph.node if name in node.input)
    reader.input[0] = model.graph.input[0].name


LOOSE = {
    "an output": (made_output, "as an output of the model"),
    "Identity": (read_by("Identity"), "Identity 'thief' with an input"),
    "Relu": (read_by("Relu"), "Relu 'thief' with an input"),
    "a bias": (as_bias, "with an input"),
    "in a branch": (in_a_branch, "in a subgraph"),
    "made in a branch": (made_in_a_branch, "in a subgraph or a function"),
    "made in a function": (made_in_a_function, "in a subgraph or a function"),
    "the input": (of_the_input, "that no node of a chain made"),
}


@pytest.mark.parametrize("case", LOOSE)
def test_signs_that_leave_their_chain_are_refused(exported, tmp_path, case):
    """Behind its words, what the kernels make is memory that nobody wrote."""
    change, message = LOOSE[case]
    model = onnx.load(exported)
    assert loose_signs(model) is None
    maker = next(node for node in model.graph.node if node.op_type in SIGN_MAKERS)
    change(model, maker.output[0])
    path = tmp_path / "loose.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match="broken chain") as refused:
        read_onnx(path)
    assert message in refused.value.got
    for given in (str(path), path.read_bytes()):
        with pytest.raises(ModelRefused, match="does not take the model") as told:
            bitexport.session(given)
        assert told.value.got == refused.value.got


def test_a_session_takes_whole_chains_and_no_other_format(exported, tmp_path):
    assert bitexport.session(str(exported)).get_outputs()
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported.read_bytes()[:-7])
    with pytest.raises(ModelRefused, match="no ONNX file"):
        bitexport.session(str(damaged))
    with pytest.raises(ModelRefused, match="ONNX Runtime refuses"):
        bitexport.session(str(tmp_path / "missing.onnx"))


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
