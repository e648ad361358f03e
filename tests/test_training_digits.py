"""Digits in, checkpoint out, ONNX Runtime equal to torch: the demo in miniature."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training.loop import (
    EpochReport,
    TrainOptions,
    accuracy,
    cosine_with_restarts,
    cycle_lengths,
    one_thread,
    predict,
    train,
)

import bitexport
from bitexport.errors import BitexportError, InputError, RuntimeFailure, UnsupportedModel
from bitexport.models.wide_resnet import WideResNet
from bitexport.runtimes import runtime_named
from training import demo
from training.checkpoints import load_checkpoint, save_checkpoint
from training.data import IMAGE_SHAPE, Batches, Digits, load_digits, random_shift, split_indices


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def tiny_model(*, binarize: bool = True) -> WideResNet:
    torch.manual_seed(0)
    return WideResNet(8, 1, 10, binarize=binarize)


def train_two_epochs(
    digits: Digits, *, seed: int = 0, images: int = 1437
) -> tuple[WideResNet, list[EpochReport]]:
    model = tiny_model()
    batches = Batches(
        digits.train_images[:images],
        digits.train_labels[:images],
        batch_size=64,
        seed=seed,
        augment=random_shift,
    )
    return model, train(model, batches, TrainOptions(epochs=2))


@pytest.fixture(scope="module")
def trained(digits: Digits) -> WideResNet:
    with one_thread():
        return train_two_epochs(digits)[0]


# --- data ---


def test_split_is_disjoint_complete_stratified_and_fixed() -> None:
    labels = np.repeat(np.arange(10), 180)
    train_indices, test_indices = split_indices(labels)

    assert sorted([*train_indices, *test_indices]) == list(range(1800))
    assert np.bincount(labels[test_indices]).tolist() == [36] * 10
    assert np.array_equal(split_indices(labels)[1], test_indices)


def test_digits_are_images_for_the_network(digits: Digits) -> None:
    assert digits.train_images.shape == (1437, *IMAGE_SHAPE)
    assert digits.test_images.shape == (360, *IMAGE_SHAPE)
    for images in (digits.train_images, digits.test_images):
        assert images.dtype == torch.float32
        assert images.min() == -1
        assert images.max() == 1
    counts = digits.test_labels.bincount()
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_no_held_out_image_is_trained_on(digits: Digits) -> None:
    seen = {image.numpy().tobytes() for image in digits.train_images}
    assert not any(image.numpy().tobytes() in seen for image in digits.test_images)


def test_missing_scikit_learn_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(RuntimeFailure, match="pip install 'scikit-learn") as caught:
        load_digits()
    assert caught.value.exit_code == 1


def test_batches_pass_over_every_image_once_in_a_new_order() -> None:
    labels = torch.arange(10)
    batches = Batches(torch.zeros(10, 1, 2, 2), labels, batch_size=4, seed=0)

    first, second = ([part for _, part in batches] for _ in range(2))

    assert [len(part) for part in first] == [4, 4, 2]
    assert len(batches) == 3
    assert sorted(torch.cat(first).tolist()) == labels.tolist()
    assert torch.cat(first).tolist() != torch.cat(second).tolist()


def test_random_shift_moves_each_image_and_fills_with_background() -> None:
    image = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    shifted = random_shift(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    padded = torch.full((5, 5), -1.0)
    padded[1:4, 1:4] = image[0, 0]
    expected = {tuple(padded[y : y + 3, x : x + 3].flatten().tolist()) for y, x in np.ndindex(3, 3)}

    assert {tuple(view.flatten().tolist()) for view in shifted} == expected


# --- loop ---


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, [1]), (2, [2]), (5, [5]), (20, [2, 4, 14]), (30, [2, 4, 8, 16])]
)
def test_cycles_double_and_fill_all_epochs(epochs: int, expected: list[int]) -> None:
    assert cycle_lengths(epochs) == expected


def test_learning_rate_falls_within_a_cycle_and_restarts() -> None:
    options = TrainOptions(epochs=6)
    rates = list(cosine_with_restarts(options, steps_per_epoch=10))

    assert len(rates) == 60
    assert rates[0] == rates[20] == options.learning_rate
    assert rates[:20] == sorted(rates[:20], reverse=True)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert options.min_learning_rate < rates[-1] < 3e-4


def test_two_short_runs_are_equal_bit_for_bit(digits: Digits) -> None:
    (first, reports), (second, again) = (train_two_epochs(digits, images=320) for _ in range(2))

    assert [replace(r, seconds=0) for r in reports] == [replace(r, seconds=0) for r in again]
    states = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in states)
    other, _ = train_two_epochs(digits, images=320, seed=1)
    assert not torch.equal(first.conv0.weight, other.conv0.weight)


def test_training_learns_and_leaves_the_model_ready(digits: Digits, trained: WideResNet) -> None:
    assert not trained.training
    assert accuracy(predict(trained, digits.test_images), digits.test_labels) > 0.5


def test_a_diverged_run_stops(digits: Digits) -> None:
    images = digits.train_images[:64] * float("nan")
    batches = Batches(images, digits.train_labels[:64], batch_size=32, seed=0)
    with pytest.raises(RuntimeFailure, match="diverged in epoch 1"):
        train(tiny_model(), batches, TrainOptions(epochs=2))


def test_no_epochs_are_refused() -> None:
    with pytest.raises(InputError, match="at least one epoch"):
        train(tiny_model(), Batches(*[torch.zeros(1)] * 2, batch_size=1, seed=0), TrainOptions(0))


# --- checkpoint and export ---


def test_checkpoint_exports_without_flags_and_predicts_the_same(
    digits: Digits, trained: WideResNet, tmp_path: Path
) -> None:
    checkpoint, onnx = tmp_path / "digits.pth.tar", tmp_path / "digits.onnx"
    save_checkpoint(checkpoint, trained, epoch=2)

    report = bitexport.export(checkpoint, digits.test_images[:1], onnx)

    assert (report.family, report.arch) == ("wide-resnet", "wrn-8-1")
    assert sum(layer.op == "SignConv" for layer in report.layers) == 6
    expected = predict(trained, digits.test_images).numpy()
    got = runtime_named("ort").load(onnx.read_bytes()).run({"input": digits.test_images.numpy()})
    assert np.array_equal(got["logits"].argmax(axis=1), expected.argmax(axis=1))
    # float32 sums in another order differ by about 1e-6.
    assert np.linalg.norm(got["logits"] - expected) <= 1e-5 * np.linalg.norm(expected)


def test_checkpoint_has_the_upstream_layout(trained: WideResNet, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    save_checkpoint(path, trained.to(memory_format=torch.channels_last), epoch=7)

    saved = torch.load(path, weights_only=True)

    assert saved.keys() == {"state_dict", "epoch"}
    assert saved["epoch"] == 7
    state = saved["state_dict"]
    assert {"conv0", "conv_last", "group0.block0.conv0", "group2.block0.conv1"} <= state.keys()
    assert {"bn_last.weight", "bn.running_mean"} <= state.keys()
    assert not any("conv" in key and key.endswith(".weight") for key in state)
    assert all(value.is_contiguous() for value in state.values())


@pytest.mark.parametrize("binarize", [True, False])
def test_checkpoint_round_trip(tmp_path: Path, binarize: bool) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    model, restored = tiny_model(binarize=binarize), WideResNet(8, 1, 10, binarize=binarize)
    save_checkpoint(path, model, epoch=3)

    assert load_checkpoint(path, restored) == 3
    for key, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[key], value), key


def test_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    save_checkpoint(path, tiny_model(), epoch=1)
    with pytest.raises(UnsupportedModel):
        load_checkpoint(path, WideResNet(14, 1, 10))


def test_a_failed_save_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    save_checkpoint(path, tiny_model(), epoch=1)
    before = path.read_bytes()

    def no_room(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(BitexportError):
        save_checkpoint(path, tiny_model(), epoch=2)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- demo ---


def run_demo(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    return int(ended.value.code or 0)


def test_demo_prints_its_table_and_fails_below_the_accuracy(
    digits: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = replace(
        digits, train_images=digits.train_images[:64], train_labels=digits.train_labels[:64]
    )
    monkeypatch.setattr(demo, "load_digits", lambda: few)

    code = run_demo(monkeypatch, "--epochs", "1", "--out", str(tmp_path / "out"))

    printed = capsys.readouterr()
    assert code == 3
    assert printed.out.count("360 of 360") == 2
    assert printed.err.splitlines()[-1].startswith("error: the 1-bit network predicts too few")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "digits-1bit.onnx",
        "digits-1bit.pth.tar",
        "digits-float32.onnx",
        "digits-float32.pth.tar",
    ]


def test_demo_refuses_a_bad_folder_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run_demo(monkeypatch, "--out", str(tmp_path / "file")) == 2
    assert capsys.readouterr().err.startswith("error: cannot make the folder")
