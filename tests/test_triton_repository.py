"""What goes into a model repository for models of every kind of input, and what is taken back."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path

import onnx
import pytest

from bitexport.errors import BitexportError, InputError
from bitexport.serving import RepositoryOptions, server_command, write_repository


def pooling(
    path: Path, batch: int | str = "N", classes: int | str = 3, name: str = "input"
) -> Path:
    """A model that averages each channel."""
    values = [
        onnx.helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, dims)
        for each, dims in ((name, [batch, 3, 8, 8]), ("logits", [batch, classes]))
    ]
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", [name], ["mean"]),
        onnx.helper.make_node("Reshape", ["mean", "shape"], ["logits"]),
    ]
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [0, -1])
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [shape])
    opset = onnx.helper.make_opsetid("", 21)
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset])
    path.write_bytes(model.SerializeToString())
    return path


def config(source: Path, **options: object) -> str:
    repository = source.parent / "repository"
    write_repository([source], repository, RepositoryOptions(**options))  # type: ignore[arg-type]
    return (repository / source.stem / "config.pbtxt").read_text()


def test_a_batch_of_one_is_neither_gathered_nor_warmed_up_twice(tmp_path: Path) -> None:
    text = config(pooling(tmp_path / "m.onnx"), max_batch=1)
    assert "max_batch_size: 1\n" in text
    assert "dynamic_batching" not in text and text.count("model_warmup") == 1


def test_a_fixed_batch_stands_in_every_shape(tmp_path: Path) -> None:
    text = config(pooling(tmp_path / "m.onnx", batch=4))
    assert 'input [ { name: "input" data_type: TYPE_FP32 dims: [ 4, 3, 8, 8 ] } ]' in text
    assert 'output [ { name: "logits" data_type: TYPE_FP32 dims: [ 4, 3 ] } ]' in text
    assert "batch_size: 1 inputs" in text and text.count("dims: [ 4, 3, 8, 8 ]") == 2


def test_classes_that_the_file_leaves_open_are_any(tmp_path: Path) -> None:
    path = pooling(tmp_path / "m.onnx", classes="C")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    onnx.save(model, path)
    assert "dims: [ -1 ] } ]" in config(path)


def test_names_are_quoted(tmp_path: Path) -> None:
    text = config(pooling(tmp_path / "m.onnx", name='in"put\\'))
    assert r'name: "in\"put\\" data_type' in text


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    assert 'backend: "onnxruntime"' in config(pooling(tmp_path / "m.ONNX"))
    (tmp_path / "net.PLAN").write_bytes(b"engine")
    assert 'platform: "tensorrt_plan"' in config(tmp_path / "net.PLAN", plugins=False)


@pytest.mark.parametrize("name", ["-m", ".m", "_m"])
def test_a_name_begins_with_a_letter_or_digit(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no name to serve it under"):
        config(pooling(tmp_path / f"{name}.onnx"))


def test_models_join_those_that_are_there(tmp_path: Path) -> None:
    config(pooling(tmp_path / "a.onnx"))
    config(pooling(tmp_path / "b.onnx"))
    assert sorted(path.name for path in (tmp_path / "repository").iterdir()) == ["a", "b"]


def test_a_link_to_nothing_takes_a_name_too(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "m").symlink_to(tmp_path / "missing")
    with pytest.raises(InputError, match="has a model m already"):
        config(pooling(tmp_path / "m.onnx"))


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.plan").write_bytes(b"engine")
    paths = [pooling(tmp_path / "m.onnx"), tmp_path / "m.plan"]
    with pytest.raises(InputError, match="two models of one name"):
        write_repository(paths, tmp_path / "repository", RepositoryOptions(plugins=False))
    assert not (tmp_path / "repository").exists()


def test_a_rename_that_fails_takes_the_others_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, rename = [pooling(tmp_path / f"{name}.onnx") for name in "abc"], Path.rename

    def fail_at_the_last(self: Path, target: Path) -> Path:
        if target.name == "c":
            raise OSError(errno.ENOSPC, "full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_last)
    with pytest.raises(BitexportError, match="full"):
        write_repository(paths, tmp_path / "repository", RepositoryOptions())
    assert list((tmp_path / "repository").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.onnx",
        "b.onnx",
        "c.onnx",
        "repository",
    ]


def test_models_are_prepared_beside_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename across file systems is no rename."""
    folders: list[Path] = []
    make = tempfile.mkdtemp

    def note(suffix: str | None, prefix: str | None, dir: Path) -> str:  # noqa: A002
        folders.append(dir)
        return make(suffix, prefix, dir)

    monkeypatch.setattr("tempfile.mkdtemp", note)
    config(pooling(tmp_path / "m.onnx"))
    assert folders == [tmp_path]


@pytest.mark.parametrize("text", ["{}", "[]", "5", "no JSON", "[" * 100_000])
def test_a_description_that_says_nothing_is_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "net.engine").write_bytes(b"engine")
    (tmp_path / "net.engine.json").write_text(text)
    assert "tensorrt_plan" in config(tmp_path / "net.engine", plugins=False)


def test_an_engine_of_more_than_2_gib_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "net.engine").open("wb") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(InputError, match="got 2147483649 bytes"):
        config(tmp_path / "net.engine", plugins=False)


def test_a_relative_repository_is_served_from_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libplugins.so"
    library.write_bytes(b"library")
    monkeypatch.setenv("BITEXPORT_PLUGIN_LIBRARY", str(library))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.engine").write_bytes(b"engine")
    options = RepositoryOptions()
    (model,) = write_repository([Path("net.engine")], Path("repo"), options)
    assert model.library == f"{tmp_path}/repo/net/libplugins.so"
    command = server_command(Path("repo"), [model], options)
    assert command == (
        f"tritonserver --model-repository={tmp_path}/repo "
        f"--backend-config=tensorrt,plugins={model.library}"
    )
    assert json.loads(json.dumps(model.notes))[0].startswith("net: no net.onnx beside")
