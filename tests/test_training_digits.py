"""Digits and the demo in miniature, and the checkpoints that training writes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitexport.errors import BitexportError
from bitexport.families import load
from bitexport.models.wide_resnet import WideResNet
from training import demo
from training.checkpoints import Description, save_checkpoint
from training.data import IMAGE_SHAPE, Digits, load_digits, split_indices
from training.datasets import open_data as really_open_data


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


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


# --- checkpoints ---


def tiny_model(*, binarize: bool = True) -> WideResNet:
    torch.manual_seed(0)
    return WideResNet(8, 1, 10, binarize=binarize)


def description(*, binary: bool = True) -> Description:
    return Description("wide-resnet", "wrn-8-1", binary, (3, 16, 16), '{"dataset": "digits"}')


def test_checkpoint_has_the_upstream_layout(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    model: nn.Module = tiny_model()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_checkpoint(path, model, description(), epoch=7)

    saved = torch.load(path, weights_only=True)

    assert saved["epoch"] == 7
    state = saved["state_dict"]
    assert {"conv0", "conv_last", "group0.block0.conv0", "group2.block0.conv1"} <= state.keys()
    assert {"bn_last.weight", "bn.running_mean"} <= state.keys()
    assert not any("conv" in key and key.endswith(".weight") for key in state)
    assert all(value.is_contiguous() for value in state.values())


@pytest.mark.parametrize("binary", [True, False])
def test_checkpoint_says_what_its_keys_do_not(tmp_path: Path, binary: bool) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    model = tiny_model(binarize=binary)
    save_checkpoint(path, model, description(binary=binary), epoch=3)

    loaded = load(path)

    assert (loaded.family, loaded.arch, loaded.notes) == ("wide-resnet", "wrn-8-1", ())
    assert loaded.input_shape == (3, 16, 16)
    assert loaded.preprocessing == '{"dataset": "digits"}'
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[key], value), key
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.module(x), model.eval()(x))


def test_a_failed_save_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    save_checkpoint(path, tiny_model(), description(), epoch=1)
    before = path.read_bytes()

    def no_room(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(BitexportError):
        save_checkpoint(path, tiny_model(), description(), epoch=2)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- demo ---


def run_demo(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    return int(ended.value.code or 0)


def test_demo_prints_its_table_and_fails_below_the_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        demo, "open_data", lambda options: really_open_data(replace(options, limit=64))
    )

    monkeypatch.setenv("PATH", "/nowhere")  # as in a shell in which .venv was not activated

    code = run_demo(monkeypatch, "--epochs", "1", "--out", str(tmp_path / "out"))

    printed = capsys.readouterr()
    assert code == 3
    assert printed.out.count("360 of 360") == 2
    program = Path(printed.out.split(" inspect ")[0].split()[-1])
    assert Path.cwd() / program == Path(sys.executable).with_name("bitexport")
    assert printed.err.splitlines()[-1].startswith("error: the 1-bit network predicts too few")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "1bit",
        "digits-1bit.onnx",
        "digits-float32.onnx",
        "float32",
    ]


def test_demo_refuses_a_bad_folder_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run_demo(monkeypatch, "--out", str(tmp_path / "file")) == 2
    assert capsys.readouterr().err.startswith("error: cannot make the folder")
