"""What the pickle of a checkpoint may call, and what its storages and tensors claim.

A pickle names functions and their arguments. This table has the few that a state dict needs;
each checks its arguments and yields a stand-in, so that nothing is called and no memory is
taken before every claim has been held against the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from bitexport.checkpoint.refusal import decline, refuse, shown
from bitexport.errors import InputError

__all__ = [
    "LEGACY_TAG",
    "ZIP_TAG",
    "Claims",
    "Global",
    "Opaque",
    "StorageClaim",
    "Table",
    "is_scalar",
]

# Length of the tuple that stands for a storage; the legacy one ends in a view.
ZIP_TAG: Final = 5
LEGACY_TAG: Final = 6

_STORAGE_BYTES: Final = {
    "BFloat16Storage": 2,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "IntStorage": 4,
    "LongStorage": 8,
    "ShortStorage": 2,
    "UntypedStorage": 1,
}
_STORAGE_MODULES: Final = ("torch.", "torch.cuda.", "torch.storage.")
_MOST_DIMENSIONS = 64


@dataclass(frozen=True)
class Global:
    """A name that the pickle asked for and may have, e.g. ``torch.FloatStorage``."""

    name: str


@dataclass(frozen=True)
class StorageClaim:
    """The bytes that tensors are said to lie in.

    Attributes:
        key: Its name in the file.
        nbytes: Its claimed size.
        itemsize: Bytes of an element.
    """

    key: str
    nbytes: int
    itemsize: int


class Table:
    """Stands for a dict; what it holds is not needed to judge the file."""

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered


class Opaque:
    """Stands for any other finished value.

    Attributes:
        is_tensor: Whether that is a tensor.
    """

    def __init__(self, *, is_tensor: bool = False) -> None:
        self.is_tensor = is_tensor


def is_scalar(value: object) -> bool:
    """Whether ``value`` may be a key: hashing a nested tuple can take for ever, or crash."""
    return value is None or isinstance(value, (bool, int, float, str))


class Claims:
    """Checks calls and storages while a pickle is walked, and adds up what they claim.

    Attributes:
        storages: By key.
        tensor_bytes: Sum over all tensors, shared or not.
    """

    def __init__(self, path: Path, tagged: int) -> None:
        self._path = path
        self._tagged = tagged
        self.storages: dict[str, StorageClaim] = {}
        self.tensor_bytes = 0

    @staticmethod
    def allows(name: str) -> bool:
        """Whether a pickle may name ``name`` at all."""
        return name in _CALLS or bool(_storage_itemsize(name)) or _is_torch_value(name)

    def call(self, function: object, args: object) -> object:
        """The stand-in for ``function(*args)``."""
        handler = _CALLS.get(function.name) if isinstance(function, Global) else None
        if handler is None or not isinstance(function, Global):
            raise self.garbled("calls what is no function")
        if not isinstance(args, tuple):
            raise self.garbled(f"calls {function.name} without arguments")
        return handler(self, args)

    def storage(self, tag: object) -> StorageClaim:
        """The claim in a persistent id: ("storage", type, key, device, numel[, view])."""
        if not isinstance(tag, tuple) or len(tag) != self._tagged or tag[0] != "storage":
            raise self.garbled("refers to something that is no storage")
        kind, key, device, numel, *view = tag[1:]
        if view not in ([], [None]):
            raise self.garbled("has a view of a storage, as only torch before 0.4 wrote them")
        itemsize = _storage_itemsize(kind.name) if isinstance(kind, Global) else 0
        sound = isinstance(key, str) and key.isascii() and isinstance(device, str)
        if not itemsize or not sound or not _is_count(numel):
            raise self.garbled("describes a storage wrongly")
        if self._tagged == LEGACY_TAG and kind.name.endswith(".UntypedStorage"):
            raise decline(
                self._path,
                "holds dtypes that torch cannot read from this container",
                got="uint16 or newer dtypes in a legacy file",
                expected="a zip file",
                fix="Save it again with torch.save, without _use_new_zipfile_serialization.",
            )
        claim = StorageClaim(key, numel * itemsize, itemsize)
        known = self.storages.setdefault(key, claim)
        if known != claim and (known.nbytes or claim.nbytes):
            raise self.garbled("describes one storage in two ways")
        return claim

    def tensor(self, args: tuple[Any, ...], itemsize: int | None = None) -> Opaque:
        """A tensor (storage, offset, shape, strides, ...), both in elements.

        Raises:
            InputError: An element lies outside the storage, or there are more elements than
                the storage has room for (as after ``expand``): copying it could take any
                amount of memory.
        """
        storage, offset, shape, strides = args[:4]
        counts = isinstance(shape, tuple) and isinstance(strides, tuple) and _is_count(offset)
        if not isinstance(storage, StorageClaim) or not counts:
            raise self.garbled("describes a tensor wrongly")
        regular = len(shape) == len(strides) <= _MOST_DIMENSIONS
        if not regular or not all(map(_is_count, (*shape, *strides))):
            raise self.garbled("describes a tensor wrongly")
        numel, last = 1, offset
        for size, stride in zip(shape, strides, strict=True):
            numel *= size
            last += (size - 1) * stride
        itemsize = itemsize or storage.itemsize
        needed = max(numel, last + 1) * itemsize if numel else 0
        if needed > storage.nbytes:
            raise refuse(
                self._path,
                f"a tensor of shape {shown(list(shape))} claims more than its storage holds",
                got=f"{needed} bytes",
                expected=f"at most {storage.nbytes}",
                fix="If you made the file, save contiguous() copies of its tensors; "
                "otherwise do not use it.",
            )
        self.tensor_bytes += numel * itemsize
        return Opaque(is_tensor=True)

    def garbled(self, what: str) -> InputError:
        """The error for a pickle that torch.save cannot have written."""
        return refuse(
            self._path,
            f"its pickle {what}",
            got="a damaged or forged file",
            expected="a checkpoint of torch.save",
        )


def _tensor(claims: Claims, args: tuple[Any, ...]) -> object:
    # A seventh argument carries conjugate and negative bits, which no weight has.
    if not 4 <= len(args) <= 6:
        raise claims.garbled("describes a tensor wrongly")
    return claims.tensor(args)


def _tensor_with_dtype(claims: Claims, args: tuple[Any, ...]) -> object:
    dtype = args[6] if len(args) == 7 else None
    value = getattr(torch, dtype.name.rpartition(".")[2], None) if isinstance(dtype, Global) else 0
    if not isinstance(value, torch.dtype):
        raise claims.garbled("describes a tensor wrongly")
    return claims.tensor(args, value.itemsize)


def _parameter(claims: Claims, args: tuple[Any, ...]) -> object:
    if len(args) != 3 or not isinstance(args[0], Opaque) or not args[0].is_tensor:
        raise claims.garbled("describes a parameter wrongly")
    return args[0]


def _ordered_dict(claims: Claims, args: tuple[Any, ...]) -> object:
    pairs = args[0] if args else []
    # Python 2 wrote OrderedDict([[key, value], ...]).
    if len(args) > 1 or not isinstance(pairs, list):
        raise claims.garbled("describes an ordered dict wrongly")
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not is_scalar(pair[0]):
            raise claims.garbled("describes an ordered dict wrongly")
    return Table(ordered=True)


def _counter(claims: Claims, args: tuple[Any, ...]) -> object:
    if len(args) > 1 or not all(isinstance(arg, Table) for arg in args):
        raise claims.garbled("describes a counter wrongly")
    return Table(ordered=False)


def _set(claims: Claims, args: tuple[Any, ...]) -> object:
    if len(args) != 1 or not isinstance(args[0], list) or not all(map(is_scalar, args[0])):
        raise claims.garbled("describes a set wrongly")
    return Opaque()


def _bytes(claims: Claims, args: tuple[Any, ...]) -> object:
    # Other codecs are modules that Python would import by name.
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise claims.garbled("describes bytes wrongly")
    return Opaque()


def _plain(claims: Claims, args: tuple[Any, ...]) -> object:
    flat = args[0] if len(args) == 1 and isinstance(args[0], tuple) else args
    if not 1 <= len(args) <= 2 or not all(map(is_scalar, flat)):
        raise claims.garbled("describes a size, device, layout or number wrongly")
    return Opaque()


_CALLS: Final[dict[str, Callable[[Claims, tuple[Any, ...]], object]]] = {
    "_codecs.encode": _bytes,
    "builtins.complex": _plain,
    "builtins.set": _set,
    "collections.Counter": _counter,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _plain,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
    "torch.device": _plain,
    "torch.serialization._get_layout": _plain,
}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _storage_itemsize(name: str) -> int:
    module, _, kind = name.rpartition(".")
    return _STORAGE_BYTES.get(kind, 0) if f"{module}." in _STORAGE_MODULES else 0


def _is_torch_value(name: str) -> bool:
    """A dtype; it is pickled by name, and torch knows which there are."""
    module, _, kind = name.rpartition(".")
    return module == "torch" and isinstance(getattr(torch, kind, None), torch.dtype)
