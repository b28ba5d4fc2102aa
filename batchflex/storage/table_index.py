"""Which row of which part is where in the table of results: an index of 12 bytes a row. The rows are read as needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..core import Outcome
from . import carried_columns, part_files
from .carried_updates import OWN, CarriedUpdates, Entries
from .places import ALL, Some, place_of, point_numbers, stretches_at
from .store import Store
from .void_failures import Void

if TYPE_CHECKING:
    import polars as pl

    from .positions import Positions

Numbers = npt.NDArray[Any]
Columns = dict[str, Numbers]  # of rows, by name
_CACHE_BYTES = 16 << 20
_PENDING = ALL - 1  # stands for the number of a part that is not written yet


_OWN = ["row", "sample", "point", "status"]
_CODED = ["point", "status"]


class Index(NamedTuple):
    """The rows of a table in their order: ``place``, one number for row, sweep point and sample, ``where`` each is, and its
    ``carried`` entry if there are updates."""

    place: npt.NDArray[np.uint64]
    where: npt.NDArray[np.uint32]
    carried: Numbers | None = None

    def taken(self, at: Numbers) -> Index:
        return Index(self.place[at], self.where[at], None if self.carried is None else self.carried[at])

    def part(self, begin: int, end: int) -> Index:
        here = slice(begin, end)
        return Index(self.place[here], self.where[here], None if self.carried is None else self.carried[here])


class Window(NamedTuple):
    """Some rows: in which row group each is (``group``), and where there (``at``)."""

    group: Numbers
    at: Numbers

    def part(self, begin: int, rows: int) -> Window:
        return Window(self.group[begin : begin + rows], self.at[begin : begin + rows])


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

    def heads(
        self, labels: Sequence[str], columns: Callable[[int], list[str]]
    ) -> Iterator[tuple[int, pa.Table, Columns]]:
        """For each part: its number, these columns of it, and what tells of the places of its rows: ``row``, ``point`` (its
        number among ``labels``) and ``sample``, ``where`` each is, whether it ``failed``, and which entry of the updates it has
        (``carried``), if there are any. Failures that are void are left out. To be called once.
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
            keyed = [] if self._updates is None else ["key"]
            wanted = [*dict.fromkeys([*_OWN, *keyed, *columns(number)])]
            if is_pending := number == _PENDING:
                table = self._pending.select(wanted)
            else:
                table = part_files.read_part(self._store, number, wanted, _CODED)
            point, points = _coded(table["point"])
            status, statuses = _coded(table["status"])
            self.points.update(points)
            found: Columns = {
                "row": table["row"].to_numpy(),
                "point": np.array(point_numbers(points, labels), np.int32)[point],
                "sample": table["sample"].to_numpy(),
                "where": np.arange(first, self._end, dtype=np.uint32),
                "failed": np.array([text == "failed" for text in statuses], np.bool_)[status],
            }
            if self._updates is not None:
                found["carried"] = self._updates.entries(_head(table, ["key"]))
            if not is_pending and self._void.may_be_among(statuses):
                import polars as pl

                if (gone := self._void.among(number, pl.Series(statuses)[status])) is not None:
                    stay = ~gone.to_numpy()
                    table, found = part_files.taken(table, np.flatnonzero(stay)), _only(found, stay)
            yield number, table, found

    def located(self, where: Numbers) -> Window:
        """For each row in which row group it is, counted from 0 over all parts, and where there."""
        begins = np.array(self._begins, np.uint32)
        group = np.searchsorted(begins, where, "right") - 1
        return Window(group, where - begins[group])

    def whole_groups(self, where: Numbers) -> list[tuple[int, int]]:
        """Where among rows of parts in this order there is all of a row group, in its own order, and which (counted as by
        :meth:`located`); only large ones, and none that is pending."""
        numbers = where.astype(np.int64)
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

    def numbers(self, where: Numbers) -> list[int]:
        """The parts that rows are in; not what is pending."""
        groups = np.unique(self.located(where).group)
        return sorted({self._groups[group][0] for group in groups} - {_PENDING})

    def sources(self, where: Numbers) -> list[tuple[int, int, str]]:
        """The parts that rows are in: their numbers, sizes in memory and ids."""
        footers = [(number, self.footers[number]) for number in self.numbers(where)]
        return [(int(number), footer.size, footer.id) for number, footer in footers]

    def carrying(self, updates: CarriedUpdates, index: Index) -> list[part_files.Footer]:
        """What tells the kinds and types of the carried columns: the updates that rows have, and the parts with rows that have
        none. Where some rows of a part have one, only the others count, if that could make a difference."""
        carried = np.zeros(0, np.uint32) if index.carried is None else index.carried
        is_own = carried == OWN
        own, updated = np.sort(index.where[is_own]), index.where[~is_own]
        numbers, mixed = self.numbers(own), {*self.numbers(updated)}
        current = updates.described(carried[~is_own])
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

    def _described(self, number: int, where: Numbers) -> part_files.Footer:
        """What the carried columns of some rows of a part hold; ``where`` they are, in order, rows of other parts among them."""
        begin = next(self._begins[at] for at, (part, _) in enumerate(self._groups) if part == number)
        footer = self.footers[number]
        first, end = np.searchsorted(where, [begin, begin + sum(footer.groups)])
        at = where[first:end].astype(np.int64) - begin
        found = part_files.Footer({}, pa.schema([]), {})
        for table in part_files.read_rows(self._store, number, at, ["carry"]):
            self._between()
            kinds, types = carried_columns.describe(table.column("carry").to_pylist(), footer.types)
            found = part_files.together([found, part_files.Footer(kinds, types, {})])
        return found

    def size(self, wanted: Window) -> int:
        """About how much memory the rows of a window take, in bytes."""
        return int(np.array(self._row_bytes, np.int64)[wanted.group].sum())

    def gather(self, wanted: Window) -> pa.Table:
        """The rows of a window, in its order."""
        order = np.argsort(wanted.group, kind="stable")
        bounds = np.flatnonzero(np.diff(wanted.group[order])) + 1
        pieces = [
            part_files.taken(self._load(int(wanted.group[rows[0]])), wanted.at[rows])
            for rows in np.split(order, bounds)
        ]
        return part_files.taken(pa.concat_tables(pieces), np.argsort(order, kind="stable"))

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
    """The rows of a table in their order (``index``). Of what comes twice at one place the last that is not failed counts,
    unless ``all``. ``heads`` are what tells of the places; the list is emptied, so that they do not stay in memory beside the
    index."""

    def __init__(self, heads: list[Columns], *, all: bool = False, size: tuple[int, int] = (1, 1)) -> None:
        self._points, self._samples = (
            max(least, *(int(head[name].max(initial=0)) + 1 for head in heads), 1)
            for name, least in zip(("point", "sample"), size, strict=True)
        )
        has_updates = any("carried" in head for head in heads)
        for head in heads:
            row, point, sample = (head.pop(name).astype(np.uint64) for name in ("row", "point", "sample"))
            head["place"] = place_of(row, point, sample, self.size) * 2 + (0 if all else ~head.pop("failed"))
        place, where = _joined(heads, "place", np.uint64), _joined(heads, "where", np.uint32)
        carried = _joined(heads, "carried", np.uint32) if has_updates else None
        heads.clear()
        self.index = Index(place, where, carried)
        if (place[1:] < place[:-1]).any():
            self.index = self.index.taken(np.argsort(place, kind="stable"))
        place = self.index.place
        place //= 2
        if not all and (twice := place[:-1] == place[1:]).any():
            self.index = self.index.taken(~np.append(twice, False))

    @property
    def size(self) -> tuple[int, int]:
        """How many places a row has: sweep points and samples."""
        return self._points, self._samples

    def of(self, begin: int, length: int) -> tuple[Numbers, Numbers]:
        """Row and sweep point of some rows of the table."""
        place = self.index.place[begin : begin + length]
        each = self._points * self._samples
        return (place // each).astype(np.int64), (place % each // self._samples).astype(np.int32)

    def carried(self, begin: int, length: int) -> Entries:
        """The entries of the updates that some rows have; none if there are no updates."""
        entries: Entries = np.zeros(0, np.uint32) if self.index.carried is None else self.index.carried
        return entries[begin : begin + length]


def _joined(heads: Sequence[Columns], name: str, kind: Any) -> Numbers:
    """A column of all parts."""
    return np.concatenate([np.zeros(0, kind), *(head.pop(name, np.zeros(0)).astype(kind) for head in heads)])


def _small(column: Numbers) -> Numbers:
    """The same numbers in as few bytes as they need, until all parts are read."""
    return column if column.dtype == np.bool_ else column.astype(np.min_scalar_type(int(column.max(initial=0))))


def _coded(column: pa.ChunkedArray) -> tuple[Numbers, list[str]]:
    """A column of few different texts: for each row the number of its text, and these."""
    texts: dict[str, int] = {}
    codes = [np.zeros(0, np.int32)]
    for chunk in column.chunks:
        here = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        numbers = [texts.setdefault(text, len(texts)) for text in here.dictionary.to_pylist()]
        codes.append(np.array(numbers, np.int32)[here.indices.to_numpy()])
    return np.concatenate(codes), [*texts]


def _only(found: Columns, stay: Numbers) -> Columns:
    """The rows that ``stay``."""
    return found if stay.all() else {name: column[stay] for name, column in found.items()}


def _head(table: pa.Table, columns: Sequence[str]) -> pl.DataFrame:
    """As :func:`part_index.head`, which brings polars: only for parts of earlier runs, and for updates."""
    from . import part_index

    return part_index.head(table.select(columns))


def of_history(parts: PartRows, labels: Sequence[str]) -> Places:
    """All answers; a sweep point that is none of ``labels`` comes last."""
    import polars as pl

    from . import part_index

    keys = ["key", "slot"]
    frames = [
        _head(table, keys).hstack(pl.DataFrame(found)) for _, table, found in parts.heads(labels, lambda number: keys)
    ]
    if not frames:
        return Places([])
    whole = part_index.last_of_each(pl.concat(frames).rechunk()).drop("hi", "lo")
    whole = part_index.last_of_each(whole.sort("where").rename({"slot_hi": "hi", "slot_lo": "lo"}))
    whole = whole.drop("hi", "lo").sort("where")
    return Places([{name: whole[name].to_numpy() for name in whole.columns}], all=True)


# Of rows of a part the numbers of the rows of the plan that they are of, -1 where they are in none, and those of the sweep points
# if these are not what they say themselves.
Place = Callable[[pa.Table], tuple[Numbers, Numbers | None]]


def of_plan(
    parts: PartRows,
    labels: Sequence[str],
    columns: Sequence[str],
    place: Place,
    since: int,
    only: Some | None = None,
) -> Places:
    """Answers in parts numbered below ``since`` are where ``place`` puts them, by these ``columns``; it leaves out those that
    are not in the plan. Others are where they say themselves."""
    heads = []
    for number, table, found in parts.heads(labels, lambda number: [*columns] if number < since else []):
        if number < since:
            row, point = place(table)
            found |= {"row": row} if point is None else {"row": row, "point": point}
            found = _only(found, row >= 0)
        if only is not None:
            row, point, sample = (found[name].astype(np.uint64) for name in ("row", "point", "sample"))
            found = _only(found, ~np.isin(stretches_at(place_of(row, point, sample, only.size)), [*only.but]))
        heads.append({name: _small(column) for name, column in found.items()})
    return Places(heads, size=(1, 1) if only is None else only.size)


def by_positions(positions: Positions) -> Place:
    return lambda table: (positions.rows(_head(table, positions.columns)), None)


def by_keys(planned: pl.DataFrame) -> Place:
    from ..core import SortedKeys

    keys, row, point = SortedKeys(planned), planned["row"].to_numpy(), planned["point"].to_numpy()

    def place(table: pa.Table) -> tuple[Numbers, Numbers]:
        at = np.array(keys.find(_head(table, ["key"])), np.int64)
        if not len(row):
            return at, at
        return np.where(at < 0, -1, row[at]), point[at]

    return place
