"""What a job can find: the rows that a difference takes, and the smallest difference that its rows find."""

from __future__ import annotations

from typing import Any

import polars as pl

from ..core import JobError, count
from . import clusters, comparison_sides, power
from .power import Spread

_SAMPLES = (1, 2, 4, 8)
_COLUMN = "score_"
_MOST_POINTS = 20  # of a sweep that are paired with each other


def detect(
    difference: float,
    items: int,
    samples: int,
    *,
    expect: float | None = None,
    like: str | None = None,
    score: str | None = None,
    chance: float = power.POWER,
) -> dict[str, Any]:
    """Plan two sides that answer the same ``items``, with so many ``samples`` each.

    The variance is that of ``expect``, the accuracy of both, as if they were right independently of each other; or that of the
    scores of an earlier run, ``like`` (``OUT`` or ``OUT@variable=value,…``), of its ``score`` (the first). Of several sweep
    points it is the median over all pairs of them. ``chance`` is the power.

    :raises JobError: if both are given, or the earlier run has no such score, or it does not vary.
    :raises FolderError: if the earlier run has no scores.
    """
    if expect is not None and like is not None:
        raise JobError(
            "--expect and --like exclude each other: state the accuracy, or take the variance of an earlier run"
        )
    if like is not None:
        spread, basis, name = _of_run(like, score)
    else:
        stated = 0.5 if expect is None else expect
        spread, name = power.of_shares(stated), None
        about = "the least favourable" if expect is None else "as expected"
        basis = f"an accuracy of {stated:g} on both sides, {about}, right or wrong independently of each other"
    if spread.variance(1) <= 0:
        raise JobError(f"--detect: the scores of {like} do not vary, so there is nothing to plan with; state --expect")
    tried = sorted({*_SAMPLES, samples}) if spread.within else [samples]
    return {
        "difference": difference, "power": chance, "score": name, "basis": basis, "items": items, "samples": samples,
        "variance": spread.variance(samples), "between": spread.between, "within": spread.within,
        "design_effect": spread.design_effect,
        "detectable": power.detectable(spread.variance(samples), items, power=chance),
        "needed": [
            {"samples": n, "items": power.needed(spread.variance(n), difference, power=chance)} for n in tried
        ],
    }  # fmt: skip


def _of_run(name: str, score: str | None) -> tuple[Spread, str, str]:
    side = comparison_sides.side(name)
    names = [column.removeprefix(_COLUMN) for column in side.frame.columns if column.startswith(_COLUMN)]
    if score is not None and score not in names:
        raise JobError(f"{name} has no score {score!r}; it has: {', '.join(names)}")
    chosen = score or names[0]
    points = _points(side, f"{_COLUMN}{chosen}")
    if not points:
        raise JobError(f"{name}: no row has the score {chosen!r}")
    if len(points) == 1:
        return _of_one(points[0]), f"the variance of {chosen} in {name}, as if both sides were independent", chosen
    tried = [_of_pair(a, b) for at, a in enumerate(points) for b in points[at + 1 : _MOST_POINTS]]
    pairs = sorted((pair for pair in tried if pair is not None), key=lambda pair: pair.variance(1))
    if not pairs:
        raise JobError(f"{name}: its sweep points have no two items in common, so that nothing can be paired")
    of = f"{count(len(points), 'sweep point')} of {name}, paired by item"
    return pairs[len(pairs) // 2], f"the variance of {chosen} between the {of}", chosen


def _points(side: comparison_sides.Side, column: str) -> list[pl.DataFrame]:
    """For each sweep point its items: mean ``score``, number ``n``, ``within`` (the variance of their samples), ``cluster``."""
    own = [pl.col(side.cluster).first().alias("cluster")] if side.cluster is not None else []
    rows = side.frame.filter(pl.col(column).is_not_null())
    parts = rows.partition_by(side.swept, maintain_order=True) if side.swept else [rows]
    value = pl.col(column)
    return [
        part.group_by("id", maintain_order=True).agg(*own, score=value.mean(), n=pl.len(), within=value.var())
        for part in parts
        if part.height > 1
    ]


def _within(items: pl.DataFrame) -> float:
    """The mean variance of the samples of an item; 0 where items have one."""
    found = items["within"].mean()
    return float(found) if isinstance(found, float) else 0.0


def _of_one(items: pl.DataFrame) -> Spread:
    within, samples = _within(items), float(items["n"].mean() or 1)  # type: ignore[arg-type]
    between = max(0.0, float(items["score"].var() or 0.0) - within / samples)  # type: ignore[arg-type]
    return Spread(2 * between, 2 * within, _design_effect(items, "score"))


def _of_pair(one: pl.DataFrame, two: pl.DataFrame) -> Spread | None:
    both = one.join(two, on="id", suffix="_b").with_columns(difference=pl.col("score_b") - pl.col("score"))
    if both.height < 2:
        return None
    noise = [_within(each) / float(each["n"].mean() or 1) for each in (one, two)]  # type: ignore[arg-type]
    between = max(0.0, float(both["difference"].var() or 0.0) - sum(noise))  # type: ignore[arg-type]
    return Spread(between, _within(one) + _within(two), _design_effect(both, "difference"))


def _design_effect(items: pl.DataFrame, column: str) -> float:
    """How many times as large the variance of the mean is with clusters as if all items were independent; 1 at least."""
    if "cluster" not in items.columns:
        return 1.0
    known = items.with_columns(
        cluster=pl.coalesce(pl.col("cluster").cast(pl.String), pl.lit("\0") + pl.col("id").cast(pl.String))
    )
    groups = known.group_by("cluster").agg(pl.col(column).sum(), n=pl.len())
    clustered = clusters.mean_of(groups[column].to_numpy(), groups["n"].to_numpy())
    plain = clusters.mean_of(items[column].to_numpy(), [1] * items.height)
    return max(1.0, (clustered.se / plain.se) ** 2) if clustered.se and plain.se else 1.0
