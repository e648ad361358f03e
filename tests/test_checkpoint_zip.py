"""Zip files that other readers may take for something else, one field or record at a time."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from forged_checkpoints import (
    Storage,
    Tensor,
    pickled,
    refusal,
    write_legacy,
    write_zip,
)

from bitexport.checkpoint import read_checkpoint

FOUR = struct.pack("<4f", 1, 2, 3, 4)
STATE = {"w": Tensor(Storage("0", 4), (4,), (1,))}
GOOD_PKL = pickled(STATE)


class Zip:
    """The bytes of a sound file, and where its directory says what."""

    def __init__(self, path: Path, compression: int = zipfile.ZIP_STORED) -> None:
        self.path = write_zip(path, GOOD_PKL, {"0": FOUR}, compression)
        self.data = bytearray(self.path.read_bytes())
        self.end = len(self.data) - 22

    def entry(self, name: str) -> int:
        """Offset of a directory entry."""
        return self.data.index(name.encode(), self.data.index(b"PK\x01\x02")) - 46

    def add(self, form: str, at: int, more: int) -> None:
        """Raise a little-endian number."""
        (value,) = struct.unpack_from(form, self.data, at)
        struct.pack_into(form, self.data, at, value + more)

    def rename(self, new: bytes) -> None:
        """Another name of the same length for ``archive/version``, in both places."""
        assert self.data.count(b"archive/version") == 2
        self.data[:] = self.data.replace(b"archive/version", new)

    def refusal(self) -> str:
        self.path.write_bytes(self.data)
        return refusal(self.path)


@pytest.fixture
def sound(tmp_path: Path) -> Zip:
    sound = Zip(tmp_path / "c.pth")
    assert read_checkpoint(sound.path).tensor("w").tolist() == [1, 2, 3, 4]
    return sound


LAST = "archive/version"
FIELDS: dict[str, tuple[Callable[[Zip], None], str]] = {
    "comment": (lambda z: z.add("<H", z.end + 20, 1), "does not end in a zip directory"),
    "one record more": (lambda z: z.add("<H", z.end + 10, 1), "does not add up"),
    "one record less": (lambda z: z.add("<H", z.end + 10, -1), "does not add up"),
    "longer entry": (lambda z: z.add("<H", z.entry(LAST) + 32, 5), "does not add up"),
    "shorter directory": (lambda z: z.add("<L", z.end + 12, -1), "not where it should be"),
    "no entry": (lambda z: z.add("<H", z.entry(LAST) + 2, 1), "garbled"),
    "encrypted": (lambda z: z.add("<H", z.entry(LAST) + 8, 1), "unusual way"),
    "bzip2": (lambda z: z.add("<H", z.entry(LAST) + 10, 12), "unusual way"),
    "another disk": (lambda z: z.add("<H", z.entry(LAST) + 34, 1), "unusual way"),
    "outside": (lambda z: z.add("<L", z.entry(LAST) + 42, 1 << 30), "garbled"),
    "in the directory": (
        lambda z: z.add("<L", z.entry(LAST) + 42, 100),
        "is not where the zip directory says",
    ),
    "other name": (
        lambda z: z.data.__setitem__(z.data.index(LAST.encode()), ord("b")),
        "is not where the zip directory says",
    ),
    "more content": (
        lambda z: [z.add("<L", z.entry(LAST) + at, 1000) for at in (20, 24)] and None,
        "bytes that the file lacks",
    ),
    "unpacked size": (lambda z: z.add("<L", z.entry(LAST) + 24, 1), "bytes that the file lacks"),
    "NUL in a name": (lambda z: z.rename(b"archive/ve\0sion"), "out of the archive"),
    "name in no code": (lambda z: z.rename(b"archive/versi\xff."), "garbled"),
}


@pytest.mark.parametrize(("change", "why"), FIELDS.values(), ids=FIELDS)
def test_a_field_that_lies(sound: Zip, change: Callable[[Zip], None], why: str) -> None:
    change(sound)
    assert why in sound.refusal()


@pytest.mark.parametrize("broken", ["locator", "directory"])
def test_a_64_bit_directory_that_is_none(sound: Zip, broken: str) -> None:
    end, count = sound.end, sound.data.count(b"PK\x01\x02")
    (size, offset) = struct.unpack_from("<2L", sound.data, end + 12)
    wide = (b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    wide_end = struct.pack("<4sQ2H2L4Q", *wide)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    sound.data[end:end] = wide_end + locator
    sound.path.write_bytes(sound.data)
    assert read_checkpoint(sound.path).tensor("w").tolist() == [1, 2, 3, 4]
    sound.add("<B", end + 3 if broken == "directory" else end + 56 + 8, 1)
    assert "zip64 directory is garbled" in sound.refusal()


def test_comments_of_records_are_passed_over(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "c.pth", GOOD_PKL, {"0": FOUR})
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("archive/note")
        info.comment = b"a remark"
        archive.writestr(info, b"")
        archive.writestr("archive/behind", b"")
    assert read_checkpoint(path).tensor("w").tolist() == [1, 2, 3, 4]


def test_a_record_within_anothers_content(tmp_path: Path) -> None:
    """Whoever reads the file from its start finds other records than the directory has."""
    inner = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 16, 16, 14, 0)
    content = inner + b"archive/data/0" + FOUR
    state = {"v": Tensor(Storage("1", 4), (4,), (1,))} | STATE
    path = write_zip(tmp_path / "c.pth", pickled(state), {"1": content, "0": FOUR})
    data = bytearray(path.read_bytes())
    start = data.index(inner)
    entry = data.index(b"archive/data/0", data.index(b"PK\x01\x02")) - 46
    struct.pack_into("<L", data, entry + 42, start)
    path.write_bytes(data)
    assert "overlaps" in refusal(path)


def test_a_record_beside_the_folder(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "c.pth", GOOD_PKL, {"0": FOUR})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("elsewhere/x", b"")
    assert "none that torch.save wrote" in refusal(path)


def test_a_storage_one_byte_short(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "c.pth", GOOD_PKL, {"0": FOUR[:-1]})
    assert "claims more than the file holds" in refusal(path)


@pytest.mark.parametrize("more", [1, -1])
def test_a_pickle_that_unpacks_to_another_size(tmp_path: Path, more: int) -> None:
    zipped = Zip(tmp_path / "c.pth", zipfile.ZIP_DEFLATED)
    zipped.add("<L", zipped.entry("archive/data.pkl") + 24, more)
    assert "does not unpack to its size" in zipped.refusal()


def test_a_pickle_that_does_not_unpack(tmp_path: Path) -> None:
    zipped = Zip(tmp_path / "c.pth", zipfile.ZIP_DEFLATED)
    zipped.data[zipped.data.index(b"archive/data.pkl") + 16] = 0xFF
    assert "cannot be unpacked" in zipped.refusal()


def test_many_small_bombs_count_together(tmp_path: Path) -> None:
    content = bytes((1 << 20) - 100)
    storages = {"0": FOUR, "1": content, "2": content}
    path = write_zip(tmp_path / "c.pth", GOOD_PKL, storages, zipfile.ZIP_DEFLATED)
    assert "unfold to more than the file" in refusal(path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_protocol_that_cannot_be_read_safely(tmp_path: Path, write: Callable[..., Path]) -> None:
    data = pickled(STATE, legacy=write is write_legacy, protocol=4)
    message = refusal(write(tmp_path / "c.pth", data, {"0": FOUR}))
    assert re.search("pickle protocol that cannot be read safely.*protocol 4", message)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["m/data.pkl", "m/code/__torch__.py"], "TorchScript"),
        (["m/data.pkl", "m/constants.pkl"], "TorchScript"),
        (["a.npy", "b.npy"], "NumPy archive"),
        (["a/", "a/b.npy"], "NumPy archive"),
        (["a.npy", "b.txt"], "the files a.npy, b.txt"),
        (["m/archive_format"], "torch.export"),
        (["m/archive_version"], "torch.export"),
        (["config.json"], "Keras"),
        (["model.weights.h5"], "Keras"),
    ],
)
def test_other_kinds_of_zip_are_named(tmp_path: Path, names: list[str], kind: str) -> None:
    path = tmp_path / "model"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    assert kind in refusal(path)
