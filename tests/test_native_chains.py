"""The op library hands bits from one convolution to the next, and computes what floats would."""

from __future__ import annotations

import re
from pathlib import Path

import native_nodes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from native_chains import FLOAT, FLOAT16, Layer, computed, layer_nodes, model_of_layers, serialized
from native_models import run, run_folder, save, session
from native_nodes import SEED
from single_node import model_of

from bitexport.graph.passes.chain_signs import chain_signs, unchained
from bitexport.ops.nodes import NodeData
from bitexport.ops.table import op_named
from bitexport.spec import ConvGeometry

CLIP = "BinaryConvClip"
ONE = ConvGeometry()
KERNELS = ("portable", "avx2", "avx512", "avx512-vpopcntdq", "amx", "neon")
# X [N, Ci, H, W], layers
CASES = {
    "3x3": ((2, 8, 9, 11), [Layer(32), Layer(40)]),
    "1x1 behind 3x3": ((3, 64, 14, 14), [Layer(96, op=CLIP), Layer(67, (1, 1), ONE)]),
    "four in a row": (
        (2, 33, 7, 6),
        [Layer(33), Layer(100, op=CLIP), Layer(64), Layer(5, op=CLIP)],
    ),
    "strides": (
        (2, 40, 13, 9),
        [
            Layer(72, (3, 3), ConvGeometry((2, 2), pads=(1, 1, 1, 1))),
            Layer(96, (3, 2), ConvGeometry((1, 2), pads=(2, 0, 1, 3), dilations=(2, 1))),
            Layer(33, (1, 1), ConvGeometry((2, 3))),
        ],
    ),
    "many channels": ((1, 40, 5, 5), [Layer(300), Layer(200, (1, 1), ONE), Layer(130)]),
    "a linear layer": ((5, 256, 6, 6), [Layer(512, (6, 6), ONE), Layer(300, (1, 1), ONE)]),
    "one channel": ((2, 1, 6, 7), [Layer(40), Layer(8)]),
    "no image": ((0, 40, 6, 6), [Layer(40), Layer(8)]),
    "one pixel": ((7, 64, 1, 1), [Layer(64), Layer(64)]),
    "many pixels": ((1, 32, 70, 61), [Layer(64), Layer(32, op=CLIP), Layer(16)]),
    "batch": ((9, 64, 8, 8), [Layer(64), Layer(64)]),
}


@pytest.fixture(scope="module", name="library")
def built_library() -> Path:
    return native_nodes.library()


def chained(nodes: list[NodeData], elem: ir.DataType = FLOAT) -> tuple[bytes, bytes]:
    """The model, and its chained form."""
    model = model_of_layers(nodes, elem)
    before = serialized(model)
    assert len(chain_signs(model)) == len(nodes) - 1
    return before, serialized(model)


