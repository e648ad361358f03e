"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bitexport.errors import BitexportError, InputError, RuntimeFailure

__all__ = ["check_writable", "write_atomically", "write_failure", "write_together"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def check_writable(path: Path, *, source: Path | None = None) -> None:
    """Refuse a destination early, before any long work.

    Raises:
        InputError: It is a directory, the source itself, or its folder is missing or read-only.
    """
    try:
        _refuse_unwritable(path, source)
    except OSError as error:
        raise write_failure(path, error) from error


def _refuse_unwritable(path: Path, source: Path | None) -> None:
    if path.is_dir():
        raise _cannot_write(path, "a directory")
    if path.exists() and not path.is_file():
        raise _cannot_write(path, "a pipe or a device")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise _cannot_write(path, f"no folder {folder}")
    if (length := len(os.fsencode(path.name))) > os.pathconf(folder, "PC_NAME_MAX"):
        raise _cannot_write(path, f"a name of {length} bytes")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _cannot_write(path, f"no permission to write in {folder}")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise _cannot_write(path, "the input file itself")


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the destination, flush to the disk, rename over it.

    An interrupted or failed write leaves neither a half file nor a damaged old one.

    Raises:
        InputError: The destination cannot be written.
        RuntimeFailure: The disk is full or failing.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write several files as :func:`write_atomically` does, all of them or none.

    All are complete on the disk before the first is renamed. Should a rename fail after that, or
    Ctrl-C come between two, the destinations get back what they had.

    Raises:
        InputError: A destination cannot be written.
        RuntimeFailure: The disk is full or failing.
    """
    staged: dict[Path, Path] = {}
    replaced: dict[Path, Path | None] = {}
    path = Path()
    try:
        for path, data in files.items():
            check_writable(path)
            descriptor, staged[path] = _temporary(path)
            _fill(descriptor, data)
            staged[path].chmod(0o666 & ~_umask())
        for path, temporary in staged.items():
            if len(staged) > 1:
                replaced[path] = _second_name(path)
            temporary.replace(path)
    except BaseException as error:
        for destination, old in replaced.items():
            _give_back(destination, old, untouched=staged[destination].exists())
        if isinstance(error, OSError):
            raise write_failure(path, error) from error
        raise
    finally:
        for leftover in (*staged.values(), *(old for old in replaced.values() if old is not None)):
            leftover.unlink(missing_ok=True)


def _temporary(path: Path) -> tuple[int, Path]:
    """An empty file beside the destination: its descriptor and its name."""
    folder = path.absolute().parent
    descriptor, name = tempfile.mkstemp(prefix=".bitexport-", suffix=".part", dir=folder)
    return descriptor, Path(name)


def _fill(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _second_name(path: Path) -> Path | None:
    """Another name for the file that is about to be replaced, or None where there is none."""
    if not path.exists():
        return None
    descriptor, name = _temporary(path)
    os.close(descriptor)
    name.unlink()
    try:
        name.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copy2(path, name)
    return name


def _give_back(path: Path, old: Path | None, *, untouched: bool) -> None:
    """Undo one rename."""
    if untouched:
        return
    if old is None:
        path.unlink(missing_ok=True)
    else:
        old.replace(path)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def write_failure(path: Path, error: OSError) -> BitexportError:
    """What the system says about a path that could not be written, as our own error."""
    if error.errno in _NO_ROOM:
        return RuntimeFailure(
            f"cannot write {path}",
            got=error.strerror,
            expected="room on a working disk",
            fix="Free some space, or name another --output.",
        )
    return _cannot_write(path, error.strerror or str(error))


def _cannot_write(path: Path, got: str) -> InputError:
    return InputError(
        f"cannot write {path}",
        got=got,
        expected="a file name in a writable folder",
        fix="Name another --output.",
    )
