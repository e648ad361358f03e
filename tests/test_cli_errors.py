"""How commands fail: the exit code, one line on stderr, nothing on stdout, nothing left behind."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from command_line import (
    CLASSES,
    Outcome,
    codebook_state,
    packed_state,
    run,
    run_process,
    save_codebooks,
    save_wrn,
    wrn_state,
)
from forged_checkpoints import Call, pickled, write_legacy, write_zip
from rich.console import Console

from bitexport.cli import output as output_module

# error: WHAT (got X, expected Y). DO THIS.
ERROR = re.compile(r"error: \S.* \(got \S.*, expected \S.*\)\. [A-Z`].*\.\n")


def assert_failure(outcome: Outcome, code: int, *texts: str) -> None:
    """One line of the contract's form that holds the texts, and nothing else."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert ERROR.fullmatch(outcome.err), outcome.err
    assert outcome.err.removesuffix("\n").isprintable()
    assert "Traceback" not in outcome.err
    assert "internal error" not in outcome.err
    for text in texts:
        assert text in outcome.err


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below the folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where an export goes; an older export lies there."""
    path = tmp_path / "out" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"an older export")
    return path


def fails(
    code: int, *texts: str, source: Path, output: Path, options: tuple[str, ...] = ()
) -> None:
    """The export fails so, and every file is as it was."""
    folder = source.parent
    before = contents(folder)
    outcome = run("onnx", source, "-o", output, "--input-size", "16", *options)
    assert contents(folder) == before
    assert_failure(outcome, code, *texts)


@pytest.fixture(scope="module")
def wrn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wrn(tmp_path_factory.mktemp("errors") / "checkpoint.pth.tar")


@pytest.fixture
def checkpoint(wrn: Path, tmp_path: Path) -> Path:
    """A sound checkpoint beside the output."""
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(wrn.read_bytes())
    return path


class Unreadable:
    """Makers of files that are unreadable, damaged or hostile; each returns the path to give."""

    @staticmethod
    def missing(path: Path) -> Path:
        return path

    @staticmethod
    def no_such_folder(path: Path) -> Path:
        return path / "deeper" / "checkpoint.pth"

    @staticmethod
    def name_too_long(path: Path) -> Path:
        return path.with_name("x" * 300 + ".pth")

    @staticmethod
    def directory(path: Path) -> Path:
        path.mkdir()
        return path

    @staticmethod
    def empty(path: Path) -> Path:
        path.touch()
        return path

    @staticmethod
    def pipe(path: Path) -> Path:
        os.mkfifo(path)
        return path

    @staticmethod
    def text(path: Path) -> Path:
        path.write_text("hello\n")
        return path

    @staticmethod
    def truncated_zip(path: Path) -> Path:
        save_wrn(path)
        path.write_bytes(path.read_bytes()[:-1000])
        return path

    @staticmethod
    def half_a_zip(path: Path) -> Path:
        save_wrn(path)
        path.write_bytes(path.read_bytes()[:20_000])
        return path

    @staticmethod
    def truncated_legacy(path: Path) -> Path:
        torch.save(wrn_state(), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-1000])
        return path

    @staticmethod
    def truncated_safetensors(path: Path) -> Path:
        safetensors.torch.save_file(wrn_state(), path)
        path.write_bytes(path.read_bytes()[:-1000])
        return path

    @staticmethod
    def whole_model(path: Path) -> Path:
        torch.save(torch.nn.Linear(2, 2), path)
        return path


MAKERS = [name for name in vars(Unreadable) if not name.startswith("_")]


@pytest.mark.parametrize("maker", MAKERS)
def test_unreadable_input(maker: str, tmp_path: Path, output: Path) -> None:
    make: Callable[[Path], Path] = getattr(Unreadable, maker)
    fails(2, source=make(tmp_path / "checkpoint.pth"), output=output)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_unreadable_input_of_other_commands(
    maker: str, command: str, tmp_path: Path, output: Path
) -> None:
    make: Callable[[Path], Path] = getattr(Unreadable, maker)
    suffix = ".pth" if command == "inspect" else ".onnx"
    source = make(tmp_path / f"file{suffix}")
    before = contents(tmp_path)
    outcome = run(command, source, *(["--runtime", "reference"] if command == "verify" else []))
    assert contents(tmp_path) == before
    assert_failure(outcome, 2)


@pytest.mark.parametrize("container", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("command", ["onnx", "inspect"])
def test_pickled_code_does_not_run(
    container: str, command: str, tmp_path: Path, output: Path
) -> None:
    trap = tmp_path / "trap"
    source = tmp_path / "checkpoint.pth"
    attack = {"state_dict": Call(os.system, (f"touch {trap}",))}
    if container == "zip":
        write_zip(source, pickled(attack))
    elif container == "legacy":
        write_legacy(source, pickled(attack, legacy=True))
    else:
        source.write_bytes(pickle.dumps(attack))
    outcome = run(command, source, *(["-o", output] if command == "onnx" else []))
    assert not trap.exists()
    assert_failure(outcome, 2, str(source))
    assert output.read_bytes() == b"an older export"


def wrn_with(key: str, value: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = wrn_state()
    if value is None:
        del state[key]
    else:
        state[key] = value
    return state


def filled(key: str, value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The tensor of that key with one element replaced."""
    tensor = wrn_state()[key].to(dtype).clone()
    tensor.view(-1)[3] = value
    return tensor


