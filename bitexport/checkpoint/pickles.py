"""Walk a pickle without running it: what does it ask for, and how much does it claim?

torch's own ``weights_only`` reader refuses foreign code, yet it still hashes, compares and
prints whatever it is given, allocates what it is told to, and calls its allowed functions with
any arguments. So the same opcodes are walked here first, on stand-ins: a pickle passes only if
every name, call, key and size in it is one that a checkpoint has.
"""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from bitexport.checkpoint.claims import (
    Claims,
    Global,
    Opaque,
    StorageClaim,
    Table,
    is_scalar,
)
from bitexport.checkpoint.file_bytes import FileBytes
from bitexport.checkpoint.refusal import RESAVE, refuse, refuse_global, shown
from bitexport.errors import BitexportError

__all__ = ["Scan", "scan_pickle"]

# A ResNet-50 with its optimizer takes 30 000; beyond this, a few bytes of pickle for each
# object could make gigabytes of Python objects.
_MOST_OPCODES = 1_000_000
_LONGEST_STRING = 16 << 20
_LONGEST_NAME = 4096
_WIDEST_INT_BITS = 128
# Sharing: how many times over the tensors may use the storages. Tied layers do, a few times.
_MOST_SHARING = 16
_SHARING_SLACK_BYTES = 1 << 16
_TORCH_PROTOCOLS = (2, 3)


@dataclass(frozen=True)
class Scan:
    """What a walked pickle holds.

    Attributes:
        value: Its root: a scalar, list or tuple as it is, otherwise a stand-in.
        end: Offset of the first byte behind it.
        protocol: The pickle protocol that it declares.
        storages: The storages that its tensors lie in, by key.
    """

    value: object
    end: int
    protocol: int
    storages: Mapping[str, StorageClaim]

    def require_protocol(self, path: Path) -> None:
        """Refuse what torch's safe reader cannot read, although it is harmless.

        Raises:
            InputError: It is of pickle protocol 4 or later.
        """
        if self.protocol not in _TORCH_PROTOCOLS:
            raise refuse(
                path,
                "was saved with a pickle protocol that cannot be read safely",
                got=f"protocol {self.protocol}",
                expected="protocol 2",
                fix="Save it again with torch.save, without pickle_protocol.",
            )


def scan_pickle(path: Path, data: bytes | FileBytes, *, start: int = 0, tagged: int = 0) -> Scan:
    """Walk the pickle at ``start`` of ``data``.

    Args:
        path: The name for messages.
        data: The file, or a record of it.
        start: Where the pickle begins.
        tagged: ``claims.ZIP_TAG`` or ``LEGACY_TAG``; 0 where storages have no place.

    Raises:
        InputError: It asks for anything but plain data, is damaged, or claims absurd sizes.
        UnsupportedModel: It holds sparse, quantized or otherwise special tensors.
    """
    source = _Source(data, start)
    claims = Claims(path, tagged)
    walk = _Walk(path, claims)
    try:
        value = walk.run(source)
    except BitexportError:
        raise
    except Exception as error:
        # Anything at all: pickletools and the walk meet bytes that an enemy chose.
        raise claims.garbled(f"is garbled ({shown(error) or type(error).__name__})") from error
    held = sum(claim.nbytes for claim in claims.storages.values())
    if claims.tensor_bytes > _MOST_SHARING * held + _SHARING_SLACK_BYTES:
        raise refuse(
            path,
            "its tensors share their storages beyond reason",
            got=f"{claims.tensor_bytes} bytes of tensors on {held}",
            expected=f"at most {_MOST_SHARING} times the storages",
            fix=RESAVE,
        )
    return Scan(value, source.tell(), walk.protocol, claims.storages)


class _Source:
    """A file for pickletools that never reads more than is there, nor absurdly much."""

    def __init__(self, data: bytes | FileBytes, start: int) -> None:
        self._data = data
        self._at = start

    def read(self, size: int) -> bytes:
        if size > _LONGEST_STRING:
            raise ValueError(f"a string of {size} bytes")
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def readline(self) -> bytes:
        newline = self._data.find(b"\n", self._at, self._at + _LONGEST_NAME)
        if newline < 0:
            raise ValueError("a name without an end")
        return self.read(newline + 1 - self._at)

    def tell(self) -> int:
        return self._at


