"""Checkpoints that torch.save would never write, byte by byte, and how they are refused."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bitexport.checkpoint import read_checkpoint
from bitexport.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Storage:
    """A float32 storage as a pickle describes it, whatever the file holds."""

    key: str
    numel: int
    device: str = "cpu"


@dataclass(frozen=True)
class Tensor:
    """A tensor as a pickle describes it."""

    storage: Storage
    shape: Sequence[int]
    strides: Sequence[int]
    offset: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        args = (self.storage, self.offset, tuple(self.shape), tuple(self.strides))
        return torch._utils._rebuild_tensor_v2, (*args, False, OrderedDict())


@dataclass(frozen=True)
class Call:
    """Makes the pickle call ``function(*args)``."""

    function: Any
    args: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def pickled(value: object, *, legacy: bool = False, protocol: int = 2) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            if not isinstance(obj, Storage):
                return None
            tag = ("storage", torch.FloatStorage, obj.key, obj.device, obj.numel)
            return (*tag, None) if legacy else tag

    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def write_zip(
    path: Path,
    data_pkl: bytes,
    storages: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/byteorder", b"little")
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return path


def write_legacy(path: Path, root: bytes, storages: Mapping[str, bytes] | None = None) -> Path:
    storages = storages or {}
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps({}, 2), root]
    parts.append(pickle.dumps(list(storages), 2))
    for content in storages.values():
        parts += [struct.pack("<q", len(content) // 4), content]
    path.write_bytes(b"".join(parts))
    return path


def sound_file(path: Path, container: str) -> Path:
    """A small real checkpoint in the given container."""
    torch.manual_seed(0)
    state = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).state_dict()
    if container == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization="zip" in container)
    return path


def refusal(path: Path) -> str:
    """The one line that the file is refused with."""
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert len(message) < 1500
    return message
