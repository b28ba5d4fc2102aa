"""Whether an endpoint is down: what is sent, what fails and what is answered as tables, the clock as a number."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from batchflex.outage import Outage


def row(number: int) -> bytes:
    return f"row {number}".encode()


def failing_alone(outage: Outage, now: float = 0.0) -> Outage:
    """Down, by requests that went one at a time."""
    for number in range(10):
        if outage.failed(now, outage.sent(), row(number), 0):
            return outage
    raise AssertionError


# ----------------------------------------------------------------------------------------------------- how it begins


def events(table: str, in_flight: int = 64) -> int | None:
    """``table``: which of 64 that are in flight (1 to 64) ends, in order: ``3x`` fails, ``3`` is answered.

    Returns after how many of them the outage began.
    """
    outage = Outage(600)
    for _ in range(in_flight):
        outage.sent()
    for count, event in enumerate(table.split(), 1):
        number = int(event.rstrip("x"))
        if not event.endswith("x"):
            outage.answered(number)
        elif outage.failed(0.0, number, row(number), in_flight - count):
            assert outage.on
            return count
    assert not outage.on
    return None


@pytest.mark.parametrize(
    ("table", "after"),
    [
        ("1x", None),
        ("1x 2x 3x 4x 5x", None),
        ("1x 2x 3x 4x 5x 6x", 6),
        ("6x 5x 4x 3x 2x 1x", 6),
        ("9 1x 2x 3x 4x 5x 6x", 7),
        ("1x 2x 3x 4x 5x 9", None),
        ("1x 2x 3x 4x 5x 9 6x 7x 8x 10x 11x", None),
        ("1x 2x 3x 4x 5x 9 6x 7x 8x 10x 11x 12x", 12),
        ("1x 9 2x 10 3x 11 4x 12 5x 13 6x 14 7x 15 8x", None),
        ("20x 1 21x 2 22x 3 23x 4 24x 5 25x 6 26x 7 27x 8", None),
    ],
)
def test_six_in_a_row_of_many_in_flight(table: str, after: int | None) -> None:
    assert events(table) == after


def test_alone_four_are_enough() -> None:
    outage = Outage(600)
    assert [outage.failed(0.0, outage.sent(), row(n), 0) for n in range(4)] == [False, False, False, True]
    assert outage.on


def test_with_none_left_in_flight_four_of_many_are_enough() -> None:
    outage = Outage(600)
    for _ in range(64):
        outage.sent()
    for number in range(1, 61):
        outage.answered(number)
    assert [outage.failed(0.0, 61 + n, row(n), 3 - n) for n in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("in_flight", [0, 1, 63])
def test_the_same_row_again_and_again_is_no_outage(in_flight: int) -> None:
    outage = Outage(600)
    assert not any(outage.failed(0.0, outage.sent(), b"the row", in_flight) for _ in range(1_000))
    assert not outage.on and not outage.doubted


def test_three_rows_are_no_outage_however_often_they_fail() -> None:
    outage = Outage(600)
    assert not any(outage.failed(0.0, outage.sent(), row(n % 3), 0) for n in range(1_000))


def test_after_a_false_outage_twice_as_many_failures_are_needed_until_something_is_answered() -> None:
    outage = Outage(600)

    def failures_until_it_begins() -> int:
        for n in range(1, 1_000):
            if outage.failed(0.0, outage.sent(), row(n), 0):
                return n
        raise AssertionError("it never begins")

    needed = []
    for _ in range(7):
        needed.append(failures_until_it_begins())
        outage.probed(3.5)
        outage.over()
    assert needed == [4, 8, 16, 32, 64, 64, 64]
    outage.answered(outage.sent())
    assert failures_until_it_begins() == 4


@pytest.mark.parametrize("in_flight", [8, 64, 1_024])
@pytest.mark.parametrize("answers_between", [1, 2, 7])
def test_a_server_that_finishes_what_it_has_begun_is_found_by_what_is_new(in_flight: int, answers_between: int) -> None:
    """New requests fail at once, each after so many answers to old ones; an answer leaves the place of a new one."""
    outage = Outage(600)
    old = iter([outage.sent() for _ in range(in_flight)])
    for new in range(1, 5):
        for number in itertools.islice(old, answers_between):
            outage.answered(number)
        begins = outage.failed(0.0, outage.sent(), row(new), 1)
        assert outage.doubted == (new >= 3)
        if begins:
            break
    assert outage.on
    assert new <= 4


def test_one_answer_to_what_is_new_is_enough_to_go_on() -> None:
    outage = Outage(600)
    old = [outage.sent() for _ in range(64)]
    for number in range(3):
        assert not outage.failed(0.0, outage.sent(), row(number), 64)
        outage.answered(old.pop())
    assert outage.doubted
    outage.answered(outage.sent())
    assert not outage.doubted
    for number in range(3, 6):
        assert not outage.failed(0.0, outage.sent(), row(number), 64)
        outage.answered(old.pop())
    assert not outage.on


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_failures_at_random_are_no_outage(seed: int, spread: float) -> None:
    """A tenth of 20,000 fails, after as long as an answer takes; a failed row is tried again, as a new request."""
    draw = random.Random(seed)
    outage = Outage(600)
    ends: list[tuple[float, int, bytes]] = []
    rows = (row(n) for n in itertools.count())
    doubts = 0

    def send(now: float, which: bytes) -> None:
        heapq.heappush(ends, (now + 1.0 + spread * draw.random(), outage.sent(), which))

    for number in range(64):
        send(number / 64, next(rows))
    for _ in range(20_000):
        now, number, which = heapq.heappop(ends)
        if draw.random() < 0.1:
            assert not outage.failed(now, number, which, len(ends))
            doubts += outage.doubted
            send(now, which)
        else:
            outage.answered(number)
            send(now, next(rows))
    assert not outage.on
    assert doubts < 20_000 * 0.02


# --------------------------------------------------------------------------------------------------------- time-outs


def test_a_time_out_of_an_old_request_says_nothing() -> None:
    outage = Outage(600)
    old = [outage.sent() for _ in range(20)]
    outage.answered(outage.sent())
    for number in old:
        assert not outage.failed(0.0, number, row(number), 0, timed_out=True)
    assert not outage.on and not outage.doubted


def test_a_time_out_of_a_request_that_no_later_one_outran_counts() -> None:
    outage = Outage(600)
    outage.answered(outage.sent())
    late = [outage.sent() for _ in range(64)]
    assert [outage.failed(0.0, n, row(n), 60, timed_out=True) for n in late[:6]] == [*[False] * 5, True]


def test_another_failure_of_an_old_request_counts() -> None:
    outage = Outage(600)
    old = [outage.sent() for _ in range(64)]
    outage.answered(outage.sent())
    assert [outage.failed(0.0, n, row(n), 60) for n in old[:6]] == [*[False] * 5, True]


# ------------------------------------------------------------------------------------------------------------- doubt


def test_two_in_a_row_raise_a_doubt_and_an_answer_ends_it() -> None:
    outage = Outage(600)
    numbers = [outage.sent() for _ in range(64)]
    outage.failed(0.0, numbers[0], row(0), 63)
    assert not outage.doubted
    outage.failed(0.0, numbers[1], row(1), 62)
    assert outage.doubted and not outage.on
    outage.answered(numbers[2])
    assert not outage.doubted


# ------------------------------------------------------------------------------------------------ probes, and the end


def probe_times(until: float, began: float = 1_000.0) -> list[float]:
    """When probes go, in seconds since the outage began."""
    outage = failing_alone(Outage(1e9), began)
    now, times = began, []
    while (now := now + outage.probe_in_s(now)) <= began + until:
        times.append(now - began)
        assert outage.probe_in_s(now) == 0
        outage.probed(now)
    return times


def test_the_first_probes_come_soon_and_are_few() -> None:
    assert probe_times(30) == pytest.approx([3.5, 8.2, 12.9, 17.6, 22.3, 27.0])
    assert len(probe_times(30)) <= 7


def test_probes_grow_rarer_after_the_first_minute_up_to_30_s() -> None:
    times = probe_times(3_600)
    gaps = [(at, after - at) for at, after in itertools.pairwise(times)]
    assert all(gap == pytest.approx(4.7) for at, gap in gaps if at < 56)
    growing = [gap for at, gap in gaps if 60 <= at < 370]
    assert len(growing) > 10 and all(one < two for one, two in itertools.pairwise(growing))
    assert all(gap == pytest.approx(30) for at, gap in gaps if at >= 376)
    assert max(gap for _, gap in gaps) <= 30 + 1e-9


def test_a_probe_that_is_late_is_due_at_once() -> None:
    outage = failing_alone(Outage(600))
    assert outage.probe_in_s(2.0) == pytest.approx(1.5)
    assert outage.probe_in_s(500.0) == 0


def test_an_answered_probe_ends_it_and_all_begins_anew() -> None:
    outage = failing_alone(Outage(600))
    for at in (3.0, 7.5, 100.0):
        outage.probed(at)
    outage.over()
    assert (outage.on, outage.doubted, outage.lasted_s(101.0)) == (False, False, 0.0)
    assert outage.probe_in_s(101.0) == float("inf")
    assert [outage.failed(200.0, outage.sent(), row(n), 0) for n in range(4)] == [False, False, False, True]
    assert outage.probe_in_s(200.0) == pytest.approx(3.5)
    assert outage.lasted_s(207.0) == 7.0


def test_what_fails_meanwhile_begins_no_second_one_and_what_is_answered_does_not_end_it() -> None:
    outage = Outage(600)
    old = [outage.sent() for _ in range(64)]
    assert [outage.failed(5.0, n, row(n), 60) for n in old[:6]][-1]
    assert not any(outage.failed(6.0, n, row(n), 0) for n in old[6:30])
    outage.answered(old[30])
    assert outage.on
    assert outage.lasted_s(9.0) == 4.0


def test_too_long() -> None:
    outage = Outage(600)
    assert not outage.too_long(1e9)
    failing_alone(outage, 50.0)
    outage.probed(500.0)  # that it is asked does not make it shorter
    assert not outage.too_long(649.9)
    assert outage.too_long(650.0)
    outage.over()
    assert not outage.too_long(1e9)
