"""Read a vetted checkpoint into our own record."""

from __future__ import annotations

import difflib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch

from bitexport.checkpoint.archive import vet_archive
from bitexport.checkpoint.container import (
    LEGACY,
    SAFETENSORS,
    ZIP,
    fingerprint,
    open_regular,
    sniff,
)
from bitexport.checkpoint.file_bytes import FileBytes
from bitexport.checkpoint.legacy import vet_legacy
from bitexport.checkpoint.refusal import AGAIN, RESAVE, decline, refuse, shown
from bitexport.checkpoint.state import Scalar, Values, flatten_state
from bitexport.errors import BitexportError

__all__ = ["Checkpoint", "read_checkpoint"]

# Comparing a wrong key with all keys takes time; a model has fewer than this.
_MOST_COMPARED = 10_000
_LENGTH_BYTES = 8  # of a safetensors header, before it


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of a file, by name, and what stood beside them.

    Attributes:
        path: The file.
        container: "torch zip", "torch legacy" or "safetensors".
        values: Tensors (dense, on the CPU, detached, not always contiguous) and the scalars
            of layers, by dotted key, without ``module.`` and ``_orig_mod.``. They stay what they
            are when the file is written anew.
        metadata: Scalars that stood beside the weights: epoch, model, best_prec1, ...
        size: Bytes of the file.
        sha256: Hash of the file, in hex.
    """

    path: Path
    container: str
    values: Mapping[str, torch.Tensor | Scalar] = field(repr=False)
    metadata: Mapping[str, Scalar]
    size: int
    sha256: str

    def tensor(self, key: str) -> torch.Tensor:
        """The tensor named ``key``.

        Raises:
            UnsupportedModel: There is none; the message has the nearest name that there is.
        """
        value = self.values.get(key)
        if isinstance(value, torch.Tensor):
            return value
        names = list(self.tensors())[:_MOST_COMPARED]
        nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
        raise decline(
            self.path,
            f"tensor '{key}' is missing",
            got=f"'{shown(nearest[0])}' as the nearest" if nearest else "no tensors at all",
            expected=f"'{key}'",
            fix="Check that the file belongs to this architecture (--arch, --family).",
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by key, without the scalars."""
        return {key: v for key, v in self.values.items() if isinstance(v, torch.Tensor)}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of torch.save (zip or legacy) or safetensors without running it.

    Args:
        path: The file.

    Returns:
        Its weights and metadata.

    Raises:
        InputError: It cannot be read, is damaged or hostile, asks for code, or is another
            kind of file.
        UnsupportedModel: It is readable, but holds no weights, or sparse or quantized ones.
    """
    path = Path(path)
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        container = sniff(path, file)
        try:
            root, metadata = _load(path, file, container)
        except BitexportError:
            _require_unchanged(path, before, file)
            raise
        except Exception as error:
            _require_unchanged(path, before, file)
            # The readers below raise whatever a damaged file drives them to.
            raise _unreadable(path, error) from error
        values, beside = flatten_state(root, path)
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                _require_sound(path, key, value)
        sha256 = fingerprint(file)
        _require_unchanged(path, before, file)
    return Checkpoint(path, container, values, {**metadata, **beside}, before.st_size, sha256)


def _load(path: Path, file: BinaryIO, container: str) -> tuple[object, dict[str, Scalar]]:
    if container == SAFETENSORS:
        return _load_safetensors(file)
    if container == ZIP:
        vet_archive(path, FileBytes(file))
    elif container == LEGACY:
        vet_legacy(path, FileBytes(file))
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False), {}


def _load_safetensors(file: BinaryIO) -> tuple[Values, dict[str, Scalar]]:
    """From bytes, as the library maps what it opens by name: see :class:`FileBytes`."""
    file.seek(0)
    data = file.read()
    tensors: Values = {**safetensors.torch.load(data)}
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    return tensors, header.get("__metadata__") or {}


def _require_sound(path: Path, key: str, tensor: torch.Tensor) -> None:
    """Hold the tensor itself to what was promised before it was read.

    Raises:
        InputError: Its elements do not lie within its storage.
        UnsupportedModel: It is not plain and dense.
    """
    kind: Any = type(tensor)
    plain = kind is torch.Tensor and tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.device.type != "cpu":
        raise decline(
            path,
            f"tensor '{shown(key)}' is of a special kind",
            got=f"{kind.__name__}, {tensor.layout}, {tensor.dtype} on {tensor.device}",
            expected="a plain dense tensor",
            fix=RESAVE,
        )
    if not tensor.numel():
        return
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps)
    needed = max(tensor.numel(), last + 1) * tensor.itemsize
    held = tensor.untyped_storage().nbytes()
    if needed > held:
        raise refuse(
            path,
            f"tensor '{shown(key)}' claims more than its storage holds",
            got=f"{needed} bytes",
            expected=f"at most {held}",
        )


def _require_unchanged(path: Path, before: os.stat_result, file: BinaryIO) -> None:
    """What was vetted must be what was read, also where a reader opened the path again."""
    try:
        same = os.path.samestat(before, path.stat())
    except OSError:
        same = False
    after = os.fstat(file.fileno())
    if not same or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise refuse(
            path,
            "changed while it was read",
            got="another size, time or file",
            expected="a file at rest",
            fix="Wait until the program that writes it is done, then try again.",
        )


def _unreadable(path: Path, error: Exception) -> BitexportError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    return refuse(
        path,
        "cannot be read",
        got=f"{type(error).__name__}: {reason}",
        expected="a sound checkpoint",
        fix=AGAIN,
    )
