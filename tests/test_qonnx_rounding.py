"""Every rounding mode of Quant, and Trunc: to the last bit as QONNX's own executor has them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import run
from test_qonnx import DOMAIN, SIZE, Network, executed, executed_at_once

import bitexport
from bitexport.export_options import ExportOptions
from bitexport.graph.read import read_onnx
from bitexport.runtimes import runtime_named

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

MODES = ("ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN")
SHAPE = (2, 3, SIZE, SIZE)
SIGNED = {"signed": 1, "narrow": 0}


def ties() -> np.ndarray:
    """Numbers from -18 to 18 on integers and halves, and the float32 right beside each."""
    exact = np.arange(-36, 37, dtype=np.float32) / 2
    sides = [np.nextafter(exact, np.float32(limit)) for limit in (-np.inf, np.inf)]
    given = np.concatenate([exact, *sides, [-0.0, 1e-38, -1e-38, 100, -100]])
    return np.resize(given.astype(np.float32), SHAPE)


def truncated(
    net: Network, x: str, scale=1.0, zero=0.0, given=8.0, after=4.0, bits=4.0, **attributes
) -> str:
    """Behind Trunc; ``after`` is the scale of what it gives, which version 1 lacks."""
    numbers = (scale, zero, given, bits) if net.version == 1 else (scale, zero, given, after, bits)
    return net.node("Trunc", x, *(net.constant(n) for n in numbers), domain=DOMAIN, **attributes)


def logits(path: Path, output: Path, x: np.ndarray, runtime: str = "ort", **options) -> np.ndarray:
    bitexport.import_qonnx(path, output, options=ExportOptions(**options))
    return runtime_named(runtime).load(read_onnx(output)[1]).run({"input": x})["logits"]


def require_same(net: Network, folder: Path, x: np.ndarray, *branches: str) -> None:
    """Each branch gives what it gives in the executor."""
    joined = net.node("Concat", *(net.node("Flatten", y) for y in branches), axis=1)
    path = net.save(folder / "q.onnx", joined)
    expected, got = executed(path, x), logits(path, folder / "m.onnx", x)
    parts = (np.split(array, len(branches), axis=1) for array in (expected, got))
    for branch, should, does in zip(branches, *parts, strict=True):
        assert len(np.unique(should)) > 1
        np.testing.assert_array_equal(does, should, err_msg=branch)


@pytest.mark.parametrize("attributes", [SIGNED, {"signed": 1, "narrow": 1}, {"signed": 0}])
@pytest.mark.parametrize("zero", [0.0, 3.0])
def test_quant_rounds_as_the_executor_does(tmp_path, zero, attributes):
    net = Network()
    settings = {"narrow": 0} | attributes
    modes = [net.quant("image", 1.0, zero, 5.0, rounding_mode=m, **settings) for m in MODES]
    require_same(net, tmp_path, ties(), *modes)


def test_quotients_that_float32_rounds(tmp_path):
    """Scales that are no powers of 2: what is divided by them lies beside halves, or on them."""
    net = Network()
    scales = np.array([0.1, 0.3, 0.7], np.float32).reshape(1, 3, 1, 1)
    modes = [net.quant("image", scales, bits=[6.0], rounding_mode=mode) for mode in MODES]
    require_same(net, tmp_path, ties() * scales, *modes)


@pytest.mark.parametrize("signed", [0, 1])
def test_a_constant_is_rounded_as_the_executor_does(tmp_path, signed):
    net = Network()
    given, x = net.constant(ties()[:1]), net.quant("image")
    modes = (net.quant(given, 1.0, 2.0, 5.0, signed=signed, rounding_mode=m) for m in MODES)
    require_same(net, tmp_path, ties(), *[net.node("Add", x, mode) for mode in modes])


@pytest.mark.parametrize("attributes", [SIGNED, {"signed": 1, "narrow": 1}, {"signed": 0}])
def test_widths_beyond_what_float32_holds(tmp_path, attributes):
    """Biases of 32 bits are common; the bounds are float32's, as are sums with 0.5."""
    net = Network()
    powers = 2.0 ** np.arange(20, 34)
    exact = np.concatenate([powers, -powers]).astype(np.float32)
    sides = [np.nextafter(exact, np.float32(limit)) for limit in (-np.inf, np.inf)]
    x = np.resize(np.concatenate([exact, *sides]), SHAPE)
    branches = [
        net.quant(given, 1.0, bits=bits, rounding_mode=mode, **attributes)
        for bits, mode in ((22.0, "HALF_UP"), (24.0, "HALF_DOWN"), (25.0, "UP"), (26.0, "DOWN"),
                           (32.0, "ROUND"), (32.0, "HALF_UP"), (64.0, "HALF_DOWN"))
        for given in ("image", net.constant(x[:1]))
    ]  # fmt: skip
    branches = [net.node("Add", y, net.node("Mul", "image", net.constant(0.0))) for y in branches]
    require_same(net, tmp_path, x, *branches)


