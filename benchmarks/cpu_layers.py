"""Binary layers on the CPU: ours against ONNX Runtime's float32 and int8.

    python benchmarks/cpu_layers.py [--layers resnet18|edges] [--threads 1] [--batch 1] [--single]

`resnet18` are the binary 3x3 layers of ResNet-18 at 224; `edges` those that are hard to gain on:
depthwise, grouped, few channels, tiny images. BITEXPORT_CPU_KERNEL=avx2 and the like choose our
kernel.

Each layer is a model of its own: our op (packing, threshold, scale and bias included) in the op
library, a float32 convolution, and a statically quantized int8 one with its QuantizeLinear and
DequantizeLinear. X and Y are bound to memory of ONNX Runtime's own, as inside a network: no run
copies them. The three sessions take turns of some milliseconds, the first run of which is not
timed: X was written just before and the threads are awake, as behind the layer before. With
--single a turn is a single run, which finds X, Y and the weights driven out of a core's caches by
the other two, and has to wake its threads. The figures are medians of the ratios of neighbouring
turns, and their geometric mean over the layers; a last line has that of the least times, which
other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

import bitexport
from bitexport.ops.nodes import node_data
from bitexport.runtimes.libraries import cpu_kernel
from bitexport.spec import BinaryConvSpec, ConvGeometry

TURN_SECONDS = 0.0025
# After a run, threads look for work for so long before they sleep: longer than from one run to the
# next, and over before the turn of the next session.
SPIN_SECONDS = 0.0005


@dataclass(frozen=True)
class Layer:
    """A square convolution that keeps the size of its input, but for the stride."""

    in_channels: int
    out_channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    group: int = 1

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Zeros around the image."""
        return (self.kernel // 2,) * 4

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[Co, Ci / group, kh, kw]."""
        return (self.out_channels, self.in_channels // self.group, self.kernel, self.kernel)

    def __str__(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        group = f" g{self.group}" if self.group > 1 else ""
        return (
            f"{self.kernel}x{self.kernel} {self.in_channels}->{self.out_channels} @{self.size}"
            + (stride + group)
        )


LAYERS = {
    "resnet18": (
        Layer(64, 64, 56),
        Layer(64, 128, 56, stride=2),
        Layer(128, 128, 28),
        Layer(128, 256, 28, stride=2),
        Layer(256, 256, 14),
        Layer(256, 512, 14, stride=2),
        Layer(512, 512, 7),
    ),
    "edges": (
        Layer(64, 64, 56, group=64),
        Layer(64, 64, 56, stride=2, group=64),
        Layer(512, 512, 14, group=512),
        Layer(512, 512, 7, group=512),
        Layer(32, 32, 112, kernel=5, group=32),
        Layer(128, 128, 28, group=32),
        Layer(256, 256, 14, group=4),
        Layer(32, 32, 112),
        Layer(32, 64, 112, kernel=1),
        Layer(64, 128, 56, kernel=1, stride=2),
        Layer(1024, 1024, 7, kernel=1),
        Layer(1024, 1000, 1, kernel=1),
        Layer(512, 512, 2),
        Layer(512, 512, 1),
        Layer(96, 96, 7, kernel=5),
        Layer(32, 8, 14),
    ),
}


def single_node_model(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], layer: Layer
) -> onnx.ModelProto:
    """A model of one node with the input X and the output Y."""
    shape = ["N", layer.in_channels, layer.size, layer.size]
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph([node], "layer", [x], [y], initializers)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("bitexport", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def binary_model(layer: Layer, rng: np.random.Generator) -> onnx.ModelProto:
    """Our op with random signs."""
    ones = np.ones(layer.out_channels, np.float32)
    spec = BinaryConvSpec(
        signs=rng.choice(np.array([-1, 1], np.int8), layer.weight_shape),
        scale=0.01 * ones,
        bias=ones,
        geometry=ConvGeometry((layer.stride,) * 2, layer.pads, group=layer.group),
        threshold=np.zeros(layer.in_channels, np.float32),
    )
    data = node_data(spec)
    attributes = {k: list(v) if isinstance(v, tuple) else v for k, v in data.attributes.items()}
    names = [declared.name for declared in data.op.inputs]
    node = helper.make_node(data.op.name, names, ["Y"], domain="bitexport", **attributes)
    return single_node_model(node, dict(data.tensors), layer)


def float32_model(layer: Layer, rng: np.random.Generator) -> onnx.ModelProto:
    """The dense convolution of the same shape."""
    weight = rng.standard_normal(layer.weight_shape, dtype=np.float32)
    bias = np.ones(layer.out_channels, np.float32)
    strides = [layer.stride] * 2
    node = helper.make_node(
        "Conv", ["X", "W", "B"], ["Y"], strides=strides, pads=layer.pads, group=layer.group
    )
    return single_node_model(node, {"W": weight, "B": bias}, layer)


class OneImage(CalibrationDataReader):  # type: ignore[misc]
    """Calibrates on a single image."""

    def __init__(self, image: np.ndarray) -> None:
        self.feeds = iter([{"X": image}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The image, once."""
        return next(self.feeds, None)


def int8_model(model: onnx.ModelProto, image: np.ndarray) -> onnx.ModelProto:
    """The dense convolution, statically quantized with a scale per channel."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        # With signed activations, the default, part of the work stays float32 on x86.
        quantize_static(
            source,
            target,
            OneImage(image),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        return onnx.load(target)


def make_session(
    model: onnx.ModelProto, threads: int, spin_seconds: float
) -> onnxruntime.InferenceSession:
    """A session on the CPU that knows our ops."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if spin_seconds > 0:
        spin = str(round(1e6 * spin_seconds))
        options.add_session_config_entry("session.intra_op.spin_duration_us", spin)
    else:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    options.register_custom_ops_library(str(bitexport.op_library_path()))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class BoundSession:
    """A session whose X and Y stay where they are."""

    def __init__(self, session: onnxruntime.InferenceSession, image: np.ndarray) -> None:
        self.session = session
        (y,) = session.run(["Y"], {"X": image})
        self.binding = session.io_binding()
        for bind, name, array in (
            (self.binding.bind_ortvalue_input, "X", image),
            (self.binding.bind_ortvalue_output, "Y", y),
        ):
            # From its own allocator, which aligns to cache lines; numpy's does not.
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype)
            value.update_inplace(array)
            bind(name, value)

    def seconds(self, runs: int = 1) -> float:
        """Wall time of a run, as a mean of some."""
        start = time.perf_counter()
        for _ in range(runs):
            self.session.run_with_iobinding(self.binding)
        return (time.perf_counter() - start) / runs

    def turn(self) -> float:
        """Wall time of a run that has the caches and processors to itself."""
        time.sleep(2 * SPIN_SECONDS)
        return self.seconds(math.ceil(TURN_SECONDS / self.seconds()))


