"""Two scored tables compared item by item: how much better one is, how certain that is, and which items changed. Pure.

A difference is B minus A. The samples of an item are averaged first, so that items are compared and not rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from ..core import JobError
from . import spending, stats

_PREFIX = "score_"
_TOKENS = ("prompt_tokens", "completion_tokens")


class Comparison(NamedTuple):
    """``told`` are the results as plain values; ``flips`` has a row for each item and score that differ."""

    told: dict[str, Any]
    flips: pl.DataFrame


def compare(
    one: pl.DataFrame,
    two: pl.DataFrame,
    *,
    item: str = "id",
    show: Sequence[str] = ("content",),
    level: float = stats.LEVEL,
) -> Comparison:
    """Compare two frames with columns ``score_NAME``: A (``one``) and B (``two``).

    Each score that both have is compared over the items (the values of the column ``item``) that have it on both sides.
    ``told`` has ``level``, ``items`` (on both sides), ``only_a``, ``only_b``, ``a`` and ``b`` (``rows``, tokens, ``cost`` and
    median ``latency_s`` of each side), and ``scores``, of each its ``name``, ``items``, the means ``a`` and ``b``,
    ``difference`` (B minus A) with ``low`` and ``high``, ``p_value`` with its ``method`` (``mcnemar-exact``, ``mcnemar`` or
    ``bootstrap``), ``wins``, ``losses`` and ``ties``. ``flips`` has ``score``, ``item``, ``a``, ``b`` and, of the columns of
    ``show`` that there are, the values of each side (``content_a``, ``content_b``); the largest changes come first.

    :raises JobError: if the two have no score or no item in common, or lack the column ``item``.
    """
    for side, frame in (("the first", one), ("the second", two)):
        if item not in frame.columns:
            raise JobError(
                f"{side} has no column {item!r} to pair items by; its columns are: {', '.join(frame.columns)}"
            )
    names = [name.removeprefix(_PREFIX) for name in one.columns if name.startswith(_PREFIX) and name in two.columns]
    if not names:
        raise JobError("the two have no score in common: score both in the same way first")
    if one.schema[item] != two.schema[item]:
        one, two = (frame.with_columns(pl.col(item).cast(pl.String)) for frame in (one, two))
    a, b = (_by_item(frame, item, names) for frame in (one, two))
    both = a.join(b, on="item", how="inner", suffix="_b", maintain_order="left")
    if not both.height:
        raise JobError(f"the two have no {item} in common: there is nothing to pair")
    scores, flips = [], []
    for name in names:
        pairs = both.select("item", a=pl.col(name), b=pl.col(f"{name}_b"), single=_is_single(name)).drop_nulls()
        scores.append({"name": name, **_compared(pairs, level)})
        flips.append(_flipped(pairs, name))
    results = {
        "level": level,
        "items": both.height,
        "only_a": a.height - both.height,
        "only_b": b.height - both.height,
        "a": _measured(one),
        "b": _measured(two),
        "scores": scores,
    }
    return Comparison(results, _said(pl.concat(flips), one, two, item, show))


def _by_item(frame: pl.DataFrame, item: str, names: Sequence[str]) -> pl.DataFrame:
    """For each item the mean of each score, and the number of rows with one (``n_…``)."""
    columns = [pl.col(_PREFIX + name).cast(pl.Float64) for name in names]
    return (
        frame.lazy()
        .group_by(pl.col(item).alias("item"), maintain_order=True)
        .agg(
            *(column.mean().alias(name) for column, name in zip(columns, names, strict=True)),
            *(column.count().alias(f"n_{name}") for column, name in zip(columns, names, strict=True)),
        )
        .collect()
    )


def _is_single(name: str) -> pl.Expr:
    return (pl.col(f"n_{name}") <= 1) & (pl.col(f"n_{name}_b") <= 1)


def _compared(pairs: pl.DataFrame, level: float) -> dict[str, Any]:
    if not pairs.height:
        nothing = dict.fromkeys(["a", "b", "difference", "low", "high", "p_value", "method"])
        return {"items": 0, **nothing, "wins": 0, "losses": 0, "ties": 0}
    a, b = pairs["a"], pairs["b"]
    wins, losses = int((b > a).sum()), int((b < a).sum())
    found = stats.paired_difference((b - a).to_numpy(), level)
    p_value, method = found.p_value, "bootstrap" if found.p_value is not None else None
    if bool(pairs["single"].all()) and all(bool(((side == 0) | (side == 1)).all()) for side in (a, b)):
        p_value, method = stats.mcnemar(losses, wins)
    low, high = found.interval or (None, None)
    return {
        "items": pairs.height,
        "a": a.mean(),
        "b": b.mean(),
        "difference": found.mean,
        "low": low,
        "high": high,
        "p_value": p_value,
        "method": method,
        "wins": wins,
        "losses": losses,
        "ties": pairs.height - wins - losses,
    }


def _flipped(pairs: pl.DataFrame, name: str) -> pl.DataFrame:
    changed = pairs.filter(pl.col("a") != pl.col("b")).sort(
        (pl.col("b") - pl.col("a")).abs(), descending=True, maintain_order=True
    )
    return changed.select(pl.lit(name).alias("score"), "item", "a", "b")


def _said(flips: pl.DataFrame, one: pl.DataFrame, two: pl.DataFrame, item: str, show: Sequence[str]) -> pl.DataFrame:
    """With the answers of both sides beside each flip: of several samples the first."""
    for side, frame in (("a", one), ("b", two)):
        shown = [name for name in show if name in frame.columns and name != item]
        said = frame.select(pl.col(item).alias("item"), *(pl.col(name).alias(f"{name}_{side}") for name in shown))
        said = said.filter(pl.col("item").is_in(flips["item"].implode())).unique("item", keep="first")
        flips = flips.join(said, on="item", how="left", maintain_order="left")
    return flips


def _measured(frame: pl.DataFrame) -> dict[str, Any]:
    """Rows, tokens, cost and latency of a side; null where its frame has no such column."""
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    measures = [spending.total(name, numbers) for name in (*_TOKENS, "cost") if name in numbers]
    measures += [pl.col("latency_s").median()] if "latency_s" in numbers else []
    found: dict[str, Any] = frame.select(measures).row(0, named=True) if measures else {}
    tokens = {name: None if found.get(name) is None else int(found[name]) for name in _TOKENS}
    return {"rows": frame.height, **tokens, "cost": found.get("cost"), "latency_s": found.get("latency_s")}
