"""The same checkpoint and options give the same bytes, in surroundings as another machine has them.

Both runs are processes, as hashing, threads and the choice of instructions are settled at their
start. The other one has another seed of hashes, language, clock, number of threads and folder, and
computes with the instructions of an old CPU wherever a library can be told to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import torch
from command_line import CLASSES, save_codebooks
from torch import nn

from bitexport.models.bireal import BiRealNet

try:
    from numpy._core import _multiarray_umath as numpy_core
except ImportError:  # numpy 1
    from numpy.core import _multiarray_umath as numpy_core

# A scale is the mean of a filter's magnitudes, and is folded with a BatchNorm's statistics.
SCALED, CODEBOOKS = "scaled.pth", "codebooks.pth"
ONES = (1, 1, 1, 1)
EXPORT = f"""
import sys, torch
from bitexport import ExportOptions, export
from bitexport.models.bireal import BiRealNet
output = sys.argv[1]
options = ExportOptions(verify=False, input_size=(32, 32))
export("{CODEBOOKS}", path=output + "/{CODEBOOKS}.onnx", options=options)
network = BiRealNet({ONES}, {CLASSES}, width=16).eval()
network.load_state_dict(torch.load("{SCALED}"))
options = ExportOptions(verify=False)
export(network, torch.zeros(1, 3, 32, 32), output + "/{SCALED}.onnx", options=options)
"""
HERE = {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "2"}
ELSEWHERE = {
    "PYTHONHASHSEED": "77",
    "TZ": "Asia/Tokyo",
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "NPY_DISABLE_CPU_FEATURES": " ".join(numpy_core.__cpu_dispatch__),
}


def checkpoints(folder: Path) -> Path:
    """A network with scales, another with codebooks."""
    folder.mkdir()
    torch.manual_seed(0)
    network = BiRealNet(ONES, CLASSES, width=16)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 2)
    torch.save(network.state_dict(), folder / SCALED)
    save_codebooks(folder / CODEBOOKS)
    return folder


def exported(folder: Path, output: Path, surroundings: dict[str, str]) -> dict[str, bytes]:
    output.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-c", EXPORT, os.path.relpath(output, folder)],
        check=True, cwd=folder, env={**os.environ, **surroundings}, timeout=300,
    )  # fmt: skip
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def test_bytes_are_those_of_another_machine(tmp_path: Path) -> None:
    source = checkpoints(tmp_path / "checkpoints")
    copy = shutil.copytree(source, tmp_path / "a longer path" / "copies")
    for path in copy.iterdir():
        os.utime(path, (1e9, 1e9))
    here = exported(source, tmp_path / "out", HERE)
    elsewhere = exported(copy, tmp_path / "elsewhere" / "out", ELSEWHERE)
    assert sorted(here) == [f"{CODEBOOKS}.onnx", f"{SCALED}.onnx"]
    assert {name: elsewhere[name] == data for name, data in here.items()} == dict.fromkeys(
        here, True
    )
    (scaled,) = (data for name, data in here.items() if name.startswith(SCALED))
    ops = {node.op_type for node in onnx.ModelProto.FromString(scaled).graph.node}
    assert any(op.startswith("BinaryConv") for op in ops)
