"""Damaged .onnx files in the commands that run them: one line, and the file's fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
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
