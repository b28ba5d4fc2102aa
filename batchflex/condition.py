"""An SQL condition over the results: one table, its columns, and nothing else."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from .errors import JobError
from .mistakes import choice

# Literals, quoted names and comments: what stands in them is no word of SQL.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\$\$.*?\$\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ELSEWHERE = re.compile(r"\bselect\b|\(\s*(from|with)\b|\(\s*values\s*\(|\b(read|scan)_\w+\s*\(", re.IGNORECASE)


class Condition(NamedTuple):
    """A condition as it was written and as polars takes it, and the columns that it names."""

    text: str
    expression: pl.Expr
    named: set[str]


def read(where: str) -> Condition:
    """:raises JobError: if it is no SQL condition, or reaches for another table."""
    if word := _ELSEWHERE.search(_QUOTED.sub(" ", where)):
        raise JobError(
            f"--where {where!r} reaches for another table ({word[0].strip()}): it is one condition over the columns of the "
            "results, such as status = 'truncated' AND completion_tokens < 100"
        )
    try:
        expression = pl.sql_expr(where)
        named = set(expression.meta.root_names())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise JobError(
            f"--where {where!r} is no SQL condition: {_first_line(error)}. It is what would follow WHERE, such as "
            "status = 'truncated'"
        ) from None
    if ".subplan(" in str(expression) and ".subplan(" not in where:
        raise JobError(f"--where {where!r} has a query inside; it is one condition over the columns of the results")
    return Condition(where, expression, named)


def fitting(condition: Condition, frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rows for which it is true. To be called and collected inside of :func:`explained`.

    :raises JobError: if it gives something else than true or false.
    """
    told = frame.select(condition.expression.alias("fits")).collect_schema()["fits"]
    if told != pl.Boolean:
        raise JobError(f"--where {condition.text!r} is no condition: it gives {_kind(told)}, not true or false")
    return frame.filter(condition.expression)


@contextlib.contextmanager
def explained(condition: Condition, columns: Sequence[str], folder: Path) -> Iterator[None]:
    """Tell what polars has against a condition over these columns of the folder's results as a :class:`JobError`."""
    try:
        yield
    except pl.exceptions.ColumnNotFoundError as error:
        raise JobError(_no_column(condition.text, str(error), columns, folder)) from None
    except pl.exceptions.PolarsError as error:
        raise JobError(f"--where {condition.text!r} cannot be held against the results: {_first_line(error)}") from None


def no_scores(name: str, columns: Sequence[str], folder: Path) -> str:
    """What to add where a column is missing that may be a score's, if there is none of a score."""
    if not name.startswith("score_") or any(each.startswith("score_") for each in columns):
        return ""
    return f". The scores are missing or older than the results: batchflex score {folder} makes them"


def _no_column(where: str, error: str, columns: Sequence[str], folder: Path) -> str:
    found = re.search(r'unable to find column "(.*?)"', error)
    name = found[1] if found else "?"
    text = f"--where {where!r}: the results have no column {name!r}; {choice(name, columns)}"
    if f'"{name}"' in where:
        text += f". Text stands in single quotes: '{name}'"
    return text + no_scores(name, columns, folder)


def _kind(dtype: pl.DataType) -> str:
    return "text" if dtype == pl.String else "a number" if dtype.is_numeric() else str(dtype)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
