"""Standard errors where rows belong together: the samples of one item, the questions of one passage. Pure.

E. Miller, Adding Error Bars to Evals (arXiv 2411.00640, 2024), section 2.2, has the clustered standard error of a mean; with few
clusters that is too small. Here it is corrected as R. M. Bell & D. F. McCaffrey (Survey Methodology 28 (2002) 169-181) and
J. E. Pustejovsky & E. Tipton (J. Business & Economic Statistics 36 (2018) 672-683) do: each cluster's squared sum of residuals is
divided by the share of the rows that it does not have (CR2), and the degrees of freedom of the t distribution are
Satterthwaite's. For a mean both are closed forms. With clusters of one size these are the usual factor G/(G - 1) and G - 1
degrees of freedom for G clusters; with clusters of one row the classical standard error and t-test; and a few large clusters
among small ones count for what they are: little evidence. One cluster has no standard error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import stats, student_t


class Mean(NamedTuple):
    """A mean over rows, its standard error with degrees of freedom (``None`` with one cluster), rows and clusters."""

    mean: float
    se: float | None
    df: float | None
    n: int
    clusters: int


def mean_of(sums: npt.ArrayLike, counts: npt.ArrayLike) -> Mean:
    """``sums`` and ``counts`` have for each cluster the sum of its rows and their number, which is no 0."""
    total, rows = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    n = float(rows.sum())
    mean = float(total.sum() / n)
    if len(total) < 2:
        return Mean(mean, None, None, int(n), len(total))
    share = rows / n
    weight = 1 / (1 - share)
    residuals = total - rows * mean
    residuals[np.abs(residuals) < 1e-12 * max(1.0, float(np.abs(total).max()))] = 0  # rounding is no variation
    se = math.sqrt(float(np.sum(weight * residuals**2))) / n
    squares = share**2
    trace = float(squares.sum() + (weight * squares).sum() ** 2 - (weight**2 * squares**2).sum())
    return Mean(mean, se, round(1 / trace, 9), int(n), len(total))


def t_interval(found: Mean, level: float) -> stats.Interval | None:
    """The mean and ``level`` of t's distribution to both sides; ``None`` with one cluster."""
    if found.se is None or found.df is None:
        return None
    half = student_t.critical(level, found.df) * found.se
    return stats.Interval(found.mean - half, found.mean + half)


def wilson_interval(found: Mean, level: float) -> stats.Interval | None:
    """Wilson's interval of a share, with t's critical value and as many rows as independent ones would be worth the same.

    That effective number is p(1 - p) / se² (E. L. Korn & B. I. Graubard, Survey Methodology 24 (1998) 193-201; N. Dean &
    M. Pagano, J. Survey Statistics and Methodology 3 (2015) 484-503), never above that of the rows; where all rows are right, or
    all wrong, there is no variation to go by, and each cluster counts as one row. ``None`` with one cluster.
    """
    if found.se is None or found.df is None:
        return None
    variance = found.mean * (1 - found.mean)
    if variance <= 0:
        effective = float(found.clusters)
    else:
        effective = min(float(found.n), variance / found.se**2) if found.se else float(found.n)
    critical = student_t.critical(level, found.df)
    return stats.wilson(found.mean * effective, effective, level, critical)


class Difference(NamedTuple):
    """A mean difference with its standard error, interval and two-sided p-value, ``None`` where nothing varies."""

    mean: float
    se: float | None
    df: float | None
    clusters: int
    interval: stats.Interval | None
    p_value: float | None


def paired_difference(
    differences: npt.ArrayLike, clusters: npt.ArrayLike | None = None, level: float = stats.LEVEL
) -> Difference:
    """The mean of the differences between two sides, one for each item, with a t-test that it is 0.

    Miller (2024), section 4.2: items that both sides answered are paired, so that what is hard for both cancels out. ``clusters``
    has the cluster of each item, as any integers; without it each item is one, and the test is the classical paired t-test.
    With fewer than two clusters, or where all differences are the same, there is no interval and no p-value (but 1 if all are 0).
    """
    given = np.asarray(differences, np.float64)
    if clusters is None:
        sums, counts = given, np.ones(len(given))
    else:
        index = np.unique(np.asarray(clusters), return_inverse=True)[1]
        sums, counts = np.bincount(index, given).astype(np.float64), np.bincount(index).astype(np.float64)
    found = mean_of(sums, counts)
    if found.se is None or found.df is None or found.se == 0:
        return Difference(found.mean, None, None, found.clusters, None, 1.0 if not given.any() else None)
    p_value = student_t.two_sided_p(found.mean / found.se, found.df)
    return Difference(found.mean, found.se, found.df, found.clusters, t_interval(found, level), p_value)
