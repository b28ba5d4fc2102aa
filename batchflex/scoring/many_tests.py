"""Correction of p-values where several comparisons are made at once. Pure; statsmodels' ``multipletests`` agrees (tests).

A p-value of ``None`` (nothing to test) stays ``None`` and does not count. ``family`` is the number of all comparisons that could
have been made, where that is more than those that are given: the others are taken as the least significant, which makes the
adjusted p-values as large as they can be.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None], family: int | None = None) -> list[float | None]:
    """Adjusted p-values that bound the probability of even one false finding among all, however the tests depend on each
    other. S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70."""
    found: list[float | None] = [None] * len(p_values)
    order, of = _order(p_values, family)
    highest = 0.0
    for rank, (at, p) in enumerate(order):
        highest = max(highest, min(1.0, (of - rank) * p))
        found[at] = highest
    return found


def benjamini_hochberg(p_values: Sequence[float | None], family: int | None = None) -> list[float | None]:
    """Adjusted p-values that bound the expected share of false ones among the findings, for independent or positively dependent
    tests. Y. Benjamini & Y. Hochberg, J. Royal Statistical Society B 57 (1995) 289-300."""
    found: list[float | None] = [None] * len(p_values)
    order, of = _order(p_values, family)
    lowest = 1.0
    for rank, (at, p) in reversed([*enumerate(order, 1)]):
        lowest = min(lowest, p * of / rank)
        found[at] = lowest
    return found


def _order(p_values: Sequence[float | None], family: int | None) -> tuple[list[tuple[int, float]], int]:
    known = [(at, p) for at, p in enumerate(p_values) if p is not None]
    return sorted(known, key=lambda pair: pair[1]), max(len(known), family or 0)