SIGN = "group1.block0.conv0"
# What stands in the file under a key, and what the line must say.
WRONG_WRN: dict[str, tuple[str, torch.Tensor | None, tuple[str, ...]]] = {
    "missing conv": (SIGN, None, (SIGN,)),
    "missing statistics": ("bn.running_var", None, ("bn.running_var",)),
    "unknown key": ("group1.block0.fc.weight", torch.ones(2), ("group1.block0.fc.weight",)),
    "wrong shape": (SIGN, torch.ones(32, 16, 1, 1), (SIGN, "[32, 16, 1, 1]", "[32, 16, 3, 3]")),
    "NaN sign weight": (SIGN, filled(SIGN, float("nan")), (SIGN, "1 NaN")),
    "NaN dense weight": ("conv0", filled("conv0", float("nan")), ("conv0", "1 NaN")),
    "inf mean": ("bn.running_mean", filled("bn.running_mean", float("inf")), ("bn.running_mean",)),
    "inf variance": ("bn.running_var", filled("bn.running_var", float("inf")), ("bn.running_var",)),
    "inf gamma": ("bn_last.weight", filled("bn_last.weight", -float("inf")), ("bn_last.weight",)),
    "inf once in float32": (
        "bn.running_mean",
        filled("bn.running_mean", 1e300, torch.float64),
        ("bn.running_mean",),
    ),
    "negative variance": ("bn.running_var", filled("bn.running_var", -1), ("bn.running_var",)),
    "complex weight": ("conv_last", wrn_state()["conv_last"] * 1j, ("conv_last",)),
    "stem without dimensions": ("conv0", torch.tensor(1.0), ("conv0",)),
    "stem of two dimensions": ("conv0", torch.ones(16, 27), ("conv0",)),
    "stem without channels": ("conv0", torch.ones(0, 3, 3, 3), ()),
    "head without dimensions": ("conv_last", torch.tensor(1.0), ("conv_last",)),
    "packed weight of one dimension": (SIGN, torch.ones(4, dtype=torch.uint8), (SIGN,)),
    "packed weight too short": (SIGN, torch.ones(32, 1, 3, 3, dtype=torch.uint8), (SIGN,)),
}


@pytest.mark.parametrize(("key", "value", "texts"), WRONG_WRN.values(), ids=WRONG_WRN)
def test_wrong_wide_resnet(
    key: str, value: torch.Tensor | None, texts: tuple[str, ...], tmp_path: Path, output: Path
) -> None:
    source = save_wrn(tmp_path / "checkpoint.pth", wrn_with(key, value))
    fails(4, *texts, source=source, output=output)


@pytest.mark.parametrize("group", [0, 1, 2])
def test_wide_resnet_without_a_group(group: int, tmp_path: Path, output: Path) -> None:
    state = {k: v for k, v in wrn_state().items() if not k.startswith(f"group{group}")}
    source = save_wrn(tmp_path / "checkpoint.pth", state)
    fails(4, source=source, output=output)


@pytest.mark.parametrize("claim", ["depth", "width"])
def test_a_small_file_cannot_ask_for_a_huge_model(claim: str, tmp_path: Path, output: Path) -> None:
    """The architecture is checked against the tensors before memory is taken for it."""
    if claim == "depth":
        state = wrn_with("group0.block99999999.conv0", torch.ones(16, 16, 3, 3))
    else:
        state = wrn_with("conv0", torch.ones(16 << 12, 3, 1, 1))
    source = save_wrn(tmp_path / "checkpoint.pth", state)

    # Taking the memory first would end with 1: the network that is asked for has terabytes.
    fails(4, source=source, output=output)


