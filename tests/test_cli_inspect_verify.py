"""``inspect``, ``verify`` and ``doctor`` on our own files, on foreign and on damaged ones."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from command_line import (
    KINDS,
    Export,
    export_kind,
    logits,
    random_images,
    run,
    run_process,
    save_codebooks,
    save_wrn,
    wrn_state,
)
from onnx import helper, numpy_helper
from test_cli_errors import assert_failure

import bitexport

Images = npt.NDArray[np.float32]
Damage = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspect")


@pytest.fixture(scope="module")
def exports(folder: Path) -> Callable[[str], Export]:
    return functools.cache(functools.partial(export_kind, folder))


@pytest.fixture(scope="module")
def wrn(exports: Callable[[str], Export]) -> Export:
    return exports("trained")


@pytest.fixture(scope="module")
def images() -> Images:
    return random_images(4, 32, 32)


@pytest.fixture(scope="module")
def recorded(wrn: Export, images: Images) -> Images:
    return logits(wrn.output, images)


@functools.cache
def inspected(*arguments: str | Path) -> dict[str, Any]:
    """The JSON of an inspection that succeeds."""
    outcome = run("inspect", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json


def graph_of(nodes: list[onnx.NodeProto], weights: dict[str, Images]) -> onnx.ModelProto:
    """A foreign model: x [N, 4] -> y [N, 4]."""
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def two_layers(first: str, second: str) -> onnx.ModelProto:
    weights = {name: np.eye(4, dtype=np.float32) for name in ("w0", "w1")}
    nodes = [
        helper.make_node("Gemm", ["x", "w0"], ["a"], name=first),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w1"], ["y"], name=second),
    ]
    return graph_of(nodes, weights)


def saved(model: onnx.ModelProto | bytes, path: Path) -> Path:
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


class TestInspect:
    @pytest.mark.parametrize("kind", KINDS)
    def test_json_keys(self, exports: Callable[[str], Export], kind: str) -> None:
        export = exports(kind)
        for path, options in ((export.checkpoint, ("--input-size", "32")), (export.output, ())):
            record = inspected(path, *options)
            assert record["bytes"] == path.stat().st_size
            assert record["compression"] == record["fp32_bytes"] / record["bytes"]
            assert (record["family"], record["arch"]) == tuple(
                export.outcome.json[key] for key in ("family", "arch")
            )
            totals = record["totals"]
            for key in ("weights", "bytes", "macs", "bops"):
                assert totals[key] == sum(layer[key] or 0 for layer in record["layers"])

    @pytest.mark.parametrize("kind", KINDS)
    def test_checkpoint_and_export_agree(self, exports: Callable[[str], Export], kind: str) -> None:
        export = exports(kind)
        before = inspected(export.checkpoint, "--input-size", "32")
        after = inspected(export.output)
        assert (before["kind"], after["kind"]) == ("checkpoint", "onnx")
        assert [layer["name"] for layer in after["layers"]] == list(export.layers)
        for ours, theirs in zip(before["layers"], after["layers"], strict=True):
            for key in set(ours) - {"macs", "bops"}:
                assert ours[key] == theirs[key], (ours["name"], key)
        for layer in after["layers"]:
            exported = export.layers[layer["name"]]
            assert {key: layer[key] for key in exported} == exported

    @pytest.mark.parametrize("kind", KINDS)
    def test_checkpoint_and_export_agree_on_the_work(
        self, exports: Callable[[str], Export], kind: str
    ) -> None:
        export = exports(kind)
        before = inspected(export.checkpoint, "--input-size", "32")
        after = inspected(export.output)
        for key in ("macs", "bops"):
            work = {layer["name"]: layer[key] for layer in before["layers"]}
            assert {layer["name"]: layer[key] for layer in after["layers"]} == work

    def test_work_is_counted_by_hand(self, wrn: Export) -> None:
        record = inspected(wrn.checkpoint, "--input-size", "16")
        macs = {layer["name"]: layer["macs"] for layer in record["layers"]}
        assert macs["conv0"] == 16 * 16 * 16 * 27
        assert macs["group1.block0.conv0"] == 8 * 8 * 32 * 16 * 9
        assert macs["group2.block0.conv1"] == 4 * 4 * 64 * 64 * 9
        assert record["totals"]["bops"] == 0

    def test_table(self, wrn: Export) -> None:
        outcome = run("inspect", wrn.output)
        assert (outcome.code, outcome.err) == (0, "")
        for text in ("wrn-8-1", "SignConv", "64x64x3x3", "smaller than float32", "stayed dense"):
            assert text in outcome.out

    def test_plain_export_still_has_its_layers(self, wrn: Export, tmp_path: Path) -> None:
        """Its weights are the same; that their ops are spelled out does not make them vanish."""
        plain = tmp_path / "plain.onnx"
        options = ("--plain", "--input-size", "32", "--no-verify")
        assert run("onnx", wrn.checkpoint, "-o", plain, *options).code == 0
        assert inspected(plain)["totals"]["weights"] == inspected(wrn.output)["totals"]["weights"]

    def test_notes_go_to_stderr(self, wrn: Export) -> None:
        outcome = run("inspect", wrn.checkpoint, "--json")
        assert outcome.err.startswith("note: ") and outcome.json["notes"]

    def test_foreign_model(self, tmp_path: Path) -> None:
        path = saved(two_layers("first", "second"), tmp_path / "foreign.onnx")
        record = inspected(path)
        assert (record["family"], record["arch"]) == ("", "")
        assert [layer["name"] for layer in record["layers"]] == ["first", "second"]
        assert record["totals"] == {"weights": 32, "bytes": 128, "macs": 32, "bops": 0}
        assert "foreign" in run("inspect", path).out

    @pytest.mark.parametrize("names", [("", ""), ("/fc1/Gemm", "/fc2/Gemm"), ("net/a", "net/b")])
    def test_foreign_layers_stay_apart(self, names: tuple[str, str], tmp_path: Path) -> None:
        """Torch's older exporter writes /layer1/conv/Conv, and many tools no names at all."""
        record = inspected(saved(two_layers(*names), tmp_path / "foreign.onnx"))
        assert [layer["weights"] for layer in record["layers"]] == [16, 16]
        assert record["fp32_bytes"] == 128

    def test_names_are_shown_as_they_are(self, tmp_path: Path) -> None:
        path = saved(two_layers("a[bold]b", "c[0]"), tmp_path / "foreign.onnx")
        out = run("inspect", path).out
        assert "a[bold]b" in out and "c[0]" in out

    def test_names_cannot_steer_the_terminal(self, tmp_path: Path) -> None:
        path = saved(two_layers("\x1b[2Jgone", "b\rc"), tmp_path / "foreign.onnx")
        out = run("inspect", path).out
        assert all(line.isprintable() for line in out.split("\n"))

    def test_model_without_layers(self, tmp_path: Path) -> None:
        model = graph_of([helper.make_node("Relu", ["x"], ["y"])], {})
        record = inspected(saved(model, tmp_path / "relu.onnx"))
        assert record["layers"] == []
        assert record["totals"]["weights"] == 0

    def test_external_data(self, tmp_path: Path) -> None:
        path = tmp_path / "external.onnx"
        onnx.save(two_layers("a", "b"), path, save_as_external_data=True, size_threshold=0)
        assert_failure(run("inspect", path), 4, "other files")


