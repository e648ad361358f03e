"""``bitexport eval``: the count, its interval, and the images as training had them."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import export_kind, logits, run
from PIL import Image
from torchvision.datasets import CIFAR10

from bitexport.errors import InputError
from bitexport.evaluation import (
    DataOptions,
    evaluate,
    open_images,
    usual_batch,
    wilson_interval,
)
from bitexport.graph.read import read_classifier
from training.data import load_digits

MEAN, STD = (
    np.array(x, np.float32)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
IMAGES, RIGHT = 20, 15


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_kind(tmp_path_factory.mktemp("model"), "trained").output


def random_pixels(size: int, count: int = IMAGES) -> np.ndarray:
    """uint8 [count, size, size, 3]."""
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def ranked(model: Path, pixels: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Classes of each image, the best first."""
    images = (pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - mean) / std
    return np.argsort(-logits(model, images.astype(np.float32)), axis=1)


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in the folders of their predicted classes; the last five in the fourth best's."""
    root = tmp_path_factory.mktemp("images")
    pixels = random_pixels(32)
    for label in range(10):
        (root / "val" / f"class{label}").mkdir(parents=True)
    order = ranked(model, pixels, MEAN, STD)
    for index, image in enumerate(pixels):
        label = order[index, 0 if index < RIGHT else 3]
        Image.fromarray(image).save(root / "val" / f"class{label}" / f"{index}.png")
    # torchvision refuses a class without images; a copy goes where nothing is predicted.
    for label in range(10):
        path = root / "val" / f"class{label}"
        if not any(path.iterdir()):
            Image.fromarray(pixels[0]).save(path / "copy.png")
    return root


def copies(folder: Path) -> int:
    return len(list(folder.rglob("copy.png")))


def test_top1_and_top5_of_an_image_folder(model: Path, folder: Path) -> None:
    arguments = ["--dataset", "imagefolder", "--data", folder, "--batch", "7", "--json"]
    record = run("eval", model, *arguments).json
    samples = IMAGES + copies(folder)
    assert record["samples"] == samples
    assert record["top1"] == RIGHT / samples
    assert IMAGES / samples <= record["top5"] <= 1
    low, high = record["top1_interval"]
    assert 0 < low < record["top1"] < high < 1
    for runtime in ("ort-native", "reference"):
        again = run("eval", model, *arguments, "--runtime", runtime, "--limit", "9").json
        assert again["samples"] == 9


def test_text_and_bench_say_the_same(model: Path, folder: Path) -> None:
    outcome = run("eval", model, "--dataset", "imagefolder", "--data", folder / "val")
    share = RIGHT / (IMAGES + copies(folder))
    assert outcome.code == 0 and f"top-1 {share:.2%}" in outcome.out
    options = ["--dataset", "imagefolder", "--data", folder, "--duration", "0", "--no-memory"]
    record = run("bench", model, *options, "--runtimes", "ort", "--json", "-").json
    found = {r["precision"]: r["accuracy"] for r in record["runs"]}
    assert found["1-bit weights"] == found["fp32"] == pytest.approx(share)
    assert found["int8"] is not None


def test_large_images_are_resized_and_cut(model: Path, tmp_path: Path) -> None:
    """A picture whose middle is red: at 256/224 of the input only the border is lost."""
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[10:70, 30:90] = (255, 0, 0)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "red.png")
    options = DataOptions("imagefolder", tmp_path, mean=(0, 0, 0), std=(1, 1, 1))
    images, labels = open_images(options, (3, 28, 28)).batch(0, 1)
    assert images.shape == (1, 3, 28, 28) and labels.tolist() == [0]
    # 32 pixels high before the cut: red from 4 to 28, less 2 on each side.
    assert images[0, 0, 4:24, 4:24].min() > 0.99 and images[0, 1:].max() < 0.01
    assert images[0, 0, 0].max() < 0.01


