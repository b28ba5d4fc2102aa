"""Which rows and columns of the results are wanted: an SQL condition, names and patterns of columns. Streams."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from ..core import FolderError, JobError
from ..storage import Folder, part_index
from . import sql_filter
from .columns import Columns
from .view import Made, Mask, Stored, keeping, results_of, stored

_WILD = "*?["
_EXAMPLES = 3


class Selected:
    """The rows and columns that were asked for. ``of`` is how many rows there are in all, ``about`` what the columns are.
    ``columns`` are their names in the results; ``schema`` has those that they are shown and exported under."""

    def __init__(
        self,
        results: Stored | Made,
        columns: list[str],
        about: Columns,
        wanted: Mask | None = None,
        *,
        plain: bool = False,
    ) -> None:
        self._results, self._wanted = results, wanted
        self.columns = columns
        self.of = results.rows
        self.rows = results.rows if wanted is None else int(np.count_nonzero(wanted))
        self.whole: pa.Schema = results.schema
        self.about = about
        shown = [about.id_name if name == "id" and not plain else name for name in columns]
        fields = [self.whole.field(name) for name in columns]
        self.schema = pa.schema([field.with_name(name) for field, name in zip(fields, shown, strict=True)])
        self._plain = plain

    @property
    def structured(self) -> frozenset[str]:
        """Those of the columns whose text is JSON that is to become objects where a format has them."""
        return frozenset() if self._plain else self.about.structured.intersection(self.columns)

    def named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch of the ``columns``, with the names that they are exported under."""
        return pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in input order, at most 10,000 at a time; of these columns in place of those that were asked for.

        More than once only if :func:`selected` was called with ``again``.
        """
        for batch in self._results.batches(columns or self.columns, self._wanted):
            if len(batch):
                yield batch

    def head(self, rows: int) -> pa.Table:
        """The first ``rows`` rows."""
        taken: list[pa.RecordBatch] = []
        for batch in self.batches():
            taken.append(batch.slice(0, rows))
            rows -= taken[-1].num_rows
            if rows <= 0:
                break
        return pa.Table.from_batches(map(self.named, taken), self.schema)


@contextlib.contextmanager
def selected(
    folder: Folder,
    where: str | sql_filter.Condition | None = None,
    columns: Sequence[str] | None = None,
    *,
    beside: Sequence[str] = (),
    again: bool = False,
    plain: bool = False,
) -> Iterator[Selected]:
    """The rows of a folder's results for which ``where`` is true, of a run in progress too, and the ``columns`` that names and
    patterns such as ``parsed_*`` give, in their order; all without them. ``beside`` are columns that are read, too; ``again``
    says that they are read more than once. ``plain`` leaves columns their names in the results, and JSON in them text.

    Memory: 5 bytes a row of the whole table for a condition. One that compares rows with an aggregate of all of them
    takes the columns that it names as well.

    :raises JobError: if the condition is none over these columns, or there is no such column.
    :raises FolderError: if there is no run in the folder, or its files cannot be read.
    :raises StorageError: if a table that is not made yet is to be read twice, and there is no room for it.
    """
    condition = sql_filter.read(where) if isinstance(where, str) else where
    results = results_of(folder)
    there = results.schema.names
    about = Columns(folder, results)
    names = there if columns is None else matching(columns, about, folder.path)
    if columns is None and isinstance(results, Stored):
        names = results.own
    beside = [about.own(name) for name in beside]
    if missing := [name for name in beside if name not in there]:
        raise JobError(sql_filter.no_column("--split-by", missing[0], about.known(), folder.path))
    if condition is None and not again:
        yield Selected(results, names, about, plain=plain)
        return
    if condition is not None:  # before anything takes time
        with sql_filter.explained(condition, about.known(), folder.path):
            sql_filter.fitting(condition, _aliased(pl.DataFrame(results.schema.empty_table()).lazy(), condition, about))
    needed = {*names, *beside, *(map(about.own, condition.named) if condition else ())}
    with keeping(results, [name for name in there if name in needed] or there[:1]) as kept:
        wanted = None if condition is None else _wanted(kept, condition, about, folder)
        yield Selected(kept, names, about, wanted, plain=plain)


class Choice(NamedTuple):
    """The keys of the rows (``hi``, ``lo``) that were chosen of so many ``rows``, the ids of the first few, and the statuses of
    all rows, counted."""

    keys: pl.DataFrame
    rows: int
    examples: list[str]
    statuses: dict[str, int]


def choose(folder: Folder, where: str) -> Choice:
    """The rows of the table that there is for which the condition is true.

    :raises JobError: if it is no condition over its columns.
    :raises FolderError: if the table cannot be read.
    """
    condition = sql_filter.read(where)
    results = stored(folder)
    about = Columns(folder, results)
    fitting = Selected(results, ["key", "id"], about, _wanted(results, condition, about, folder), plain=True)
    keys = [part_index.head(pa.Table.from_batches([batch])) for batch in fitting.batches(["key"])]
    statuses = results.scan(["status"]).group_by("status").len().collect()
    return Choice(
        pl.concat([pl.DataFrame(schema={"hi": pl.UInt64, "lo": pl.UInt64}), *keys]),
        results.rows,
        fitting.head(_EXAMPLES)["id"].to_pylist(),
        dict(zip(statuses["status"], statuses["len"], strict=True)),
    )


def matching(patterns: Iterable[str], about: Columns, folder: Path, option: str = "--columns") -> list[str]:
    """The columns that names and patterns mean, each once, in the order of the patterns.

    :raises JobError: if one means none.
    """
    found: dict[str, None] = {}
    known = about.known()
    for pattern in patterns:
        if pattern in known:
            found[about.own(pattern)] = None
            continue
        fits = fnmatch.filter(known, pattern) if any(sign in pattern for sign in _WILD) else []
        if not fits:
            raise JobError(sql_filter.no_column(option, pattern, known, folder))
        found.update(dict.fromkeys(map(about.own, fits)))
    return list(found)


def _aliased(frame: pl.LazyFrame, condition: sql_filter.Condition, about: Columns) -> pl.LazyFrame:
    """With the ids under the name that they have in the input, if the condition calls them so."""
    is_named = about.id_name in condition.named and about.own(about.id_name) == "id"
    return frame.with_columns(pl.col("id").alias(about.id_name)) if is_named else frame


def _wanted(results: Stored, condition: sql_filter.Condition, about: Columns, folder: Folder) -> Mask:
    there = about.known()
    number = "row number"
    while number in there:
        number += "_"
    try:
        with sql_filter.explained(condition, there, folder.path):
            frame = _aliased(results.scan(set(map(about.own, condition.named))), condition, about)
            found = sql_filter.fitting(condition, frame.with_row_index(number))
            at = found.select(pl.col(number)).collect(engine="streaming")[number]
        results.require_unchanged()
    except OSError as error:
        raise FolderError(f"{folder.results} cannot be read: {error}") from None
    wanted = np.zeros(results.rows, dtype=np.bool_)
    wanted[at.to_numpy()] = True
    return wanted
