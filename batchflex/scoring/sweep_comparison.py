"""How each sweep point differs from one of them, item by item, with p-values corrected for how many comparisons that is. Pure.

The reference is the baseline that a score names; each other point is one comparison with it. Without a baseline it is the point
with the highest mean. As that is picked by the same data, any two points could have come to be compared, so that the correction
is for all pairs of points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from ..core import text_of
from . import comparison, many_tests

_SHOWN = 6
_FIELDS = ("items", "difference", "low", "high", "se", "df", "clusters", "p_value", "method", "detectable")


class SweepComparison(NamedTuple):
    """``described`` says with what all points are compared, ``versus`` has the difference of each; ``None`` if there is none.
    ``why`` says why they are not compared with a baseline that was asked for."""

    described: dict[str, Any] | None
    versus: list[dict[str, Any] | None]
    why: str | None = None


def compare(
    points: Sequence[Mapping[str, Any]],
    means: Sequence[float | None],
    items: Sequence[pl.DataFrame],
    baseline: Mapping[str, Any] | None,
    level: float,
) -> SweepComparison:
    """``points`` are the values of each point, ``means`` its score; ``items`` have for each point ``item``, ``total``, ``n`` and
    maybe ``cluster``. Differences are the point's minus the reference's.

    Unless just one point has the values of the ``baseline``, and a score, nothing is compared.
    """
    scored = [at for at, mean in enumerate(means) if mean is not None]
    nothing = SweepComparison(None, [None] * len(points))
    if baseline is not None:
        fit = fitting(points, baseline)
        if not fit:
            return nothing._replace(why=f"no row is of the baseline ({_named(baseline)})")
        if len(fit) > 1:
            return nothing._replace(why=not_one(points, baseline, len(fit)))
        reference = fit[0]
        if means[reference] is None:
            return nothing._replace(why=f"no row of the baseline ({_named(baseline)}) has a score")
        if len(points) == 1:
            return nothing
        family = len(scored) - 1
    elif len(scored) > 1:
        reference = max(scored, key=lambda at: (means[at], -at))
        family = len(scored) * (len(scored) - 1) // 2
    else:
        return nothing
    versus: list[dict[str, Any] | None] = [None] * len(points)
    for at in scored:
        if at != reference:
            found = comparison.compared(_pairs(items[reference], items[at]), level)
            versus[at] = {name: found[name] for name in _FIELDS}
    p_values = [None if each is None else each["p_value"] for each in versus]
    corrected = zip(many_tests.holm(p_values, family), many_tests.benjamini_hochberg(p_values, family), strict=True)
    for each, (p_holm, p_bh) in zip(versus, corrected, strict=True):
        if each is not None:
            each |= {"p_holm": p_holm, "p_bh": p_bh}
    chosen = "best" if baseline is None else "baseline"
    return SweepComparison({"with": chosen, "point": reference, "family": family}, versus)


def fitting(points: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> list[int]:
    """The numbers of the points that have the values of the baseline, however numbers are written."""
    wanted = {name: text_of(value) for name, value in baseline.items()}
    return [at for at, p in enumerate(points) if all(text_of(p.get(name)) == text for name, text in wanted.items())]


def not_one(points: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any], number: int) -> str:
    """Why so many points are no baseline."""
    known = "; ".join(",".join(f"{name}={text_of(value)}" for name, value in p.items()) for p in points[:_SHOWN])
    more = "; …" if len(points) > _SHOWN else ""
    return f"the baseline ({_named(baseline)}) has to be one sweep point, and is {number or 'none'}; there are: {known}{more}"


def _named(baseline: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {text_of(value)}" for name, value in baseline.items()) or "nothing"


def _pairs(one: pl.DataFrame, two: pl.DataFrame) -> pl.DataFrame:
    """The items that both points have, as :func:`comparison.compared` takes them."""
    own = ["cluster"] if "cluster" in one.columns else []
    both = one.join(two.select("item", "total", "n"), on="item", suffix="_b", maintain_order="left")
    single = (pl.col("n") == 1) & (pl.col("n_b") == 1)
    a, b = pl.col("total") / pl.col("n"), pl.col("total_b") / pl.col("n_b")
    return both.select("item", *own, a=a, b=b, single=single)
