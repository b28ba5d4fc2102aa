"""Pace as tables, and by simulation: the clock is a number that the tests move."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.core.types import Usage
from batchflex.endpoint.concurrency_limit import ConcurrencyLimit
from batchflex.endpoint.cost import Cost
from batchflex.endpoint.pacer import Allowance, Pacer
from tests.support.per_minute import most_in_a_minute, patiently

# The machine may be busy with other tests.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pacer(rpm: float | None = None, tpm: float | None = None, *, window: int = 100, seed: int = 1) -> Pacer:
    return Pacer(ConcurrencyLimit(window, fixed=True), Allowance(rpm, tpm, random.Random(seed)))


def cost(sent_at: float = 0.0) -> Cost:
    return Cost(0, 0, 0, 0.0, sent_at=sent_at)


def sized(tokens: int) -> Cost:
    """Expected to use so many (2 or more), whether or not answers such as ``used`` have been seen."""
    return Cost(3 * (tokens - 1), 1, 0, 0.0)


def used(tokens: int) -> Usage:
    return Usage(tokens - 1, 1, tokens)


def waits(subject: Pacer, attempt: Cost | None = None) -> Callable[[float], float]:
    return lambda now: subject.wait_s(now, attempt or cost())


def leaving(subject: Pacer, now: float, count: int) -> list[float]:
    """The moments when so many leave who all want to from ``now`` on."""
    moments = []
    for _ in range(count):
        now = patiently(waits(subject), now)
        subject.sent(now, cost(), 1)
        moments.append(now)
    return moments


# --------------------------------------------------------------------------------------------------------------- quotas


def test_without_limits_nothing_waits() -> None:
    subject = pacer()
    for turn in range(1_000):
        attempt = Cost(1_000_000, 1_000_000, 2_000_000, 0.0)
        assert subject.wait_s(turn / 1e3, attempt) == 0
        subject.sent(turn / 1e3, attempt, 1)
        subject.failed(turn / 1e3, attempt, 0, of_row=turn % 2 == 0, reached=True)


@unhurried
@given(
    rpm=st.integers(1, 100),
    tpm=st.integers(10, 100_000),
    requests=st.lists(
        st.tuples(st.floats(0.0001, 1.0), st.one_of(st.just(0.0), st.floats(0, 20)), st.floats(0, 1)), max_size=100
    ),
)
def test_no_minute_has_more_requests_than_rpm_or_more_tokens_than_tpm(
    rpm: int, tpm: int, requests: list[tuple[float, float, float]]
) -> None:
    subject = pacer(rpm, tpm)
    now, sent = 50.0, []
    for share, pause, late in requests:
        tokens = max(2, int(share * tpm))
        attempt = sized(tokens)
        now += pause
        if subject.wait_s(now, attempt):
            now = patiently(waits(subject, attempt), now) + late
            assert subject.wait_s(now, attempt) == 0
        subject.sent(now, attempt, 1)
        assert (attempt.sent_at, attempt.tokens) == (now, tokens)
        subject.answered(now, attempt, used(tokens), 0)
        sent.append((now, float(tokens)))
    assert most_in_a_minute(sent) <= tpm
    assert most_in_a_minute([(at, 1.0) for at, _ in sent]) <= rpm


class TestTokens:
    """Of 1,000 a minute all are expected to be used by the first attempt."""

    def sent(self) -> tuple[Pacer, Cost]:
        subject, attempt = pacer(tpm=1_000), sized(1_000)
        subject.sent(0.0, attempt, 1)
        assert subject.wait_s(2.0, sized(500)) > 50
        return subject, attempt

    def test_what_an_answer_did_not_use_is_given_back(self) -> None:
        subject, attempt = self.sent()
        subject.answered(2.0, attempt, Usage(9, 1, 10), 0)
        assert subject.wait_s(2.0, sized(500)) == 0

    def test_what_it_used_beyond_the_estimate_makes_the_next_wait(self) -> None:
        subject, attempt = pacer(tpm=1_000), sized(100)
        subject.sent(0.0, attempt, 1)
        subject.answered(2.0, attempt, used(950), 0)
        assert patiently(waits(subject, sized(100)), 2.0) >= 60

    def test_an_answer_that_does_not_tell_counts_as_expected(self) -> None:
        subject, attempt = self.sent()
        subject.answered(2.0, attempt, Usage(), 0)
        assert patiently(waits(subject, sized(500)), 2.0) >= 60

    def test_what_was_refused_or_never_sent_used_none(self) -> None:
        subject, attempt = self.sent()
        subject.refused(2.0, attempt, 0.5, 0)
        assert subject.wait_s(2.5, sized(500)) == 0
        subject, attempt = self.sent()
        subject.unsent(2.0, attempt, 0)
        assert subject.wait_s(2.0, sized(500)) == 0

    @pytest.mark.parametrize("of_row", [False, True])
    def test_what_failed_may_have_used_all(self, of_row: bool) -> None:
        subject, attempt = self.sent()
        subject.failed(2.0, attempt, 0, of_row=of_row, reached=True)
        assert patiently(waits(subject, sized(500)), 2.0) >= 60

    def test_estimates_are_learned_from_usage(self) -> None:
        subject = pacer(tpm=100_000)

        def expected(body_bytes: int, max_tokens: int | None) -> float:
            attempt = Cost(body_bytes, max_tokens, 0, 0.0)
            subject.sent(0.0, attempt, 1)
            subject.unsent(0.0, attempt, 0)
            return attempt.tokens

        assert expected(300, None) == pytest.approx(300 / 3 + 256)
        assert expected(300, 50) == pytest.approx(300 / 3 + 50)
        for prompt, completion in ((200, 10), (100, 30)):
            attempt = Cost(600, 50, 0, 0.0)
            subject.sent(0.0, attempt, 1)
            subject.answered(1.0, attempt, Usage(prompt, completion, prompt + completion), 0)
        assert expected(400, 50) == pytest.approx(400 * 300 / 1_200 + 20)


# ---------------------------------------------------------------------------------------------------------- rate limits


class TestRefusals:
    @pytest.mark.parametrize("rpm", [None, 6_000])
    @pytest.mark.parametrize("retry_after_s", [0.02, 1.0, 17.5, 3_600.0])
    def test_all_wait_exactly_until_the_time_the_server_gave(self, rpm: float | None, retry_after_s: float) -> None:
        subject = pacer(rpm)
        subject.refused(100.0, cost(99.0), retry_after_s, 0)
        for wait_s in (waits(subject), subject.allowance.held_s):
            assert wait_s(100.0) == pytest.approx(retry_after_s)
            assert wait_s(100.0 + retry_after_s - 0.01) == pytest.approx(0.01)
            assert wait_s(100.0 + retry_after_s) == 0

    def test_the_latest_time_given_holds(self) -> None:
        subject = pacer()
        subject.refused(100.0, cost(99.0), 30.0, 2)
        subject.refused(101.0, cost(99.5), 5.0, 1)
        assert subject.wait_s(101.0, cost()) == pytest.approx(29)
        subject.refused(102.0, cost(99.9), 60.0, 0)
        assert subject.wait_s(102.0, cost()) == pytest.approx(60)

    @pytest.mark.parametrize(("hold_s", "ramp_s"), [(0.02, 0.02), (1.0, 1.0), (2.0, 2.0), (17.5, 2.0), (3_600.0, 2.0)])
    @pytest.mark.parametrize("window", [1, 4, 100])
    def test_then_they_go_one_by_one_over_a_ramp(self, window: int, hold_s: float, ramp_s: float) -> None:
        subject = pacer(window=window)
        subject.refused(100.0, cost(99.0), hold_s, window - 1)
        begin = 100.0 + hold_s
        expected = [begin + ramp_s * turn / window for turn in range(window + 1)]
        assert leaving(subject, 100.0, window + 1) == pytest.approx(expected)

    def test_after_the_ramp_they_go_at_once(self) -> None:
        subject = pacer(window=4)
        subject.refused(100.0, cost(99.0), 10.0, 3)
        assert leaving(subject, 112.1, 8) == [112.1] * 8

    def test_a_refusal_during_the_ramp_holds_all_again(self) -> None:
        subject = pacer(window=4)
        subject.refused(100.0, cost(99.0), 10.0, 3)
        assert leaving(subject, 100.0, 2) == pytest.approx([110, 110.5])
        subject.refused(110.6, cost(110.5), 1.0, 0)
        assert leaving(subject, 110.6, 3) == pytest.approx([111.6, 111.85, 112.1])

    @pytest.mark.parametrize("useless", [None, 0.0])
    def test_without_a_time_the_wait_doubles_with_jitter(self, useless: float | None) -> None:
        for seed in range(50):
            subject = pacer(seed=seed)
            now = 100.0
            for longest in (1, 2, 4, 8, 16, 32, 60, 60):
                subject.refused(now, cost(now), useless, 0)
                wait = subject.wait_s(now, cost())
                assert longest / 2 <= wait <= longest
                now += wait

    def test_waits_without_a_time_differ(self) -> None:
        different = set()
        for seed in range(20):
            subject = pacer(seed=seed)
            subject.refused(0.5, cost(0.5), None, 0)
            different.add(subject.wait_s(0.5, cost()))
        assert len(different) == 20

    def test_refusals_of_what_was_sent_before_the_wait_began_extend_nothing(self) -> None:
        subject = pacer()
        subject.refused(100.0, cost(99.0), None, 64)
        ends = 100.0 + subject.wait_s(100.0, cost())
        for late in range(64):
            subject.refused(100.0 + late / 100, cost(99.5), None, 63 - late)
        assert 100.2 + subject.wait_s(100.2, cost()) == pytest.approx(ends)
        subject.refused(ends + 0.1, cost(ends), None, 0)  # sent after it: the second in a row
        assert 1 <= subject.wait_s(ends + 0.1, cost()) <= 2

    def test_a_success_begins_the_doubling_anew(self) -> None:
        subject = pacer()
        for now in (100.0, 110.0, 120.0, 130.0):
            subject.refused(now, cost(now), None, 0)
        attempt = cost()
        subject.sent(150.0, attempt, 1)
        subject.answered(151.0, attempt, Usage(), 0)
        subject.refused(160.0, cost(160.0), None, 0)
        assert subject.wait_s(160.0, cost()) <= 1

    def test_failures_are_no_success(self) -> None:
        subject = pacer()
        for turn in range(4):
            subject.refused(100.0 + 10 * turn, cost(100.0 + 10 * turn), None, 0)
        attempt = cost()
        subject.sent(150.0, attempt, 1)
        subject.failed(151.0, attempt, 0, of_row=False, reached=True)
        subject.refused(160.0, cost(160.0), None, 0)
        assert 8 <= subject.wait_s(160.0, cost()) <= 16
