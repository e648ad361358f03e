"""``bitexport onnx``: small checkpoints of every kind, through the real command line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from command_line import (
    CLASSES,
    DIVERSE,
    KINDS,
    WRN_SHAPES,
    WRN_STATISTICS,
    Export,
    Outcome,
    State,
    codebook_state,
    export_kind,
    logits,
    random_images,
    relative_error,
    run,
    run_process,
    save_wrn,
    wrn,
    wrn_state,
)
from family_networks import MODULES
from torch import nn
from torchvision.models import resnet18

import bitexport
from bitexport import ExportOptions
from bitexport.errors import ComparisonFailure
from bitexport.exporter import default_output
from bitexport.models.wide_resnet import WideResNet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def exports(folder: Path) -> Callable[[str], Export]:
    """Each kind of checkpoint, exported once."""
    return functools.cache(functools.partial(export_kind, folder))


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return save_wrn(folder / "checkpoint.pth.tar")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def exported(checkpoint: Path, output: Path, *options: str) -> dict[str, Any]:
    """The JSON of an export that succeeds."""
    outcome = run("onnx", checkpoint, "-o", output, "--json", *options)
    assert (outcome.code, "error" in outcome.err) == (0, False), outcome.err
    assert output.is_file()
    return outcome.json


KEYS = {
    "family": str,
    "arch": str,
    "output": str,
    "bytes": int,
    "source_bytes": int,
    "fp32_bytes": int,
    "layers": list,
    "verify": dict,
    "seconds": float,
}
LAYER_KEYS = {
    "name": str,
    "op": str,
    "bits_per_weight": float,
    "weights": int,
    "bytes": int,
    "zero_weights": int,
}
VERIFY_KEYS = {
    "ok": bool,
    "samples": int,
    "max_abs_diff": float,
    "rel_l2": float,
    "top1_agreement": float,
    "flip_rate": (float, type(None)),
}


@pytest.mark.parametrize("kind", KINDS)
class TestReport:
    def test_succeeds(self, exports: Callable[[str], Export], kind: str) -> None:
        export = exports(kind)
        assert export.outcome.code == 0, export.outcome.err
        onnx.checker.check_model(onnx.load(export.output), full_check=True)

    def test_json_has_the_keys_of_the_contract(
        self, exports: Callable[[str], Export], kind: str
    ) -> None:
        record = exports(kind).outcome.json
        assert_types(record, KEYS)
        assert_types(record["verify"], VERIFY_KEYS)
        assert len(exports(kind).layers) == len(record["layers"]) > 0
        for layer in record["layers"]:
            assert_types(layer, LAYER_KEYS)

    def test_sizes_are_those_of_the_files(
        self, exports: Callable[[str], Export], kind: str
    ) -> None:
        export, record = exports(kind), exports(kind).outcome.json
        assert record["output"] == str(export.output)
        assert record["bytes"] == export.output.stat().st_size
        assert record["source_bytes"] == export.checkpoint.stat().st_size
        assert record["bytes"] < record["fp32_bytes"] / 3

    def test_layers_account_for_the_file(self, exports: Callable[[str], Export], kind: str) -> None:
        export = exports(kind)
        stored = sum(
            onnx.numpy_helper.to_array(t).nbytes for t in onnx.load(export.output).graph.initializer
        )
        counted = sum(layer["bytes"] for layer in export.layers.values())
        assert counted <= stored < export.outcome.json["bytes"]
        # What no layer owns: the affines of BatchNorms that could not be folded.
        assert stored - counted < 4 * 2 * 6_000
        for layer in export.layers.values():
            assert layer["bits_per_weight"] * layer["weights"] <= 8 * layer["bytes"]

    def test_verified_and_true(self, exports: Callable[[str], Export], kind: str) -> None:
        verify = exports(kind).outcome.json["verify"]
        assert verify["ok"] is True
        assert verify["samples"] >= 8
        assert verify["top1_agreement"] == 1
        assert 0 < verify["rel_l2"] < 1e-5

    def test_notes_go_to_stderr(self, exports: Callable[[str], Export], kind: str) -> None:
        lines = exports(kind).outcome.err.splitlines()
        assert len(lines) == (1 if kind == "trained" else 0)
        assert all(line.startswith("note: ") and "--weights float" in line for line in lines)

    def test_interface(self, exports: Callable[[str], Export], kind: str) -> None:
        session = onnxruntime.InferenceSession(exports(kind).output)
        (image,), (output,) = session.get_inputs(), session.get_outputs()
        assert (image.name, image.type) == ("input", "tensor(float)")
        assert (output.name, output.type) == ("logits", "tensor(float)")
        assert isinstance(image.shape[0], str)
        assert image.shape[1:] == [3, 32, 32]
        assert output.shape == [image.shape[0], CLASSES]

    def test_batch_is_dynamic(self, exports: Callable[[str], Export], kind: str) -> None:
        images = random_images(5, 32, 32)
        together = logits(exports(kind).output, images)
        assert together.shape == (5, CLASSES)
        alone = logits(exports(kind).output, images[3:4])
        assert relative_error(alone, together[3:4]) < 1e-5

    def test_file_stands_alone(
        self, exports: Callable[[str], Export], kind: str, tmp_path: Path
    ) -> None:
        export = exports(kind)
        data = export.output.read_bytes()
        model = onnx.load_from_string(data)
        tensors = model.graph.initializer
        assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors)
        for trace in (b"site-packages", b".py", str(export.output.parent).encode()):
            assert trace not in data
        moved = tmp_path / "moved.onnx"
        moved.write_bytes(data)
        assert logits(moved, random_images(1, 32, 32)).shape == (1, CLASSES)


def assert_types(record: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    assert types.keys() <= record.keys()
    for key, kind in types.items():
        assert isinstance(record[key], kind), (key, record[key])
        assert not (kind is int and isinstance(record[key], bool))


@pytest.mark.parametrize("kind", ["trained", "packed"])
def test_wide_resnet_layers(exports: Callable[[str], Export], kind: str) -> None:
    export = exports(kind)
    record = export.outcome.json
    assert (record["family"], record["arch"]) == ("wide-resnet", "wrn-8-1")
    counts = {name: int(np.prod(shape)) for name, shape in WRN_SHAPES.items()}
    assert {name: layer["weights"] for name, layer in export.layers.items()} == counts
    assert record["fp32_bytes"] == 4 * (sum(counts.values()) + WRN_STATISTICS)
    for name, (_, in_channels, *_) in WRN_SHAPES.items():
        layer = export.layers[name]
        if name in ("conv0", "conv_last"):
            assert (layer["op"], layer["bits_per_weight"]) == ("Conv", 32)
            assert "full precision" in layer["dense_reason"]
        else:
            # A word holds 32 channels, also where there are but 16.
            assert layer["op"] == "SignConv"
            assert layer["bits_per_weight"] == 32 / min(in_channels, 32)
            assert layer["dense_reason"] is None


def test_packed_and_trained_are_the_same_network(exports: Callable[[str], Export]) -> None:
    images = random_images(4, 32, 32)
    expected = wrn()(torch.from_numpy(images)).detach().numpy()
    for kind in ("trained", "packed"):
        assert relative_error(logits(exports(kind).output, images), expected) < 1e-5


def test_codebook_layers(exports: Callable[[str], Export]) -> None:
    export = exports("codebooks")
    record = export.outcome.json
    assert (record["family"], record["arch"]) == ("kill-the-bits", "resnet18")
    assert len(export.layers) == 21
    dense = export.layers.pop("conv1")
    assert (dense["op"], dense["bits_per_weight"]) == ("Conv", 16)
    wide, linear = export.layers.pop("layer3.1.conv2"), export.layers.pop("fc")
    assert wide["op"] == "CodebookConv16"
    assert wide["bits_per_weight"] == (256 * 256 * 16 + DIVERSE * 9 * 16) / (256 * 256 * 9)
    assert linear["op"] == "CodebookGemm"
    assert linear["weights"] == 512 * CLASSES
    assert {layer["op"] for layer in export.layers.values()} == {"CodebookConv"}
    first = export.layers["layer1.0.conv1"]
    assert first["bits_per_weight"] == (64 * 64 * 8 + 16 * 9 * 16) / (64 * 64 * 9)


def test_codebook_network_computes_upstreams_formula(exports: Callable[[str], Export]) -> None:
    """weight.flatten(1)[co, j*d:(j+1)*d] = centroids[assignments[j*Co + co]], spelled out."""
    state = codebook_state()
    with torch.device("meta"):
        module = resnet18(num_classes=CLASSES).eval()
    module.to_empty(device="cpu")
    for name, layer in module.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.weight.data, layer.bias.data = (
                state[name][k].float() for k in ("weight", "bias")
            )
        elif isinstance(layer, nn.Conv2d | nn.Linear) and name != "conv1":
            saved, rows = state[name], layer.weight.data.flatten(1)
            d = saved["centroids"].shape[1]
            for j in range(saved["n_blocks"]):
                codes = saved["assignments"][j * len(rows) : (j + 1) * len(rows)].long()
                rows[:, j * d : (j + 1) * d] = saved["centroids"][codes].float()
    module.conv1.weight.data = state["conv1.weight"].float()
    module.fc.bias.data = state["fc_bias"]["bias"]
    images = random_images(2, 32, 32)
    expected = module(torch.from_numpy(images)).detach().numpy()
    assert relative_error(logits(exports("codebooks").output, images), expected) < 1e-5


def test_default_output_lies_in_the_current_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(checkpoint.parent.iterdir())
    outcome = run("onnx", checkpoint, "--input-size", "16", "--no-verify", "--json")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.onnx"]
    assert list(checkpoint.parent.iterdir()) == before
    assert outcome.json["output"] == "checkpoint.onnx"


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("run/checkpoint.pth.tar", "checkpoint.onnx"),
        ("/run/model.safetensors", "model.onnx"),
        ("resnet18.v2.pt", "resnet18.v2.onnx"),
        ("no_suffix", "no_suffix.onnx"),
    ],
)
def test_default_output_of_other_names(source: str, output: str) -> None:
    assert default_output(Path(source)) == Path(output)


def test_table_without_json(checkpoint: Path, target: Path) -> None:
    outcome = run("onnx", checkpoint, "-o", target, "--input-size", "16", "-v")
    assert outcome.code == 0
    for text in ("wrn-8-1", "wide-resnet", str(target), "6 quantized, 2 dense", "rel-L2"):
        assert text in outcome.out
    assert "fold-batch-norm" in outcome.err
    assert "fold-batch-norm" not in outcome.out


def test_float16(checkpoint: Path, target: Path) -> None:
    record = exported(checkpoint, target, "--fp16", "--input-size", "16")
    layers = {layer["name"]: layer for layer in record["layers"]}
    assert layers["conv0"]["bits_per_weight"] == 16
    assert layers["group1.block0.conv1"]["bits_per_weight"] == 1
    session = onnxruntime.InferenceSession(target)
    assert session.get_inputs()[0].type == session.get_outputs()[0].type == "tensor(float)"
    images = random_images(8, 16, 16)
    expected = wrn()(torch.from_numpy(images)).detach().numpy()
    # Half precision was computed in, and half precision is all that was lost.
    assert 1e-6 < relative_error(logits(target, images), expected) < 1e-2


@pytest.mark.parametrize("plain", [False, True])
def test_what_overflows_in_float16_is_refused(target: Path, plain: bool) -> None:
    """ONNX Runtime on a CPU keeps the values that a GPU makes infinite."""
    torch.manual_seed(0)
    build, shape = MODULES["resnet"]
    module = build().eval()
    head = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
    head.weight.data.mul_(1e4)
    with torch.inference_mode():
        assert module(torch.from_numpy(random_images(1, *shape[1:]))).abs().max() < 65504
    options = ExportOptions(float16=True, plain=plain)
    assert bitexport.export(module, torch.zeros(1, *shape), target, options=options).verify
    head.weight.data.mul_(60)
    head.bias.data.mul_(60)
    with pytest.raises(ComparisonFailure, match=r"layer 'fc' overflows in float16.*--fp16"):
        bitexport.export(
            module, torch.zeros(1, *shape), target.with_suffix(".big.onnx"), options=options
        )
    assert not target.with_suffix(".big.onnx").exists()


@pytest.mark.parametrize("kind", ["trained", "codebooks"])
def test_plain_has_no_custom_domain(
    exports: Callable[[str], Export], kind: str, target: Path
) -> None:
    export = exports(kind)
    record = exported(export.checkpoint, target, "--plain", "--input-size", "32")
    model = onnx.load(target)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert not model.functions
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    known = {v.name for v in inferred.value_info if v.type.tensor_type.HasField("shape")}
    assert {name for node in model.graph.node for name in node.output} == known | {"logits"}
    # Many readers know no CastLike, and a Constant only by its tensor.
    assert {"CastLike", "Constant"}.isdisjoint(node.op_type for node in model.graph.node)
    assert record["bytes"] < record["fp32_bytes"] / 3
    images = random_images(2, 32, 32)
    assert relative_error(logits(target, images), logits(export.output, images)) < 1e-6


@pytest.mark.parametrize("kind", ["trained", "codebooks"])
def test_nothing_parts_a_plain_convolution_from_its_scale(
    exports: Callable[[str], Export], kind: str, target: Path
) -> None:
    """ONNX Runtime fuses no Cast, not even one to the same type, and took twice the time."""
    exported(exports(kind).checkpoint, target, "--plain", "--input-size", "32")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target.with_suffix(".optimized.onnx"))
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(target, options)
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    producers = {node.output[0]: node.op_type for node in nodes}
    assert "Conv" in producers.values()
    casts = [node for node in nodes if node.op_type == "Cast"]
    assert not [node.name for node in casts if producers.get(node.input[0]) == "Conv"]


def test_custom_export_declares_its_domain(exports: Callable[[str], Export]) -> None:
    model = onnx.load(exports("trained").output)
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, "bitexport": 1}
    assert {f.name for f in model.functions} == {"SignConv"}


@pytest.mark.parametrize(("size", "shape"), [("40x32", (40, 32)), ("24", (24, 24))])
def test_input_size(checkpoint: Path, target: Path, size: str, shape: tuple[int, int]) -> None:
    exported(checkpoint, target, "--input-size", size)
    session = onnxruntime.InferenceSession(target)
    assert tuple(session.get_inputs()[0].shape[2:]) == shape
    images = random_images(2, *shape)
    expected = wrn()(torch.from_numpy(images)).detach().numpy()
    assert relative_error(logits(target, images), expected) < 1e-5


def test_weights_float(checkpoint: Path, target: Path) -> None:
    record = exported(checkpoint, target, "--weights", "float", "--input-size", "16")
    assert {layer["op"] for layer in record["layers"]} == {"Conv"}
    assert all(layer["dense_reason"] for layer in record["layers"])
    module = WideResNet(8, 1, CLASSES, binarize=False).eval()
    module.load_state_dict(wrn().state_dict())
    images = random_images(2, 16, 16)
    expected = module(torch.from_numpy(images)).detach().numpy()
    assert relative_error(logits(target, images), expected) < 1e-5


def test_weights_binary_needs_no_note(checkpoint: Path, target: Path) -> None:
    arguments = ("--weights", "binary", "--input-size", "16", "--no-verify")
    outcome = run("onnx", checkpoint, "-o", target, *arguments)
    assert (outcome.code, outcome.err) == (0, "")


def test_family_and_arch_may_be_named(checkpoint: Path, target: Path) -> None:
    named = ("--family", "wide-resnet", "--arch", "wrn-8-1", "--input-size", "16", "--no-verify")
    record = exported(checkpoint, target, *named)
    assert (record["family"], record["arch"]) == ("wide-resnet", "wrn-8-1")


def test_no_verify(checkpoint: Path, target: Path) -> None:
    assert exported(checkpoint, target, "--no-verify", "--input-size", "16")["verify"] is None


@pytest.fixture(scope="module")
def state_with_zeros() -> State:
    """Three filters with five zeros where the BatchNorm folds, and one zero where none does."""
    state = wrn_state(seed=3)
    for index in ((1, 0, 0, 0), (1, 2, 1, 1), (7, 15, 2, 2), (31, 0, 0, 1), (31, 0, 0, 2)):
        state["group1.block0.conv0"][index] = 0
    state["group2.block0.conv1"][9, 9, 0, 0] = -0.0
    return state


@pytest.fixture(scope="module")
def zeros(state_with_zeros: State, folder: Path) -> Path:
    return save_wrn(folder / "zeros.pth.tar", state_with_zeros)


ZEROS = {"group1.block0.conv0": 5, "group2.block0.conv1": 1}


class TestZeroWeights:
    def reference(self, state: State, images: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        module = wrn(seed=3)
        own = module.state_dict()
        module.load_state_dict({k: state[k if k in state else k[:-7]] for k in own})
        return module(torch.from_numpy(images)).detach().numpy()  # type: ignore[no-any-return]

    @pytest.mark.parametrize("option", [[], ["--zero-weights", "exact", "--plain"]])
    def test_exact(
        self, zeros: Path, state_with_zeros: State, target: Path, option: list[str]
    ) -> None:
        record = exported(zeros, target, "--input-size", "16", *option)
        counts = {e["name"]: e["zero_weights"] for e in record["layers"] if e["zero_weights"]}
        assert counts == ZEROS
        assert {e["name"]: e["weights"] for e in record["layers"]} == {
            name: int(np.prod(shape)) for name, shape in WRN_SHAPES.items()
        }
        images = random_images(3, 16, 16)
        expected = self.reference(state_with_zeros, images)
        assert relative_error(logits(target, images), expected) < 1e-5

    @pytest.mark.parametrize(
        ("policy", "said"), [("exact", "a second convolution"), ("plus-one", "stored as +1")]
    )
    def test_people_are_told(self, zeros: Path, target: Path, policy: str, said: str) -> None:
        options = ("--input-size", "16", "--no-verify", "--zero-weights", policy)
        outcome = run("onnx", zeros, "-o", target, *options)
        line = next(each for each in outcome.out.splitlines() if "zero weights" in each)
        assert f"{sum(ZEROS.values())} in {len(ZEROS)} layers" in line
        assert said in line

    def test_plus_one(self, zeros: Path, state_with_zeros: State, target: Path) -> None:
        options = ("--input-size", "16", "--zero-weights", "plus-one")
        record = exported(zeros, target, *options)
        counts = {e["name"]: e["zero_weights"] for e in record["layers"] if e["zero_weights"]}
        assert counts == ZEROS
        images = random_images(3, 16, 16)
        packed = {
            key: torch.where(value == 0, 1.0, value) if ".conv" in key else value
            for key, value in state_with_zeros.items()
        }
        got = logits(target, images)
        assert relative_error(got, self.reference(packed, images)) < 1e-5
        assert relative_error(got, self.reference(state_with_zeros, images)) > 1e-4

    def test_refuse(self, zeros: Path, target: Path) -> None:
        outcome = run("onnx", zeros, "-o", target, "--zero-weights", "refuse")
        assert (outcome.code, outcome.out) == (4, "")
        assert "group1.block0.conv0" in outcome.err and "5 zero weights" in outcome.err
        assert not target.exists()

    def test_refuse_without_zeros(self, checkpoint: Path, target: Path) -> None:
        options = ("--zero-weights", "refuse", "--input-size", "16", "--no-verify")
        record = exported(checkpoint, target, *options)
        assert not any(layer["zero_weights"] for layer in record["layers"])


Runs = list[tuple[Outcome, bytes]]


@pytest.fixture(scope="module")
def runs(checkpoint: Path, folder: Path) -> Runs:
    """The same export in two processes whose hashes differ."""
    runs = []
    for seed in ("1", "2"):
        arguments = ("onnx", checkpoint, "-o", f"{seed}.onnx", "--input-size", "32", "--json")
        outcome = run_process(*arguments, cwd=folder, PYTHONHASHSEED=seed)
        assert outcome.code == 0, outcome.err
        runs.append((outcome, (folder / f"{seed}.onnx").read_bytes()))
    return runs


class TestProcess:
    """As a user runs it: native code may write to the same stdout and stderr."""

    def test_json_and_nothing_else_on_stdout(self, runs: Runs) -> None:
        for outcome, _ in runs:
            assert outcome.json["verify"]["ok"] is True
            assert outcome.out.startswith("{") and outcome.out.endswith("}\n")

    def test_stderr_is_quiet_but_for_notes(self, runs: Runs) -> None:
        for outcome, _ in runs:
            assert [line[:6] for line in outcome.err.splitlines()] == ["note: "]

    def test_bytes_repeat(self, runs: Runs, checkpoint: Path, target: Path) -> None:
        exported(checkpoint, target, "--input-size", "32", "--no-verify")
        (_, first), (_, second) = runs
        assert first == second
        assert without_options(target.read_bytes()) == without_options(first)


def without_options(data: bytes) -> bytes:
    """The model without the record of the options that it was exported with."""
    model = onnx.load_from_string(data)
    kept = [p for p in model.metadata_props if p.key != "bitexport.options"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model.SerializeToString(deterministic=True)
