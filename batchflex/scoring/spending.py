"""What a row took in all: its answer, and the answers before it that did not fit and were asked for again. Pure."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

# A column of the results, and the one with what came before.
BEFORE = {
    "prompt_tokens": "reask_prompt_tokens",
    "completion_tokens": "reask_completion_tokens",
    "cost": "reask_cost",
}


def of(name: str, columns: Collection[str]) -> pl.Expr:
    """A measure in all, under its own name; as it is, if it has nothing before it, or the ``columns`` do not tell of that."""
    before = BEFORE.get(name)
    if before is None or before not in columns:
        return pl.col(name)
    both = pl.col(name).fill_null(0) + pl.col(before).fill_null(0)
    return pl.when(pl.col(name).is_not_null() | pl.col(before).is_not_null()).then(both).alias(name)


def total(name: str, columns: Collection[str]) -> pl.Expr:
    """A measure of all rows together; null where no row has it."""
    value = of(name, columns)
    return pl.when(value.count() > 0).then(value.sum()).alias(name)
