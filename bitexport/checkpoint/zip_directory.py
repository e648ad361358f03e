"""The directory of a zip file, read strictly: it must describe the file exactly.

torch writes one record after another, uncompressed, the directory behind them and nothing
after it. Zip readers differ in what they make of anything else, and such differences are how
one content gets vetted and another one loaded; so anything else is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from bitexport.checkpoint.file_bytes import FileBytes
from bitexport.checkpoint.refusal import refuse, shown
from bitexport.errors import InputError

__all__ = ["STORED", "Record", "damaged_zip", "read_directory"]

_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_UINT32 = 0xFFFFFFFF
_ZIP64_TAG = 1
STORED, _DEFLATED = 0, 8


@dataclass(frozen=True)
class Record:
    """One file in the archive.

    Attributes:
        name: Full name, e.g. ``archive/data.pkl``.
        start: Offset of its local header in the file, in bytes.
        data: Offset of its content.
        stored: Bytes of its content in the file.
        size: Bytes of its content once unpacked.
        method: Zip compression method; 0 is none.
    """

    name: str
    start: int
    data: int
    stored: int
    size: int
    method: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind its content."""
        return self.data + self.stored


def read_directory(path: Path, data: FileBytes) -> list[Record]:
    """All records, in the order of the directory; at least one.

    Raises:
        InputError: The directory or a record is damaged, or a name points out of the archive.
    """
    try:
        return _read_directory(path, data)
    except (struct.error, UnicodeDecodeError) as error:
        raise damaged_zip(path, "its zip directory is garbled") from error


def _read_directory(path: Path, data: FileBytes) -> list[Record]:
    count, offset, end = _find_directory(path, data)
    records: list[Record] = []
    at = offset
    while at < end:
        record, at = _read_entry(path, data, at, offset)
        records.append(record)
    if at != end or len(records) != count:
        raise damaged_zip(path, "its zip directory does not add up")
    if not records:
        raise damaged_zip(path, "its zip directory is empty")
    return records


def _find_directory(path: Path, data: FileBytes) -> tuple[int, int, int]:
    """(number of records, offset of the directory, offset of its end)."""
    last = len(data) - _END.size
    if last < 0:
        raise damaged_zip(path, "it is cut off")
    magic, *_, count, size, offset, comment = _END.unpack(data[last:])
    end = last
    if magic != b"PK\x05\x06" or comment:
        raise damaged_zip(path, "it does not end in a zip directory; it is cut off")
    locator = last - _LOCATOR64.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        _, _, end, _ = _LOCATOR64.unpack(data[locator : locator + _LOCATOR64.size])
        if end + _END64.size != locator:
            raise damaged_zip(path, "its zip64 directory is garbled")
        magic, *_, count, size, offset = _END64.unpack(data[end : end + _END64.size])
        if magic != b"PK\x06\x06":
            raise damaged_zip(path, "its zip64 directory is garbled")
    if offset + size != end:
        raise damaged_zip(path, "its zip directory is not where it should be")
    return count, offset, end


class _Entry(NamedTuple):
    """The fixed part of a directory entry, as the zip format lays it out."""

    magic: bytes
    made_by: int
    needs: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    stored: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    start: int


def _read_entry(path: Path, data: FileBytes, at: int, limit: int) -> tuple[Record, int]:
    """The record described at ``at``, whose content must end before ``limit``; and the next."""
    entry = _Entry(*_ENTRY.unpack(data[at : at + _ENTRY.size]))
    if entry.magic != b"PK\x01\x02":
        raise damaged_zip(path, "its zip directory is garbled")
    extra_at = at + _ENTRY.size + entry.name_length
    comment_at = extra_at + entry.extra_length
    raw_name = data[at + _ENTRY.size : extra_at]
    size, stored, start = _widen(data[extra_at:comment_at], entry)
    name = _safe_name(path, raw_name)
    if entry.flags & 1 or entry.disk or entry.method not in (STORED, _DEFLATED):
        raise refuse(
            path,
            f"record {shown(name)} is encrypted or packed in an unusual way",
            got=f"flags {entry.flags:#x}, method {entry.method}",
            expected="a stored record",
            fix="Save the checkpoint again with torch.save.",
        )
    magic, *_, name_length, extra_length = _LOCAL.unpack(data[start : start + _LOCAL.size])
    name_end = start + _LOCAL.size + name_length
    if magic != b"PK\x03\x04" or data[start + _LOCAL.size : name_end] != raw_name:
        raise damaged_zip(path, f"record {shown(name)} is not where the zip directory says")
    content = name_end + extra_length
    if content + stored > limit or (entry.method == STORED and stored != size):
        raise damaged_zip(path, f"record {shown(name)} claims {size} bytes that the file lacks")
    record = Record(name, start, content, stored, size, entry.method)
    return record, comment_at + entry.comment_length


def _widen(extra: bytes, entry: _Entry) -> tuple[int, int, int]:
    """(size, stored, start), with those that 32 bits cannot hold from the zip64 extra field."""
    values = [entry.size, entry.stored, entry.start]
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if tag == _ZIP64_TAG:
            wide = struct.iter_unpack("<Q", extra[at : at + length // 8 * 8])
            for i, value in enumerate(values):
                if value == _UINT32:
                    values[i] = next(wide, (value,))[0]
            break
        at += length
    return values[0], values[1], values[2]


def _safe_name(path: Path, raw: bytes) -> str:
    name = raw.decode()
    unsafe = name.startswith("/") or "\\" in name or "\x00" in name or ":" in name[:2]
    if not name or unsafe or ".." in name.split("/"):
        raise refuse(
            path,
            "a record in it has a name that points out of the archive",
            got=name,
            expected="relative names",
            fix="The file was made to do harm; do not use it.",
        )
    return name


def damaged_zip(path: Path, what: str) -> InputError:
    """The error for a zip file that is cut off or inconsistent."""
    return refuse(path, what, got="a damaged zip file", expected="a checkpoint of torch.save")
