"""Rows of the results that an SQL condition chooses, by their keys."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl
import pyarrow as pa

from ..core import FolderError
from ..storage import Folder, part_index
from . import sql_filter
from .view import stored

_EXAMPLES = 3
_AT_ONCE = 1_000_000


class Choice(NamedTuple):
    """The keys of the rows (``hi``, ``lo``) that were chosen of so many ``rows``, the ids of the first few, and the statuses of
    all rows, counted."""

    keys: pl.DataFrame
    rows: int
    examples: list[str]
    statuses: dict[str, int]


def choose(folder: Folder, where: str) -> Choice:
    """The rows for which the condition is true, over the columns of the results and, where they were made of it,
    those of ``scores.parquet``. Memory: some 100 bytes a chosen row.

    :raises JobError: if it is no condition over these columns.
    :raises FolderError: if the table cannot be read.
    """
    asked = sql_filter.read(where)
    results = stored(folder)
    try:
        frame = results.scan(asked.named)
        with sql_filter.explained(asked, frame.collect_schema().names(), folder.path):
            found = sql_filter.fitting(asked, frame)
            keys = found.select("key").collect(engine="streaming")["key"]
            examples = found.select("id").head(_EXAMPLES).collect()["id"].to_list()
            counts = frame.group_by("status").len().collect()
    except OSError as error:
        raise FolderError(f"{folder.results} cannot be read: {error}") from None
    statuses = dict(zip(counts["status"].to_list(), counts["len"].to_list(), strict=True))
    return Choice(_halves(keys), sum(statuses.values()), examples, statuses)


def _halves(keys: pl.Series) -> pl.DataFrame:
    pieces = [
        part_index.head(pa.table({"key": keys.slice(begin, _AT_ONCE).to_arrow(compat_level=pl.CompatLevel.oldest())}))
        for begin in range(0, len(keys), _AT_ONCE)
    ]
    return pl.concat([pl.DataFrame(schema={"hi": pl.UInt64, "lo": pl.UInt64}), *pieces])
