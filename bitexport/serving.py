"""A model repository for NVIDIA Triton Inference Server: files in their places, and their configs.

    REPO/NAME/config.pbtxt           what Triton reads
    REPO/NAME/1/model.onnx           or model.plan, for an engine
    REPO/NAME/libbitexport_ort.so    or libbitexport_trt.so: what the model's own ops need

Triton opens the op library by the path in the config, so that path must hold where the server
runs: ``served_from`` says where it sees the repository.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitexport.errors import InputError
from bitexport.files import write_failure
from bitexport.graph.read import Classifier, read_classifier
from bitexport.runtimes import op_library_path, plugin_library_path

__all__ = ["RepositoryOptions", "ServedModel", "server_command", "write_repository"]

_ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
_LARGEST = 2 << 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RepositoryOptions:
    """How the models are served; the fields are the options of ``bitexport triton``.

    Attributes:
        max_batch: Most images a run; Triton gathers requests up to it.
        queue_delay_us: How long a request may wait for others, in microseconds.
        instances: Copies of a model on the CPU, or on each GPU.
        gpu: Run .onnx models on the GPU; engines always do.
        threads: Threads inside an operator, for each copy on the CPU.
        served_from: Path of the repository as the server sees it; None for its own path.
        plugins: Ship the TensorRT plugin library with engines.
    """

    max_batch: int = 32
    queue_delay_us: int = 500
    instances: int = 1
    gpu: bool = False
    threads: int = 1
    served_from: str | None = None
    plugins: bool = True


@dataclass(frozen=True)
class ServedModel:
    """A model in the repository.

    Attributes:
        name: Under which it is served.
        backend: "onnxruntime" or "tensorrt".
        library: Path, as the server sees it, of the library that it needs; "" for none.
        notes: What the server has to find out by itself.
    """

    name: str
    backend: str
    library: str = ""
    notes: tuple[str, ...] = ()


def write_repository(
    paths: Sequence[Path], repository: Path, options: RepositoryOptions
) -> list[ServedModel]:
    """Write the models into a repository, all or none; models that are in it already stay.

    Args:
        paths: .onnx files, and engines that TensorRT wrote. An .onnx of the same name beside an
            engine tells its input.
        repository: A folder; made if it is not there.
        options: See :class:`RepositoryOptions`.

    Raises:
        InputError: A file cannot be read or its name served, or the repository has such a model.
        RuntimeFailure: A library is missing, or the disk is full.
    """
    names = [_name(path) for path in paths]
    if len(set(names)) < len(names):
        raise InputError(
            "two models of one name",
            got=", ".join(names),
            expected="a name of its own for each",
            fix="Rename one of the files.",
        )
    for name in names:
        if os.path.lexists(repository / name):
            raise InputError(
                f"{repository} has a model {name} already",
                got="a file or folder of that name",
                expected="a new name",
                fix="Remove it, or name another --output.",
            )
    try:
        with tempfile.TemporaryDirectory(
            prefix=".bitexport-", suffix=".part", dir=repository.absolute().parent
        ) as stage:
            models = [
                _stage(path, name, Path(stage, name), repository, options)
                for path, name in zip(paths, names, strict=True)
            ]
            repository.mkdir(exist_ok=True)
            _move(Path(stage), repository, names)
    except OSError as error:
        raise write_failure(repository, error) from error
    return models


def server_command(
    repository: Path, models: Sequence[ServedModel], options: RepositoryOptions
) -> str:
    """The ``tritonserver`` line for a repository."""
    place = options.served_from or str(repository.absolute())
    words = ["tritonserver", f"--model-repository={place}"]
    plugins = [m.library for m in models if m.backend == "tensorrt" and m.library]
    if plugins:
        words.append(f"--backend-config=tensorrt,plugins={plugins[0]}")
    return shlex.join(words)


def _name(path: Path) -> str:
    """The file's name without its suffix, as Triton and its clients can spell it in a URL."""
    if not _NAME.fullmatch(path.stem):
        raise InputError(
            f"{path}: no name to serve it under",
            got=path.stem,
            expected="letters, digits, dots, dashes and underscores",
            fix="Rename the file.",
        )
    return path.stem