def weight_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def change(name: str, edit: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Damage:
    """Damage that edits one initializer."""

    def damage(model: onnx.ModelProto) -> None:
        tensor = weight_of(model, name)
        array = np.ascontiguousarray(edit(numpy_helper.to_array(tensor)))
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return damage


def cut_raw_data(model: onnx.ModelProto) -> None:
    tensor = weight_of(model, WORDS)
    tensor.raw_data = tensor.raw_data[:8]


def first_sign_conv(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "SignConv")


def unknown_op(model: onnx.ModelProto) -> None:
    first_sign_conv(model).op_type = "Nonsense"


def missing_inputs(model: onnx.ModelProto) -> None:
    del first_sign_conv(model).input[2:]


WORDS = "group1.block0.conv1.W"
DAMAGED_BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "random": lambda _: np.random.default_rng(0).bytes(1000),
    "text": lambda _: b"hello world\n",
    "wrong start": lambda data: b"\xff\xff\xff\xff" + data[4:],
}
DAMAGED_LAYERS: dict[str, Damage] = {
    "words of a wrong shape": change(WORDS, lambda words: words[:, :2]),
    "words of too few dimensions": change(WORDS, lambda words: words.reshape(-1)),
    "words of a wrong type": change(WORDS, lambda words: words.astype(np.int64)),
    "too few bytes": cut_raw_data,
    "unknown op": unknown_op,
    "missing inputs": missing_inputs,
}


