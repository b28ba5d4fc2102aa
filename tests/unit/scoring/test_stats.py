"""Statistics against published values, and against scipy and statsmodels on random data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from batchflex.scoring import stats
from tests.support.lazily import Lazily

scipy_stats = Lazily("scipy.stats")
contingency_tables, inter_rater, proportion = (
    Lazily(f"statsmodels.stats.{name}") for name in ("contingency_tables", "inter_rater", "proportion")
)

# ------------------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # R. G. Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998) 857-872,
    # table I, method 3 (Wilson's score interval without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert stats.wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 10_000), share=st.floats(0, 1), level=st.floats(0.5, 0.999))
def test_wilson_agrees_with_statsmodels(n: int, share: float, level: float) -> None:
    successes = round(n * share)
    low, high = stats.wilson(successes, n, level)
    assert 0 <= low <= successes / n <= high <= 1
    assert (low, high) == pytest.approx(
        proportion.proportion_confint(successes, n, alpha=1 - level, method="wilson"), abs=1e-9
    )


# ---------------------------------------------------------------------------------------------------- bootstrap


def test_a_bootstrap_of_independent_rows_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=200)
    ours = stats.bootstrap_mean(values)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours is not None
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=width / 20)


def test_rows_of_one_item_are_resampled_together() -> None:
    """Ten equal samples of each item say no more than one: as many items, the same interval."""
    per_item = np.random.default_rng(3).random(50)
    once = stats.bootstrap_mean(per_item)
    ten_times = stats.bootstrap_mean(10 * per_item, np.full(50, 10))
    assert once == pytest.approx(ten_times)
    as_if_independent = stats.bootstrap_mean(np.repeat(per_item, 10))
    assert once is not None and as_if_independent is not None
    assert (once.high - once.low) / (as_if_independent.high - as_if_independent.low) == pytest.approx(
        math.sqrt(10), rel=0.1
    )


def test_a_mean_over_rows_weighs_items_by_their_rows() -> None:
    rows = np.array([1, 1, 1, 1, 5])
    found = stats.bootstrap_mean([0, 0, 0, 0, 5], rows)
    assert found is not None
    assert found.low == 0 and found.high > 5 / 9


def test_many_items_are_grouped_and_the_interval_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(4).normal(3, 2, size=100_000)
    found = stats.bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 8)


def test_the_same_scores_give_the_same_interval_and_one_item_gives_none() -> None:
    values = np.random.default_rng(5).random(300)
    assert stats.bootstrap_mean(values) == stats.bootstrap_mean(values.copy())
    assert stats.bootstrap_mean([0.5]) is None


def test_an_interval_of_a_higher_level_holds_the_lower_ones() -> None:
    values = np.random.default_rng(6).random(40)
    inner, outer = stats.bootstrap_mean(values, level=0.8), stats.bootstrap_mean(values, level=0.99)
    assert inner is not None and outer is not None
    assert outer.low < inner.low < inner.high < outer.high


# ------------------------------------------------------------------------------------------------------ pass@k


@given(n=st.integers(1, 9), data=st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_pass(n: int, data: st.DataObject) -> None:
    """Counted: of all ways to draw k of the n samples, those with at least one that passes."""
    passed, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([True] * passed + [False] * (n - passed), k))
    assert stats.pass_at(k, [n], [passed])[0] == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_agrees_with_binomials_where_these_are_large() -> None:
    expected = 1 - math.comb(200 - 13, 100) / math.comb(200, 100)
    assert stats.pass_at(100, [200], [13])[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("samples", "ks"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 8, 10])]
)
def test_which_ks_are_told(samples: int, ks: list[int]) -> None:
    assert list(stats.ks(samples)) == ks


# --------------------------------------------------------------------------------------------------- agreement

# J. L. Fleiss, Measuring nominal scale agreement among many raters, Psychological Bulletin 76 (1971) 378-382, table 1:
# thirty patients, six psychiatrists each, five diagnoses; the paper finds kappa = .430.
FLEISS_1971 = [
    (0, 0, 0, 6, 0), (0, 3, 0, 0, 3), (0, 1, 4, 0, 1), (0, 0, 0, 0, 6), (0, 3, 0, 3, 0), (2, 0, 4, 0, 0),
    (0, 0, 4, 0, 2), (2, 0, 3, 1, 0), (2, 0, 0, 4, 0), (0, 0, 0, 0, 6), (1, 0, 0, 5, 0), (1, 1, 0, 4, 0),
    (0, 3, 3, 0, 0), (1, 0, 0, 5, 0), (0, 2, 0, 3, 1), (0, 0, 5, 0, 1), (3, 0, 0, 1, 2), (5, 1, 0, 0, 0),
    (0, 2, 0, 4, 0), (1, 0, 2, 0, 3), (0, 0, 0, 0, 6), (0, 1, 0, 5, 0), (0, 2, 0, 1, 3), (2, 0, 0, 4, 0),
    (1, 0, 0, 4, 1), (0, 5, 0, 1, 0), (4, 0, 0, 0, 2), (0, 2, 0, 4, 0), (1, 0, 5, 0, 0), (0, 0, 0, 0, 6),
]  # fmt: skip


def long_form(table: list[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    rows = [(i, c) for i, counts in enumerate(table) for c, times in enumerate(counts) for _ in range(times)]
    return [i for i, _ in rows], [c for _, c in rows]


def test_kappa_is_the_published_one() -> None:
    found = stats.fleiss_kappa(*long_form(FLEISS_1971))
    assert found == pytest.approx(0.430, abs=5e-4)
    assert found == pytest.approx(inter_rater.fleiss_kappa(np.array(FLEISS_1971)))


@given(
    st.integers(2, 6).flatmap(
        lambda raters: st.lists(st.lists(st.integers(0, 3), min_size=raters, max_size=raters), min_size=2, max_size=12)
    )
)
def test_kappa_agrees_with_statsmodels(ratings: list[list[int]]) -> None:
    table = [tuple(row.count(category) for category in range(4)) for row in ratings]
    found = stats.fleiss_kappa(*long_form(table))
    if len({category for row in ratings for category in row}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(inter_rater.fleiss_kappa(np.array(table)))


def test_items_with_one_row_say_nothing_of_agreement() -> None:
    items, answers = [1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 0, 1]
    assert stats.fleiss_kappa([*items, 9], [*answers, 7]) == stats.fleiss_kappa(items, answers)
    assert stats.fleiss_kappa([1, 2, 3], [0, 1, 0]) is None


# ------------------------------------------------------------------------------------------------------- labels


def test_confusion_by_hand() -> None:
    found = stats.confusion([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], 4)
    assert found.matrix == [[2, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found.support == [3, 3, 0, 0]
    assert found.precision == [1.0, 0.5, 0.0, None]
    assert found.recall == [2 / 3, 1 / 3, None, None]
    assert found.f1 == [pytest.approx(0.8), pytest.approx(0.4), 0.0, None]
    assert found.macro_f1 == pytest.approx(0.6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(pairs: list[tuple[int, int]]) -> None:
    found = stats.confusion([e for e, _ in pairs], [a for _, a in pairs], 4)
    assert sum(map(sum, found.matrix)) == len(pairs)
    for precision, recall, f1 in zip(found.precision, found.recall, found.f1, strict=True):
        if precision and recall:
            assert f1 == pytest.approx(scipy_stats.hmean([precision, recall]))
        elif precision is not None or recall is not None:
            assert f1 == 0
        else:
            assert f1 is None


# ------------------------------------------------------------------------------------------------------ two sides


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_exact_agrees_with_statsmodels_and_scipy(one: int, two: int) -> None:
    found = stats.mcnemar(one, two)
    assert found.method == "mcnemar-exact"
    if one + two:
        theirs = contingency_tables.mcnemar([[0, one], [two, 0]], exact=True)
        assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
        assert found.p_value == pytest.approx(scipy_stats.binomtest(one, one + two).pvalue, rel=1e-6)
    else:
        assert found.p_value == 1


def test_mcnemar_gives_the_published_value() -> None:
    # A. Agresti, Categorical Data Analysis (2nd ed., 2002), section 10.1.1, table 10.1: 150 and 86 discordant pairs of
    # approval ratings; z² = 17.36 without the correction; with Edwards' it is 63²/236 = 16.82.
    statistic = (abs(150 - 86) - 1) ** 2 / 236
    assert statistic == pytest.approx(16.82, abs=0.005)
    assert stats.mcnemar(150, 86).p_value == pytest.approx(3.7e-5, abs=5e-6)


@pytest.mark.parametrize(("one", "two"), [(700, 800), (600, 601), (501, 500), (900, 1000)])
def test_mcnemar_of_many_pairs_agrees_with_statsmodels_and_nearly_with_the_exact_one(one: int, two: int) -> None:
    found = stats.mcnemar(one, two)
    assert found.method == "mcnemar"
    table = [[0, one], [two, 0]]
    assert found.p_value == pytest.approx(contingency_tables.mcnemar(table, exact=False, correction=True).pvalue)
    assert found.p_value == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue, abs=2e-3)
