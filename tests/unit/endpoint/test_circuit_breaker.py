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
    outage = CircuitBreaker(600)
    for _ in range(answers):
        number = outage.sent()
        outage.answered(number, first=True)
        outage.ended(number)
    return outage


def fail_one(outage: CircuitBreaker, now: float = 0.0) -> bool:
    """One more is sent and fails, alone."""
    number = outage.sent()
    begins = outage.failed(now, number, first=True)
    outage.ended(number)
    return begins


def answer_one(outage: CircuitBreaker) -> None:
    number = outage.sent()
    outage.answered(number, first=True)
    outage.ended(number)


def failing_alone(outage: CircuitBreaker, now: float = 0.0) -> CircuitBreaker:
    """Down, by requests that went one at a time."""
    for _ in range(10):
        if fail_one(outage, now):
            return outage
    raise AssertionError


def failures_until_it_begins(outage: CircuitBreaker) -> int:
    return next(count for count in range(1, 1_000) if fail_one(outage))


class Window:
    """So many in flight; what is sent takes the place of what ends, as far as the doubt allows."""

    def __init__(self, outage: CircuitBreaker, size: int) -> None:
        self.outage = outage
        self.size = size
        self.open = [outage.sent() for _ in range(size)]
        self.sent_since = 0

    def refill(self) -> None:
        most = self.outage.most_in_flight
        while not self.outage.on and len(self.open) < (self.size if most is None else min(self.size, most)):
            self.open.append(self.outage.sent())
            self.sent_since += 1

    def fail(self, number: int, **how: bool) -> bool:
        begins = self.outage.failed(0.0, number, **{"first": True, **how})
        self.open.remove(number)
        self.outage.ended(number)
        self.refill()
        return begins

    def answer(self, number: int) -> None:
        self.outage.answered(number, first=True)
        self.open.remove(number)
        self.outage.ended(number)
        self.refill()


# ----------------------------------------------------------------------------------------------------- how it begins


@pytest.mark.parametrize(("answers", "needed"), [(FRESH, 5), (PROVEN, 3)])
def test_one_at_a_time_a_few_in_a_row_are_enough(answers: int, needed: int) -> None:
    assert failures_until_it_begins(known(answers)) == needed


@pytest.mark.parametrize("size", [2, 8, 64, 1_024])
def test_a_server_that_dies_with_all_it_has_in_flight(size: int) -> None:
    """What was in flight fails first; a few that were sent afterwards have to fail as well."""
    outage = known(PROVEN)
    window = Window(outage, size)
    for number in list(window.open):
        window.fail(number)
    while not outage.on:
        window.fail(window.open[0])
    assert window.sent_since <= 4


@pytest.mark.parametrize("size", [2, 8, 64, 1_024])
@pytest.mark.parametrize("answers_between", [1, 2, 7])
def test_a_server_that_finishes_what_it_has_begun_is_found_by_what_is_new(size: int, answers_between: int) -> None:
    """What is new fails at once, while old requests are still answered."""
    outage = known(PROVEN)
    window = Window(outage, size)
    last_good = max(window.open)
    for _ in range(10):
        for number in [n for n in window.open if n <= last_good][:answers_between]:
            window.answer(number)
        for number in [n for n in window.open if n > last_good]:
            window.fail(number)
        if outage.on:
            break
    assert outage.on
    assert window.sent_since <= max(4, answers_between + 2)


@pytest.mark.parametrize(("size", "dying"), [(16, 8), (64, 8), (64, 32), (1_024, 128)])
def test_one_machine_of_several_that_dies_is_no_outage(size: int, dying: int) -> None:
    """All that it had fails at once; whatever is sent then is answered."""
    outage = known(PROVEN)
    window = Window(outage, size)
    last = max(window.open)
    for number in window.open[:dying]:
        assert not window.fail(number)
    for number in [n for n in window.open if n > last]:
        window.answer(number)
    assert not outage.on and outage.most_in_flight is None


def test_what_fails_again_is_no_evidence() -> None:
    outage = known(PROVEN)
    for _ in range(1_000):
        number = outage.sent()
        assert not outage.failed(0.0, number, first=False)
        outage.ended(number)
    assert not outage.on and not outage.failing and outage.most_in_flight is None


