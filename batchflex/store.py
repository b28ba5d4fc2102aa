"""Parts and the table made of them.

``parts/NNNNNN.parquet`` holds sealed outcomes, append-only, each part written whole and atomically; of several
outcomes with one key the last counts. ``results.parquet`` is derived from them and can be made again at any time.
CONTRACT.md is the reference of the columns.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from . import carried
from .errors import FolderError
from .folder import replaced, storing
from .keyindex import SortedKeys
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
# What the footers say: of a part, the kinds and Arrow types of its carried columns and its size in memory; of the
# results, what they were made of.
_KINDS, _TYPES, _SIZE = b"batchflex.carry_kinds", b"batchflex.carry_schema", b"batchflex.bytes"
_MADE_OF = b"batchflex.made_of"
_SEALED_AT_ONCE = 2_000  # rows: converting a column holds the interpreter lock, and the event loop up
_WINDOW_ROWS = 4_000
_WINDOW_BYTES = 16 << 20
_CACHE_BYTES = 32 << 20
_ODD = 0x9E3779B97F4A7C15
_PENDING = 2**31 - 1  # stands for the number of a part that is not written yet


def part_numbers(folder: Path) -> list[int]:
    """The numbers of the parts in a folder, ascending."""
    return sorted(int(p.stem) for p in folder.glob("*.parquet") if p.stem.isdecimal())


def part_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def write_part(folder: Path, number: int, outcomes: Sequence[Outcome], carry_schema: pa.Schema | None = None) -> None:
    """Seal outcomes into a part. ``carry_schema`` are the Arrow types of carried columns, if the input had any.

    :raises StorageError: if it cannot be written; then there is no such part.
    """
    path = part_path(folder, number)
    slices = (outcomes[i : i + _SEALED_AT_ONCE] for i in range(0, len(outcomes), _SEALED_AT_ONCE))
    table = pa.concat_tables([_PART_SCHEMA.empty_table(), *map(to_table, slices)])
    kinds, types = carried.describe([o.carry for o in outcomes], carry_schema)
    told = {
        _KINDS: msgspec.json.encode(kinds),
        _TYPES: base64.b64encode(types.serialize().to_pybytes()),
        _SIZE: b"%d" % table.nbytes,
    }
    with storing(path), replaced(path) as stream:
        pq.write_table(
            table.replace_schema_metadata(told),
            stream,
            compression="zstd",
            write_statistics=["key", "id", "row"],
            write_page_checksum=True,
        )


def to_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Outcomes as an Arrow table with the columns of a part."""
    rows = map(msgspec.structs.astuple, outcomes)
    values = dict(zip(Outcome.__struct_fields__, zip(*rows, strict=True), strict=bool(outcomes)))
    arrays = []
    for field in _PART_SCHEMA:
        column = values.get(field.name, ())
        if field.type == _MOMENT:
            arrays.append(pa.array(column, pa.int64()).cast(_MOMENT))
        else:
            arrays.append(pa.array(column, field.type))
    return pa.Table.from_arrays(arrays, schema=_PART_SCHEMA)


def read_keys(folder: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """For each part: ``hi`` and ``lo`` of its keys, and the given columns; ``slot`` as ``slot_hi`` and ``slot_lo``.

    :raises FolderError: if a part is damaged.
    """
    for number in part_numbers(folder):
        yield _head(_read(folder, number, ["key", *columns]), columns)


def _head(table: pa.Table, columns: Sequence[str]) -> pl.DataFrame:
    frame = _halves(table["key"], "")
    if "slot" in columns:
        frame = frame.hstack(_halves(table["slot"], "slot_"))
    return frame.hstack(pl.DataFrame(table.select([name for name in columns if name != "slot"])))


def _halves(keys: pa.ChunkedArray, prefix: str) -> pl.DataFrame:
    """As :func:`~batchflex.keyindex.halves_of_hex`, for keys that lie side by side: ten times as fast."""
    text = b"".join(memoryview(c.buffers()[2])[32 * c.offset : 32 * (c.offset + len(c))] for c in keys.chunks if len(c))
    whole = pa.Array.from_buffers(pa.uint64(), 2 * len(keys), [None, pa.py_buffer(binascii.unhexlify(text))])
    flat = pl.Series(whole)
    return pl.DataFrame({f"{prefix}hi": flat.gather_every(2), f"{prefix}lo": flat.gather_every(2, 1)})


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


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, binascii.Error) as error:
        if isinstance(error, OSError) and error.errno:
            raise FolderError(f"{path} cannot be read: {error.strerror or error}") from None
        raise FolderError(f"{path} is damaged ({error}); move it away, and its rows are asked again") from None


