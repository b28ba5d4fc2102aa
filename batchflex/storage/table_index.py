"""Which row of which part is where in the table of results: an index of 12 bytes a row. The rows are read as needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ..core import Outcome, SortedKeys
from . import carried_columns, part_files, part_index
from .carried_updates import OWN, CarriedUpdates
from .places import ALL, Some, place_of, pointed, stretch_of
from .store import Store
from .void_failures import Void

_CACHE_BYTES = 16 << 20
_PENDING = ALL - 1  # stands for the number of a part that is not written yet


class PartRows:
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
        self._end = 0
        self._row_bytes: list[int] = []
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def heads(self, columns: Callable[[int], list[str]]) -> Iterator[tuple[int, pl.DataFrame]]:
        """For each part: its number and some of its columns, as :func:`part_index.head` gives them, with ``where`` each row is,
        and which entry of the updates it has (``carried``), if there are any. Failures that are void are left out. To be called
        once.
        """
        for number, footer in self.footers.items():
            self._between()
            first = self._end
            for group, rows in enumerate(footer.groups):
                self._groups.append((number, group))
                self._begins.append(self._end)
                self._row_bytes.append(footer.size // max(1, sum(footer.groups)))
                self._end += rows
            if self._only is not None and number not in self._only:
                continue
            wanted = columns(number) if self._updates is None else [*dict.fromkeys(["key", *columns(number)])]
            if is_pending := number == _PENDING:
                table = self._pending.select(wanted)
            else:
                table = part_files.read_part(self._store, number, wanted)
            frame = part_index.head(table).with_columns(where=pl.int_range(first, self._end, dtype=pl.UInt32))
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

    def whole_groups(self, where: pl.Series) -> list[tuple[int, int]]:
        """Where among rows of parts in this order there is all of a row group, in its own order, and which (counted as by
        :meth:`located`); only large ones, and none that is pending."""
        numbers = where.to_numpy().astype(np.int64)
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(numbers) != 1) + 1, [len(numbers)]])
        begins = np.array([*self._begins, self._end])
        found = []
        for at in np.flatnonzero(np.diff(bounds) >= part_files.WHOLE_ROWS):
            first, end = bounds[at], bounds[at + 1]
            group = int(np.searchsorted(begins, numbers[first]))
            while group < len(self._begins) and begins[group + 1] - numbers[first] <= end - first:
                if begins[group + 1] - begins[group] >= part_files.WHOLE_ROWS and self._groups[group][0] != _PENDING:
                    found.append((int(first + begins[group] - numbers[first]), group))
                group += 1
        return found

    def group(self, group: int) -> tuple[int, int, int]:
        """The number of the part that a row group is in, its number there, and how many rows it has."""
        number, at = self._groups[group]
        return number, at, self.footers[number].groups[at]

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


class Places:
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


_PLACE: dict[str, Any] = {"row": pl.Int64, "point": pl.Int32, "sample": pl.Int32, "where": pl.UInt32}
_CARRIED: dict[str, Any] = {"carried": pl.UInt32}
_KEY: dict[str, Any] = {"hi": pl.UInt64, "lo": pl.UInt64}
_SLOT: dict[str, Any] = {"slot_hi": pl.UInt64, "slot_lo": pl.UInt64}


def of_history(parts: PartRows, labels: Sequence[str]) -> Places:
    """All answers; a sweep point that is none of ``labels`` comes last."""
    columns = ["key", "slot", "row", "sample", "point", "status"]
    heads = [pointed(head, labels) for _, head in parts.heads(lambda number: columns)]
    whole = part_index.last_of_each(_concat(heads, _KEY | _SLOT | parts.places)).drop("hi", "lo")
    whole = part_index.last_of_each(whole.sort("where").rename({"slot_hi": "hi", "slot_lo": "lo"}))
    return Places([whole.sort("where")], all=True, has_updates=parts.has_updates)


def of_plan(
    parts: PartRows,
    labels: Sequence[str],
    columns: Sequence[str],
    place: Callable[[pl.DataFrame], pl.DataFrame],
    since: int,
    only: Some | None = None,
) -> Places:
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
    return Places(heads, has_updates=parts.has_updates, size=(1, 1) if only is None else only.size)


def by_keys(planned: pl.DataFrame) -> Callable[[pl.DataFrame], pl.DataFrame]:
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
