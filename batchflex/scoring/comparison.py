"""Two scored tables compared item by item: how much better one is, how certain that is, and which items changed. Pure.

A difference is B minus A. The samples of an item are averaged first, so that items are compared and not rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from ..core import JobError, frame_of
from . import agreement, clusters, extract, many_tests, power, spending, stats
from .readable import Compared

_PREFIX = "score_"
_ANSWERED = "answered_"
_SHOWN_FLIPS = 10
_TOKENS = ("prompt_tokens", "completion_tokens")


class Comparison(NamedTuple):
    """``told`` are the results as plain values, a dict; ``flips`` has a row for each item and score that differ: a frame of the
    kind of the first that was compared. Printed it is the tables of ``batchflex compare``."""

    told: dict[str, Any]
    flips: Any

    def __repr__(self) -> str:
        flips = frame_of(self.flips, "compare()").rows
        return Compared(self.told).with_flips(flips.head(_SHOWN_FLIPS).to_dicts(), flips.height)


def compare(
    one: Any,
    two: Any,
    *,
    item: str = "id",
    show: Sequence[str] = ("content",),
    level: float = stats.LEVEL,
    cluster: str | None = None,
    by: Sequence[str] = (),
) -> Comparison:
    """Compare two frames, of any kind, with columns ``score_NAME``: A (``one``) and B (``two``).

    Each score that both have is compared over the items (the values of the column ``item``) that have it on both sides.
    ``cluster`` is a column of either frame whose values items have in common that are not independent of each other, such as the
    questions of one passage; an item where it is null is one by itself. ``by`` are columns that tell sweep points apart, as in
    ``summarise``: agreement is then that of rows of the same point, wherever both sides have it.

    ``told`` has ``level``, ``cluster``, ``items`` (on both sides), ``only_a``, ``only_b``, ``a`` and ``b`` (``rows``, tokens,
    ``cost`` and median ``latency_s`` of each side), and ``scores``, of each its ``name``, whether it ``is_share`` (each row
    right or wrong), ``items``, the means ``a`` and ``b`` over these, each counted once, and ``a_of_rows`` and ``b_of_rows`` over
    all rows with a score, as ``summarise`` has them, ``difference`` (B minus A) with ``low`` and ``high``, its standard
    error ``se`` with ``df`` degrees of freedom, ``clusters``, ``p_value`` with its ``method`` (``mcnemar-exact``, ``mcnemar``,
    ``paired-t`` or ``cluster-t``), ``detectable`` (the smallest difference that so many items find four times of five),
    ``wins``, ``losses`` and ``ties``, ``p_holm`` and ``p_bh`` (corrected for as many scores as there are), and ``agreement``
    (``on``, ``rows``, ``share`` and Cohen's ``kappa`` with the ends of their intervals), where both frames have a column
    ``answered_NAME`` with the label that was answered, or else right and wrong. ``flips`` has ``score``, ``item``, ``a``, ``b``
    and, of the columns of ``show`` that there are, the values of each side (``content_a``, ``content_b``); the largest changes
    come first.

    :raises JobError: if the two have no score or no item in common, or lack the column ``item`` or ``cluster``.
    """
    like = frame_of(one, "compare()")
    one, two = like.rows, frame_of(two, "compare()").rows
    for side, frame in (("the first", one), ("the second", two)):
        if item not in frame.columns:
            known = ", ".join(frame.columns)
            raise JobError(f"{side} has no column {item!r} to pair items by; its columns are: {known}")
    if cluster is not None and cluster not in {*one.columns, *two.columns}:
        raise JobError(f"there is no column {cluster!r} to cluster by; the columns are: {', '.join(one.columns)}")
    names = [name.removeprefix(_PREFIX) for name in one.columns if name.startswith(_PREFIX) and name in two.columns]
    if not names:
        raise JobError("the two have no score in common: score both in the same way first")
    if one.schema[item] != two.schema[item]:
        one, two = (frame.with_columns(pl.col(item).cast(pl.String)) for frame in (one, two))
    a, b = (_by_item(frame, item, names) for frame in (one, two))
    both = a.join(b, on="item", how="inner", suffix="_b", maintain_order="left")
    if not both.height:
        raise JobError(f"the two have no {item} in common: there is nothing to pair")
    cluster_of = None if cluster is None else _clusters(one if cluster in one.columns else two, item, cluster)
    if cluster_of is not None:
        both = both.join(cluster_of, on="item", how="left", maintain_order="left")
    scores, flips = [], []
    for name in names:
        single = (pl.col(f"n_{name}") <= 1) & (pl.col(f"n_{name}_b") <= 1)
        own = [] if cluster_of is None else ["cluster"]
        pairs = both.select("item", *own, a=pl.col(name), b=pl.col(f"{name}_b"), single=single).drop_nulls()
        is_share = all(_is_share(frame[_PREFIX + name]) for frame in (one, two))
        of_rows = {f"{side}_of_rows": frame[_PREFIX + name].mean() for side, frame in (("a", one), ("b", two))}
        scores.append({"name": name, "is_share": is_share, **compared(pairs, level), **of_rows})
        flips.append(_with_answers(_flipped(pairs, name), one, two, item, by, show))
    p_values = [score["p_value"] for score in scores]
    adjusted = zip(scores, names, many_tests.holm(p_values), many_tests.benjamini_hochberg(p_values), strict=True)
    for score, name, p_holm, p_bh in adjusted:
        score |= {"p_holm": p_holm, "p_bh": p_bh, "agreement": _agreement(one, two, item, by, name, cluster_of, level)}
    counts = {"items": both.height, "only_a": a.height - both.height, "only_b": b.height - both.height}
    sides = {"a": _measured(one), "b": _measured(two)}
    results = Compared({"level": level, "cluster": cluster, **counts, **sides, "scores": scores})
    return Comparison(results, like.alike(pl.concat(flips)))


def _by_item(frame: pl.DataFrame, item: str, names: Sequence[str]) -> pl.DataFrame:
    """For each item the mean of each score, and the number of rows with one (``n_…``)."""
    scores = {name: pl.col(_PREFIX + name).cast(pl.Float64) for name in names}
    means = [score.mean().alias(name) for name, score in scores.items()]
    counts = [score.count().alias(f"n_{name}") for name, score in scores.items()]
    return frame.lazy().group_by(pl.col(item).alias("item"), maintain_order=True).agg(means + counts).collect()


def _clusters(frame: pl.DataFrame, item: str, cluster: str) -> pl.DataFrame:
    """``item`` and its ``cluster``, a hash: that of its first row; of one without a cluster its own."""
    own = pl.DataFrame([frame[item].alias("item"), extract.as_texts(frame[cluster]).alias("cluster")])
    named = pl.when(pl.col("cluster").is_null()).then(pl.col("item").hash(1)).otherwise(pl.col("cluster").hash(0))
    return own.with_columns(cluster=named).unique("item", keep="first", maintain_order=True)


def compared(pairs: pl.DataFrame, level: float) -> dict[str, Any]:
    """The difference of two sides over pairs: ``item``, ``a``, ``b``, whether each is a ``single`` row on both sides, and maybe
    ``cluster``. McNemar's test for right and wrong with one row an item, else a t-test, over clusters if there are any."""
    if not pairs.height:
        nothing = dict.fromkeys(["a", "b", "difference", "low", "high", "se", "df"])
        none = {"clusters": 0, "p_value": None, "method": None, "detectable": None}
        return {"items": 0, **nothing, **none, "wins": 0, "losses": 0, "ties": 0}
    a, b = pairs["a"], pairs["b"]
    wins, losses = int((b > a).sum()), int((b < a).sum())
    has_clusters = "cluster" in pairs.columns
    own = pairs["cluster"].to_numpy() if has_clusters else None
    found = clusters.paired_difference((b - a).to_numpy(), own, level)
    p_value, method = found.p_value, "cluster-t" if has_clusters else "paired-t"
    is_share = bool(pairs["single"].all()) and all(bool(((side == 0) | (side == 1)).all()) for side in (a, b))
    if is_share and not has_clusters:
        p_value, method = stats.mcnemar(losses, wins)
    low, high = found.interval or (None, None)
    if low is not None and high is not None and all(bool(side.is_between(0, 1).all()) for side in (a, b)):
        low, high = max(-1.0, low), min(1.0, high)  # with very few clusters t's interval is wider than what is possible
    return {
        "items": pairs.height, "a": a.mean(), "b": b.mean(), "difference": found.mean, "low": low, "high": high,
        "se": found.se, "df": found.df, "clusters": found.clusters, "p_value": p_value,
        "method": None if p_value is None else method, "detectable": power.detectable_from_se(found.se, level=level),
        "wins": wins, "losses": losses, "ties": pairs.height - wins - losses,
    }  # fmt: skip


def agreement_on(
    one: pl.DataFrame,
    two: pl.DataFrame,
    columns: Sequence[str],
    *,
    item: str = "id",
    level: float = stats.LEVEL,
    cluster: str | None = None,
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """How far two frames have the same values of ``columns`` for the same items, row by row: ``level``, ``cluster``, and
    ``agreement``, of each column as in :func:`compare`, also as to ``by``. Rows where either side has none are left out."""
    cluster_of = None if cluster is None else _clusters(one if cluster in one.columns else two, item, cluster)
    found = [(name, _agreement_of(one, two, item, by, name, cluster_of, level)) for name in columns]
    return {"level": level, "cluster": cluster, "agreement": [{"on": name, **each} for name, each in found if each]}


def _agreement(
    one: pl.DataFrame,
    two: pl.DataFrame,
    item: str,
    by: Sequence[str],
    name: str,
    cluster_of: pl.DataFrame | None,
    level: float,
) -> dict[str, Any] | None:
    column, on = f"{_ANSWERED}{name}", "answer"
    if not (column in one.columns and column in two.columns):
        column, on = f"{_PREFIX}{name}", "score"
        values = pl.concat([frame[column].cast(pl.Float64).drop_nulls() for frame in (one, two)])
        if not bool(((values == 0) | (values == 1)).all()):
            return None
    found = _agreement_of(one, two, item, by, column, cluster_of, level)
    return None if found is None else {"on": on, **found}


def _agreement_of(
    one: pl.DataFrame,
    two: pl.DataFrame,
    item: str,
    by: Sequence[str],
    column: str,
    cluster_of: pl.DataFrame | None,
    level: float,
) -> dict[str, Any] | None:
    """How far both sides have the same label, row by row: of several samples the first with the first, and so on."""
    points = _points_of(one, two, by)
    sides = []
    for frame, point in zip((one, two), points, strict=True):
        labels = extract.as_texts(frame[column]).alias("label")
        side = pl.DataFrame([frame[item].cast(pl.String).alias("item"), labels, point])
        sides.append(side.with_columns(nth=pl.int_range(pl.len()).over("item", "point")).drop_nulls())
    pairs = sides[0].join(sides[1], on=["item", "point", "nth"], suffix="_b", maintain_order="left")
    if cluster_of is not None:
        cluster_of = cluster_of.with_columns(pl.col("item").cast(pl.String))
        pairs = pairs.join(cluster_of, on="item", how="left", maintain_order="left")
    own = pairs["item"].hash(1) if cluster_of is None else pairs["cluster"]
    first, second = (pairs[each].hash(0).to_numpy() for each in ("label", "label_b"))
    found = agreement.cohen(first, second, own.to_numpy(), level)
    if found is None:
        return None
    low, high = found.share_interval or (None, None)
    kappa_low, kappa_high = found.interval or (None, None)
    return {
        "rows": found.rows, "share": found.share, "low": low, "high": high,
        "kappa": found.coefficient, "kappa_low": kappa_low, "kappa_high": kappa_high,
    }  # fmt: skip


def _points_of(one: pl.DataFrame, two: pl.DataFrame, by: Sequence[str]) -> tuple[pl.Series, pl.Series]:
    """The sweep point of each row, as a text, by those columns of ``by`` of which the two sides have some value in common: where
    they have none, as with one model on one side and another on the other, it is the sides that differ in it."""
    common = [name for name in by if name in one.columns and name in two.columns]
    texts = [(extract.as_texts(one[name]), extract.as_texts(two[name])) for name in common]
    shared = [pair for pair in texts if set(pair[0].unique()) & set(pair[1].unique())]
    return _told_apart(one, [a for a, _ in shared]), _told_apart(two, [b for _, b in shared])


def _told_apart(frame: pl.DataFrame, columns: Sequence[pl.Series]) -> pl.Series:
    """For each row a text of its own values of ``columns``."""
    if not columns:
        return pl.repeat("", frame.height, eager=True).alias("point")
    named = pl.DataFrame([column.alias(str(at)) for at, column in enumerate(columns)])
    return named.select(pl.struct(pl.all()).struct.json_encode().alias("point")).to_series()


def _is_share(values: pl.Series) -> bool:
    """Whether each value is right or wrong, so that their mean is a share."""
    return bool(((values == 0) | (values == 1)).all())


def _flipped(pairs: pl.DataFrame, name: str) -> pl.DataFrame:
    difference = (pl.col("b") - pl.col("a")).abs()
    changed = pairs.filter(difference != 0).sort(difference, descending=True, maintain_order=True)
    return changed.select(pl.lit(name).alias("score"), "item", "a", "b")


def _with_answers(
    flips: pl.DataFrame, one: pl.DataFrame, two: pl.DataFrame, item: str, by: Sequence[str], show: Sequence[str]
) -> pl.DataFrame:
    """The items that changed by one score, with the answers of both sides beside them: of several rows the first that changed
    as the item did."""
    (name,) = flips["score"].unique() if flips.height else ("",)
    sides, shown = [], list[str]()
    for side, frame, point in zip("ab", (one, two), _points_of(one, two, by), strict=True):
        own = {f"{each}_{side}": frame[each] for each in show if each in frame.columns and each != item}
        shown += own
        if name:
            own["of_" + side] = frame[_PREFIX + name].cast(pl.Float64)
        rows = pl.DataFrame([frame[item].alias("item"), point, *(column.alias(as_) for as_, column in own.items())])
        rows = rows.with_columns(nth=pl.int_range(pl.len()).over("item", "point"))
        sides.append(rows.filter(pl.col("item").is_in(flips["item"].implode())))
    if not name:
        return flips.with_columns(pl.lit(None, sides["ab".index(each[-1])].schema[each]).alias(each) for each in shown)
    pairs = sides[0].join(sides[1], on=["item", "point", "nth"], maintain_order="left").join(flips, on="item")
    alike = (pl.col("of_b") - pl.col("of_a")).sign() != (pl.col("b") - pl.col("a")).sign()
    chosen = pairs.sort(alike.fill_null(True), maintain_order=True).unique("item", keep="first").select("item", *shown)
    return flips.join(chosen, on="item", how="left", maintain_order="left")


def _measured(frame: pl.DataFrame) -> dict[str, Any]:
    """Rows, tokens, cost and latency of a side; null where its frame has no such column."""
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    measures = [spending.total(name, numbers) for name in (*_TOKENS, "cost") if name in numbers]
    measures += [pl.col("latency_s").median()] if "latency_s" in numbers else []
    found: dict[str, Any] = frame.select(measures).row(0, named=True) if measures else {}
    tokens = {name: None if found.get(name) is None else int(found[name]) for name in _TOKENS}
    return {"rows": frame.height, **tokens, "cost": found.get("cost"), "latency_s": found.get("latency_s")}
