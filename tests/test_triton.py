"""``bitexport triton``: the repository, and its configs by Triton's own schema."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path
from types import ModuleType

import onnx
import onnxruntime
import pytest
from command_line import export_kind, logits, random_images, run
from google.protobuf import text_format

from bitexport.serving import RepositoryOptions, write_repository


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's model_config_pb2, without the gRPC client around it."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("no tritonclient: pip install tritonclient")
    path = Path(package.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_kind(tmp_path_factory.mktemp("model"), "trained").output


def parsed(schema: ModuleType, folder: Path):
    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def test_onnx_model(schema: ModuleType, model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    options = ["--max-batch", "8", "--queue-delay", "250", "--instances", "2", "--threads", "3"]
    outcome = run("triton", model, "-o", repository, *options, "--json")
    config = parsed(schema, repository / "trained")
    assert (config.name, config.backend, config.max_batch_size) == ("trained", "onnxruntime", 8)
    (given,), (got,) = config.input, config.output
    assert (given.name, list(given.dims), given.data_type) == (
        "input",
        [3, 32, 32],
        schema.TYPE_FP32,
    )
    assert (got.name, list(got.dims), got.data_type) == ("logits", [10], schema.TYPE_FP32)
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, schema.ModelInstanceGroup.KIND_CPU)
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert [w.batch_size for w in config.model_warmup] == [1, 8]
    for warm_up in config.model_warmup:
        assert list(warm_up.inputs["input"].dims) == [3, 32, 32]
        assert warm_up.inputs["input"].random_data
    assert (repository / "trained" / "1" / "model.onnx").read_bytes() == model.read_bytes()
    words = shlex.split(outcome.json["command"])
    assert words == ["tritonserver", f"--model-repository={repository}"]


def test_the_library_in_the_config_runs_the_model(
    schema: ModuleType, model: Path, tmp_path: Path
) -> None:
    """What the server does with the config: register the library, open the model."""
    run("triton", model, "-o", tmp_path / "repo")
    (library,) = parsed(schema, tmp_path / "repo" / "trained").model_operations.op_library_filename
    assert Path(library).is_absolute()
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "repo" / "trained" / "1" / "model.onnx"), options
    )
    images = random_images(2, 32, 32)
    got = session.run(["logits"], {"input": images})[0]
    assert abs(got - logits(model, images)).max() < 1e-3


def test_paths_are_the_servers(schema: ModuleType, model: Path, tmp_path: Path) -> None:
    outcome = run("triton", model, "-o", tmp_path / "repo", "--served-from", "/my models/", "--gpu")
    config = parsed(schema, tmp_path / "repo" / "trained")
    (library,) = config.model_operations.op_library_filename
    assert library == "/my models/trained/libbitexport_ort.so"
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert not config.parameters
    assert "tritonserver '--model-repository=/my models/'" in outcome.out


def test_plain_models_need_no_library_and_fixed_batches_no_batching(
    schema: ModuleType, model: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.onnx"
    checkpoint = model.with_name("trained.pth.tar")
    assert run("onnx", checkpoint, "-o", plain, "--input-size", "32", "--plain").code == 0
    proto = onnx.load(plain)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(proto, tmp_path / "four.onnx")
    outcome = run("triton", plain, tmp_path / "four.onnx", "-o", tmp_path / "repo")
    assert outcome.code == 0, outcome.err
    config = parsed(schema, tmp_path / "repo" / "plain")
    assert not config.model_operations.op_library_filename
    fixed = parsed(schema, tmp_path / "repo" / "four")
    assert fixed.max_batch_size == 0 and not fixed.HasField("dynamic_batching")
    assert list(fixed.input[0].dims) == [4, 3, 32, 32]
    assert sorted(p.name for p in (tmp_path / "repo" / "plain").iterdir()) == ["1", "config.pbtxt"]


def test_engine(
    schema: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libbitexport_trt.so"
    library.write_bytes(b"library")
    monkeypatch.setenv("BITEXPORT_PLUGIN_LIBRARY", str(library))
    engine = tmp_path / "net.engine"
    engine.write_bytes(b"engine")
    arguments = ["--served-from", "/models", "--max-batch", "16"]
    bare = run("triton", engine, "-o", tmp_path / "bare", *arguments)
    assert "no net.onnx beside the engine" in bare.err
    config = parsed(schema, tmp_path / "bare" / "net")
    assert not config.input and not config.model_warmup
    engine.with_suffix(".onnx").write_bytes(model.read_bytes())
    outcome = run("triton", engine, "-o", tmp_path / "repo", *arguments)
    config = parsed(schema, tmp_path / "repo" / "net")
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 16)
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert list(config.input[0].dims) == [3, 32, 32] and len(config.model_warmup) == 2
    assert (tmp_path / "repo" / "net" / "1" / "model.plan").read_bytes() == b"engine"
    assert (tmp_path / "repo" / "net" / library.name).read_bytes() == b"library"
    flag = "--backend-config=tensorrt,plugins=/models/net/libbitexport_trt.so"
    assert flag in shlex.split(outcome.out.splitlines()[-1])
    beside = tmp_path / "net.engine.json"
    beside.write_text(json.dumps({"backend": "tensorrt-rtx"}))
    other = run("triton", engine, "-o", tmp_path / "other", *arguments)
    assert other.code == 2 and "got one of tensorrt-rtx" in other.err
    assert not (tmp_path / "other").exists()
    beside.write_text(json.dumps({"backend": "tensorrt"}))
    assert run("triton", engine, "-o", tmp_path / "other", *arguments).code == 0
    beside.write_text("no JSON")
    library.unlink()
    assert run("triton", engine, "-o", tmp_path / "none").code == 1
    assert not (tmp_path / "none").exists()
    assert run("triton", engine, "-o", tmp_path / "none", "--no-plugins").code == 0
    assert "plugins" not in (tmp_path / "none" / "net" / "config.pbtxt").read_text()


def test_all_or_nothing(model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    outcome = run("triton", model, damaged, "-o", repository)
    assert outcome.code == 2 and "not an ONNX model" in outcome.err
    assert not repository.exists() and [p.name for p in tmp_path.iterdir()] == [damaged.name]
    write_repository([model], repository, RepositoryOptions())
    before = {p: p.stat().st_mtime_ns for p in repository.rglob("*")}
    outcome = run("triton", model, "-o", repository)
    assert outcome.code == 2 and "already" in outcome.err
    assert {p: p.stat().st_mtime_ns for p in repository.rglob("*")} == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("net.pth", b"x", "not a model that Triton serves"),
        ("empty.engine", b"", "not an engine"),
        ("a b.onnx", b"x", "no name"),
        ("missing.onnx", None, "no such file"),
    ],
)
def test_refusals(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    outcome = run("triton", path, "-o", tmp_path / "repo", "--no-plugins")
    assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "repo").exists()


def test_places_and_names(model: Path, tmp_path: Path) -> None:
    assert run("triton", model, "-o", tmp_path / "no" / "folder").code == 2
    assert run("triton", model, model, "-o", tmp_path / "repo").code == 2
    (tmp_path / "file").write_text("")
    assert run("triton", model, "-o", tmp_path / "file").code == 2
