"""What a pickle may call with which arguments, before torch sees any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bitexport.checkpoint.claims import (
    LEGACY_TAG,
    ZIP_TAG,
    Claims,
    Global,
    Opaque,
    StorageClaim,
    Table,
)
from bitexport.errors import InputError, UnsupportedModel

PATH = Path("c.pth")
FLOAT = Global("torch.FloatStorage")
STORAGE = StorageClaim("0", 16, 4)
BYTES = StorageClaim("0", 16, 1)
HOOKS = (False, Table(ordered=True))
FLOAT32 = Global("torch.float32")
TENSOR = "torch._utils._rebuild_tensor"
TENSOR2 = "torch._utils._rebuild_tensor_v2"
TENSOR3 = "torch._utils._rebuild_tensor_v3"
PARAMETER = "torch._utils._rebuild_parameter"
ORDERED = "collections.OrderedDict"
FOUND = Opaque(is_tensor=True)
AXES = 64
"""As many as torch allows."""

SOUND: list[tuple[str, tuple[Any, ...]]] = [
    (TENSOR, (STORAGE, 0, (2, 2), (2, 1))),
    (TENSOR2, (STORAGE, 1, (3,), (1,), *HOOKS)),
    (TENSOR2, (STORAGE, 3, (1,) * AXES, (1,) * AXES, *HOOKS)),
    (TENSOR2, (STORAGE, 100, (0, 4), (4, 1), *HOOKS)),
    (TENSOR3, (BYTES, 0, (4,), (1,), *HOOKS, FLOAT32)),
    (PARAMETER, (FOUND, True, Table(ordered=True))),
    (ORDERED, ()),
    (ORDERED, ([],)),
    (ORDERED, ([["a", 1], ("b", 2)],)),
    ("collections.Counter", ()),
    ("collections.Counter", (Table(ordered=False),)),
    ("builtins.set", ([1, "a"],)),
    ("builtins.complex", (0.0, 1.0)),
    ("_codecs.encode", ("a", "latin1")),
    ("_codecs.encode", ("a", "latin-1")),
    ("torch.Size", ((1, 2, 3),)),
    ("torch.device", ("cuda", 0)),
]
WRONG: list[tuple[str, Any]] = [
    (TENSOR, (STORAGE, 0, (4,))),
    (TENSOR2, (STORAGE, 0, (4,), (1,), *HOOKS, None)),
    (TENSOR2, (Opaque(), 0, (4,), (1,), *HOOKS)),
    (TENSOR2, (STORAGE, 0, 4, (1,), *HOOKS)),
    (TENSOR2, (STORAGE, 0, (4,), 1, *HOOKS)),
    (TENSOR2, (STORAGE, True, (1,), (1,), *HOOKS)),
    (TENSOR2, (STORAGE, 0, (True,), (1,), *HOOKS)),
    (TENSOR2, (STORAGE, 0, (0,), (-1,), *HOOKS)),
    (TENSOR2, (STORAGE, 1 << 63, (0,), (1,), *HOOKS)),
    (TENSOR2, (STORAGE, 0, (1,) * (AXES + 1), (1,) * (AXES + 1), *HOOKS)),
    (TENSOR2, (STORAGE, 1, (4,), (1,), *HOOKS)),
    (TENSOR2, (STORAGE, 0, (5,), (0,), *HOOKS)),
    (TENSOR3, (BYTES, 0, (4,), (1,), *HOOKS)),
    (TENSOR3, (BYTES, 0, (4,), (1,), *HOOKS, "float32")),
    (TENSOR3, (BYTES, 0, (4,), (1,), *HOOKS, FLOAT)),
    (TENSOR3, (BYTES, 0, (5,), (1,), *HOOKS, FLOAT32)),
    (PARAMETER, (FOUND, True)),
    (PARAMETER, (Opaque(), True, Table(ordered=True))),
    (PARAMETER, ("tensor", True, Table(ordered=True))),
    (ORDERED, ([], [])),
    (ORDERED, (Table(ordered=False),)),
    (ORDERED, ([["a"]],)),
    (ORDERED, ([("a", 1, 2)],)),
    (ORDERED, ([(("a",), 1)],)),
    ("collections.Counter", (Table(ordered=False), Table(ordered=False))),
    ("collections.Counter", ([1, 1],)),
    ("builtins.set", ()),
    ("builtins.set", ([(1,)],)),
    ("_codecs.encode", ("a", "rot13")),
    ("_codecs.encode", (1, "latin1")),
    ("_codecs.encode", ("a",)),
    ("torch.Size", ()),
    ("torch.Size", (((1,),),)),
    ("torch.device", ("cuda", 0, 0)),
    ("torch.device", ([],)),
    ("torch.device", ["cpu"]),
]


@pytest.mark.parametrize(("name", "args"), SOUND)
def test_sound_calls_pass(name: str, args: tuple[Any, ...]) -> None:
    claims = Claims(PATH, ZIP_TAG)
    assert claims.allows(name)
    claims.call(Global(name), args)


@pytest.mark.parametrize(("name", "args"), WRONG)
def test_calls_with_wrong_arguments_are_refused(name: str, args: object) -> None:
    with pytest.raises(InputError, match=r"c\.pth"):
        Claims(PATH, ZIP_TAG).call(Global(name), args)


def test_the_bytes_of_all_tensors_add_up() -> None:
    claims = Claims(PATH, ZIP_TAG)
    claims.call(Global(TENSOR2), (STORAGE, 0, (4,), (1,), *HOOKS))
    claims.call(Global(TENSOR2), (STORAGE, 0, (3,), (1,), *HOOKS))
    assert claims.tensor_bytes == 28


KINDS = [kind for kind in vars(torch) if kind.endswith("Storage") and not kind.startswith("Q")]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
@pytest.mark.parametrize("kind", sorted({*KINDS} - {"Storage", "TypedStorage"}))
def test_a_storage_takes_the_bytes_that_torch_gives_it(kind: str, module: str) -> None:
    name = f"{module}.{kind}"
    assert Claims.allows(name)
    claim = Claims(PATH, ZIP_TAG).storage(("storage", Global(name), "0", "cpu", 3))
    nbytes = getattr(torch, kind)(3).nbytes()
    assert (claim.nbytes, 3 * claim.itemsize) == (nbytes, nbytes)


@pytest.mark.parametrize(
    "tag",
    [
        ("storage", FLOAT, "0", "cpu", 4, None),
        ("storage", FLOAT, "0", "cpu"),
        ("module", FLOAT, "0", "cpu", 4),
        ("storage", FLOAT32, "0", "cpu", 4),
        ("storage", "torch.FloatStorage", "0", "cpu", 4),
        ("storage", FLOAT, 0, "cpu", 4),
        ("storage", FLOAT, "\u0660", "cpu", 4),
        ("storage", FLOAT, "0", None, 4),
        ("storage", FLOAT, "0", "cpu", -1),
        ("storage", FLOAT, "0", "cpu", 4.0),
        ["storage", FLOAT, "0", "cpu", 4],
    ],
)
def test_storages_that_are_described_wrongly(tag: object) -> None:
    with pytest.raises(InputError, match="damaged or forged"):
        Claims(PATH, ZIP_TAG).storage(tag)


def test_a_legacy_storage_has_no_view_and_a_type() -> None:
    claims = Claims(PATH, LEGACY_TAG)
    assert claims.storage(("storage", FLOAT, "0", "cpu", 4, None)) == STORAGE
    with pytest.raises(InputError, match=r"torch before 0\.4"):
        claims.storage(("storage", FLOAT, "1", "cpu", 4, ("0", 0, 4)))
    untyped = ("storage", Global("torch.storage.UntypedStorage"), "2", "cpu", 4)
    with pytest.raises(UnsupportedModel, match="legacy file"):
        claims.storage((*untyped, None))
    assert Claims(PATH, ZIP_TAG).storage(untyped).nbytes == 4
