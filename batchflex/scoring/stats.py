"""Statistics of scores: intervals, pass@k, agreement, confusion, and tests of a difference. Pure; arrays in, numbers out.

**Bootstrap.** Items are resampled, not rows: the samples of one item are not independent of each other. An item counts with
the sum and the number of its scores, so that the work is one matrix product. More than :data:`MOST_CLUSTERS` items are
put into that many random groups of nearly equal size, and the groups are resampled: the variance of the mean is estimated
as well (within some 1/√(2·4,000) ≈ 1 %), and a million items take no longer than ten thousand.
Seeds are fixed: the same scores give the same interval on every machine.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2_000
MOST_CLUSTERS = 4_000
_SEED = 20_240_229
_BLOCK = 250  # resamples at once: 8 MB of weights
_MOST_EXACT = 1_000


class Interval(NamedTuple):
    low: float
    high: float


def wilson(successes: float, n: float, level: float = LEVEL, critical: float | None = None) -> Interval:
    """Wilson's score interval for a share of ``n`` independent trials, without continuity correction.

    E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212. Never leaves 0..1, and is no point at 0 and ``n`` successes.
    ``critical`` takes the place of the normal distribution's value for ``level``.
    """
    z = statistics.NormalDist().inv_cdf((1 + level) / 2) if critical is None else critical
    share, z2 = successes / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(
        0.0 if successes == 0 else max(0.0, middle - half), 1.0 if successes == n else min(1.0, middle + half)
    )


def bootstrap_mean(sums: npt.ArrayLike, counts: npt.ArrayLike | None = None, level: float = LEVEL) -> Interval | None:
    """Percentile interval of a mean over rows that belong together by item (the cluster bootstrap).

    ``sums`` has an entry for each item, the sum of its rows, ``counts`` how many rows those are (1 each, if left out).
    ``None`` with fewer than two items. With few items (below some 20) percentile intervals are too narrow.
    B. Efron & R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    sums, counts = _clusters(sums, counts)
    if len(sums) < 2:
        return None
    return _percentiles(_resampled(sums, counts, RESAMPLES), level)


def _clusters(sums: npt.ArrayLike, counts: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    """At most :data:`MOST_CLUSTERS` of them."""
    total = np.asarray(sums, np.float64)
    rows = np.ones(len(total)) if counts is None else np.asarray(counts, np.float64)
    if len(total) <= MOST_CLUSTERS:
        return total, rows
    group = np.random.default_rng(_SEED).permutation(len(total)) % MOST_CLUSTERS
    grouped = (np.bincount(group, each, MOST_CLUSTERS).astype(np.float64) for each in (total, rows))
    return next(grouped), next(grouped)


def _resampled(sums: Floats, counts: Floats, resamples: int) -> Floats:
    weights = _weights(len(sums), resamples)
    means = np.empty(resamples)
    both = np.column_stack([sums, counts])
    for begin in range(0, resamples, _BLOCK):
        block = weights[begin : begin + _BLOCK].astype(np.float64) @ both
        means[begin : begin + _BLOCK] = block[:, 0] / block[:, 1]
    return means


@functools.lru_cache(maxsize=2)
def _weights(n: int, resamples: int) -> npt.NDArray[np.uint16]:
    """How often each of ``n`` clusters is drawn in each resample; scores with the same number of clusters share these."""
    random = np.random.default_rng(_SEED)
    drawn = np.empty((resamples, n), np.uint16)
    for begin in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - begin)
        at = random.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        drawn[begin : begin + size] = np.bincount(at.ravel(), minlength=size * n).reshape(size, n)
    return drawn


def _percentiles(means: Floats, level: float) -> Interval:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


# ----------------------------------------------------------------------------------------------- several samples


def pass_at(k: int, samples: npt.ArrayLike, passed: npt.ArrayLike) -> Floats:
    """For each item the probability that at least one of ``k`` of its samples passes: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of M. Chen et al., Evaluating Large Language Models Trained on Code (arXiv 2107.03374, 2021),
    equation 1. ``samples`` (n) and ``passed`` (c) have an entry for each item, and no n may be below ``k``.
    """
    n, c = np.asarray(samples, np.float64), np.asarray(passed, np.float64)
    none_passes = np.ones(len(n))
    for drawn in range(k):
        none_passes *= np.maximum(n - c - drawn, 0) / (n - drawn)
    return 1 - none_passes