def test_the_largest_number_below_one_half_is_one(tmp_path):
    """0.5 is added in float32, which has no number that near to 1."""
    below = np.nextafter(np.float32(0.5), np.float32(0))
    net = Network()
    path = net.save(
        tmp_path / "q.onnx", net.node("Flatten", net.quant("image", 1.0, rounding_mode="half_up"))
    )
    got = logits(path, tmp_path / "m.onnx", np.full(SHAPE, below, np.float32))
    assert (got == 1).all()


def test_round_to_zero_is_what_brevitas_calls_down(tmp_path):
    got = []
    for mode in ("DOWN", "ROUND_TO_ZERO"):
        net = Network()
        x = net.node("Flatten", net.quant("image", 1.0, bits=6.0, rounding_mode=mode))
        path = net.save(tmp_path / f"{mode}.onnx", x)
        got.append(logits(path, tmp_path / f"{mode}.m.onnx", ties()))
    np.testing.assert_array_equal(*got)
    np.testing.assert_array_equal(got[0], np.trunc(ties()).clip(-32, 31).reshape(2, -1))


@pytest.mark.parametrize("zero", [0.0, 3.0])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_trunc_rounds_as_the_executor_does(tmp_path, version, zero):
    """Each integer meets each of its quotients' halves and quarters."""
    net = Network(version=version)
    settings = {} if version == 1 else SIGNED
    modes = [
        truncated(net, "image", 0.5, zero, 6.0, 2.0, 4.0, rounding_mode=mode, **settings)
        for mode in MODES
    ]
    require_same(net, tmp_path, ties(), *modes)


CLIPPED = (
    (8.0, 4.0, 2.0, {"signed": 1, "narrow": 1}),
    (8.0, 4.0, 3.0, {"signed": 0, "narrow": 0}),
    (8.0, 4.0, 2.0, {"signed": 0, "narrow": 1}),
    (2.0, 1.0, 4.0, SIGNED),  # drops nothing
    (2.0, 0.25, 5.0, SIGNED),  # multiplies
    (8.0, 4.0, 1.0, SIGNED),  # -1 or 0, unlike Quant's
    (8.0, 5.5, 4.0, SIGNED),  # the nearest power of 2
    (8.0, np.array([1, 2, 8], np.float32).reshape(1, 3, 1, 1), 4.0, SIGNED),
    (8.0, np.array([[[1.4]], [[1.5]], [[0.7]]], np.float32), 4.0, SIGNED),
)


def test_what_trunc_clips_and_drops(tmp_path):
    net = Network(version=2)
    branches = [
        truncated(net, "image", 1.0, 1.0, given, after, bits, rounding_mode="HALF_UP", **settings)
        for given, after, bits, settings in CLIPPED
    ]
    require_same(net, tmp_path, 2 * ties(), *branches)


def test_widths_of_the_first_trunc(tmp_path):
    net = Network()
    scales = np.array([1, 0.5, 0.3], np.float32).reshape(1, 3, 1, 1)
    branches = [
        truncated(net, "image", scales, 1.0, given, bits=bits, rounding_mode="DOWN")
        for given, bits in ((8.0, 3.0), (4.0, 4.0), (3.0, 5.0), (34.0, 30.0))
    ]
    require_same(net, tmp_path, 2 * ties(), *branches)


