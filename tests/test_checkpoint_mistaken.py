"""Files that are no checkpoint at all: each is refused by its proper name."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from forged_checkpoints import MAGIC, refusal, sound_file

from bitexport.checkpoint import read_checkpoint
from bitexport.errors import InputError


def _onnx_model() -> bytes:
    graph = onnx.helper.make_graph([], "empty", [], [])
    return onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    return stream.getvalue()


def _zip_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


WRONG_KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "ONNX": ("an ONNX model", _onnx_model),
    "TFLite": ("TFLite", lambda: b"\x1c\x00\x00\x00TFL3" + bytes(64)),
    "HDF5": (r"HDF5 \(Keras\)", lambda: b"\x89HDF\r\n\x1a\n" + bytes(64)),
    "keras": ("Keras", lambda: _zip_of("metadata.json", "config.json", "model.weights.h5")),
    "npy": (r"\.npy", lambda: b"\x93NUMPY\x01\x00" + bytes(64)),
    "npz": (r"\.npz", _npz),
    "TorchScript": ("TorchScript", lambda: _zip_of("m/data.pkl", "m/constants.pkl", "m/code/x.py")),
    "torch.export": (r"\.pt2", lambda: _zip_of("m/archive_format", "m/models/model.json")),
    "zipped": ("unpack it", lambda: _zip_of("weights/resnet18.pth")),
    "empty zip": ("zip directory is empty", _zip_of),
    "tar": ("tar archive", _tar),
    "gzip": ("compressed file", lambda: gzip.compress(b"x" * 100)),
    "git-lfs": (
        "git lfs pull",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    ),
    "HTML": ("an HTML page", lambda: b"\n<!DOCTYPE html><html><head>"),
    "engine": ("TensorRT engine", lambda: b"ftrt" + bytes(64)),
    "engine of TensorRT-RTX": ("TensorRT engine", lambda: b"vtrt" + bytes(64)),
    "text": ("unknown content", lambda: b"hello, world\n"),
    "one byte": ("unknown content", lambda: b"\x00"),
    "zeros": ("unknown content", lambda: bytes(100)),
    "start of a pickle": ("", lambda: b"\x80"),
    "magic number alone": ("", lambda: pickle.dumps(MAGIC, 2)),
    "nothing": ("is empty", lambda: b""),
}


@pytest.mark.parametrize(("expected", "content"), WRONG_KINDS.values(), ids=WRONG_KINDS)
def test_wrong_kinds_of_files(tmp_path: Path, expected: str, content: Callable[[], bytes]) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(content())
    assert re.search(expected, refusal(path))


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_torchscript_file(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "c.pt")
    assert "TorchScript" in refusal(tmp_path / "c.pt")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.pth")
    assert "a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "pipe" in refusal(tmp_path / "fifo")
    assert "device" in refusal(Path("/dev/zero"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refusal(tmp_path / "loop")
    with pytest.raises(InputError, match="too long"):
        read_checkpoint(tmp_path / ("long" * 1000))
    with pytest.raises(InputError):
        read_checkpoint("nul\0byte")


def test_unreadable_file(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read any file")
    path = sound_file(tmp_path / "c.pth", "torch zip")
    path.chmod(0)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize("how", ["replaced", "written over"])
def test_file_that_changes_while_it_is_read(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sound_file(tmp_path / "c.pth", "torch zip")
    load = torch.load

    def swap(*args: Any, **kwargs: Any) -> object:
        root = load(*args, **kwargs)
        if how == "replaced":
            sound_file(tmp_path / "other.pth", "torch zip").replace(path)
        else:
            path.write_bytes(path.read_bytes())
        return root

    monkeypatch.setattr(torch, "load", swap)
    assert "changed while it was read" in refusal(path)
