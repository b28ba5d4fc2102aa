"""Summarises scored rows: for each sweep point means, intervals, agreement, confusion, tokens, cost and latency. Pure.

An interval is Wilson's where a score is 0 or 1 and each item has one row. Otherwise it is a bootstrap over items, because the
samples of an item are not independent of each other; and by the clustered standard error where a score names a column of
clusters. CONTRACT.md describes the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ..core import STATUSES
from . import agreement, clusters, stats, sweep_comparison
from .ledger import OTHER, Ledger, Score

NONE = "(none)"
_MOST_STRAYS = 10
_TOKENS = ("prompt_tokens", "completion_tokens", "cache_read_input_tokens")


def summarise(
    ledger: Ledger, variables: Mapping[str, Sequence[Any]] | None = None, level: float = stats.LEVEL
) -> dict[str, Any]:
    """``level``, ``rows``, ``scores`` and ``points`` of a ledger, which is emptied.

    ``variables`` are the swept variables by column, with their values in order, which gives the order of the points.
    """
    frame = ledger.frame()
    scores = [_decided(score, frame) for score in ledger.scores]
    names = {score.name: _names(score, frame, ledger.labels(score.name)) for score in scores}
    points = []
    items: dict[str, list[pl.DataFrame]] = {score.name: [] for score in scores}
    for values, part in _points(frame, ledger.by, variables or {}):
        found = {}
        for score in scores:
            rows = part.filter(pl.col(score.column).is_not_null())
            items[score.name].append(by_item := _by_item(rows, score))
            found[score.name] = _score(rows, by_item, score, names[score.name], level)
        sizes = {"rows": part.height, "items": part["item"].n_unique()}
        points.append({"point": values, **sizes, **_measures(part), "scores": found})
    described = [_compared(score, points, items.pop(score.name), level) for score in scores]
    return {"level": level, "rows": frame.height, "scores": described, "points": points}


def _compared(
    score: Score, points: Sequence[Mapping[str, Any]], items: Sequence[pl.DataFrame], level: float
) -> dict[str, Any]:
    """A score for ``scores``; each of the ``points`` gets how it differs from the reference as ``versus``."""
    fields = ("name", "kind", "is_share", "expected", "answer", "cluster")
    means = [point["scores"][score.name]["mean"] for point in points]
    if score.uncompared is None:
        found = sweep_comparison.compare([p["point"] for p in points], means, items, score.baseline, level)
    else:
        found = sweep_comparison.SweepComparison(None, [None] * len(points), score.uncompared)
    for point, versus in zip(points, found.versus, strict=True):
        point["scores"][score.name]["versus"] = versus
    return {**{name: getattr(score, name) for name in fields}, "comparison": found.described, "uncompared": found.why}


def _decided(score: Score, frame: pl.DataFrame) -> Score:
    """The score with ``is_share`` set, from its values where the kind does not determine it."""
    if score.is_share is None and score.column in frame.columns:
        values = frame[score.column].drop_nulls()
        return score._replace(is_share=bool(len(values)) and bool(((values == 0) | (values == 1)).all()))
    return score._replace(is_share=bool(score.is_share))


def _points(
    frame: pl.DataFrame, by: Sequence[str], variables: Mapping[str, Sequence[Any]]
) -> list[tuple[dict[str, Any], pl.DataFrame]]:
    if not frame.width:
        return []
    if not by:
        return [({}, frame)]
    found = frame.partition_by(by, as_dict=True, maintain_order=True, include_key=False)
    pairs = [(dict(zip(by, values, strict=True)), part) for values, part in found.items()]

    def order(pair: tuple[dict[str, Any], pl.DataFrame]) -> list[int]:
        known = [(list(variables.get(name, ())), value) for name, value in pair[0].items()]
        return [values.index(value) if value in values else len(values) for values, value in known]

    return sorted(pairs, key=order)


# --------------------------------------------------------------------------------------------------- one score


def _by_item(rows: pl.DataFrame, score: Score) -> pl.DataFrame:
    """``item``, the ``total`` of its scores, their number ``n``, and its ``cluster`` (that of its first row) if there are any."""
    value = pl.col(score.column)
    own = {} if score.cluster is None else {"cluster": pl.col(f"c_{score.cluster}")}
    if rows["item"].n_unique() == rows.height:
        return rows.select("item", total=value, n=pl.lit(1, pl.UInt32), **own)
    first = {name: column.first() for name, column in own.items()}
    return rows.group_by("item", maintain_order=True).agg(total=value.sum(), n=pl.len(), **first)


def _score(
    rows: pl.DataFrame, items: pl.DataFrame, score: Score, names: list[str] | None, level: float
) -> dict[str, Any]:
    most = int(items["n"].max() or 0)  # type: ignore[arg-type]
    several, share = most > 1, bool(score.is_share)
    return {
        **mean_of(items, share=share, level=level),
        "pass_at": _pass_at(items, most, level) if several and share else None,
        "majority": _majority(rows, items, score, level) if several else None,
        "kappa": _kappa(rows, score) if several else None,
        "agreement": _agreement(rows, score, level) if several else None,
        "labels": None if names is None else _labels(rows, score.name, names),
    }


def mean_of(items: pl.DataFrame, *, share: bool, level: float) -> dict[str, Any]:
    """Mean, interval and standard error of ``total`` over ``n`` rows of each item, by ``cluster`` if there are any."""
    n, height, has_clusters = int(items["n"].sum()), items.height, "cluster" in items.columns
    if not n:
        nothing: dict[str, Any] = dict.fromkeys(["mean", "low", "high"])
        return {**nothing, "n": 0, "items": 0, "method": None, "se": None, "df": None, "clusters": 0}
    groups = items.group_by("cluster").agg(pl.col("total", "n").sum()) if has_clusters else items
    found = clusters.mean_of(groups["total"].to_numpy(), groups["n"].to_numpy())
    if has_clusters:
        method = "cluster-wilson" if share else "cluster-t"
        interval = clusters.wilson_interval(found, level) if share else clusters.t_interval(found, level)
    elif share and n == height:
        interval, method = stats.wilson(float(items["total"].sum()), n, level), "wilson"
    elif share and height > 1 and items["total"].sum() in (0, n):  # resampled, it would be without any width
        interval, method = stats.wilson(height * float(items["total"].sum()) / n, height, level), "wilson"
    else:
        interval, method = stats.bootstrap_mean(items["total"].to_numpy(), items["n"].to_numpy(), level), "bootstrap"
    low, high = interval or (None, None)
    return {
        "mean": float(items["total"].sum()) / n, "low": low, "high": high, "n": n, "items": height,
        "method": method if interval else None, "se": found.se, "df": found.df, "clusters": found.clusters,
    }  # fmt: skip


def _pass_at(items: pl.DataFrame, most: int, level: float) -> dict[str, Any]:
    found = {}
    for k in stats.ks(most):
        enough = items.filter(pl.col("n") >= k)
        chances = stats.pass_at(k, enough["n"].to_numpy(), enough["total"].to_numpy())
        each = enough.with_columns(total=pl.Series(chances), n=pl.lit(1, pl.UInt32))
        mean = mean_of(each, share=False, level=level)
        low, high = (None if end is None else min(1.0, max(0.0, end)) for end in (mean["low"], mean["high"]))
        found[str(k)] = {"mean": mean["mean"], "low": low, "high": high, "items": mean["items"]}
    return found


def _majority(rows: pl.DataFrame, items: pl.DataFrame, score: Score, level: float) -> dict[str, Any] | None:
    """The mean over items of the score of the most frequent answer, the first of several such; for scores that find no label,
    the share of items with more than half of their samples right."""
    if score.is_labelling and f"h_{score.name}" in rows.columns:
        votes = (
            rows.lazy()
            .with_row_index("at")
            .group_by("item", f"h_{score.name}", maintain_order=True)
            .agg(pl.len().cast(pl.Int64).alias("n"), pl.col("at", f"n_{score.name}", score.column).first())
            .sort(f"n_{score.name}", pl.col("n").neg(), "at")
            .unique("item", keep="first", maintain_order=True)
            .sort("at")
            .collect()
        )
        won = votes.select("item", total=score.column)
        won = items.drop("total").join(won, on="item", how="left", maintain_order="left")
    elif score.is_share:
        won = items.with_columns(total=(2 * pl.col("total") > pl.col("n")).cast(pl.Float64))
    else:
        return None
    found = mean_of(won.with_columns(n=pl.lit(1, pl.UInt32)), share=True, level=level)
    return {name: found[name] for name in ("mean", "low", "high", "n", "method")}


def _kappa(rows: pl.DataFrame, score: Score) -> float | None:
    """Agreement on the answer; for scores that find no label, on right and wrong."""
    answers = _answers(rows, score)
    return None if answers is None else stats.fleiss_kappa(rows["item"].to_numpy(), answers.to_numpy())


def _agreement(rows: pl.DataFrame, score: Score, level: float) -> dict[str, Any] | None:
    """The same as a share of equal pairs and Krippendorff's alpha, with intervals."""
    answers = _answers(rows, score)
    if answers is None:
        return None
    own = None if score.cluster is None else rows[f"c_{score.cluster}"].to_numpy()
    found = agreement.krippendorff(rows["item"].to_numpy(), answers.to_numpy(), own, level)
    if found is None:
        return None
    low, high = found.share_interval or (None, None)
    alpha_low, alpha_high = found.interval or (None, None)
    return {
        "share": found.share, "low": low, "high": high,
        "alpha": found.coefficient, "alpha_low": alpha_low, "alpha_high": alpha_high,
    }  # fmt: skip