def test_wide_images_keep_their_sides(tmp_path: Path) -> None:
    """One of the input's size, grey, and one that is twice as wide and high before the cut."""
    (tmp_path / "a").mkdir()
    ramp = np.tile(np.arange(56, dtype=np.uint8) * 4, (28, 1))
    Image.fromarray(ramp).save(tmp_path / "a" / "0.png")
    large = np.zeros((128, 256, 3), np.uint8)
    large[:, 128:] = (0, 255, 0)
    Image.fromarray(large).save(tmp_path / "a" / "1.png")
    options = DataOptions("imagefolder", tmp_path, mean=(0, 0, 0), std=(1, 1, 1))
    images, _ = open_images(options, (3, 28, 56)).batch(0, 2)
    np.testing.assert_array_equal(images[0], np.tile(ramp / np.float32(255), (3, 1, 1)))
    assert images[1, 1, :, 30:].min() > 0.99 and images[1, 1, :, :26].max() < 0.01


def test_a_limit_takes_images_of_the_whole_set(tmp_path: Path) -> None:
    for label in range(5):
        (tmp_path / str(label)).mkdir()
        for index in range(4):
            image = Image.fromarray(np.full((8, 8, 3), label, np.uint8))
            image.save(tmp_path / str(label) / f"{index}.png")
    options = DataOptions("imagefolder", tmp_path, limit=5, mean=(0, 0, 0), std=(1, 1, 1))
    data = open_images(options, (3, 8, 8))
    assert data.batch(0, 5)[1].tolist() == list(range(5))
    np.testing.assert_allclose(data.sample(2)[:, 0, 0, 0] * 255, [0, 2], atol=1e-5)


def test_digits_are_the_held_out_ones_of_training() -> None:
    data = open_images(DataOptions("digits"), (3, 16, 16))
    expected = load_digits()
    images, labels = data.batch(0, len(data))
    np.testing.assert_allclose(images, expected.test_images.numpy(), atol=1e-6)
    assert np.array_equal(labels, expected.test_labels.numpy())
    assert data.sample(7).shape == (7, 3, 16, 16)


def test_networks_of_one_channel_get_grey_images(tmp_path: Path) -> None:
    shape, colours = (1, 16, 16), (3, 16, 16)
    grey, colour = (
        open_images(DataOptions("digits"), each).batch(0, 9) for each in (shape, colours)
    )
    assert np.array_equal(grey[0], colour[0][:, :1]) and np.array_equal(grey[1], colour[1])
    pixels = random_pixels(16, 1)[0]
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    options = DataOptions("imagefolder", tmp_path, preprocessing='{"mean": [0.25], "std": [0.5]}')
    images, _ = open_images(options, shape).batch(0, 1)
    luma = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(images[0, 0], (luma / 255 - 0.25) / 0.5, atol=2 / 255)
    for refused, wrong in (
        (DataOptions("imagefolder", tmp_path), shape),  # nothing is usual
        (replace(options, mean=(0, 0, 0), std=(1, 1, 1)), shape),
        (replace(options, mean=(0,), std=(1,)), colours),
    ):
        with pytest.raises(InputError, match="wrong mean or deviation"):
            open_images(refused, wrong)
    with pytest.raises(InputError, match=r"neither colour nor grey images \(got 4 channels"):
        open_images(DataOptions("digits"), (4, 16, 16))


def test_a_network_of_one_channel_is_evaluated(tmp_path: Path) -> None:
    """One whose logits are the ink in ten parts of a digit, as numpy adds it up."""
    nodes = [
        onnx.helper.make_node("Slice", ["input", "start", "end", "rows"], ["upper"]),
        onnx.helper.make_node("Reshape", ["upper", "parts"], ["split"]),
        onnx.helper.make_node("ReduceSum", ["split", "last"], ["logits"], keepdims=0),
    ]
    constants = {"start": [0], "end": [10], "rows": [2], "parts": [0, 10, 16], "last": [2]}
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("input", ["N", 1, 16, 16]), ("logits", ["N", 10]))
    ]
    graph = onnx.helper.make_graph(
        nodes, "ink", values[:1], values[1:],
        [onnx.numpy_helper.from_array(np.array(v), name) for name, v in constants.items()],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 18)]
    path = tmp_path / "ink.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    digits = load_digits()
    ink = digits.test_images[:, 0, :10].sum(dim=2).argmax(dim=1)
    outcome = run("eval", path, "--dataset", "digits", "--mean", "0.5", "--std", "0.5", "--json")
    assert outcome.code == 0, outcome.err
    right = (ink == digits.test_labels).float().mean().item()
    assert outcome.json["top1"] == pytest.approx(right) and right > 0.02


