"""Damaged and forged containers: cut off, flipped, overlapping, lying about sizes."""

from __future__ import annotations

import random
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from forged_checkpoints import (
    Call,
    Storage,
    Tensor,
    pickled,
    refusal,
    sound_file,
    write_legacy,
    write_zip,
)

from bitexport.checkpoint import read_checkpoint
from bitexport.errors import BitexportError

HUGE = 1 << 40
FOUR = struct.pack("<4f", 1, 2, 3, 4)
GOOD_PKL = pickled({"w": Tensor(Storage("0", 4), (4,), (1,))})
CONTAINERS = ("torch zip", "torch legacy", "safetensors")


def test_zip_bomb(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "c.pth", GOOD_PKL, {"0": bytes(100 << 20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "unfold" in refusal(path)


def test_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "c.pth", GOOD_PKL * 40_000, {"0": FOUR}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<L", data, entry + 24, len(GOOD_PKL))
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "archive/../../x", "archive\\..\\x", "C:/x"]
)
def test_zip_names_that_point_outside(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "c.pth", GOOD_PKL, {"0": FOUR})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    assert "out of the archive" in refusal(path)


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/DATA.PKL"])
def test_zip_duplicates(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "c.pth", GOOD_PKL, {"0": FOUR})
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name, pickled(Call(eval, ("1",))))
    assert "twice" in refusal(path)


def test_zip_overlap(tmp_path: Path) -> None:
    """Two directory entries for the same bytes, as in the zip bombs that overlap."""
    path = write_zip(tmp_path / "c.pth", GOOD_PKL, {"0": FOUR, "1": FOUR})
    data = bytearray(path.read_bytes())
    first, second = (
        data.index(b"archive/data/" + k, data.index(b"PK\x01\x02")) for k in (b"0", b"1")
    )
    data[second - 46 + 42 : second] = data[first - 46 + 42 : first]
    data[second + 13] = data[first + 13]
    path.write_bytes(data)
    message = refusal(path)
    assert "overlaps" in message


def test_zip_with_something_behind_or_before_it(tmp_path: Path) -> None:
    data = sound_file(tmp_path / "c.pth", "torch zip").read_bytes()
    for name, changed in {"behind": data + b"x", "comment": data[:-2] + b"\x01\x00x"}.items():
        (tmp_path / name).write_bytes(changed)
        refusal(tmp_path / name)
    # A second archive in front: which one counts depends on the reader.
    (tmp_path / "before").write_bytes(data + data)
    refusal(tmp_path / "before")


@pytest.mark.parametrize("container", CONTAINERS)
def test_truncated_anywhere(tmp_path: Path, container: str) -> None:
    data = sound_file(tmp_path / "sound", container).read_bytes()
    path = tmp_path / "cut.pth"
    for i in range(60):
        path.write_bytes(data[: len(data) * i // 60])
        refusal(path)
    path.write_bytes(data[:-1])
    refusal(path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_flipped_bytes_load_or_are_refused(tmp_path: Path, container: str) -> None:
    data = sound_file(tmp_path / "sound", container).read_bytes()
    path = tmp_path / "flipped.pth"
    seed = 20240229
    print(f"seed {seed}")  # noqa: T201 shown when the test fails
    generator = random.Random(seed)
    refused = 0
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 8))):
            changed[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(changed)
        try:
            checkpoint = read_checkpoint(path)
        except BitexportError:
            refused += 1
        else:
            assert all(tensor.sum() is not None for tensor in checkpoint.tensors().values())
    assert refused > 10


def test_flipped_pickle_bytes(tmp_path: Path) -> None:
    """Flips where they hurt most: in the pickle, of which a file has little."""
    state = {f"layer{i}.weight": Tensor(Storage("0", 4), (2, 2), (2, 1)) for i in range(3)}
    seed = 7
    print(f"seed {seed}")  # noqa: T201 shown when the test fails
    generator = random.Random(seed)
    for write in (write_zip, write_legacy):
        data = pickled(state, legacy=write is write_legacy)
        for i in range(200):
            changed = bytearray(data)
            changed[generator.randrange(len(data))] = generator.randrange(256)
            path = write(tmp_path / f"{i}.pth", bytes(changed), {"0": FOUR})
            try:
                read_checkpoint(path)
            except BitexportError as error:
                assert str(path) in str(error)


def write_safetensors(path: Path, header: bytes, body: bytes = b"", length: int = -1) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length < 0 else length) + header + body)
    return path


ENTRY = '"%s":{"dtype":"F32","shape":[%d],"data_offsets":[%d,%d]}'


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (ENTRY % ("a", 4, 0, 16), HUGE),
        (ENTRY % ("a", 4, 0, 16), (1 << 64) - 1),
        (ENTRY % ("a", 4, 0, 16), 10),
        (ENTRY % ("a", 4, 0, 1 << 40), -1),
        (ENTRY % ("a", 1 << 38, 0, 16), -1),
        (ENTRY % ("a", 4, 16, 0), -1),
        (ENTRY % ("a", 2, 0, 8) + "," + ENTRY % ("b", 3, 4, 16), -1),
        (ENTRY % ("a", 2, 0, 8), -1),
        (ENTRY % ("a", 4, 0, 16) + "," + '"x":' + "[" * 5000, -1),
        ('"__metadata__":{}' + " " * (8 << 20) + "," + ENTRY % ("a", 4, 0, 16), -1),
        ('"a":{"dtype":"F31","shape":[4],"data_offsets":[0,16]}', -1),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: str, length: int) -> None:
    path = tmp_path / "c.safetensors"
    refusal(write_safetensors(path, b"{" + header.encode() + b"}", FOUR, length))
