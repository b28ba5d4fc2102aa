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
    median ``latency_s`` of each side), and ``scores``, of each its ``name``, whether it ``is_share`` (each row right or wrong),
    ``items``, the means ``a`` and ``b``,
    ``difference`` (B minus A) with ``low`` and ``high``, ``p_value`` with its ``method`` (``mcnemar-exact``, ``mcnemar`` or
    ``bootstrap``), ``wins``, ``losses`` and ``ties``. ``flips`` has ``score``, ``item``, ``a``, ``b`` and, of the columns of
    ``show`` that there are, the values of each side (``content_a``, ``content_b``); the largest changes come first.

    :raises JobError: if the two have no score or no item in common, or lack the column ``item``.
    """
    for side, frame in (("the first", one), ("the second", two)):
        if item not in frame.columns:
            known = ", ".join(frame.columns)
            raise JobError(f"{side} has no column {item!r} to pair items by; its columns are: {known}")
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
        single = (pl.col(f"n_{name}") <= 1) & (pl.col(f"n_{name}_b") <= 1)
        pairs = both.select("item", a=pl.col(name), b=pl.col(f"{name}_b"), single=single).drop_nulls()
        is_share = all(_is_share(frame[_PREFIX + name]) for frame in (one, two))
        scores.append({"name": name, "is_share": is_share, **_compared(pairs, level)})
        flips.append(_flipped(pairs, name))
    counts = {"items": both.height, "only_a": a.height - both.height, "only_b": b.height - both.height}
    results = {"level": level, **counts, "a": _measured(one), "b": _measured(two), "scores": scores}
    return Comparison(results, _with_answers(pl.concat(flips), one, two, item, show))


def _by_item(frame: pl.DataFrame, item: str, names: Sequence[str]) -> pl.DataFrame:
    """For each item the mean of each score, and the number of rows with one (``n_…``)."""
    scores = {name: pl.col(_PREFIX + name).cast(pl.Float64) for name in names}
    means = [score.mean().alias(name) for name, score in scores.items()]
    counts = [score.count().alias(f"n_{name}") for name, score in scores.items()]
    return frame.lazy().group_by(pl.col(item).alias("item"), maintain_order=True).agg(means + counts).collect()


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
        "items": pairs.height, "a": a.mean(), "b": b.mean(), "difference": found.mean, "low": low, "high": high,
        "p_value": p_value, "method": method, "wins": wins, "losses": losses, "ties": pairs.height - wins - losses,
    }  # fmt: skip


def _is_share(values: pl.Series) -> bool:
    """Whether each value is right or wrong, so that their mean is a share."""
    return bool(((values == 0) | (values == 1)).all())


def _flipped(pairs: pl.DataFrame, name: str) -> pl.DataFrame:
    difference = (pl.col("b") - pl.col("a")).abs()
    changed = pairs.filter(difference != 0).sort(difference, descending=True, maintain_order=True)
    return changed.select(pl.lit(name).alias("score"), "item", "a", "b")


def _with_answers(
    flips: pl.DataFrame, one: pl.DataFrame, two: pl.DataFrame, item: str, show: Sequence[str]
) -> pl.DataFrame:
    """The flips with the answers of both sides beside them: of several samples the first."""
    for side, frame in (("a", one), ("b", two)):
        shown = [name for name in show if name in frame.columns and name != item]
        answers = frame.select(pl.col(item).alias("item"), *(pl.col(name).alias(f"{name}_{side}") for name in shown))
        answers = answers.filter(pl.col("item").is_in(flips["item"].implode())).unique("item", keep="first")
        flips = flips.join(answers, on="item", how="left", maintain_order="left")
    return flips


def _measured(frame: pl.DataFrame) -> dict[str, Any]:
    """Rows, tokens, cost and latency of a side; null where its frame has no such column."""
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    measures = [spending.total(name, numbers) for name in (*_TOKENS, "cost") if name in numbers]
    measures += [pl.col("latency_s").median()] if "latency_s" in numbers else []
    found: dict[str, Any] = frame.select(measures).row(0, named=True) if measures else {}
    tokens = {name: None if found.get(name) is None else int(found[name]) for name in _TOKENS}
    return {"rows": frame.height, **tokens, "cost": found.get("cost"), "latency_s": found.get("latency_s")}
