"""Parts and the table made of them.

``parts/NNNNNN.parquet`` holds sealed outcomes, append-only, each part written whole and atomically; of several
outcomes with one key the last counts. ``results.parquet`` is derived from them and can be made again at any time.
CONTRACT.md is the reference of the columns.
"""

from __future__ import annotations

import base64
import datetime
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import FolderError
from .folder import replaced, storing
from .keyindex import halves_of_hex
from .model import Outcome

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
    "response": _TEXT,
}  # fmt: skip
_INSIDE = {"slot": _TEXT, "point": _TEXT, "carry": _TEXT}
_PART_SCHEMA = pa.schema([*COLUMNS.items(), *_INSIDE.items()])
_KEPT_TYPES, _SEEN_KINDS = b"batchflex.carry_schema", b"batchflex.carry_kinds"
_WINDOW_ROWS = 10_000
_CACHED_ROWS = 60_000


def part_numbers(folder: Path) -> list[int]:
    """The numbers of the parts in a folder, ascending."""
    return sorted(int(p.stem) for p in folder.glob("*.parquet") if p.stem.isdigit())


def part_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def write_part(folder: Path, number: int, outcomes: Sequence[Outcome], carry_schema: pa.Schema | None = None) -> None:
    """Seal outcomes into a part. ``carry_schema`` are the Arrow types of carried columns, if the input had any.

    :raises StorageError: if it cannot be written; then there is no such part.
    """
    path = part_path(folder, number)
    table = to_table(outcomes)
    kept = {_SEEN_KINDS: msgspec.json.encode(_kinds(o.carry for o in outcomes))}
    if carry_schema is not None:
        kept[_KEPT_TYPES] = base64.b64encode(carry_schema.remove_metadata().serialize().to_pybytes())
    with storing(path), replaced(path) as stream:
        pq.write_table(
            table.replace_schema_metadata(kept), stream, compression="zstd", write_statistics=["key", "id", "row"]
        )


def to_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Outcomes as an Arrow table with the columns of a part."""
    names = Outcome.__struct_fields__
    values = dict(zip(names, zip(*map(msgspec.structs.astuple, outcomes), strict=True), strict=True)) if outcomes else {}
    arrays = []
    for field in _PART_SCHEMA:
        column = values.get(field.name, ())
        if field.type == _MOMENT:
            arrays.append(pa.array(column, pa.int64()).cast(_MOMENT))
        else:
            arrays.append(pa.array(column, field.type))
    return pa.Table.from_arrays(arrays, schema=_PART_SCHEMA)


def read_keys(folder: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """For each part: ``hi`` and ``lo`` of its keys, and the given columns.

    :raises FolderError: if a part is damaged.
    """
    for number in part_numbers(folder):
        table = _read(folder, number, ["key", *columns])
        frame = pl.DataFrame(table)
        yield pl.concat([halves_of_hex(frame["key"]), frame.select(columns)], how="horizontal")


def _read(folder: Path, number: int, columns: list[str] | None = None) -> pa.Table:
    path = part_path(folder, number)
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise FolderError(f"{path} is damaged ({error}); move it away, and its rows are asked again") from None


# ------------------------------------------------------------------------------------------------- the final table


class Layout(NamedTuple):
    """The columns a results table has beside the fixed ones: sweep variables and carried columns, by output name."""

    sweep: dict[str, tuple[str, pa.DataType]]
    carry: dict[str, tuple[str, pa.DataType]]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*COLUMNS.items(), *((n, t) for side in (self.sweep, self.carry) for n, (_, t) in side.items())])


def layout(folder: Path, grid: dict[str, list[Any]]) -> Layout:
    """Name and type the columns of a job's results. A name that is taken gets ``sweep_`` or ``input_`` before it."""
    sweep = {_free(name, COLUMNS, "sweep_"): (name, _type_of(_kinds_of(values))) for name, values in grid.items()}
    kinds: dict[str, set[str]] = {}
    types: dict[str, pa.DataType] = {}
    for number in part_numbers(folder):
        metadata = pq.read_schema(part_path(folder, number)).metadata or {}
        for name, seen in msgspec.json.decode(metadata.get(_SEEN_KINDS, b"{}")).items():
            kinds.setdefault(name, set()).update(seen)
        if _KEPT_TYPES in metadata:
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(metadata[_KEPT_TYPES])))
            types |= {field.name: field.type for field in schema}
    taken = {*COLUMNS, *sweep}
    carry = {}
    for name, seen in kinds.items():
        kind = types.get(name)
        if kind is None or not _convertible(kind):
            kind = _type_of(seen)
        carry[_free(name, taken, "input_")] = (name, kind)
    return Layout(sweep, carry)


