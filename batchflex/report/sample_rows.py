"""The rows that a report shows: a random sample, always the same, and examples of each kind of problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from ..core import printable
from ..plan import Plan
from ..results import prompts as prompts_of_rows
from ..storage import COLUMNS
from .breakdown import text

KINDS = {
    "sample": "in the random sample",
    "wrong": "wrong",
    "failed": "failed",
    "invalid": "invalid",
    "truncated": "cut off",
    "filtered": "withheld",
    "empty": "empty",
    "flipped": "samples disagree",
    "differs": "sweep points disagree",
}
_PER_KIND = 40
_OURS = "batchflex."  # before names that no column of the table has
_AT = f"{_OURS}at"
_CELL = 2_000
_SHOWN = ("id", "row", "sample", "status", "content", "reasoning", "tool_calls", "parsed", "finish_reason", "model",
          "prompt_tokens", "completion_tokens", "cache_read_input_tokens", "cost", "latency_s", "ttft_s", "attempts",
          "http_status", "error_type", "error_code", "error_message", "endpoint")  # fmt: skip


class Message(NamedTuple):
    role: str
    text: str


class Row(NamedTuple):
    """A row of the results. ``values`` has its fixed columns, ``carried`` the others, ``prompt`` is ``None`` if it is no longer
    known."""

    kinds: list[str]
    point: tuple[str, ...]
    values: dict[str, Any]
    carried: dict[str, str | None]
    scores: dict[str, float | None]
    prompt: list[Message] | None


class Marked(NamedTuple):
    """Row numbers in the table (from 0), each with its kinds; and the number of all rows of each kind."""

    kinds: dict[int, list[str]]
    totals: dict[str, int]


def choose(
    table: pl.LazyFrame, scores: pl.LazyFrame | None, swept: Sequence[str], shares: Sequence[str], rows: int
) -> Marked:
    """Which rows to show. ``scores`` has the same ``key`` and a column for each of ``shares``, 1 where a row is right.

    Keys are hashes, so those that come first in their order are a random sample, and the same one each time.
    """
    points = {f"{_OURS}{name}": pl.col(name) for name in swept}
    scored = {f"{_OURS}{name}": pl.col(name) for name in shares}
    slim = table.select("key", "row", "sample", "status", **points).with_row_index(_AT)
    if scores is not None and shares:
        slim = slim.join(scores.select("key", **scored), on="key", how="left", maintain_order="left")
    frame = slim.collect()
    masks = {"sample": pl.lit(True)}
    masks |= {status: pl.col("status") == status for status in ("failed", "invalid", "empty", "truncated", "filtered")}
    if scores is not None and shares:
        verdict = next(iter(scored))
        masks["wrong"] = pl.any_horizontal(pl.col(name) < 1 for name in scored)
        if frame["sample"].max():
            masks["flipped"] = _differ(verdict, ["row", *points])
        if swept:
            masks["differs"] = _differ(verdict, ["row"])
    marks: dict[int, list[str]] = {}
    totals = {}
    for kind, mask in masks.items():
        of_kind = frame.lazy().filter(mask).select(_AT, "key").collect()
        totals[kind] = of_kind.height
        for at in of_kind.bottom_k(rows if kind == "sample" else _PER_KIND, by="key")[_AT]:
            marks.setdefault(at, []).append(kind)
    return Marked(dict(sorted(marks.items())), totals)


def _differ(score: str, within: list[str]) -> pl.Expr:
    """Whether scores differ among the rows with the same values of the columns ``within``."""
    return pl.col(score).min().over(within) != pl.col(score).max().over(within)


def fetch(
    table: pl.LazyFrame,
    columns: Sequence[str],
    scores: pl.LazyFrame | None,
    swept: Sequence[str],
    names: Sequence[str],
    marked: Marked,
) -> list[tuple[bytes, Row]]:
    """The chosen rows in the order of the table, each with its key; prompts are still to be found. ``names`` are the
    columns of ``scores``."""
    if not marked.kinds:
        return []
    others = [name for name in columns if name not in COLUMNS and name not in swept and name not in names]
    wanted = [name for name in _SHOWN if name in columns]
    chosen = pl.Series(_AT, list(marked.kinds), dtype=pl.UInt32)
    picked = (
        table.select("key", *wanted, *swept, *others)
        .with_row_index(_AT)
        .filter(pl.col(_AT).is_in(chosen.implode()))
        .collect(engine="streaming")
        .sort(_AT)
    )
    scored = {name: f"{_OURS}{name}" for name in names}
    if scores is not None:
        own = scores.filter(pl.col("key").is_in(picked["key"].implode()))
        own = own.select("key", *(pl.col(name).alias(column) for name, column in scored.items()))
        picked = picked.join(own.collect(engine="streaming"), on="key", how="left", maintain_order="left")
    found = []
    for row in picked.iter_rows(named=True):
        found.append((bytes.fromhex(row["key"]), Row(
            kinds=marked.kinds[row[_AT]],
            point=tuple(text(row[name]) for name in swept),
            values={name: shown(row[name]) if isinstance(row[name], str) else row[name] for name in wanted},
            carried={name: None if row[name] is None else shown(text(row[name])) for name in others},
            scores={name: row[column] for name, column in scored.items()},
            prompt=None,
        )))  # fmt: skip
    return found


def shown(words: str, most: int = _CELL) -> str:
    """Text for a cell: shortened, with invisible characters and those that change the direction of writing made visible."""
    return printable(shortened(words, most))


def shortened(words: str, most: int) -> str:
    """The beginning and the end of a text that is longer than ``most`` characters."""
    if len(words) <= most:
        return words
    return f"{words[: most * 3 // 4]} … [{len(words) - most:,} characters left out] … {words[-most // 4 :]}"


def prompts(plan: Plan, rows: Sequence[tuple[bytes, Row]]) -> dict[bytes, list[Message]]:
    """The prompts of these rows, by key, as far as the input still yields them. Only the first million rows of an input are
    read."""
    bodies = prompts_of_rows.of_keys(plan, {key: row.values["row"] for key, row in rows})
    return {
        key: [Message(shown(role, 40), shown(said)) for role, said in prompts_of_rows.spoken(body)]
        for key, body in bodies.items()
    }
