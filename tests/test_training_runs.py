"""Whole runs: killed and resumed, on two processes, from the command line."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitexport.errors import InputError, RuntimeFailure
from bitexport.layers import BinaryConv2d
from bitexport.models.resnet import build_resnet
from training import cli
from training.batches import EpochBatches
from training.datasets import DataOptions, ImageData, open_data
from training.recipe import Recipe, load_recipe, recipe_names, with_epochs
from training.schedules import cycle_lengths, learning_rate, make_optimizer
from training.systems import System
from training.trainer import Outcome, RunOptions, train

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def small(name: str = "wrn20-10-1bit", epochs: int = 1) -> Recipe:
    recipe = with_epochs(load_recipe(name, "digits"), epochs)
    return replace(recipe, network=replace(recipe.network, arch="wrn-8-1"), batch_size=32)


def digits(recipe: Recipe, limit: int = 128) -> ImageData:
    shape = recipe.input_shape
    return open_data(DataOptions("digits", Path(), False, shape, recipe.augmentation, limit))


def run(recipe: Recipe, out: Path, limit: int = 128, **options: Any) -> Outcome:
    chosen = RunOptions(out, **{"device": "cpu", "threads": 1, **options})
    return train(recipe, digits(recipe, limit), chosen)


def state(path: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(path / "checkpoint.pth.tar", weights_only=True)
    return dict(saved["state_dict"])


def equal(first: Path, second: Path) -> bool:
    a, b = state(first), state(second)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "log.csv").open() as file:
        return list(csv.DictReader(file))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "training", *arguments]


# --- resuming ---


def test_killed_and_resumed_is_as_never_killed(tmp_path: Path) -> None:
    """kill -9 in the midst of an epoch: at most that epoch is lost, and nothing differs."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = ["train", "--recipe", "xnor-lenet5", "--epochs", "6", "--limit", "256"]
    arguments += ["--batch-size", "32", "--device", "cpu", "--threads", "1", "--deterministic"]
    process = subprocess.Popen(
        command(*arguments, "--out", str(killed)), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (killed / "resume.pt").exists() or len(rows(killed)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = len(rows(killed))
    assert before < 6
    done = torch.load(killed / "resume.pt", weights_only=True)["epoch"]
    assert before - done <= 1

    resumed = subprocess.run(
        command(*arguments, "--out", str(killed), "--resume", "--json"),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
        text=True,
    )
    assert len(json.loads(resumed.stdout)["epochs"]) == 6 - done
    recipe = replace(with_epochs(load_recipe("xnor-lenet5", "digits"), 6), batch_size=32)
    run(recipe, whole, limit=256, deterministic=True)
    assert equal(killed, whole)
    logs = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder)]
        for folder in (killed, whole)
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 6


def test_resuming_between_stages_and_when_done(tmp_path: Path) -> None:
    recipe = with_epochs(load_recipe("birealnet18-clip", "digits"), 1)
    recipe = replace(recipe, network=replace(recipe.network, width=8), batch_size=32)
    stages = [*recipe.stages.items()]
    run(recipe, tmp_path / "whole", limit=64)
    interrupted = tmp_path / "part"

    class Enough(Exception):
        pass

    def stop(*_: object) -> None:
        raise Enough

    with pytest.MonkeyPatch.context() as patch:
        # The third epoch is the third stage's: the run dies as it begins.
        original = learning_rate
        patch.setattr(
            "training.trainer.learning_rate",
            lambda stage, *rest: stop() if stage is stages[2][1] else original(stage, *rest),
        )
        with pytest.raises(Enough):
            run(recipe, interrupted, limit=64)
    assert [row["stage"] for row in rows(interrupted)] == ["clip", "activations"]
    run(recipe, interrupted, limit=64, resume=True)
    assert equal(tmp_path / "whole", interrupted)
    again = run(recipe, interrupted, limit=64, resume=True)
    assert not again.reports and again.test_accuracy > 0


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    run(small(), tmp_path)
    others: tuple[dict[str, Any], ...] = (
        {"seed": 1},
        {"precision": "bfloat16"},
        {"teacher": tmp_path / "teacher.pth"},
        {"start": tmp_path / "checkpoint.pth.tar"},
        {"accumulate": 2},
        {"limit": 96},
    )
    for other in others:
        with pytest.raises(InputError, match="other settings"):
            run(small(), tmp_path, resume=True, **other)
    (tmp_path / "resume.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot resume"):
        run(small(), tmp_path, resume=True)


