"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from bitexport.errors import BitexportError, InputError, RuntimeFailure

__all__ = ["check_writable", "write_atomically", "write_failure"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


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
    if len(os.fsencode(path.name)) > os.pathconf(folder, "PC_NAME_MAX"):
        raise _cannot_write(path, f"a name of {len(path.name)} characters")
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
    check_writable(path)
    folder = path.absolute().parent
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=".bitexport-", suffix=".part", dir=folder)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
