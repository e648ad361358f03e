"""Mutations of bytes that know nothing of a format, and numbers that programs trip over."""

from __future__ import annotations

import random
import struct

NUMBERS = (
    0, 1, -1, 2, 3, 7, 8, 16, 31, 32, 33, 64, 127, 128, 255, 256, 32767, 65535, 65536,
    2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**33, 10**12, 2**40, 2**53, 2**62,
    2**63 - 1, -(2**63),
)  # fmt: skip
WORDS = (
    "", " ", ".", "..", "/", "weight", "../../etc/passwd", "/dev/zero", "a" * 5000, "\x00",
    "\x1b[2J", "\u00e9", "\u202e", "%s%n", "nan", "__class__", "module.", "\n", "[bold]", "-1",
)  # fmt: skip


def number(rng: random.Random) -> int:
    """A small, a huge, or an odd number."""
    if rng.random() < 0.3:
        return rng.randrange(-4, 70)
    return rng.choice(NUMBERS) + rng.choice((0, 0, 0, 1, -1))


def int64(rng: random.Random) -> int:
    """Such a number, if it is one of 64 bits, or else the nearest."""
    return max(-(2**63), min(2**63 - 1, number(rng)))


def damage(data: bytes, rng: random.Random, *, most: int = 6) -> bytes:
    """Some bytes flipped, cut, moved, doubled or replaced."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not changed:
            break
        rng.choice(_STEPS)(changed, rng)
    return bytes(changed)


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, but often near the ends, where headers and directories are."""
    width = len(data) if rng.random() < 0.5 else min(len(data), 512)
    at = rng.randrange(width)
    return at if rng.random() < 0.6 else len(data) - 1 - at


def _flip(data: bytearray, rng: random.Random) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    data[_place(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 8, 64, 1000))]


def _double(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    part = bytes(data[at : at + rng.choice((1, 4, 16, 200, 5000))])
    data[at:at] = part * rng.choice((1, 1, 2, 10))


def _insert(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 100)))


def _number(data: bytearray, rng: random.Random) -> None:
    width, code = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
    at = _place(data, rng)
    order = rng.choice("<>")
    value = struct.pack(order + code, number(rng) & ((1 << 8 * width) - 1))
    data[at : at + width] = value


_STEPS = (_flip, _flip, _set, _set, _cut, _remove, _double, _insert, _number, _number)
