"""Damaged .onnx files in the commands that run them: one line, and the file's fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import run
from onnx import TensorProto, helper

LARGEST = 2**63 - 1
# In a process of its own: the default logger's severity, once set, cannot be read or restored.
PROGRAM = """
import sys
import bitexport
try:
    bitexport.session(sys.argv[1], native=False)
except bitexport.BitexportError:
    pass
print("--- verify", file=sys.stderr, flush=True)
sys.argv = ["bitexport", "verify", sys.argv[1], "--inputs", sys.argv[2]]
from bitexport.cli import main
main()
"""


def save(path: Path, size: int) -> Path:
    """A model that is sound but for the size of an initializer, which ONNX Runtime believes."""
    claim = TensorProto(name="claim", data_type=TensorProto.FLOAT, dims=[size], raw_data=b"none")
    nodes = [
        helper.make_node("Size", ["claim"], ["size"]),
        helper.make_node("Cast", ["size"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Mul", ["flat", "count"], ["logits"]),
    ]
    values = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 2, 2]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 12]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [claim])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_command_says_one_line_and_a_program_keeps_its_logger(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 2, 2), np.float32)
    np.savez(tmp_path / "recording.npz", input=images, logits=images.reshape(2, 12))
    model = save(tmp_path / "model.onnx", LARGEST)
    outcome = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, tmp_path / "recording.npz"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    as_program, as_command = outcome.stderr.split("--- verify\n")
    assert "[E:onnxruntime:Default" in as_program
    assert outcome.returncode == 2
    (line,) = as_command.splitlines()
    assert line.startswith(f"error: {model}: ONNX Runtime refuses the model (got ")


@pytest.mark.parametrize(("size", "complaint"), [(LARGEST, "malformed"), (-1, "refuses")])
@pytest.mark.parametrize("command", ["bench", "eval"])
def test_a_model_that_nothing_runs_is_the_files_fault(
    size: int, complaint: str, command: str, tmp_path: Path
) -> None:
    model = save(tmp_path / "model.onnx", size)
    options = {
        "bench": ["--runtimes", "ort", "--no-memory", "--duration", "0"],
        "eval": ["--dataset", "digits"],
    }
    outcome = run(command, model, *options[command])
    assert outcome.code == 2, outcome.err
    (line,) = outcome.err.splitlines()
    wanted = "refuses" if command == "eval" else complaint
    assert line.startswith("error: ") and f"{model.name}: " in line and wanted in line


def save_calls(path: Path, calls: list[list[int]]) -> Path:
    """A model of functions; each calls those of the given numbers, one after the other."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("x", 1)]
    functions = []
    for number, called in enumerate(calls):
        nodes = [
            helper.make_node(f"F{other}", [f"v{i}"], [f"v{i + 1}"], domain="x")
            for i, other in enumerate(called)
        ]
        last = helper.make_node("Relu", [f"v{len(called)}"], ["y"])
        functions.append(
            helper.make_function("x", f"F{number}", ["v0"], ["y"], [*nodes, last], opsets)
        )
    nodes = [
        helper.make_node("F0", ["input"], ["called"], domain="x"),
        helper.make_node("Flatten", ["called"], ["logits"]),
    ]
    values = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 2, 2]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 12]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("calls", "got"),
    [
        ([[i + 1] * 2 for i in range(18)] + [[]], "more than 50000 nodes"),
        ([[1] * 400, [2] * 400, []], "more than 50000 nodes"),
        ([[i + 1] for i in range(150)] + [[]], "more than 100 deep"),
        ([[i + 1, 140 - i] for i in range(70)] + [[i + 1] for i in range(70, 140)] + [[]], "deep"),
        ([[0]], "more than 100 deep"),
        ([[1], [0]], "more than 100 deep"),
    ],
    ids=["doubled", "wide", "chain", "chain behind a short cut", "itself", "each other"],
)
@pytest.mark.parametrize("command", ["inspect", "trt"])
def test_functions_that_unfold_without_end(
    calls: list[list[int]], got: str, command: str, tmp_path: Path
) -> None:
    model = save_calls(tmp_path / "model.onnx", calls)
    outcome = run(command, model)
    assert outcome.code == 2, outcome.err
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and got in line
    assert list(tmp_path.iterdir()) == [model]


def refusal(command: str, model: Path, *options: str | Path) -> str:
    """The line that a command ends with, as it refuses the file."""
    outcome = run(command, model, *options)
    assert outcome.code == 2, outcome.err
    (line,) = outcome.err.splitlines()
    return line


def test_a_declared_shape_is_not_believed(tmp_path: Path) -> None:
    """An output of 4 GiB that is said to be small."""
    shape = helper.make_tensor("huge", TensorProto.INT64, [3], [1024] * 3)
    node = helper.make_node("ConstantOfShape", ["huge"], ["logits"])
    values = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 2, 2]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 12]),
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    line = refusal("bench", tmp_path / "model.onnx")
    assert "asks for too much memory (got a value of shape [1024, 1024, 1024]" in line