def images(shape: tuple[int, ...], nodes: list[NodeData]) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=shape).astype(np.float32)
    x = np.where(rng.random(shape) < 0.1, nodes[0].tensors["Th"], x).astype(np.float32)
    if x.size:
        x.flat[:: x.size // 3 + 1] = np.nan
    return x


def kernels(monkeypatch: pytest.MonkeyPatch, model: bytes, library: Path) -> list[str]:
    """Those that run on this CPU."""
    usable = []
    for kernel in KERNELS:
        monkeypatch.setenv("BITEXPORT_CPU_KERNEL", kernel)
        try:
            session(model, library)
        except Exception as error:
            assert "to be one of" in str(error), kernel
        else:
            usable.append(kernel)
    return usable


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_the_bodies_and_of_the_formulas(library, monkeypatch, case):
    """With integers as scales and biases all sums are exact, in every runtime."""
    shape, layers = CASES[case]
    nodes = layer_nodes(shape[1], layers, exact=True)
    before, after = chained(nodes)
    feed = {"X": images(shape, nodes)}
    want = run(before, feed, None)
    assert want.size == 0 or want.std() > 0
    assert np.array_equal(want, computed(nodes, feed["X"]))
    assert np.array_equal(want, run(after, feed, None))
    for kernel in kernels(monkeypatch, after, library):
        monkeypatch.setenv("BITEXPORT_CPU_KERNEL", kernel)
        for threads in (1, 2):
            y = run(after, feed, library, threads)
            assert np.array_equal(y, want), f"{kernel}, {threads} threads, seed {SEED}"


@pytest.mark.parametrize("elem", [FLOAT, FLOAT16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_chains_change_no_bit_of_the_kernels_results(library, case, elem):
    shape, layers = CASES[case]
    nodes = layer_nodes(shape[1], layers)
    before, after = chained(nodes, elem)
    feed = {"X": images(shape, nodes).astype(elem.numpy())}
    want = run(before, feed, library, threads=2)
    assert np.array_equal(run(after, feed, library, threads=2), want)
    apart = serialized(unchained(ir.from_proto(onnx.load_from_string(after))))
    assert np.array_equal(run(apart, feed, library), want)


# Of each, S * accumulator + B stays finite; in float16 that of the small ones.
NUMBERS = (0, -0.0, 1, -1, 1e-45, -1e-45, 1e-38, 2**-24, -(2**-25), 0.5, -13, 7, -1e34, 1e34)
THRESHOLDS = (0, -0.0, np.nan, np.inf, -np.inf, 1, -3, 3e38, 1e-45, 65504, 65520, -65520, -7e4)


def extreme(nodes: list[NodeData], rng: np.random.Generator, largest: float) -> list[NodeData]:
    """Odd numbers everywhere, and thresholds that some result hits exactly."""
    numbers = [v for v in NUMBERS if abs(v) <= largest]
    changed: list[NodeData] = []
    for node in nodes:
        tensors = {name: array.copy() for name, array in node.tensors.items()}
        for name, values in (("S", numbers), ("B", numbers), ("Th", THRESHOLDS)):
            odd = rng.random(tensors[name].shape) < 0.5
            tensors[name][odd] = rng.choice(np.array(values, np.float32), odd.sum())
        if changed:
            before, th = changed[-1].tensors, tensors["Th"]
            sums = rng.integers(-20, 20, th.shape).astype(np.float32)
            hit = before["S"].reshape(th.shape) * sums + before["B"].reshape(th.shape)
            tensors["Th"] = np.where(rng.random(th.shape) < 0.3, hit, th)
        if "Lo" in tensors:
            tensors["Lo"][...] = rng.choice(np.array([0, -0.0, -np.inf, -1], np.float32))
            tensors["Hi"][...] = rng.choice(np.array([0, np.inf, 6], np.float32))
        changed.append(NodeData(node.op, tensors, node.attributes))
    return changed


@pytest.mark.parametrize("elem", [FLOAT, FLOAT16], ids=["float32", "float16"])
def test_extreme_numbers_decide_as_without_chains(library, monkeypatch, elem):
    rng = np.random.default_rng(SEED)
    shape, layers = (2, 33, 7, 6), [Layer(40, op=CLIP), Layer(65, (1, 1), ONE), Layer(33, op=CLIP)]
    usable = kernels(monkeypatch, chained(layer_nodes(33, layers), elem)[1], library)
    for _ in range(6):
        monkeypatch.delenv("BITEXPORT_CPU_KERNEL")
        largest = 20 if elem == FLOAT16 else np.inf
        nodes = extreme(layer_nodes(33, layers), rng, largest)
        before, after = chained(nodes, elem)
        with np.errstate(over="ignore"):
            feed = {"X": images(shape, nodes).astype(elem.numpy())}
        want = run(before, feed, library)
        apart = serialized(unchained(ir.from_proto(onnx.load_from_string(after))))
        assert np.array_equal(run(apart, feed, library), want)
        for kernel in usable:
            monkeypatch.setenv("BITEXPORT_CPU_KERNEL", kernel)
            assert np.array_equal(run(after, feed, library), want), f"{kernel}, seed {SEED}"


def test_runs_repeat_and_one_session_takes_all_sizes(library):
    nodes = layer_nodes(64, [Layer(96), Layer(96, op=CLIP), Layer(40)])
    before, after = chained(nodes)
    one, other = session(before, library, threads=2), session(after, library, threads=2)
    for size in ((1, 64, 7, 7), (4, 64, 12, 5), (0, 64, 7, 7), (1, 64, 7, 7), (2, 64, 30, 31)):
        feed = {"X": images(size, nodes)}
        want = one.run(None, feed)[0]
        assert all(np.array_equal(other.run(None, feed)[0], want) for _ in range(3))


def test_the_kernels_run_and_not_the_bodies(library):
    nodes = layer_nodes(40, [Layer(64), Layer(64), Layer(12, op=CLIP)])
    before, after = chained(nodes)
    model = onnx.load_from_string(after)
    assert [f.name for f in model.functions] == [
        "BinaryConvSign",
        "BinaryConvOfSignsClip",
        "BinaryConvOfSignsSign",
    ]
    for function in model.functions:
        next(step for step in function.node if step.op_type == "Add").op_type = "Sub"
    feed = {"X": images((2, 40, 6, 6), nodes)}
    want = run(before, feed, library)
    assert not np.array_equal(run(model.SerializeToString(), feed, None), want)
    assert np.array_equal(run(model.SerializeToString(), feed, library), want)


def chained_node(op: str, channels: int, out_channels: int, group: int = 1) -> NodeData:
    """A node alone, of a chain."""
    geometry = ConvGeometry(group=group)
    (node,) = layer_nodes(channels, [Layer(out_channels, (1, 1), geometry)])
    extra = np.zeros((1, out_channels, 1, 1), np.float32)
    tensors = node.tensors | {"Next": extra}
    row = op_named(op)
    return NodeData(
        row,
        {x.name: tensors[x.name] for x in row.inputs if x.name in tensors},
        node.attributes,
    )


def with_tensor(node: NodeData, name: str, array: np.ndarray) -> NodeData:
    return NodeData(node.op, {**node.tensors, name: array.astype(np.float32)}, node.attributes)


REFUSALS = {
    "numbers": (
        chained_node("BinaryConvOfSigns", 32, 8),
        (2, 32, 3, 3),
        "expected Signs that come straight from a node of a chain, got other numbers",
    ),
    "channels": (
        chained_node("BinaryConvOfSigns", 32, 8),
        (2, 31, 3, 3),
        "the input is [2, 31, 3, 3]",
    ),
    "rank": (
        chained_node("BinaryConvOfSigns", 32, 8),
        (2, 32, 3),
        "expected an input [N, Ci, H, W], got [2, 32, 3]",
    ),
    "few signs in": (
        chained_node("BinaryConvOfSigns", 31, 8),
        (2, 31, 3, 3),
        "expected at least 32 channels of signs in Signs, got 31",
    ),
    "few signs out": (
        chained_node("BinaryConvSign", 8, 31),
        (2, 8, 3, 3),
        "expected at least 32 channels of signs in Y, got 31",
    ),
    "groups": (
        chained_node("BinaryConvSign", 64, 64, group=2),
        (2, 64, 3, 3),
        "expected group 1 beside signs, got 2",
    ),
    "Next": (
        with_tensor(chained_node("BinaryConvSign", 8, 32), "Next", np.zeros((1, 31, 1, 1))),
        (2, 8, 3, 3),
        "expected Next of float [1, 32, 1, 1]",
    ),
    "an infinite scale": (
        with_tensor(chained_node("BinaryConvSign", 8, 32), "S", np.full((1, 32, 1, 1), np.inf)),
        (2, 8, 3, 3),
        "expected finite S and B beside signs, got inf",
    ),
}


def test_refusals_name_the_node(library, tmp_path):
    for name, (node, shape, _) in REFUSALS.items():
        model = model_of(node, len(shape))
        model.graph.node[0].name = "stage1.conv2"
        first = node.op.inputs[0].name
        save(tmp_path, name, model.SerializeToString(), {first: np.ones(shape, np.float32)})
    answers = run_folder(tmp_path, library)
    for name, (node, _, message) in REFUSALS.items():
        error = answers.errors[name]
        assert error is not None, name
        assert re.search(re.escape(message), error), error
        assert f"{node.op.name} node 'stage1.conv2'" in error, error


def fed_signs(words: np.ndarray, shape: tuple[int, ...], offset: int) -> np.ndarray:
    """A float16 tensor that holds words and the stamp, ``offset`` bytes from a whole word."""
    memory = np.zeros(2 * int(np.prod(shape)) + 16, np.uint8)
    start = -memory.ctypes.data % 8 + offset
    stamped = np.append(words, np.array([0xFE15FD67, 0x7FB9FF5B], np.uint32)).view(np.uint8)
    memory[start : start + stamped.size] = stamped
    return memory[start : start + 2 * int(np.prod(shape))].view(np.float16).reshape(shape)


def test_words_that_somebody_feeds_are_read_where_a_word_may_lie(library):
    shape = (1, 40, 2, 3)
    model = model_of(chained_node("BinaryConvOfSigns", 40, 8), 4, elem=FLOAT16)
    opened = session(model.SerializeToString(), library)
    words = np.random.default_rng(SEED).integers(0, 1 << 32, 12, np.uint32)
    words[6:] &= 0xFF  # of channels 32 to 39
    bits = (words.reshape(2, 1, 6) >> np.arange(32, dtype=np.uint32)[:, None]) & 1
    signs = np.where(bits.reshape(64, 2, 3)[None, :40], 1, -1).astype(np.float16)
    want = run(model.SerializeToString(), {"Signs": signs}, None)
    assert np.array_equal(opened.run(None, {"Signs": fed_signs(words, shape, 0)})[0], want)
    with pytest.raises(Exception, match="got other numbers"):
        opened.run(None, {"Signs": fed_signs(words, shape, 2)})
