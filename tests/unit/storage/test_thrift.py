"""Thrift's compact protocol: what is read is written alike, and whatever else is given is refused."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given, settings, strategies as st

from batchflex.core.types import Outcome
from batchflex.storage import part_files
from batchflex.storage.thrift import BINARY, BYTE, I32, LIST, STRUCT, Damaged, read, written
from tests.support.outcomes import any_outcomes, outcome

_DEPTHS = st.integers(0, 12)


def footer_of(outcomes: list[Outcome]) -> bytes:
    out = io.BytesIO()
    part_files.fill(out, outcomes, void=["run"])
    whole = out.getvalue()
    return whole[-8 - int.from_bytes(whole[-8:-4], "little") : -8]


FOOTER = footer_of([outcome(row, content="é", carry='{"a":[1]}') for row in range(30)])


@settings(max_examples=20)
@given(st.lists(any_outcomes(), max_size=8), _DEPTHS)
def test_a_footer_is_read_and_written_alike(outcomes: list[Outcome], depth: int) -> None:
    footer = footer_of(outcomes)
    found, end = read(footer, 0, depth)
    assert (written(found), end) == (footer, len(footer))


def test_fields_are_known_by_their_numbers() -> None:
    fields = {
        1: (I32, -5),
        3: (BINARY, b"x"),
        40: (LIST, (STRUCT, [{2: (I32, 1 << 30)}, {}])),
        41: (BYTE, b"\x07"),
        42: (1, None),
    }
    data = written(fields)
    assert read(b"..." + data, 3, 9) == (fields, len(data) + 3)
    assert read(data, 0, 1)[0] == fields | {40: (LIST, b"\x2c" + written({2: (I32, 1 << 30)}) + b"\0")}


@given(st.data())
def test_a_footer_that_is_cut_off_is_none(data: st.DataObject) -> None:
    with pytest.raises(Damaged):
        read(FOOTER[: data.draw(st.integers(0, len(FOOTER) - 1))], 0, data.draw(_DEPTHS))


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.integers(0, len(FOOTER)).map(lambda at: FOOTER[at:]), _DEPTHS)
@example(b"\x1c" * 100_000, 12)  # structs in each other
@example(b"\x1c" * 100_000, 0)
@example(b"\x19" * 100_000, 12)  # lists
@example(b"\x19\xf3" + b"\xff" * 8 + b"\x7f", 12)  # more bytes than there are
@example(b"\x19\xf1" + b"\xff" * 8 + b"\x7f", 0)
@example(b"\x18" + b"\xff" * 8 + b"\x7f", 12)
@example(b"\x15" + b"\xff" * 100_000, 12)  # a number without an end
@example(b"\x1b\x01\x55\x01\x01\0", 12)  # a map, which Parquet has none of
@example(b"\x10\0", 0)
def test_whatever_is_read_it_is_a_struct_or_damaged(data: bytes, depth: int) -> None:
    is_struct_or_damaged(data, depth)


@settings(max_examples=300)
@given(st.integers(0, len(FOOTER) - 1), st.integers(1, 255), _DEPTHS)
def test_whatever_byte_of_a_footer_is_changed_it_is_a_struct_or_damaged(at: int, by: int, depth: int) -> None:
    is_struct_or_damaged(FOOTER[:at] + bytes([FOOTER[at] ^ by]) + FOOTER[at + 1 :], depth)


def is_struct_or_damaged(data: bytes, depth: int) -> None:
    try:
        found, end = read(data, 0, depth)
    except Damaged:
        return
    assert end <= len(data)
    assert read(written(found), 0, depth)[0] == found