def _answers(rows: pl.DataFrame, score: Score) -> pl.Series | None:
    if score.is_labelling and f"h_{score.name}" in rows.columns:
        return rows[f"h_{score.name}"]
    return rows[score.column].cast(pl.Int64) if score.is_share else None


# ------------------------------------------------------------------------------------------------------ labels


def _names(score: Score, frame: pl.DataFrame, expected: list[str] | None) -> list[str] | None:
    """The expected labels, then the most frequent others that were answered, then ``OTHER`` and ``NONE`` if they are needed."""
    answered = f"a_{score.name}"
    if expected is None or answered not in frame.columns:
        return None
    counts = frame.filter(pl.col(score.column).is_not_null())[answered].value_counts(sort=True)
    stale_answers = [label for label in counts[answered].drop_nulls() if label not in expected]
    named = [label for label in stale_answers if label != OTHER][:_MOST_STRAYS]
    return [
        *expected,
        *named,
        *([OTHER] if len(named) < len(stale_answers) else []),
        *([NONE] if counts[answered].null_count() else []),
    ]


def _labels(rows: pl.DataFrame, name: str, names: list[str]) -> dict[str, Any]:
    codes = {label: code for code, label in enumerate(names)}
    pairs = rows.select(
        pl.col(f"e_{name}").replace_strict(codes, default=None, return_dtype=pl.Int64),
        pl.col(f"a_{name}").fill_null(NONE).replace_strict(codes, default=codes.get(OTHER), return_dtype=pl.Int64),
    ).drop_nulls()
    found = stats.confusion(pairs[f"e_{name}"].to_numpy(), pairs[f"a_{name}"].to_numpy(), len(names))
    return {"names": names, **found._asdict()}


# ---------------------------------------------------------------------------------------------------- measures


def _measures(part: pl.DataFrame) -> dict[str, Any]:
    """Status, tokens, cost and latency of a sweep point; null where the frame lacks the column."""

    def values(name: str) -> pl.Series:
        return part[f"m_{name}"].drop_nulls() if f"m_{name}" in part.columns else pl.Series(dtype=pl.Float64)

    counts = dict(values("status").value_counts().iter_rows())
    found: dict[str, Any] = {"status": {name: counts.get(name, 0) for name in STATUSES} if counts else None}
    for name in (*_TOKENS, "substituted"):
        found[name] = int(values(name).sum()) if len(values(name)) else None
    cost, latency = values("cost"), values("latency_s")
    found["cost"] = math.fsum(cost) if len(cost) else None
    found["latency_s"] = {f"p{p}": latency.quantile(p / 100, "linear") for p in (50, 95)}
    return found
