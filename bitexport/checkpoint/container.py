"""Which container is it? Decided by the first bytes, never by the name.

A file that is no checkpoint is refused here, and the common mix-ups by their proper name.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from bitexport.checkpoint.refusal import AGAIN, refuse

__all__ = ["LEGACY", "SAFETENSORS", "ZIP", "fingerprint", "open_regular", "sniff"]

ZIP: Final = "torch zip"
LEGACY: Final = "torch legacy"
SAFETENSORS: Final = "safetensors"

# A tensor takes 50 bytes or more of it; the library takes 100 MB, and a minute over them.
_SAFETENSORS_HEADER_LIMIT = 8 << 20
_EXPECTED = "a checkpoint of torch.save or safetensors"
_GIVE_CHECKPOINT = "Give the PyTorch checkpoint (.pth, .pt, .pth.tar, .safetensors) of the model."
_HEAD_BYTES = 512


class _WrongKind(NamedTuple):
    name: str
    matches: Callable[[bytes], bool]
    fix: str = _GIVE_CHECKPOINT


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def _is_onnx(head: bytes) -> bool:
    # ModelProto: field 1 (ir_version, a small varint), then a length-delimited field
    # (producer, version, domain, doc string, graph, opset) or model_version.
    fields = b"\x12\x1a\x22\x28\x32\x3a\x42"
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 0x20 and head[2] in fields


_WRONG_KINDS: Final = (
    _WrongKind(
        "a git-lfs pointer, not the file that it points to",
        _starts(b"version https://git-lfs"),
        "Run `git lfs pull` in its repository and try again.",
    ),
    _WrongKind(
        "an HTML page",
        lambda head: (
            head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html"))
        ),
        "The download gave a web page: fetch the file by its direct link, logged in if need be.",
    ),
    _WrongKind("an HDF5 (Keras) file", _starts(b"\x89HDF\r\n\x1a\n")),
    _WrongKind("a NumPy array (.npy)", _starts(b"\x93NUMPY")),
    _WrongKind("a TFLite model", lambda head: head[4:8] == b"TFL3"),
    _WrongKind("an ONNX Runtime (.ort) model", lambda head: head[4:8] == b"ORTM"),
    _WrongKind(
        "a TensorRT engine",
        _starts(b"ftrt", b"vtrt"),
        "What it holds stands in the .json beside it; give the file that it was built from.",
    ),
    _WrongKind(
        "a compressed file (gzip, bzip2, xz, zstd or 7z)",
        _starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c"),
        "Unpack it and give the checkpoint inside.",
    ),
    _WrongKind(
        "a tar archive",
        lambda head: head[257:262] == b"ustar",
        "Unpack it and give the checkpoint inside; a checkpoint of torch 0.1 has to be loaded "
        "and saved again with a newer torch.",
    ),
    _WrongKind("an ONNX model", _is_onnx),
)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular, non-empty file for reading.

    Raises:
        InputError: It is missing, unreadable, empty, or a directory, pipe or device.
    """
    try:
        _require_regular(path, path.stat())
        # Non-blocking, and looked at again once open: were the path exchanged for a pipe in
        # between, opening it would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _O_BINARY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise refuse(
            path,
            "cannot be opened",
            got=reason,
            expected="a readable file",
            fix="Check the path and its permissions.",
        ) from error
    file = os.fdopen(descriptor, "rb")
    try:
        _require_regular(path, os.fstat(descriptor))
    except BaseException:
        file.close()
        raise
    return file


_O_BINARY: Final[int] = getattr(os, "O_BINARY", 0)


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise refuse(
            path,
            "is no regular file",
            got="a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device",
            expected="a checkpoint file",
            fix="Give the path of the checkpoint file itself.",
        )
    if status.st_size == 0:
        raise refuse(path, "is empty", got="0 bytes", expected=_EXPECTED)


def sniff(path: Path, file: BinaryIO) -> str:
    """The container that the first bytes announce: ``ZIP``, ``LEGACY`` or ``SAFETENSORS``.

    ``LEGACY`` means a pickle here; ``legacy.vet_legacy`` tells torch's from a bare one.

    Args:
        path: The name for messages.
        file: The open file; left at an unspecified position.

    Raises:
        InputError: Anything else, by its name where it is a common mix-up.
    """
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZIP
    if head.startswith(b"\x80"):
        return LEGACY
    for kind in _WRONG_KINDS:
        if kind.matches(head):
            raise refuse(path, "is no checkpoint", got=kind.name, expected=_EXPECTED, fix=kind.fix)
    if head[8:9] == b"{":
        _require_safetensors_header(path, head, os.fstat(file.fileno()).st_size)
        return SAFETENSORS
    raise refuse(
        path,
        "is no checkpoint",
        got=f"unknown content starting with {head[:8].hex(' ')}",
        expected=_EXPECTED,
        fix=_GIVE_CHECKPOINT,
    )


def _require_safetensors_header(path: Path, head: bytes, size: int) -> None:
    """The library checks the rest (offsets, overlaps, shapes) against the file."""
    claimed = int.from_bytes(head[:8], "little")
    limit = min(size - 8, _SAFETENSORS_HEADER_LIMIT)
    if claimed > limit:
        raise refuse(
            path,
            "its safetensors header is longer than it can be",
            got=f"{claimed} bytes",
            expected=f"at most {limit}",
            fix=AGAIN,
        )


def fingerprint(file: BinaryIO) -> str:
    """SHA-256 of a whole open file, in hex."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
