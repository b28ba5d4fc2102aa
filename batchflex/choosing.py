"""Rows of the results that an SQL condition chooses. It sees one table and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import polars as pl
import pyarrow as pa

from . import keyindex, store
from .errors import FolderError, JobError
from .folder import Folder
from .mistakes import choice

_EXAMPLES = 3
_AT_ONCE = 1_000_000
# Literals, quoted names and comments: what stands in them is no word of SQL.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\$\$.*?\$\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ELSEWHERE = re.compile(r"\bselect\b|\(\s*(from|with)\b|\(\s*values\s*\(|\b(read|scan)_\w+\s*\(", re.IGNORECASE)


class Choice(NamedTuple):
    """The keys of the rows (``hi``, ``lo``) that were chosen of so many ``rows``, the ids of the first few, and the statuses of
    all rows, counted."""

    keys: pl.DataFrame
    rows: int
    examples: list[str]
    statuses: dict[str, int]


def choose(folder: Folder, where: str) -> Choice:
    """The rows for which the condition is true, over the columns of ``results.parquet`` and, where they were made of it,
    those of ``scores.parquet``. Memory: some 100 bytes a chosen row.

    :raises JobError: if it is no condition over these columns.
    :raises FolderError: if the table cannot be read.
    """
    condition = _condition(where)
    try:
        named = set(condition.meta.root_names())
        frame = _frame(folder, named)
        columns = list(frame.collect_schema())
        told = frame.select(condition.alias("fits")).collect_schema()["fits"]
        if told != pl.Boolean:
            raise JobError(f"--where {where!r} is no condition: it gives {_kind(told)}, not true or false")
        found = frame.filter(condition)
        keys = found.select("key").collect(engine="streaming")["key"]
        examples = found.select("id").head(_EXAMPLES).collect()["id"].to_list()
        counts = pl.scan_parquet(folder.results).group_by("status").len().collect()
    except pl.exceptions.ColumnNotFoundError as error:
        raise JobError(_no_column(where, str(error), columns, folder)) from None
    except pl.exceptions.PolarsError as error:
        raise JobError(f"--where {where!r} cannot be held against the results: {_first_line(error)}") from None
    except OSError as error:
        raise FolderError(f"{folder.results} cannot be read: {error}") from None
    statuses = dict(zip(counts["status"].to_list(), counts["len"].to_list(), strict=True))
    return Choice(_halves(keys), sum(statuses.values()), examples, statuses)


def _condition(where: str) -> pl.Expr:
    if word := _ELSEWHERE.search(_QUOTED.sub(" ", where)):
        raise JobError(
            f"--where {where!r} reaches for another table ({word[0].strip()}): it is one condition over the columns of the "
            "results, such as status = 'truncated' AND completion_tokens < 100"
        )
    try:
        condition = pl.sql_expr(where)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise JobError(
            f"--where {where!r} is no SQL condition: {_first_line(error)}. It is what would follow WHERE, such as "
            "status = 'truncated'"
        ) from None
    if ".subplan(" in str(condition) and ".subplan(" not in where:
        raise JobError(f"--where {where!r} has a query inside; it is one condition over the columns of the results")
    return condition


def _frame(folder: Folder, named: set[str]) -> pl.LazyFrame:
    results = pl.scan_parquet(folder.results)
    there = results.collect_schema().names()
    if named <= set(there) or not _are_scored(folder):
        return results
    scores = pl.scan_parquet(folder.scores)
    further = [name for name in scores.collect_schema().names() if name not in there]
    return pl.concat([results, scores.select(further)], how="horizontal")


def _are_scored(folder: Folder) -> bool:
    """Whether the scores are those of the very table that is there."""
    told, rows = store.told(folder.results)
    _, scored = store.told(folder.scores)
    try:
        made_of = msgspec.json.decode(folder.scores_json.read_bytes())["results"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return False
    return rows == scored and made_of is not None and made_of == told.get(store.MADE_OF, b"").decode()


def _no_column(where: str, error: str, columns: Sequence[str], folder: Folder) -> str:
    found = re.search(r'unable to find column "(.*?)"', error)
    name = found[1] if found else "?"
    text = f"--where {where!r}: the results have no column {name!r}; {choice(name, columns)}"
    if f'"{name}"' in where:
        text += f". Text stands in single quotes: '{name}'"
    if name.startswith("score_"):
        text += f". The scores are missing or older than the results: batchflex score {folder.path} makes them"
    return text


def _kind(dtype: pl.DataType) -> str:
    return "text" if dtype == pl.String else "a number" if dtype.is_numeric() else str(dtype)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _halves(keys: pl.Series) -> pl.DataFrame:
    pieces = [
        keyindex.head(pa.table({"key": keys.slice(begin, _AT_ONCE).to_arrow(compat_level=pl.CompatLevel.oldest())}))
        for begin in range(0, len(keys), _AT_ONCE)
    ]
    return pl.concat([pl.DataFrame(schema={"hi": pl.UInt64, "lo": pl.UInt64}), *pieces])
