"""The table of results: derived from the parts, and can be made again at any time.

It is made window by window from an index of 12 bytes a row, so that memory hardly grows with it. CONTRACT.md is the
reference of the columns.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import Outcome, SortedKeys, raw
from . import carried_columns, parsed_columns, part_files, part_index
from .carried_updates import OWN, CarriedUpdates
from .files import replaced, storing
from .part_files import COLUMNS
from .places import Some, Stretch, place_of, pointed as pointed
from .results_columns import ResultsLayout, layout_of
from .store import Store
from .void_failures import Void

_WINDOW_ROWS = 4_000
_WINDOW_BYTES = 10 << 20
_CACHE_BYTES = 16 << 20
_GROUP_ROWS = 50_000
_PENDING = 2**31 - 1  # stands for the number of a part that is not written yet
ALL = _PENDING + 1  # beyond the number of every part
STRETCH_ROWS = (
    250_000  # of the plan, whose results are one file where the table is a folder: the last is made each night
)


class Assembled(NamedTuple):
    """A results table, to be made window by window. Its ``metadata`` has a digest of all that it depends on, and the identity of
    the parts that it is made of. The ``stretches`` are all of it, piece by piece; ``how`` is a digest of what all of them depend
    on, beside the answers, and ``size`` how many sweep points and samples a row has. ``between`` is called between the steps of
    making it, and may raise to end this."""

    layout: ResultsLayout
    rows: int
    batches: Iterator[pa.Table]
    metadata: dict[bytes, bytes]
    stretches: Callable[[], list[Stretch]]
    how: str
    size: tuple[int, int]
    between: Callable[[], None]

    @property
    def schema(self) -> pa.Schema:
        return self.layout.schema

    def with_metadata(self, more: Mapping[bytes, bytes]) -> Assembled:
        return self._replace(metadata=self.metadata | dict(more))


def assemble(
    store: Store,
    variables: Mapping[str, list[Any]],
    labels: Sequence[str],
    planned: pl.DataFrame | None = None,
    since: int = 0,
    pending: Sequence[Outcome] = (),
    declared: Mapping[str, list[str]] | None = None,
    positions: part_index.Positions | None = None,
    void: Collection[str] = (),
    between: Callable[[], None] = lambda: None,
    updates: CarriedUpdates | None = None,
    only: Some | None = None,
) -> Assembled:
    """The results in input order: one row a request, by row, sweep point, sample.

    ``labels`` are the sweep points in order. ``planned`` (``hi``, ``lo``, ``row``, ``point``) says which keys of parts
    numbered below ``since`` belong to the job, and where they are in it; those of later parts are where they say
    themselves. In place of it, ``positions`` says where those of earlier parts are. Without both all
    belong to the job, and of several outcomes for one slot the last counts. ``pending`` are outcomes not sealed yet, ``declared``
    the fields of structured answers that have a column in any case. Failures that are void have no row; those of the runs
    ``void`` are, beside those that parts name. What ``updates`` have counts in place of what was carried with the answers. With
    ``positions``, ``only`` some stretches may be made. Memory is bounded by some 80 MB, 12 bytes a row (without a plan 60), twice
    that while they are sorted, and twice the largest row group; with updates by 12 bytes a row and 28 an update more.
    """
    updates = updates if updates is not None and len(updates) else None
    tables = _Parts(store, pending, void, between, updates, None if only is None else only.parts)
    if positions is not None:
        places = _of_plan(tables, labels, positions.columns, positions.place, since, only)
    elif planned is not None:
        places = _of_plan(tables, labels, ["key"], _by_keys(planned), since)
    else:
        places = _of_history(tables, labels)
    foreign = tables.points.difference(labels) if planned is None and positions is None else ()
    carrying = None if updates is None else tables.carrying(updates, places.index)
    shape = layout_of(tables.footers.values(), variables, foreign, pending, declared or {}, carrying)

    def batches(first: int, end: int) -> Iterator[pa.Table]:
        for at in range(first, end, _WINDOW_ROWS):
            window = tables.located(places.index["where"].slice(at, min(_WINDOW_ROWS, end - at)))
            size = tables.size(window) + (0 if updates is None else updates.row_bytes * window.height)
            share = _WINDOW_BYTES / max(size, _WINDOW_BYTES)
            each = max(1, int(window.height * share))
            for begin in range(0, window.height, each):
                between()
                rows, points = places.of(at + begin, min(each, window.height - begin))
                table = tables.gather(window.slice(begin, each))
                if updates is not None:
                    table = updates.applied(table, places.index["carried"].slice(at + begin, table.num_rows))
                yield _finish(table, rows, points, labels, shape)

    identity = part_files.identity(store)
    known = [
        list(COLUMNS),
        identity,
        [o.key for o in pending],
        dict(variables),
        list(labels),
        declared or {},
    ]
    index = places.index
    made_of = {part_files.MADE_OF_PARTS: identity.encode(), part_files.ORIGINS: msgspec.json.encode(shape.origins)}
    if updates is not None:
        known.append(str(shape.schema))
        index = index.with_columns(updates.digests(index["carried"]))
        made_of[part_files.MADE_OF_CARRIED] = updates.id.encode()
    made_of[part_files.MADE_OF] = _digest(known, index)
    alike = [str(shape.schema), *known[2:6], places.size]

    @functools.cache
    def stretches() -> list[Stretch]:
        """So that the digests of those in which nothing has changed stay, they hold no part that came elsewhere."""
        if only is not None and not len(index):
            return []
        numbers = index["place"] // STRETCH_ROWS
        begins = [0, *((numbers != numbers.shift(1)).arg_true().to_list() if len(numbers) else [])]
        found = []
        for begin, end in itertools.pairwise([*dict.fromkeys(begins), len(numbers)]):
            here = index.slice(begin, end - begin)
            if updates is not None and not (here["carried"] != 0).any():  # as it was before there were any
                here = here.drop("carried")
            sources = tables.sources(here["where"])
            digest = _digest([*alike, sources], here)
            number, parts = int(numbers[begin]) if end > begin else 0, [source[0] for source in sources]
            name = f"{number:06d}-{digest.decode()[:16]}"
            found.append(Stretch(number, name, end - begin, parts, functools.partial(batches, begin, end)))
        return found

    whole = batches(0, places.index.height)
    how = _digest(alike, index.clear()).decode()
    return Assembled(shape, places.index.height, whole, made_of, stretches, how, places.size, between)


def write_results(path: Path, assembled: Assembled) -> None:
    """Write the table into one file, atomically.

    :raises StorageError: if it cannot be written; an older one stays as it is.
    """
    schema = assembled.schema.with_metadata(assembled.metadata)
    statistics = ["id", "row", "key", "status"]
    with (
        storing(path),
        replaced(path) as stream,
        pq.ParquetWriter(stream, schema, compression="zstd", write_statistics=statistics) as writer,
    ):
        for group in grouped(assembled.batches):
            writer.write_table(group.replace_schema_metadata(assembled.metadata))
            assembled.between()


def grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Windows put together to row groups: small ones make a large table slow to open."""
    group: list[pa.Table] = []
    for table in tables:
        group.append(table)
        if sum(t.num_rows for t in group) >= _GROUP_ROWS or sum(t.nbytes for t in group) >= _WINDOW_BYTES:
            yield pa.concat_tables(group)
            group = []
    if group:
        yield pa.concat_tables(group)


