"""128-bit keys as columns, looked up by the block: those of parts, and sets of them that do not change.

A key costs 16 bytes here (a Python ``set`` of them: some 110). Ten million finished rows are 160 MB; a block of
4,096 keys is looked up in a few milliseconds. Keys are held as two unsigned 64-bit columns, sorted by the first.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from . import store


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


def cut(frame: pl.DataFrame) -> pl.DataFrame:
    """Keys with 32 bits of ``lo`` in place of 64."""
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


def read_keys(folder: Path, columns: Sequence[str], numbers: Sequence[int] | None = None) -> Iterator[pl.DataFrame]:
    """For each part, or each of these: ``hi`` and ``lo`` of its keys, and the given columns; ``slot`` as ``slot_hi`` and
    ``slot_lo``.

    :raises FolderError: if a part is damaged.
    """
    for number in store.part_numbers(folder) if numbers is None else numbers:
        yield head(store.read_part(folder, number, ["key", *columns]))


def head(table: pa.Table) -> pl.DataFrame:
    """As :func:`read_keys`, for columns of one part."""
    rest = [name for name in table.column_names if name not in ("key", "slot")]
    frame = pl.DataFrame(table.select(rest))
    if "slot" in table.column_names:
        frame = _halves(table["slot"], "slot_").hstack(frame)
    return _halves(table["key"], "").hstack(frame) if "key" in table.column_names else frame


def _halves(keys: pa.ChunkedArray, prefix: str) -> pl.DataFrame:
    """Keys written as 32 hexadecimal digits, as :func:`halves` gives them; they lie side by side."""
    text = b"".join(memoryview(c.buffers()[2])[32 * c.offset : 32 * (c.offset + len(c))] for c in keys.chunks if len(c))
    whole = pa.Array.from_buffers(pa.uint64(), 2 * len(keys), [None, pa.py_buffer(binascii.unhexlify(text))])
    flat = pl.Series(whole)
    return pl.DataFrame({f"{prefix}hi": flat.gather_every(2), f"{prefix}lo": flat.gather_every(2, 1)})


SHARED = ["slot", "id", "point", "sample"]


def shared_slots(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The slots of rows that had their id in common: which of them an answer belonged to cannot be told. ``parts`` have the
    columns ``SHARED``, as :func:`read_keys` gives them."""
    place = pl.struct("id", "point", "sample").hash().alias("place")
    slots = pl.concat(part.select(place, "slot_hi", "slot_lo") for part in parts).unique()
    return slots.filter(pl.len().over("place") > 1).select("slot_hi", "slot_lo")


def last_of_each(frame: pl.DataFrame) -> pl.DataFrame:
    """The last row of each key (``hi``, ``lo``), sorted by ``hi``. A fraction of what ``unique`` takes."""
    ordered = frame.sort("hi", maintain_order=True)
    del frame  # at ten million rows each copy counts
    same_hi, same_lo = (ordered[n] == ordered[n].shift(-1) for n in ("hi", "lo"))
    if (same_hi & ~same_lo).any():
        ordered = ordered.sort("hi", "lo", maintain_order=True)
        same_hi, same_lo = (ordered[n] == ordered[n].shift(-1) for n in ("hi", "lo"))
    if (same_hi & same_lo).any():
        ordered = ordered.filter(~(same_hi & same_lo).fill_null(False))
    return ordered.with_columns(pl.col("hi").set_sorted())