def damaged(export: Export, damage: Damage, path: Path) -> Path:
    model = onnx.load(export.output)
    damage(model)
    return saved(model, path)


def test_the_origin_of_a_model_is_shown(wrn: Export, tmp_path: Path) -> None:
    digest = hashlib.sha256(wrn.checkpoint.read_bytes()).hexdigest()
    properties = run("inspect", wrn.output, "--json").json["metadata"]
    assert properties["bitexport.version"] == bitexport.__version__
    assert properties["bitexport.source_sha256"] == digest
    assert json.loads(properties["bitexport.options"])["input_size"] == [32, 32]
    made = f"made by bitexport {bitexport.__version__} from a file of SHA-256 {digest}, options {{"
    assert made in run("inspect", wrn.output).out


@pytest.mark.parametrize("command", ["inspect", "verify"])
class TestDamagedModel:
    @pytest.mark.parametrize("damage", DAMAGED_BYTES)
    def test_bytes(self, wrn: Export, damage: str, command: str, tmp_path: Path) -> None:
        data = DAMAGED_BYTES[damage](wrn.output.read_bytes())
        path = saved(data, tmp_path / "damaged.onnx")
        assert_failure(run(command, path), 2, str(path), "not an ONNX model")

    @pytest.mark.parametrize("damage", DAMAGED_LAYERS)
    def test_layer(self, wrn: Export, damage: str, command: str, tmp_path: Path) -> None:
        path = damaged(wrn, DAMAGED_LAYERS[damage], tmp_path / "damaged.onnx")
        arguments = [path, *([wrn.checkpoint] if command == "verify" else [])]
        outcome = run(command, *arguments)
        assert outcome.code == 2 if command == "verify" else outcome.code in (2, 4)
        assert_failure(outcome, outcome.code)

    # Named, as pytest puts the name into the environment, where nothing longer than 128 KiB fits.
    @pytest.mark.parametrize(
        "text",
        ["[" * 100_000, '{"a":' * 100_000, "null", "[1]"],
        ids=["deep-list", "deep-dict", "null", "list"],
    )
    def test_odd_metadata(self, wrn: Export, command: str, text: str, tmp_path: Path) -> None:
        model = onnx.load(wrn.output)
        for name in ("layers", "dense", "zero_weights"):
            model.metadata_props.add(key=f"bitexport.{name}", value=text)
        path = saved(model.SerializeToString(), tmp_path / "odd.onnx")
        arguments = [path, *([wrn.checkpoint] if command == "verify" else [])]
        assert run(command, *arguments).code == 0

    def test_a_value_of_terabytes(self, wrn: Export, command: str, tmp_path: Path) -> None:
        model = onnx.load(wrn.output)
        model.graph.initializer.append(
            numpy_helper.from_array(np.int64([1 << 20, 1 << 20]), "huge")
        )
        model.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["starved"]))
        model.graph.output.append(helper.make_empty_tensor_value_info("starved"))
        path = saved(model.SerializeToString(), tmp_path / "hungry.onnx")
        arguments = [path, *([wrn.checkpoint] if command == "verify" else [])]
        assert_failure(run(command, *arguments), 2, "too much memory", "1048576, 1048576")

    def test_inputs_from_nowhere_are_named_once(
        self, wrn: Export, command: str, tmp_path: Path
    ) -> None:
        """onnx_ir logs them too, on stderr."""
        model = onnx.load(wrn.output)
        model.graph.node[0].input[0] = "nowhere"
        path = saved(model.SerializeToString(), tmp_path / "loose.onnx")
        arguments = [path, *([wrn.checkpoint] if command == "verify" else [])]
        outcome = run_process(command, *arguments, cwd=tmp_path)
        assert outcome.err.count("\n") == (outcome.code != 0)

    def test_checkpoint_under_its_name(self, wrn: Export, command: str, tmp_path: Path) -> None:
        path = saved(wrn.checkpoint.read_bytes(), tmp_path / "checkpoint.onnx")
        assert_failure(run(command, path), 2)


