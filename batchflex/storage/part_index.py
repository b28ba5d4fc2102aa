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

from . import part_files


def read_keys(folder: Path, columns: Sequence[str], numbers: Sequence[int] | None = None) -> Iterator[pl.DataFrame]:
    """For each part, or each of these: ``hi`` and ``lo`` of its keys, and the given columns; ``slot`` as ``slot_hi`` and
    ``slot_lo``.

    :raises FolderError: if a part is damaged.
    """
    for number in part_files.part_numbers(folder) if numbers is None else numbers:
        yield head(part_files.read_part(folder, number, ["key", *columns]))


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
