"""Python and C++ agree on the order of bits and codes, and on the op table."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import plugins_build
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitexport.ops.table import DOMAIN, OP_VERSION, OPS, PLUGIN_ATTRIBUTES
from bitexport.packing import (
    code_words,
    pack_codes,
    pack_signs,
    sign_words,
    unpack_codes,
    unpack_signs,
)

PACK, UNPACK = 0, 1
SIGNS = 1

# Derandomized: the same examples in every run. No deadline: an example starts a process.
repeatable = settings(derandomize=True, deadline=None, max_examples=60)
shapes = st.tuples(st.integers(1, 3), st.integers(0, 100))
code_widths = st.sampled_from([8, 16])
words = arrays.from_dtype(np.dtype("<i4"))


@pytest.fixture(scope="session")
def packing_dump() -> Path:
    return plugins_build.build("plain") / "tests" / "packing_dump"


def ask(program: Path, request: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, "packing"], input=request, capture_output=True, check=False)


def request_of(direction: int, mode: int, columns: int, data: npt.NDArray[np.generic]) -> bytes:
    header = struct.pack("<5I", direction, mode, data.shape[0], columns, data.nbytes)
    return header + data.tobytes()


def answer(
    program: Path, direction: int, mode: int, columns: int, data: npt.NDArray[np.generic], to: str
) -> npt.NDArray[np.generic]:
    result = ask(program, request_of(direction, mode, columns, data))
    assert result.returncode == 0, result.stderr.decode()
    flat = np.frombuffer(result.stdout, np.dtype(to))
    return flat.reshape(data.shape[0], flat.size // data.shape[0])


@repeatable
@given(positive=arrays.arrays(np.bool_, shapes))
def test_signs_pack_alike(packing_dump: Path, positive: npt.NDArray[np.bool_]) -> None:
    in_cpp = answer(packing_dump, PACK, SIGNS, positive.shape[1], positive.view(np.uint8), "<i4")
    np.testing.assert_array_equal(in_cpp, pack_signs(positive))


@repeatable
@given(data=st.data(), shape=shapes)
def test_signs_unpack_alike(
    packing_dump: Path, data: st.DataObject, shape: tuple[int, int]
) -> None:
    rows, channels = shape
    packed = data.draw(arrays.arrays("<i4", (rows, sign_words(channels)), elements=words))
    in_cpp = answer(packing_dump, UNPACK, SIGNS, channels, packed, "<u1")
    np.testing.assert_array_equal(in_cpp, unpack_signs(packed, channels))


@repeatable
@given(data=st.data(), shape=shapes, bits=code_widths)
def test_codes_pack_alike(
    packing_dump: Path, data: st.DataObject, shape: tuple[int, int], bits: int
) -> None:
    codes = data.draw(arrays.arrays("<u2", shape, elements=st.integers(0, 2**bits - 1)))
    in_cpp = answer(packing_dump, PACK, bits, shape[1], codes, "<i4")
    np.testing.assert_array_equal(in_cpp, pack_codes(codes, bits))


@repeatable
@given(data=st.data(), shape=shapes, bits=code_widths)
def test_codes_unpack_alike(
    packing_dump: Path, data: st.DataObject, shape: tuple[int, int], bits: int
) -> None:
    rows, count = shape
    packed = data.draw(arrays.arrays("<i4", (rows, code_words(count, bits)), elements=words))
    in_cpp = answer(packing_dump, UNPACK, bits, count, packed, "<u2")
    np.testing.assert_array_equal(in_cpp, unpack_codes(packed, count, bits))


def test_both_refuse_a_code_that_does_not_fit(packing_dump: Path) -> None:
    codes = np.array([[3, 256]], "<u2")
    with pytest.raises(ValueError, match=r"need 0\.\.255"):
        pack_codes(codes, 8)
    result = ask(packing_dump, request_of(PACK, 8, 2, codes))
    assert result.returncode == 2
    assert b"does not fit in 8 bits" in result.stderr


def test_one_stream_carries_many_requests(packing_dump: Path) -> None:
    signs = np.ones((1, 33), np.uint8)
    codes = np.array([[1, 2]], "<u2")
    stream = request_of(PACK, SIGNS, 33, signs) + request_of(PACK, 16, 2, codes)
    result = ask(packing_dump, stream)
    assert np.frombuffer(result.stdout, "<i4").tolist() == [-1, 1, 0x00020001]


@pytest.mark.parametrize(
    ("request_bytes", "message"),
    [
        (struct.pack("<5I", 0, 1, 1, 4, 4), b"ends within the data"),
        (struct.pack("<5I", 0, 1, 1, 4, 3) + bytes(3), b"got 3 bytes of data, expected 4"),
        (struct.pack("<5I", 2, 1, 1, 4, 4) + bytes(4), b"direction must be 0 or 1"),
        (struct.pack("<5I", 0, 4, 1, 4, 4) + bytes(4), b"mode must be 1, 8 or 16"),
        (bytes(7), b"ends within a request"),
    ],
)
def test_damaged_requests_are_refused(
    packing_dump: Path, request_bytes: bytes, message: bytes
) -> None:
    result = ask(packing_dump, request_bytes)
    assert result.returncode == 2
    assert message in result.stderr


def test_op_tables_are_equal(packing_dump: Path) -> None:
    in_python = {
        "domain": DOMAIN,
        "version": OP_VERSION,
        "plugin_attributes": PLUGIN_ATTRIBUTES,
        "ops": [
            {
                "name": op.name,
                "kind": op.kind,
                "inputs": [{"name": x.name, "dtype": x.dtype} for x in op.inputs],
                "attributes": [{"name": a.name, "count": a.count} for a in op.attributes],
            }
            for op in OPS
        ],
    }
    assert json.loads(plugins_build.run([packing_dump, "op-table"])) == in_python
