"""Whether an endpoint is down: what is sent, what fails and what is answered as tables, the clock as a number."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from batchflex.endpoint.circuit_breaker import CircuitBreaker

# What is expected with no more known than at the start, and after a thousand answers.
FRESH, PROVEN = 0, 1_000


def known(answers: int) -> CircuitBreaker:
    breaker = CircuitBreaker(600)
    for _ in range(answers):
        number = breaker.sent()
        breaker.answered(number, first=True)
        breaker.ended(number)
    return breaker


def fail_one(breaker: CircuitBreaker, now: float = 0.0) -> bool:
    """One more is sent and fails, alone."""
    number = breaker.sent()
    begins = breaker.failed(now, number, first=True)
    breaker.ended(number)
    return begins


def answer_one(breaker: CircuitBreaker) -> None:
    number = breaker.sent()
    breaker.answered(number, first=True)
    breaker.ended(number)


def failing_alone(breaker: CircuitBreaker, now: float = 0.0) -> CircuitBreaker:
    """Down, by requests that went one at a time."""
    for _ in range(10):
        if fail_one(breaker, now):
            return breaker
    raise AssertionError


def failures_until_it_begins(breaker: CircuitBreaker) -> int:
    return next(count for count in range(1, 1_000) if fail_one(breaker))


class Window:
    """So many in flight; what is sent takes the place of what ends, as far as the doubt allows."""

    def __init__(self, breaker: CircuitBreaker, size: int) -> None:
        self.breaker = breaker
        self.size = size
        self.open = [breaker.sent() for _ in range(size)]
        self.sent_since = 0

    def refill(self) -> None:
        most = self.breaker.most_in_flight
        while not self.breaker.is_open and len(self.open) < (self.size if most is None else min(self.size, most)):
            self.open.append(self.breaker.sent())
            self.sent_since += 1

    def fail(self, number: int, **how: bool) -> bool:
        begins = self.breaker.failed(0.0, number, **{"first": True, **how})
        self.open.remove(number)
        self.breaker.ended(number)
        self.refill()
        return begins

    def answer(self, number: int) -> None:
        self.breaker.answered(number, first=True)
        self.open.remove(number)
        self.breaker.ended(number)
        self.refill()


# ----------------------------------------------------------------------------------------------------- how it begins


@pytest.mark.parametrize(("answers", "needed"), [(FRESH, 5), (PROVEN, 3)])
def test_one_at_a_time_a_few_in_a_row_are_enough(answers: int, needed: int) -> None:
    assert failures_until_it_begins(known(answers)) == needed


@pytest.mark.parametrize("size", [2, 8, 64, 1_024])
def test_a_server_that_dies_with_all_it_has_in_flight(size: int) -> None:
    """What was in flight fails first; a few that were sent afterwards have to fail as well."""
    breaker = known(PROVEN)
    window = Window(breaker, size)
    for number in list(window.open):
        window.fail(number)
    while not breaker.is_open:
        window.fail(window.open[0])
    assert window.sent_since <= 4


@pytest.mark.parametrize("size", [2, 8, 64, 1_024])
@pytest.mark.parametrize("answers_between", [1, 2, 7])
def test_a_server_that_finishes_what_it_has_begun_is_found_by_what_is_new(size: int, answers_between: int) -> None:
    """What is new fails at once, while old requests are still answered."""
    breaker = known(PROVEN)
    window = Window(breaker, size)
    last_good = max(window.open)
    for _ in range(10):
        for number in [n for n in window.open if n <= last_good][:answers_between]:
            window.answer(number)
        for number in [n for n in window.open if n > last_good]:
            window.fail(number)
        if breaker.is_open:
            break
    assert breaker.is_open
    assert window.sent_since <= max(4, answers_between + 2)


@pytest.mark.parametrize(("size", "dying"), [(16, 8), (64, 8), (64, 32), (1_024, 128)])
def test_one_machine_of_several_that_dies_is_no_outage(size: int, dying: int) -> None:
    """All that it had fails at once; whatever is sent then is answered."""
    breaker = known(PROVEN)
    window = Window(breaker, size)
    last = max(window.open)
    for number in window.open[:dying]:
        assert not window.fail(number)
    for number in [n for n in window.open if n > last]:
        window.answer(number)
    assert not breaker.is_open and breaker.most_in_flight is None


def test_what_fails_again_is_no_evidence() -> None:
    breaker = known(PROVEN)
    for _ in range(1_000):
        number = breaker.sent()
        assert not breaker.failed(0.0, number, first=False)
        breaker.ended(number)
    assert not breaker.is_open and not breaker.failing and breaker.most_in_flight is None


def test_the_more_fails_usually_the_more_has_to_fail() -> None:
    needed = []
    for every in (100, 10, 5, 3, 2):
        breaker = CircuitBreaker(600)
        for n in range(1_000):
            number = breaker.sent()
            if n % every:
                breaker.answered(number, first=True)
            else:
                assert not breaker.failed(0.0, number, first=True)
            breaker.ended(number)
        needed.append(failures_until_it_begins(breaker))
    assert needed == sorted(needed)
    assert needed[0] <= 4 and needed[-1] >= 15


def test_after_a_false_outage_more_failures_are_needed_until_it_is_forgotten() -> None:
    breaker = known(PROVEN)
    needed = []
    for _ in range(5):
        needed.append(failures_until_it_begins(breaker))
        breaker.probed(3.5)
        breaker.close()
    assert needed == sorted(set(needed)) and needed[-1] >= 4 * needed[0]
    for _ in range(4_000):
        answer_one(breaker)
    assert failures_until_it_begins(breaker) == needed[0]


def test_a_real_outage_does_not_make_failures_usual() -> None:
    breaker = failing_alone(known(PROVEN))
    usual = breaker.usual_share
    breaker.probed(3.5)
    breaker.probed(8.2)
    breaker.close()
    assert breaker.usual_share == usual


def test_one_that_a_request_of_the_runs_own_has_found_is_real() -> None:
    breaker = known(PROVEN)
    usual = breaker.usual_share
    breaker.open(5.0)
    assert breaker.is_open
    breaker.probed(8.5)
    breaker.close()
    assert (breaker.usual_share, breaker.past_outages) == (usual, 1)
    failing_alone(breaker).probed(9.0)
    breaker.close()
    assert breaker.usual_share > usual and breaker.past_outages == 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.02, 0.1, 0.25])
@pytest.mark.parametrize(("fails_after", "spread"), [(1.0, 0.0), (1.0, 0.5), (1.0, 3.0), (0.0, 1.0), (0.001, 30.0)])
def test_failures_at_random_are_no_outage(seed: int, share: float, fails_after: float, spread: float) -> None:
    """Of 20,000 that share fails, sooner or later than others are answered; a failed row is tried again, as a new request."""
    draw = random.Random(seed)
    breaker = known(FRESH)
    ends: list[tuple[float, int, bool, bool]] = []
    size, rows, false_ones, held = 64, 0, 0, 0
    again: list[float] = []
    now = 0.0

    def refill() -> None:
        nonlocal rows, held
        most = breaker.most_in_flight
        held += most is not None
        while len(ends) < (size if most is None else min(size, most)):
            first = not (again and again[0] <= now and heapq.heappop(again))
            rows += first
            fails = draw.random() < share
            took = fails_after if fails else 1.0 + spread * draw.random()
            heapq.heappush(ends, (now + took, breaker.sent(), first, fails))

    refill()
    while rows < 20_000:
        now, number, first, fails = heapq.heappop(ends)
        if fails:
            if breaker.failed(now, number, first=first):
                false_ones += 1
                breaker.probed(now)
                breaker.close()
            heapq.heappush(again, now + 1.0)
        else:
            breaker.answered(number, first=first)
        breaker.ended(number)
        refill()
    assert false_ones <= (share > 0.1), "at first a quarter is unheard of"
    assert held < 0.02 * rows


# --------------------------------------------------------------------------------------------------------- time-outs


def test_a_time_out_of_an_old_request_says_nothing() -> None:
    breaker = known(PROVEN)
    old = [breaker.sent() for _ in range(20)]
    answer_one(breaker)
    for number in old:
        assert not breaker.failed(0.0, number, first=True, timed_out=True)
    assert not breaker.is_open and not breaker.failing


def test_a_time_out_of_a_request_that_no_later_one_outran_counts() -> None:
    breaker = known(PROVEN)
    window = Window(breaker, 64)
    for number in list(window.open):
        window.fail(number, timed_out=True)
    assert breaker.failing and not breaker.is_open
    while not breaker.is_open:
        window.fail(window.open[0], timed_out=True)
    assert window.sent_since <= 4


# ------------------------------------------------------------------------------------------------------------- doubt


def test_two_in_a_row_raise_a_doubt_and_an_answer_ends_it() -> None:
    breaker = known(PROVEN)
    window = Window(breaker, 64)
    older = list(window.open)
    window.fail(older[5])
    assert breaker.failing and breaker.most_in_flight is None
    window.fail(older[6])
    assert not breaker.is_open
    assert breaker.most_in_flight == 64, "one besides those 63 that were sent before"
    window.answer(older[0])
    assert breaker.failing and breaker.most_in_flight is None, "two of 60 that were sent since the first are not many"
    window.answer(older[7])
    assert not breaker.failing


def test_an_answer_to_what_was_sent_before_ends_no_doubt_of_what_is_new() -> None:
    breaker = known(PROVEN)
    window = Window(breaker, 64)
    older = list(window.open)
    for count in range(2):
        window.answer(older[count])
        window.fail(max(window.open))
    assert breaker.most_in_flight is not None
    window.answer(older[2])
    assert breaker.failing and breaker.most_in_flight is not None


def test_what_hangs_does_not_keep_what_is_new_from_being_tried() -> None:
    breaker = known(PROVEN)
    window = Window(breaker, 64)
    hanging = window.open[2:]
    for number in window.open[:2]:
        window.fail(number)
    while not breaker.is_open:
        window.fail(next(n for n in window.open if n not in hanging))
    assert window.sent_since <= 4


# ------------------------------------------------------------------------------------------------ probes, and the end


def probe_times(until: float, began: float = 1_000.0) -> list[float]:
    """When probes go, in seconds since the breaker began."""
    breaker = failing_alone(CircuitBreaker(1e9), began)
    now, times = began, []
    while (now := now + breaker.probe_in_s(now)) <= began + until:
        times.append(now - began)
        assert breaker.probe_in_s(now) == 0
        breaker.probed(now)
    return times


def test_the_first_probes_come_soon_and_are_few() -> None:
    assert probe_times(30) == pytest.approx([3.6, 8.9, 14.2, 19.5, 24.8])


def test_probes_grow_rarer_after_the_first_minute_up_to_30_s() -> None:
    times = probe_times(3_600)
    gaps = [(at, after - at) for at, after in itertools.pairwise(times)]
    assert all(gap == pytest.approx(5.3) for at, gap in gaps if at < 66)
    growing = [gap for at, gap in gaps if 70 <= at < 370]
    assert len(growing) > 10 and all(one < two for one, two in itertools.pairwise(growing))
    assert all(gap == pytest.approx(30) for at, gap in gaps if at >= 376)
    assert max(gap for _, gap in gaps) <= 30 + 1e-9


def test_a_probe_that_is_late_is_due_at_once() -> None:
    breaker = failing_alone(CircuitBreaker(600))
    assert breaker.probe_in_s(2.0) == pytest.approx(1.6)
    assert breaker.probe_in_s(500.0) == 0


def test_an_answered_probe_ends_it_and_all_begins_anew() -> None:
    breaker = failing_alone(CircuitBreaker(600))
    for at in (3.0, 7.5, 100.0):
        breaker.probed(at)
    breaker.close()
    assert (breaker.is_open, breaker.failing, breaker.most_in_flight, breaker.lasted_s(101.0)) == (
        False,
        False,
        None,
        0.0,
    )
    assert breaker.probe_in_s(101.0) == float("inf")
    assert [fail_one(breaker, 200.0) for _ in range(5)] == [False, False, False, False, True]
    assert breaker.probe_in_s(200.0) == pytest.approx(3.6)
    assert breaker.lasted_s(207.0) == 7.0


def test_what_fails_meanwhile_begins_no_second_one_and_what_is_answered_does_not_end_it() -> None:
    breaker = CircuitBreaker(600)
    old = [breaker.sent() for _ in range(64)]
    failing_alone(breaker, 5.0)
    assert not any(breaker.failed(6.0, n, first=True) for n in old[:30])
    breaker.answered(old[30], first=True)
    assert breaker.is_open
    assert breaker.lasted_s(9.0) == 4.0


def test_the_last_probe_goes_when_it_has_lasted_too_long() -> None:
    breaker = failing_alone(CircuitBreaker(10.0), 100.0)
    times, now = [], 100.0
    for _ in range(4):
        now += breaker.probe_in_s(now)
        breaker.probed(now)
        times.append(now - 100.0)
    assert times[:3] == pytest.approx([3.6, 8.9, 10.0])
    assert breaker.too_long(now)


def test_time_in_which_nothing_may_be_asked_does_not_count() -> None:
    breaker = failing_alone(CircuitBreaker(600), 100.0)
    breaker.probed(103.5)
    breaker.barred(36_000.0)
    assert breaker.lasted_s(36_105.0) == 5.0
    assert breaker.probe_in_s(36_103.5) == pytest.approx(5.3)


def test_too_long() -> None:
    breaker = CircuitBreaker(600)
    assert not breaker.too_long(1e9)
    failing_alone(breaker, 50.0)
    breaker.probed(500.0)  # that it is asked does not make it shorter
    assert not breaker.too_long(649.9)
    assert breaker.too_long(650.0)
    breaker.close()
    assert not breaker.too_long(1e9)
