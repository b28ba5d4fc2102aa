"""The window, by simulation: how much of what a server can give it gets, and with how many in flight."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any, get_args

import pytest

from batchflex.core.types import Usage
from batchflex.endpoint.concurrency_limit import ConcurrencyLimit, End
from batchflex.endpoint.cost import Cost
from batchflex.endpoint.pacer import Allowance, Pacer
from batchflex.protocol.rate_limit_headers import Limited
from tests.support.simulation import Batching, Client, Ended, Proxy, Slots, auto


def client(server: Slots | Batching | Proxy, **more: Any) -> Client:
    return Client(server, Pacer(auto(), Allowance(jitter=random.Random(1))), **more)


def test_a_fixed_window_stays_whatever_comes() -> None:
    window = ConcurrencyLimit(64, fixed=True)
    ends: tuple[End, ...] = get_args(End)
    for end in ends:
        for moment in range(1_000):
            window.left(moment / 100, moment / 100 - 1, 63, end)
    assert (window.size, window.last_reason) == (64, "fixed")


@pytest.mark.parametrize("slots", [4, 32, 256])
@pytest.mark.parametrize("jitter_s", [0.0, 0.004, 0.1])
def test_a_server_with_slots_gets_little_more_than_they_hold(slots: int, jitter_s: float) -> None:
    chance = random.Random(slots)
    asked = client(Slots(slots, lambda: 0.2 + jitter_s * chance.random())).run(45)
    best = slots / (0.2 + jitter_s / 2)
    assert asked.rate(15, 45) >= 0.93 * best
    assert asked.largest(15, 45) <= 1.5 * slots + (2 if jitter_s > 0.01 else 0) + (slots < 8) * 4 * (jitter_s > 0.01)


@pytest.mark.parametrize("slots", [32, 256])
def test_times_that_vary_a_lot_are_seen_through(slots: int) -> None:
    chance = random.Random(5)
    asked = client(Slots(slots, lambda: chance.expovariate(5))).run(90)
    assert asked.rate(40, 90) >= 0.85 * slots * 5


def test_it_grows_by_half_while_nothing_waits() -> None:
    asked = client(Slots(100_000, 0.1)).run(2.5)
    sizes = [size for _, size, _ in asked.sizes]
    assert sizes[0] == 8
    assert all(1.2 * one <= other <= 1.5 * one + 1 for one, other in itertools.pairwise(sizes))
    assert sizes[-1] >= 256


@pytest.mark.parametrize("slots", [8, 16, 24, 50, 128, 200, 256, 400, 800])
@pytest.mark.parametrize("jitter_s", [0.0, 0.004, 0.1])
def test_a_server_is_never_sent_much_more_than_it_works_on(slots: int, jitter_s: float) -> None:
    chance = random.Random(slots)
    asked = client(Slots(slots, lambda: 0.2 + jitter_s * chance.random())).run(15)
    assert asked.largest(0, 15) <= 1.6 * slots
    assert asked.rate(6, 15) >= 0.9 * slots / (0.2 + jitter_s / 2)


def test_a_large_server_is_filled_soon() -> None:
    """6,000 rows of 100 ms, and what a process takes to start, beside 256 at a time from the beginning."""
    auto_, fixed = (
        Client(Slots(100_000, 0.1), pacer, rows=6_000, cpu_s=1e-4).run(60).answers[-1]
        for pacer in (Pacer(auto()), Pacer(ConcurrencyLimit(256, fixed=True)))
    )
    assert 0.5 + auto_ <= 1.3 * (0.5 + fixed)


def test_the_queue_that_a_server_shows_bounds_what_it_gets() -> None:
    asked = client(Slots(16, 0.05))
    for moment in range(1, 17):
        asked.run(moment / 2)
        asked.pacer.concurrency.queue(max(0, asked.in_flight - 16))
    assert asked.largest(2, 8) <= 20
    assert asked.rate(2, 8) >= 0.95 * 16 / 0.05


def test_it_follows_a_capacity_that_halves_and_doubles() -> None:
    asked = client(Slots(lambda now: 64 if 30 <= now < 60 else 128)).run(90)
    for begin, slots in ((15, 128), (45, 64), (75, 128)):
        assert asked.rate(begin, begin + 15) >= 0.9 * slots / 0.2
        assert asked.largest(begin, begin + 15) <= 1.75 * slots


@pytest.mark.parametrize("slowdown", [0.3, 0.5])
def test_a_server_that_gets_slower_with_each_and_yet_delivers_more_is_filled(slowdown: float) -> None:
    asked = client(Batching(1.0, 256, slowdown)).run(400)
    assert asked.rate(200, 400) >= 0.85 * 256 / 256**slowdown


@pytest.mark.parametrize("answer_s", [0.0001, 0.0002, 0.001])
def test_a_queue_of_some_milliseconds_is_not_shortened(answer_s: float) -> None:
    asked = client(Slots(1, answer_s)).run(max(1.0, 8_000 * answer_s))
    assert 0.005 <= asked.pacer.concurrency.size * answer_s <= 0.025


def test_a_slow_input_is_not_taken_for_a_slow_endpoint() -> None:
    asked = client(Slots(1_000, 0.2), arrivals=lambda n: n / 20).run(30)
    assert asked.pacer.concurrency.size >= 8
    assert asked.pacer.concurrency.last_reason in ("the window is not used", "begins small")
    asked.arrivals = None
    asked.run(40)
    assert asked.rate(35, 40) >= 4_000, "and once there is enough it goes on growing"


class _Capped(Slots):
    """Refuses what comes while ``most`` are in flight."""

    def __init__(self, most: int, *, named: bool) -> None:
        super().__init__(100_000, 0.2)
        self.most, self.named = most, named
        self.ends: list[float] = []

    def arrive(self, now: float, tokens: int) -> Ended:
        self.ends = [end for end in self.ends if end > now]
        if len(self.ends) >= self.most:
            return Ended(now + 0.002, "refusal", retry_after_s=1.0 if self.named else None)
        self.ends.append(now + 0.2)
        return super().arrive(now, tokens)


@pytest.mark.parametrize("named", [True, False])
def test_refusals_of_too_many_at_a_time_cut_it(named: bool) -> None:
    """Where they name a time they may be for the rate, and sometimes are taken for that at first."""
    shares = []
    for most in (20, 40, 50, 60, 100, 200):
        asked = client(_Capped(most, named=named)).run(120)
        late = [at for at in asked.refusals if at > 30]
        shares.append(asked.rate(30, 120) / (most / 0.2))
        assert asked.pacer.concurrency.size <= 1.5 * most
        assert len(late) <= 0.03 * asked.rate(30, 120) * 90
    assert sum(shares) / len(shares) >= (0.5 if named else 0.75), shares
    assert min(shares) >= (0.25 if named else 0.65), shares


def test_failures_hold_it() -> None:
    window = ConcurrencyLimit(1024)
    for n in range(400):
        window.left(n / 40, n / 40 - 0.2, 7, "failure" if n % 5 == 0 else "answer")
    assert (window.size, window.last_reason) == (8, "requests fail")


def test_after_a_pause_it_begins_with_half() -> None:
    asked = client(Slots(128)).run(20)
    before = asked.pacer.concurrency.size
    asked.pacer.concurrency.reset(20.0)
    assert asked.pacer.concurrency.size == before // 2


def test_a_queue_that_the_server_tells_of_ends_the_growth() -> None:
    window = ConcurrencyLimit(1024)
    window.queue(7)
    now = 0.0
    for _ in range(4):
        now += 0.2
        for _ in range(window.size):
            window.left(now, now - 0.2, window.size - 1, "answer")
    assert window.size <= 8
    assert math.isfinite(now)


# ------------------------------------------------------------------------------------------- how many a key may have in flight


@pytest.mark.parametrize("late_s", [0.0, 0.002, 0.01])
@pytest.mark.parametrize(("headers", "numbered"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize(("parallel", "latency_s"), [(10, 0.5), (3, 0.05), (1, 0.5), (50, 0.2)])
def test_a_key_gets_what_it_may_have_in_flight(
    parallel: int, latency_s: float, headers: bool, numbered: bool, late_s: float
) -> None:
    """Whether the server tells how many, or only that they are too many; it frees a slot up to twice ``late_s`` after its
    answer."""
    chance = random.Random(1)
    server = Proxy(
        parallel=parallel,
        latency=lambda: latency_s * (0.97 + 0.06 * chance.random()),
        late=lambda: 2 * late_s * chance.random(),
        headers=headers,
        numbered=numbered,
    )
    asked = client(server).run(40)
    possible = parallel / (latency_s + 2 * late_s)
    assert asked.rate(15, 40) >= (0.93 if numbered else 0.85) * possible
    first = 8 + 9  # at once, before anything is known; and to learn how late slots are free
    assert len(asked.refusals) <= first + 0.015 * len(asked.sent)


def test_a_fixed_number_stays_below_what_the_key_may_have() -> None:
    asked = Client(Proxy(parallel=10, late=0.003), Pacer(ConcurrencyLimit(64, fixed=True))).run(60)
    assert asked.rate(15, 60) >= 0.95 * 20
    assert asked.pacer.concurrency.size == 10
    assert len([at for at in asked.refusals if at > 1]) <= 0.02 * len(asked.sent)


def test_slots_that_others_use_too_are_left_to_them() -> None:
    """Another run with the key holds seven of ten, then none."""
    server = Proxy(parallel=10, latency=0.5, headers=False)
    server.ends = [60.0] * 7
    asked = client(server).run(60)
    assert asked.rate(20, 60) >= 0.75 * 3 / 0.5
    assert len(asked.refusals) <= 0.15 * len(asked.sent)
    asked.run(120)
    assert asked.rate(90, 120) >= 0.9 * 10 / 0.5, "and are taken when they are free"


def test_a_refusal_for_what_is_in_flight_is_not_waited_for() -> None:
    subject = Pacer(auto())
    costs = [Cost(0, 0, 0, 0.0) for _ in range(3)]
    for attempt in costs:
        subject.sent(0.0, attempt, 1)
    subject.refused(0.01, costs[0], 60.0, 2, Limited("in_flight", 2))
    subject.ended(0.01)
    assert subject.wait_s(0.01, Cost(0, 0, 0, 0.0)) == math.inf
    subject.answered(0.5, costs[1], Usage(), 1)
    subject.ended(0.5)
    assert subject.wait_s(0.52, Cost(0, 0, 0, 0.0)) == 0
    assert subject.allowance.held_s(0.52) == 0
