"""Open an engine that ``bitexport trt`` wrote, with the description beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitexport.engines.prepare import file_record
from bitexport.errors import InputError
from bitexport.runtimes import BuiltEngine, engine_runtime

__all__ = ["EngineFile", "is_engine", "read_engine"]

_SUFFIXES = (".engine", ".plan", ".trt")
_LARGEST_DESCRIPTION = 64 << 20
_REBUILD = "Build the engine with `bitexport trt`, which writes both files."


@dataclass(frozen=True)
class EngineFile:
    """An engine and what its description says of it.

    Attributes:
        engine: The engine, ready for its runtime.
        backend: Name of that runtime.
        precision: "float32" or "float16".
        input_name: Takes float32 [N, C, H, W].
        input_shape: (C, H, W).
        output_name: Gives logits [N, classes].
        batches: Smallest and largest batch that it takes.
        ops: op_types of the layers of its source.
        source: The file that it was built from; None where that is gone, or is another by now.
        source_name: What the source was called.
    """

    engine: BuiltEngine
    backend: str
    precision: str
    input_name: str
    input_shape: tuple[int, int, int]
    output_name: str
    batches: tuple[int, int]
    ops: tuple[str, ...]
    source: Path | None
    source_name: str


def is_engine(path: Path) -> bool:
    """Whether a file is an engine, by its suffix."""
    return path.suffix.lower() in _SUFFIXES


def read_engine(path: Path) -> EngineFile:
    """Read an engine and ``path.json``.

    Raises:
        InputError: One of them cannot be read, or they do not belong together.
    """
    data = _bytes(path)
    beside = path.with_name(f"{path.name}.json")
    text = _bytes(beside, limit=_LARGEST_DESCRIPTION)
    try:
        record = json.loads(text)
        found = _engine_file(path, data, record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{beside}: no description of an engine",
            got=f"{type(error).__name__}: {error}",
            expected="what `bitexport trt` writes beside an engine",
            fix=_REBUILD,
        ) from error
    if record["sha256"] != hashlib.sha256(data).hexdigest():
        raise InputError(
            f"{path}: not the engine that {beside.name} describes",
            got=f"{len(data)} bytes with another SHA-256",
            expected=f"{record['bytes']} bytes with SHA-256 {record['sha256']}",
            fix=_REBUILD,
        )
    return found


def _engine_file(path: Path, data: bytes, record: dict[str, Any]) -> EngineFile:
    _, *shape = record["input"]["shape"]
    channels, height, width = (int(size) for size in shape)
    plugins = [layer["op"] for layer in record["layers"] if layer["plugin"]]
    source = dict(record["source"])
    return EngineFile(
        engine=BuiltEngine(data, _library(record["plugin_library"]), tuple(sorted(set(plugins)))),
        backend=engine_runtime(record["backend"]).name,
        precision=str(record["precision"]),
        input_name=str(record["input"]["name"]),
        input_shape=(channels, height, width),
        output_name=str(record["outputs"][0]),
        batches=(int(record["batch"]["min"]), int(record["batch"]["max"])),
        ops=tuple(str(layer["op"]) for layer in record["layers"]),
        source=_unchanged(path, source),
        source_name=Path(str(source["path"])).name,
    )


def _library(record: dict[str, Any] | None) -> Path | None:
    """The plugin library, which need not be the one that the engine was built with."""
    return None if record is None else Path(str(record["path"]))


def _unchanged(engine: Path, record: dict[str, Any]) -> Path | None:
    """The source, where it was named from, or beside the engine."""
    named = Path(str(record["path"]))
    for path in (named, engine.with_name(named.name)):
        if path.is_file() and path.stat().st_size == record["bytes"] and not is_engine(path):
            found = file_record(path, path.read_bytes())
            if found["sha256"] == record["sha256"]:
                return path
    return None


def _bytes(path: Path, limit: int | None = None) -> bytes:
    try:
        if limit is not None and path.stat().st_size > limit:
            raise InputError(
                f"{path}: too large",
                got=f"{path.stat().st_size} bytes",
                expected=f"at most {limit}",
                fix=_REBUILD,
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read",
            got=error.strerror or error,
            expected="an engine with its description beside it",
            fix=_REBUILD,
        ) from error
