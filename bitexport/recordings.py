"""Recorded inputs and logits: .npz files that strangers made."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitexport.errors import InputError

__all__ = ["read_recording"]

_NAMES = ("input", "logits")
# Bytes that arrays may unpack to beyond the size of their file, as a bomb is a thousand times that.
_MOST_BEYOND = 256 << 20

# What numpy and zipfile raise over files that are damaged or of another kind. RuntimeError: an
# archive with a password or of a compression that zipfile lacks.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    AttributeError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_recording(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read ``input`` and, where it is there, ``logits`` from an .npz.

    Raises:
        InputError: It is no .npz, lacks ``input``, or holds anything but finite floats.
    """
    if path.exists() and not path.is_file():
        raise _refusal(path, "no regular file")  # a pipe would be waited for
    try:
        # Opened here, since numpy leaves the file open when the archive in it is damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _refusal(path, "a single array")
            with archive:
                _refuse_bomb(path, archive)
                found = {name: archive[name] for name in _NAMES if name in archive}
    except _UNREADABLE as error:
        raise _refusal(path, error) from error
    if "input" not in found:
        raise _refusal(path, "no array `input`")
    return {name: _as_float32(path, name, array) for name, array in found.items()}


def _as_float32(path: Path, name: str, array: object) -> npt.NDArray[np.float32]:
    if not isinstance(array, np.ndarray):
        raise _refusal(path, f"`{name}` is no array")
    if array.dtype.kind != "f" or array.size == 0:
        raise _refusal(path, f"`{name}` of {array.dtype} {list(array.shape)}")
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32, copy=False)
    if not np.isfinite(narrow).all():
        raise _refusal(path, f"`{name}` with values that are NaN or beyond float32")
    return narrow


def _refuse_bomb(path: Path, archive: np.lib.npyio.NpzFile) -> None:
    members = [] if archive.zip is None else archive.zip.infolist()
    names = {f"{name}{suffix}" for name in _NAMES for suffix in ("", ".npy")}
    unpacked = sum(int(each.file_size) for each in members if each.filename in names)
    size = path.stat().st_size
    if unpacked > size + _MOST_BEYOND:
        raise _refusal(path, f"{unpacked} bytes of arrays packed into {size}")


def _refusal(path: Path, got: object) -> InputError:
    return InputError(
        f"{path}: cannot take the inputs",
        got=got,
        expected="an .npz with the float arrays `input` and, without a CKPT, `logits`",
        fix="Write it with numpy.savez(path, input=..., logits=...).",
    )
