"""Layer by layer, with the inputs of the recorded networks: the integer accumulators are exact.

The signs come straight from the checkpoint by each paper's formula, the inputs from the torch
model on the recorded images, and the packed words and thresholds from the exported file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from single_node import model_of
from torch import Tensor

import bitexport
from bitexport.export_options import ExportOptions
from bitexport.families import load
from bitexport.graph.constants import constant
from bitexport.graph.read import read_onnx
from bitexport.layers import BinaryConv2d
from bitexport.ops.nodes import NodeData
from bitexport.ops.table import op_named
from bitexport.runtimes import runtime_named

State = dict[str, Tensor]
ATTRIBUTES = ("strides", "pads", "dilations", "wshape")


def latent_signs(state: State, layer: str, shape: torch.Size) -> Tensor:
    weight = state.get(f"{layer}.weight", state.get(f"{layer}.weights"))
    return weight.reshape(shape).sign()


def stored_bits(state: State, layer: str, shape: torch.Size) -> Tensor:
    return 2 * state[f"{layer}.B"].reshape(shape) - 1


def rotated_signs(state: State, layer: str, shape: torch.Size) -> Tensor:
    w = state[f"{layer}.weight"]
    w = w - w.mean([1, 2, 3], keepdim=True)
    w = w / w.std([1, 2, 3], keepdim=True)
    r1, r2 = state[f"{layer}.R1"], state[f"{layer}.R2"]
    rotated = (r1.t() @ w.reshape(shape[0], len(r1), len(r2)) @ r2).reshape(shape)
    return (w + state[f"{layer}.rotate"].sin().abs() * (rotated - w)).sign()


FIXTURES: dict[str, Callable[[State, str, torch.Size], Tensor]] = {
    "bireal_1111": latent_signs,
    "react_1111": latent_signs,
    "siman_resnet20": stored_bits,
    "rbnn_resnet20": rotated_signs,
}


def sign_inputs(module: torch.nn.Module, images: Tensor) -> dict[str, tuple[BinaryConv2d, Tensor]]:
    """Layer -> itself and what goes into it."""
    seen: dict[str, tuple[BinaryConv2d, Tensor]] = {}
    names = {layer: name for name, layer in module.named_modules()}

    def remember(layer: BinaryConv2d, inputs: tuple[Tensor, ...]) -> None:
        seen[names[layer]] = (layer, inputs[0])

    for layer in names:
        if isinstance(layer, BinaryConv2d):
            layer.register_forward_pre_hook(remember)
    with torch.inference_mode():
        module(images)
    return seen


def accumulators(node: ir.Node, x: np.ndarray, runtime: str) -> np.ndarray:
    """What the exported node sums up for X: its scale 1, its bias 0 and no residual."""
    op = op_named("BinaryConv")
    tensors = {
        name: constant(node.inputs[op_named(node.op_type).input_index(name)])
        for name in ("W", "Th", "S", "B")
    }
    tensors["S"], tensors["B"] = np.ones_like(tensors["S"]), np.zeros_like(tensors["B"])
    attributes = {name: tuple(node.attributes.get_ints(name)) for name in ATTRIBUTES}
    data = NodeData(op, tensors, {**attributes, "group": node.attributes.get_int("group")})
    runner = runtime_named(runtime).load(model_of(data, 4).SerializeToString())
    return runner.run({"X": x})["Y"]


@pytest.mark.parametrize("runtime", ["ort", "ort-native"])
@pytest.mark.parametrize("name", FIXTURES)
def test_accumulators_equal_the_papers_sums(shared: Path, tmp_path: Path, name: str, runtime: str):
    folder = shared / "fixtures" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    availability = runtime_named(runtime).availability()
    if not availability.ok:
        pytest.skip(f"{availability.detail}. {availability.fix}")
    source = folder / "checkpoint.pth.tar"
    bitexport.export(source, path=tmp_path / "m.onnx", options=ExportOptions(verify=False))
    graph, _ = read_onnx(tmp_path / "m.onnx")
    nodes = {n.name.split("/")[0]: n for n in graph.graph if n.op_type.startswith("BinaryConv")}
    state = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    images = torch.from_numpy(np.load(folder / "io.npz")["input"])
    layers = sign_inputs(load(source).module, images)
    assert layers.keys() == nodes.keys()
    for layer, (conv, raw) in layers.items():
        x = raw - raw.mean([1, 2, 3], keepdim=True) if conv.centered else raw
        activations = (x if conv.shift is None else x + conv.shift).sign().detach()
        assert activations.all(), "an exact zero, which needs a layer of its own"
        signs = FIXTURES[name](state, layer, conv.weight.shape)
        want = F.conv2d(
            activations.double(), signs.double(), stride=conv.stride, padding=conv.padding
        )
        got = accumulators(nodes[layer], x.numpy(), runtime)
        assert np.array_equal(got, want.numpy()), layer
