"""Row groups of Parquet files put together to another one, without unpacking the columns that stay as they are.

Each column of a row group is a piece of the file, which the footer tells the place of: it is copied, once its checksums are found
right. So a table is made of parts at the speed of the disk.
"""

from __future__ import annotations

import zlib
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from . import thrift
from .thrift import I16, I64, LIST, STRUCT, Struct

_MAGIC = b"PAR1"
# Numbers of fields in parquet.thrift.
_SCHEMA, _ROWS, _GROUPS = 2, 3, 4  # of a file
_COLUMNS, _SIZE, _GROUP_ROWS, _GROUP_OFFSET, _PACKED_SIZE, _ORDINAL = 1, 2, 3, 5, 6, 7  # of a row group
_OFFSET, _META = 2, 3  # of a column of one
_PATH, _UNPACKED, _PACKED, _DATA_AT, _DICTIONARY_AT = 3, 6, 7, 9, 11  # of its metadata
_PAGE_PACKED, _CRC = 3, 4  # of a page
_MOST_ORDINALS = 1 << 15


class Readable(Protocol):
    """What is read by ranges."""

    def seek(self, at: int, whence: int = 0) -> int: ...

    def read(self, size: int) -> bytes: ...


class Source:
    """A Parquet file to take row groups from. Its footer is read here.

    :raises thrift.Damaged: if it is none, here and where row groups of it are added.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._end = file.seek(0, 2)
        size = int.from_bytes(self._range(self._end - 8, 8)[:4], "little")
        footer, _ = thrift.read(self._range(self._end - 8 - size, size))
        self.footer = footer
        self.groups: list[Struct] = footer[_GROUPS][1][1]

    def _range(self, at: int, size: int) -> bytes:
        if at < 0 or at + size > self._end:
            raise thrift.Damaged("it is cut off")
        self._file.seek(at)
        return bytes(self._file.read(size))

    def columns(self, group: int) -> dict[str, Struct]:
        """The metadata of each column of a row group, by name."""
        found = (column[_META][1] for column in self.groups[group][_COLUMNS][1][1])
        return {meta[_PATH][1][1][0].decode(): meta for meta in found}

    def bytes_of(self, meta: Struct) -> bytes:
        """A column of a row group, as it is in the file."""
        return self._range(_begin(meta), meta[_PACKED][1])


def check(data: bytes) -> bool:
    """Whether all pages of a column have a checksum.

    :raises thrift.Damaged: if one is not right.
    """
    at = 0
    while at < len(data):
        page, at = thrift.read(data, at)
        end = at + page[_PAGE_PACKED][1]
        if _CRC not in page:
            return False
        if zlib.crc32(memoryview(data)[at:end]) != page[_CRC][1] & 0xFFFFFFFF:
            raise thrift.Damaged("a checksum is not right")
        at = end
    return True


def _begin(meta: Struct) -> int:
    """Where a column begins in its file."""
    return int(min(meta[_DATA_AT][1], meta.get(_DICTIONARY_AT, meta[_DATA_AT])[1] or meta[_DATA_AT][1]))


class TableWriter:
    """Writes a Parquet file of tables, each a row group, and of row groups of other files. ``writing`` is how columns that are
    not copied are written. It is whole when :meth:`close` has been called.

    :raises OSError: if it cannot be written, here and in its methods.
    """

    def __init__(self, stream: IO[bytes], schema: pa.Schema, **writing: Any) -> None:
        self._stream, self._schema, self._writing = stream, schema, writing
        self._footer = _packed(schema.empty_table(), {}).footer
        self._groups: list[Struct] = []
        self._rows = 0
        self._at = stream.write(_MAGIC)

    def add(self, table: pa.Table) -> None:
        """A row group of a table with all columns."""
        self.copy(None, 0, table)

    def copy(self, source: Source | None, group: int, made: pa.Table) -> None:
        """A row group as it is in ``source``, but for the columns that were ``made`` for it.

        :raises thrift.Damaged: if what is to be copied is not as it was written, or not there; then nothing is.
        """
        own = _packed(made, self._writing)
        there = {name: (own, meta) for name, meta in own.columns(0).items()}
        if source is not None:
            there = {name: (source, meta) for name, meta in source.columns(group).items()} | there
        pieces = []
        for name in self._schema.names:
            if name not in there:
                raise thrift.Damaged(f"it has no column {name}")
            file, meta = there[name]
            data = file.bytes_of(meta)
            if file is source and not check(data):
                raise thrift.Damaged(f"{name} has no checksums")
            pieces.append((data, meta))
        begin = self._at
        columns = [self._written(data, meta) for data, meta in pieces]
        metas = [column[_META][1] for column in columns]
        self._groups.append({
            _COLUMNS: (LIST, (STRUCT, columns)),
            _SIZE: (I64, sum(meta[_UNPACKED][1] for meta in metas)),
            _GROUP_ROWS: (I64, made.num_rows),
            _GROUP_OFFSET: (I64, begin),
            _PACKED_SIZE: (I64, sum(meta[_PACKED][1] for meta in metas)),
            _ORDINAL: (I16, len(self._groups)),
        })  # fmt: skip
        self._rows += made.num_rows

    def _written(self, data: bytes, meta: Struct) -> Struct:
        """A column of the file, as its footer tells of it."""
        moved = self._at - _begin(meta)
        places = {
            number: (I64, meta[number][1] + moved)
            for number in (_DATA_AT, _DICTIONARY_AT)
            if meta.get(number, (0, 0))[1]
        }
        self._stream.write(data)
        self._at += len(data)
        return {_OFFSET: (I64, 0), _META: (STRUCT, meta | places)}

    def close(self) -> None:
        """Write the footer."""
        if len(self._groups) > _MOST_ORDINALS:
            for group in self._groups:
                del group[_ORDINAL]
        groups = (LIST, (STRUCT, self._groups))
        footer = thrift.written(self._footer | {_ROWS: (I64, self._rows), _GROUPS: groups})
        self._stream.write(footer + len(footer).to_bytes(4, "little") + _MAGIC)


def _packed(table: pa.Table, writing: dict[str, Any]) -> Source:
    """A table as a Parquet file in memory."""
    out = pa.BufferOutputStream()
    pq.write_table(table, out, row_group_size=max(1, table.num_rows), **writing)
    return Source(pa.BufferReader(out.getvalue()))