def fleiss_kappa(items: npt.ArrayLike, answers: npt.ArrayLike) -> float | None:
    """Agreement between the samples of each item beyond chance: 1 for full agreement, 0 for what chance gives.

    One entry a row: which item it belongs to and which category was answered, as any integers. Items with one row say
    nothing and are left out. J. L. Fleiss, Psychological Bulletin 76 (1971) 378-382; for items with unequal numbers of rows
    each item's own pairs are counted, and chance is taken from all rows. ``None`` if there is no item with two rows, or
    only one category was ever answered, where agreement is no evidence of anything.
    """
    item = np.unique(np.asarray(items), return_inverse=True)[1]
    category = np.unique(np.asarray(answers), return_inverse=True)[1]
    rows = np.bincount(item)
    several = rows[item] > 1
    item, category = item[several], category[several]
    if not len(item):
        return None
    width = int(category.max()) + 1
    cells, times = np.unique(item * width + category, return_counts=True)
    agreeing = np.bincount(cells // width, times * (times - 1), len(rows))
    at = rows > 1
    observed = float(np.mean(agreeing[: len(rows)][at] / (rows[at] * (rows[at] - 1))))
    shares = np.bincount(category) / len(category)
    expected = float(np.sum(shares**2))
    return None if expected >= 1 else (observed - expected) / (1 - expected)


# -------------------------------------------------------------------------------------------------------- labels


class Confusion(NamedTuple):
    """``matrix[i][j]`` is how often label i was expected and label j answered. What has a zero below it is ``None``.

    ``macro_f1`` is the mean of ``f1`` over the labels that were expected at least once.
    """

    matrix: list[list[int]]
    precision: list[float | None]
    recall: list[float | None]
    f1: list[float | None]
    support: list[int]
    macro_f1: float | None


def confusion(expected: npt.ArrayLike, answered: npt.ArrayLike, labels: int) -> Confusion:
    """Of label numbers below ``labels``, one entry a row. F1 is 2·TP / (2·TP + FP + FN)."""
    cells = np.asarray(expected, np.int64) * labels + np.asarray(answered, np.int64)
    matrix = np.bincount(cells, minlength=labels * labels).reshape(labels, labels)
    right, support, given = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    f1 = [_ratio(2 * hit, there + said) for hit, there, said in zip(right, support, given, strict=True)]
    counted = [score for score, there in zip(f1, support, strict=True) if there and score is not None]
    return Confusion(
        matrix.tolist(),
        [_ratio(hit, said) for hit, said in zip(right, given, strict=True)],
        [_ratio(hit, there) for hit, there in zip(right, support, strict=True)],
        f1,
        support.tolist(),
        sum(counted) / len(counted) if counted else None,
    )


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


# ----------------------------------------------------------------------------------------------------- two sides


class Test(NamedTuple):
    p_value: float
    method: Literal["mcnemar-exact", "mcnemar"]


def mcnemar(one: int, two: int) -> Test:
    """Whether two systems differ that were both judged right or wrong on the same items, two-sided.

    ``one`` and ``two`` count the discordant pairs: items that only one of the systems has right. Up to 1,000
    of them the binomial distribution is used as it is; beyond, where both agree to three digits, chi² with one degree of
    freedom and Edwards' continuity correction. Q. McNemar, Psychometrika 12 (1947) 153-157; A. L. Edwards, Psychometrika 13
    (1948) 185-187.
    """
    n = one + two
    if n <= _MOST_EXACT:
        tail = sum(math.comb(n, i) for i in range(min(one, two) + 1))
        return Test(min(1.0, 2 * tail / 2**n), "mcnemar-exact")
    statistic = max(abs(one - two) - 1, 0) ** 2 / n
    return Test(math.erfc(math.sqrt(statistic / 2)), "mcnemar")


def ks(samples: int) -> Sequence[int]:
    """The k for which pass@k is computed: 1, 2, 4, 8 … and the number of samples."""
    return sorted({*(2**i for i in range(samples.bit_length()) if 2**i <= samples), samples})
