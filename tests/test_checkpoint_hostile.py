"""Hostile checkpoints: no code is run, no claim is believed, no memory is taken."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forged_checkpoints import Call, Storage, Tensor, pickled, refusal, write_legacy, write_zip

from bitexport.checkpoint import read_checkpoint
from bitexport.errors import BitexportError

HUGE = 1 << 40
FOUR = struct.pack("<4f", 1, 2, 3, 4)
GOOD_PKL = pickled({"w": Tensor(Storage("0", 4), (4,), (1,))})


def zipped(path: Path, root: object, protocol: int = 2) -> Path:
    return write_zip(path, pickled(root, protocol=protocol), {"0": FOUR})


def legacy(path: Path, root: object, protocol: int = 2) -> Path:
    return write_legacy(path, pickled(root, legacy=True, protocol=protocol), {"0": FOUR})


WRITERS: tuple[Callable[..., Path], ...] = (zipped, legacy)
both_writers = pytest.mark.parametrize("write", WRITERS)


@both_writers
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, f"{os.name}.system"), (eval, "builtins.eval"), (exec, "builtins.exec")],
)
def test_code_is_named_and_not_run(
    tmp_path: Path, write: Callable[..., Path], protocol: int, function: Any, named: str
) -> None:
    trace = tmp_path / "trace"
    command = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
    root = {"state_dict": Call(function, (command,))}

    message = refusal(write(tmp_path / "c.pth", root, protocol=protocol))

    assert not trace.exists()
    assert named in message
    assert "was not run" in message
    assert "torch.save(model.state_dict(), PATH)" in message


@pytest.mark.parametrize("protocol", [2, 5])
def test_plain_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    trace, path = tmp_path / "trace", tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps(Call(os.system, (f"touch {trace}",)), protocol))
    assert f"{os.name}.system" in refusal(path)
    assert not trace.exists()

    path.write_bytes(pickle.dumps([1, 2], protocol))
    assert "plain Python pickle" in refusal(path)


@both_writers
@pytest.mark.parametrize(
    "function",
    [bytearray, torch.FloatTensor, torch.Tensor, torch._utils._rebuild_device_tensor_from_numpy],
)
def test_allocating_functions_are_not_called(
    tmp_path: Path, write: Callable[..., Path], function: Any
) -> None:
    with pytest.raises(BitexportError, match=function.__name__):
        read_checkpoint(write(tmp_path / "c.pth", {"x": Call(function, (HUGE,))}))


@pytest.mark.parametrize("container", ["torch zip", "torch legacy"])
def test_whole_model_is_refused_with_advice(tmp_path: Path, container: str) -> None:
    path = tmp_path / "c.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization="zip" in container)
    message = refusal(path)
    assert "torch.nn.modules.linear.Linear" in message
    assert "whole Python object" in message
    assert "model.state_dict()" in message


def test_numpy_scalar_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({"best": np.float64(3), "state_dict": {"w": torch.ones(1)}}, path)
    assert "multiarray.scalar" in refusal(path)


def test_methods_hidden_by_attributes_are_not_called(tmp_path: Path) -> None:
    """An OrderedDict may carry attributes; one named ``items`` would hide the method."""
    ordered = b"\x80\x02ccollections\nOrderedDict\n)R"
    tensor = pickled(Tensor(Storage("0", 4), (4,), (1,)))[2:-1]
    data = ordered + b"X\x01\x00\x00\x00w" + tensor + b"s}X\x05\x00\x00\x00itemsNsb."
    checkpoint = read_checkpoint(write_zip(tmp_path / "c.pth", data, {"0": FOUR}))
    assert checkpoint.tensor("w").tolist() == [1, 2, 3, 4]


CLAIMS = {
    "stride 0": Tensor(Storage("0", 4), (HUGE,), (0,)),
    "beyond the storage": Tensor(Storage("0", 4), (5,), (1,)),
    "offset beyond the storage": Tensor(Storage("0", 4), (1,), (1,), offset=4),
    "strided beyond the storage": Tensor(Storage("0", 4), (2, 2), (4, 1)),
    "storage larger than the file": Tensor(Storage("0", HUGE), (HUGE,), (1,)),
    "large storage, small tensor": Tensor(Storage("0", HUGE), (1,), (1,)),
    "negative shape": Tensor(Storage("0", 4), (-1,), (1,)),
    "negative stride": Tensor(Storage("0", 4), (4,), (-1,)),
    "negative offset": Tensor(Storage("0", 4), (1,), (1,), offset=-1),
    "negative storage": Tensor(Storage("0", -4), (1,), (1,)),
    "shape that overflows 64 bits": Tensor(Storage("0", 4), (1 << 33, 1 << 33), (0, 0)),
    "integers of 100 digits": Tensor(Storage("0", 4), (10**100,), (1,)),
    "integer of 200 bytes": 1 << 1600,
    "storage that is not there": Tensor(Storage("7", 4), (4,), (1,)),
    "key that leaves the archive": Tensor(Storage("../../etc/passwd", 4), (4,), (1,)),
    "two sizes for one storage": [
        Tensor(Storage("0", 4), (4,), (1,)),
        Tensor(Storage("0", 8), (4,), (1,)),
    ],
    "storage shared beyond reason": [Tensor(Storage("0", 4), (2, 2), (2, 1)) for _ in range(6_000)],
    "shape without strides": Tensor(Storage("0", 4), (2, 2), (1,)),
    "a tensor on a number": Tensor(4, (2, 2), (2, 1)),  # type: ignore[arg-type]
}


@both_writers
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_absurd_claims(tmp_path: Path, write: Callable[..., Path], claim: object) -> None:
    refusal(write(tmp_path / "c.pth", {"w": claim}))


def test_legacy_list_of_storages_must_fit(tmp_path: Path) -> None:
    root = pickled({"w": Tensor(Storage("0", 4), (4,), (1,))}, legacy=True)
    # Without its key in the list, torch would leave the storage as the memory was.
    refusal(write_legacy(tmp_path / "a", root, {}))
    refusal(write_legacy(tmp_path / "b", root, {"0": FOUR, "1": FOUR}))
    refusal(write_legacy(tmp_path / "c", root, {"0": FOUR + FOUR}))


PICKLES = {
    "nested lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "nested tuple as a key": b"\x80\x02})" + b"\x85" * 500_000 + b"Ns.",
    "shared tuple as a key": b"\x80\x02}N" + b"q\x00h\x00\x86" * 60 + b"Ns.",
    "shared tuple as a function": b"\x80\x02N" + b"q\x00h\x00\x86" * 60 + b")R.",
    "huge memo index": b"\x80\x02}r\xff\xff\xff\xff.",
    "huge string": b"\x80\x02X\xff\xff\xff\xff.",
    "huge bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "many marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
    "many objects": b"\x80\x02(" + b"}" * 3_000_000 + b"l.",
    "no end": b"\x80\x02}",
    "underflow": b"\x80\x02s.",
    "unknown memo": b"\x80\x02h\x09.",
    "unknown opcode": b"\x80\x02\xf0.",
    "old-style call": b"\x80\x02(S'true'\ni__builtin__\neval\n.",
    "name without an end": b"\x80\x02c" + b"a" * 100_000,
    "long name": b"\x80\x02c" + b"a" * 4000 + b"\nb\n.",
    "escape codes": b"\x80\x02c\x1b[2J\x1b]0;x\x07\nb\n.",
    "string as a storage": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "item for a number": b"\x80\x02K\x01K\x02K\x03s.",
    "codec by name": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "invalid text": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
}


@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES)
def test_pickle_bombs(tmp_path: Path, data: bytes) -> None:
    for path in (
        write_zip(tmp_path / "a.pth", data),
        write_legacy(tmp_path / "b.pth", data),
    ):
        with pytest.raises(BitexportError) as caught:
            read_checkpoint(path)
        assert "\x1b" not in str(caught.value)


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """In a process of its own, as the peak of a process never falls again."""
    for i, claim in enumerate(CLAIMS.values()):
        for write in WRITERS:
            write(tmp_path / f"{write.__name__}{i}", {"w": claim})
    for i, data in enumerate(PICKLES.values()):
        write_zip(tmp_path / f"pickle{i}", data)
    write_zip(tmp_path / "bomb", GOOD_PKL, {"0": bytes(300 << 20)}, zipfile.ZIP_DEFLATED)
    allocation = {"x": Call(bytearray, (1 << 31,))}
    zipped(tmp_path / "bytearray", allocation)
    (tmp_path / "header").write_bytes(struct.pack("<Q", HUGE) + b'{"a":1}')
    script = textwrap.dedent(
        """
        import pathlib, resource, sys
        from bitexport.checkpoint import read_checkpoint
        from bitexport.errors import BitexportError

        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before, refused = peak(), 0
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                read_checkpoint(path)
            except BitexportError:
                refused += 1
        print(refused, (peak() - before) // 1024)
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    refused, mebibytes = map(int, result.stdout.split())
    assert refused == len(list(tmp_path.iterdir()))
    # A million stand-ins of the bomb "many objects" take the most of it.
    assert mebibytes < 200
    assert not result.stderr
