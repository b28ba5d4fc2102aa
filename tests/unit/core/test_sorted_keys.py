"""Sets of keys, held against Python's own."""

import hashlib
import random

import polars as pl
import pyarrow as pa
from hypothesis import given, settings, strategies as st

from batchflex.core.request_keys import KeySet
from batchflex.core.sorted_keys import SortedKeys, key_halves
from batchflex.storage import part_index

MODERATE = settings(deadline=None, max_examples=60)


def halves_of_hex(keys: pl.Series) -> pl.DataFrame:
    """Keys written as 32 hexadecimal digits, as :func:`key_halves` gives them."""
    return pl.DataFrame(
        {
            "hi": keys.str.slice(0, 16).str.decode("hex").bin.reinterpret(dtype=pl.UInt64, endianness="little"),
            "lo": keys.str.slice(16, 16).str.decode("hex").bin.reinterpret(dtype=pl.UInt64, endianness="little"),
        }
    )


def key(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


NUMBERS = st.lists(st.integers(0, 40), max_size=30)


@MODERATE
@given(st.lists(NUMBERS, max_size=12))
def test_a_key_set_answers_as_a_set_would(calls):
    keys, plain = KeySet(), set()
    for numbers in calls:
        expected = []
        for number in numbers:
            expected.append(number in plain)
            plain.add(number)
        assert keys.add([key(number) for number in numbers]) == expected


def test_a_large_key_set_stays_right_through_its_merges(monkeypatch):
    monkeypatch.setattr(KeySet, "_LARGEST", 20_000)  # so that there are several runs that are not merged any more
    keys, numbers = KeySet(), list(range(60_000))
    random.Random(1).shuffle(numbers)
    for start in range(0, 60_000, 500):
        block = [key(number) for number in numbers[start : start + 500]]
        assert not any(keys.add(block))
    for start in range(0, 60_000, 5_000):
        assert all(keys.add([key(number) for number in numbers[start : start + 5_000]]))
    assert not any(keys.add([key(number) for number in range(60_000, 61_000)]))


def test_many_keys_that_are_given_in_order_are_found_before_and_after_they_are_marked():
    keys, numbers = KeySet(), range(20_000)
    for some in (numbers[:19_000], numbers[19_000:19_990]):
        keys.add_all(key_halves([key(number) for number in some]).sort("hi"))
    keys.add_all(key_halves([key(number) for number in numbers[19_990:]]))
    was_marked = []
    for start in range(19_500, 20_500, 50):
        assert keys.find([key(number) for number in range(start, start + 50)]) == [start < 20_000] * 50
        was_marked.append(keys._bitmap is not None)
    assert was_marked == sorted(was_marked) and {*was_marked} == {False, True}
    keys.add_all(key_halves([key(number) for number in range(20_000, 21_000)]).sort("hi"))
    assert all(keys.add([key(number) for number in range(21_000)])) and not keys.add([key(21_000)])[0]


def test_keys_that_share_their_first_half_are_told_apart():
    keys = KeySet()
    assert keys.add([b"a" * 8 + b"1" * 8]) == [False]
    assert keys.add([b"a" * 8 + b"2" * 8]) == [False]


@MODERATE
@given(st.lists(st.integers(0, 1000), unique=True, max_size=60), NUMBERS)
def test_sorted_keys_find_the_position(members, wanted):
    index = SortedKeys(key_halves([key(number) for number in members]))
    assert len(index) == len(members)
    expected = [members.index(number) if number in members else -1 for number in wanted]
    assert index.find(key_halves([key(number) for number in wanted])) == expected


def test_both_ways_of_writing_a_key_are_one():
    keys = [key(number) for number in range(100)]
    written = [k.hex() for k in keys]
    assert part_index._halves(pa.chunked_array([written[:30], written[30:]]), "").equals(key_halves(keys))
    assert halves_of_hex(pl.Series(written)).equals(key_halves(keys))
    assert key_halves([]).equals(halves_of_hex(pl.Series([], dtype=pl.String)))