def test_seeds_decide(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trained = run(small(), tmp_path / name, seed=seed, limit=64)
        # Of an image, in the mean: a guess among ten digits has ln(10).
        assert 1 < trained.reports[0].loss < 5
    assert equal(tmp_path / "a", tmp_path / "b")
    assert not equal(tmp_path / "a", tmp_path / "c")


def test_a_system_hears_of_each_epoch_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its epochs are those of a stage; the order of the images is another in every epoch."""
    recipe = with_epochs(load_recipe("birealnet18-clip", "digits"), 2)
    recipe = replace(recipe, network=replace(recipe.network, width=8), batch_size=32)
    heard: list[tuple[str, int]] = []
    original = EpochBatches.__iter__

    def order(batches: EpochBatches) -> Any:
        heard.append(("order", batches.epoch))
        return original(batches)

    monkeypatch.setattr(EpochBatches, "__iter__", order)
    monkeypatch.setattr(System, "begin_epoch", lambda *args: heard.append(("epoch", args[-1])))
    monkeypatch.setattr(System, "after_step", lambda *_: heard.append(("step", 0)))
    run(recipe, tmp_path, limit=64)
    expected, epochs = [], 0
    for stage in recipe.stages.values():
        binary = stage.weights == "binary"
        expected += [("step", 0)] * binary  # before the first
        for epoch in range(stage.epochs):
            expected += [("epoch", epoch), ("order", epochs), *[("step", 0)] * 2 * binary]
            epochs += 1
    assert heard == expected


# --- precision, processes ---


def test_mixed_precision_trains(tmp_path: Path) -> None:
    exact = run(small(epochs=2), tmp_path / "a", limit=256)
    mixed = run(small(epochs=2), tmp_path / "b", limit=256, precision="bfloat16")
    assert mixed.reports[-1].loss == pytest.approx(exact.reports[-1].loss, rel=0.2)
    assert mixed.reports[-1].loss != exact.reports[-1].loss
    assert {v.dtype for v in state(tmp_path / "b").values()} == {torch.float32, torch.int64}


def test_two_processes_are_as_one(tmp_path: Path) -> None:
    """Two gloo processes, against one that runs the same parts of a batch in turn.

    BatchNorm sees the parts apart in both. Its running statistics are rank 0's, so these differ.
    """
    arguments = ["train", "--recipe", "wrn20-10-float32", "--epochs", "1", "--limit", "64"]
    arguments += ["--batch-size", "32", "--device", "cpu", "--threads", "1", "--seed", "5"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *launcher, "-m", "training", *arguments, "--out", str(tmp_path / "two")],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    recipe = replace(with_epochs(load_recipe("wrn20-10-float32", "digits"), 1), batch_size=32)
    one = run(recipe, tmp_path / "one", limit=64, seed=5, accumulate=2)
    first, second = state(tmp_path / "two"), state(tmp_path / "one")
    assert first.keys() == second.keys()
    for key in first:
        if "running" not in key and "num_batches" not in key:
            # Sums of float32 in another order, over two steps.
            torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-5)
    logged = rows(tmp_path / "two")
    assert len(logged) == 1
    assert float(logged[0]["loss"]) == pytest.approx(one.reports[0].loss, rel=1e-5)
    assert float(logged[0]["accuracy"]) == one.reports[0].accuracy


# --- recipes and schedules ---


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_say_what_the_paper_reports(name: str) -> None:
    paper, tiny = load_recipe(name, None), load_recipe(name, "digits")
    assert paper.paper.startswith("https://arxiv.org/abs/")
    assert paper.reported and all("%" in value for value in paper.reported.values())
    assert tiny.dataset == "digits" and tiny.stages.keys() == paper.stages.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "TOML"),
        ('title = "a"', "no 'paper'"),
        ("unknown = 1", "unknown unknown"),
        ("[stages.x]\noptimizer = 'lion'", "optimizer = 'lion'"),
        ("[stages.x]\nepoch = 3", "epoch in stage x"),
        ("[stages.x]\nepochs = 'many'", "epochs = 'many'"),
    ],
)
def test_a_senseless_recipe_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    base = (ROOT / "training/recipes/xnor-lenet5.toml").read_text()
    whole = text if "title" in text else f"{text}\n{base}" if "unknown" in text else base + text
    path = tmp_path / "own.toml"
    path.write_text(whole)
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, [1]), (2, [2]), (5, [5]), (20, [2, 4, 14]), (30, [2, 4, 8, 16])]
)
def test_cycles_double_and_fill_all_epochs(epochs: int, expected: list[int]) -> None:
    assert cycle_lengths(epochs) == expected


def test_learning_rates_of_the_papers() -> None:
    wrn = load_recipe("wrn20-10-1bit", "cifar100").stages["binary"]
    assert learning_rate(wrn, 0, 0) == learning_rate(wrn, 2, 0) == learning_rate(wrn, 126, 0) == 0.1
    assert learning_rate(wrn, 1, 1) == learning_rate(wrn, 253, 1) == pytest.approx(1e-4)
    bireal = load_recipe("birealnet18", "imagenet").stages["binary"]
    assert learning_rate(bireal, 128, 0.5) == pytest.approx(5e-4)
    nin = load_recipe("xnor-nin", "cifar10").stages["binary"]
    rates = [learning_rate(nin, epoch, 0) for epoch in (119, 120, 200, 240, 280)]
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
    siman = load_recipe("siman-resnet20", "cifar10").stages["binary"]
    assert learning_rate(siman, 0, 0) == pytest.approx(0.02)
    assert learning_rate(siman, 5, 0) == pytest.approx(0.1)
    assert learning_rate(siman, 399, 0) < 1e-4


@pytest.mark.parametrize(("name", "latents"), [("siman-resnet20", 0), ("rbnn-resnet20", 1e-4)])
def test_the_penalty_of_the_latent_weights_is_the_recipes(name: str, latents: float) -> None:
    recipe = load_recipe(name, "cifar10")
    stage = recipe.stages["binary"]
    conv = BinaryConv2d(3, 4, 3)
    norm = nn.BatchNorm2d(4)
    optimizer = make_optimizer(nn.Sequential(conv, norm), stage)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == {id(p) for p in (*conv.parameters(), *norm.parameters())}
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    assert found[id(conv.weight)]["weight_decay"] == latents
    assert {found[id(p)]["weight_decay"] for p in norm.parameters()} == {stage.weight_decay}


# --- errors ---


def test_a_diverged_run_stops(tmp_path: Path) -> None:
    recipe = small()
    stage = replace(recipe.stages["binary"], learning_rate=1e30)
    with pytest.raises(RuntimeFailure, match="diverged in epoch 1"):
        run(replace(recipe, stages={"binary": stage}), tmp_path)


def test_fine_tuning_starts_from_a_checkpoint_of_the_same_network(tmp_path: Path) -> None:
    first = run(small(epochs=3), tmp_path / "a", limit=256)
    tuned = run(small(), tmp_path / "b", limit=256, start=first.checkpoint)
    assert tuned.reports[0].loss < first.reports[0].loss
    lenet = with_epochs(load_recipe("xnor-lenet5", "digits"), 1)
    with pytest.raises(InputError, match="cannot start from"):
        run(lenet, tmp_path / "c", start=first.checkpoint)


def test_a_teacher_of_other_images_is_refused(tmp_path: Path) -> None:
    teacher = run(small(), tmp_path / "teacher", limit=32).checkpoint
    with pytest.raises(InputError, match="teaches other images"):
        run(load_recipe("reactnet18", "digits"), tmp_path / "student", teacher=teacher)


def outcome_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "nothing"], "no recipe nothing"),
        (["train", "--recipe", "reactnet18"], "learns from a teacher"),
        (["train", "--recipe", "wrn20-10-1bit", "--dataset", "cifar100"], "--download"),
        (["train", "--recipe", "wrn20-10-1bit", "--precision", "float16"], "does not train on a"),
        (["train", "--recipe", "wrn20-10-1bit", "--batch-size", "9", "--accumulate", "2"], "parts"),
        (["evaluate", "nothing.pth"], "nothing.pth"),
        (["quantize", "--model", "resnet18", "--blocks", "tiny"], "small or large"),
        (["quantize", "--model", "vgg16"], "resnet18"),
        (["quantise"], "wrong usage"),
        (["train", "--recipe", "own/nothing"], "no recipe own/nothing (got No such file"),
        (["train", "--recipe", "./binary"], "makes no sense (got "),
        (["train", "--recipe", "wrn20-10-1bit", "--teacher", "t.pth"], "learns from no teacher"),
        (["train", "--recipe", "wrn20-10-1bit", "--out", "binary"], "cannot make the folder"),
        (["quantize", "--out", "binary/folder"], "cannot make the folder"),
    ],
)
def test_errors_are_one_line_with_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(bytes(range(256)))
    assert outcome_of(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err
    assert len(printed.err.splitlines()) == 1 and printed.err.startswith("error: ")


def test_a_model_that_the_checkpoint_is_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "real.pth"
    torch.save(build_resnet("resnet18", 10).state_dict(), path)
    arguments = ("quantize", "--model", "resnet34", "--checkpoint", str(path))
    assert outcome_of(monkeypatch, *arguments) == 2
    assert "(got --model resnet34, expected resnet18). Leave --model out" in capsys.readouterr().err


def test_command_line_trains_and_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--recipe", "xnor-lenet5", "--epochs", "2", "--limit", "256", "--json"]
    assert outcome_of(monkeypatch, *arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["checkpoint"] == "runs/xnor-lenet5-digits/checkpoint.pth.tar"
    assert "reported" in record and len(record["epochs"]) == 2
    assert outcome_of(monkeypatch, "evaluate", record["checkpoint"], "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == record["test_accuracy"]
    assert outcome_of(monkeypatch, "evaluate", record["checkpoint"]) == 0
    assert "lenet5 (xnor-net)" in capsys.readouterr().out


def test_nothing_to_resume_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--recipe", "xnor-lenet5", "--epochs", "1", "--limit", "64"]
    note = "note: nothing to resume in mistyped; starting from the first epoch\n"
    for noted in (True, False):
        assert outcome_of(monkeypatch, *arguments, "--out", "mistyped", "--resume") == 0
        assert (note in capsys.readouterr().err) == noted