@pytest.mark.parametrize("version", [1, 2])
def test_a_constant_is_truncated_as_the_executor_does(tmp_path, version):
    net = Network(version=version)
    settings = {} if version == 1 else SIGNED
    given, x = net.constant(ties()[:1]), net.quant("image")
    modes = (
        truncated(net, given, 0.5, 3.0, 6.0, 2.0, rounding_mode=mode, **settings) for mode in MODES
    )
    require_same(net, tmp_path, ties(), *[net.node("Add", x, mode) for mode in modes])


@pytest.mark.parametrize("version", [1, 2])
def test_trunc_floors_unless_it_says_otherwise(tmp_path, version):
    """Its specification says so; the executor wants the attribute."""
    got = []
    for attributes in ({}, {"rounding_mode": "FLOOR"}):
        net = Network(version=version)
        x = net.node("Flatten", truncated(net, "image", **attributes))
        path = net.save(tmp_path / "q.onnx", x)
        got.append(logits(path, tmp_path / "m.onnx", 4 * ties()))
    np.testing.assert_array_equal(*got)
    assert len(np.unique(got[0])) > 4


@pytest.mark.parametrize("domain", ["onnx.brevitas", DOMAIN])
def test_a_domain_without_a_version_is_in_its_first(tmp_path, domain):
    net = Network(version=1)
    x = truncated(net, "image", 1.0, 2.0, rounding_mode="UP")
    net.nodes[-1].domain = domain
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    model = onnx.load(path)
    del model.opset_import[1:]
    onnx.save(model, path)
    x = 2 * ties()
    np.testing.assert_array_equal(logits(path, tmp_path / "m.onnx", x), executed(path, x))


def computed(net: Network, value: float) -> str:
    return net.node("Mul", net.constant(value * 2), net.constant(0.5))


@pytest.mark.parametrize("version", [1, 2])
def test_parameters_that_constants_give(tmp_path, version):
    net = Network(version=version)
    widths, scales = [computed(net, n) for n in (6.0, 4.0)], [computed(net, n) for n in (0.5, 2.0)]
    numbers = [scales[0], computed(net, 1.0), widths[0], *scales[1:], widths[1]]
    settings = SIGNED if version == 2 else {}
    if version == 1:
        del numbers[3]
    x = net.node("Trunc", "image", *numbers, domain=DOMAIN, rounding_mode="UP", **settings)
    bits = [net.constant(0.5), net.constant(0.0), computed(net, 3.0)]
    x = net.node("Quant", x, *bits, domain=DOMAIN, rounding_mode="HALF_DOWN", **SIGNED)
    require_same(net, tmp_path, ties(), x)


def test_a_computed_width_in_front_of_an_identity(tmp_path):
    """Which folding drops, and calls the quantizer's value as the Identity's."""
    net = Network()
    numbers = [net.constant(0.5), net.constant(0.0), computed(net, 3.0)]
    x = net.node("Quant", net.node("Flatten", "image"), *numbers, domain=DOMAIN, **SIGNED)
    path = net.save(tmp_path / "q.onnx", net.node("Identity", x))
    x = ties()
    np.testing.assert_array_equal(logits(path, tmp_path / "m.onnx", x), executed(path, x))


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_what_is_never_negative_needs_no_signs(tmp_path):
    for signed, count in ((0, 0), (1, 1)):
        net = Network()
        x = net.quant("image", 1.0, signed=signed, rounding_mode="HALF_UP")
        path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
        bitexport.import_qonnx(path, tmp_path / "m.onnx")
        found = operators(tmp_path / "m.onnx")
        assert found["Sign"] == found["Abs"] == count and found["Floor"] == 1
        # 4 KiB, most of which are metadata and names.
        assert (tmp_path / "m.onnx").stat().st_size < 4096