def _read(folder: Path, number: int, columns: list[str] | None = None) -> pa.Table:
    path = part_path(folder, number)
    with _reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns=columns, use_threads=columns is None)  # for a few columns threads cost more


def _footer(folder: Path, number: int) -> Mapping[bytes, bytes]:
    path = part_path(folder, number)
    with _reading(path):
        footer: Mapping[bytes, bytes] = pq.read_schema(path).metadata or {}
    if not {_KINDS, _TYPES, _SIZE} <= footer.keys():
        raise FolderError(f"{path} is no part that batchflex wrote; move it away")
    return footer


# ------------------------------------------------------------------------------------------------- the final table


class Layout(NamedTuple):
    """The columns a results table has beside the fixed ones: sweep variables and carried columns, by output name."""

    sweep: dict[str, tuple[str, pa.DataType]]
    carry: dict[str, tuple[str, pa.DataType]]

    @property
    def schema(self) -> pa.Schema:
        more = [(name, kind) for side in (self.sweep, self.carry) for name, (_, kind) in side.items()]
        return pa.schema([*COLUMNS.items(), *more])


def _layout(
    footers: Iterable[Mapping[bytes, bytes]],
    grid: Mapping[str, list[Any]],
    foreign: Iterable[str],
    pending: Sequence[Outcome],
) -> Layout:
    """Name and type the columns of a job's results. ``foreign`` are sweep points that are none of the grid's."""
    strays = [msgspec.json.decode(label) for label in foreign]
    sweep = {}
    for out, name in _named(grid, COLUMNS, "sweep_").items():
        values = [*grid[name], *(point.get(name) for point in strays)]
        sweep[out] = (name, carried.type_of(map(carried.kind_of, values)))
    kinds: dict[str, set[str]] = {}
    types: dict[str, set[pa.DataType | None]] = {}  # those that the parts tell of; None where one tells of none
    nulls: dict[str, set[pa.DataType | None]] = {}  # those of parts without a value in the column
    for footer in footers:
        told = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(footer[_TYPES])))
        for name, seen in msgspec.json.decode(footer[_KINDS]).items():
            kinds.setdefault(name, set()).update(seen)
            kind = told.field(name).type if name in told.names else None
            (nulls if seen == ["null"] else types).setdefault(name, set()).add(kind)
    for name, values in carried.columns(o.carry for o in pending).items():
        kinds.setdefault(name, set()).update(map(carried.kind_of, values))
        if not all(carried.holds(kind, values) for kind in types.get(name, ())):
            types[name] = {None}
    carry = {}
    for out, name in _named(kinds, {*COLUMNS, *sweep}, "input_").items():
        agreed = types.get(name) or nulls.get(name, set())
        carry[out] = (name, (agreed.pop() if len(agreed) == 1 else None) or carried.type_of(kinds[name]))
    return Layout(sweep, carry)


def _named(names: Iterable[str], taken: Collection[str], prefix: str) -> dict[str, str]:
    """Output name to name, in order. A name that is taken gets the prefix, again until it is free."""
    names = list(names)
    held = {*taken, *names}
    found = {}
    for name in names:
        out = name
        if name in taken:
            while out in held:
                out = prefix + out
            held.add(out)
        found[out] = name
    return found


class Assembled(NamedTuple):
    """A results table, to be made window by window. ``made_of`` tells it from others; empty without a plan."""

    schema: pa.Schema
    rows: int
    batches: Iterator[pa.Table]
    made_of: bytes = b""


