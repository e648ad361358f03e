"""``bitexport trt`` with TensorRT-RTX, which builds engines on machines without a GPU."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import (
    WRN_SHAPES,
    Outcome,
    relative_error,
    run,
    run_process,
    save_wrn,
    wrn_state,
)
from family_networks import BINARY, NAMES, export_family

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.rtx

BATCH = ("--min-batch", "1", "--opt-batch", "4", "--max-batch", "8")
KEYS = {
    *("bitexport_version", "backend", "backend_version", "sm", "precision", "bytes", "sha256"),
    *("family", "arch", "input", "outputs", "batch", "plugin_library", "layers", "engine_layers"),
    *("onnx_bytes", "source"),
}
# What TensorRT-RTX adds to the weights of a network of some twenty layers: kernels' descriptions.
OVERHEAD = 8e6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trt")


@pytest.fixture(scope="module")
def wrn(folder: Path) -> Path:
    return export_family("wide-resnet", folder / "wrn.onnx")


def built(*arguments: str | Path) -> dict[str, Any]:
    outcome = run("trt", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def images(path: Path, samples: int = 4) -> dict[str, np.ndarray]:
    (given,) = onnx.load(path).graph.input
    shape = [d.dim_value for d in given.type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(3)
    return {"input": rng.standard_normal((samples, *shape), dtype=np.float32)}


def logits(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], feed)[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_family_builds_in_both_precisions(name: str, tmp_path: Path) -> None:
    model = export_family(name, tmp_path / "model.onnx")
    feed = images(model)
    want = logits(model, feed)
    for option, precision in ((), "float32"), (("--fp16",), "float16"):
        engine, saved = tmp_path / f"{precision}.engine", tmp_path / f"{precision}.onnx"
        record = built(model, "-o", engine, *BATCH, *option, "--save-onnx", saved)
        assert (record["backend"], record["precision"]) == ("tensorrt-rtx", precision)
        assert record["bytes"] == engine.stat().st_size < model.stat().st_size + OVERHEAD
        # What the builder was given computes what the file computes, in standard operators.
        proto = onnx.load(saved)
        onnx.checker.check_model(proto, full_check=True)
        assert {node.domain for node in proto.graph.node} == {""}
        assert not proto.functions
        got = logits(saved, feed)
        assert got.shape == want.shape
        if precision == "float32":
            assert relative_error(got, want) <= 1e-5
        else:
            # Rounding to 11 bits; a sign that flips moves the logits of a small network far.
            assert 1e-6 < relative_error(got, want) < (0.5 if name in BINARY else 1e-2)


def test_float16_of_a_file_is_float16_of_the_export(tmp_path: Path) -> None:
    """Converted afterwards, a network computes what it computes when exported so."""
    late = export_family("wide-resnet", tmp_path / "late.onnx")
    early = export_family("wide-resnet", tmp_path / "early.onnx", float16=True)
    saved = tmp_path / "saved.onnx"
    built(late, "-o", tmp_path / "x.engine", "--fp16", "--save-onnx", saved)
    feed = images(late)
    assert relative_error(logits(saved, feed), logits(early, feed)) < 5e-3
    types = {t.name: t.data_type for t in onnx.load(saved).graph.initializer}
    dense = [n for n in ("conv0.weight", "conv_last.weight") if n in types]
    assert dense and {types[n] for n in dense} == {onnx.TensorProto.FLOAT16}


def test_description(wrn: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    record = built(wrn, "-o", engine, *BATCH)
    beside = json.loads((tmp_path / "model.engine.json").read_text())
    assert set(beside) == KEYS
    assert set(record) == KEYS | {"output", "notes", "seconds"}
    assert {key: record[key] for key in KEYS} == beside
    assert beside["sha256"] == sha256(engine)
    assert beside["source"] == {
        "path": str(wrn),
        "bytes": wrn.stat().st_size,
        "sha256": sha256(wrn),
    }
    assert (beside["family"], beside["arch"]) == ("wide-resnet", "wrn-8-1")
    assert beside["input"] == {"name": "input", "shape": [None, 3, 32, 32]}
    assert beside["outputs"] == ["logits"]
    assert beside["batch"] == {"min": 1, "opt": 4, "max": 8}
    assert beside["plugin_library"] is None
    assert {x["name"]: x["weights"] for x in beside["layers"]} == {
        name: int(np.prod(shape)) for name, shape in WRN_SHAPES.items()
    }
    assert not any(layer["plugin"] for layer in beside["layers"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.engine", "model.engine.json"]


def test_keys_are_documented() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "tensorrt.md").read_text()
    for key in (*KEYS, "output", "notes", "seconds", "trtexec"):
        assert f"| `{key}` |" in page, key


def test_auto_says_what_it_took(wrn: Path, tmp_path: Path) -> None:
    outcome = run("trt", wrn, "-o", tmp_path / "x.engine")
    assert outcome.code == 0
    assert "tensorrt-rtx" in outcome.err and "function bodies" in outcome.err
    for text in ("wrn-8-1", "sm 8.0+", "float32", "1 to 1", "x.engine.json"):
        assert text in outcome.out
    quiet = run("trt", wrn, "-o", tmp_path / "x.engine", "--backend", "tensorrt-rtx")
    assert (quiet.code, quiet.err) == (0, "")


def test_checkpoint_is_exported_first(tmp_path: Path) -> None:
    checkpoint = save_wrn(tmp_path / "wrn.pth.tar")
    engine = tmp_path / "wrn.engine"
    options = ("--input-size", "24x16", "--weights", "binary", "--no-verify", "--fp16")
    record = built(checkpoint, "-o", engine, "--backend", "tensorrt-rtx", *options)
    assert record["input"]["shape"] == [None, 3, 24, 16]
    assert record["precision"] == "float16"
    assert record["source"]["sha256"] == sha256(checkpoint)
    assert {x["op"] for x in record["layers"]} == {"Conv", "SignConv"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "wrn.engine",
        "wrn.engine.json",
        "wrn.pth.tar",
    ]


def test_zeros_of_a_checkpoint_are_treated_as_told(tmp_path: Path) -> None:
    state = wrn_state()
    state["group1.block0.conv0"][0, :2, 0, 0] = 0
    checkpoint = save_wrn(tmp_path / "zeros.pth.tar", state)
    options = (checkpoint, "--backend", "tensorrt-rtx", "--input-size", "16")
    engine = tmp_path / "zeros.engine"
    refused = run("trt", *options, "-o", engine, "--zero-weights", "refuse")
    assert refused.code == 4 and "2 zero weights" in refused.err and not engine.exists()
    counts = {}
    for policy in ("exact", "plus-one"):
        saved = tmp_path / f"{policy}.onnx"
        built(*options, "-o", engine, "--no-verify", "--zero-weights", policy, "--save-onnx", saved)
        counts[policy] = [node.op_type for node in onnx.load(saved).graph.node].count("Conv")
    # A layer that keeps its zeros is the mean of two.
    assert counts["exact"] == counts["plus-one"] + 1


def test_default_name(wrn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert built(wrn)["output"] == "wrn.engine"
    assert {p.name for p in tmp_path.iterdir()} == {"wrn.engine", "wrn.engine.json"}


def test_fixed_batch(wrn: Path, tmp_path: Path) -> None:
    proto = onnx.load(wrn)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    fixed = tmp_path / "fixed.onnx"
    onnx.save(proto, fixed)
    record = built(fixed, "-o", tmp_path / "x.engine", *BATCH)
    assert record["batch"] == {"min": 2, "opt": 2, "max": 2}
    assert any("fixed at 2" in note for note in record["notes"])


def test_functions_of_a_stranger_are_replaced_by_ours(wrn: Path, tmp_path: Path) -> None:
    proto = onnx.load(wrn)
    for function in proto.functions:
        del function.node[:]
        function.node.append(onnx.helper.make_node("Identity", ["X"], ["Y"]))
    foreign, saved = tmp_path / "foreign.onnx", tmp_path / "saved.onnx"
    onnx.save(proto, foreign)
    built(foreign, "-o", tmp_path / "x.engine", "--save-onnx", saved)
    feed = images(wrn)
    assert relative_error(logits(saved, feed), logits(wrn, feed)) <= 1e-5


@pytest.fixture(scope="module")
def processes(wrn: Path, folder: Path) -> list[tuple[Outcome, bytes]]:
    runs = []
    for seed in ("1", "2"):
        arguments = ("trt", wrn, "-o", f"{seed}.engine", "--save-onnx", f"{seed}.onnx", "--json")
        outcome = run_process(*arguments, cwd=folder, PYTHONHASHSEED=seed)
        assert outcome.code == 0, outcome.err
        runs.append((outcome, (folder / f"{seed}.onnx").read_bytes()))
    return runs


def test_json_is_alone_on_stdout_and_the_model_repeats(
    processes: list[tuple[Outcome, bytes]],
) -> None:
    for outcome, _ in processes:
        assert outcome.out.startswith("{") and outcome.json["bytes"] > 0
        assert [line[:6] for line in outcome.err.splitlines()] == ["note: "]
    assert processes[0][1] == processes[1][1]


def test_ctrl_c_while_building_leaves_the_old_files(folder: Path, tmp_path: Path) -> None:
    """The builder is interrupted between two of its steps, in native code."""
    model = export_family("resnet", tmp_path / "model.onnx")
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"older")
    command = [sys.executable, "-u", __file__, model, engine]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted" in err and "Traceback" not in err
    assert engine.read_bytes() == b"older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.engine", "model.onnx"]
    assert time.monotonic() - started < 100


def announce_the_first_step(model: str, engine: str) -> None:
    """As a program: the command line, with a line on stdout once native code is at work."""
    from bitexport.cli import main
    from bitexport.runtimes import engine_build

    make = engine_build._progress_monitor
    told = []

    def announcing(trt: Any, report: Any, interrupted: Any) -> Any:
        def first(*step: object) -> None:
            if not told:
                told.append(step)
                sys.stdout.write("building\n")
                sys.stdout.flush()

        return make(trt, first, interrupted)

    engine_build._progress_monitor = announcing
    sys.argv = ["bitexport", "trt", model, "-o", engine, "--backend", "tensorrt-rtx"]
    main()


if __name__ == "__main__":
    announce_the_first_step(*sys.argv[1:])