def test_the_more_fails_usually_the_more_has_to_fail() -> None:
    needed = []
    for every in (100, 10, 5, 3, 2):
        outage = CircuitBreaker(600)
        for n in range(1_000):
            number = outage.sent()
            if n % every:
                outage.answered(number, first=True)
            else:
                assert not outage.failed(0.0, number, first=True)
            outage.ended(number)
        needed.append(failures_until_it_begins(outage))
    assert needed == sorted(needed)
    assert needed[0] <= 4 and needed[-1] >= 15


def test_after_a_false_outage_more_failures_are_needed_until_it_is_forgotten() -> None:
    outage = known(PROVEN)
    needed = []
    for _ in range(5):
        needed.append(failures_until_it_begins(outage))
        outage.probed(3.5)
        outage.over()
    assert needed == sorted(set(needed)) and needed[-1] >= 4 * needed[0]
    for _ in range(4_000):
        answer_one(outage)
    assert failures_until_it_begins(outage) == needed[0]


def test_a_real_outage_does_not_make_failures_usual() -> None:
    outage = failing_alone(known(PROVEN))
    usual = outage.usual_share
    outage.probed(3.5)
    outage.probed(8.2)
    outage.over()
    assert outage.usual_share == usual


def test_one_that_a_request_of_the_runs_own_has_found_is_real() -> None:
    outage = known(PROVEN)
    usual = outage.usual_share
    outage.begin(5.0)
    assert outage.on
    outage.probed(8.5)
    outage.over()
    assert (outage.usual_share, outage.past) == (usual, 1)
    failing_alone(outage).probed(9.0)
    outage.over()
    assert outage.usual_share > usual and outage.past == 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.02, 0.1, 0.25])
@pytest.mark.parametrize(("fails_after", "spread"), [(1.0, 0.0), (1.0, 0.5), (1.0, 3.0), (0.0, 1.0), (0.001, 30.0)])
def test_failures_at_random_are_no_outage(seed: int, share: float, fails_after: float, spread: float) -> None:
    """Of 20,000 that share fails, sooner or later than others are answered; a failed row is tried again, as a new request."""
    draw = random.Random(seed)
    outage = known(FRESH)
    ends: list[tuple[float, int, bool, bool]] = []
    size, rows, false_ones, held = 64, 0, 0, 0
    again: list[float] = []
    now = 0.0

    def refill() -> None:
        nonlocal rows, held
        most = outage.most_in_flight
        held += most is not None
        while len(ends) < (size if most is None else min(size, most)):
            first = not (again and again[0] <= now and heapq.heappop(again))
            rows += first
            fails = draw.random() < share
            took = fails_after if fails else 1.0 + spread * draw.random()
            heapq.heappush(ends, (now + took, outage.sent(), first, fails))

    refill()
    while rows < 20_000:
        now, number, first, fails = heapq.heappop(ends)
        if fails:
            if outage.failed(now, number, first=first):
                false_ones += 1
                outage.probed(now)
                outage.over()
            heapq.heappush(again, now + 1.0)
        else:
            outage.answered(number, first=first)
        outage.ended(number)
        refill()
    assert false_ones <= (share > 0.1), "at first a quarter is unheard of"
    assert held < 0.02 * rows


# --------------------------------------------------------------------------------------------------------- time-outs


def test_a_time_out_of_an_old_request_says_nothing() -> None:
    outage = known(PROVEN)
    old = [outage.sent() for _ in range(20)]
    answer_one(outage)
    for number in old:
        assert not outage.failed(0.0, number, first=True, timed_out=True)
    assert not outage.on and not outage.failing


def test_a_time_out_of_a_request_that_no_later_one_outran_counts() -> None:
    outage = known(PROVEN)
    window = Window(outage, 64)
    for number in list(window.open):
        window.fail(number, timed_out=True)
    assert outage.failing and not outage.on
    while not outage.on:
        window.fail(window.open[0], timed_out=True)
    assert window.sent_since <= 4


# ------------------------------------------------------------------------------------------------------------- doubt


