"""What a job can find: the rows that a difference takes, and the smallest difference that its rows find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import polars as pl

from ..config import Job, ScoreSection
from ..core import JobError, Request, count, text_of
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
    clusters: Clusters | None = None,
    icc: float | None = None,
) -> dict[str, Any]:
    """Plan two sides that answer the same ``items``, with so many ``samples`` each.

    The variance is that of ``expect``, the accuracy of both, as if they were right independently of each other; or that of the
    scores of an earlier run, ``like`` (``OUT`` or ``OUT@variable=value,…``), of its ``score`` (the first). Of several sweep
    points it is the median over all pairs of them. ``chance`` is the power.

    ``clusters`` are those of the items. An earlier run tells what they do to the variance; else ``icc``, how alike items of one
    cluster are, and without it they are taken as independent: ``most_alike`` is how many times as large the variance would be if
    those of a cluster all did the same.

    :raises JobError: if ``require`` does, or the earlier run has no such score, or it does not vary.
    :raises FolderError: if the earlier run has no scores.
    """
    require(difference, expect=expect, like=like, icc=icc, clusters=clusters)
    unknown = False
    if like is not None:
        spread, basis, name, unknown = _of_run(like, score, difference, clusters)
    else:
        unknown = clusters is not None and icc is None
        stated = 0.5 if expect is None else expect
        spread, name = power.of_shares(stated), None
        about = "the least favourable" if expect is None else "as expected"
        basis = f"an accuracy of {stated:g} on both sides, {about}, right or wrong independently of each other"
        if clusters is not None and icc is not None:
            spread = spread._replace(design_effect=clusters.design_effect(icc))
    if spread.variance(1) <= 0:
        raise JobError(f"--detect: the scores of {like} do not vary, so there is nothing to plan with; state --expect")
    tried = sorted({*_SAMPLES, samples}) if spread.within else [samples]
    return {
        "difference": difference, "power": chance, "score": name, "basis": basis, "items": items, "samples": samples,
        "variance": spread.variance(samples), "between": spread.between, "within": spread.within,
        "design_effect": spread.design_effect, **_clustered(clusters, unknown=unknown),
        "detectable": power.detectable(spread.variance(samples), items, power=chance),
        "needed": [
            {"samples": n, "items": power.needed(spread.variance(n), difference, power=chance)} for n in tried
        ],
    }  # fmt: skip


class Clusters:
    """The clusters of the items of a job by the column ``name``, counted while its requests are planned."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items = 0
        self._sizes: dict[int, int] = {}
        self._single = 0

    @classmethod
    def of(cls, job: Job, score: str | None) -> Clusters | None:
        """Those that a score of the job (the first) names, if it does."""
        specs: list[ScoreSection] = [spec for spec in job.score if score is None or spec.name == score]
        return cls(specs[0].cluster) if specs and specs[0].cluster is not None else None

    def add(self, request: Request) -> None:
        """Count the item of a request, once: at the first sweep point, of the first sample."""
        if request.point or request.sample:
            return
        self.items += 1
        value = None if request.carry is None else _of_carried(msgspec.json.decode(request.carry), self.name)
        if value is None:
            self._single += 1
        else:
            at = hash(text_of(value))
            self._sizes[at] = self._sizes.get(at, 0) + 1

    @property
    def number(self) -> int:
        return len(self._sizes) + self._single

    def design_effect(self, icc: float) -> float:
        """How many times as large clusters make the variance of a mean, with so much correlation within them: 1 + (m - 1)·icc
        with m as the mean size that an item sees, Σm² / Σm."""
        squares = self._single + sum(size * size for size in self._sizes.values())
        return 1 + (squares / self.items - 1) * icc if self.items else 1.0


def _of_carried(carried: Mapping[str, Any], name: str) -> Any:
    """The value of a column of the results, or of a field in one; carried columns that are named like another have ``input_``."""
    own = name.removeprefix("input_")
    for known in (name, own):
        if known in carried:
            return carried[known]
    head, _, rest = own.partition(".")
    value = carried.get(head)
    return _of_carried(value, rest) if rest and isinstance(value, Mapping) else None


def _clustered(clusters: Clusters | None, *, unknown: bool) -> dict[str, Any]:
    if clusters is None:
        return {"cluster": None, "clusters": None, "most_alike": None}
    return {
        "cluster": clusters.name,
        "clusters": clusters.number,
        "most_alike": clusters.design_effect(1) if unknown else None,
    }


def require(
    difference: float,
    *,
    expect: float | None = None,
    like: str | None = None,
    icc: float | None = None,
    clusters: Clusters | None = None,
) -> None:
    """:raises JobError: if such a plan cannot be made, whatever the items are."""
    if like is not None and (expect is not None or icc is not None):
        name, what = ("expect", "the accuracy") if expect is not None else ("icc", "how alike rows of a cluster are")
        raise JobError(f"--{name} and --like exclude each other: state {what}, or take the variance of an earlier run")
    if icc is not None and clusters is None:
        raise JobError("--icc is for a score with a cluster, and the job's score names none")
    if like is None:
        _require_share(difference)


def _require_share(difference: float) -> None:
    if difference >= 1:
        meant = f"; did you mean {difference / 100:g}, {difference:g} percentage points?" if difference < 100 else ""
        raise JobError(f"--detect takes a difference of shares, which is below 1; found {difference:g}{meant}")


def _of_run(name: str, score: str | None, difference: float, planned: Clusters | None) -> tuple[Spread, str, str, bool]:
    """And whether clusters are planned, but not known in that run."""
    side = comparison_sides.side(name)
    if planned is not None and side.cluster is None:
        side = comparison_sides.clustered(side, planned.name)
    names = [column.removeprefix(_COLUMN) for column in side.frame.columns if column.startswith(_COLUMN)]
    if score is not None and score not in names:
        raise JobError(f"{name} has no score {score!r}; it has: {', '.join(names)}")
    chosen = score or names[0]
    if side.shares.get(chosen):
        _require_share(difference)
    unknown = planned is not None and side.cluster is None
    points = _points(side, f"{_COLUMN}{chosen}")
    if not points:
        raise JobError(f"{name}: no row has the score {chosen!r}")
    if len(points) == 1:
        return (
            _of_one(points[0]),
            f"the variance of {chosen} in {name}, as if both sides were independent",
            chosen,
            unknown,
        )
    tried = [_of_pair(a, b) for at, a in enumerate(points) for b in points[at + 1 : _MOST_POINTS]]
    pairs = sorted((pair for pair in tried if pair is not None), key=lambda pair: pair.variance(1))
    if not pairs:
        raise JobError(f"{name}: its sweep points have no two items in common, so that nothing can be paired")
    of = f"{count(len(points), 'sweep point')} of {name}, paired by item"
    return pairs[len(pairs) // 2], f"the variance of {chosen} between the {of}", chosen, unknown


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
