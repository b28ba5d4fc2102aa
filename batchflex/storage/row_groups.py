"""Row groups of Parquet files put together to another one, without unpacking the columns that stay as they are.

Each column of a row group is a piece of the file, which the footer tells the place of: it is copied, once its checksums are found
right. So a table is made of parts at the speed of the disk.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from . import thrift
from .thrift import I16, I32, I64, LIST, STRUCT, Damaged, Struct

_MAGIC = b"PAR1"
# Numbers of fields in parquet.thrift.
_SCHEMA, _ROWS, _GROUPS = 2, 3, 4  # of a file
_NAME, _CHILDREN = 4, 5  # of an element of its schema
_COLUMNS, _SIZE, _GROUP_ROWS, _GROUP_AT, _PACKED_SIZE, _ORDINAL = 1, 2, 3, 5, 6, 7  # of a row group
_COLUMN_AT, _META = 2, 3  # of a column of one
_VALUES, _UNPACKED, _PACKED, _DATA_AT, _DICTIONARY_AT = 5, 6, 7, 9, 11  # of its metadata
_ELSEWHERE = {10, 14, 15}  # of its metadata: where an index and a filter are, which are not copied
_PAGE_KIND, _PAGE_UNPACKED, _PAGE_PACKED, _PAGE_CRC = 1, 2, 3, 4  # of a page
_PAGE_VALUES, _PAGE_ENCODING, _PAGE_LEVELS = 1, 2, (3, 4)  # of its head
_DATA_PAGE, _DICTIONARY_PAGE = (I32, 0), (I32, 2)
_HEADS = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7}
_ENCODINGS = {(I32, number) for number in (0, 2, 3, 8)}  # plain, by a dictionary, run lengths
_LEVELS_AS = (I32, 3)
_MOST_ORDINALS = 1 << 15
_FOOTER_END = 8  # bytes: its length, and the magic number
_FOOTER_DEPTH, _PAGE_DEPTH = 6, 2  # as far as the metadata of a column, and the head of a page of data

Piece = tuple[memoryview, Struct]
"""A column as it is in a file, and its metadata."""
Group = dict[bytes, list[Piece]]
"""A row group: of each column what it is, several pieces of one of structs."""


class Source:
    """A Parquet file to take row groups from, which is ``opened`` whenever something of it is read: its footer here.

    :raises Damaged: if it is none, or cannot be read, here and where row groups of it are added.
    """

    def __init__(self, opened: Callable[[], pa.NativeFile]) -> None:
        self._opened = opened
        with _damaged():
            with opened() as file:
                self._end = file.size()
            length = int.from_bytes(self._range(self._end - _FOOTER_END, self._end - 4), "little")
            footer = self._range(self._end - _FOOTER_END - length, self._end - _FOOTER_END)
            self.footer, _ = thrift.read(footer, 0, _FOOTER_DEPTH)
            self.columns = _by_name(self.footer[_SCHEMA][1][1])
            self._groups: list[Struct] = self.footer[_GROUPS][1][1]

    def _range(self, begin: int, end: int) -> bytes:
        if not 0 <= begin <= end <= self._end:
            raise Damaged("it is cut off")
        with self._opened() as file:
            return bytes(file.read_at(end - begin, begin))

    def group(self, number: int, unchecked: Collection[bytes] = ()) -> Group:
        """A row group. The pages of its columns are as they were written, but for those that are ``unchecked``."""
        with _damaged():
            metas = [column[_META][1] for column in self._groups[number][_COLUMNS][1][1]]
            begin = min(map(_begin, metas))
            data = self._range(begin, max(_begin(meta) + meta[_PACKED][1] for meta in metas))
            found: Group = {}
            for name, (first, elements) in self.columns.items():
                leaves = sum(_CHILDREN not in element for element in elements)
                here = [
                    (slice(at := _begin(meta) - begin, at + meta[_PACKED][1]), meta)
                    for meta in metas[first : first + leaves]
                ]
                found[name] = [(memoryview(data)[place], meta) for place, meta in here]
                for place, meta in here if name not in unchecked else ():
                    _check(data, place, meta)
            return found


@contextlib.contextmanager
def _damaged() -> Iterator[None]:
    """Whatever else than expected is in a file, is damage."""
    try:
        yield
    except (LookupError, TypeError, OSError) as error:
        raise Damaged(repr(error)) from None


def _by_name(elements: list[Struct]) -> dict[bytes, tuple[int, list[Struct]]]:
    """The columns of a schema by name: which of those of a row group is its first, and the elements of the schema. Pure."""
    found: dict[bytes, tuple[int, list[Struct]]] = {}
    here: list[Struct] = []
    leaves = nested = 0
    for element in elements[1:]:
        if not nested:
            here = []
            found[element[_NAME][1]] = leaves, here
            nested = 1
        here.append(element)
        leaves += _CHILDREN not in element
        nested += element.get(_CHILDREN, (0, 0))[1] - 1
    return found


def _begin(meta: Struct) -> int:
    """Where a column begins in its file."""
    data_at: int = meta[_DATA_AT][1]
    dictionary_at: int = meta.get(_DICTIONARY_AT, (0, 0))[1]
    return min(data_at, dictionary_at or data_at)


def _check(data: bytes, place: slice, meta: Struct) -> None:
    """:raises Damaged: unless each page has a checksum which is right, and a head, which has none, as parts have."""
    at, unpacked, values = place.start, 0, 0
    while at < place.stop:
        page, begin = thrift.read(data, at, _PAGE_DEPTH)
        end = begin + page[_PAGE_PACKED][1]
        if not begin <= end <= place.stop:
            raise Damaged("a page is cut off")
        if zlib.crc32(memoryview(data)[begin:end]) != page[_PAGE_CRC][1] & 0xFFFFFFFF:
            raise Damaged("a checksum is not right")
        unpacked += begin - at + page[_PAGE_UNPACKED][1]
        kind = page[_PAGE_KIND]
        head = page[_HEADS[kind]][1]
        if head[_PAGE_ENCODING] not in _ENCODINGS:
            raise Damaged("its encoding is unknown")
        if kind == _DATA_PAGE:
            values += head[_PAGE_VALUES][1]
            if any(head[levels] != _LEVELS_AS for levels in _PAGE_LEVELS):
                raise Damaged("its encoding is unknown")
        at = end
    if (values, unpacked) != (meta[_VALUES][1], meta[_UNPACKED][1]):
        raise Damaged("its pages are not those of its footer")


class TableWriter:
    """Writes a Parquet file of tables, each a row group, and of row groups of other files. ``writing`` is how columns that are
    not copied are written. It is whole when :meth:`close` has been called.

    :raises OSError: if it cannot be written, here and in its methods.
    """

    def __init__(self, stream: IO[bytes], schema: pa.Schema, **writing: Any) -> None:
        self._stream, self._writing = stream, writing
        self._empty = self._packed(schema.empty_table())
        self._groups: list[bytes] = []
        self._rows = 0
        self._at = stream.write(_MAGIC)

    def add(self, table: pa.Table) -> None:
        """A row group of a table with all columns."""
        self.copy(None, 0, table)

    def copy(self, source: Source | None, group: int, made: pa.Table) -> None:
        """A row group as it is in ``source``, but for the columns that were ``made`` for it.

        :raises Damaged: if what is to be copied is not as it was written, or not there; then nothing is.
        """
        own = self._packed(made)
        there = own.group(0, unchecked=own.columns)
        kinds = own.columns
        if source is not None:
            needless = {*source.columns}.difference(self._empty.columns).union(own.columns)
            there = source.group(group, unchecked=needless) | there
            kinds = source.columns | kinds
        wanted = self._empty.columns
        if other := next((name for name in wanted if name not in kinds or kinds[name][1] != wanted[name][1]), None):
            raise Damaged(f"it has no such column {other.decode()}")
        pieces = [piece for name in wanted for piece in there[name]]
        unpacked, packed = (sum(meta[which][1] for _, meta in pieces) for which in (_UNPACKED, _PACKED))
        row_group = {
            _COLUMNS: (LIST, (STRUCT, list(self._columns(pieces)))),
            _SIZE: (I64, unpacked),
            _GROUP_ROWS: (I64, made.num_rows),
            _GROUP_AT: (I64, self._at),
            _PACKED_SIZE: (I64, packed),
        }
        if len(self._groups) < _MOST_ORDINALS:
            row_group[_ORDINAL] = (I16, len(self._groups))
        self._groups.append(thrift.written(row_group))  # as objects they take twenty times the memory
        self._rows += made.num_rows
        self._at += self._stream.write(b"".join(data for data, _ in pieces))

    def _packed(self, table: pa.Table) -> Source:
        """A table as a Parquet file in memory."""
        out = pa.BufferOutputStream()
        pq.write_table(table, out, row_group_size=max(1, table.num_rows), **self._writing)
        return Source(functools.partial(pa.BufferReader, out.getvalue()))

    def _columns(self, pieces: list[Piece]) -> Iterator[Struct]:
        """The columns of the next row group as the footer tells of them."""
        at = self._at
        for data, meta in pieces:
            moved = at - _begin(meta)
            kept = {number: value for number, value in meta.items() if number not in _ELSEWHERE}
            for number in (_DATA_AT, _DICTIONARY_AT):
                if kept.get(number, (I64, 0))[1]:
                    kept[number] = I64, kept[number][1] + moved
            yield {_COLUMN_AT: (I64, 0), _META: (STRUCT, kept)}
            at += len(data)

    def close(self) -> None:
        """Write the footer."""
        groups = (LIST, (STRUCT, self._groups))
        footer = thrift.written(self._empty.footer | {_ROWS: (I64, self._rows), _GROUPS: groups})
        self._stream.write(footer + len(footer).to_bytes(4, "little") + _MAGIC)