def assemble(
    folder: Path,
    grid: Mapping[str, list[Any]],
    labels: Sequence[str],
    planned: pl.DataFrame | None = None,
    since: int = 0,
    pending: Sequence[Outcome] = (),
) -> Assembled:
    """The results in input order: one row a request, by row, sweep point, sample.

    ``labels`` are the sweep points in order. ``planned`` (``hi``, ``lo``, ``row``, ``point``) says which keys of parts
    numbered below ``since`` belong to the job, and where they are in it. Without it all do, and of several outcomes for
    one slot the last counts. ``pending`` are outcomes not sealed yet. Memory is bounded by some 200 MB,
    some 60 bytes a row, and twice the largest part.
    """
    tables = _Parts(folder, pending)
    index = _index(tables, labels, planned, since)
    foreign = tables.points.difference(labels) if planned is None else ()
    shape = _layout(tables.footers.values(), grid, foreign, pending)
    made_of = b"" if planned is None or pending else _made_of(tables.numbers, grid, labels, index)

    def batches() -> Iterator[pa.Table]:
        for at in range(0, index.height, _WINDOW_ROWS):
            window = index.slice(at, _WINDOW_ROWS)
            share = _WINDOW_BYTES / max(tables.size(window), _WINDOW_BYTES)
            for piece in window.iter_slices(max(1, int(window.height * share))):
                yield _finish(tables.gather(piece), piece, labels, shape)

    return Assembled(shape.schema, index.height, batches(), made_of)


def write_results(path: Path, assembled: Assembled) -> None:
    """Write the table, atomically.

    :raises StorageError: if it cannot be written; an older one stays as it is.
    """
    schema = assembled.schema.with_metadata({_MADE_OF: assembled.made_of})
    statistics = ["id", "row", "key", "status"]
    with (
        storing(path),
        replaced(path) as stream,
        pq.ParquetWriter(stream, schema, compression="zstd", write_statistics=statistics) as writer,
    ):
        for table in assembled.batches:
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def is_current(
    path: Path, folder: Path, grid: Mapping[str, list[Any]], labels: Sequence[str], planned: pl.DataFrame, since: int
) -> bool:
    """Whether the table at ``path`` is what :func:`assemble` would give, told without reading the parts.

    ``False`` if there is no such table, and whenever this run sealed a part.
    """
    numbers = part_numbers(folder)
    if any(number >= since for number in numbers):
        return False
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    places = planned.with_columns(pl.col("point").cast(pl.Int32))
    return bool(metadata.get(_MADE_OF) == _made_of(numbers, grid, labels, places))


