"""Clustered errors, t, corrected p-values, power and agreement: against scipy, statsmodels, matrices and published values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from batchflex.scoring import agreement, clusters, many_tests, power, stats, student_t
from tests.support.lazily import Lazily

scipy_stats, linalg = Lazily("scipy.stats"), Lazily("scipy.linalg")
api, multitest, sm_power, inter_rater = (
    Lazily(f"statsmodels.{name}") for name in ("api", "stats.multitest", "stats.power", "stats.inter_rater")
)

# ------------------------------------------------------------------------------------------------------ Student's t


@given(st.floats(-60, 60), st.floats(0.3, 1e5))
def test_t_agrees_with_scipy(t: float, df: float) -> None:
    assert student_t.two_sided_p(t, df) == pytest.approx(2 * scipy_stats.t.sf(abs(t), df), rel=1e-8, abs=1e-14)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("df", [0.7, 1, 2.5, 11, 130, 999, 1000, 54_321, 1e9])
def test_critical_values_agree_with_scipy(level: float, df: float) -> None:
    assert student_t.critical(level, df) == pytest.approx(scipy_stats.t.ppf((1 + level) / 2, df), rel=1e-9)


# --------------------------------------------------------------------------------------------------------- clusters


def grouped(values: Any, group: Any) -> clusters.Mean:
    index = np.unique(group, return_inverse=True)[1]
    return clusters.mean_of(np.bincount(index, values), np.bincount(index))


def test_clusters_of_one_size_are_those_of_statsmodels() -> None:
    random = np.random.default_rng(1)
    group = np.repeat(np.arange(12), 5)
    values = random.normal(size=60) + random.normal(size=12)[group]
    fit = api.OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": group}, use_t=True)
    found = grouped(values, group)
    assert (found.mean, found.se) == pytest.approx((fit.params[0], fit.bse[0]))
    assert found.df == pytest.approx(11)
    assert clusters.t_interval(found, 0.95) == pytest.approx(fit.conf_int()[0])
    plain = grouped(values, np.arange(60))
    assert plain.se == pytest.approx(values.std(ddof=1) / math.sqrt(60)) and found.se > 1.2 * plain.se


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.integers(0, 99))
def test_clusters_of_any_sizes_are_bell_and_mccaffreys(sizes: list[int], seed: int) -> None:
    """CR2 and Satterthwaite's degrees of freedom as matrices, as these are defined."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    n = len(group)
    values = np.random.default_rng(seed).normal(size=n)
    residual_maker = np.eye(n) - np.full((n, n), 1 / n)
    meat, columns = 0.0, []
    for g in range(len(sizes)):
        own = group == g
        block = residual_maker[np.ix_(own, own)]
        vectors, spectrum, _ = np.linalg.svd(block)
        root = vectors @ np.diag([1 / math.sqrt(x) if x > 1e-12 else 0 for x in spectrum]) @ vectors.T
        scores = root.sum(axis=0)
        meat += float(scores @ (values - values.mean())[own]) ** 2
        columns.append(residual_maker[:, own] @ scores)
    spread = np.array(columns) @ np.array(columns).T
    found = grouped(values, group)
    assert found.se == pytest.approx(math.sqrt(meat) / n)
    assert found.df == pytest.approx(np.trace(spread) ** 2 / np.trace(spread @ spread))


def test_few_clusters_of_which_one_is_large_say_little() -> None:
    alike = clusters.mean_of([3, 5, 4, 6], [10, 10, 10, 10])
    unlike = clusters.mean_of([3, 5, 4, 600], [10, 10, 10, 1000])
    assert alike.df == pytest.approx(3) and unlike.df is not None and unlike.df < 1.1


def test_one_cluster_and_no_variation() -> None:
    one = clusters.mean_of([7], [10])
    assert (one.mean, one.se, one.df, one.clusters) == (0.7, None, None, 1)
    assert clusters.t_interval(one, 0.95) is None and clusters.wilson_interval(one, 0.95) is None
    right = clusters.mean_of([10, 5, 7], [10, 5, 7])
    interval = clusters.wilson_interval(right, 0.95)
    assert right.se == 0 and interval is not None and interval.high == 1 and 0.1 < interval.low < 0.6


def test_the_interval_of_a_share_is_wilsons_where_rows_are_independent() -> None:
    rows = np.array([1.0] * 700 + [0.0] * 300)
    found = clusters.wilson_interval(clusters.mean_of(rows, np.ones(1000)), 0.95)
    assert found == pytest.approx(stats.wilson(700, 1000), abs=2e-4)


