"""The zip container of torch.save: a folder with data.pkl, and data/KEY for each storage."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitexport.checkpoint.claims import ZIP_TAG
from bitexport.checkpoint.file_bytes import FileBytes
from bitexport.checkpoint.pickles import Scan, scan_pickle
from bitexport.checkpoint.refusal import refuse, shown
from bitexport.checkpoint.zip_directory import STORED, Record, damaged_zip, read_directory

__all__ = ["Archive", "open_archive", "vet_archive"]

# What compressed records may unfold to, beyond the size of the file.
_SLACK_BYTES = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A sound zip file.

    Attributes:
        root: The folder that all records lie in, e.g. ``archive``.
        records: Records by their name below ``root``.
    """

    root: str
    records: Mapping[str, Record]


def vet_archive(path: Path, data: FileBytes) -> Archive:
    """Check a whole torch zip file, including its pickle and the sizes that this claims.

    Raises:
        InputError: It is damaged, hostile, or another kind of zip.
        UnsupportedModel: It holds sparse, quantized or otherwise special tensors.
    """
    archive = open_archive(path, data)
    record = archive.records["data.pkl"]
    scan = scan_pickle(path, _content(path, data, record), tagged=ZIP_TAG)
    scan.require_protocol(path)
    _require_storages(path, archive, scan)
    return archive


def _require_storages(path: Path, archive: Archive, scan: Scan) -> None:
    for key, claim in scan.storages.items():
        record = archive.records.get(f"data/{key}")
        held = record.size if record else 0
        if record is None or claim.nbytes > held:
            raise refuse(
                path,
                f"storage {shown(key)} claims more than the file holds",
                got=f"{claim.nbytes} bytes claimed",
                expected=f"at most {held}" if record else "a record of that name",
            )


def _content(path: Path, data: FileBytes, record: Record) -> bytes:
    raw = data[record.data : record.end]
    if record.method == STORED:
        return raw
    try:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, record.size + 1)
    except zlib.error as error:
        raise damaged_zip(path, f"{shown(record.name)} cannot be unpacked") from error
    if len(content) != record.size:
        raise damaged_zip(path, f"{shown(record.name)} does not unpack to its size")
    return content


def open_archive(path: Path, data: FileBytes) -> Archive:
    """Read the directory of a zip file and check every record against the file.

    Raises:
        InputError: It is damaged or hostile, or no archive of torch.save.
    """
    records = read_directory(path, data)
    _require_apart(path, records)
    _require_no_bomb(path, records, len(data))
    by_name = _by_name(path, records)
    _require_torch(path, by_name)
    root = records[0].name.partition("/")[0]
    prefix = f"{root}/"
    stray = next((name for name in by_name if not name.startswith(prefix)), None)
    if stray is not None or f"{prefix}data.pkl" not in by_name:
        raise refuse(
            path,
            "is a zip, but none that torch.save wrote",
            got=f"the files {shown(', '.join(list(by_name)[:4]))}",
            expected=f"{shown(prefix)}data.pkl and records beside it",
            fix="If it is a zip with a checkpoint in it, unpack it and give the checkpoint.",
        )
    return Archive(root, {name[len(prefix) :]: record for name, record in by_name.items()})


def _require_apart(path: Path, records: list[Record]) -> None:
    ordered = sorted(records, key=lambda record: record.start)
    previous_end = 0
    for record in ordered:
        if record.start < previous_end:
            raise refuse(
                path,
                f"record {shown(record.name)} overlaps the one before it",
                got=f"offset {record.start}",
                expected=f"{previous_end} or more",
            )
        previous_end = record.end


def _require_no_bomb(path: Path, records: list[Record], file_size: int) -> None:
    unpacked = sum(record.size for record in records)
    if unpacked > file_size + _SLACK_BYTES:
        raise refuse(
            path,
            "its compressed records unfold to more than the file",
            got=f"{unpacked} bytes from {file_size}",
            expected="uncompressed records, as torch.save writes them",
            fix="If you trust its origin, unpack it and save the checkpoint with torch.save.",
        )


def _by_name(path: Path, records: list[Record]) -> dict[str, Record]:
    by_name: dict[str, Record] = {}
    folded = set()
    for record in records:
        # torch looks records up regardless of case.
        if record.name.casefold() in folded:
            raise refuse(
                path,
                f"record {shown(record.name)} is there twice",
                got="duplicate names",
                expected="unique names",
            )
        folded.add(record.name.casefold())
        by_name[record.name] = record
    return by_name


def _require_torch(path: Path, records: Mapping[str, Record]) -> None:
    """Refuse the other kinds of model that come as a zip, by their name."""
    files = [name for name in records if not name.endswith("/")]
    kind, fix = "", "Give the PyTorch checkpoint (a saved state dict) of the model."
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in files):
        kind = "a TorchScript archive"
        fix = "Save the weights instead: torch.save(torch.jit.load(FILE).state_dict(), PATH)."
    elif files and all(name.endswith(".npy") for name in files):
        kind = "a NumPy archive (.npz)"
    elif {"config.json", "model.weights.h5"} & set(files):
        kind = "a Keras model"
    elif any(name.endswith(("/archive_format", "/archive_version")) for name in files):
        kind = "a torch.export archive (.pt2)"
        fix = "Save the weights instead: torch.save(torch.export.load(FILE).state_dict, PATH)."
    if kind:
        raise refuse(path, "is no checkpoint", got=kind, expected="a saved state dict", fix=fix)