def test_statistics_of_the_file_win_over_the_usual_ones_and_given_ones_over_these(
    model: Path, tmp_path: Path
) -> None:
    pixels = random_pixels(16, 1)[0]
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    stated = '{"mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]}'
    options = DataOptions("imagefolder", tmp_path, preprocessing=stated)
    images, _ = open_images(options, (3, 16, 16)).batch(0, 1)
    mean, std = (np.array(x)[:, None, None] for x in ([0.1, 0.2, 0.3], [1, 2, 4]))
    want = (pixels.transpose(2, 0, 1) / 255 - mean) / std
    np.testing.assert_allclose(images[0], want, atol=1e-6)
    own = replace(options, mean=(0, 0, 0), std=(1, 1, 1))
    images, _ = open_images(own, (3, 16, 16)).batch(0, 1)
    np.testing.assert_allclose(images[0], pixels.transpose(2, 0, 1) / 255, atol=1e-6)
    proto = onnx.load(model)
    entry = proto.metadata_props.add()
    entry.key, entry.value = "bitexport.preprocessing", "not json"
    onnx.save(proto, tmp_path / "odd.onnx")
    outcome = run("eval", tmp_path / "odd.onnx", "--dataset", "imagefolder", "--data", tmp_path)
    assert outcome.code == 0, outcome.err


