"""How far two runs, or the samples of one, give the same labels: share, kappa and alpha with intervals. Pure.

Intervals of kappa and alpha are from a jackknife that leaves out one cluster at a time (an item with its samples, or the items
of a passage): B. Efron & C. Stein, Annals of Statistics 9 (1981) 586-596, with t's distribution of one degree of freedom less
than there are clusters. They are ``None`` where nothing varies from cluster to cluster.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import clusters as clustered, stats, student_t

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


class Agreement(NamedTuple):
    """``share`` of equal pairs, with its interval; and agreement beyond chance, 1 if full and 0 as chance gives: ``coefficient``,
    ``None`` if only one label ever occurs. ``rows`` are those compared."""

    share: float
    share_interval: stats.Interval | None
    coefficient: float | None
    interval: stats.Interval | None
    rows: int


def cohen(
    a: npt.ArrayLike, b: npt.ArrayLike, clusters: npt.ArrayLike | None = None, level: float = stats.LEVEL
) -> Agreement | None:
    """Two labels for each row, as any integers: Cohen's kappa. J. Cohen, Educational and Psychological Measurement 20 (1960)
    37-46. ``clusters`` has the cluster of each row; without it each is its own. ``None`` without rows."""
    first, second = np.asarray(a), np.asarray(b)
    n = len(first)
    if not n:
        return None
    codes = np.unique(np.concatenate([first, second]), return_inverse=True)[1].astype(np.int64)
    one, two, width = codes[:n], codes[n:], int(codes.max()) + 1
    group = _numbered(clusters, n)
    groups = int(group.max()) + 1
    equal = (one == two).astype(np.float64)
    of_one, of_two = np.bincount(one, minlength=width), np.bincount(two, minlength=width)
    product, rows = float(of_one @ of_two), np.bincount(group, minlength=groups)
    same = np.bincount(group, equal, groups)
    shared = _shared(group * width + one, group * width + two, width, groups)
    products = product - np.bincount(group, of_two[one], groups) - np.bincount(group, of_one[two], groups) + shared

    def kappa(agreeing: Floats, chance: Floats, of: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = chance / of**2
            return np.asarray((agreeing / of - expected) / (1 - expected))

    whole = float(kappa(np.array([equal.sum()]), np.array([product]), np.array([float(n)]))[0])
    without = kappa(equal.sum() - same, products, (n - rows).astype(np.float64))
    found = clustered.mean_of(same, rows)
    return Agreement(found.mean, _share_interval(found, level, is_binary=True), *_jackknifed(whole, without, level), n)


def krippendorff(
    items: npt.ArrayLike, answers: npt.ArrayLike, clusters: npt.ArrayLike | None = None, level: float = stats.LEVEL
) -> Agreement | None:
    """Several labels for some items, one entry a row, all as any integers: Krippendorff's alpha for nominal data.

    K. Krippendorff, Content Analysis (2004), chapter 11. Items with one row say nothing and are left out; ``share`` is the mean
    over items of their share of equal pairs. ``clusters`` has the cluster of each row; without it each item is one.
    ``None`` if no item has two rows.
    """
    given = np.unique(np.asarray(items), return_inverse=True)[1]
    kept = np.bincount(given)[given] > 1
    if not kept.any():
        return None
    item = np.unique(given[kept], return_inverse=True)[1].astype(np.int64)
    code = np.unique(np.asarray(answers)[kept], return_inverse=True)[1].astype(np.int64)
    group = item if clusters is None else _numbered(np.asarray(clusters)[kept], len(item))
    n, width, groups = len(item), int(code.max()) + 1, int(group.max()) + 1
    rows = np.bincount(item).astype(np.float64)
    of_item = np.zeros(len(rows), np.int64)
    of_item[item] = group
    cells, times = np.unique(item * width + code, return_counts=True)
    squares = np.bincount(cells // width, times.astype(np.float64) ** 2, len(rows))
    unequal = np.bincount(of_item, (rows**2 - squares) / (rows - 1), groups)
    labels = np.bincount(code, minlength=width).astype(np.float64)
    total = float((labels**2).sum())
    own = _shared(group * width + code, group * width + code, width, groups)
    totals = total - 2 * np.bincount(group, labels[code], groups) + own
    left = n - np.bincount(group, minlength=groups).astype(np.float64)

    def alpha(differing: Floats, squared: Floats, of: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(1 - (of - 1) * differing / (of**2 - squared))

    whole = float(alpha(np.array([unequal.sum()]), np.array([total]), np.array([float(n)]))[0])
    without = alpha(unequal.sum() - unequal, totals, left)
    pairs = (squares - rows) / (rows * (rows - 1))
    found = clustered.mean_of(np.bincount(of_item, pairs, groups), np.bincount(of_item, minlength=groups))
    interval = _share_interval(found, level, is_binary=bool(rows.max() == 2))
    return Agreement(found.mean, interval, *_jackknifed(whole, without, level), n)


def _numbered(clusters: npt.ArrayLike | None, n: int) -> Codes:
    if clusters is None:
        return np.arange(n)
    return np.unique(np.asarray(clusters), return_inverse=True)[1].astype(np.int64)


def _shared(one: Codes, two: Codes, width: int, groups: int) -> Floats:
    """For each group the sum over labels of how often it occurs on the one side times how often on the other; both are cells,
    ``group * width + label``."""
    cells, times = np.unique(one, return_counts=True)
    others, other_times = np.unique(two, return_counts=True)
    both, at, other_at = np.intersect1d(cells, others, assume_unique=True, return_indices=True)
    return np.bincount(both // width, (times[at] * other_times[other_at]).astype(np.float64), groups).astype(np.float64)


def _share_interval(found: clustered.Mean, level: float, *, is_binary: bool) -> stats.Interval | None:
    if found.clusters == found.n and is_binary:
        return stats.wilson(round(found.mean * found.n), found.n, level)
    return clustered.wilson_interval(found, level)


def _jackknifed(whole: float, without: Floats, level: float) -> tuple[float | None, stats.Interval | None]:
    """``None`` where chance alone gives full agreement. ``without`` is the coefficient with each cluster left out."""
    if not math.isfinite(whole):
        return None, None
    kept = without[np.isfinite(without)]
    groups = len(kept)
    if groups < 2:
        return whole, None
    se = math.sqrt((groups - 1) / groups * float(np.sum((kept - kept.mean()) ** 2)))
    if se < 1e-12:
        return whole, None
    half = student_t.critical(level, groups - 1) * se
    return whole, stats.Interval(max(-1.0, whole - half), min(1.0, whole + half))