@pytest.mark.parametrize("runtime", ["ort", "ort-native"])
@pytest.mark.parametrize("version", [1, 2])
def test_sign_convolutions_around_trunc(tmp_path, version, runtime):
    """As TruncAvgPool2d stands between binary layers; sums over its windows are integers again."""
    net = Network(version=version)
    settings = SIGNED if version == 2 else {}
    a = net.bipolar("image", 0.5)
    x = net.conv(a, net.bipolar(net.weight(8, 3, 3, 3), 0.25), pads=[1] * 4)
    x = net.quant(x, 0.125, bits=6.0, rounding_mode="UP")
    x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = truncated(net, x, 0.03125, 0.0, 8.0, 0.25, 5.0, rounding_mode="HALF_DOWN", **settings)
    x = net.node("MaxPool", net.bipolar(x, 0.5), kernel_shape=[2, 2])
    x = net.conv(x, net.bipolar(net.weight(5, 8, 3, 3), 0.25))
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    x = ties()
    np.testing.assert_array_equal(logits(path, tmp_path / "m.onnx", x, runtime), executed(path, x))
    graph, _ = read_onnx(tmp_path / "m.onnx")
    assert [n.op_type for n in graph.graph if n.domain == "bitexport"] == ["BinaryConv"] * 2


@pytest.mark.parametrize("version", [1, 2])
def test_float16_where_it_holds_all_numbers(tmp_path, version):
    net = Network(version=version)
    settings = SIGNED if version == 2 else {}
    modes = []
    for mode in MODES:
        x = net.quant("image", 0.5, 3.0, 5.0, rounding_mode=mode)
        modes.append(truncated(net, x, 0.5, 3.0, 6.0, 2.0, 4.0, rounding_mode=mode, **settings))
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", net.node("Concat", *modes, axis=1)))
    x = np.resize(np.arange(-40, 40, dtype=np.float32) / 4, SHAPE)
    # Images of any numbers lie on other sides of a step in float16, as with all quantizers.
    got = logits(path, tmp_path / "m.onnx", x, float16=True, verify=False)
    np.testing.assert_array_equal(got, executed(path, x))


def scales_of_either_sign(net: Network) -> str:
    return truncated(net, "image", 1.0, after=-4.0)


def scale_of_zero(net: Network) -> str:
    return truncated(net, "image", 0.0)


def scale_of_each_image(net: Network) -> str:
    mean = net.node("ReduceMean", net.node("Abs", "image"))
    numbers = [net.constant(n) for n in (0.0, 8.0, 4.0, 4.0)]
    return net.node("Trunc", "image", mean, *numbers, domain=DOMAIN)


def width_of_each_image(net: Network) -> str:
    width = net.node("Round", net.node("ReduceMax", "image"))
    numbers = [net.constant(n) for n in (1.0, 0.0, 8.0, 4.0)]
    return net.node("Trunc", "image", *numbers, width, domain=DOMAIN)


def odd_width(net: Network) -> str:
    return truncated(net, "image", bits=2.5)


def odd_rounding(net: Network) -> str:
    return truncated(net, "image", rounding_mode="STOCHASTIC")


def inputs_of_the_first_version(net: Network) -> str:
    x = truncated(net, "image")
    del net.nodes[-1].input[4]
    return x


def no_scale(net: Network) -> str:
    x = truncated(net, "image")
    net.nodes[-1].input[1] = ""
    return x


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (scales_of_either_sign, r"got a Trunc from [1.] to [-4.], expected scales whose quotient"),
        (scale_of_zero, r"got a Trunc from [0.] to [4.], expected scales whose quotient"),
        (scale_of_each_image, "got a scale or zero point of Trunc that is computed from the input"),
        (width_of_each_image, "got one that is computed, expected one constant integer from 1 to"),
        (odd_width, "got 2.5, expected one constant integer from 1 to 64"),
        (odd_rounding, "got Trunc with rounding STOCHASTIC, expected one of ROUND, HALF_EVEN, CE"),
        (inputs_of_the_first_version, "got Trunc with 5 inputs in version 2 of 'qonnx.custom_op.g"),
        (no_scale, "got Trunc with 5 inputs in version 2 of 'qonnx.custom_op.general', expected 6"),
    ],
)
def test_refusals_of_trunc_are_one_line(tmp_path, build: Callable[[Network], str], text):
    net = Network(version=2)
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", build(net)))
    outcome = run("onnx", path, "-o", tmp_path / "m.onnx", "--no-verify")
    assert outcome.code == 4 and outcome.err.count("\n") == 1, outcome.err
    assert text in outcome.err
    assert not (tmp_path / "m.onnx").exists()


