"""The container of torch before 1.6: five pickles in a row, then the storages.

magic number | protocol version | system info | the object | list of storage keys |
for each key: number of elements (int64) and the elements.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bitexport.checkpoint.claims import LEGACY_TAG, StorageClaim
from bitexport.checkpoint.file_bytes import FileBytes
from bitexport.checkpoint.pickles import scan_pickle
from bitexport.checkpoint.refusal import RESAVE, refuse, shown
from bitexport.errors import InputError

__all__ = ["vet_legacy"]

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_VERSION: Final = 1001
_COUNT_BYTES = 8


def vet_legacy(path: Path, data: FileBytes) -> None:
    """Check a whole legacy file: its pickles, and every storage against the bytes behind them.

    torch allocates what the pickle claims before it looks at the file, and leaves storages
    that are not in the list of keys with whatever the memory held.

    Raises:
        InputError: It is damaged, hostile, or a bare pickle.
        UnsupportedModel: It holds sparse, quantized or otherwise special tensors.
    """
    magic = scan_pickle(path, data)
    if magic.value != _MAGIC:
        raise refuse(
            path,
            "is a plain Python pickle, which was not run",
            got="no magic number of torch.save",
            expected="a checkpoint of torch.save",
            fix=RESAVE,
        )
    version = scan_pickle(path, data, start=magic.end)
    if version.value != _VERSION:
        raise _damaged(path, "it is of an unknown version")
    system = scan_pickle(path, data, start=version.end)
    root = scan_pickle(path, data, start=system.end, tagged=LEGACY_TAG)
    keys = scan_pickle(path, data, start=root.end)
    root.require_protocol(path)
    listed = keys.value
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        raise _damaged(path, "its list of storages is garbled")
    if len(set(listed)) != len(listed) or set(listed) != set(root.storages):
        raise _damaged(path, "its list of storages does not fit its tensors")
    _require_storages(path, data, keys.end, [root.storages[key] for key in listed])


def _require_storages(path: Path, data: FileBytes, at: int, claims: list[StorageClaim]) -> None:
    for claim in claims:
        count = int.from_bytes(data[at : at + _COUNT_BYTES], "little", signed=True)
        at += _COUNT_BYTES
        held = max(0, len(data) - at)
        if claim.nbytes > held or count * claim.itemsize != claim.nbytes:
            raise refuse(
                path,
                f"storage {shown(claim.key)} claims more or less than the file holds",
                got=f"{claim.nbytes} bytes claimed, {count} elements listed",
                expected=f"{claim.nbytes // claim.itemsize} elements within {held} bytes",
            )
        at += claim.nbytes


def _damaged(path: Path, what: str) -> InputError:
    return refuse(path, what, got="a damaged legacy file", expected="a checkpoint of torch.save")
