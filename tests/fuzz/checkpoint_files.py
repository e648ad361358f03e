"""Mutated checkpoints: containers, their pickles, and what those claim."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickletools
import random
import struct
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forged_checkpoints import Call, Storage, Tensor, pickled, sound_file, write_legacy, write_zip

from fuzz.bytewise import WORDS, damage, number
from fuzz.targets import Input
from fuzz.worker import CANARY

SUFFIXES = (".pth", ".pth", ".pt", ".pth.tar", ".safetensors", ".bin", "")
CONTAINERS = ("torch zip", "torch legacy", "safetensors")
_SAFE_DTYPES = ("F32", "F16", "BF16", "U8", "I64", "BOOL", "F8_E4M3", "F4", "X", "")

Seeds = dict[str, bytes]


def seeds(folder: Path) -> Seeds:
    """A small sound file in each container."""
    return {name: sound_file(folder / "sound", name).read_bytes() for name in CONTAINERS}


def mutate(given: Seeds, rng: random.Random) -> Input:
    """A damaged, rearranged or forged checkpoint."""
    way = _zip_bomb if rng.random() < 0.003 else rng.choice(_WAYS)
    return Input(way(given, rng), rng.choice(SUFFIXES))


def _damaged(given: Seeds, rng: random.Random) -> bytes:
    return damage(given[rng.choice(CONTAINERS)], rng)


def _damaged_pickle(given: Seeds, rng: random.Random) -> bytes:
    """A sound zip around a damaged pickle."""
    with zipfile.ZipFile(io.BytesIO(given["torch zip"])) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in files if name.endswith("/data.pkl"))
    shuffle = _shuffled_opcodes if rng.random() < 0.5 else damage
    return _rezipped({**files, name: shuffle(files[name], rng)}, rng)


def _damaged_legacy(given: Seeds, rng: random.Random) -> bytes:
    """Opcodes of the fourth pickle of a legacy file, which is the state."""
    data, at = given["torch legacy"], 0
    ends = []
    for _ in range(5):
        *_, (_, _, last) = pickletools.genops(data[at:])
        at += (last or 0) + 1
        ends.append(at)
    which = rng.randrange(5)
    start = ends[which - 1] if which else 0
    return data[:start] + _shuffled_opcodes(data[start : ends[which]], rng) + data[ends[which] :]


def _shuffled_opcodes(data: bytes, rng: random.Random) -> bytes:
    """Opcodes removed, doubled, exchanged, or given another argument."""
    places = [at for _, _, at in pickletools.genops(data)] + [len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(rng.randint(1, 4)):
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        way = rng.randrange(5)
        if way == 0 and len(parts) > 1:
            del parts[i]
        elif way == 1:
            parts.insert(j, parts[i])
        elif way == 2:
            parts[i], parts[j] = parts[j], parts[i]
        elif way == 3:
            parts[i] = rng.choice(_OPCODES)(rng)
        else:
            parts[i] = parts[i][:1] + damage(parts[i][1:], rng, most=1)
    return b"".join(parts)


_OPCODES: tuple[Callable[[random.Random], bytes], ...] = (
    lambda rng: b"J" + struct.pack("<i", max(-(2**31), min(2**31 - 1, number(rng)))),
    lambda rng: b"\x8a\x08" + struct.pack("<q", max(-(2**63), min(2**63 - 1, number(rng)))),
    lambda rng: b"r" + struct.pack("<I", number(rng) & 0xFFFFFFFF),
    lambda rng: b"X" + struct.pack("<I", number(rng) & 0xFFFFFFFF),
    lambda rng: b"C" + rng.randbytes(1),
    lambda rng: rng.choice(
        (b"(", b")", b"]", b"}", b"t", b"\x85", b"\x86", b"u", b"s", b"R", b"Q")
    ),
    lambda rng: rng.choice(
        (b"b", b"\x81", b"\x92", b"\x93", b"0", b"1", b"2", b".", b"N", b"\x88")
    ),
    lambda rng: rng.choice((b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nFloatStorage\n")),
)


def _rezipped(files: dict[str, bytes], rng: random.Random) -> bytes:
    """A zip with records added, dropped, renamed or compressed, and perhaps a bad directory."""
    entries = list(files.items())
    for _ in range(rng.choice((0, 0, 1, 2))):
        i = rng.randrange(len(entries))
        name, content = entries[i]
        way = rng.randrange(5)
        if way == 0 and len(entries) > 1:
            del entries[i]
        elif way == 1:
            entries.insert(rng.randrange(len(entries)), (name, damage(content or b"x", rng)))
        elif way == 2:
            entries[i] = (
                rng.choice((name.upper(), f"../{name}", f"/{name}", name[1:] or "x")),
                content,
            )
        elif way == 3:
            entries[i] = (name, bytes(rng.choice((0, 1, 1 << 16, 1 << 22))))
        else:
            rng.shuffle(entries)
    stream = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, content in entries:
            archive.writestr(name, content)
    data = stream.getvalue()
    if rng.random() < 0.3:
        directory = data.index(b"PK\x01\x02")
        data = data[:directory] + damage(data[directory:], rng)
    return data


def _zip_bomb(given: Seeds, rng: random.Random) -> bytes:
    del given
    size = rng.choice((1 << 20, 1 << 24, 1 << 26))
    pkl = pickled({"w": Tensor(Storage("0", size // 4), (size // 4,), (1,))})
    with tempfile.TemporaryDirectory() as folder:
        path = write_zip(Path(folder) / "z", pkl, {"0": bytes(size)}, zipfile.ZIP_DEFLATED)
        data = path.read_bytes()
    return damage(data, rng, most=2) if rng.random() < 0.5 else data


def _forged(given: Seeds, rng: random.Random) -> bytes:
    """A pickle that claims what it likes, and calls what it likes."""
    del given
    held = {str(i): rng.randbytes(4 * rng.randrange(9)) for i in range(rng.randint(1, 4))}
    legacy = rng.random() < 0.4
    protocol = rng.choice((2, 2, 3, 4, 5))
    root = _value(rng, held, 0)
    if rng.random() < 0.7:
        root = {rng.choice(("state_dict", "model", "net", "x")): root, "epoch": number(rng)}
    data = pickled(root, legacy=legacy, protocol=protocol)
    if rng.random() < 0.2:
        data = _shuffled_opcodes(data, rng)
    with tempfile.TemporaryDirectory() as folder:
        write = write_legacy if legacy else write_zip
        return write(Path(folder) / "f", data, held).read_bytes()


def _value(rng: random.Random, held: dict[str, bytes], depth: int) -> Any:
    way = rng.random()
    if depth < 6 and way < 0.35:
        keys = [
            rng.choice((*WORDS, "conv1.weight", "bn1.bias", "w")) for _ in range(rng.randint(0, 5))
        ]
        return {key: _value(rng, held, depth + 1) for key in keys}
    if depth < 6 and way < 0.42:
        kind = rng.choice((list, tuple, OrderedDict))
        items = [_value(rng, held, depth + 1) for _ in range(rng.randint(0, 4))]
        return OrderedDict(enumerate(items)) if kind is OrderedDict else kind(items)
    if way < 0.8:
        return _claim(rng, held)
    if way < 0.87:
        return _call(rng)
    return rng.choice(
        (None, True, number(rng), float("nan"), float("inf"), rng.choice(WORDS), b"\x00" * 9, set())
    )


def _claim(rng: random.Random, held: dict[str, bytes]) -> Tensor:
    key = rng.choice([*held, *held, "9", "../0", "\x00"])
    elements = len(held.get(key, b"")) // 4
    if rng.random() < 0.5:
        return Tensor(Storage(key, elements), (elements,), (1,))
    shape = tuple(rng.choice((1, 2, elements, number(rng))) for _ in range(rng.randrange(5)))
    strides = tuple(rng.choice((0, 1, elements, number(rng))) for _ in shape)
    if rng.random() < 0.2:
        strides = strides[:-1]
    storage = Storage(
        key, rng.choice((elements, number(rng))), rng.choice(("cpu", "cuda:0", "meta", "xla", "é"))
    )
    return Tensor(storage, shape, strides, rng.choice((0, 1, number(rng))))


def _call(rng: random.Random) -> Call:
    """What must never happen, harmlessly."""
    touch = f"touch {CANARY}"
    make = f"open({CANARY!r}, 'w')"
    return rng.choice(
        (
            Call(os.system, (touch,)),
            Call(eval, (make,)),
            Call(exec, (make,)),
            Call(bytearray, (1 << 40,)),
            Call(torch.load, (CANARY,)),
            Call(torch.hub.load, ("x", "y")),
            Call(Path, (CANARY,)),
            Call(Path.touch, (Path(CANARY),)),
            Call(torch.empty, (1 << 40,)),
            Call(OrderedDict, ((("a", 1),),)),
        )
    )


def _safetensors(given: Seeds, rng: random.Random) -> bytes:
    """A header that is sound JSON and says something else."""
    data = given["safetensors"]
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(list(header))
        entry = header[key]
        way = rng.randrange(6)
        if way == 0:
            header[rng.choice(WORDS)] = header.pop(key)
        elif way == 1 and isinstance(entry, dict):
            entry["dtype"] = rng.choice(_SAFE_DTYPES)
        elif way == 2 and isinstance(entry, dict):
            entry["shape"] = [number(rng) for _ in range(rng.randrange(6))]
        elif way == 3 and isinstance(entry, dict):
            entry["data_offsets"] = [number(rng) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
        elif way == 4:
            header[rng.choice((key, "__metadata__", "x"))] = rng.choice(
                (None, 1, [], {}, {"a": "b"}, {"a": 1}, {"dtype": "F32"}, [[[]]])
            )
        else:
            header["deep"] = json.loads("[" * 200 + "]" * 200)
        if not header:
            break
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = text[:-1] + b',"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    said = len(text) if rng.random() < 0.9 else number(rng) & (2**64 - 1)
    return struct.pack("<Q", said) + text + body


_WAYS: tuple[Callable[[Seeds, random.Random], bytes], ...] = (
    *(_damaged,) * 3,
    *(_damaged_pickle,) * 4,
    *(_damaged_legacy,) * 2,
    *(_forged,) * 5,
    *(_safetensors,) * 3,
)