LAYER = "layer2.1.conv1"
CODES = 128 * 128
WRONG_CODEBOOKS: dict[str, tuple[str, dict[str, Any] | None, tuple[str, ...]]] = {
    "code past the codebook": (
        LAYER,
        {"assignments": torch.full((CODES,), 16, dtype=torch.uint8)},
        (LAYER, "16..16", "0..15"),
    ),
    "negative code": (
        LAYER,
        {"assignments": torch.full((CODES,), -1, dtype=torch.int16)},
        (LAYER, "-1..-1"),
    ),
    "wrong n_blocks": (LAYER, {"n_blocks": 64}, (LAYER, "n_blocks 64", "128 blocks")),
    "n_blocks of several numbers": (LAYER, {"n_blocks": torch.tensor([128, 128])}, (LAYER,)),
    "too few codes": (
        LAYER,
        {"assignments": torch.zeros(8, dtype=torch.uint8)},
        (LAYER, "8 codes"),
    ),
    "codes of a filter side by side": (
        LAYER,
        {"assignments": torch.zeros(128, CODES // 128, dtype=torch.uint8)},
        (LAYER, "[128, 128]", f"[{CODES}]"),
    ),
    "no codes": (LAYER, {"assignments": torch.zeros(0, dtype=torch.uint8)}, (LAYER,)),
    "codes that are no integers": (LAYER, {"assignments": torch.full((CODES,), 0.5)}, (LAYER,)),
    "codebook of one dimension": (LAYER, {"centroids": torch.ones(9).half()}, (LAYER, "[9]")),
    "empty codebook": (LAYER, {"centroids": torch.ones(0, 9).half()}, (LAYER, "[0, 9]")),
    "wrong block length": (LAYER, {"centroids": torch.ones(16, 7).half()}, (LAYER, "[16, 7]")),
    "NaN in the codebook": (
        LAYER,
        {"centroids": torch.full((16, 9), float("nan")).half()},
        (LAYER, "NaN"),
    ),
    "codebook beyond float16": (LAYER, {"centroids": torch.full((16, 9), 1e6)}, (LAYER, "float16")),
    "no codebook": (LAYER, {"centroids": None}, (LAYER, "centroids")),
    "NaN in a BatchNorm": ("bn1", {"weight": torch.full((64,), float("nan")).half()}, ("bn1",)),
    "missing BatchNorm": ("layer3.0.bn2", None, ("layer3.0.bn2",)),
    "unknown layer": ("layer3.0.conv3x3", {"weight": torch.ones(3)}, ("layer3.0.conv3x3",)),
    "classes without dimensions": ("fc_bias", {"bias": torch.tensor(1.0)}, ("fc_bias",)),
    "other number of classes": ("fc_bias", {"bias": torch.ones(CLASSES + 1)}, ("fc",)),
    "no classes": ("fc_bias", {"bias": torch.ones(0)}, ("fc",)),
}


@pytest.mark.parametrize(("name", "fields", "texts"), WRONG_CODEBOOKS.values(), ids=WRONG_CODEBOOKS)
def test_wrong_codebooks(
    name: str,
    fields: dict[str, Any] | None,
    texts: tuple[str, ...],
    tmp_path: Path,
    output: Path,
) -> None:
    state = codebook_state()
    merged = {**state.pop(name, {}), **(fields or {})}
    if fields is not None:
        state[name] = {key: value for key, value in merged.items() if value is not None}
    source = save_codebooks(tmp_path / "checkpoint.pth", state)
    fails(4, *texts, source=source, output=output)


@pytest.mark.parametrize(
    "root",
    [
        {"layer.weight": torch.ones(3, 3), "layer.bias": torch.ones(3)},
        {"state_dict": torch.nn.Conv2d(3, 3, 3).state_dict()},
        {"epoch": 3},
        {},
        [torch.ones(3)],
        torch.ones(3),
    ],
    ids=["linear", "conv", "no tensors", "nothing", "list", "tensor"],
)
def test_state_dict_of_something_else(root: object, tmp_path: Path, output: Path) -> None:
    source = tmp_path / "checkpoint.pth"
    torch.save(root, source)
    fails(4, str(source), source=source, output=output)


@pytest.mark.parametrize(
    ("options", "code", "texts"),
    [
        (("--family", "nonsense"), 2, ("unknown family", "nonsense", "kill-the-bits")),
        (("--family", "kill-the-bits"), 4, ("kill-the-bits",)),
        (("--arch", "nonsense"), 4, ("nonsense", "wrn-")),
        (("--arch", "wrn-14-1"), 4, ("group0.block1",)),
        (("--arch", "wrn-8-2"), 4, ("shape",)),
        (("--arch", "wrn-2-1"), 4, ("wrn-2-1",)),
        (("--arch", "wrn-8-0"), 4, ("wrn-8-0",)),
        (("--activations", "binary"), 4, ("--activations binary",)),
        (("--input-size", "0"), 2, ("--input-size", "got 0")),
        (("--input-size", "32x0"), 2, ("--input-size",)),
        (("--input-size", "32x"), 2, ("--input-size",)),
        (("--input-size", "x32"), 2, ("--input-size",)),
        (("--input-size", "32x32x3"), 2, ("--input-size",)),
        (("--input-size", "-32"), 2, ("--input-size",)),
        (("--input-size", "3.5"), 2, ("--input-size",)),
        (("--input-size", "big"), 2, ("--input-size", "big")),
        (("--input-size", "123456789"), 2, ("--input-size",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_wrong_options(
    options: tuple[str, ...], code: int, texts: tuple[str, ...], checkpoint: Path, output: Path
) -> None:
    fails(code, *texts, source=checkpoint, output=output, options=options)


def test_the_advice_after_a_wrong_family_is_not_to_name_a_family(
    checkpoint: Path, output: Path
) -> None:
    outcome = run("onnx", checkpoint, "-o", output, "--family", "kill-the-bits")
    assert "Name the family with --family" not in outcome.err


def test_packed_weights_are_not_float(tmp_path: Path, output: Path) -> None:
    source = save_wrn(tmp_path / "packed.pth", packed_state())
    fails(4, "--weights float", source=source, output=output, options=("--weights", "float"))


class TestOutput:
    """Output paths that cannot be written to are refused before anything is read."""

    def test_missing_folder(self, checkpoint: Path) -> None:
        output = checkpoint.parent / "missing" / "model.onnx"
        fails(2, str(output), "missing", source=checkpoint, output=output)

    def test_folder_that_is_a_file(self, checkpoint: Path) -> None:
        fails(2, source=checkpoint, output=checkpoint / "model.onnx")

    def test_directory(self, checkpoint: Path) -> None:
        output = checkpoint.parent / "model.onnx"
        output.mkdir()
        fails(2, "directory", source=checkpoint, output=output)

    def test_empty_name(self, checkpoint: Path) -> None:
        assert_failure(run("onnx", checkpoint, "-o", ""), 2)

    def test_name_too_long(self, checkpoint: Path) -> None:
        fails(2, source=checkpoint, output=checkpoint.with_name("x" * 300 + ".onnx"))

    def test_input_itself(self, checkpoint: Path) -> None:
        fails(2, "the input file itself", source=checkpoint, output=checkpoint)

    def test_symlink_to_the_input(self, checkpoint: Path) -> None:
        output = checkpoint.with_name("link.onnx")
        output.symlink_to(checkpoint)
        fails(2, "the input file itself", source=checkpoint, output=output)
        assert output.is_symlink()

    def test_hard_link_to_the_input(self, checkpoint: Path) -> None:
        output = checkpoint.with_name("link.onnx")
        output.hardlink_to(checkpoint)
        fails(2, "the input file itself", source=checkpoint, output=output)

    def test_full_disk(
        self, checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("os.fsync", full)
        options = ("--no-verify",)
        fails(1, "No space left", source=checkpoint, output=output, options=options)


class TestFailures:
    """What goes wrong in the midst of an export."""

    def fail_with(
        self, problem: type[BaseException] | BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> Outcome:
        def export(*_: object, **__: object) -> None:
            raise problem

        monkeypatch.setattr("bitexport.exporter.export", export)
        return run("onnx", "checkpoint.pth", "-o", "model.onnx")

    def test_out_of_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert_failure(self.fail_with(MemoryError, monkeypatch), 1, "out of memory")

    def test_torch_out_of_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 60, dtype=torch.int8)
        assert_failure(self.fail_with(caught.value, monkeypatch), 1, "memory")

    def test_interrupt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert_failure(self.fail_with(KeyboardInterrupt, monkeypatch), 130, "interrupted")

    def test_bug(self, monkeypatch: pytest.MonkeyPatch) -> None:
        outcome = self.fail_with(ZeroDivisionError("two\nlines"), monkeypatch)
        assert outcome.code == 1
        assert ERROR.fullmatch(outcome.err), outcome.err
        assert "ZeroDivisionError: two lines" in outcome.err
        assert "--debug" in outcome.err

    def test_wrong_export_is_not_written(
        self, checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A comparison that fails ends with 3 and leaves the old file alone."""
        from bitexport import exporter

        right = exporter.reference_run

        def wrong(*args: Any) -> Any:
            run = right(*args)
            return replace(run, outputs={name: 2 * x for name, x in run.outputs.items()})

        monkeypatch.setattr(exporter, "reference_run", wrong)
        fails(3, "differs from the torch reference", source=checkpoint, output=output)


def test_json_changes_nothing_about_errors(checkpoint: Path, output: Path) -> None:
    fails(2, source=checkpoint.with_name("none"), output=output, options=("--json",))


def test_control_characters_of_a_name_stay_off_the_terminal(tmp_path: Path) -> None:
    assert_failure(run("onnx", tmp_path / "a\nb\x1b[31m.pth", "-o", tmp_path / "o.onnx"), 2)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text(checkpoint: Path, tmp_path: Path) -> None:
    names = [tmp_path / os.fsdecode(b"\xff" + end) for end in (b".onnx", b".html", b".pth")]
    for command in (
        ("onnx", checkpoint, "-o", names[0], "--no-verify"),
        ("inspect", names[0], "--html", names[1]),
        ("pack", checkpoint, "-o", names[2]),
    ):
        outcome = run(*command)
        assert outcome.code == 0, outcome.err
        outcome.out.encode()
    assert all(name.stat().st_size for name in names)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_recording_that_is_a_pipe(checkpoint: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    model = checkpoint.with_suffix(".onnx")
    outcome = run("verify", model, checkpoint, "--inputs", tmp_path / "pipe.npz")
    assert_failure(outcome, 2)
    assert "no regular file" in outcome.err


def test_control_characters_of_a_key_stay_off_the_terminal(tmp_path: Path) -> None:
    torch.save({"\x1b[31mred": torch.ones(2)}, tmp_path / "c.pth")
    outcome = run("onnx", tmp_path / "c.pth", "-o", tmp_path / "o.onnx")
    assert_failure(outcome, 4)
    assert "\x1b" not in outcome.err


def test_a_title_on_a_terminal_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(force_terminal=True, file=io.StringIO(), width=80)
    monkeypatch.setattr(output_module, "_stderr", terminal)
    with output_module.progress("exporting [/bold].pth"):
        pass
    assert "[/bold].pth" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_names_of_weights_stay_off_the_terminal(tmp_path: Path, output: Path) -> None:
    """They may hold escape codes, or be of any length."""
    path = tmp_path / "named.pth"
    torch.save({"\x1b[2J\x00": torch.ones(1), "a" * 100_000: torch.ones(1)}, path)
    outcome = run("onnx", path, "-o", output)
    assert_failure(outcome, 4, "\\x1b[2J\\x00")
    assert outcome.err[:-1].isprintable()
    assert len(outcome.err) < 2000


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    outcome = run("onnx", tmp_path / "none.pth", "-o", tmp_path / "model.onnx", "--debug")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Traceback")
    assert "InputError" in outcome.err
    assert ERROR.fullmatch(outcome.err.splitlines(keepends=True)[-1])


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """No part of torch or Python adds a line."""
    source = save_wrn(tmp_path / "checkpoint.pth", wrn_with(SIGN, filled(SIGN, float("nan"))))
    before = contents(tmp_path)
    assert_failure(run_process("onnx", source, cwd=tmp_path), 4, SIGN)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nonsense",), "nonsense"),
        (("onnx", "x.pth", "--nonsense"), "--nonsense"),
        (("onnx", "--json"), "CKPT"),
        (("onnx", "x.pth", "-o"), "-o"),
        (("onnx", "x.pth", "y.pth"), "y.pth"),
        (("onnx", "x.pth", "--weights", "ternary"), "ternary"),
        (("onnx", "x.pth", "--zero-weights", "minus-one"), "minus-one"),
        (("verify", "x.onnx", "--rel-l2", "small"), "--rel-l2"),
        (("verify", "x.onnx", "--rel-l2", "-1"), "--rel-l2"),
        (("verify", "x.onnx", "--top1", "2"), "--top1"),
        (("inspect", "--json"), "FILE"),
        (("doctor", "surplus"), "surplus"),
    ],
    ids=str,
)
def test_usage(arguments: tuple[str, ...], named: str) -> None:
    """The command line's library words these itself; the contract's one line would be better."""
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert named in outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) <= 8


@pytest.mark.parametrize("arguments", [("--help",), ("onnx", "-h"), ("--version",)])
def test_help_is_no_error(arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out
