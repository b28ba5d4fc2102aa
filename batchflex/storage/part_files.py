"""Parts: ``parts/NNNNNN.parquet`` holds sealed outcomes, append-only, each part written whole and atomically.

Of several outcomes with one key the last counts. CONTRACT.md is the reference of the columns.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import operator
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import FolderError, Outcome
from . import carried_columns, parsed_columns
from .files import storing
from .part_numbers import Number, part_name as part_name, part_numbers as part_numbers, part_sizes
from .store import FolderStore, Store

_TEXT, _COUNT, _SECONDS = pa.string(), pa.int64(), pa.float64()
_MOMENT = pa.timestamp("us", tz="UTC")
COLUMNS: dict[str, pa.DataType] = {
    "id": _TEXT, "row": _COUNT, "sample": pa.int32(), "key": _TEXT, "status": _TEXT, "content": _TEXT,
    "reasoning": _TEXT, "tool_calls": _TEXT, "parsed": _TEXT, "finish_reason": _TEXT, "model": _TEXT,
    "prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT,
    "cache_read_input_tokens": _COUNT, "cache_creation_input_tokens": _COUNT, "reasoning_tokens": _COUNT,
    "cost": _SECONDS, "latency_s": _SECONDS, "ttft_s": _SECONDS, "attempts": pa.int32(),
    "started_at": _MOMENT, "finished_at": _MOMENT, "http_status": pa.int32(),
    "error_type": _TEXT, "error_code": _TEXT, "error_message": _TEXT, "endpoint": _TEXT, "run_id": _TEXT,
    "response": _TEXT, "reasks": pa.int32(), "reask_prompt_tokens": _COUNT, "reask_completion_tokens": _COUNT,
    "reask_cost": _SECONDS, "retried_with": _TEXT, "request_id": _TEXT,
    "requested_model": _TEXT, "gateway_cost": _SECONDS, "gateway_deployment": _TEXT, "gateway_fallbacks": pa.int32(),
    "answer_limit": _COUNT, "cut_by": _TEXT, "format_fallback": _TEXT,
}  # fmt: skip
_INSIDE = {
    "slot": _TEXT, "point": _TEXT, "carry": _TEXT, "proof": _TEXT, "file": _COUNT, "position": _COUNT, "grown": pa.int32(),
}  # fmt: skip
PART_SCHEMA = pa.schema([*COLUMNS.items(), *_INSIDE.items()])
_KINDS, _TYPES, _SIZE = b"batchflex.carry_kinds", b"batchflex.carry_schema", b"batchflex.bytes"
# Of a results table; see results_table.Assembled.
MADE_OF, MADE_OF_PARTS, MADE_OF_CARRIED = b"batchflex.made_of", b"batchflex.parts", b"batchflex.carried"
ORIGINS = b"batchflex.columns"
_FIELDS, _VOID = b"batchflex.parsed_kinds", b"batchflex.void"
STANDS_FOR, _ID = b"batchflex.stands_for", b"batchflex.id"
_ZERO = {"reasks"}  # 0, not null, in parts of versions that did not have it
GROUP_ROWS = 2_000  # of a row group: what is read at once to make the table
WHOLE_ROWS, _MOST_GROUP_ROWS, _GROUP_BYTES = 1_000, 10_000, 16 << 20  # of one that the table takes as it is
_VARIED = {
    "id",
    "row",
    "key",
    "latency_s",
    "ttft_s",
    "started_at",
    "finished_at",
    "response",
    "request_id",
    "slot",
    "position",
}
WITH_STATISTICS = ["id", "row", "key", "status"]  # in the table, too
WRITING: dict[str, Any] = {
    "compression": "zstd", "write_statistics": WITH_STATISTICS, "write_page_checksum": True,
    "use_dictionary": [name for name in PART_SCHEMA.names if name not in _VARIED],
}  # fmt: skip
_AT_ONCE, _PIECE, _HELD = 200, 1_000, 3_000  # rows
_GET = {name: operator.attrgetter(name) for name in PART_SCHEMA.names}


class Footer(NamedTuple):
    """The metadata of a part: the kinds and Arrow types of its carried columns, the kinds of the fields of its structured
    answers, its size in memory in bytes, and the rows of each of its row groups. ``void`` are the ids of runs whose failures
    count for nothing, in whichever part they are. ``id`` distinguishes it from others of its number, as there are when the last
    part is moved away; empty of parts of format 1."""

    kinds: dict[str, list[str]]
    types: pa.Schema
    fields: dict[str, list[str]]
    size: int = 0
    groups: Sequence[int] = ()
    void: Sequence[str] = ()
    id: str = ""


def together(footers: Iterable[Footer]) -> Footer:
    """The metadata of all rows of these parts, as one that stands for them has it. Pure.

    A column keeps an Arrow type only if all parts with values in it agree.
    """
    kinds: dict[str, set[str]] = {}
    fields: dict[str, set[str]] = {}
    types: dict[str, set[pa.DataType | None]] = {}
    nulls: dict[str, set[pa.DataType | None]] = {}  # those of parts without a value in the column
    void: dict[str, None] = {}
    for footer in footers:
        for name, seen in footer.kinds.items():
            kinds.setdefault(name, set()).update(seen)
            kind = footer.types.field(name).type if name in footer.types.names else None
            (nulls if seen == ["null"] else types).setdefault(name, set()).add(kind)
        for name, seen in footer.fields.items():
            fields.setdefault(name, set()).update(seen)
        void |= dict.fromkeys(footer.void)
    agreed = {name: types.get(name) or nulls[name] for name in kinds}
    schema = pa.schema([(name, next(iter(t))) for name, t in agreed.items() if len(t) == 1 and None not in t])
    plain = [{name: sorted(seen) for name, seen in side.items()} for side in (kinds, fields)]
    return Footer(plain[0], schema, plain[1], void=list(void))


def _nothing() -> None:
    pass


class _NoRows(Exception):
    """There is nothing to make a part of."""


def write_part(
    store: Store,
    number: int,
    outcomes: Iterable[Outcome],
    carry_schema: pa.Schema | None = None,
    between: Callable[[], None] = _nothing,
    void: Sequence[str] = (),
) -> None:
    """Make outcomes a part, as :func:`fill` does; none make no part.

    :raises StorageError: if it cannot be written, or there is a part of this number; what is there stays as it is.
    """
    put(store, number, lambda stream: fill(stream, outcomes, carry_schema, between, void))


def put(store: Store, number: int, filled: Callable[[IO[bytes]], bool]) -> None:
    """Add a part, which ``filled`` writes unless it returns false. Errors as of :func:`write_part`."""
    name = part_name(number)
    with contextlib.suppress(_NoRows), storing(f"{store}/{name}"), store.put_if_absent(name) as stream:
        if not filled(stream):
            raise _NoRows


def fill(
    stream: IO[bytes],
    outcomes: Iterable[Outcome],
    carry_schema: pa.Schema | None = None,
    between: Callable[[], None] = _nothing,
    void: Sequence[str] = (),
) -> bool:
    """Write a part; false, and nothing is written, if there are no outcomes. ``carry_schema`` are the Arrow types of carried
    columns, if the input had any. ``between`` is called every few milliseconds of work. ``void`` are the ids of runs whose
    failures are void; it may be filled while the outcomes are read. Such a part may have no rows.

    :raises OSError: if it cannot be written.
    """
    superseded: list[Outcome] = []
    pieces = [to_table(some, between) for some in _in_order(outcomes, superseded)]
    table = pa.concat_tables([to_table(superseded, between), *pieces])
    if not table.num_rows and not void:
        return False
    kinds, types = carried_columns.describe(_texts(table["carry"], between), carry_schema)
    fields = parsed_columns.kinds(_texts(table["parsed"], between))
    own = metadata(Footer(kinds, types, fields, table.nbytes, void=list(dict.fromkeys(void))))
    with pq.ParquetWriter(stream, PART_SCHEMA.with_metadata(own), **WRITING) as writer:
        for begin, end in _groups(table):
            between()
            group = table.slice(begin, end - begin).replace_schema_metadata(own)
            writer.write_table(group, row_group_size=end - begin)
    return True


def _in_order(outcomes: Iterable[Outcome], superseded: list[Outcome]) -> Iterator[list[Outcome]]:
    """The outcomes by the piece, in the order of the input as far as that goes without holding many of them, so that the table
    can take what follows each other as it is. Those that come late are last. Those that a later one supersedes soon are added
    to that list, which is to come first."""
    held: dict[str, Outcome] = {}
    late: list[Outcome] = []
    place = operator.attrgetter("row")
    row = -1

    def taken() -> list[Outcome]:
        first = sorted(held.values(), key=place)[:_PIECE]
        for outcome in first:
            del held[outcome.key]
        return first

    for outcome in outcomes:
        if outcome.row < row:
            late.append(outcome)
            continue
        if (before := held.pop(outcome.key, None)) is not None:
            superseded.append(before)
        held[outcome.key] = outcome
        if outcome.sample:
            place = operator.attrgetter("row", "sample")
        if len(held) == _HELD:
            yield (first := taken())
            row = first[-1].row
    while held:
        yield taken()
    yield sorted(late, key=place)


def _texts(column: pa.ChunkedArray, between: Callable[[], None]) -> Iterator[str]:
    """Those that there are."""
    for chunk in column.chunks:
        for at in range(0, len(chunk) if chunk.null_count < len(chunk) else 0, _AT_ONCE):
            between()
            yield from filter(None, chunk.slice(at, _AT_ONCE).to_pylist())


def _groups(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Where row groups begin and end. Long stretches of rows without a gap are apart, for the table takes them as they are.
    Pure."""
    row, sample = (table[name].to_numpy() for name in ("row", "sample"))
    step = np.diff(row)
    follows = np.where(step == 0, np.diff(sample), step * (sample[1:] == 0)) == 1
    bounds = np.flatnonzero(np.concatenate([[True], ~follows, [True]])).tolist() if len(table) else []
    each = min(_MOST_GROUP_ROWS, max(GROUP_ROWS, len(table) * _GROUP_BYTES // max(1, table.nbytes)))
    at = 0
    for begin, end in [*itertools.pairwise(bounds), (len(table), len(table))]:
        if end - begin >= WHOLE_ROWS or begin == end:
            for first, last, most in ((at, begin, GROUP_ROWS), (begin, end, each)):
                yield from ((row, min(row + most, last)) for row in range(first, last, most))
            at = end


def metadata(footer: Footer) -> dict[bytes, bytes]:
    """A footer as it is written."""
    return {
        _KINDS: msgspec.json.encode(footer.kinds),
        _TYPES: base64.b64encode(footer.types.serialize().to_pybytes()),
        _FIELDS: msgspec.json.encode(footer.fields),
        _SIZE: b"%d" % footer.size,
        _ID: secrets.token_hex(8).encode(),
        **({_VOID: msgspec.json.encode(footer.void)} if footer.void else {}),
    }


def to_table(outcomes: Sequence[Outcome], between: Callable[[], None] = _nothing) -> pa.Table:
    """Outcomes as an Arrow table with the columns of a part."""
    arrays = []
    for field in PART_SCHEMA:
        arrays.append(_array(list(map(_GET[field.name], outcomes)), field.type))
        between()
    return pa.Table.from_arrays(arrays, schema=PART_SCHEMA)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    first = values[0] if values else None
    if not isinstance(first, float) and values.count(first) == len(values):  # most columns: a tenth of the time
        return pa.nulls(len(values), kind) if first is None else pa.repeat(_array([first, None], kind)[0], len(values))
    if kind == _MOMENT:
        return pa.array(values, pa.int64()).view(kind)
    try:
        return pa.array(values, kind)
    except pa.ArrowInvalid:  # bytes of a response that are not UTF-8
        return pa.array([each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in values], kind)


def outcomes(table: pa.Table) -> list[Outcome]:
    """What :func:`to_table` has made a table of."""
    columns = []
    for field in PART_SCHEMA:
        column = table.column(field.name)
        kept_as = pa.int64() if field.type == _MOMENT else pa.binary() if field.name == "response" else field.type
        columns.append(column.cast(kept_as).to_pylist())
    return [Outcome(**dict(zip(PART_SCHEMA.names, row, strict=True))) for row in zip(*columns, strict=True)]


@contextlib.contextmanager
def opened(store: Store, number: int) -> Iterator[pq.ParquetFile]:
    """A part to read from. A failure becomes a :class:`FolderError` that says what to do."""
    name = part_name(number)
    try:
        with store.open(name) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise FolderError(f"{store}/{name} cannot be read: {error.strerror or error}") from None
        raise FolderError(f"{store}/{name} is damaged ({error}); move it away, and its rows are asked again") from None


def read_part(store: Store, number: int, columns: list[str] | None = None) -> pa.Table:
    """A part, or some of its columns.

    :raises FolderError: if it is damaged.
    """
    with opened(store, number) as file:
        return _whole(file.read(columns=columns, use_threads=columns is None), columns)  # threads cost more for a few


def read_group(store: Store, number: int, group: int, columns: list[str] | None = None) -> pa.Table:
    """A row group of a part, or some of its columns.

    :raises FolderError: if it is damaged.
    """
    with opened(store, number) as file:
        return _whole(file.read_row_group(group, columns=columns, use_threads=False), columns)


def read_rows(
    store: Store, number: int, positions: npt.ArrayLike | None = None, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of a part, or those at these positions in it (ascending), a table for each row group that has any. Of the others
    nothing is read.

    :raises FolderError: if it is damaged.
    """
    wanted = None if positions is None else np.asarray(positions, np.int64)
    with opened(store, number) as file:
        there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + int(file.metadata.row_group(group).num_rows)
            here = None if wanted is None else wanted[slice(*np.searchsorted(wanted, [begin, end]))] - begin
            if here is None or len(here):
                rows = _whole(file.read_row_group(group, columns=there, use_threads=False), columns)
                yield rows if here is None else taken(rows, here)
            begin = end


def taken(table: pa.Table, at: npt.NDArray[np.integer[Any]]) -> pa.Table:
    """These rows. Those that follow each other are not copied, and need none of Arrow's functions, whose import takes long."""
    if len(at) and (np.diff(at) == 1).all():
        return table.slice(int(at[0]), len(at))
    return table.take(pa.array(at))


def _whole(table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """With the columns that parts of an older version lack."""
    columns = columns or PART_SCHEMA.names
    for name in columns:
        if name not in table.column_names:
            kind = PART_SCHEMA.field(name).type
            missing = pa.repeat(0, len(table)).cast(kind) if name in _ZERO else pa.nulls(len(table), kind)
            table = table.append_column(name, missing)
    return table if table.column_names == list(columns) else table.select(columns)


def footer(store: Store, number: int) -> Footer:
    """:raises FolderError: if the part is damaged, or none of batchflex's."""
    with opened(store, number) as file:
        read = file.metadata
    own: Mapping[bytes, bytes] = read.metadata or {}
    if not {_KINDS, _TYPES, _SIZE} <= own.keys():
        raise FolderError(f"{store}/{part_name(number)} is no part that batchflex wrote; move it away")
    carried = carried_footer(own)
    if _FIELDS in own:
        fields = msgspec.json.decode(own[_FIELDS])
    else:  # a part of an older version
        fields = parsed_columns.kinds(read_part(store, number, ["parsed"])["parsed"].to_pylist())
    return carried._replace(
        fields=fields,
        groups=[int(read.row_group(i).num_rows) for i in range(read.num_row_groups)],
        void=msgspec.json.decode(own.get(_VOID, b"[]"), type=list[str]),
        id=own.get(_ID, b"").decode(),
    )


def carried_footer(own: Mapping[bytes, bytes]) -> Footer:
    """What :func:`metadata` wrote of the carried columns, and the size."""
    types = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(own[_TYPES])))
    # Versions before kept decimals of 256 bits; such columns are text now.
    types = pa.schema([field for field in types if not pa.types.is_decimal256(field.type)])
    return Footer(msgspec.json.decode(own[_KINDS]), types, {}, int(own[_SIZE]))


def identity(store: Store, last: int | None = None) -> str:
    """A digest of which parts these are, or those up to the number ``last``, by their numbers and sizes, wherever they are copied
    to. Parts are never changed, and merging them does not change it. Only the footers of merged ones are read."""
    sizes = {number: size for number, size in part_sizes(store).items() if last is None or number <= last}
    return _digest([pair for number, size in sizes.items() for pair in entries(store, number, size)])


def entries(store: Store, number: Number, size: int) -> list[tuple[int, ...]]:
    """Number and size of a part; of a merged one those of the parts that it stands for."""
    return [entry[:2] for entry in _stood_for(store, number)] or [(int(number), size)]


def has_identity(store: Store, known: str) -> bool:
    """Whether a digest that was kept is the :func:`identity` of these parts. Versions before kept another, with the times of
    files."""
    return known == identity(store) or (isinstance(store, FolderStore) and known == _former_identity(store))


def _former_identity(store: FolderStore) -> str:
    times = store.times()
    found: list[tuple[int, ...]] = []
    for number, size in part_sizes(store).items():
        stood_for, changed = _stood_for(store, number), times.get(number.name, 0)
        is_so = changed == max((entry[2] for entry in stood_for if len(entry) == 3), default=None)
        found += stood_for if is_so else [(int(number), size, changed)]
    return _digest(found)


def _digest(entries: list[tuple[int, ...]]) -> str:
    return hashlib.blake2b(msgspec.json.encode(entries), digest_size=16).hexdigest()


def _stood_for(store: Store, number: Number) -> list[tuple[int, ...]]:
    """Number and size of each part that was merged into this one; in parts of earlier versions the time of change, too."""
    try:
        raw = key_values(store, number)[0].get(STANDS_FOR, b"[]") if number.times else b"[]"
        return msgspec.json.decode(raw, type=list[tuple[int, ...]])
    except msgspec.DecodeError:
        return []


def key_values(store: Store, number: int) -> tuple[Mapping[bytes, bytes], int]:
    """The metadata in the footer of a part, and its number of rows; none if there is no such part, or it is damaged."""
    try:
        with opened(store, number) as file:
            return file.metadata.metadata or {}, int(file.metadata.num_rows)
    except FolderError:
        return {}, 0


def read_metadata(path: Path) -> tuple[Mapping[bytes, bytes], int]:
    """The metadata of any Parquet file, and its number of rows; nothing if there is no such file, or it is none."""
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return {}, 0
    return footer.metadata or {}, int(footer.num_rows)


def is_readable(path: Path) -> bool:
    """Whether a table has no column that Arrow alone can read: versions before carried decimals of 256 bits as they were."""
    try:
        return not any(pa.types.is_decimal256(kind) for kind in pq.read_schema(path).types)
    except (OSError, pa.ArrowException):
        return False


def void_runs(store: Store) -> set[str]:
    """The ids of the runs whose failures count for nothing, by the footers of all parts."""
    raw = (key_values(store, number)[0].get(_VOID) for number in part_numbers(store))
    return {run for found in raw if found is not None for run in msgspec.json.decode(found, type=list[str])}