def measure(
    layer: Layer, batch: int, threads: int, seconds: float, *, single: bool
) -> tuple[float, ...]:
    """Time a layer's three sessions in turn, and print.

    Returns:
        The ratios to float32 and int8, as medians, and then those of the least times.
    """
    rng = np.random.default_rng(0)
    image = rng.standard_normal(
        (batch, layer.in_channels, layer.size, layer.size), dtype=np.float32
    )
    dense = float32_model(layer, rng)
    models = (binary_model(layer, rng), dense, int8_model(dense, image))
    spin = 0.0 if single else SPIN_SECONDS
    sessions = [BoundSession(make_session(model, threads, spin), image) for model in models]
    times: list[tuple[float, ...]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 5:
        times.append(tuple(s.seconds() if single else s.turn() for s in sessions))
    ours, float32, int8 = (1e6 * statistics.median(t[i] for t in times) for i in range(3))
    to_float32, to_int8 = (statistics.median(t[i] / t[0] for t in times) for i in (1, 2))
    print(
        f"{layer!s:<24}{ours:>7.0f} us{float32:>7.0f} us{int8:>7.0f} us"
        f"{to_float32:>10.1f}x{to_int8:>8.1f}x"
    )
    least = [min(t[i] for t in times) for i in range(3)]
    return to_float32, to_int8, least[1] / least[0], least[2] / least[0]


def main() -> None:
    """Time every layer and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", choices=LAYERS, default="resnet18")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--single", action="store_true")
    options = parser.parse_args()
    print(
        f"batch {options.batch}, {options.threads} threads, onnxruntime {onnxruntime.__version__}, "
        f"kernel {cpu_kernel()}"
    )
    print(f"{'layer':<24}{'ours':>10}{'float32':>10}{'int8':>10}{'x float32':>11}{'x int8':>9}")
    ratios = [
        measure(layer, options.batch, options.threads, options.seconds, single=options.single)
        for layer in LAYERS[options.layers]
    ]
    means = [statistics.geometric_mean(column) for column in zip(*ratios, strict=True)]
    for name, i in (("geometric mean", 0), ("geometric mean of the least times", 2)):
        print(f"{name:<54}{means[i]:>10.1f}x{means[i + 1]:>8.1f}x")


if __name__ == "__main__":
    main()
