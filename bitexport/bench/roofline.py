"""What this machine can do at best: the rates that a layer's time is held against.

Three probes run in ONNX Runtime with the threads of the benchmark: an addition over an array that
no cache holds (bytes a second), a matrix product (float operations a second) and, where the op
library is there, a wide binary convolution (bit operations a second). A layer can be no faster
than its bytes at the first rate, nor than its operations at the second or third:

    floor = max(bytes / bandwidth, operations / rate)

The array of the first probe lies in main memory. A small layer whose data stays in a cache can
beat that floor; its bound then says which of the two would set it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bitexport.ops.nodes import node_data
from bitexport.ops.table import DOMAIN, OP_VERSION
from bitexport.runtimes import Runner, runtime_named
from bitexport.spec import BinaryConvSpec, ConvGeometry

__all__ = ["Rates", "measured_rates"]

_ELEMENTS = 1 << 24  # 64 MiB of float32, read twice and written once
_MATRIX = 768
_CHANNELS, _SIZE, _KERNEL = 256, 28, 3
_REPEATS = 7
_OPSET = 18
_IR_VERSION = 8


@dataclass(frozen=True)
class Rates:
    """Best of several runs.

    Attributes:
        bytes_per_second: Main memory, reading and writing.
        flops: float32 operations a second; a multiply-accumulate is two.
        bops: Operations on bits a second, or None without the op library.
    """

    bytes_per_second: float
    flops: float
    bops: float | None

    def floor_ms(self, count: int, operations: int, *, binary: bool) -> tuple[float, str]:
        """The least time of ``count`` bytes and the operations on them, and which sets it."""
        rate = self.bops if binary and self.bops else self.flops
        memory, compute = count / self.bytes_per_second, operations / rate
        return 1e3 * max(memory, compute), "memory" if memory >= compute else "compute"


def measured_rates(threads: int) -> Rates:
    """Run the probes.

    Raises:
        RuntimeFailure: ONNX Runtime is missing.
    """
    zeros = np.zeros(_ELEMENTS, np.float32)
    add = _model("Add", ["X", "X"], {}, [_ELEMENTS])
    seconds = _best(runtime_named("ort").load(add, threads=threads), zeros)
    square = np.ones((_MATRIX, _MATRIX), np.float32)
    product = _model("MatMul", ["X", "W"], {"W": square}, list(square.shape))
    flops = 2 * _MATRIX**3 / _best(runtime_named("ort").load(product, threads=threads), square)
    return Rates(2 * zeros.nbytes / seconds, flops, _bit_rate(threads))


def _bit_rate(threads: int) -> float | None:
    runtime = runtime_named("ort-native")
    if not runtime.availability().ok:
        return None
    ones = np.ones(_CHANNELS, np.float32)
    spec = BinaryConvSpec(
        signs=np.ones((_CHANNELS, _CHANNELS, _KERNEL, _KERNEL), np.int8),
        scale=ones,
        bias=ones,
        geometry=ConvGeometry((1, 1), (1, 1, 1, 1)),
        threshold=0 * ones,
    )
    data = node_data(spec)
    images = np.ones((1, _CHANNELS, _SIZE, _SIZE), np.float32)
    names = ["X", *data.tensors]
    attributes = {k: list(v) if isinstance(v, tuple) else v for k, v in data.attributes.items()}
    model = _model(data.op.name, names, dict(data.tensors), list(images.shape), DOMAIN, attributes)
    operations = 2 * spec.signs.size * _SIZE * _SIZE
    return operations / _best(runtime.load(model, threads=threads), images)


def _best(runner: Runner, x: npt.NDArray[np.float32]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        runner.run({"X": x})
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _model(
    op: str,
    inputs: Sequence[str],
    constants: dict[str, npt.NDArray[np.generic]],
    shape: list[int],
    domain: str = "",
    attributes: dict[str, int | str | list[int]] | None = None,
) -> bytes:
    """A model of one node with the input X and the output Y."""
    values = {
        name: ir.Value(name=name, const_value=ir.tensor(array, name=name))
        for name, array in constants.items()
    }
    x = ir.Value(name="X", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    y = ir.Value(name="Y", type=ir.TensorType(ir.DataType.FLOAT))
    values["X"] = x
    node = ir.Node(
        domain,
        op,
        [values[n] for n in inputs],
        ir.convenience.convert_attributes(attributes or {}),
        outputs=[y],
        name=op,
    )
    graph = ir.Graph(
        [x],
        [y],
        nodes=[node],
        name="probe",
        initializers=[v for n, v in values.items() if n != "X"],
        opset_imports={"": _OPSET, DOMAIN: OP_VERSION},
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=_IR_VERSION))
    return bytes(proto.SerializeToString())
