"""Tokens and cost of a row: those of its answer, and of earlier answers that did not fit and were requested again. Pure."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

# A column of the results, and the one with the sum over earlier answers.
BEFORE = {
    "prompt_tokens": "reask_prompt_tokens",
    "completion_tokens": "reask_completion_tokens",
    "cost": "reask_cost",
}


def of(name: str, columns: Collection[str]) -> pl.Expr:
    """A measure including earlier answers, under its own name; just the column if ``columns`` has none for these."""
    before = BEFORE.get(name)
    if before is None or before not in columns:
        return pl.col(name)
    both = pl.col(name).fill_null(0) + pl.col(before).fill_null(0)
    return pl.when(pl.col(name).is_not_null() | pl.col(before).is_not_null()).then(both).alias(name)


def total(name: str, columns: Collection[str]) -> pl.Expr:
    """The sum of a measure over all rows; null if no row has it."""
    value = of(name, columns)
    return pl.when(value.count() > 0).then(value.sum()).alias(name)
