"""Parts put together to one that stands for them. Memory is bounded by two row groups, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import FolderError
from . import part_files
from .files import storing
from .part_numbers import Number, merged, part_sizes
from .store import Store

_GROUP_BYTES = 16 << 20  # of a row group, in memory
Positions = npt.NDArray[np.int64]

Superseded = Mapping[int, pl.Series]
"""By the number of a part, which of its rows are left out: their positions there, ascending."""


class Size(NamedTuple):
    """``kept`` are the ``rows`` of a part without those that are left out. ``bytes`` are those of its file, ``footer`` those
    of its metadata, which grows with its ``groups`` of rows."""

    rows: int
    kept: int
    bytes: int
    footer: int = 0
    groups: int = 0


def groups(sizes: Sequence[Size], most_rows: int, most_bytes: int) -> list[slice]:
    """Which neighbours to merge, so that no part gets larger than these; a part alone if only something of it is left out.
    Pure."""
    found: list[slice] = []
    begin = rows = size = 0

    def end(at: int) -> None:
        if at - begin > 1 or any(each.kept < each.rows for each in sizes[begin:at]):
            found.append(slice(begin, at))

    for at, each in enumerate(sizes):
        if at > begin and (rows + each.kept > most_rows or size + each.bytes > most_bytes):
            end(at)
            begin, rows, size = at, 0, 0
        rows += each.kept
        size += each.bytes
    end(len(sizes))
    return found


def saved(sizes: Sequence[Size]) -> int:
    """About how many bytes are saved by merging these parts: rows that are left out, and metadata of row groups. Pure."""
    kept = sum(size.kept for size in sizes)
    left_out = sum(size.bytes * (size.rows - size.kept) // max(1, size.rows) for size in sizes)
    groups = sum(size.groups for size in sizes)
    fewer = max(0, groups - (kept + part_files.GROUP_ROWS - 1) // part_files.GROUP_ROWS)
    return left_out + sum(size.footer for size in sizes) * fewer // max(1, groups)


def size_of(store: Store, number: Number, size: int, left_out: int) -> Size:
    """Of a part of so many bytes.

    :raises FolderError: if it is damaged.
    """
    with part_files.opened(store, number) as file:
        read = file.metadata
        return Size(read.num_rows, read.num_rows - left_out, size, read.serialized_size, read.num_row_groups)


def merge(store: Store, numbers: Sequence[Number], superseded: Superseded) -> Number:
    """Write one part of neighbours, without the rows that are superseded, and return its number. It is read back and compared
    with them before it takes their place, which it does at once; they are not removed here.

    :raises FolderError: if a part is damaged, or what was written is not what it was to be.
    :raises StorageError: if it cannot be written; then all is as it was.
    """
    number = merged(numbers)
    sizes = part_sizes(store)
    footers = {each: part_files.footer(store, each) for each in numbers}
    heights = {each: sum(footer.groups) for each, footer in footers.items()}
    kept = {
        each: np.delete(np.arange(heights[each]), superseded[each].to_numpy()) for each in numbers if each in superseded
    }
    stands_for = [entry for each in numbers for entry in part_files.entries(store, each, sizes[each])]
    with storing(f"{store}/{number.name}"), store.put_if_absent(number.name) as stream:
        with pq.ParquetWriter(stream, part_files.PART_SCHEMA, **part_files.WRITING) as writer:
            size = 0
            for block in _blocks(_rows(store, numbers, kept)):
                size += block.nbytes
                writer.write_table(block, row_group_size=block.num_rows)
            footer = part_files.together(footers.values())._replace(size=size)
            stood_for = {part_files.STANDS_FOR: msgspec.json.encode(stands_for)}
            writer.add_key_value_metadata(part_files.metadata(footer) | stood_for)
        rows = sum(len(kept.get(each, range(height))) for each, height in heights.items())
        if not _is_same(stream, rows, RowStream(_rows(store, numbers, kept))):
            raise FolderError(
                f"merged parts of {store} are not the same when read back: nothing was changed. Is the memory or the disk sound?"
            )
    return number


def _rows(store: Store, numbers: Sequence[Number], kept: Mapping[Number, Positions]) -> Iterator[pa.Table]:
    """The rows of parts, in their order: those at the positions that are ``kept``, all of the other parts."""
    for number in numbers:
        yield from part_files.read_rows(store, number, kept.get(number))


def _blocks(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in blocks that make good row groups: as many as those of any part, if they are not large."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        each = max(1, min(part_files.GROUP_ROWS, rows * _GROUP_BYTES // max(1, size)))
        if rows < each:
            continue
        whole, at = pa.concat_tables(held), 0
        while rows - at >= each:
            yield whole.slice(at, each)
            at += each
        held = [whole.slice(at)] if at < rows else []
        rows, size = rows - at, sum(rest.nbytes for rest in held)
    if rows:
        yield pa.concat_tables(held)


def _is_same(written: IO[bytes], rows: int, expected: RowStream) -> bool:
    """Whether a part that was written has so many rows, and value by value those that are expected."""
    with pq.ParquetFile(written, page_checksum_verification=True) as file:
        if file.metadata.num_rows != rows:
            return False
        for group in range(file.num_row_groups):
            found = file.read_row_group(group, use_threads=False)
            if not found.equals(expected.take(found.num_rows)):
                return False
        return bool(expected.take(1).num_rows == 0)


class RowStream:
    """Rows by any number."""

    def __init__(self, tables: Iterator[pa.Table], schema: pa.Schema = part_files.PART_SCHEMA) -> None:
        self._tables = tables
        self._rest = schema.empty_table()

    def take(self, rows: int) -> pa.Table:
        while self._rest.num_rows < rows and (table := next(self._tables, None)) is not None:
            self._rest = pa.concat_tables([self._rest, table])
        taken, self._rest = self._rest.slice(0, rows), self._rest.slice(rows)
        return taken
