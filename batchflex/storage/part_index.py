"""The 128-bit keys of parts as columns, two halves of 64 bits, and where the answers with these keys are in a plan."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import SortedKeys
from . import part_files
from .files import replaced, storing
from .positions import Layout
from .store import Store

if TYPE_CHECKING:
    from .positions import Rows

T = TypeVar("T")
_ID = b"batchflex.id"
_MANY = 4  # parts
_READERS = max(1, min(4, os.cpu_count() or 1))
_FOUND = pl.Schema({"hi": pl.UInt64, "lo": pl.UInt64, "file": pl.Int64, "position": pl.Int64})


def read_keys(store: Store, columns: Sequence[str], numbers: Sequence[int] | None = None) -> Iterator[pl.DataFrame]:
    """For each part, or each of these: ``hi`` and ``lo`` of its keys, and the given columns; ``slot`` as ``slot_hi`` and
    ``slot_lo``.

    :raises FolderError: if a part is damaged.
    """

    def read(number: int) -> pl.DataFrame:
        return head(part_files.read_part(store, number, ["key", *columns]))

    return _ahead(read, part_files.part_numbers(store) if numbers is None else numbers)


def _ahead(read: Callable[[int], T], numbers: Sequence[int]) -> Iterator[T]:
    """What is read of each part, several being read at the same time."""
    if len(numbers) < _MANY:
        yield from map(read, numbers)
        return
    with ThreadPoolExecutor(_READERS, "batchflex-parts") as readers:
        coming: deque[Future[T]] = deque()
        try:
            for number in numbers:
                coming.append(readers.submit(read, number))
                if len(coming) > 2 * _READERS:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for each in coming:
                each.cancel()


def head(table: pa.Table) -> pl.DataFrame:
    """As :func:`read_keys`, for columns of one part."""
    rest = [name for name in table.column_names if name not in ("key", "slot")]
    frame = pl.DataFrame(table.select(rest))
    if "slot" in table.column_names:
        frame = _halves(table["slot"], "slot_").hstack(frame)
    return _halves(table["key"], "").hstack(frame) if "key" in table.column_names else frame


def _halves(keys: pa.ChunkedArray, prefix: str) -> pl.DataFrame:
    """Keys written as 32 hexadecimal digits, as :func:`key_halves` gives them."""
    whole = np.concatenate([np.empty((0, 2), np.uint64), *map(_decoded, keys.chunks)])
    return pl.DataFrame({f"{prefix}hi": whole[:, 0].copy(), f"{prefix}lo": whole[:, 1].copy()})


def _decoded(keys: pa.StringArray) -> npt.NDArray[np.uint64]:
    """All digits at once, two in a number: a third of what binascii takes, and other threads go on meanwhile."""
    if not len(keys):
        return np.empty((0, 2), np.uint64)
    text = keys.buffers()[2]  # they lie side by side
    digits: npt.NDArray[np.uint16] = np.frombuffer(text, np.uint16, 16 * len(keys), 32 * keys.offset)
    high = digits >> 6
    high &= 0x0101  # 1 for letters
    high *= 9
    high += digits & 0x0F0F
    low = high >> 8
    high <<= 4
    high |= low
    return high.astype(np.uint8).view(np.uint64).reshape(-1, 2)


SHARED = ["slot", "id", "point", "sample"]


def shared_slots(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The slots of rows that had their id in common: which of them an answer belonged to is not known. ``parts`` have the
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


class Positions:
    """Where answers are in a plan: at the position in an input file that their part says, or, of those that were ``found``
    elsewhere by their keys (as :func:`read_found` gives them), there. About 30 bytes for each of these."""

    def __init__(self, layout: Layout, found: pl.DataFrame | None = None) -> None:
        self._layout = layout
        self._found = found if found is not None and found.height else None
        self._keys = None if self._found is None else SortedKeys(self._found)
        self.columns = ["file", "position"] if self._found is None else ["key", "file", "position"]

    def rows(self, part: pl.DataFrame) -> Rows:
        """The row of the plan that each answer is to, -1 where it is not in it. ``part`` has these ``columns``, the key as ``hi``
        and ``lo``."""
        file, position = (part[name].fill_null(0).to_numpy() for name in ("file", "position"))
        if self._keys is not None and self._found is not None:
            at = np.array(self._keys.find(part), np.int64)
            known = at >= 0
            there = [self._found[name].gather(at.clip(0)).to_numpy() for name in ("file", "position")]
            file, position = (np.where(known, found, own) for found, own in zip(there, (file, position), strict=True))
        return self._layout.rows(file, position)

    def place(self, part: pl.DataFrame) -> pl.DataFrame:
        """The answers that are in the plan, with the ``row`` that they are to."""
        return part.with_columns(pl.Series("row", self.rows(part))).filter(pl.col("row") >= 0)


def files(parts: Store, found: pl.DataFrame) -> set[int]:
    """The ids of the input files that the answers of a folder are to."""
    each = {int(file) for file in found["file"].unique()}

    def read(number: int) -> set[int]:
        return {file or 0 for file in part_files.read_part(parts, number, ["file"])["file"].unique().to_pylist()}

    return each.union(*_ahead(read, part_files.part_numbers(parts))) - {0}


def read_found(path: Path) -> pl.DataFrame:
    """Where answers are that a run has found by their keys, elsewhere than their parts say: ``hi``, ``lo``, ``file`` (0 of those
    that belong to no row) and ``position``. No rows if the file is not there, or damaged: it can be made again."""
    try:
        return pl.read_parquet(path).select(list(_FOUND)).cast(_FOUND)
    except (OSError, pl.exceptions.PolarsError):
        return pl.DataFrame(schema=_FOUND)


def found_id(path: Path) -> str:
    """Another each time that :func:`read_found` gives something else; empty if it gives nothing."""
    return part_files.read_metadata(path)[0].get(_ID, b"").decode()


def write_found(path: Path, found: Iterable[pl.DataFrame]) -> None:
    """Write it down for the next run; nothing if there is none.

    :raises StorageError: if it cannot be written.
    """
    whole = last_of_each(
        pl.concat([pl.DataFrame(schema=_FOUND), *(each.select(list(_FOUND)).cast(_FOUND) for each in found)])
    )
    if not whole.height:
        path.unlink(missing_ok=True)
        return
    table = whole.to_arrow().replace_schema_metadata({_ID: secrets.token_hex(8).encode()})
    with storing(path), replaced(path) as stream:
        pq.write_table(table, stream, compression="zstd")
