"""What the op library refuses, by which words, and that the oldest ONNX Runtime takes it.

All models run in another process, which must not crash.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import native_nodes
import numpy as np
import onnx
import plugins_build
import pytest
from native_models import run_folder, save
from native_nodes import SEED, binary_node, feed_of, unscaled
from onnx import helper, numpy_helper
from single_node import expected, model_of

from bitexport.spec import ConvGeometry

GEOMETRY = ConvGeometry(pads=(1, 1, 1, 1))
X_SHAPE = (2, 40, 6, 7)
NODE = "stage1.conv2"

Change = Callable[[onnx.ModelProto, dict[str, np.ndarray]], None]


def with_attribute(name: str, value: object) -> Change:
    """Set an attribute of the node; None removes it."""

    def change(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
        attributes = model.graph.node[0].attribute
        kept = [a for a in attributes if a.name != name]
        del attributes[:]
        attributes.extend(kept)
        if value is not None:
            attributes.append(helper.make_attribute(name, value))

    return change


def with_constant(name: str, array: np.ndarray) -> Change:
    def change(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def with_input(name: str, shape: tuple[int, ...]) -> Change:
    def change(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
        declared = next(v for v in model.graph.input if v.name == name)
        declared.CopyFrom(helper.make_tensor_value_info(name, 1, None))
        feed[name] = np.zeros(shape, np.float32)

    return change


def computed(name: str) -> Change:
    """Make a constant an input of the graph."""

    def change(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        feed[name] = numpy_helper.to_array(tensor)
        model.graph.input.append(
            helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
        )
        model.graph.initializer.remove(tensor)

    return change


def overridable(name: str) -> Change:
    """Leave a constant, but let the caller override it."""

    def change(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        value = helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)

    return change


def with_far_pads(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    """An output of 3 x 3 from a padded image of 2^30 x 2^30."""
    with_attribute("pads", [1 << 29] * 4)(model, feed)
    with_attribute("strides", [1 << 29] * 2)(model, feed)
    feed["R"] = np.zeros((2, 12, 3, 3), np.float32)


def without_last_input(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    del model.graph.node[0].input[-1]


FLOATS = np.ones((1, 12, 1, 1), np.float32)
WORDS = np.ones((12, 3, 3, 2), np.int32)

# A change of a valid BinaryConvAdd, and what the error must say besides the node's name.
REFUSALS: dict[str, tuple[Change, str]] = {
    "W of too few words": (with_constant("W", WORDS[..., :1]), r"W of int32 \[12, 3, 3, 2\], got"),
    "W of too many words": (with_constant("W", np.ones((12, 3, 3, 3), np.int32)), r"\[12, 3, 3, 3"),
    "W of rank 1": (with_constant("W", WORDS.ravel()), r"got int32 \[216\]"),
    "W of int64": (with_constant("W", WORDS.astype(np.int64)), "int64"),
    "W empty": (with_constant("W", WORDS[:0]), r"got int32 \[0, 3, 3, 2\]"),
    "S of one number": (with_constant("S", FLOATS[:, :1]), r"S of float \[1, 12, 1, 1\], got"),
    "S of float16": (with_constant("S", FLOATS.astype(np.float16)), "float16"),
    "B too long": (with_constant("B", np.ones((1, 13, 1, 1), np.float32)), r"B of float .*13"),
    "Th too short": (with_constant("Th", FLOATS), r"Th of float \[1, 40, 1, 1\], got"),
    "W computed": (computed("W"), "constant W.* initializer"),
    "Th computed": (computed("Th"), "constant Th"),
    "S computed": (computed("S"), "constant S"),
    "B overridable": (overridable("B"), "constant B"),
    "no wshape": (with_attribute("wshape", None), "wshape of 4 integers, got none"),
    "no strides": (with_attribute("strides", None), "strides of 2 integers, got none"),
    "no pads": (with_attribute("pads", None), "pads of 4 integers, got none"),
    "no dilations": (with_attribute("dilations", None), "dilations of 2 integers, got none"),
    "no group": (with_attribute("group", None), "group that is an integer, got none"),
    "two pads": (with_attribute("pads", [1, 1]), "pads of 4 integers, got 2"),
    "three strides": (with_attribute("strides", [1, 1, 1]), "strides of 2 integers, got 3"),
    "group is a list": (with_attribute("group", [1]), "group that is an integer"),
    "strides are floats": (with_attribute("strides", [1.0, 1.0]), "strides of 2 integers"),
    "pads are text": (with_attribute("pads", "1111"), "pads of 4 integers"),
    "negative pad": (with_attribute("pads", [1, 1, -1, 1]), "pads must be .* got -1"),
    "stride 0": (with_attribute("strides", [0, 1]), "strides must be .* got 0"),
    "negative stride": (with_attribute("strides", [1, -2]), "strides must be .* got -2"),
    "dilation 0": (with_attribute("dilations", [0, 1]), "dilations must be .* got 0"),
    "group 0": (with_attribute("group", 0), "group must be .* got 0"),
    "group of no divisor": (with_attribute("group", 5), "group must be .* got 5"),
    "huge group": (with_attribute("group", 1 << 62), "group must be .* got 4611686018427387904"),
    "wshape of other channels": (with_attribute("wshape", [12, 41, 3, 3]), "Th of float .*41"),
    "wshape of another kernel": (with_attribute("wshape", [12, 40, 3, 1]), r"\[12, 3, 1, 2\]"),
    "wshape of 0": (with_attribute("wshape", [12, 40, 0, 3]), "wshape must be .* got 0"),
    "huge wshape": (with_attribute("wshape", [1 << 40, 40, 3, 3]), "wshape must be .* got 1099"),
    "deep wshape": (with_attribute("wshape", [12, 40, 1 << 15, 1 << 15]), "weights, got 40"),
    "far dilation": (with_attribute("dilations", [1 << 31, 1]), "dilations must be"),
    "far pads": (with_attribute("pads", [1, 1, 2147483647, 1]), "2147483"),
    "more pads than memory": (with_attribute("pads", [1 << 22, 1 << 22, 1, 1]), r"2\^34"),
    "far strides": (with_attribute("strides", [1, (1 << 31) - 1]), r"2\^34"),
    "far pads, small result": (with_far_pads, r"2\^34 elements.*\[40, 16"),
    "X of other channels": (with_input("X", (2, 41, 6, 7)), r"41; the input is \[2, 41, 6, 7\]"),
    "X of rank 3": (with_input("X", (40, 6, 7)), r"an input \[N, Ci, H, W\], got \[40, 6, 7\]"),
    "X of rank 0": (with_input("X", ()), r"got \[\]"),
    "X without rows": (with_input("X", (2, 40, 0, 7)), "height and width must be .* got 0"),
    "R of another size": (with_input("R", (2, 12, 6, 6)), r"R of Y's shape \[2, 12, 6, 7\], got"),
    "R to be broadcast": (with_input("R", (1, 12, 1, 1)), r"got \[1, 12, 1, 1\]"),
    "R of another batch": (with_input("R", (1, 12, 6, 7)), r"got \[1, 12, 6, 7\]"),
    "no R": (without_last_input, "input"),
}
NUMBER = np.ones((1, 1, 1, 1), np.float32)
# The same for the ops with an activation.
ACTIVATED_REFUSALS: dict[str, tuple[str, Change, str]] = {
    "Slope of one number": ("PRelu", with_constant("Slope", NUMBER), r"Slope of float .*, got"),
    "Shift too short": ("PRelu", with_constant("Shift", FLOATS[:, :11]), "Shift of float"),
    "Slope computed": ("PRelu", computed("Slope"), "constant Slope"),
    "no Shift": ("PRelu", without_last_input, "input"),
    "Lo of every channel": (
        "Clip",
        with_constant("Lo", FLOATS),
        r"Lo of float \[1, 1, 1, 1\], got",
    ),
    "Hi computed": ("Clip", computed("Hi"), "constant Hi"),
    "Hi below Lo": ("Clip", with_constant("Hi", -9 * NUMBER), r"Lo <= Hi, got -2\.0+ and -9\.0"),
    "Lo of no number": ("Clip", with_constant("Lo", np.nan * NUMBER), "Lo <= Hi, got"),
}
CASES = {name: ("", *case) for name, case in REFUSALS.items()} | ACTIVATED_REFUSALS


def valid_model(activation: str = "") -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    op = f"BinaryConvAdd{activation}"
    node = binary_node(op, X_SHAPE[1], 12, (3, 3), GEOMETRY)
    model = model_of(node, 4)
    model.graph.node[0].name = NODE
    return model, feed_of(node, X_SHAPE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    model, feed = valid_model()
    save(folder, "valid", model.SerializeToString(), feed)
    for name, (activation, change, _) in CASES.items():
        model, feed = valid_model(activation)
        change(model, feed)
        save(folder, name, model.SerializeToString(), feed)
    return folder


@pytest.fixture(scope="module")
def answers(models: Path) -> dict[str, str | None]:
    return run_folder(models, native_nodes.library()).errors


def test_the_model_that_is_changed_is_valid(answers):
    assert answers["valid"] is None


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_node_is_refused_by_name(answers, name):
    error = answers[name]
    assert error is not None
    assert NODE in error
    assert re.search(CASES[name][-1], error), error


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    found = native_nodes.sanitized_library(tmp_path_factory.mktemp("trials"))
    if isinstance(found, str):
        pytest.skip(found)
    return found


def test_refusals_are_clean_under_sanitizers(models, answers, sanitized):
    library, variables = sanitized
    found = run_folder(models, library, **variables).errors
    assert {k: v is None for k, v in found.items()} == {k: v is None for k, v in answers.items()}


# ONNX Runtime 1.20 asks for an initializer's room before it compares the claim with the data; the
# allocation fails, as everywhere, but ASan remarks on one of more than a terabyte.
ALLOCATION_FAILED = re.compile(r"==\d+==WARNING: AddressSanitizer failed to allocate 0x\w+ bytes")


def test_mutated_nodes_are_clean_under_sanitizers(sanitized, tmp_path):
    """`make fuzz-ops` runs more of them.

    What ASan finds ends the process, which the fuzzer reports; all that ASan says is read here.
    """
    library, variables = sanitized
    reports = tmp_path / "reports"
    reports.mkdir()
    options = f"{variables['ASAN_OPTIONS']}:log_path={reports / 'asan'}"
    paths = os.pathsep.join(str(plugins_build.ROOT / x) for x in ("tests", ".", "plugins/scripts"))
    arguments = ["--targets", "ops", "--count", "400", "--jobs", "1", "--keep", str(tmp_path)]
    outcome = subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments, "--op-library", str(library)],
        capture_output=True, text=True, check=False, cwd=plugins_build.ROOT, timeout=600,
        env={**os.environ, **variables, "ASAN_OPTIONS": options, "PYTHONPATH": paths},
    )  # fmt: skip
    said = [line for path in reports.iterdir() for line in path.read_text().splitlines()]
    if metadata.version("onnxruntime").startswith("1.20."):
        said = [line for line in said if not ALLOCATION_FAILED.fullmatch(line)]
    assert said == []
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "ops: 400 inputs, 0 findings" in outcome.stdout


# ---- The oldest ONNX Runtime --------------------------------------------------------------------


def oldest_allowed() -> str:
    """The oldest onnxruntime that pyproject.toml allows."""
    requirements = metadata.requires("bitexport") or []
    bound = next(r for r in requirements if r.startswith("onnxruntime>="))
    return bound.replace(">=", "==") + ".0"


# The oldest that the op library itself promises to serve; it was built for numpy 1.
OLDEST_SERVED = ("onnxruntime==1.18.0", "numpy==1.26.4")


@pytest.fixture(
    scope="module", params=[(oldest_allowed(),), OLDEST_SERVED], ids=lambda pinned: pinned[0]
)
def oldest_onnxruntime(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with an old onnxruntime, kept under build/."""
    pinned = request.param
    folder = plugins_build.ROOT / "build" / pinned[0]
    if not folder.is_dir():
        target = tmp_path_factory.mktemp("onnxruntime")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target]
        result = subprocess.run([*pip, *pinned], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            pytest.skip(f"cannot install {' '.join(pinned)}: {result.stderr.strip()[-200:]}")
        folder.parent.mkdir(exist_ok=True)
        shutil.move(target, folder)
    return folder


def test_the_oldest_onnxruntime_runs_the_kernels(oldest_onnxruntime, tmp_path):
    node = unscaled(binary_node("BinaryConvAdd", X_SHAPE[1], 12, (3, 3), GEOMETRY))
    feed = feed_of(node, X_SHAPE)
    save(tmp_path, "model", model_of(node, 4).SerializeToString(), feed)
    answers = run_folder(tmp_path, native_nodes.library(), PYTHONPATH=str(oldest_onnxruntime))
    assert oldest_onnxruntime.name == f"onnxruntime=={answers.onnxruntime}"
    assert answers.errors == {"model": None}
    want = expected(node, feed["X"], feed["R"])
    assert np.array_equal(np.load(tmp_path / "model.npy"), want), f"seed {SEED}"
