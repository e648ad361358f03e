"""``bitexport bench`` of engines: real ones here, and run on a stand-in for the missing GPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import Outcome, run
from family_networks import export_family

from bitexport import runtimes
from bitexport.bench import cases
from bitexport.runtimes import Availability, BuiltEngine, EngineRuntime, OnnxRuntime, Runner
from bitexport.runtimes.driver import first_gpu

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.rtx

RTX = "tensorrt-rtx"
QUICK = ("--duration", "0", "--no-memory")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    model = export_family("wide-resnet", folder / "net.onnx")
    path = folder / "net.engine"
    batch = ("--min-batch", "2", "--max-batch", "4", "--fp16")
    outcome = run("trt", model, "-o", path, "--backend", RTX, *batch)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def engine(built: Path, tmp_path: Path) -> Path:
    """A float16 engine for batches from 2 to 4, and its source beside it."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    described(lambda record: record["source"].update(path="net.onnx"))(tmp_path / "net.engine")
    return tmp_path / "net.engine"


def benched(*arguments: str | Path) -> dict[str, Any]:
    outcome = run("bench", *arguments, *QUICK, "--json", "-")
    assert outcome.code == 0, outcome.err
    return outcome.json


def test_without_a_gpu_the_report_has_its_size_and_what_is_missing(
    engine: Path, tmp_path: Path
) -> None:
    if first_gpu() is not None:
        pytest.skip("there is a GPU")
    page, text = tmp_path / "report.html", tmp_path / "report.md"
    record = benched(engine, "--html", page, "--markdown", text)
    assert record["runs"] == []
    assert record["sizes"] == {"net.engine": {"engine": engine.stat().st_size}}
    assert len(record["warnings"]) == 1 and "nothing was measured" in record["warnings"][0]
    (skip,) = [s for s in record["skipped"] if s["model"] == "net.engine"]
    assert (skip["runtime"], skip["precision"]) == (RTX, "1-bit weights fp16")
    assert "no GPU" in skip["reason"] and "nvidia-smi" in skip["fix"]
    assert "net.engine: " in text.read_text() and "net.engine" in page.read_text()


class Device:
    """TensorRT-RTX on a device, computed by ONNX Runtime: a model as it is, an engine's source."""

    name = RTX

    def __init__(self, source: Path) -> None:
        self._inner = OnnxRuntime(native=False)
        self._source = source
        self.engines: list[BuiltEngine] = []
        self.largest = 0

    def availability(self) -> Availability:
        return Availability(RTX, True, "a stand-in")

    def load(self, model: bytes, *, threads: int = 0) -> Runner:
        return self._inner.load(model, threads=threads)

    def load_engine(self, engine: BuiltEngine) -> Runner:
        self.engines.append(engine)
        inner = self._inner.load(self._source.read_bytes())

        class Batches:
            def run(_self, inputs: Any) -> Any:  # noqa: N805
                assert 2 <= len(inputs["input"]) <= 4
                return inner.run(inputs)

        return Batches()


@pytest.fixture
def device(engine: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device(engine.with_name("net.onnx"))
    monkeypatch.setattr(runtimes, "ENGINE_RUNTIMES", (found,))
    monkeypatch.setattr(runtimes, "RUNTIMES", (OnnxRuntime(native=False), found))
    monkeypatch.setattr(cases, "RUNTIMES", runtimes.RUNTIMES)
    return found


def test_an_engine_runs_beside_twins_of_its_source(engine: Path, device: Device) -> None:
    record = benched(engine, "--batch", "1,2,8")
    assert device.engines and device.engines[0].data == engine.read_bytes()
    found = {(r["runtime"], r["precision"], r["batch"]): r for r in record["runs"]}
    twins = {(RTX, p, b) for p in ("fp32", "fp16") for b in (1, 2, 8)}
    assert set(found) == twins | {(RTX, "1-bit weights fp16", 2)}
    own = found[RTX, "1-bit weights fp16", 2]
    assert own["subject"] and own["bytes"] == engine.stat().st_size
    assert own["speedup_low"] is not None
    reasons = [s["reason"] for s in record["skipped"] if s["precision"] == own["precision"]]
    assert reasons == [f"batch {b} is outside of its 2 to 4" for b in (1, 8)]


def test_a_builder_is_given_only_what_onnx_finds_sound(
    engine: Path, device: Device, tmp_path: Path
) -> None:
    model = onnx.load(engine.with_name("net.onnx"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "net.onnx")
    outcome = run("bench", tmp_path / "net.onnx", "--runtimes", device.name, "--json", "-")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "not a sound ONNX model" in line


def test_an_engine_whose_source_has_changed_runs_alone(engine: Path, device: Device) -> None:
    source = engine.with_name("net.onnx")
    moved = source.rename(source.with_name("moved.onnx"))
    device._source = moved
    source.write_bytes(moved.read_bytes() + b"\0")
    record = benched(engine, "--batch", "2")
    assert [(r["precision"], r["subject"]) for r in record["runs"]] == [
        ("1-bit weights fp16", True)
    ]
    (skip,) = [s for s in record["skipped"] if s["precision"] == "twins"]
    assert "net.onnx, which it was built from, is gone or has changed" in skip["reason"]


def test_runtimes_that_are_not_the_engine_s_are_no_error(engine: Path, device: Device) -> None:
    record = benched(engine, "--runtimes", "ort")
    assert record["runs"] == [] and not device.engines
    assert [s["reason"] for s in record["skipped"]] == ["not among --runtimes"]


def missing(path: Path) -> None:
    path.with_name("net.engine.json").unlink()


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def described(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        beside = path.with_name("net.engine.json")
        record = json.loads(beside.read_text())
        change(record)
        beside.write_text(json.dumps(record))

    return edit


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (missing, "net.engine.json: cannot be read"),
        (damaged, "not the engine that net.engine.json describes"),
        (described(lambda r: r.pop("batch")), "no description of an engine"),
        (described(lambda r: r.update(input=3)), "no description of an engine"),
        (described(lambda r: r["input"].update(shape=[1, 3])), "no description of an engine"),
        (described(lambda r: r.update(layers=[[1]])), "no description of an engine"),
        (described(lambda r: r.update(backend="openvino")), "unknown library"),
    ],
)
def test_engines_without_a_fitting_description_are_refused(
    engine: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(engine)
    outcome: Outcome = run("bench", engine, *QUICK)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ") and said in outcome.err
    assert outcome.err.count("\n") == 1


def test_every_builder_s_engines_have_a_runtime() -> None:
    assert [runtime.name for runtime in runtimes.ENGINE_RUNTIMES] == [
        builder.name for builder in runtimes.ENGINE_BUILDERS
    ]
    assert all(isinstance(runtime, EngineRuntime) for runtime in runtimes.ENGINE_RUNTIMES)