def test_inputs_of_the_second_version_in_the_first_are_refused(tmp_path):
    net = Network(version=2)
    x = truncated(net, "image")
    net.version = 1
    path = net.save(tmp_path / "q.onnx", net.node("Flatten", x))
    outcome = run("onnx", path, "-o", tmp_path / "m.onnx")
    assert outcome.code == 4 and outcome.err.count("\n") == 1
    assert "got Trunc with 6 inputs in version 1 of" in outcome.err


BREVITAS = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from torch import nn
import brevitas.nn as qnn
from brevitas.export import export_qonnx
from brevitas.quant import Int8ActPerTensorFloat as Signed, Uint8ActPerTensorFloat as Unsigned
from brevitas.quant import SignedBinaryActPerTensorConst as A, SignedBinaryWeightPerTensorConst as W
from brevitas.quant.scaled_int import RoundTo8bit, ShiftRoundSaturateTo8bit, TruncTo8bit

def rounding(quantizer, mode, bits):
    return type("Q", (quantizer,), {"float_to_int_impl_type": mode, "bit_width": bits})

kept = {"return_quant_tensor": True}
torch.manual_seed(3)
model = nn.Sequential(
    qnn.QuantIdentity(act_quant=rounding(Signed, "CEIL", 8), **kept),
    qnn.TruncAvgPool2d(2, trunc_quant=rounding(TruncTo8bit, "FLOOR", 5), **kept),
    qnn.QuantConv2d(3, 16, 3, bias=False, weight_bit_width=4, **kept),
    qnn.TruncAvgPool2d(2, trunc_quant=rounding(RoundTo8bit, "ROUND", 6), **kept),
    nn.BatchNorm2d(16),
    qnn.QuantIdentity(act_quant=A),
    qnn.QuantConv2d(16, 40, 3, bias=True, padding=1, weight_quant=W), nn.BatchNorm2d(40),
    qnn.QuantReLU(act_quant=rounding(Unsigned, "FLOOR", 4), **kept),
    qnn.TruncAvgPool2d(2, trunc_quant=rounding(ShiftRoundSaturateTo8bit, "ROUND", 4), **kept),
    qnn.QuantIdentity(act_quant=rounding(Signed, sys.argv[3], 6), **kept),
    qnn.TruncAdaptiveAvgPool2d(1, trunc_quant=rounding(RoundTo8bit, "CEIL", 6)), nn.Flatten(),
    qnn.QuantLinear(40, 10, bias=False, weight_quant=W, return_quant_tensor=False),
)
for layer in model:
    if isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
x = torch.randn(8, 3, 20, 20)
model(x)  # calibrates the scales
model.eval()
np.savez(sys.argv[2], input=x.numpy(), logits=model(x).detach().numpy())
export_qonnx(model, args=x, export_path=sys.argv[1], dynamo=sys.argv[4] == "dynamo")
"""


@pytest.mark.parametrize(
    ("mode", "exporter"), [("FLOOR", "dynamo"), ("ROUND_TO_ZERO", "dynamo"), ("FLOOR", "script")]
)
def test_average_pools_that_brevitas_truncates(tmp_path, mode, exporter):
    """Its older exporter leaves the widths of accumulators to nodes."""
    pytest.importorskip("onnxoptimizer", reason="Brevitas exports with it: pip install brevitas")
    source, recorded, output = (tmp_path / name for name in ("q.onnx", "io.npz", "m.onnx"))
    written = subprocess.run(
        [sys.executable, "-c", BREVITAS, source, recorded, mode, exporter],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert written.returncode == 0, written.stderr
    outcome = run("onnx", source, "-o", output)
    assert outcome.code == 0, outcome.err
    with np.load(recorded) as arrays:
        x, expected = arrays["input"], arrays["logits"]
    graph, data = read_onnx(output)
    got = runtime_named("ort").load(data).run({"input": x})["logits"]
    # Sums of the last layer alone depend on their order.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    if mode == "FLOOR":  # the executor does not know the other
        np.testing.assert_allclose(executed_at_once(source, x), expected, rtol=1e-5, atol=1e-5)
    ours = [node.op_type for node in graph.graph if node.domain == "bitexport"]
    assert ours == ["BinaryConvClip", "SignConv"]
    truncs = [node for node in onnx.load(source).graph.node if node.op_type == "Trunc"]
    assert len(truncs) == 4
