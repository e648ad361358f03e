"""Binary 3x3 layers of ResNet-18 at 224 on the CPU: ours against ONNX Runtime's float32 and int8.

    python benchmarks/cpu_layers.py [--threads 1] [--batch 1] [--seconds 2]

Each layer is a model of its own: our op (packing, threshold, scale and bias included) in the op
library, a float32 convolution, and a statically quantized int8 one with its QuantizeLinear and
DequantizeLinear. The three sessions take turns, without spinning threads; the figures are medians
of the ratios of neighbouring runs, and their geometric mean over the layers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import bitexport
from bitexport.ops.nodes import node_data
from bitexport.spec import BinaryConvSpec, ConvGeometry

# In channels, out channels, size of the input, stride.
LAYERS = (
    (64, 64, 56, 1),
    (64, 128, 56, 2),
    (128, 128, 28, 1),
    (128, 256, 28, 2),
    (256, 256, 14, 1),
    (256, 512, 14, 2),
    (512, 512, 7, 1),
)


def single_node_model(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], layer: tuple[int, ...]
) -> onnx.ModelProto:
    """A model of one node with the input X and the output Y."""
    in_channels, _, size, _ = layer
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", in_channels, size, size])
    y = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph([node], "layer", [x], [y], initializers)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("bitexport", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def binary_model(layer: tuple[int, ...], rng: np.random.Generator) -> onnx.ModelProto:
    """Our op with random signs."""
    in_channels, out_channels, _, stride = layer
    ones = np.ones(out_channels, np.float32)
    spec = BinaryConvSpec(
        signs=rng.choice(np.array([-1, 1], np.int8), (out_channels, in_channels, 3, 3)),
        scale=0.01 * ones,
        bias=ones,
        geometry=ConvGeometry((stride, stride), (1, 1, 1, 1)),
        threshold=np.zeros(in_channels, np.float32),
    )
    data = node_data(spec)
    attributes = {k: list(v) if isinstance(v, tuple) else v for k, v in data.attributes.items()}
    names = [declared.name for declared in data.op.inputs]
    node = helper.make_node(data.op.name, names, ["Y"], domain="bitexport", **attributes)
    return single_node_model(node, dict(data.tensors), layer)


def float32_model(layer: tuple[int, ...], rng: np.random.Generator) -> onnx.ModelProto:
    """The dense convolution of the same shape."""
    in_channels, out_channels, _, stride = layer
    weight = rng.standard_normal((out_channels, in_channels, 3, 3), dtype=np.float32)
    bias = np.ones(out_channels, np.float32)
    node = helper.make_node(
        "Conv", ["X", "W", "B"], ["Y"], strides=[stride, stride], pads=[1, 1, 1, 1]
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
        quantize_static(
            source, target, OneImage(image), quant_format=QuantFormat.QDQ, per_channel=True
        )
        return onnx.load(target)


def make_session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU that knows our ops."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    options.register_custom_ops_library(str(bitexport.op_library_path()))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def seconds_of(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - start


def main() -> None:
    """Time every layer and print its ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    means: list[tuple[float, float]] = []
    print(f"batch {options.batch}, {options.threads} threads, {onnxruntime.__version__}")
    print(f"{'layer':<14}{'ours':>10}{'float32':>10}{'int8':>10}{'x float32':>11}{'x int8':>9}")
    for layer in LAYERS:
        in_channels, out_channels, size, stride = layer
        image = rng.standard_normal((options.batch, in_channels, size, size), dtype=np.float32)
        dense = float32_model(layer, rng)
        models = (binary_model(layer, rng), dense, int8_model(dense, image))
        sessions = [make_session(model, options.threads) for model in models]
        feed = {"X": image}
        times: list[tuple[float, ...]] = []
        end = time.monotonic() + options.seconds
        while time.monotonic() < end or len(times) < 5:
            times.append(tuple(seconds_of(session, feed) for session in sessions))
        ours, float32, int8 = (1e6 * statistics.median(t[i] for t in times) for i in range(3))
        ratios = tuple(statistics.median(t[i] / t[0] for t in times) for i in (1, 2))
        means.append(ratios)
        name = f"{in_channels}->{out_channels} @{size}" + ("/2" if stride == 2 else "")
        print(
            f"{name:<14}{ours:>7.0f} us{float32:>7.0f} us{int8:>7.0f} us"
            f"{ratios[0]:>10.1f}x{ratios[1]:>8.1f}x"
        )
    geometric = [statistics.geometric_mean(r[i] for r in means) for i in (0, 1)]
    print(f"{'geometric mean':<44}{geometric[0]:>10.1f}x{geometric[1]:>8.1f}x")


if __name__ == "__main__":
    main()
