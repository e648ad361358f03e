"""The bytes of an open file by their positions, read when they are asked for."""

from __future__ import annotations

import os
from typing import BinaryIO

__all__ = ["FileBytes"]


class FileBytes:
    """Slices and finds as bytes do, and takes no memory for what nobody looks at.

    It is no mapping: training saves over its last checkpoint, and where the file gets shorter, the
    system ends a process that looks at a page which is gone. Here a slice gets shorter.

    Args:
        file: Buffered; its position is lost.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(0, stop - start))

    def find(self, what: bytes, start: int, stop: int) -> int:
        """Position of the first ``what`` that lies between the two positions; -1 without one."""
        found = self[start:stop].find(what)
        return found if found < 0 else start + found
