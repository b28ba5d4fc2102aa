"""Quotas that the job sets, by simulation: the clock is a number that the tests move."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.endpoint.quota import Quota, Spacing, Window
from tests.support.per_minute import HAIR, most_in_a_minute, patiently

# The machine may be busy with other tests.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_without_a_ceiling_nothing_waits() -> None:
    for quota in (Quota(), Quota(of_tokens=True)):
        for _ in range(1_000):
            assert quota.wait_s(1.0, 1e6) == 0
            quota.take(1.0, 1e6)
        assert quota.rate is None


def test_a_ceiling_is_the_rate_and_nothing_is_learned_from_what_is_accepted() -> None:
    quota = Quota(120)
    for now in range(300):
        quota.take(float(now))
        quota.accepted(now + 0.5, float(now))
    assert (quota.rate, quota.learned_from) == (2.0, None)


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
    quota = Quota(rpm)
    now, sent = began, []
    for pause, wanting, late in arrivals:
        now += pause
        for _ in range(wanting):
            if quota.wait_s(now):
                now = patiently(quota.wait_s, now) + late
            quota.take(now)
            sent.append(now)
    assert all(later - earlier >= 60 - HAIR for earlier, later in zip(sent, sent[rpm:], strict=False))


@pytest.mark.parametrize(
    ("rpm", "minutes"), [(1, 60), (2, 30), (10, 20), (60, 10), (299, 10), (300, 10), (5_000, 3), (60_000, 2)]
)
@pytest.mark.parametrize("late", [0.0, 0.05, 0.2])
def test_with_demand_at_all_times_nearly_the_whole_quota_is_used(rpm: int, minutes: int, late: float) -> None:
    quota = Quota(rpm)
    now, sent = 1_000.0, []
    while True:
        wait = quota.wait_s(now)
        if wait:
            now += max(wait, 1e-9) + late
            continue
        if now >= 1_000 + 60 * minutes:
            break
        quota.take(now)
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
    quota = Quota(tpm, of_tokens=True)
    now, sent = 50.0, []
    for share, pause, late in requests:
        tokens = max(1, int(share * tpm))
        now += pause
        if quota.wait_s(now, tokens):
            now = patiently(lambda at, tokens=tokens: quota.wait_s(at, tokens), now) + late
            assert quota.wait_s(now, tokens) == 0
        quota.take(now, tokens)
        quota.correct(now, now, 0.0)
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
    assert after - alone == pytest.approx(5 * 60 - 5, abs=0.5)  # but for the 5 s that may be caught up with


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
        quota = Quota(tpm, of_tokens=True)
        now = 5.0
        flying: list[tuple[float, list[float], int]] = []  # when it ends, its place in counted, what it will have used
        counted: list[list[float]] = []  # when sent, what is known of its size

        def settle(until: float) -> None:
            for flight in sorted((f for f in flying if f[0] <= until), key=lambda f: f[0]):
                flying.remove(flight)
                ended, place, tokens = flight
                quota.correct(ended, place[0], tokens - place[1])
                place[1] = tokens

        for share, real, latency, pause in requests:
            units = float(max(1, int(share * tpm)))
            now += pause
            settle(now)
            while (wait := quota.wait_s(now, units)) > 0:
                now = min([now + max(wait, 1e-9), *(f[0] for f in flying if f[0] > now)])
                settle(now)
            inside = sum(size for at, size in counted if now - at < 60 - HAIR)
            assert inside + units <= tpm + HAIR
            quota.take(now, units)
            counted.append([now, units])
            flying.append((now + latency, counted[-1], int(real * units)))
