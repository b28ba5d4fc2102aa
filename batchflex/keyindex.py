"""Sets of 128-bit keys that stay small and are looked up by the block.

A key costs 16 bytes here (a Python ``set`` of them: some 110). Ten million finished rows are 160 MB; a block of
4,096 keys is looked up in a few milliseconds. Keys are held as two unsigned 64-bit columns, sorted by the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa


def raw(series: pl.Series) -> memoryview:
    """The bytes of a column of numbers without nulls."""
    values = series.rechunk().to_arrow()
    width = values.type.bit_width // 8
    return memoryview(values.buffers()[1])[values.offset * width : (values.offset + len(values)) * width]


def halves(keys: Sequence[bytes]) -> pl.DataFrame:
    """16-byte keys as a frame of ``hi`` and ``lo``."""
    joined = pa.Array.from_buffers(pa.uint64(), 2 * len(keys), [None, pa.py_buffer(b"".join(keys))])
    flat = pl.Series(joined)
    return pl.DataFrame({"hi": flat.gather_every(2), "lo": flat.gather_every(2, 1)})


def halves_of_hex(keys: pl.Series) -> pl.DataFrame:
    """Keys written as 32 hexadecimal digits, as :func:`halves` gives them."""
    return pl.DataFrame(
        {
            "hi": keys.str.slice(0, 16).str.decode("hex").bin.reinterpret(dtype=pl.UInt64, endianness="little"),
            "lo": keys.str.slice(16, 16).str.decode("hex").bin.reinterpret(dtype=pl.UInt64, endianness="little"),
        }
    )


def _cut(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("hi", (pl.col("lo") & pl.lit(2**32 - 1, dtype=pl.UInt64)).cast(pl.UInt32))


class SortedKeys:
    """An immutable set of keys. Positions it answers are those of the frame it was made from.

    Two members that share their first 64 bits cannot both be found: one pair in ten million keys has a chance of
    3 in a million, and the price is one request asked again.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        ordered = frame.select("hi", "lo").with_row_index("at").sort("hi")
        self._hi, self._lo, self._at = ordered["hi"], ordered["lo"], ordered["at"]

    def __len__(self) -> int:
        return len(self._hi)

    def find(self, keys: pl.DataFrame) -> list[int]:
        """For each key its position, or -1."""
        if not len(self):
            return [-1] * keys.height
        near = self._hi.search_sorted(keys["hi"]).clip(upper_bound=len(self) - 1)
        hit = (self._hi.gather(near) == keys["hi"]) & (self._lo.gather(near) == keys["lo"])
        return (
            self._at.gather(near)
            .cast(pl.Int64)
            .zip_with(hit, pl.repeat(-1, len(hit), dtype=pl.Int64, eager=True))
            .to_list()
        )


class KeySet:
    """A growing set of keys: the newest in a Python set, the others in sorted runs of 12 bytes a key.

    Runs are merged when one is no longer much larger than what follows it. Large ones are left alone: merging them would
    need their size again. Keys are told apart by 96 of their bits: two of ten million are taken for one with a chance of
    1 in 10^15.
    """

    _NEWEST = 1 << 15
    _RATIO = 4
    _LARGEST = 1 << 20

    def __init__(self) -> None:
        self._newest: set[bytes] = set()
        self._runs: list[pl.DataFrame] = []

    def __len__(self) -> int:
        return len(self._newest) + sum(run.height for run in self._runs)

    def add(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of ``keys`` were there already or come twice in this call; all are there afterwards."""
        before = len(self._newest)
        answer = self.find(keys)
        self._newest.update(keys)
        if len(self._newest) - before < len(keys):
            here: set[bytes] = set()
            for i, key in enumerate(keys):
                answer[i] = answer[i] or key in here
                here.add(key)
        if len(self._newest) >= self._NEWEST:
            # One that is in a run too is there twice, which does no harm.
            self.add_all(halves(list(self._newest)))
            self._newest = set()
        return answer

    def add_all(self, frame: pl.DataFrame) -> None:
        """Add the keys whose ``hi`` and ``lo`` a frame has."""
        if not frame.height:
            return
        self._runs.append(_cut(frame).sort("hi"))
        while len(self._runs) > 1 and self._are_to_merge(*(run.height for run in self._runs[-2:])):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(before.merge_sorted(last, "hi").rechunk())

    def find(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of ``keys`` are there."""
        newest = self._newest
        answer = [False] * len(keys) if newest.isdisjoint(keys) else [key in newest for key in keys]
        if self._runs and keys:
            wanted = halves(keys)
            hi = wanted["hi"]
            for run in self._runs:
                his = run["hi"]
                near = his.search_sorted(hi)
                if near.max() == len(his):
                    near = near.clip(upper_bound=len(his) - 1)
                hit = his.gather(near) == hi
                if hit.any():
                    hit = hit & (run["lo"].gather(near) == _cut(wanted)["lo"])
                    for at in hit.arg_true():
                        answer[at] = True
        return answer

    def _are_to_merge(self, before: int, last: int) -> bool:
        return before < self._RATIO * last and before + last <= self._LARGEST