def _free(name: str, taken: Iterable[str], prefix: str) -> str:
    held = set(taken)
    while name in held:
        name = prefix + name
    return name


class Assembled(NamedTuple):
    schema: pa.Schema
    rows: int
    batches: Iterator[pa.Table]


def assemble(
    folder: Path,
    grid: dict[str, list[Any]],
    labels: Sequence[str],
    planned: pl.DataFrame | None = None,
    since: int = 0,
    pending: Sequence[Outcome] = (),
) -> Assembled:
    """The results in input order: one row a request, by row, sweep point, sample.

    ``labels`` are the sweep points in order. ``planned`` (``hi``, ``lo``, ``row``) says which keys of parts numbered
    below ``since`` still belong to the job, and at which row; without it all do, and of several outcomes for one slot the last
    counts. ``pending`` are outcomes not sealed yet. Memory is bounded by a few windows of 10,000 rows, and some 50 bytes a row.
    """
    shape = layout(folder, grid)
    tables = _Parts(folder, pending)
    index = _index(tables, labels, planned, since)

    def batches() -> Iterator[pa.Table]:
        for at in range(0, index.height, _WINDOW_ROWS):
            yield _finish(tables.gather(index.slice(at, _WINDOW_ROWS)), shape)

    return Assembled(shape.schema, index.height, batches())


def write_results(path: Path, assembled: Assembled) -> None:
    """Write the table, atomically.

    :raises StorageError: if it cannot be written; an older one stays as it is.
    """
    with storing(path), replaced(path) as stream, pq.ParquetWriter(stream, assembled.schema, compression="zstd") as writer:
        for table in assembled.batches:
            writer.write_table(table)


class _Parts:
    """Parts by number, the last few used kept in memory; outcomes not sealed yet are the part with number -1."""

    def __init__(self, folder: Path, pending: Sequence[Outcome]) -> None:
        self._folder = folder
        self.numbers = part_numbers(folder)
        self._pending = to_table(pending) if pending else None
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def heads(self) -> Iterator[tuple[int, pl.DataFrame]]:
        columns = ["key", "slot", "row", "sample", "point"]
        for number in self.numbers:
            yield number, pl.DataFrame(_read(self._folder, number, columns))
        if self._pending is not None:
            yield -1, pl.DataFrame(self._pending.select(columns))

    def gather(self, wanted: pl.DataFrame) -> pa.Table:
        """The rows of a window, in its order. ``wanted`` has ``part``, ``at`` and the ``row`` to give each."""
        places = wanted.with_row_index("order")
        pieces, orders = [], []
        for (number,), group in places.partition_by("part", as_dict=True).items():
            pieces.append(self._load(int(number)).take(pa.array(group["at"].to_arrow())))
            orders += group["order"].to_list()
        back = pl.Series(orders).arg_sort().to_arrow()
        table = pa.concat_tables(pieces).take(back)
        return table.set_column(table.schema.get_field_index("row"), "row", wanted["row"].to_arrow())

    def _load(self, number: int) -> pa.Table:
        if number == -1:
            return self._pending
        if number not in self._cache:
            self._cache[number] = _read(self._folder, number)
            while len(self._cache) > 1 and sum(t.num_rows for t in self._cache.values()) > _CACHED_ROWS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]