def _made_of(numbers: list[int], grid: Mapping[str, list[Any]], labels: Sequence[str], places: pl.DataFrame) -> bytes:
    """A digest of everything that the results depend on; of the rows a sum in which the order does not matter."""
    known = [list(map(str, _PART_SCHEMA)), numbers, dict(grid), list(labels), places.height]
    odd = pl.lit(_ODD, dtype=pl.UInt64)
    place = pl.col("row").cast(pl.UInt64) * odd + pl.col("point").cast(pl.UInt64)
    mixed = ((pl.col("hi") ^ (place * odd)) * (pl.col("lo") | pl.lit(1, dtype=pl.UInt64))).alias("mixed")
    total = 0
    for piece in places.iter_slices(1_000_000):
        high, low = (pl.col("mixed") // 2**32).sum(), (pl.col("mixed") % 2**32).sum()
        sums = piece.select(mixed).select(high=high, low=low).row(0)
        total += sums[0] * 2**32 + sums[1]
    return hashlib.blake2b(msgspec.json.encode([*known, str(total)]), digest_size=16).hexdigest().encode()


class _Parts:
    """Parts by number, the last few used kept in memory; outcomes not sealed yet count as the last."""

    def __init__(self, folder: Path, pending: Sequence[Outcome]) -> None:
        self._folder = folder
        self.numbers = part_numbers(folder)
        self.footers = {number: _footer(folder, number) for number in self.numbers}
        self.points: set[str] = set()
        self._pending = to_table(pending)
        self._row_bytes: dict[int, int] = {}
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def heads(self, columns: list[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """For each part: its number and what :func:`read_keys` gives."""
        for number in self.numbers:
            head = _head(_read(self._folder, number, ["key", *columns]), columns)
            self._row_bytes[number] = int(self.footers[number][_SIZE]) // max(1, head.height)
            self.points.update(head["point"].unique())
            yield number, head
        if self._pending.num_rows:
            self._row_bytes[_PENDING] = self._pending.nbytes // self._pending.num_rows
            head = _head(self._pending, columns)
            self.points.update(head["point"].unique())
            yield _PENDING, head

    def size(self, wanted: pl.DataFrame) -> int:
        """About how much memory the rows of a window take."""
        return int(wanted["part"].replace_strict(self._row_bytes, return_dtype=pl.Int64).sum())

    def gather(self, wanted: pl.DataFrame) -> pa.Table:
        """The rows of a window, in its order; ``wanted`` has ``part`` and ``at`` of each."""
        pieces, orders = [], []
        for group in wanted.with_row_index("order").partition_by("part", maintain_order=True):
            pieces.append(self._load(group["part"][0]).take(group["at"].to_arrow()))
            orders.append(group["order"])
        return pa.concat_tables(pieces).take(pl.concat(orders).arg_sort().to_arrow())

    def _load(self, number: int) -> pa.Table:
        if number == _PENDING:
            return self._pending
        if number not in self._cache:
            self._cache[number] = _read(self._folder, number)
            while len(self._cache) > 1 and sum(t.nbytes for t in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]


_KEY: dict[str, Any] = {"hi": pl.UInt64, "lo": pl.UInt64}
_SLOT: dict[str, Any] = {"slot_hi": pl.UInt64, "slot_lo": pl.UInt64}
_PLACES: dict[str, Any] = {
    "row": pl.Int64, "point": pl.Int32, "sample": pl.Int32, "part": pl.Int32, "at": pl.UInt32
}  # fmt: skip


def _index(parts: _Parts, labels: Sequence[str], planned: pl.DataFrame | None, since: int) -> pl.DataFrame:
    """Where each row of the results comes from, in their order; a sweep point that is none of the job's comes last."""
    columns = ["row", "sample", "point"]
    if planned is None:
        heads = [_placed(number, head, labels) for number, head in parts.heads(["slot", *columns])]
        whole = last_of_each(_concat(heads, _KEY | _SLOT | _PLACES)).drop("hi", "lo")
        whole = last_of_each(whole.sort("part", "at").rename({"slot_hi": "hi", "slot_lo": "lo"}))
    else:
        plan = SortedKeys(planned)
        heads = []
        for number, head in parts.heads(columns):
            frame = _placed(number, head, labels)
            if number < since:
                at = pl.Series(plan.find(frame), dtype=pl.Int64)
                now = planned.select("row", pl.col("point").cast(pl.Int32))[at.filter(at >= 0)]
                frame = frame.filter(at >= 0).with_columns(now["row"], now["point"])
            heads.append(frame)
        whole = last_of_each(_concat(heads, _KEY | _PLACES))
    return whole.sort("row", "point", "sample")


def _concat(frames: list[pl.DataFrame], schema: dict[str, Any]) -> pl.DataFrame:
    """The frames as one; the list is emptied, so that they do not stay in memory beside it."""
    whole = pl.concat([pl.DataFrame(schema=schema), *(frame.select(list(schema)) for frame in frames)])
    frames.clear()
    return whole.rechunk()


def _placed(number: int, head: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    order = {label: i for i, label in enumerate(labels)}
    return head.with_columns(
        pl.col("point").replace_strict(order, default=len(order), return_dtype=pl.Int32),
        part=pl.lit(number, dtype=pl.Int32),
        at=pl.int_range(pl.len(), dtype=pl.UInt32),
    )


def _finish(table: pa.Table, places: pl.DataFrame, labels: Sequence[str], shape: Layout) -> pa.Table:
    """The columns of the results, the row numbers and sweep points being those of ``places``."""
    arrays = [places["row"].to_arrow() if name == "row" else table.column(name) for name in COLUMNS]
    if shape.sweep:
        known = dict(enumerate(labels))
        points = zip(places["point"].to_list(), table.column("point").to_pylist(), strict=True)
        rows = [msgspec.json.decode(known.get(point, stored)) for point, stored in points]
        arrays += [carried.typed([row.get(name) for row in rows], kind) for name, kind in shape.sweep.values()]
    if shape.carry:
        rows = [msgspec.json.decode(text) if text else {} for text in table.column("carry").to_pylist()]
        arrays += [carried.typed([row.get(name) for row in rows], kind) for name, kind in shape.carry.values()]
    return pa.Table.from_arrays(arrays, schema=shape.schema)