def test_two_in_a_row_raise_a_doubt_and_an_answer_ends_it() -> None:
    outage = known(PROVEN)
    window = Window(outage, 64)
    older = list(window.open)
    window.fail(older[5])
    assert outage.failing and outage.most_in_flight is None
    window.fail(older[6])
    assert not outage.on
    assert outage.most_in_flight == 64, "one besides those 63 that were sent before"
    window.answer(older[0])
    assert outage.failing and outage.most_in_flight is None, "two of 60 that were sent since the first are not many"
    window.answer(older[7])
    assert not outage.failing


def test_an_answer_to_what_was_sent_before_ends_no_doubt_of_what_is_new() -> None:
    outage = known(PROVEN)
    window = Window(outage, 64)
    older = list(window.open)
    for count in range(2):
        window.answer(older[count])
        window.fail(max(window.open))
    assert outage.most_in_flight is not None
    window.answer(older[2])
    assert outage.failing and outage.most_in_flight is not None


def test_what_hangs_does_not_keep_what_is_new_from_being_tried() -> None:
    outage = known(PROVEN)
    window = Window(outage, 64)
    hanging = window.open[2:]
    for number in window.open[:2]:
        window.fail(number)
    while not outage.on:
        window.fail(next(n for n in window.open if n not in hanging))
    assert window.sent_since <= 4


# ------------------------------------------------------------------------------------------------ probes, and the end


def probe_times(until: float, began: float = 1_000.0) -> list[float]:
    """When probes go, in seconds since the outage began."""
    outage = failing_alone(CircuitBreaker(1e9), began)
    now, times = began, []
    while (now := now + outage.probe_in_s(now)) <= began + until:
        times.append(now - began)
        assert outage.probe_in_s(now) == 0
        outage.probed(now)
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
    outage = failing_alone(CircuitBreaker(600))
    assert outage.probe_in_s(2.0) == pytest.approx(1.6)
    assert outage.probe_in_s(500.0) == 0


def test_an_answered_probe_ends_it_and_all_begins_anew() -> None:
    outage = failing_alone(CircuitBreaker(600))
    for at in (3.0, 7.5, 100.0):
        outage.probed(at)
    outage.over()
    assert (outage.on, outage.failing, outage.most_in_flight, outage.lasted_s(101.0)) == (False, False, None, 0.0)
    assert outage.probe_in_s(101.0) == float("inf")
    assert [fail_one(outage, 200.0) for _ in range(5)] == [False, False, False, False, True]
    assert outage.probe_in_s(200.0) == pytest.approx(3.6)
    assert outage.lasted_s(207.0) == 7.0


def test_what_fails_meanwhile_begins_no_second_one_and_what_is_answered_does_not_end_it() -> None:
    outage = CircuitBreaker(600)
    old = [outage.sent() for _ in range(64)]
    failing_alone(outage, 5.0)
    assert not any(outage.failed(6.0, n, first=True) for n in old[:30])
    outage.answered(old[30], first=True)
    assert outage.on
    assert outage.lasted_s(9.0) == 4.0


def test_the_last_probe_goes_when_it_has_lasted_too_long() -> None:
    outage = failing_alone(CircuitBreaker(10.0), 100.0)
    times, now = [], 100.0
    for _ in range(4):
        now += outage.probe_in_s(now)
        outage.probed(now)
        times.append(now - 100.0)
    assert times[:3] == pytest.approx([3.6, 8.9, 10.0])
    assert outage.too_long(now)


def test_time_in_which_nothing_may_be_asked_does_not_count() -> None:
    outage = failing_alone(CircuitBreaker(600), 100.0)
    outage.probed(103.5)
    outage.barred(36_000.0)
    assert outage.lasted_s(36_105.0) == 5.0
    assert outage.probe_in_s(36_103.5) == pytest.approx(5.3)


def test_too_long() -> None:
    outage = CircuitBreaker(600)
    assert not outage.too_long(1e9)
    failing_alone(outage, 50.0)
    outage.probed(500.0)  # that it is asked does not make it shorter
    assert not outage.too_long(649.9)
    assert outage.too_long(650.0)
    outage.over()
    assert not outage.too_long(1e9)
