"""packing.py: known words, round trips, refusals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitexport.packing import (
    CHANNELS_PER_WORD,
    code_words,
    pack_codes,
    pack_signs,
    sign_words,
    unpack_codes,
    unpack_signs,
)

# Derandomized: the same examples in every run.
repeatable = settings(derandomize=True, deadline=None)
leading = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
lengths = st.integers(0, 100)
code_widths = st.sampled_from([8, 16])


def signs_with(positive: list[int], channels: int) -> npt.NDArray[np.bool_]:
    signs = np.zeros(channels, np.bool_)
    signs[positive] = True
    return signs


@pytest.mark.parametrize(
    ("positive", "channels", "expected"),
    [
        ([], 1, [0]),
        ([0], 1, [1]),
        ([0], 32, [1]),
        ([5], 32, [32]),
        ([31], 32, [-2147483648]),
        (list(range(32)), 32, [-1]),
        ([32], 33, [0, 1]),
        ([31, 33], 40, [-2147483648, 2]),
        (list(range(33)), 33, [-1, 1]),
        (list(range(3)), 3, [7]),
    ],
)
def test_known_sign_words(positive: list[int], channels: int, expected: list[int]) -> None:
    words = pack_signs(signs_with(positive, channels))
    assert words.dtype == np.int32
    assert words.tolist() == expected


@pytest.mark.parametrize(
    ("codes", "bits", "expected"),
    [
        ([1, 2, 3, 4], 8, [0x04030201]),
        ([1, 2, 3, 4, 5], 8, [0x04030201, 0x05]),
        ([0, 0, 0, 255], 8, [-16777216]),
        ([1, 2, 3], 16, [0x00020001, 0x0003]),
        ([65535, 0], 16, [0x0000FFFF]),
        ([0, 65535], 16, [-65536]),
    ],
)
def test_known_code_words(codes: list[int], bits: int, expected: list[int]) -> None:
    words = pack_codes(np.array(codes), bits)
    assert words.dtype == np.int32
    assert words.tolist() == expected


@pytest.mark.parametrize(("channels", "words"), [(0, 0), (1, 1), (32, 1), (33, 2), (64, 2)])
def test_sign_words(channels: int, words: int) -> None:
    assert sign_words(channels) == words


@pytest.mark.parametrize(
    ("count", "bits", "words"), [(0, 8, 0), (1, 8, 1), (4, 8, 1), (5, 8, 2), (2, 16, 1), (3, 16, 2)]
)
def test_code_words(count: int, bits: int, words: int) -> None:
    assert code_words(count, bits) == words


@repeatable
@given(data=st.data(), shape=leading, channels=lengths)
def test_signs_round_trip(data: st.DataObject, shape: tuple[int, ...], channels: int) -> None:
    signs = data.draw(arrays.arrays(np.bool_, (*shape, channels)))
    words = pack_signs(signs)
    assert words.shape == (*shape, sign_words(channels))
    np.testing.assert_array_equal(unpack_signs(words, channels), signs)


@repeatable
@given(data=st.data(), channels=lengths)
def test_bits_past_the_last_channel_are_clear(data: st.DataObject, channels: int) -> None:
    signs = data.draw(arrays.arrays(np.bool_, (2, channels)))
    words = pack_signs(signs)
    whole = unpack_signs(words, sign_words(channels) * CHANNELS_PER_WORD)
    assert not whole[:, channels:].any()


@repeatable
@given(data=st.data(), shape=leading, count=lengths, bits=code_widths)
def test_codes_round_trip(
    data: st.DataObject, shape: tuple[int, ...], count: int, bits: int
) -> None:
    codes = data.draw(
        arrays.arrays(np.int64, (*shape, count), elements=st.integers(0, 2**bits - 1))
    )
    words = pack_codes(codes, bits)
    assert words.shape == (*shape, code_words(count, bits))
    unpacked = unpack_codes(words, count, bits)
    assert unpacked.dtype == np.uint16
    np.testing.assert_array_equal(unpacked, codes)


def test_views_pack_like_their_copies() -> None:
    rng = np.random.default_rng(3)
    signs = rng.integers(0, 2, (5, 3, 70)).astype(np.bool_).transpose(1, 0, 2)[..., ::-1]
    words = pack_signs(signs)
    np.testing.assert_array_equal(words, pack_signs(signs.copy()))
    np.testing.assert_array_equal(unpack_signs(words.transpose(1, 0, 2)[::-1], 70)[0], signs[:, 4])
    codes = rng.integers(0, 256, (6, 18)).T[::2]
    np.testing.assert_array_equal(pack_codes(codes, 8), pack_codes(codes.copy(), 8))


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        ([0, 256], 8, "need 0..255"),
        ([65536], 16, "need 0..65535"),
        ([-1, 3], 8, "codes span -1..3"),
        ([1], 4, "8 or 16 bits, not 4"),
        ([1], 32, "8 or 16 bits, not 32"),
    ],
)
def test_codes_that_cannot_be_packed(codes: list[int], bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_codes(np.array(codes), bits)


@pytest.mark.parametrize(("words", "channels"), [(1, 33), (2, 32), (0, 1), (1, 0)])
def test_signs_in_a_wrong_number_of_words(words: int, channels: int) -> None:
    with pytest.raises(ValueError, match=f"need {sign_words(channels)}"):
        unpack_signs(np.zeros((2, words), np.int32), channels)


@pytest.mark.parametrize(("words", "count", "bits"), [(1, 5, 8), (2, 4, 8), (1, 3, 16), (1, 0, 16)])
def test_codes_in_a_wrong_number_of_words(words: int, count: int, bits: int) -> None:
    with pytest.raises(ValueError, match=f"need {code_words(count, bits)}"):
        unpack_codes(np.zeros((2, words), np.int32), count, bits)


def test_unpacking_refuses_other_code_widths() -> None:
    with pytest.raises(ValueError, match="8 or 16 bits, not 32"):
        unpack_codes(np.zeros((2, 4), np.int32), 4, 32)
