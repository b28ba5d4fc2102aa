"""Budgets, prices and the deadline as tables, and by simulation: the clock is a number that the tests move."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.config.sections import LimitsSection, PricesSection, price_usd
from batchflex.core.types import Usage
from batchflex.endpoint.cost import Cost, TokenEstimate
from batchflex.engine.budget import GO, Budget, BudgetLimit, Deadline, Verdict

# The machine may be busy with other tests.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

INFINITE = float("inf")


def cost(most_tokens: int = 0, most_usd: float = 0.0) -> Cost:
    return Cost(0, None, most_tokens, most_usd, PRICES)


# -------------------------------------------------------------------------------------------------------------- budgets

PRICES = PricesSection(input=2.0, output=10.0)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 300), st.integers(1, 300)),
        st.tuples(
            st.sampled_from(["answered", "uncounted", "maybe billed", "not billed"]),
            st.integers(0, 1_000),
            st.integers(0, 100),
        ),
    ),
    max_size=120,
)


@unhurried
@given(
    steps=STEPS,
    usd=st.none() | st.floats(0.0005, 0.05),
    tokens=st.none() | st.integers(100, 5_000),
    requests=st.none() | st.integers(1, 30),
)
def test_spent_and_reserved_together_never_exceed_a_budget(
    steps: list[tuple[str, int, int]], usd: float | None, tokens: int | None, requests: int | None
) -> None:
    limits = LimitsSection(budget_usd=usd, budget_tokens=tokens, budget_requests=requests)
    budget = Budget(limits)
    ceilings = (usd or INFINITE, tokens or INFINITE, requests or INFINITE)
    spent = [0.0, 0.0, 0.0]
    flying: list[tuple[Cost, int, int]] = []
    for now, (kind, one, two) in enumerate(steps):
        if kind == "send":
            attempt = budget.cost(one, two, PRICES)
            worst = ((one * 2 + two * 10) / 1e6, one + two, 1)
            assert (attempt.most_usd, attempt.most_tokens) == (pytest.approx(worst[0]), worst[1])
            verdict = budget.verdict(now, attempt)
            if verdict is GO:
                budget.sent(attempt)
                flying.append((attempt, one, two))
            else:
                fits = all(s + w <= c for s, w, c in zip(spent, worst, ceilings, strict=True))
                assert verdict == Verdict(INFINITE) or verdict.stop == "budget"
                assert (verdict.stop == "budget") == (not flying)
                assert flying or not fits
        elif flying:
            attempt, body_bytes, max_tokens = flying.pop(one % len(flying))
            prompt, completion = body_bytes * two // 100, max_tokens * (100 - two) // 100
            if kind == "answered":
                budget.settled(attempt, Usage(prompt, completion, prompt + completion), billed=True)
                spent[0] += (prompt * 2 + completion * 10) / 1e6
                spent[1] += prompt + completion
            else:
                billed = kind != "not billed"
                budget.settled(attempt, Usage() if kind == "uncounted" else None, billed=billed)
                spent[0] += attempt.most_usd * billed
                spent[1] += attempt.most_tokens * billed
            spent[2] += 1
        reserved = [
            sum(a.most_usd for a, _, _ in flying), sum(a.most_tokens for a, _, _ in flying), len(flying)
        ]  # fmt: skip
        for s, r, ceiling in zip(spent, reserved, ceilings, strict=True):
            assert s + r <= ceiling + 1e-9


def test_a_failed_attempt_that_may_have_been_billed_counts_with_its_worst_case() -> None:
    budget = Budget(LimitsSection(budget_tokens=1_000))
    attempt = budget.cost(300, 300)
    budget.sent(attempt)
    budget.settled(attempt, None, billed=True)
    assert budget.verdict(2.0, budget.cost(200, 200)) is GO
    assert budget.verdict(2.0, budget.cost(200, 201)).stop == "budget"


def test_an_answer_whose_tokens_are_not_split_up_costs_the_most_it_can() -> None:
    budget, prices = Budget(LimitsSection(budget_usd=0.0100)), PricesSection(input=10.0, output=10.0)
    attempt = budget.cost(300, 300, prices)
    budget.sent(attempt)
    budget.settled(attempt, Usage(None, None, 20), billed=True)
    assert budget.verdict(2.0, budget.cost(200, 200, prices)) is GO
    assert budget.verdict(2.0, budget.cost(200, 201, prices)).stop == "budget"


def test_sums_of_fractions_do_not_keep_an_empty_purse_waiting() -> None:
    budget = Budget(LimitsSection(budget_usd=1_000.0))
    attempts = [cost(most_usd=usd) for usd in (0.1, 0.2, 0.3, 400.7)]
    for attempt in attempts:
        budget.sent(attempt)
    for attempt in (attempts[2], attempts[0], attempts[3], attempts[1]):
        budget.settled(attempt, None, billed=False)
    assert budget.verdict(2.0, cost(most_usd=1_000.1)).stop == "budget"


def test_an_attempt_that_was_not_sent_gives_all_back() -> None:
    budget = Budget(LimitsSection(budget_requests=1, budget_tokens=600, budget_usd=0.006))
    prices = PricesSection(input=10, output=10)
    for _ in range(3):
        attempt = budget.cost(300, 300, prices)
        assert budget.verdict(0.0, attempt) is GO
        budget.sent(attempt)
        assert budget.verdict(0.0, budget.cost(300, 300, prices)) == Verdict(INFINITE)
        budget.settled(attempt, None, billed=False, sent=False)
    budget.sent(attempt)
    budget.settled(attempt, None, billed=False)
    assert budget.verdict(1.0, budget.cost(1, 1, prices)).stop == "budget"


def test_a_purse() -> None:
    purse = BudgetLimit(10.0)
    assert purse.verdict(10.0) is GO
    assert purse.verdict(10.1).stop == "budget"
    purse.reserve(6.0)
    assert purse.verdict(4.0) is GO
    assert purse.verdict(4.1) == Verdict(INFINITE)
    purse.settle(6.0, 5.0)
    assert purse.spent == 5.0
    assert purse.verdict(5.0) is GO
    assert purse.verdict(5.1).stop == "budget"
    assert BudgetLimit(None).verdict(1e300) is GO


def test_without_limits_nothing_waits_and_nothing_stops() -> None:
    budget = Budget(LimitsSection())
    for now in range(1_000):
        attempt = budget.cost(1_000_000, 1_000_000)
        assert budget.verdict(now / 1e3, attempt) is GO
        budget.sent(attempt)
        budget.settled(attempt, None, billed=True)
    assert budget.left_s(1e9) == INFINITE


# ------------------------------------------------------------------------------------------------------------- deadline


class TestDeadline:
    @pytest.mark.parametrize(("now", "expected"), [(0.0, GO), (99.9, GO), (100.0, "deadline"), (500.0, "deadline")])
    def test_after_it_nothing_is_sent(self, now: float, expected: object) -> None:
        verdict = Budget(LimitsSection(), deadline_s=100.0).verdict(now, cost())
        assert verdict is expected or verdict.stop == "deadline"
        assert (verdict.stop == "deadline") == (expected == "deadline")

    def test_a_longer_wait_ends_at_it(self) -> None:
        budget = Budget(LimitsSection(), deadline_s=100.0)
        assert budget.left_s(10.0) == 90.0
        assert budget.verdict(10.0 + budget.left_s(10.0), cost()).stop == "deadline"

    def test_it_goes_before_a_budget(self) -> None:
        budget = Budget(LimitsSection(budget_tokens=1), deadline_s=100.0)
        assert budget.verdict(99.0, cost(2)).stop == "budget"
        assert budget.verdict(100.0, cost(2)).stop == "deadline"

    def test_nothing_is_sent_that_takes_longer_than_what_is_left(self) -> None:
        budget = Budget(LimitsSection(), deadline_s=100.0)
        for now in range(5):
            assert budget.verdict(now, cost()) is GO
            budget.sent(cost())
            budget.settled(cost(), Usage(), 10.0, billed=True)
        assert budget.verdict(89.9, cost()) is GO
        assert budget.left_s(80.0) == pytest.approx(10)
        assert budget.verdict(90.1, cost()).stop == "deadline"

    def test_what_was_not_answered_says_nothing_of_how_long_answers_take(self) -> None:
        budget = Budget(LimitsSection(), deadline_s=100.0)
        for billed in (True, False):
            budget.sent(cost())
            budget.settled(cost(), None, billed=billed)
        budget.sent(cost())
        budget.settled(cost(), None, billed=False, sent=False)
        assert budget.left_s(10.0) == 90.0

    def test_answers_that_differ_keep_two_deviations_free(self) -> None:
        deadline = Deadline(100.0)
        for turn in range(200):
            deadline.answered(10.0 if turn % 2 else 20.0)
        assert deadline.answer_s == pytest.approx(15 + 2 * 5, rel=0.05)
        assert deadline.left_s(50.0) == pytest.approx(50 - deadline.answer_s)

    @pytest.mark.parametrize("seed", range(5))
    def test_what_is_sent_is_probably_answered_before_it(self, seed: int) -> None:
        chance = random.Random(seed)
        deadline = Deadline(1_000.0)
        flying: list[tuple[float, float]] = []
        late = 0
        for now in range(1_000):
            for flight in [f for f in flying if f[0] <= now]:
                flying.remove(flight)
                deadline.answered(flight[1])
            if deadline.left_s(now) > 0:
                took = chance.lognormvariate(3, 0.5)
                flying.append((now + took, took))
                late += now + took > 1_000
        assert late <= 2  # of 1,000; about 23 if no time were kept free
        assert deadline.answer_s <= 70  # the mean is 23, the deviation 12

    def test_answers_that_become_slower_are_followed(self) -> None:
        deadline = Deadline(100.0)
        for seconds in [1.0] * 50 + [30.0] * 100:
            deadline.answered(seconds)
        assert 30 <= deadline.answer_s <= 40


# --------------------------------------------------------------------------------------------------------------- prices


@pytest.mark.parametrize(
    ("prices", "usage", "usd"),
    [
        (PricesSection(input=1, output=2), Usage(1_000_000, 1_000_000), 3.0),
        (PricesSection(input=1, output=2), Usage(500, 0), 0.0005),
        (PricesSection(input=1, output=2), Usage(500, None), 0.0005),
        (PricesSection(input=1, output=2), Usage(None, 500), 0.001),
        (PricesSection(input=1, output=2), Usage(0, 0), 0.0),
        (PricesSection(input=1, output=2), Usage(), None),
        (PricesSection(input=1, output=2), Usage(total_tokens=30), None),
        (PricesSection(input=10, output=0), Usage(1_000, 0, 1_000, 400), 0.01),
        (PricesSection(input=10, output=0, cached_input=1), Usage(1_000, 0, 1_000, 400), 0.0064),
        (PricesSection(input=10, output=0, cached_input=0), Usage(1_000, 0, 1_000, 1_000), 0.0),
        (PricesSection(input=10, output=0, cached_input=1), Usage(100, 0, 100, 400), 0.0001),
        (PricesSection(input=0, output=0), Usage(7, 7), 0.0),
    ],
)
def test_price(prices: PricesSection, usage: Usage, usd: float | None) -> None:
    assert price_usd(prices, usage) == (None if usd is None else pytest.approx(usd))


# ------------------------------------------------------------------------------------------------------------ estimates


def test_estimates_are_learned_from_usage() -> None:
    estimate = TokenEstimate()
    budget = Budget(LimitsSection())
    assert estimate(budget.cost(300, None)) == pytest.approx(300 / 3 + 256)
    assert estimate(budget.cost(300, 50)) == pytest.approx(300 / 3 + 50)
    assert estimate(budget.cost(300, 100_000)) == pytest.approx(300 / 3 + 4_096)
    for prompt, completion in ((200, 10), (100, 30)):
        estimate.learn(budget.cost(600, 50), Usage(prompt, completion, prompt + completion))
    assert estimate(budget.cost(400, 50)) == pytest.approx(400 * 300 / 1_200 + 20)