def test_clustered_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Eight passages of unequal size, whose questions share what makes them hard; by 2,000 draws."""
    random = np.random.default_rng(5)
    sizes = np.array([2, 3, 5, 5, 8, 10, 12, 20])
    group = np.repeat(np.arange(8), sizes)
    hits = naive = 0
    for _ in range(2_000):
        values = random.normal(0, 0.5, 8)[group] + random.normal(size=len(group))
        low, high = clusters.t_interval(grouped(values, group), 0.95) or (0, 0)
        hits += low <= 0 <= high
        low, high = clusters.t_interval(grouped(values, np.arange(len(group))), 0.95) or (0, 0)
        naive += low <= 0 <= high
    assert 0.92 < hits / 2_000 < 0.99 and naive / 2_000 < 0.85


def test_where_nearly_all_is_right_wilsons_interval_holds_the_truth_and_ts_does_not() -> None:
    random = np.random.default_rng(6)
    hits = plain = 0
    for _ in range(1_000):
        found = clusters.mean_of(random.binomial(10, random.beta(0.97, 0.03, 20)), np.full(20, 10))
        low, high = clusters.wilson_interval(found, 0.95) or (0, 0)
        hits += low <= 0.97 <= high
        low, high = clusters.t_interval(found, 0.95) or (0, 0)
        plain += low <= 0.97 <= high
    assert hits > 930 and plain < 800


# ------------------------------------------------------------------------------------------------------- two sides


def test_a_paired_difference_is_scipys_t_test() -> None:
    differences = np.random.default_rng(8).normal(0.1, 1, size=40)
    found = clusters.paired_difference(differences)
    theirs = scipy_stats.ttest_1samp(differences, 0)
    assert (found.p_value, found.df) == pytest.approx((theirs.pvalue, 39))
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval()))


def test_a_clustered_difference_is_that_of_statsmodels() -> None:
    random = np.random.default_rng(9)
    group = np.repeat(np.arange(15), 4)
    differences = random.normal(0.2, 1, size=60) + random.normal(size=15)[group]
    fit = api.OLS(differences, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": group}, use_t=True)
    found = clusters.paired_difference(differences, group)
    assert (found.se, found.p_value) == pytest.approx((fit.bse[0], fit.pvalues[0]))
    assert found.clusters == 15


def test_what_does_not_vary_has_no_test() -> None:
    assert clusters.paired_difference(np.zeros(20)).p_value == 1
    assert clusters.paired_difference([0.3]) == (0.3, None, None, 1, None, None)
    assert clusters.paired_difference([0.3, 0.3, 0.3]).p_value is None
    assert clusters.paired_difference([0.3, 0.1], [7, 7]).p_value is None


# ------------------------------------------------------------------------------------------------ many comparisons

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize(
    "p_values", [[0.3], [0.01, 0.04, 0.03, 0.2], [0.5, 0.5, 0.001], [0.02] * 7, [1.0, 0.0, 0.9, 1e-9]]
)
def test_corrections_agree_with_statsmodels(p_values: list[float]) -> None:
    for ours, name in ((many_tests.holm, "holm"), (many_tests.benjamini_hochberg, "fdr_bh")):
        assert ours(p_values) == pytest.approx(multitest.multipletests(p_values, method=name)[1])


@given(P_VALUES, st.lists(st.floats(0, 1), max_size=6))
def test_a_larger_family_is_never_too_bold(known: list[float], others: list[float]) -> None:
    """Whatever the comparisons that are not made would have given, Holm's p-values of those that are would be no larger."""
    bounded = many_tests.holm(known, len(known) + len(others))
    whole = many_tests.holm([*known, *others])[: len(known)]
    assert all(b is not None and w is not None and b >= w - 1e-12 for b, w in zip(bounded, whole, strict=True))


def test_what_has_no_p_value_does_not_count() -> None:
    assert many_tests.holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert many_tests.benjamini_hochberg([None, 0.03]) == [None, 0.03]
    assert many_tests.holm([]) == [] and many_tests.holm([None], 3) == [None]


# ------------------------------------------------------------------------------------------------------------ power


@pytest.mark.parametrize(("sd", "difference", "chance"), [(1.0, 0.1, 0.8), (0.4, 0.02, 0.9), (2.0, 0.3, 0.5)])
def test_rows_needed_are_those_of_statsmodels(sd: float, difference: float, chance: float) -> None:
    needed = power.needed(sd**2, difference, power=chance)
    theirs = sm_power.TTestPower().solve_power(difference / sd, alpha=0.05, power=chance)
    assert needed == pytest.approx(theirs, abs=3)
    assert power.detectable(sd**2, needed, power=chance) == pytest.approx(difference, rel=1e-2)
    assert power.detectable_from_se(sd / math.sqrt(needed), power=chance) == pytest.approx(difference, rel=1e-2)


