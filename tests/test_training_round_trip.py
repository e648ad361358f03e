"""Every recipe in miniature: train, export without a flag, the same classes in ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import bitexport
from bitexport.families import load
from bitexport.models.resnet import build_resnet
from training.datasets import DataOptions, ImageData, open_data
from training.evaluation import evaluate_checkpoint, run_exported
from training.prediction import accuracy, predict
from training.product_quantization.plan import load_plan
from training.product_quantization.quantize import QuantizeOptions, quantize
from training.recipe import Recipe, load_recipe, recipe_names, with_epochs
from training.trainer import Outcome, RunOptions, train

IMAGES = 160
# Enough for every network to prefer one class clearly: a rounding difference that flips a sign
# moves the logits of a network that has learned nothing past each other.
EPOCHS = {"resnet18": 1, "reactnet-a": 1, "xnor-nin": 1}


def digits(recipe: Recipe) -> ImageData:
    return open_data(
        DataOptions("digits", Path(), False, recipe.input_shape, recipe.augmentation, IMAGES)
    )


def train_small(name: str, out: Path, **options: object) -> tuple[Recipe, Outcome]:
    recipe = with_epochs(load_recipe(name, "digits"), EPOCHS.get(name, 2))
    recipe = replace(recipe, batch_size=32)
    run = RunOptions(out, device="cpu", threads=1, **options)  # type: ignore[arg-type]
    return recipe, train(recipe, digits(recipe), run)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real network on the images of the ReActNets."""
    recipe = with_epochs(load_recipe("wrn20-10-float32", "digits"), 1)
    network = replace(recipe.network, arch="wrn-8-1")
    recipe = replace(recipe, input_shape=(3, 32, 32), network=network)
    out = tmp_path_factory.mktemp("teacher")
    return train(recipe, digits(recipe), RunOptions(out, device="cpu", threads=1)).checkpoint


@pytest.mark.parametrize("name", recipe_names())
def test_trained_exported_and_run(name: str, teacher: Path, tmp_path: Path) -> None:
    distils = name.startswith("reactnet")
    recipe, outcome = train_small(name, tmp_path, teacher=teacher if distils else None)
    data = digits(recipe)
    onnx_file = tmp_path / "model.onnx"

    report = bitexport.export(outcome.checkpoint, path=onnx_file)

    assert (report.family, report.arch) == (recipe.network.family, recipe.network.arch)
    assert not [note for note in report.notes if "binarized" in note]
    quantized = sum(not layer.dense for layer in report.layers)
    assert (quantized > 0) == recipe.binary_weights
    expected, labels = predict(outcome.model, data.test)
    assert torch.isfinite(expected).all() and expected.std() > 1e-3
    got = run_exported(onnx_file, data)
    assert np.array_equal(got.argmax(dim=1), expected.argmax(dim=1))
    assert accuracy(got, labels) == outcome.test_accuracy
    properties = {p.key: p.value for p in onnx.load(onnx_file).metadata_props}
    assert properties["bitexport.preprocessing"] == data.preprocessing
    record = evaluate_checkpoint(
        outcome.checkpoint, dataset=None, root=Path(), download=False, onnx=onnx_file, threads=1
    )
    assert record["accuracy"] == record["onnx_accuracy"] == outcome.test_accuracy
    assert record["same_class"] == 1
    torch.load(outcome.checkpoint, weights_only=True)


def test_first_step_of_reactnet_exports_with_real_weights(teacher: Path, tmp_path: Path) -> None:
    """What an interruption between the steps leaves behind is described as what it is."""
    recipe = with_epochs(load_recipe("reactnet18", "digits"), 1)
    step1 = replace(recipe, stages={"step1": recipe.stages["step1"]})
    run = RunOptions(tmp_path, device="cpu", threads=1, teacher=teacher)
    outcome = train(step1, digits(step1), run)
    report = bitexport.export(outcome.checkpoint, path=tmp_path / "model.onnx")
    assert all(layer.dense for layer in report.layers)
    expected, _ = predict(outcome.model, digits(step1).test)
    got = run_exported(tmp_path / "model.onnx", digits(step1))
    assert torch.equal(got.argmax(dim=1), expected.argmax(dim=1))


def test_quantized_exported_and_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = replace(
        load_plan("small", "resnet18", "digits"),
        input_shape=(3, 16, 16),
        em_iterations=1,
        layer_steps=1,
        whole_epochs=1,
        activation_images=32,
        rows=100,
    )
    data = open_data(DataOptions("digits", Path(), False, plan.input_shape, plan.augmentation, 64))
    real = build_resnet("resnet18", 10)
    outcome = quantize(real, data, plan, QuantizeOptions(tmp_path, "resnet18"))
    report = bitexport.export(outcome.checkpoint, path=tmp_path / "model.onnx")
    assert (report.family, report.arch) == ("kill-the-bits", "resnet18")
    assert sum(layer.op.startswith("Codebook") for layer in report.layers) == 20
    loaded = load(outcome.checkpoint)
    for key, value in outcome.model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(loaded.module.state_dict()[key], value), key
    expected, _ = predict(outcome.model, data.test)
    got = run_exported(tmp_path / "model.onnx", data)
    assert torch.equal(got.argmax(dim=1), expected.argmax(dim=1))
    saved = torch.load(outcome.checkpoint, weights_only=True)
    assert saved["layer1.0.conv1"]["centroids"].shape == (256, 9)
    assert saved["layer2.0.downsample.0"]["centroids"].shape == (256, 4)
    assert saved["layer1.0.conv1"]["assignments"].dtype == torch.uint8
    assert saved["conv1"]["weight"].dtype == torch.float16