def test_outputs_of_gigabytes_are_not_taken(tmp_path: Path) -> None:
    model = onnx.load(save(tmp_path / "model.onnx", 1))
    del model.graph.node[3:]
    model.graph.node.append(helper.make_node("Tile", ["flat", "times"], ["logits"]))
    times = helper.make_tensor("times", TensorProto.INT64, [2], [3, 2_500_000])
    model.graph.initializer.append(times)
    onnx.save(model, tmp_path / "model.onnx")
    images = np.zeros((1, 3, 2, 2), np.float32)
    np.savez(tmp_path / "recording.npz", input=images, logits=images.reshape(1, 12))
    line = refusal("verify", tmp_path / "model.onnx", "--inputs", tmp_path / "recording.npz")
    assert "gives too much at once (got 343 MiB" in line


def test_a_graph_of_too_many_nodes(tmp_path: Path) -> None:
    model = onnx.load(save(tmp_path / "model.onnx", 1))
    model.graph.node.extend([helper.make_node("Relu", ["flat"], [f"r{i}"]) for i in range(50_000)])
    onnx.save(model, tmp_path / "model.onnx")
    line = refusal("inspect", tmp_path / "model.onnx")
    assert "too large (got 50004 nodes, expected at most 50000 nodes" in line


def test_a_branch_that_only_a_function_could_have(tmp_path: Path) -> None:
    model = onnx.load(save(tmp_path / "model.onnx", 1))
    branch = onnx.AttributeProto(
        name="then_branch", type=onnx.AttributeProto.GRAPH, ref_attr_name="body"
    )
    model.graph.node[-1].attribute.append(branch)
    onnx.save(model, tmp_path / "model.onnx")
    line = refusal("inspect", tmp_path / "model.onnx")
    assert "(got Mul '' with a graph of the function around it, expected such references" in line


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, data: bytes) -> bytes:
    """A field of protobuf; a message may have one of its messages in several pieces."""
    return varint(number << 3 | 2) + varint(len(data)) + data


GRAPH, NODE, INITIALIZER, VALUE, INT32_DATA, ATTRIBUTE = 7, 1, 5, 13, 5, 5
FUNCTION = 25
EMPTY = {
    "nodes": field(GRAPH, field(NODE, b"") * 300_000),
    "initializers": field(GRAPH, field(INITIALIZER, b"") * 300_000),
    "values": field(GRAPH, field(VALUE, b"") * 300_000),
    "attributes": field(GRAPH, field(NODE, field(ATTRIBUTE, b"") * 300_000)),
    "functions": field(FUNCTION, b"") * 30_000,
    "numbers": field(GRAPH, field(INITIALIZER, field(INT32_DATA, bytes(16 << 20)))),
}


@pytest.mark.parametrize("what", EMPTY)
def test_parts_without_end(what: str, tmp_path: Path) -> None:
    """Each takes two bytes of the file, and hundreds in a graph."""
    model = save(tmp_path / "model.onnx", 1)
    model.write_bytes(model.read_bytes() + EMPTY[what])
    line = refusal("inspect", model)
    assert "has too many parts" in line


def test_a_file_that_fills_onnx_is_the_files_fault(tmp_path: Path) -> None:
    model = save(tmp_path / "model.onnx", 1)
    model.write_bytes(model.read_bytes() + field(FUNCTION, b"") * 8_000_000)
    line = refusal("inspect", model)
    assert "takes too much memory" in line


def test_names_of_a_file_stay_off_the_terminal(tmp_path: Path) -> None:
    escape = "\x1b]0;title\x07"
    model = onnx.load(save(tmp_path / "model.onnx", 1))
    weight = helper.make_tensor(f"w{escape}", TensorProto.FLOAT, [12, 1], [1.0] * 12)
    model.graph.initializer.append(weight)
    model.graph.node.append(helper.make_node("MatMul", ["flat", weight.name], ["m"], name="dense"))
    properties = {"arch": escape, "family": escape, "dense": json.dumps({"dense": escape})}
    helper.set_model_props(model, {f"bitexport.{key}": text for key, text in properties.items()})
    onnx.save(model, tmp_path / "model.onnx")
    outcome = run("inspect", tmp_path / "model.onnx")
    assert outcome.code == 0 and "stayed dense" in outcome.out
    assert "\x1b" not in outcome.out and "\\x1b" in outcome.out


def test_functions_may_call_others(tmp_path: Path) -> None:
    calls = [[i + 1] * 2 for i in range(6)] + [[i + 1] for i in range(6, 90)] + [[]]
    assert run("inspect", save_calls(tmp_path / "model.onnx", calls)).code == 0