def _index(parts: _Parts, labels: Sequence[str], planned: pl.DataFrame | None, since: int) -> pl.DataFrame:
    empty = {"hi": pl.UInt64, "lo": pl.UInt64, "row": pl.Int64, "sample": pl.Int32, "point": pl.Int32, "part": pl.Int32,
             "at": pl.UInt32}  # fmt: skip
    order = {label: i for i, label in enumerate(labels)}
    found = [pl.DataFrame(schema=empty)]
    for number, head in parts.heads():
        keys = halves_of_hex(head["key" if planned is not None else "slot"])
        frame = pl.DataFrame(
            {
                "hi": keys["hi"],
                "lo": keys["lo"],
                "row": head["row"],
                "sample": head["sample"],
                "point": head["point"].replace_strict(order, default=len(order), return_dtype=pl.Int32),
                "part": pl.repeat(number, head.height, dtype=pl.Int32, eager=True),
                "at": pl.int_range(0, head.height, dtype=pl.UInt32, eager=True),
            }
        )
        if planned is not None and 0 <= number < since:
            kept = planned.select("hi", "lo", pl.col("row").alias("now"))
            frame = frame.join(kept, on=["hi", "lo"], how="inner", maintain_order="left")
            frame = frame.with_columns(row=pl.col("now")).drop("now")
        found.append(frame.select(list(empty)))
    whole = pl.concat(found).unique(subset=["hi", "lo"], keep="last", maintain_order=True)
    return whole.sort("row", "point", "sample", maintain_order=True).select("part", "at", "row")


def _finish(table: pa.Table, shape: Layout) -> pa.Table:
    arrays = [table.column(name) for name in COLUMNS]
    for side, column in ((shape.sweep, "point"), (shape.carry, "carry")):
        if side:
            rows = [msgspec.json.decode(text) if text else {} for text in table.column(column).to_pylist()]
            arrays += [_typed([row.get(name) for row in rows], kind) for name, kind in side.values()]
    return pa.Table.from_arrays(arrays, schema=shape.schema)


# ------------------------------------------------------------------------- types of what was carried along as JSON


def _kinds(carried: Iterable[str | None]) -> dict[str, list[str]]:
    seen: dict[str, set[str]] = {}
    for text in carried:
        if text is not None:
            for name, value in msgspec.json.decode(text).items():
                seen.setdefault(name, set()).add(_kind(value))
    return {name: sorted(kinds) for name, kinds in seen.items()}


def _kinds_of(values: Iterable[Any]) -> set[str]:
    return {_kind(value) for value in values}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "other"
    return {float: "float", str: "str"}.get(type(value), "other")


def _type_of(kinds: Iterable[str]) -> pa.DataType:
    told = set(kinds) - {"null"}
    if told == {"int"}:
        return pa.int64()
    if told and told <= {"int", "float"}:
        return pa.float64()
    if told == {"bool"}:
        return pa.bool_()
    return pa.string()  # text, or the JSON of whatever it is


def _convertible(kind: pa.DataType) -> bool:
    t = pa.types
    if t.is_list(kind) or t.is_large_list(kind):
        return _plain(kind.value_type)
    return _plain(kind) or t.is_temporal(kind) and not t.is_duration(kind) and not t.is_interval(kind) or t.is_binary(kind)


def _plain(kind: pa.DataType) -> bool:
    t = pa.types
    return t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_string(kind) or t.is_large_string(kind)


def _typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    t = pa.types
    if t.is_timestamp(kind):
        return pa.array([v and datetime.datetime.fromisoformat(v) for v in values], kind)
    if t.is_date(kind):
        return pa.array([v and datetime.date.fromisoformat(v) for v in values], kind)
    if t.is_time(kind):
        return pa.array([v and datetime.time.fromisoformat(v) for v in values], kind)
    if t.is_binary(kind):
        return pa.array([None if v is None else base64.b64decode(v) for v in values], kind)
    if t.is_string(kind) or t.is_large_string(kind):
        return pa.array([v if v is None or isinstance(v, str) else msgspec.json.encode(v).decode() for v in values], kind)
    return pa.array(values, kind)