class _Walk:
    """A pickle machine that pushes stand-ins; the same stack discipline as torch's reader."""

    def __init__(self, path: Path, claims: Claims) -> None:
        self._path = path
        self._claims = claims
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, object] = {}
        self.protocol = 0

    def run(self, source: _Source) -> object:
        """Walk to STOP; the root value."""
        for count, (opcode, arg, _) in enumerate(pickletools.genops(cast("IO[bytes]", source))):
            name = opcode.name
            if count >= _MOST_OPCODES:
                raise self._claims.garbled(f"has more than {_MOST_OPCODES} opcodes")
            if name == "STOP":
                return self._stack.pop()
            if name in _NUMBERS or name in _STRINGS:
                self._push_literal(arg)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _FRESH:
                self._stack.append(_FRESH[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, arg)
            else:
                raise self._claims.garbled(f"has the opcode {name}, which torch.save never writes")
        raise self._claims.garbled("has no end")

    def _push_literal(self, value: object) -> None:
        if isinstance(value, int) and value.bit_length() > _WIDEST_INT_BITS:
            raise self._claims.garbled(f"has an integer of {value.bit_length()} bits")
        self._stack.append(value)

    def _pop_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def proto(self, version: int) -> None:
        self.protocol = version

    def ignore(self, _: object) -> None:
        """FRAME is a hint for buffering."""

    def mark(self, _: object) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def find_global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._find(module, name)

    def find_stack_global(self, _: object) -> None:
        """Only protocol 4 has it; walked so that the message can name what it asks for."""
        name, module = self._stack.pop(), self._stack.pop()
        self._find(str(module), str(name))

    def _find(self, module: str, name: str) -> None:
        # Protocol 2 writes the names of Python 2, e.g. __builtin__.eval.
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[(module, name)]
        else:
            module = IMPORT_MAPPING.get(module, module)
        full = f"{module}.{name}"
        if not self._claims.allows(full):
            # Legacy files hold a pickled model as the persistent id ("module", class, ...).
            is_root = (not self._stack and not self._marks) or self._stack == ["module"]
            raise refuse_global(self._path, full, is_root=is_root)
        self._stack.append(Global(full))

    def call(self, _: object) -> None:
        args = self._stack.pop()
        self._stack[-1] = self._claims.call(self._stack[-1], args)

    def build_object(self, _: object) -> None:
        raise self._claims.garbled("builds an object other than a dict, list or tensor")

    def build(self, _: object) -> None:
        # state_dict() hangs its _metadata on the OrderedDict as an attribute.
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, Table) or not target.ordered or not isinstance(state, Table):
            self.build_object(None)

    def load_storage(self, _: object) -> None:
        self._stack.append(self._claims.storage(self._stack.pop()))

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def pack(self, _: object) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def pack_last(self, length: int) -> None:
        if len(self._stack) < length:
            raise IndexError("a tuple without its items")
        self._stack[-length:] = [tuple(self._stack[-length:])]

    def append(self, _: object) -> None:
        item = self._stack.pop()
        self._extend([item])

    def appends(self, _: object) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError("an item for what is no list")
        self._stack[-1].extend(items)

    def set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def set_items(self, _: object) -> None:
        self._set_items(self._pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], Table) or len(items) % 2:
            raise TypeError("an item for what is no dict")
        if not all(is_scalar(key) for key in items[::2]):
            raise self._claims.garbled("has a dict key that is neither text nor a number")


_NUMBERS: Final = frozenset(["BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"])
_STRINGS: Final = frozenset(["BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING"])
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_FRESH: Final[Mapping[str, Callable[[], object]]] = {
    "EMPTY_DICT": lambda: Table(ordered=False),
    "EMPTY_LIST": list,
    "EMPTY_SET": Opaque,
}
_ACTIONS: Final[Mapping[str, Callable[[_Walk, Any], None]]] = {
    "APPEND": _Walk.append,
    "APPENDS": _Walk.appends,
    "BINGET": _Walk.get,
    "BINPERSID": _Walk.load_storage,
    "BINPUT": _Walk.put,
    "BUILD": _Walk.build,
    "FRAME": _Walk.ignore,
    "GLOBAL": _Walk.find_global,
    "LONG_BINGET": _Walk.get,
    "LONG_BINPUT": _Walk.put,
    "MARK": _Walk.mark,
    "MEMOIZE": _Walk.memoize,
    "NEWOBJ": _Walk.build_object,
    "PROTO": _Walk.proto,
    "REDUCE": _Walk.call,
    "SETITEM": _Walk.set_item,
    "SETITEMS": _Walk.set_items,
    "STACK_GLOBAL": _Walk.find_stack_global,
    "TUPLE": _Walk.pack,
    "TUPLE1": lambda walk, _: walk.pack_last(1),
    "TUPLE2": lambda walk, _: walk.pack_last(2),
    "TUPLE3": lambda walk, _: walk.pack_last(3),
}