def _stage(
    path: Path, name: str, folder: Path, repository: Path, options: RepositoryOptions
) -> ServedModel:
    """Write one model into a folder of its own, off the repository."""
    (folder / "1").mkdir(parents=True)
    place = options.served_from or str(repository.absolute())
    if path.suffix.lower() in _ENGINE_SUFFIXES:
        _refuse_other_library(path)
        library = plugin_library_path() if options.plugins else None
        (folder / "1" / "model.plan").write_bytes(_engine(path))
        source = path.with_suffix(".onnx")
        classifier = read_classifier(source) if source.is_file() else None
        backend = "tensorrt"
    elif path.suffix.lower() == ".onnx":
        classifier = read_classifier(path)
        library = op_library_path() if classifier.own_ops else None
        (folder / "1" / "model.onnx").write_bytes(classifier.data)
        backend = "onnxruntime"
    else:
        raise InputError(
            f"{path}: not a model that Triton serves",
            got=path.suffix or "no suffix",
            expected=f".onnx or {', '.join(_ENGINE_SUFFIXES)}",
            fix="Export it first: bitexport onnx CKPT.",
        )
    served = ""
    if library is not None:
        shutil.copyfile(library, folder / library.name)
        served = f"{place.rstrip('/')}/{name}/{library.name}"
    config = _config(name, backend, classifier, served, options)
    (folder / "config.pbtxt").write_text(config)
    notes: tuple[str, ...] = ()
    if classifier is None:
        notes = (
            f"{name}: no {path.stem}.onnx beside the engine; Triton reads the inputs from the "
            "engine, and the model is not warmed up",
        )
    return ServedModel(name, backend, served, notes)


def _engine(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if path.is_file() and size <= _LARGEST else b""
    except OSError as error:
        raise _no_engine(path, error.strerror) from error
    if not data:
        raise _no_engine(path, f"{size} bytes")
    return data


def _refuse_other_library(engine: Path) -> None:
    """Triton loads TensorRT's engines only; a description beside an engine says whose it is."""
    try:
        backend = json.loads(engine.with_name(f"{engine.name}.json").read_bytes())["backend"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if backend != "tensorrt":
        raise InputError(
            f"{engine}: an engine that Triton cannot load",
            got=f"one of {backend}",
            expected="one of tensorrt",
            fix="Build it with `bitexport trt --backend tensorrt`, or serve the .onnx file.",
        )


def _no_engine(path: Path, got: object) -> InputError:
    return InputError(
        f"{path}: not an engine",
        got=got,
        expected="a file below 2 GiB that TensorRT wrote",
        fix="Build it with `bitexport trt`.",
    )


def _move(stage: Path, repository: Path, names: Sequence[str]) -> None:
    """Rename all models into the repository; take them back if one cannot be moved."""
    moved: list[str] = []
    try:
        for name in names:
            (stage / name).rename(repository / name)
            moved.append(name)
    except OSError:
        for name in moved:
            (repository / name).rename(stage / name)
        raise


def _config(
    name: str,
    backend: str,
    classifier: Classifier | None,
    library: str,
    options: RepositoryOptions,
) -> str:
    """A ModelConfig of Triton in protobuf's text format."""
    fixed = None if classifier is None else classifier.fixed_batch
    batch = options.max_batch if fixed is None else 0
    engine = backend == "tensorrt"
    how = 'platform: "tensorrt_plan"' if engine else f"backend: {_text(backend)}"
    lines = [f"name: {_text(name)}", how, f"max_batch_size: {batch}"]
    if classifier is not None:
        leading = [] if fixed is None else [fixed]
        inputs = [*leading, *classifier.input_shape]
        outputs = [*leading, classifier.classes or -1]
        lines.append(_tensor("input", classifier.input_name, inputs))
        lines.append(_tensor("output", classifier.output_name, outputs))
    kind = "KIND_GPU" if engine or options.gpu else "KIND_CPU"
    lines.append(f"instance_group [ {{ count: {options.instances} kind: {kind} }} ]")
    if batch > 1:
        lines.append(
            f"dynamic_batching {{ max_queue_delay_microseconds: {options.queue_delay_us} }}"
        )
    if classifier is not None:
        shape = list(classifier.input_shape)
        sizes = [1, batch] if batch > 1 else [1]
        lines += [
            _warm_up(classifier.input_name, size, shape if fixed is None else [fixed, *shape])
            for size in sizes
        ]
    if not engine:
        if kind == "KIND_CPU":
            lines += [_parameter("intra_op_thread_count", options.threads)]
        if library:
            lines.append(f"model_operations {{ op_library_filename: {_text(library)} }}")
    return "\n".join(lines) + "\n"


def _tensor(field: str, name: str, dims: Sequence[int]) -> str:
    listed = ", ".join(map(str, dims))
    return f"{field} [ {{ name: {_text(name)} data_type: TYPE_FP32 dims: [ {listed} ] }} ]"


def _warm_up(name: str, batch: int, dims: Sequence[int]) -> str:
    listed = ", ".join(map(str, dims))
    value = f"{{ data_type: TYPE_FP32 dims: [ {listed} ] random_data: true }}"
    return (
        f'model_warmup [ {{ name: "batch of {batch}" batch_size: {batch} '
        f"inputs {{ key: {_text(name)} value {value} }} }} ]"
    )


def _parameter(key: str, value: int) -> str:
    return f'parameters {{ key: {_text(key)} value {{ string_value: "{value}" }} }}'


def _text(value: str) -> str:
    """A string literal; JSON's escapes are among those of protobuf's text format."""
    return json.dumps(value)