def _digest(known: list[Any], index: pl.DataFrame) -> bytes:
    digest = hashlib.blake2b(msgspec.json.encode(known), digest_size=16)
    for column in index.iter_columns():
        digest.update(raw(column))
    return digest.hexdigest().encode()


class _Parts:
    """Parts by number, their row groups being read as they are needed and the last few kept in memory; outcomes not sealed
    yet count as the last.

    ``where`` a row is, is its number among the rows of all parts, in the order of the parts.
    """

    def __init__(
        self,
        store: Store,
        pending: Sequence[Outcome],
        void: Collection[str],
        between: Callable[[], None],
        updates: CarriedUpdates | None,
        only: Collection[int] | None = None,
    ) -> None:
        self._store = store
        self._between = between
        self._updates = updates
        self._only = only
        self.has_updates = updates is not None
        self.places = _PLACE | _CARRIED if self.has_updates else _PLACE  # the columns that tell of a row's place
        self._void = Void(store, void)
        self._reading = store.reading()
        self.footers: dict[int, part_files.Footer] = {
            number: part_files.footer(store, number) for number in part_files.part_numbers(store)
        }
        self._pending = part_files.to_table(pending)
        if rows := self._pending.num_rows:
            self.footers[_PENDING] = part_files.Footer({}, pa.schema([]), {}, self._pending.nbytes, [rows])
        self.points: set[str] = set()
        self._groups: list[tuple[int, int]] = []  # part and row group
        self._begins: list[int] = []
        self._row_bytes: list[int] = []
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def heads(self, columns: Callable[[int], list[str]]) -> Iterator[tuple[int, pl.DataFrame]]:
        """For each part: its number and some of its columns, as :func:`part_index.head` gives them, with ``where`` each row is,
        and which entry of the updates it has (``carried``), if there are any. Failures that are void are left out. To be called
        once.
        """
        end = 0
        for number, footer in self.footers.items():
            self._between()
            first = end
            for group, rows in enumerate(footer.groups):
                self._groups.append((number, group))
                self._begins.append(end)
                self._row_bytes.append(footer.size // max(1, sum(footer.groups)))
                end += rows
            if self._only is not None and number not in self._only:
                continue
            wanted = columns(number) if self._updates is None else [*dict.fromkeys(["key", *columns(number)])]
            if is_pending := number == _PENDING:
                table = self._pending.select(wanted)
            else:
                table = part_files.read_part(self._store, number, wanted)
            frame = part_index.head(table).with_columns(where=pl.int_range(first, end, dtype=pl.UInt32))
            if self._updates is not None:
                frame = frame.with_columns(self._updates.entries(frame))
            self.points.update(frame["point"].unique())
            gone = None if is_pending else self._void.among(number, frame["status"])
            yield number, frame if gone is None else frame.filter(~gone)

    def located(self, where: pl.Series) -> pl.DataFrame:
        """For each row in which row group it is (``group``, counted from 0 over all parts) and where there (``at``)."""
        begins = pl.Series(self._begins, dtype=pl.UInt32)
        group = begins.search_sorted(where, "right") - 1
        return pl.DataFrame({"group": group, "at": where - begins.gather(group)})

    def numbers(self, where: pl.Series) -> list[int]:
        """The parts that rows are in; not what is pending."""
        groups = self.located(where)["group"].unique()
        return sorted({self._groups[group][0] for group in groups} - {_PENDING})

    def sources(self, where: pl.Series) -> list[tuple[int, int, str]]:
        """The parts that rows are in: their numbers, sizes in memory and ids."""
        footers = [(number, self.footers[number]) for number in self.numbers(where)]
        return [(int(number), footer.size, footer.id) for number, footer in footers]

    def carrying(self, updates: CarriedUpdates, index: pl.DataFrame) -> list[part_files.Footer]:
        """What tells the kinds and types of the carried columns: the updates that rows have, and the parts with rows that have
        none. Where some rows of a part have one, only the others count, if that could make a difference."""
        is_own = index["carried"] == OWN
        own, updated = index["where"].filter(is_own).sort(), index["where"].filter(~is_own)
        numbers, mixed = self.numbers(own), {*self.numbers(updated)}
        current = updates.described(index["carried"].filter(~is_own))
        found = [current, *(self.footers[number] for number in numbers)]
        whole = part_files.together(found)
        is_sure = all(
            name in current.kinds and (name in whole.types.names or len({*kinds} - {"null"}) < 2)
            for name, kinds in whole.kinds.items()
        )
        if is_sure:
            return found
        looked_at = {number: self._described(number, own) for number in numbers if number in mixed}
        return [current, *(looked_at.get(number) or self.footers[number] for number in numbers)]

    def _described(self, number: int, where: pl.Series) -> part_files.Footer:
        """What the carried columns of some rows of a part hold; ``where`` they are, in order, rows of other parts among them."""
        begin = next(self._begins[at] for at, (part, _) in enumerate(self._groups) if part == number)
        footer = self.footers[number]
        first, end = (int(where.search_sorted(bound)) for bound in (begin, begin + sum(footer.groups)))
        at = where[first:end].to_numpy().astype("int64") - begin
        found = part_files.Footer({}, pa.schema([]), {})
        for table in part_files.read_rows(self._store, number, at, ["carry"]):
            self._between()
            kinds, types = carried_columns.describe(table.column("carry").to_pylist(), footer.types)
            found = part_files.together([found, part_files.Footer(kinds, types, {})])
        return found

    def size(self, wanted: pl.DataFrame) -> int:
        """About how much memory the rows of a window take, in bytes."""
        return int(pl.Series(self._row_bytes, dtype=pl.Int64).gather(wanted["group"]).sum())

    def gather(self, wanted: pl.DataFrame) -> pa.Table:
        """The rows of a window, in its order; ``wanted`` has ``group`` and ``at`` of each."""
        pieces, orders = [], []
        for rows in wanted.with_row_index("order").partition_by("group", maintain_order=True):
            pieces.append(part_files.taken(self._load(rows["group"][0]), rows["at"].to_numpy()))
            orders.append(rows["order"])
        return part_files.taken(pa.concat_tables(pieces), pl.concat(orders).arg_sort().to_numpy())

    def _load(self, group: int) -> pa.Table:
        number, at = self._groups[group]
        if number == _PENDING:
            return self._pending
        if group not in self._cache:
            footer = self.footers[number]
            size = footer.size * footer.groups[at] // max(1, sum(footer.groups))
            while self._cache and size + sum(t.nbytes for t in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
            self._cache[group] = part_files.read_group(self._store, number, at)
        self._cache.move_to_end(group)
        return self._cache[group]


class _Places:
    """The rows of a table in their order: ``place``, one number for row, sweep point and sample, ``where`` each is, and its
    ``carried`` if there are updates.

    Of what comes twice at one place the last that is not ``failed`` counts, unless ``all``. ``has_updates`` tells that there are
    some. The list of ``frames`` is emptied,
    so that they do not stay in memory beside the index.
    """

    def __init__(
        self,
        frames: list[pl.DataFrame],
        *,
        all: bool = False,
        has_updates: bool = False,
        size: tuple[int, int] = (1, 1),
    ) -> None:
        self._points, self._samples = (
            max(least, *(int(frame[name].max() or 0) + 1 for frame in frames), 1)  # type: ignore[arg-type]
            for name, least in zip(("point", "sample"), size, strict=True)
        )
        place = place_of(self.size)
        columns = pl.Schema({"place": pl.UInt64, "where": pl.UInt32} | (_CARRIED if has_updates else {}))
        for number, frame in enumerate(frames):
            answered = pl.lit(0) if all else (~pl.col("failed")).cast(pl.UInt64)
            frames[number] = frame.select((place * 2 + answered).alias("place"), *([*columns][1:])).cast(columns)
        index = _concat(frames, dict(columns)).sort("place", maintain_order=True)
        index = index.with_columns(pl.col("place") // 2)
        twice = index["place"] == index["place"].shift(-1)
        self.index = index if all or not twice.any() else index.filter(~twice.fill_null(False))

    @property
    def size(self) -> tuple[int, int]:
        """How many places a row has: sweep points and samples."""
        return self._points, self._samples

    def of(self, begin: int, length: int) -> tuple[pl.Series, pl.Series]:
        """Row and sweep point of some rows of the table."""
        place = self.index["place"].slice(begin, length)
        each = self._points * self._samples
        return (place // each).cast(pl.Int64), (place % each // self._samples).cast(pl.Int32)


def stretch_of(size: tuple[int, int]) -> pl.Expr:
    """The number of the stretch that a row, sweep point and sample are in."""
    return place_of(size) // STRETCH_ROWS


_PLACE: dict[str, Any] = {"row": pl.Int64, "point": pl.Int32, "sample": pl.Int32, "where": pl.UInt32}
_CARRIED: dict[str, Any] = {"carried": pl.UInt32}
_KEY: dict[str, Any] = {"hi": pl.UInt64, "lo": pl.UInt64}
_SLOT: dict[str, Any] = {"slot_hi": pl.UInt64, "slot_lo": pl.UInt64}


def _of_history(parts: _Parts, labels: Sequence[str]) -> _Places:
    """All answers; a sweep point that is none of ``labels`` comes last."""
    columns = ["key", "slot", "row", "sample", "point", "status"]
    heads = [pointed(head, labels) for _, head in parts.heads(lambda number: columns)]
    whole = part_index.last_of_each(_concat(heads, _KEY | _SLOT | parts.places)).drop("hi", "lo")
    whole = part_index.last_of_each(whole.sort("where").rename({"slot_hi": "hi", "slot_lo": "lo"}))
    return _Places([whole.sort("where")], all=True, has_updates=parts.has_updates)


def _of_plan(
    parts: _Parts,
    labels: Sequence[str],
    columns: Sequence[str],
    place: Callable[[pl.DataFrame], pl.DataFrame],
    since: int,
    only: Some | None = None,
) -> _Places:
    """Answers in parts numbered below ``since`` are where ``place`` puts them, by these ``columns``; it leaves out those that
    are not in the plan. Others are where they say themselves."""
    heads = []
    own = ["row", "sample", "point", "status"]
    for number, head in parts.heads(lambda number: [*own, *columns] if number < since else own):
        frame = pointed(head, labels)
        frame = place(frame) if number < since else frame
        if only is not None:
            frame = frame.filter(~stretch_of(only.size).is_in(list(only.but)))
        failed = (frame["status"] == "failed").alias("failed")
        heads.append(
            pl.DataFrame([*(frame[name].shrink_dtype() for name in parts.places), failed])
        )  # a third of the memory
    return _Places(heads, has_updates=parts.has_updates, size=(1, 1) if only is None else only.size)


def _by_keys(planned: pl.DataFrame) -> Callable[[pl.DataFrame], pl.DataFrame]:
    keys, places = SortedKeys(planned), planned.select("row", pl.col("point").cast(pl.Int32))

    def place(frame: pl.DataFrame) -> pl.DataFrame:
        at = pl.Series(keys.find(frame), dtype=pl.Int64)
        return frame.filter(at >= 0).with_columns(places[at.filter(at >= 0)].get_columns())

    return place


def _concat(frames: list[pl.DataFrame], schema: dict[str, Any]) -> pl.DataFrame:
    """The frames as one; the list is emptied, so that they do not stay in memory beside it."""
    whole = pl.concat([pl.DataFrame(schema=schema), *(frame.select(list(schema)) for frame in frames)])
    frames.clear()
    return whole.rechunk()


def _finish(
    table: pa.Table, rows: pl.Series, points: pl.Series, labels: Sequence[str], shape: ResultsLayout
) -> pa.Table:
    """The columns of the results, with these row numbers and sweep points."""
    arrays = [rows.to_arrow() if name == "row" else table.column(name) for name in COLUMNS]
    now = map(dict(enumerate(labels)).get, points.to_list())  # None of a point that the job does not have
    objects: dict[str, Callable[[list[Any]], Iterable[dict[str, Any]]]] = {
        "point": lambda stored: (msgspec.json.decode(one or other) for one, other in zip(now, stored, strict=True)),
        "carry": lambda texts: (msgspec.json.decode(text) if text else {} for text in texts),
        "parsed": parsed_columns.objects,
    }
    for (column, decoded), side in zip(objects.items(), shape.sides, strict=True):
        values = list(decoded(table.column(column).to_pylist())) if side else []
        arrays += [carried_columns.typed([value.get(name) for value in values], kind) for name, kind in side.values()]
    return pa.Table.from_arrays(arrays, schema=shape.schema)
