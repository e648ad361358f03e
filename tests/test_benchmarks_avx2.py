"""The copy of ONNX Runtime that measures for CPUs without AVX-512 still computes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import avx2_onnxruntime

RUN = """
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper, numpy_helper
weight = np.random.default_rng(0).standard_normal((8, 16, 3, 3)).astype(np.float32)
node = helper.make_node("Conv", ["x", "w"], ["y"])
tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy"]
constants = [numpy_helper.from_array(weight, "w")]
graph = helper.make_graph([node], "g", tensors[:1], tensors[1:], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString())
(y,) = session.run(None, {"x": np.ones((1, 16, 9, 9), np.float32)})
assert np.allclose(y, weight.sum(axis=(1, 2, 3))[None, :, None, None], atol=1e-4)
print(onnxruntime.__file__)
"""


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="64-bit x86 Linux only"
)
def test_the_copy_computes_what_the_original_does(tmp_path: Path) -> None:
    avx2_onnxruntime.main(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", RUN],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(str(tmp_path))


def test_refuses_a_library_that_asks_in_another_way() -> None:
    with pytest.raises(ValueError, match="expected the instructions"):
        avx2_onnxruntime.without_avx512(b"\x90" * 64)
