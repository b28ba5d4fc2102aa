"""Pace as tables, and by simulation: the clock is a number that the tests move."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchflex.job import LimitsSection, PricesSection
from batchflex.model import Usage
from batchflex.pace import GO, Cost, Pace, Spacing, Verdict, Window, price_usd

# The machine may be busy with other tests.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

INFINITE = float("inf")
HAIR = 1e-6


def cost(tokens: float = 0.0, most_tokens: int = 0, most_usd: float = 0.0, body_bytes: int = 0) -> Cost:
    return Cost(tokens, most_tokens, most_usd, body_bytes)


def used(total: int) -> Usage:
    return Usage(total, 0, total)


def patiently(wait_s: Callable[[float], float], now: float) -> float:
    """The moment, from ``now`` on, when ``wait_s`` says go."""
    while (wait := wait_s(now)) > 0:
        now += max(wait, 1e-9)
    return now


def most_in_a_minute(sent: Sequence[tuple[float, float]]) -> float:
    """The largest sum of sizes within any 60 s, of ``(moment, size)`` in order."""
    most = inside = 0.0
    first = 0
    for at, size in sent:
        inside += size
        while at - sent[first][0] >= 60 - HAIR:
            inside -= sent[first][1]
            first += 1
        most = max(most, inside)
    return most


# -------------------------------------------------------------------------------------------------- requests a minute

# How requests come to want to leave: (pause before, how many want to go, how late each wakes up after its wait).
ARRIVALS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 0.3), st.floats(0, 130)),
        st.integers(1, 400),
        st.sampled_from([0.0, 0.001, 0.2, 0.25, 0.26, 1.0]),
    ),
    max_size=12,
)


@unhurried
@given(rpm=st.integers(1, 600), arrivals=ARRIVALS, began=st.floats(0, 1e6))
def test_no_minute_ever_has_more_requests_than_rpm(
    rpm: int, arrivals: list[tuple[float, int, float]], began: float
) -> None:
    pace = Pace(LimitsSection(rpm=rpm))
    now, sent = began, []
    for pause, wanting, late in arrivals:
        now += pause
        for _ in range(wanting):
            if pace.verdict(now, cost()) is not GO:
                now = patiently(lambda at: pace.verdict(at, cost()).wait_s, now) + late
            pace.sent(now, cost())
            sent.append(now)
    assert all(later - earlier >= 60 - HAIR for earlier, later in zip(sent, sent[rpm:], strict=False))


@pytest.mark.parametrize(
    ("rpm", "minutes"), [(1, 60), (2, 30), (10, 20), (60, 10), (299, 10), (300, 10), (5_000, 3), (60_000, 2)]
)
@pytest.mark.parametrize("late", [0.0, 0.05, 0.2])
def test_with_demand_at_all_times_nearly_the_whole_quota_is_used(rpm: int, minutes: int, late: float) -> None:
    pace = Pace(LimitsSection(rpm=rpm))
    now, sent = 1_000.0, []
    while True:
        wait = pace.verdict(now, cost()).wait_s
        if wait:
            now += max(wait, 1e-9) + late
            continue
        if now >= 1_000 + 60 * minutes:
            break
        pace.sent(now, cost())
        sent.append((now, 1.0))
    assert len(sent) >= 0.99 * rpm * minutes
    assert most_in_a_minute(sent) <= rpm


def test_requests_are_spread_evenly() -> None:
    spacing = Spacing(300)
    now, sent = 0.0, []
    while now < 60:
        now = patiently(spacing.wait_s, now)
        spacing.take(now)
        sent.append(now)
    assert sent[0] == sent[1] == 0.0
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent[1:])]
    assert max(gaps[1:]) == pytest.approx(min(gaps[1:])) == pytest.approx(60.25 / 300)


def test_rpm_below_one_spaces_requests_by_more_than_a_minute() -> None:
    spacing = Spacing(0.5)
    spacing.take(0.0)
    assert 119 < spacing.wait_s(0.0) <= 121


def test_an_idle_time_is_not_saved_up() -> None:
    spacing = Spacing(60)
    spacing.take(0.0)
    burst = 0
    while not spacing.wait_s(1_000.0):
        spacing.take(1_000.0)
        burst += 1
    assert burst == 1


# ---------------------------------------------------------------------------------------------------- tokens a minute


@unhurried
@given(
    tpm=st.integers(10, 100_000),
    requests=st.lists(
        st.tuples(st.floats(0.0001, 1.0), st.one_of(st.just(0.0), st.floats(0, 20)), st.floats(0, 1)), max_size=150
    ),
)
def test_no_minute_has_more_tokens_than_tpm_when_estimates_are_right(
    tpm: int, requests: list[tuple[float, float, float]]
) -> None:
    pace = Pace(LimitsSection(tpm=tpm))
    now, sent = 50.0, []
    for share, pause, late in requests:
        tokens = max(1, int(share * tpm))
        now += pause
        attempt = cost(tokens)
        if pace.verdict(now, attempt) is not GO:
            now = patiently(lambda at, attempt=attempt: pace.verdict(at, attempt).wait_s, now) + late
            assert pace.verdict(now, attempt) is GO
        pace.sent(now, attempt)
        pace.settled(now, attempt, used(tokens), billed=True)
        sent.append((now, float(tokens)))
    assert most_in_a_minute(sent) <= tpm


@pytest.mark.parametrize(("smallest", "largest", "share"), [(100, 100, 0.99), (10, 500, 0.96), (1_000, 4_000, 0.8)])
def test_with_demand_at_all_times_most_tokens_are_used(smallest: int, largest: int, share: float) -> None:
    sizes = random.Random(1)
    tpm, minutes = 10_000, 20
    window = Window(tpm)
    now, sent = 0.0, []
    while now < 60 * minutes:
        units = float(sizes.randint(smallest, largest))
        now = patiently(lambda at, units=units: window.wait_s(at, units), now)
        window.take(now, units)
        sent.append((now, units))
    assert sum(units for _, units in sent[:-1]) >= share * tpm * minutes
    assert most_in_a_minute(sent) <= tpm


def test_a_request_larger_than_tpm_goes_when_it_is_alone_and_is_paid_off_afterwards() -> None:
    window = Window(1_000)
    window.take(0.0, 10.0)
    alone = patiently(lambda at: window.wait_s(at, 5_000.0), 0.0)
    assert 60 <= alone <= 61
    window.take(alone, 5_000.0)
    after = patiently(lambda at: window.wait_s(at, 10.0), alone)
    assert after - alone == pytest.approx(5 * 60.25, abs=0.5)


class TestCorrections:
    def test_more_used_than_estimated_makes_the_next_wait(self) -> None:
        window = Window(1_000)
        window.take(0.0, 100.0)
        window.correct(2.0, 0.0, 850.0)
        assert patiently(lambda at: window.wait_s(at, 100.0), 2.0) >= 60

    def test_less_used_than_estimated_lets_the_next_go(self) -> None:
        window = Window(1_000)
        window.take(0.0, 1_000.0)
        assert window.wait_s(2.0, 500.0) > 50
        window.correct(2.0, 0.0, -990.0)
        assert window.wait_s(2.0, 500.0) == 0

    def test_what_was_given_back_is_not_missing_when_the_estimate_has_left_the_window(self) -> None:
        window = Window(1_000)
        window.take(0.0, 1_000.0)
        window.correct(10.0, 0.0, -900.0)
        now, sent = 10.0, []
        while now < 60.3:
            now = patiently(lambda at: window.wait_s(at, 50.0), now)
            window.take(now, 50.0)
            sent.append((now, 50.0))
        now = patiently(lambda at: window.wait_s(at, 900.0), now)
        assert most_in_a_minute([*sent, (now, 900.0)]) <= 1_000

    def test_of_an_estimate_that_has_left_the_window_nothing_is_given_back(self) -> None:
        window = Window(1_000)
        window.take(0.0, 600.0)
        window.take(40.0, 900.0)
        window.correct(70.0, 0.0, -600.0)
        assert window.wait_s(70.0, 200.0) > 0

    @unhurried
    @given(
        st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0, 1.0), st.floats(0, 40), st.floats(0, 10)), max_size=80)
    )
    def test_what_is_known_to_be_used_stays_below_tpm(self, requests: list[tuple[float, float, float, float]]) -> None:
        """Estimates too high by any factor, settled in any order: what is counted, and the next, fit into the minute."""
        tpm = 1_000.0
        pace = Pace(LimitsSection(tpm=tpm))
        now = 5.0
        flying: list[tuple[float, Cost, int]] = []  # when it ends, what it was taken for, what it will have used
        counted: list[list[float]] = []  # when sent, what is known of its size
        places: dict[int, list[float]] = {}

        def settle(until: float) -> None:
            for flight in sorted((f for f in flying if f[0] <= until), key=lambda f: f[0]):
                flying.remove(flight)
                ended, attempt, tokens = flight
                pace.settled(ended, attempt, used(tokens), billed=True)
                places[id(attempt)][1] = tokens

        for share, real, latency, pause in requests:
            attempt = cost(float(max(1, int(share * tpm))))
            now += pause
            settle(now)
            while (wait := pace.verdict(now, attempt).wait_s) > 0:
                now = min([now + max(wait, 1e-9), *(f[0] for f in flying if f[0] > now)])
                settle(now)
            inside = sum(size for at, size in counted if now - at < 60 - HAIR)
            assert inside + attempt.tokens <= tpm + HAIR
            pace.sent(now, attempt)
            counted.append([now, attempt.tokens])
            places[id(attempt)] = counted[-1]
            flying.append((now + latency, attempt, int(real * attempt.tokens)))

    def test_estimates_are_learned_from_usage(self) -> None:
        pace = Pace(LimitsSection(tpm=100_000))
        assert pace.cost(300, None).tokens == pytest.approx(300 / 3 + 256)
        assert pace.cost(300, 50).tokens == pytest.approx(300 / 3 + 50)
        for prompt, completion in ((200, 10), (100, 30)):
            attempt = pace.cost(600, 50)
            pace.sent(0.0, attempt)
            pace.settled(1.0, attempt, Usage(prompt, completion, prompt + completion), billed=True)
        assert pace.cost(400, 50).tokens == pytest.approx(400 * 300 / 1_200 + 20)


# ------------------------------------------------------------------------------------------------------- rate limits


class TestRefusals:
    @pytest.mark.parametrize("limits", [LimitsSection(), LimitsSection(rpm=6_000)])
    @pytest.mark.parametrize("retry_after_s", [0.02, 1.0, 17.5, 3_600.0])
    def test_all_wait_exactly_until_the_time_the_server_gave(self, limits: LimitsSection, retry_after_s: float) -> None:
        pace = Pace(limits)
        pace.refused(100.0, 99.0, retry_after_s)
        assert pace.verdict(100.0, cost()).wait_s == pytest.approx(retry_after_s)
        assert pace.verdict(100.0 + retry_after_s - 0.01, cost()).wait_s == pytest.approx(0.01)
        assert pace.verdict(100.0 + retry_after_s, cost()) is GO

    def test_the_latest_time_given_holds(self) -> None:
        pace = Pace(LimitsSection())
        pace.refused(100.0, 99.0, 30.0)
        pace.refused(101.0, 99.5, 5.0)
        assert pace.verdict(101.0, cost()).wait_s == pytest.approx(29)
        pace.refused(102.0, 99.9, 60.0)
        assert pace.verdict(102.0, cost()).wait_s == pytest.approx(60)

    @pytest.mark.parametrize("useless", [None, 0.0])
    def test_without_a_time_the_wait_doubles_with_jitter(self, useless: float | None) -> None:
        for seed in range(50):
            pace = Pace(LimitsSection(), jitter=random.Random(seed))
            now = 100.0
            for longest in (1, 2, 4, 8, 16, 32, 60, 60):
                pace.refused(now, now, useless)
                wait = pace.verdict(now, cost()).wait_s
                assert longest / 2 <= wait <= longest
                now += wait

    def test_waits_without_a_time_differ(self) -> None:
        waits = set()
        for seed in range(20):
            pace = Pace(LimitsSection(), jitter=random.Random(seed))
            pace.refused(0.5, 0.5, None)
            waits.add(pace.verdict(0.5, cost()).wait_s)
        assert len(waits) == 20

    def test_refusals_of_what_was_sent_before_the_wait_began_extend_nothing(self) -> None:
        pace = Pace(LimitsSection(), jitter=random.Random(1))
        pace.refused(100.0, 99.0, None)
        ends = 100.0 + pace.verdict(100.0, cost()).wait_s
        for late in range(64):
            pace.refused(100.0 + late / 100, 99.5, None)
        assert 100.2 + pace.verdict(100.2, cost()).wait_s == pytest.approx(ends)
        pace.refused(ends + 0.1, ends, None)  # sent after it: the second in a row
        assert 1 <= pace.verdict(ends + 0.1, cost()).wait_s <= 2

    def test_a_success_begins_the_doubling_anew(self) -> None:
        pace = Pace(LimitsSection(), jitter=random.Random(1))
        for now in (100.0, 110.0, 120.0, 130.0):
            pace.refused(now, now, None)
        attempt = cost()
        pace.sent(150.0, attempt)
        pace.settled(151.0, attempt, Usage(), billed=True)
        pace.refused(160.0, 160.0, None)
        assert pace.verdict(160.0, cost()).wait_s <= 1


# --------------------------------------------------------------------------------------------------- budgets, deadline

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
    pace = Pace(limits, PRICES)
    ceilings = (usd or INFINITE, tokens or INFINITE, requests or INFINITE)
    spent = [0.0, 0.0, 0.0]
    flying: list[tuple[Cost, int, int]] = []
    for now, (kind, one, two) in enumerate(steps):
        if kind == "send":
            attempt = pace.cost(one, two)
            worst = ((one * 2 + two * 10) / 1e6, one + two, 1)
            if limits != LimitsSection():  # without limits nothing is reckoned
                assert (attempt.most_usd, attempt.most_tokens) == (pytest.approx(worst[0]), worst[1])
            verdict = pace.verdict(now, attempt)
            if verdict is GO:
                pace.sent(now, attempt)
                flying.append((attempt, one, two))
            else:
                fits = all(s + w <= c for s, w, c in zip(spent, worst, ceilings, strict=True))
                assert verdict in (Verdict(INFINITE), Verdict(stop="budget"))
                assert (verdict.stop == "budget") == (not flying)
                assert flying or not fits
        elif flying:
            attempt, body_bytes, max_tokens = flying.pop(one % len(flying))
            prompt, completion = body_bytes * two // 100, max_tokens * (100 - two) // 100
            if kind == "answered":
                pace.settled(now, attempt, Usage(prompt, completion, prompt + completion), billed=True)
                spent[0] += (prompt * 2 + completion * 10) / 1e6
                spent[1] += prompt + completion
            else:
                billed = kind != "not billed"
                pace.settled(now, attempt, Usage() if kind == "uncounted" else None, billed=billed)
                spent[0] += attempt.most_usd * billed
                spent[1] += attempt.most_tokens * billed
            spent[2] += 1
        reserved = [
            sum(a.most_usd for a, _, _ in flying), sum(a.most_tokens for a, _, _ in flying), len(flying)
        ]  # fmt: skip
        for s, r, ceiling in zip(spent, reserved, ceilings, strict=True):
            assert s + r <= ceiling + 1e-9


def test_a_failed_attempt_that_may_have_been_billed_counts_with_its_worst_case() -> None:
    pace = Pace(LimitsSection(budget_tokens=1_000))
    attempt = pace.cost(300, 300)
    pace.sent(0.0, attempt)
    pace.settled(1.0, attempt, None, billed=True)
    assert pace.verdict(2.0, pace.cost(200, 200)) is GO
    assert pace.verdict(2.0, pace.cost(200, 201)) == Verdict(stop="budget")


def test_an_answer_whose_tokens_are_not_split_up_costs_the_most_it_can() -> None:
    pace = Pace(LimitsSection(budget_usd=0.0100), PricesSection(input=10.0, output=10.0))
    attempt = pace.cost(300, 300)
    pace.sent(0.0, attempt)
    pace.settled(1.0, attempt, Usage(None, None, 20), billed=True)
    assert pace.verdict(2.0, pace.cost(200, 200)) is GO
    assert pace.verdict(2.0, pace.cost(200, 201)).stop == "budget"


def test_sums_of_fractions_do_not_keep_an_empty_purse_waiting() -> None:
    pace = Pace(LimitsSection(budget_usd=1_000.0), PricesSection(input=1e6, output=0.0))
    attempts = [cost(most_usd=usd) for usd in (0.1, 0.2, 0.3, 400.7)]
    for attempt in attempts:
        pace.sent(0.0, attempt)
    for attempt in (attempts[2], attempts[0], attempts[3], attempts[1]):
        pace.settled(1.0, attempt, None, billed=False)
    assert pace.verdict(2.0, cost(most_usd=1_000.1)) == Verdict(stop="budget")


def test_without_limits_nothing_waits_and_nothing_stops() -> None:
    pace = Pace(LimitsSection())
    for now in range(1_000):
        attempt = pace.cost(1_000_000, 1_000_000)
        assert pace.verdict(now / 1e3, attempt) is GO
        pace.sent(now / 1e3, attempt)
        pace.settled(now / 1e3, attempt, None, billed=True)


class TestDeadline:
    @pytest.mark.parametrize(("now", "expected"), [(0.0, GO), (99.9, GO), (100.0, "deadline"), (500.0, "deadline")])
    def test_after_it_nothing_is_sent(self, now: float, expected: object) -> None:
        verdict = Pace(LimitsSection(), deadline_s=100.0).verdict(now, cost())
        assert verdict is expected or verdict == Verdict(stop="deadline")
        assert (verdict.stop == "deadline") == (expected == "deadline")

    def test_a_longer_wait_ends_at_it(self) -> None:
        pace = Pace(LimitsSection(rpm=1), deadline_s=100.0)
        pace.refused(10.0, 9.0, 3_600.0)
        wait = pace.verdict(10.0, cost()).wait_s
        assert wait == 90.0
        assert pace.verdict(10.0 + wait, cost()) == Verdict(stop="deadline")


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