def test_the_plan_of_the_paper() -> None:
    """Miller (2024), section 5: ω² = 1/9, σ² = 1/6 on each side, K = 1 and a difference of 3 points take about 3,900 rows by this
    formula, and with many samples about 1,000."""
    spread = power.Spread(1 / 9, 2 / 6)
    assert power.needed(spread.variance(1), 0.03) == math.ceil((1.959964 + 0.841621) ** 2 * (4 / 9) / 0.0009)
    assert power.needed(spread.variance(10_000), 0.03) == pytest.approx(969, abs=1)
    assert power.of_shares(0.5).variance(4) == 0.5
    assert power.of_shares(0.8, 0.5).variance(1) == pytest.approx(0.16)
    assert power.detectable(0.5, 0) is None and power.detectable_from_se(None) is None


# -------------------------------------------------------------------------------------------------------- agreement


def test_cohens_kappa_is_that_of_statsmodels() -> None:
    random = np.random.default_rng(3)
    a = random.integers(0, 4, 400)
    b = np.where(random.random(400) < 0.7, a, random.integers(0, 4, 400))
    table = np.zeros((4, 4))
    np.add.at(table, (a, b), 1)
    theirs = inter_rater.cohens_kappa(table)
    found = agreement.cohen(a, b)
    assert found is not None and found.interval is not None
    assert found.coefficient == pytest.approx(theirs.kappa)
    assert (found.interval.low, found.interval.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=0.004)
    assert (found.share, found.rows) == (float(np.mean(a == b)), 400)
    assert found.share_interval == stats.wilson(int((a == b).sum()), 400)


# K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), part C: four observers, twelve units, nominal data,
# missing values; alpha = .743.
KRIPPENDORFF_2011 = ["111", "2223", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3"]


def test_alpha_is_the_published_one() -> None:
    rows = [(unit, int(label)) for unit, labels in enumerate(KRIPPENDORFF_2011) for label in labels]
    found = agreement.krippendorff([unit for unit, _ in rows], [label for _, label in rows])
    assert found is not None and found.interval is not None
    assert found.coefficient == pytest.approx(0.743, abs=5e-4)
    assert found.interval.low < 0.743 < found.interval.high <= 1
    assert found.rows == 40


@given(st.integers(0, 200), st.booleans())
def test_the_jackknife_leaves_out_one_cluster_at_a_time(seed: int, is_clustered: bool) -> None:
    random = np.random.default_rng(seed)
    items = np.repeat(np.arange(10), 3)
    labels = random.integers(0, 3, 30)
    own = items // 2 if is_clustered else items
    found = agreement.krippendorff(items, labels, own)
    left_out = [agreement.krippendorff(items[own != g], labels[own != g]) for g in np.unique(own)]
    left = np.array([each.coefficient for each in left_out if each and each.coefficient is not None])
    se = math.sqrt((len(left) - 1) / len(left) * np.sum((left - left.mean()) ** 2))
    assert found is not None and found.coefficient is not None
    half = student_t.critical(0.95, len(left) - 1) * se
    expected = (max(-1, found.coefficient - half), min(1, found.coefficient + half))
    assert found.interval == pytest.approx(expected)
    other = random.integers(0, 3, 30)
    kappa = agreement.cohen(labels, other, own)
    left_out = [agreement.cohen(labels[own != g], other[own != g]) for g in np.unique(own)]
    left = np.array([each.coefficient for each in left_out if each and each.coefficient is not None])
    half = student_t.critical(0.95, len(left) - 1) * math.sqrt(
        (len(left) - 1) / len(left) * np.sum((left - left.mean()) ** 2)
    )
    assert kappa is not None and kappa.coefficient is not None
    assert kappa.interval == pytest.approx((max(-1, kappa.coefficient - half), min(1, kappa.coefficient + half)))


def test_full_agreement_and_a_single_label() -> None:
    same = agreement.cohen([1, 2, 1, 2], [1, 2, 1, 2])
    assert same is not None and (same.share, same.coefficient, same.interval) == (1, 1, None)
    one = agreement.cohen([1, 1, 1], [1, 1, 1])
    assert one is not None and (one.share, one.coefficient) == (1, None)
    assert agreement.cohen([], []) is None
    assert agreement.krippendorff([1, 2, 3], [0, 0, 1]) is None
    alone = agreement.krippendorff([1, 1, 2], [0, 0, 1])
    assert alone is not None and (alone.share, alone.coefficient, alone.rows) == (1, None, 2)