def test_model_under_a_checkpoints_name(wrn: Export, tmp_path: Path) -> None:
    path = saved(wrn.output.read_bytes(), tmp_path / "model.pth")
    assert_failure(run("inspect", path), 2, "ONNX")


def flip(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return ~array if array.dtype == np.int32 else -array


class TestVerify:
    @pytest.mark.parametrize("kind", KINDS)
    def test_equal(self, exports: Callable[[str], Export], kind: str) -> None:
        export = exports(kind)
        outcome = run("verify", export.output, export.checkpoint, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        record = outcome.json
        assert record["ok"] is True
        assert record["samples"] >= 8
        assert record["rel_l2"] < 1e-5
        assert record["top1_agreement"] == 1
        assert record["first_divergence"] is None
        assert {"max_abs_diff", "flip_rate", "runtime", "tolerance"} <= record.keys()

    def test_reference_runtime(self, wrn: Export) -> None:
        options = ("--runtime", "reference", "--json")
        outcome = run("verify", wrn.output, wrn.checkpoint, *options)
        assert (outcome.code, outcome.json["runtime"]) == (0, "reference")
        assert outcome.json["rel_l2"] < 1e-5

    def test_fixed_batch(self, wrn: Export, tmp_path: Path) -> None:
        model = onnx.load(wrn.output)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 3
        path = saved(model, tmp_path / "fixed.onnx")
        outcome = run("verify", path, wrn.checkpoint, "--json")
        assert (outcome.code, outcome.json["samples"]) == (0, 3)

        inputs = tmp_path / "inputs.npz"
        np.savez(inputs, input=random_images(4, 32, 32))
        outcome = run("verify", path, wrn.checkpoint, "--inputs", inputs)
        assert_failure(outcome, 2, "got [4, 3, 32, 32], expected [3, 3, 32, 32]")
        assert "Give 3 at a time" in outcome.err
        np.savez(inputs, input=random_images(3, 40, 32))
        outcome = run("verify", path, wrn.checkpoint, "--inputs", inputs)
        assert_failure(outcome, 2, "--input-size")

    def test_text(self, wrn: Export) -> None:
        outcome = run("verify", wrn.output, wrn.checkpoint)
        assert outcome.out.startswith("equal: rel-L2 ")
        assert len(outcome.out.splitlines()) == 1

    def test_another_checkpoint(self, wrn: Export, tmp_path: Path) -> None:
        other = save_wrn(tmp_path / "other.pth", wrn_state(seed=1))
        outcome = run("verify", wrn.output, other, "--json")
        assert outcome.code == 3
        assert_failure_line(outcome.err, "conv0")
        assert outcome.json["ok"] is False
        assert outcome.json["first_divergence"]["layer"] == "conv0"
        assert outcome.json["first_divergence"]["rel_l2"] > 0.1

    def test_another_family(self, exports: Callable[[str], Export], wrn: Export) -> None:
        outcome = run("verify", wrn.output, exports("codebooks").checkpoint, "--json")
        assert outcome.code == 3
        assert_failure_line(outcome.err)

    # A BatchNorm that was folded into its layer makes one tensor of both, under its own name.
    @pytest.mark.parametrize(
        ("initializer", "layer"),
        [
            ("conv0.weight", "conv0"),
            ("group0.block0.conv1.W", "group0.block0.conv1"),
            ("group1.block0.conv0.W", "group1.block0.bn1"),
            ("group1.block0.conv1.W", "group1.block0.conv1"),
            ("group2.block0.conv1.W", "group2.block0.conv1"),
            ("conv_last.weight", "bn_last"),
        ],
    )
    def test_first_divergence(
        self, wrn: Export, initializer: str, layer: str, tmp_path: Path
    ) -> None:
        path = damaged(wrn, change(initializer, flip), tmp_path / "wrong.onnx")
        outcome = run("verify", path, wrn.checkpoint, "--json")
        assert outcome.code == 3
        assert outcome.json["first_divergence"]["layer"] == layer
        assert_failure_line(outcome.err, f"'{layer}'")

    @pytest.mark.parametrize("option", ["--fp16", "--plain"])
    def test_first_divergence_of_other_exports(
        self, wrn: Export, option: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.onnx"
        options = (option, "--input-size", "16", "--no-verify")
        assert run("onnx", wrn.checkpoint, "-o", path, *options).code == 0
        assert run("verify", path, wrn.checkpoint).code == 0
        model = onnx.load(path)
        change("group1.block0.conv1.W", flip)(model)
        outcome = run("verify", saved(model, path), wrn.checkpoint, "--json")
        assert outcome.code == 3, outcome.err
        assert outcome.json["first_divergence"]["layer"] == "group1.block0.conv1"

    def test_first_divergence_among_codebooks(
        self, exports: Callable[[str], Export], tmp_path: Path
    ) -> None:
        export = exports("codebooks")

        def next_code(words: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return words ^ 0x01010101

        damage = change("layer2.1.conv2.Codes", next_code)
        path = damaged(export, damage, tmp_path / "wrong.onnx")
        outcome = run("verify", path, export.checkpoint, "--json")
        assert outcome.code == 3
        assert outcome.json["first_divergence"]["layer"] == "layer2.1.bn2"

    def test_one_wrong_bit_is_found(self, wrn: Export, tmp_path: Path) -> None:
        def one_bit(words: npt.NDArray[Any]) -> npt.NDArray[Any]:
            changed = words.copy()
            changed[5, 1, 1, 0] ^= 1 << 7
            return changed

        path = damaged(wrn, change(WORDS, one_bit), tmp_path / "wrong.onnx")
        outcome = run("verify", path, wrn.checkpoint, "--json")
        assert outcome.code == 3
        assert outcome.json["first_divergence"]["layer"] == "group1.block0.conv1"

    def test_tolerance_can_be_widened(self, wrn: Export, tmp_path: Path) -> None:
        path = damaged(wrn, change(WORDS, flip), tmp_path / "wrong.onnx")
        options = ("--rel-l2", "10", "--top1", "0", "--json")
        outcome = run("verify", path, wrn.checkpoint, *options)
        assert (outcome.code, outcome.json["ok"]) == (0, True)
        assert outcome.json["tolerance"].items() >= {"rel_l2": 10, "top1": 0}.items()

    def test_nan_is_different(self, wrn: Export, tmp_path: Path) -> None:
        damage = change("bn.shift", lambda shift: shift * np.float32("nan"))
        path = damaged(wrn, damage, tmp_path / "wrong.onnx")
        outcome = run("verify", path, wrn.checkpoint, "--json")
        assert outcome.code == 3
        assert outcome.json["rel_l2"] is None
        assert outcome.json["first_divergence"]["layer"] == "bn"

    def test_nothing_to_compare_with(self, wrn: Export) -> None:
        assert_failure(run("verify", wrn.output), 2, "nothing to compare with")

    def test_foreign_model(self, wrn: Export, tmp_path: Path) -> None:
        path = saved(two_layers("a", "b"), tmp_path / "foreign.onnx")
        outcome = run("verify", path, wrn.checkpoint)
        assert_failure(outcome, outcome.code)
        assert outcome.code in (1, 2, 4)

    def test_unknown_runtime(self, wrn: Export) -> None:
        outcome = run("verify", wrn.output, wrn.checkpoint, "--runtime", "nonsense")
        assert_failure(outcome, 2, "nonsense", "reference")

    @pytest.mark.parametrize("library", ["missing", "no library"])
    def test_native_runtime_without_its_library(
        self, wrn: Export, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "library.so"
        if library != "missing":
            path.write_bytes(b"no library")
        monkeypatch.setenv("BITEXPORT_OP_LIBRARY", str(path))
        outcome = run("verify", wrn.output, wrn.checkpoint, "--runtime", "ort-native")
        assert_failure(outcome, 1, str(path))
        assert "Run: Build" not in outcome.err


def assert_failure_line(err: str, *texts: str) -> None:
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith(".\n")
    for text in texts:
        assert text in err


class Pickled:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trap,)


class TestInputs:
    """Recorded arrays in an .npz."""

    @pytest.fixture
    def npz(self, tmp_path: Path) -> Callable[..., Path]:
        def save(**arrays: npt.NDArray[Any]) -> Path:
            path = tmp_path / "recorded.npz"
            np.savez(path, **arrays)
            return path

        return save

    def test_right(
        self, wrn: Export, images: Images, recorded: Images, npz: Callable[..., Path]
    ) -> None:
        path = npz(input=images, logits=recorded)
        outcome = run("verify", wrn.output, "--inputs", path, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.json["samples"] == len(images)

    def test_compressed_and_double(
        self, wrn: Export, images: Images, recorded: Images, tmp_path: Path
    ) -> None:
        path = tmp_path / "recorded.npz"
        np.savez_compressed(path, input=images.astype(np.float64), logits=recorded)
        assert run("verify", wrn.output, "--inputs", path).code == 0

    def test_wrong_logits(
        self, wrn: Export, images: Images, recorded: Images, npz: Callable[..., Path]
    ) -> None:
        path = npz(input=images, logits=np.roll(recorded, 1, axis=1))
        outcome = run("verify", wrn.output, "--inputs", path, "--json")
        assert outcome.code == 3
        assert outcome.json["ok"] is False
        assert outcome.json["first_divergence"] is None
        assert_failure_line(outcome.err, "differs from its reference")
        assert "Export the model again" in outcome.err

    def test_another_checkpoint_is_named_as_the_reason(self, wrn: Export, tmp_path: Path) -> None:
        other = save_wrn(tmp_path / "other.pth.tar", wrn_state(seed=1))
        outcome = run("verify", wrn.output, other)
        assert outcome.code == 3
        assert "was exported from another file" in outcome.err

    def test_logits_off_by_a_thousandth(
        self, wrn: Export, images: Images, recorded: Images, npz: Callable[..., Path]
    ) -> None:
        path = npz(input=images, logits=recorded * np.float32(1.001))
        assert run("verify", wrn.output, "--inputs", path).code == 3
        assert run("verify", wrn.output, "--inputs", path, "--rel-l2", "0.01").code == 0

    def test_checkpoint_beats_recorded_logits(
        self, wrn: Export, images: Images, recorded: Images, npz: Callable[..., Path]
    ) -> None:
        path = npz(input=images, logits=np.roll(recorded, 1, axis=1))
        outcome = run("verify", wrn.output, wrn.checkpoint, "--inputs", path, "--json")
        assert (outcome.code, outcome.json["samples"]) == (0, len(images))

    @pytest.mark.parametrize(
        "case",
        [
            "no input",
            "no logits",
            "integers",
            "no images",
            "other channels",
            "other size",
            "three dimensions",
            "fewer logits",
            "other classes",
            "flat logits",
        ],
    )
    def test_wrong_arrays(
        self, wrn: Export, images: Images, recorded: Images, npz: Callable[..., Path], case: str
    ) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {
            "no input": {"logits": recorded},
            "no logits": {"input": images},
            "integers": {"input": images.astype(np.int64), "logits": recorded},
            "no images": {"input": images[:0], "logits": recorded[:0]},
            "other channels": {"input": images[:, :2], "logits": recorded},
            "other size": {"input": images[..., :16], "logits": recorded},
            "three dimensions": {"input": images[0], "logits": recorded},
            "fewer logits": {"input": images, "logits": recorded[:2]},
            "other classes": {"input": images, "logits": recorded[:, :5]},
            "flat logits": {"input": images, "logits": recorded[:, 0]},
        }[case]
        assert_failure(run("verify", wrn.output, "--inputs", npz(**arrays)), 2)

    def test_other_size_with_a_checkpoint(
        self, wrn: Export, images: Images, npz: Callable[..., Path]
    ) -> None:
        """Torch takes images of any size; the model does not."""
        path = npz(input=images[..., :16])
        assert_failure(run("verify", wrn.output, wrn.checkpoint, "--inputs", path), 2)

    def test_values_beyond_float32(
        self, wrn: Export, images: Images, recorded: Images, npz: Callable[..., Path]
    ) -> None:
        path = npz(input=images.astype(np.float64) * 1e300, logits=recorded)
        assert_failure(run("verify", wrn.output, "--inputs", path), 2)

    @pytest.mark.parametrize("name", ["input", "logits"])
    def test_pickled_arrays_do_not_load(
        self, wrn: Export, images: Images, npz: Callable[..., Path], name: str, tmp_path: Path
    ) -> None:
        trap = tmp_path / "trap"
        attack = np.array([Pickled(trap)], dtype=object)
        path = npz(**{"input": images, name: attack})
        assert_failure(run("verify", wrn.output, "--inputs", path), 2, str(path))
        assert not trap.exists()

    @pytest.mark.parametrize(
        "case",
        [
            *("missing", "directory", "empty", "text", "npy", "raw", "cut", "damaged", "pickle"),
            *("encrypted", "compressed in another way", "bomb"),
        ],
    )
    def test_no_npz(
        self, wrn: Export, images: Images, recorded: Images, case: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "recorded.npz"
        if case == "directory":
            path.mkdir()
        elif case != "missing":
            path.write_bytes(no_npz(case, images, recorded, tmp_path / "trap"))
        assert_failure(run("verify", wrn.output, "--inputs", path), 2, str(path))
        assert not (tmp_path / "trap").exists()


def no_npz(case: str, images: Images, recorded: Images, trap: Path) -> bytes:
    stream = io.BytesIO()
    if case == "npy":
        np.save(stream, images)
    elif case == "raw":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("input", b"no array")
    elif case in ("cut", "damaged", "encrypted", "compressed in another way", "bomb"):
        np.savez_compressed(stream, input=images, logits=recorded)
    data = stream.getvalue()
    if case == "encrypted":
        return with_byte_of_header(data, 6, 1)  # the first flag
    if case == "bomb":
        return with_byte_of_header(data, 25, 127)  # 2 GiB, by what it says
    if case == "compressed in another way":
        return with_byte_of_header(data, 8, 97)  # WavPack
    texts = {"empty": b"", "text": b"hello\n", "pickle": pickle.dumps(Pickled(trap))}
    if case == "damaged":
        # The first block of the deflated data gets a type that does not exist.
        start = data.index(b"input.npy") + len(b"input.npy") + 20
        return data[:start] + b"\xff" * 64 + data[start + 64 :]
    return texts.get(case, data[:5000] if case == "cut" else data)


def with_byte_of_header(data: bytes, offset: int, value: int) -> bytes:
    """A ZIP archive with a byte changed in its first header, and in its directory's."""
    changed = bytearray(data)
    changed[data.index(b"PK\x03\x04") + offset] = value
    changed[data.index(b"PK\x01\x02") + offset + 2] = value
    return bytes(changed)


class TestDoctor:
    NAMES = frozenset(
        {"python", "torch", "torchvision", "onnx", "numpy", "ort", "ort-native", "reference"}
        | {"tensorrt", "tensorrt-rtx", "TensorRT plugin library", "GPU", "nvcc"}
        | {"CUDA op library", "tensorrt-rtx runner"}
    )

    def test_json(self) -> None:
        outcome = run("doctor", "--json")
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.json.keys() >= self.NAMES
        for name, item in outcome.json.items():
            assert isinstance(item["ok"], bool)
            assert item["detail"]
            assert item["ok"] or item["fix"], f"nothing mends {name}"
        for name in ("python", "torch", "onnx", "numpy", "ort", "reference"):
            assert outcome.json[name]["ok"] is True

    def test_table(self) -> None:
        outcome = run("doctor")
        assert outcome.code == 0
        assert all(name in outcome.out for name in self.NAMES)
        assert "on this CPU work" in outcome.out

    def test_a_package_that_cannot_be_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)  # import torch raises, as a broken one does
        outcome = run("doctor", "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.json["torch"]["ok"] is False
        assert "cannot be imported" in outcome.json["torch"]["detail"]
        assert "--force-reinstall torch" in outcome.json["torch"]["fix"]
        assert outcome.json["GPU"]["ok"] is False
        assert "Mend first: torch." in run("doctor").out


def test_bytes_are_shown_by_kind(wrn: Export) -> None:
    found = inspected(wrn.output)
    kinds = {kind["kind"]: kind for kind in found["kinds"]}
    sign = [layer for layer in found["layers"] if layer["op"] == "SignConv"]
    assert kinds["SignConv"]["layers"] == len(sign)
    assert kinds["SignConv"]["bytes"] == sum(layer["bytes"] for layer in sign)
    assert sum(kind["weights"] for kind in kinds.values()) == found["totals"]["weights"]
    assert kinds["the rest"]["bytes"] > 0
    sizes = [kind["bytes"] for kind in found["kinds"]]
    assert sizes == sorted(sizes, reverse=True)


def test_more_than_one_bit_a_weight_is_explained(wrn: Export, tmp_path: Path) -> None:
    said = "input channels fill words of 32 bits"
    assert said in run("inspect", wrn.output).out  # 16 channels in its first layers
    resnet = tmp_path / "resnet.pth"
    save_codebooks(resnet)
    assert said not in run("inspect", resnet, "--input-size", "32").out


def test_two_files_side_by_side(wrn: Export, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    assert run("onnx", wrn.checkpoint, "--fp16", "--no-verify", "-o", half).code == 0
    found = inspected(wrn.output, half)
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert found["first"]["bytes"] == wrn.output.stat().st_size
    assert found["second"]["bytes"] == half.stat().st_size
    dense = layers["conv0"]
    assert dense["second"]["bytes"] < dense["first"]["bytes"] and not dense["same"]
    assert layers["group0.block0.conv0"]["same"]
    text = run("inspect", wrn.output, half).out
    assert "conv0" in text and "group0.block0.conv0" not in text
    assert "layers are stored alike" in text


def test_a_layer_that_one_file_lacks(wrn: Export, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(two_layers("MatMul", "MatMul"), other)
    found = inspected(wrn.output, other)
    only = [layer for layer in found["layers"] if layer["first"] is None]
    assert len(only) == 2
    assert run("inspect", wrn.output, other).code == 0
