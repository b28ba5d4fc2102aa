"""A file that is read by ranges: the bytes are those of the file, and what is asked for is not more than it has to be."""

from __future__ import annotations

import io
import os
import random

import pytest

from batchflex.storage.ranges import LEAST_BYTES, MOST_BYTES, RangeFile

DATA = os.urandom(1 << 20) * 24


class Asked(list[tuple[int, int]]):
    def fetch(self, begin: int, end: int) -> bytes:
        assert 0 <= begin < end <= len(DATA)
        self.append((begin, end))
        return DATA[begin:end]


@pytest.mark.parametrize("ahead", [True, False])
def test_it_reads_as_a_file_does(ahead: bool) -> None:
    chance, here = random.Random(5), io.BytesIO(DATA)
    there = RangeFile(Asked().fetch, len(DATA), ahead=ahead)
    for _ in range(300):
        if chance.random() < 0.5:
            whence = chance.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
            offset = chance.randrange(len(DATA)) if whence == os.SEEK_SET else -chance.randrange(2_000)
            offset = max(offset, -here.tell()) if whence == os.SEEK_CUR else offset
            assert here.seek(offset, whence) == there.seek(offset, whence)
        size = chance.choice([0, 1, 100, 70_000, 300_000])
        assert here.read(size) == there.read(size) and here.tell() == there.tell()
    here.seek(-5, os.SEEK_END), there.seek(-5, os.SEEK_END)
    assert here.read() == there.read() and there.read(1) == b""
    assert RangeFile(Asked().fetch, 0).read() == b""
    with there:
        pass
    with pytest.raises(ValueError, match="closed"):
        there.read(1)


def test_a_stream_takes_few_requests_and_a_beginning_few_bytes() -> None:
    asked = Asked()
    assert RangeFile(asked.fetch, len(DATA)).read(10) == DATA[:10]
    assert asked == [(0, LEAST_BYTES)]
    asked.clear()
    with io.BufferedReader(RangeFile(asked.fetch, len(DATA))) as stream:
        assert b"".join(iter(lambda: stream.read(5_000), b"")) == DATA
    assert len(asked) < 10 and sum(end - begin for begin, end in asked) == len(DATA)
    assert max(end - begin for begin, end in asked) <= MOST_BYTES


def test_without_reading_ahead_nothing_is_fetched_that_was_not_asked_for() -> None:
    asked = Asked()
    file = RangeFile(asked.fetch, len(DATA), ahead=False)
    for begin, size in ((5, 10), (15, 10), (1_000_000, 3)):
        file.seek(begin)
        assert file.read(size) == DATA[begin : begin + size]
    assert asked == [(5, 15), (15, 25), (1_000_000, 1_000_003)]
