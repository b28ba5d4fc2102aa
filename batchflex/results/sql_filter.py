"""An SQL condition over the results: one table, its columns, and nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ..config import choice
from ..core import JobError, one_line

# Polars opens what a sub-query names while it reads the text, so none may reach it. The words of one are sought outside of
# literals, quoted names and comments of the plain kinds; beside any other kind (dollar quotes, E'…', nested comments) they are
# sought everywhere. Upper case is Unicode's, as the parser's was once: "ſelect" is SELECT.
_QUOTED = re.compile(
    r"""(?<![\w$])(?:'(?:[^'\\]|''|\\(?!'))*'|"(?:[^"]|"")*"|`[^`]*`)|(?P<comment>--[^\n]*|/\*(?:[^/*]|/(?!\*)|\*(?!/))*\*/)"""
)
_QUOTED_OTHERWISE = re.compile(r"['\"`$]|/\*|\*/")
_QUERY = re.compile(
    r"\bSELECT\b|\(\s*(?:FROM|WITH|TABLE|VALUES|INSERT|UPDATE|DELETE|MERGE)\b(?!\s*[,)=<>!])|\b(?:READ|SCAN)_\w+\s*\("
)
_OPERATOR = re.compile(r"\b(?:AND|OR|XOR|NOT|WHEN|IS|LIKE|ILIKE|BETWEEN)\b|[-+*/%|&^~<>=:]+")
_MOST_OPERATORS = 250  # of a few thousand that lean on each other the process dies, out of stack
# What an expression may be made of, as polars names it, and where in each its own expressions stand.
_CALCULATING = {
    "Alias", "BinaryExpr", "Cast", "Explode", "Filter", "Function", "Gather", "Over", "Slice", "Sort", "SortBy", "Ternary",
    "Window",
}  # fmt: skip
_OPERANDS = {
    "by", "expr", "falsy", "idx", "input", "left", "length", "offset", "order_by", "partition_by", "predicate", "quantile",
    "right", "truthy",
}  # fmt: skip
_SETTINGS = {
    "allow_threads", "bias", "descending", "dtype", "function", "include_nulls", "mapping", "maintain_order", "method",
    "multithreaded", "null_on_oob", "nulls_last", "op", "options", "propagate_nans", "returns_scalar", "skip_empty",
    "sort_options", "strategy",
}  # fmt: skip
_KNOWN = _OPERANDS | _SETTINGS


class Condition(NamedTuple):
    """A condition as it was written and as polars takes it, and the columns that it names."""

    text: str
    expression: pl.Expr
    named: set[str]


def read(where: str) -> Condition:
    """A condition over one table. No query, and so no other table and no file, can stand in it: what polars makes of it is
    looked at piece by piece, and what is not known there is refused.

    :raises JobError: if it is no SQL condition, reaches for another table, or has more than 250 operators.
    """
    shown = f"{where!r:.300}"
    plain = _QUOTED.sub(lambda found: " " if found["comment"] else " 0 ", where)
    sought = where if _QUOTED_OTHERWISE.search(plain) else plain
    if word := _QUERY.search(sought.upper()):
        raise JobError(_elsewhere(shown, word[0].strip().lower()))
    if len(_OPERATOR.findall(sought.upper())) > _MOST_OPERATORS:
        raise JobError(
            f"--where {shown} has more than {_MOST_OPERATORS} operators; many values of one column are written "
            "id IN ('a', 'b')"
        )
    try:
        expression = pl.sql_expr(where)
        pl.sql_expr(f"({where}\n)")  # what stands behind a condition, some versions leave out without a word
        unknown = _unknown(expression)
        named = set(expression.meta.root_names())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, RecursionError) as error:
        raise JobError(
            f"--where {shown} is no SQL condition: {_first_line(error)}. It is what would follow WHERE, such as "
            "status = 'truncated'; a name that is not a plain word stands in double quotes: \"Ticket Text\""
        ) from None
    if unknown is not None:
        raise JobError(_elsewhere(shown, unknown))
    return Condition(where, expression, named)


def _elsewhere(shown: str, what: str) -> str:
    return (
        f"--where {shown} reaches for another table, or for more than one table can tell ({what}): it is one condition over "
        "the columns of the results, such as status = 'truncated' AND completion_tokens < 100"
    )


def _unknown(expression: pl.Expr) -> str | None:
    """The first piece of an expression that may be more than arithmetic over columns; ``None`` if there is none."""
    with warnings.catch_warnings(action="ignore"):  # the format may change: then it is not understood, and refused
        try:
            left: list[Any] = [json.loads(expression.meta.serialize(format="json"))]
        except pl.exceptions.ComputeError:
            return "a piece that cannot be written down"
    while left:
        piece = left.pop()
        if piece == "Len":
            continue
        if not isinstance(piece, dict) or len(piece) != 1:
            return "a piece that is not understood"
        ((kind, inside),) = piece.items()
        if kind in ("Column", "Literal"):
            continue
        if kind == "Agg" and isinstance(inside, dict) and len(inside) == 1:  # its name, and in it what is aggregated
            (inside,) = inside.values()
            inside = {"expr": inside} if isinstance(inside, dict) and not {*inside} <= _KNOWN else inside
        elif kind not in _CALCULATING:
            return "a query inside" if kind == "SubPlan" else str(kind)
        if isinstance(inside, list):  # an expression and its setting
            inside = {"expr": inside[:1]}
        if not isinstance(inside, dict) or not {*inside} <= _KNOWN:
            return f"{kind}, which is not understood"
        if kind in ("Over", "Window"):
            order = inside.get("order_by")
            inside = inside | {"expr": inside["function"], "order_by": order[:1] if isinstance(order, list) else order}
        for name in _OPERANDS & {*inside}:
            value = inside[name]
            left += value if isinstance(value, list) else [] if value is None else [value]
    return None


def fitting(condition: Condition, frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rows for which it is true. To be called and collected inside of :func:`explained`.

    :raises JobError: if it gives something else than true or false.
    """
    kind = frame.select(condition.expression.alias("fits")).collect_schema()["fits"]
    if kind != pl.Boolean:
        raise JobError(f"--where {condition.text!r:.300} is no condition: it gives {_kind(kind)}, not true or false")
    return frame.filter(condition.expression)


@contextlib.contextmanager
def explained(condition: Condition, columns: Sequence[str], folder: Path) -> Iterator[None]:
    """Tell what polars has against a condition over these columns of the folder's results as a :class:`JobError`."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if missing := condition.named.difference(columns):  # polars says which in other words with each version
            name, option = min(missing), f"--where {condition.text!r:.300}"
            hint = f". Text stands in single quotes: '{name}'" if f'"{name}"' in condition.text else ""
            raise JobError(no_column(option, name, columns, folder, hint)) from None
        raise JobError(
            f"--where {condition.text!r:.300} cannot be held against the results: {_first_line(error)}"
        ) from None


def no_column(option: str, name: str, columns: Sequence[str], folder: Path, hint: str = "") -> str:
    """What is said where a column is missing."""
    text = f"{option}: the results have no column {name!r}; {choice(name, columns)}{hint}"
    if name.startswith("score_") and not any(each.startswith("score_") for each in columns):
        text += f". The scores are missing or older than the results: batchflex score {folder} makes them"
    return text


def _kind(dtype: pl.DataType) -> str:
    return "text" if dtype == pl.String else "a number" if dtype.is_numeric() else str(dtype)


def _first_line(error: Exception) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0], 300).rstrip(".")
