"""The table of results: derived from the parts, and can be made again at any time.

It is made window by window from an index of 12 bytes a row, so that memory hardly grows with it. CONTRACT.md is the
reference of the columns.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from ..core import Outcome
from . import carried_columns, parsed_columns, part_files
from .carried_updates import CarriedUpdates
from .files import replaced, storing
from .part_files import COLUMNS
from .places import Pieces, Some, Stretch, WholeGroup, stretches_at
from .results_columns import ResultsLayout, layout_of
from .row_groups import Source, TableWriter
from .store import Store
from .table_index import Index, Numbers, PartRows, by_keys, by_positions, of_history, of_plan
from .thrift import Damaged

if TYPE_CHECKING:
    import polars as pl

    from .positions import Positions

_WINDOW_ROWS = 4_000
_WINDOW_BYTES = 10 << 20
_GROUP_ROWS = 50_000


class Assembled(NamedTuple):
    """A results table, to be made window by window. Its ``metadata`` has a digest of all that it depends on, and the identity of
    the parts that it is made of. ``batches`` are all of it, ``pieces`` the same for whoever writes it; so are the ``stretches``
    together. ``how`` is a digest of what all of them depend on, beside the answers, and ``size`` how many sweep points and
    samples a row has. ``between`` is called between the steps of making it, and may raise to end this."""

    store: Store
    layout: ResultsLayout
    rows: int
    batches: Iterator[pa.Table]
    pieces: Pieces
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
    positions: Positions | None = None,
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
    tables = PartRows(store, pending, void, between, updates, None if only is None else only.parts)
    if positions is not None:
        places = of_plan(tables, labels, positions.columns, by_positions(positions), since, only)
    elif planned is not None:
        places = of_plan(tables, labels, ["key"], by_keys(planned), since)
    else:
        places = of_history(tables, labels)
    foreign = tables.points.difference(labels) if planned is None and positions is None else ()
    carrying = None if updates is None else tables.carrying(updates, places.index)
    shape = layout_of(tables.footers.values(), variables, foreign, pending, declared or {}, carrying)

    def batches(first: int, end: int) -> Iterator[pa.Table]:
        for at in range(first, end, _WINDOW_ROWS):
            window = tables.located(places.index.where[at : min(at + _WINDOW_ROWS, end)])
            size = tables.size(window) + (0 if updates is None else updates.row_bytes * len(window.at))
            share = _WINDOW_BYTES / max(size, _WINDOW_BYTES)
            each = max(1, int(len(window.at) * share))
            for begin in range(0, len(window.at), each):
                between()
                rows, points = places.of(at + begin, min(each, len(window.at) - begin))
                table = tables.gather(window.part(begin, each))
                if updates is not None:
                    table = updates.applied(table, places.carried(at + begin, table.num_rows))
                yield _finish(table, rows, points, labels, shape)

    def pieces(first: int, end: int) -> Pieces:
        at = first
        for begin, group in tables.whole_groups(places.index.where[first:end]):
            yield from grouped(batches(at, first + begin))
            number, there, size = tables.group(group)
            at = first + begin + size
            made_anew = made(first + begin, size, number, there)
            yield WholeGroup(number, there, made_anew, functools.partial(batches, at - size, at))
        yield from grouped(batches(at, end))

    def made(begin: int, size: int, number: int, group: int) -> pa.Table:
        """What the table has otherwise than a row group that is taken as it is."""
        rows, points = places.of(begin, size)
        arrays = [pa.array(rows)]
        if wanted := [name for name, side in zip(_SIDES, shape.sides, strict=True) if side]:
            table = part_files.read_group(store, number, group, wanted)
            if updates is not None and "carry" in wanted:
                table = updates.applied(table, places.carried(begin, size))
            arrays += _sides(table, points, labels, shape)
        return pa.Table.from_arrays(
            arrays, schema=pa.schema([shape.schema.field("row"), *list(shape.schema)[len(COLUMNS) :]])
        )

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
        index = index._replace(carried=updates.digests(places.carried(0, len(index.place))))
        made_of[part_files.MADE_OF_CARRIED] = updates.id.encode()
    made_of[part_files.MADE_OF] = _digest(known, index)
    alike = [str(shape.schema), *known[2:6], places.size]

    @functools.cache
    def stretches() -> list[Stretch]:
        """So that the digests of those in which nothing has changed stay, they hold no part that came elsewhere."""
        rows = len(index.place)
        if only is not None and not rows:
            return []
        numbers = stretches_at(index.place)
        begins = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist()]
        found = []
        for begin, end in itertools.pairwise([*begins, rows]):
            here = index.part(begin, end)
            if here.carried is not None and not here.carried.any():  # as it was before there were any
                here = here._replace(carried=None)
            sources = tables.sources(here.where)
            digest = _digest([*alike, sources], here)
            number, parts = int(numbers[begin]) if end > begin else 0, [source[0] for source in sources]
            name = f"{number:06d}-{digest.decode()[:16]}"
            found.append(Stretch(number, name, end - begin, parts, functools.partial(pieces, begin, end)))
        return found

    height, how = len(index.place), _digest(alike).decode()
    return Assembled(
        store, shape, height, batches(0, height), pieces(0, height), made_of, stretches, how, places.size, between
    )


def write_results(path: Path, assembled: Assembled) -> None:
    """Write the table into one file, atomically.

    :raises StorageError: if it cannot be written; an older one stays as it is.
    """
    schema = assembled.schema.with_metadata(assembled.metadata)

    @functools.lru_cache(1)
    def source(part: int) -> Source:
        return Source(functools.partial(assembled.store.open, part_files.part_name(part)))

    with storing(path), replaced(path) as stream:
        writer = TableWriter(stream, schema, compression="zstd", write_statistics=part_files.WITH_STATISTICS)
        for piece in assembled.pieces:
            if not isinstance(piece, WholeGroup):
                writer.add(piece)
            else:
                try:
                    writer.copy(source(piece.part), piece.group, piece.made)
                except Damaged:  # or an older version wrote it: reading tells
                    for table in grouped(piece.read()):
                        writer.add(table)
            assembled.between()
        writer.close()


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


def _digest(known: list[Any], index: Index | None = None) -> bytes:
    digest = hashlib.blake2b(msgspec.json.encode(known), digest_size=16)
    for column in index or ():
        if column is not None:
            digest.update(column.data)
    return digest.hexdigest().encode()


def _finish(table: pa.Table, rows: Numbers, points: Numbers, labels: Sequence[str], shape: ResultsLayout) -> pa.Table:
    """The columns of the results, with these row numbers and sweep points."""
    arrays = [pa.array(rows) if name == "row" else table.column(name) for name in COLUMNS]
    return pa.Table.from_arrays([*arrays, *_sides(table, points, labels, shape)], schema=shape.schema)


_SIDES = ("point", "carry", "parsed")  # what the columns beside the fixed ones are made of


def _sides(table: pa.Table, points: Numbers, labels: Sequence[str], shape: ResultsLayout) -> list[pa.Array]:
    """The columns beside the fixed ones."""
    now = map(dict(enumerate(labels)).get, points.tolist())  # None of a point that the job does not have
    decoded: list[Callable[[list[Any]], Iterable[dict[str, Any]]]] = [
        lambda stored: (msgspec.json.decode(one or other) for one, other in zip(now, stored, strict=True)),
        lambda texts: (msgspec.json.decode(text) if text else {} for text in texts),
        parsed_columns.objects,
    ]
    arrays = []
    for column, decode, side in zip(_SIDES, decoded, shape.sides, strict=True):
        values = list(decode(table.column(column).to_pylist())) if side else []
        arrays += [carried_columns.typed([value.get(name) for value in values], kind) for name, kind in side.values()]
    return arrays
