"""Parquet, and Arrow's own files (IPC, Feather, as streams too): tables with types, read by the batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..core import InputError
from .input_file import InputFile, columnar, native
from .reading import BLOCK_BYTES, DAMAGED, Needs, Reading, Rows, fault, passes_all, wanted

_FETCHED_BYTES = 64 << 20  # of row groups, unpacked, that are fetched together


def parquet_metadata(path: InputFile) -> Any:
    """:raises InputError: if it is no Parquet file."""
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(columnar(path))
    except DAMAGED as error:
        raise fault(path, "is no Parquet file that can be read", error) from None


def parquet_schema(path: InputFile) -> Any:
    """As Arrow has it. :raises InputError: if it is no Parquet file."""
    return parquet_metadata(path).schema.to_arrow_schema()


def read_parquet(reading: Reading, max_rows: int, position: int, skip: bytes) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = columnar(reading.path)
    is_remote = source is not reading.path
    # What lies side by side is fetched at once where each read is a request; that of some row groups is in memory then.
    with pq.ParquetFile(source, pre_buffer=is_remote) as file:
        schema = _readable(file.schema_arrow)
        rows_of_block = min(max_rows, _rows_of_block(file.metadata))
        for groups, columns, end in _row_groups(file, position, skip, reading.needs):
            readable = schema if columns is None else pa.schema([field for field in schema if field.name in columns])
            for some in _together(file.metadata, groups) if is_remote else [groups] if groups else []:
                for batch in file.iter_batches(batch_size=rows_of_block, row_groups=some, columns=columns):
                    yield (read := _rows_in(batch, readable, position, skip))
                    position = read.end
            position = end
    yield Rows(position, [], [])


def _row_groups(
    file: Any, position: int, skip: bytes, needs: Needs | None
) -> Iterator[tuple[list[int], list[str] | None, int]]:
    """Row groups that are to be read together, none where all rows are passed over; the columns of them that are needed, or
    ``None`` for all; and the position after them."""
    metadata, columns = file.metadata, _needed(file.schema_arrow, needs)
    sizes = (int(metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups))
    bounds = enumerate(itertools.pairwise(itertools.accumulate(sizes, initial=position)))

    def kind(group: tuple[int, tuple[int, int]]) -> tuple[bool, bool]:
        is_passed = passes_all(skip, *group[1])
        is_known = not is_passed and columns is not None and needs is not None
        return is_passed, is_known and _have_ids(metadata.row_group(group[0]), needs.ids if needs else ())

    for (is_passed, by_column), groups in itertools.groupby(bounds, kind):
        found = list(groups)
        yield (
            [] if is_passed else [number for number, _ in found],
            columns if by_column else None,
            found[-1][1][1],
        )


def _needed(schema: Any, needs: Needs | None) -> list[str] | None:
    """The columns to be read, where these are not all and can be told by their names."""
    import pyarrow as pa

    if needs is None or len(set(schema.names)) < len(schema.names) or any("." in name for name in schema.names):
        return None
    ids = [schema.field(name).type for name in needs.ids if name in schema.names]
    if not ids or not all(
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in ids
    ):
        return None
    found = [name for name in schema.names if name in needs.columns]
    return found if len(found) < len(schema.names) else None


def _have_ids(group: Any, ids: Sequence[str]) -> bool:
    """Whether each row has an id, as the statistics of the file tell: one without is known by all of its columns."""
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema in ids:
            found = column.statistics
            if (
                found is None
                or not (found.has_null_count and found.has_min_max)
                or found.null_count
                or found.min in ("", b"")
            ):
                return False
    return True


def _together(metadata: Any, groups: list[int]) -> Iterator[list[int]]:
    """Row groups by the few, so that not too much is in memory."""
    some: list[int] = []
    size = 0
    for number in groups:
        some.append(number)
        size += int(metadata.row_group(number).total_byte_size)
        if size >= _FETCHED_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _rows_in(batch: Any, schema: Any, position: int, skip: bytes) -> Rows:
    """The rows of a batch that begins at ``position``."""
    end = position + len(batch)
    at = wanted(position, end, skip)
    if not at:
        return Rows(end, [], [])
    rows = (batch if schema == batch.schema else batch.cast(schema, safe=False)).to_pylist()
    return Rows(end, rows if len(at) == len(rows) else [rows[row - position] for row in at], at)


def _readable(schema: Any) -> Any:
    import pyarrow as pa

    return pa.schema([field.with_type(without_ns(field.type)) for field in schema])


def without_ns(kind: Any) -> Any:
    """Python's times end at microseconds."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    return pa.time64("us") if kind == pa.time64("ns") else kind


def _rows_of_block(metadata: Any) -> int:
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, BLOCK_BYTES * int(metadata.num_rows) // max(1, int(size)))


# ------------------------------------------------------------------------------------------------------ Arrow's own files

_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"


@contextmanager
def _opened(path: InputFile) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema and the batches of a file, or of a stream in one.

    :raises InputError: if it is neither.
    """
    import pyarrow as pa

    # Not mapped into memory: a file that becomes shorter meanwhile would end the process.
    with native(path) as source:
        begins = source.read(len(_FILE))
        source.seek(0)
        if begins.startswith(_FEATHER_1):
            raise InputError(
                f"{path} is in the first version of Feather, which is given up: write it anew, or as Parquet"
            )
        if begins == _FILE:
            file = pa.ipc.open_file(source)
            yield file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            stream = pa.ipc.open_stream(source)
            yield stream.schema, iter(stream)


def ipc_schema(path: InputFile) -> Any:
    """:raises InputError: if it is no Arrow file."""
    try:
        with _opened(path) as (schema, _):
            return schema
    except DAMAGED as error:
        raise fault(path, "is no Arrow file that can be read", error) from None


def count_ipc(path: InputFile) -> int:
    """How many rows there are; reads the file.

    :raises InputError: if it is damaged.
    """
    try:
        with _opened(path) as (_, batches):
            return sum(len(batch) for batch in batches)
    except DAMAGED as error:
        raise fault(path, "is no Arrow file that can be read", error) from None


def read_ipc(reading: Reading, max_rows: int, position: int, skip: bytes) -> Iterator[Rows]:
    with _opened(reading.path) as (schema, batches):
        readable = _readable(schema)
        for batch in batches:
            if passes_all(skip, position, position + len(batch)):
                position += len(batch)
                continue
            size = max(1, min(max_rows, BLOCK_BYTES * len(batch) // max(1, batch.nbytes)))
            for begin in range(0, len(batch), size):
                yield (read := _rows_in(batch.slice(begin, size), readable, position, skip))
                position = read.end
    yield Rows(position, [], [])