def test_cifar_of_the_python_version(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision accepts only files with the right sum; here, that of a small stand-in."""
    pixels = random_pixels(32)
    mean, std = (
        np.array(x, np.float32)[:, None, None]
        for x in ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616))
    )
    labels = ranked(model, pixels, mean, std)[:, 0]
    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    rows = {"data": pixels.transpose(0, 3, 1, 2).reshape(IMAGES, -1), "labels": labels.tolist()}
    names = {"label_names": [f"class{i}" for i in range(10)]}
    sums = {}
    for name, content in (("test_batch", rows), ("batches.meta", names)):
        data = pickle.dumps(content)
        (base / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(
        CIFAR10,
        "meta",
        {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]},
    )
    record = run("eval", model, "--dataset", "cifar10", "--data", tmp_path, "--json").json
    assert (record["samples"], record["top1"]) == (IMAGES, 1.0)
    (base / "test_batch").write_bytes(b"damaged")
    outcome = run("eval", model, "--dataset", "cifar10", "--data", tmp_path)
    assert outcome.code == 2 and "missing or damaged" in outcome.err


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (350, 360), (1, 50000)])
def test_interval_is_where_the_score_test_turns(successes: int, trials: int) -> None:
    share = successes / trials
    for bound in wilson_interval(successes, trials):
        assert 0 <= bound <= 1
        if 0 < bound < 1:
            deviation = math.sqrt(bound * (1 - bound) / trials)
            assert abs(share - bound) / deviation == pytest.approx(1.959964, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "mnist"], "unknown data set"),
        (["--dataset", "cifar100"], "needs a folder (got no --data"),
        (["--dataset", "imagefolder", "--data", "/nowhere"], "got /nowhere, which is no folder"),
        (["--dataset", "digits", "--mean", "1,2"], "--mean"),
        (["--dataset", "digits", "--std", "1,0,1"], "--std"),
        (["--dataset", "digits", "--runtime", "abacus"], "abacus"),
    ],
)
def test_eval_refuses(model: Path, arguments: list[str], said: str) -> None:
    outcome = run("eval", model, *arguments)
    assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize("kind", [np.uint8, np.bool_, np.float16, np.float32])
def test_logits_of_any_kind_of_number_are_sorted(kind: type) -> None:
    class Nought:
        """Sure of class 0; the others have zeros."""

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            logits = np.zeros((len(inputs["input"]), 10), kind)
            logits[:, 0] = 1
            return {"logits": logits}

    data = open_images(DataOptions("digits", limit=50), (3, 8, 8))
    labels = data.batch(0, len(data))[1]
    found = evaluate(Nought(), "input", "logits", data, batch=64)
    assert found.correct == int((labels == 0).sum()) > 0


def test_logits_that_are_not_numbers_are_wrong() -> None:
    class Undecided:
        """Sure of class 0, but every other image has a NaN for class 9."""

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            logits = np.zeros((len(inputs["input"]), 12), np.float32)
            logits[:, 0] = 1
            logits[::2, 9] = np.nan
            return {"logits": logits}

    data = open_images(DataOptions("digits", limit=50), (3, 8, 8))
    labels = data.batch(0, len(data))[1]
    found = evaluate(Undecided(), "input", "logits", data, batch=64)
    assert (found.not_numbers, found.classes) == (25, 12)
    assert found.correct == int((labels[1::2] == 0).sum()) > 0
    assert found.correct_top5 == int((labels[1::2] < 5).sum())


def test_what_makes_a_figure_doubtful_is_told(model: Path, tmp_path: Path) -> None:
    """A data set of other classes, and a model whose logits are NaN."""
    (tmp_path / "a").mkdir()
    Image.fromarray(random_pixels(32, 1)[0]).save(tmp_path / "a" / "x.png")
    arguments = ["--dataset", "imagefolder", "--data", tmp_path, "--json"]
    outcome = run("eval", model, *arguments)
    assert "10 classes and the data set 1;" in outcome.err and outcome.json["not_numbers"] == 0
    proto = onnx.load(model)
    logits_name = proto.graph.output[0].name
    for node in proto.graph.node:
        node.output[:] = ["before" if n == logits_name else n for n in node.output]
    proto.graph.node.append(onnx.helper.make_node("Div", ["before", "nought"], ["infinite"]))
    proto.graph.node.append(onnx.helper.make_node("Sub", ["infinite", "infinite"], [logits_name]))
    nought = onnx.numpy_helper.from_array(np.zeros((), np.float32), "nought")
    proto.graph.initializer.append(nought)
    onnx.save(proto, tmp_path / "nan.onnx")
    outcome = run("eval", tmp_path / "nan.onnx", *arguments)
    assert "1 images have logits that are not numbers" in outcome.err
    assert (outcome.json["not_numbers"], outcome.json["top1"]) == (1, 0)


def test_more_labels_than_classes_are_refused() -> None:
    class Two:
        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"logits": np.zeros((len(inputs["input"]), 2), np.float32)}

    data = open_images(DataOptions("digits"), (3, 8, 8))
    with pytest.raises(Exception, match="do not fit"):
        evaluate(Two(), "input", "logits", data, batch=64)


@pytest.mark.parametrize("shape", [(), (64,), (1, 10), (100, 10)])
def test_other_logits_than_a_row_for_each_image_are_refused(shape: tuple[int, ...]) -> None:
    class Other:
        def run(self, _inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"logits": np.zeros(shape, np.float32)}

    data = open_images(DataOptions("digits"), (3, 8, 8))
    with pytest.raises(InputError, match="do not fit"):
        evaluate(Other(), "input", "logits", data, batch=64)


def test_images_beyond_all_measure(folder: Path) -> None:
    """A model may claim them; the small side of a picture would be drawn out to the long one."""
    with pytest.raises(InputError, match="too large images"):
        open_images(DataOptions("imagefolder", folder / "val"), (3, 16, 65536))


@pytest.mark.parametrize("shape", [(3, 4096, 4096), (1 << 40, 1, 1), (3, -8, -8), (3, 0, 8)])
def test_a_model_may_not_claim_any_image(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
        for name, dims in (("input", ["N", *shape]), ("logits", ["N", 10]))
    ]
    node = onnx.helper.make_node("GlobalAveragePool", ["input"], ["logits"])
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, ir_version=8), path)
    with pytest.raises(InputError, match=r"no images of a usual size|too much memory"):
        read_classifier(path)


def test_large_images_are_run_by_the_few() -> None:
    sizes = (32, 224, 448, 512, 1024, 2364)
    assert [usual_batch((3, n, n)) for n in sizes] == [32, 32, 27, 21, 5, 1]


def test_digits_of_an_odd_size_are_resized_one_by_one() -> None:
    images, _ = open_images(DataOptions("digits"), (3, 16, 65536)).batch(0, 2)
    assert images.shape == (2, 3, 16, 65536)


@pytest.fixture(scope="module")
def fixed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a batch of 3 and no other, as an import from QONNX may have it."""
    proto = onnx.load(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    path = tmp_path_factory.mktemp("fixed") / "fixed.onnx"
    onnx.save(proto, path)
    return path


def test_a_fixed_batch_is_kept_to_and_filled_up(model: Path, fixed: Path, folder: Path) -> None:
    arguments = ("--dataset", "imagefolder", "--data", folder, "--json")
    free, kept = (json.loads(run("eval", path, *arguments).out) for path in (model, fixed))
    assert kept == {**free, "model": str(fixed)}
    assert kept["samples"] % 3 and kept["top1"] > 0.5
    outcome = run("eval", fixed, *arguments, "--batch", "4")
    assert outcome.code == 2
    assert "batches of one size (got --batch 4, expected 3). Leave --batch out." in outcome.err


@pytest.mark.parametrize("size", [-1, 0])
def test_a_batch_below_1_is_any(model: Path, folder: Path, tmp_path: Path, size: int) -> None:
    proto = onnx.load(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    assert read_classifier(path).fixed_batch is None
    if size:
        arguments = ("--dataset", "imagefolder", "--data", folder, "--json")
        free, negative = (run("eval", each, *arguments).json for each in (model, path))
        assert negative == {**free, "model": str(path)}


def test_bench_measures_the_accuracy_with_a_fixed_batch(fixed: Path, folder: Path) -> None:
    data = ("--dataset", "imagefolder", "--data", folder, "--limit", "10")
    quick = ("--duration", "0", "--no-memory", "--runtimes", "ort", "--precisions", "fp32")
    outcome = run("bench", fixed, "--batch", "3", *data, *quick, "--json", "-")
    top1 = run("eval", fixed, *data, "--json").json["top1"]
    assert top1 > 0
    assert [each["accuracy"] for each in outcome.json["runs"]] == [top1] * 2


def test_bench_keeps_to_a_fixed_batch(fixed: Path) -> None:
    quick = ("--duration", "0", "--no-memory", "--runtimes", "ort", "--json", "-")
    outcome = run("bench", fixed, "--batch", "8,3", "--precisions", "fp32,int8", "--layers", *quick)
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert {(r["precision"], r["batch"]) for r in report["runs"]} == {
        (precision, 3) for precision in ("1-bit weights", "fp32", "int8")
    }
    assert {layer["batch"] for layer in report["layers"]} == {3}
    left_out = {skip["reason"] for skip in report["skipped"]}
    assert left_out == {"batch 8 is another than the 3 that the file has"}


def test_bench_of_nothing_but_fixed_batches_names_these(model: Path, fixed: Path) -> None:
    """Whatever else is missing on the machine, such as a GPU, is no reason."""
    quick = ("--duration", "0", "--no-memory", "--json", "-")
    outcome = run("bench", fixed, *quick)
    assert (outcome.code, outcome.out) == (2, "")
    assert "the batch is fixed in the file (got --batch 1, expected 3). Give --batch 3" in (
        outcome.err
    )
    both = run("bench", fixed, model, "--runtimes", "ort", "--precisions", "fp32", *quick)
    assert {run["model"] for run in both.json["runs"]} == {model.name}


def test_another_size_than_the_models_is_refused(model: Path) -> None:
    outcome = run("eval", model, "--dataset", "digits", "--input-size", "64")
    assert outcome.code == 2
    assert "images of one size (got --input-size 64x64, expected 32x32)" in outcome.err


def test_a_checkpoint_is_to_be_exported_first(tmp_path: Path) -> None:
    checkpoint = export_kind(tmp_path, "trained").checkpoint
    old = tmp_path / "old.pth"
    torch.save({"w": torch.zeros(1)}, old, _use_new_zipfile_serialization=False)
    for path in (checkpoint, old):
        outcome = run("eval", path, "--dataset", "digits")
        assert outcome.code == 2
        assert "got a file of torch.save" in outcome.err
        assert "with `bitexport onnx` first." in outcome.err
