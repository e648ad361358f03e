"""The one place in Python that knows how signs and codes lie in 32-bit words.

Bit order ("sign words"): bit ``i`` (least significant first) of word ``j`` is channel
``32 * j + i``; a set bit means +1, a clear bit -1. The last word of a channel count that is
no multiple of 32 is filled up with 0 bits, which stand for no channel at all.

Code order ("code words"): four ``uint8`` or two ``uint16`` codes in a word, the first code in
the least significant bits; missing codes at the end of a row are 0.

``plugins/core/packing.h`` is the C++ side; ``tests/test_packing_cpp.py`` proves them equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "CHANNELS_PER_WORD",
    "code_words",
    "pack_codes",
    "pack_signs",
    "sign_words",
    "unpack_codes",
    "unpack_signs",
]

CHANNELS_PER_WORD = 32
_WORD_BYTES = 4


def sign_words(channels: int) -> int:
    """Number of 32-bit words that hold ``channels`` signs."""
    return -(-channels // CHANNELS_PER_WORD)


def code_words(codes: int, code_bits: int) -> int:
    """Number of 32-bit words that hold ``codes`` codes of ``code_bits`` (8 or 16) bits."""
    return -(-codes * code_bits // 32)


def pack_signs(positive: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Pack signs along the last axis.

    Args:
        positive: bool [..., channels]; True where the sign is +1.

    Returns:
        int32 [..., ceil(channels / 32)], in the module's bit order.
    """
    packed = np.packbits(np.asarray(positive, dtype=np.bool_), axis=-1, bitorder="little")
    return _bytes_to_words(packed)


def unpack_signs(words: npt.NDArray[np.int32], channels: int) -> npt.NDArray[np.bool_]:
    """Inverse of :func:`pack_signs`.

    Args:
        words: int32 [..., ceil(channels / 32)].
        channels: Number of signs in the last axis.

    Returns:
        bool [..., channels]; True where the sign is +1.

    Raises:
        ValueError: The last axis does not have ceil(channels / 32) words.
    """
    if words.shape[-1] != sign_words(channels):
        raise ValueError(
            f"{words.shape[-1]} words cannot hold {channels} signs, need {sign_words(channels)}"
        )
    octets = _words_to_bytes(words)
    return np.unpackbits(octets, axis=-1, count=channels, bitorder="little").astype(np.bool_)


def pack_codes(codes: npt.NDArray[Any], code_bits: int) -> npt.NDArray[np.int32]:
    """Pack codebook indices along the last axis.

    Args:
        codes: Unsigned integers [..., n], each below ``2 ** code_bits``.
        code_bits: 8 (four codes a word) or 16 (two codes a word).

    Returns:
        int32 [..., ceil(n * code_bits / 32)], in the module's code order.

    Raises:
        ValueError: A code is no integer or does not fit, or ``code_bits`` is neither 8 nor 16.
    """
    dtype = _code_dtype(code_bits)
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise ValueError(f"codes are integers, not {codes.dtype}")
    if codes.size and (codes.min() < 0 or codes.max() >= 1 << code_bits):
        raise ValueError(f"codes span {codes.min()}..{codes.max()}, need 0..{2**code_bits - 1}")
    narrow = np.ascontiguousarray(codes.astype(dtype))
    return _bytes_to_words(narrow.view(np.uint8))


def unpack_codes(
    words: npt.NDArray[np.int32], count: int, code_bits: int
) -> npt.NDArray[np.uint16]:
    """Inverse of :func:`pack_codes`.

    Args:
        words: int32 [..., ceil(count * code_bits / 32)].
        count: Number of codes in the last axis.
        code_bits: 8 or 16.

    Returns:
        uint16 [..., count].

    Raises:
        ValueError: The last axis has another number of words.
    """
    if words.shape[-1] != code_words(count, code_bits):
        raise ValueError(
            f"{words.shape[-1]} words cannot hold {count} codes of {code_bits} bits, "
            f"need {code_words(count, code_bits)}"
        )
    octets = np.ascontiguousarray(_words_to_bytes(words))
    return octets.view(_code_dtype(code_bits))[..., :count].astype(np.uint16)


def _code_dtype(code_bits: int) -> np.dtype[Any]:
    if code_bits not in (8, 16):
        raise ValueError(f"codes have 8 or 16 bits, not {code_bits}")
    return np.dtype("<u1") if code_bits == 8 else np.dtype("<u2")


def _bytes_to_words(octets: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    missing = -octets.shape[-1] % _WORD_BYTES
    padding = [(0, 0)] * (octets.ndim - 1) + [(0, missing)]
    filled = np.ascontiguousarray(np.pad(octets, padding))
    return filled.view(np.dtype("<i4")).astype(np.int32, copy=False)


def _words_to_bytes(words: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(words.astype(np.dtype("<i4"), copy=False)).view(np.uint8)
