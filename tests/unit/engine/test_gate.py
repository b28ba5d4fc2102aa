"""The gate, observed from outside: who is in, who waits, who is told that nothing more is admitted."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from batchflex.config.sections import LimitsSection
from batchflex.core.errors import StopReason
from batchflex.core.types import Usage
from batchflex.endpoint.concurrency_limit import ConcurrencyLimit
from batchflex.endpoint.cost import Cost
from batchflex.endpoint.pacer import Allowance, Pacer
from batchflex.engine.admission import Admission
from batchflex.engine.budget import Budget
from batchflex.engine.endpoint_state import EndpointSlots
from batchflex.engine.gate import Gate
from batchflex.engine.telemetry import waits_of
from batchflex.protocol.rate_limit_headers import Level, RateLimits

pytestmark = pytest.mark.anyio


def cost(most_tokens: int = 0) -> Cost:
    return Cost(0, 0, most_tokens, 0.0)


class Stops(list[StopReason]):
    """What the gate says when the run must end."""

    def __call__(self, reason: StopReason, why: str) -> None:
        assert why
        self.append(reason)


def lane(name: str = "a", *, limit: int = 3, rpm: float | None = None, tpm: float | None = None) -> EndpointSlots:
    return EndpointSlots(name, Pacer(ConcurrencyLimit(limit, fixed=True), Allowance(rpm, tpm)))


def gate(
    *lanes: EndpointSlots,
    limit: int = 3,
    budget: Budget | None = None,
    most_backing_off: int = 100,
    proven: bool = True,
) -> Gate:
    """Of these lanes, else of one for ``limit`` requests."""
    made = Gate(Admission(lanes or [lane(limit=limit)]), budget or Budget(LimitsSection()), most_backing_off, Stops())
    for one in made.endpoints if proven else ():
        made.admission.prove(one)
    return made


class Visitor:
    """A task that enters, and stays until it is told to go."""

    def __init__(self, gate: Gate, cost: Cost, *, again: bool = False) -> None:
        self.admitted: bool | None = None
        self.lane: EndpointSlots | None = None
        self.decided = anyio.Event()
        self.scope = anyio.CancelScope()
        self.cost = cost
        self._gate, self._again = gate, again
        self._go = anyio.Event()

    async def __call__(self) -> None:
        with self.scope:
            self.lane = await self._gate.enter(self.cost, again=self._again)
            self.admitted = self.lane is not None
            self.decided.set()
            if self.lane is not None:
                try:
                    await self._go.wait()
                finally:
                    self._gate.leave(self.lane)

    async def go(self) -> None:
        self._go.set()
        await settled()


async def settled() -> None:
    """Let every task run until it waits for something."""
    await anyio.wait_all_tasks_blocked()


async def visit(tasks: TaskGroup, gate: Gate, cost_: Cost | None = None, *, again: bool = False) -> Visitor:
    visitor = Visitor(gate, cost_ or cost(), again=again)
    tasks.start_soon(visitor)
    await settled()
    return visitor


@asynccontextmanager
async def visiting() -> AsyncIterator[TaskGroup]:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            yield tasks
            tasks.cancel_scope.cancel()


# --------------------------------------------------------------------------------------------------------- slots


@pytest.mark.parametrize("seed", range(5))
async def test_never_more_in_flight_than_the_limit_and_no_slot_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    limit = chance.randint(1, 8)
    subject = gate(limit=limit)
    peak = inside = visits = 0

    async def row(naps: list[int], patience: float) -> None:
        nonlocal peak, inside, visits
        with anyio.move_on_after(patience):
            for turn, nap in enumerate(naps):
                entered = await subject.enter(cost(), again=turn > 0)
                assert entered is subject.endpoints[0]
                try:
                    inside += 1
                    visits += 1
                    peak = max(peak, inside)
                    assert inside <= subject.in_flight <= limit
                    for _ in range(nap):
                        await anyio.lowlevel.checkpoint()
                finally:
                    inside -= 1
                    subject.leave(entered)

    async with anyio.create_task_group() as tasks:
        for _ in range(300):
            patience = 0.0 if chance.random() < 0.1 else chance.uniform(0, 0.05) if chance.random() < 0.3 else 30.0
            tasks.start_soon(row, [chance.randint(0, 5) for _ in range(chance.randint(1, 3))], patience)
    assert peak == limit
    assert subject.in_flight == 0
    assert visits >= 180


async def test_rows_enter_in_the_order_they_came() -> None:
    subject = gate(limit=1)
    async with visiting() as tasks:
        rows = [await visit(tasks, subject) for _ in range(4)]
        for i, row in enumerate(rows):
            assert [r.admitted for r in rows] == [True] * (i + 1) + [None] * (3 - i)
            await row.go()


async def test_further_attempts_go_before_new_rows() -> None:
    subject = gate(limit=1)
    async with visiting() as tasks:
        first = await visit(tasks, subject)
        fresh = await visit(tasks, subject)
        again = await visit(tasks, subject, again=True)
        await first.go()
        assert (fresh.admitted, again.admitted) == (None, True)
        await again.go()
        assert fresh.admitted


# --------------------------------------------------------------------------------------- before the endpoint is proven


async def test_the_first_row_goes_alone_until_the_endpoint_is_proven() -> None:
    subject = gate(limit=3, proven=False)
    async with visiting() as tasks:
        rows = [await visit(tasks, subject) for _ in range(5)]
        assert [r.admitted for r in rows] == [True, None, None, None, None]
        subject.admission.prove(subject.endpoints[0])
        await settled()
        assert [r.admitted for r in rows] == [True, True, True, None, None]
        assert subject.in_flight == 3


async def test_while_the_first_row_backs_off_no_other_begins() -> None:
    subject = gate(proven=False)
    async with visiting() as tasks:
        first = await visit(tasks, subject)
        others = [await visit(tasks, subject) for _ in range(3)]
        for _ in range(3):
            if not subject.backing_off:
                subject.begin_backing_off()
            await first.go()
            assert [r.admitted for r in others] == [None, None, None]
            first = await visit(tasks, subject, again=True)
            assert first.admitted
        subject.admission.prove(subject.endpoints[0])
        subject.end_backing_off()
        await settled()
        assert [r.admitted for r in others] == [True, True, None]


async def test_a_doubted_row_lets_others_be_tried_one_at_a_time() -> None:
    subject = gate(proven=False)
    async with visiting() as tasks:
        first = await visit(tasks, subject)
        others = [await visit(tasks, subject) for _ in range(3)]
        subject.begin_backing_off()
        await first.go()
        assert not any(r.admitted for r in others)
        subject.try_rows(2)
        await settled()
        assert [r.admitted for r in others] == [True, None, None]
        subject.begin_backing_off()
        await others[0].go()
        assert [r.admitted for r in others] == [True, None, None]  # two rows are on trial
        subject.end_backing_off()
        await settled()
        assert [r.admitted for r in others] == [True, True, None]


async def test_while_an_endpoint_fails_rows_that_have_not_failed_go_first() -> None:
    subject = gate(limit=1)
    only = subject.endpoints[0]
    async with visiting() as tasks:
        first = await visit(tasks, subject)
        again = await visit(tasks, subject, again=True)
        fresh = [await visit(tasks, subject) for _ in range(2)]
        only.failing = True
        await first.go()
        assert (again.admitted, [r.admitted for r in fresh]) == (None, [True, None])
        only.failing = False
        await fresh[0].go()
        assert (again.admitted, [r.admitted for r in fresh]) == (True, [True, None])


async def test_in_doubt_no_more_are_in_flight_than_it_allows() -> None:
    subject = gate(limit=3)
    only = subject.endpoints[0]
    async with visiting() as tasks:
        older = [await visit(tasks, subject) for _ in range(2)]
        only.most_half_open = 2
        waiting = [await visit(tasks, subject) for _ in range(2)]
        assert [r.admitted for r in waiting] == [None, None]
        await older[0].go()
        assert [r.admitted for r in waiting] == [True, None]
        only.most_half_open = None
        await older[1].go()
        assert [r.admitted for r in waiting] == [True, True]


async def test_many_that_back_off_hold_new_rows_back() -> None:
    subject = gate(limit=10, most_backing_off=2)
    async with visiting() as tasks:
        subject.begin_backing_off()
        assert (await visit(tasks, subject)).admitted
        subject.begin_backing_off()
        fresh = await visit(tasks, subject)
        assert fresh.admitted is None
        assert (await visit(tasks, subject, again=True)).admitted
        subject.end_backing_off()
        await settled()
        assert fresh.admitted


# ------------------------------------------------------------------------------------------------------ cancellation


@pytest.mark.parametrize("again", [False, True])
async def test_one_that_is_cancelled_while_it_waits_takes_no_slot(again: bool) -> None:
    subject = gate(limit=1)
    async with visiting() as tasks:
        first = await visit(tasks, subject)
        gone = await visit(tasks, subject, again=again)
        next_one = await visit(tasks, subject, again=again)
        gone.scope.cancel()
        await settled()
        await first.go()
        assert (gone.admitted, next_one.admitted) == (None, True)
        await next_one.go()
        assert subject.in_flight == 0


async def test_one_that_is_cancelled_as_it_is_admitted_gives_slot_and_reservation_back() -> None:
    budget = Budget(LimitsSection(budget_tokens=100, budget_requests=2))
    subject = gate(limit=5, budget=budget)
    inside = cost(90)
    lane = await subject.enter(inside)
    assert lane is not None
    # anyio would deliver what the event brought first; a task of asyncio's own is cancelled at once.
    waiting = asyncio.ensure_future(subject.enter(cost(60)))
    next_one = asyncio.ensure_future(subject.enter(cost(70)))
    await settled()
    budget.settled(inside, None, billed=False)
    subject.leave(lane)
    assert subject.in_flight == 1
    assert waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with anyio.fail_after(5):
        assert await next_one
    assert subject.in_flight == 1


async def test_a_scope_cancelled_in_the_moment_of_admission_leaks_nothing() -> None:
    subject = gate(limit=1)
    async with visiting() as tasks:
        lane = await subject.enter(cost())
        assert lane is not None
        waiting = await visit(tasks, subject)
        next_one = await visit(tasks, subject)
        subject.leave(lane)
        waiting.scope.cancel()
        await settled()
        assert next_one.admitted
        await next_one.go()
        assert subject.in_flight == 0


# ------------------------------------------------------------------------------------------------------------ the end


async def test_close_tells_all_who_wait_and_all_who_come() -> None:
    subject = gate(limit=1)
    async with visiting() as tasks:
        inside = await visit(tasks, subject)
        waiting = [await visit(tasks, subject, again=i % 2 == 1) for i in range(6)]
        subject.close()
        await settled()
        assert [r.admitted for r in waiting] == [False] * 6
        assert not await subject.enter(cost())
        assert not await subject.enter(cost(), again=True)
        assert subject.in_flight == 1
        await inside.go()
        assert subject.in_flight == 0


async def test_sleep_lasts_as_long_as_it_should_and_ends_at_close() -> None:
    subject = gate()
    began = time.monotonic()
    await subject.sleep(0.05)
    assert 0.04 <= time.monotonic() - began < 5
    async with visiting() as tasks:
        tasks.start_soon(subject.sleep, 3_600)
        await settled()
        subject.close()
    await subject.sleep(3_600)
    assert time.monotonic() - began < 5


async def test_when_the_budget_says_stop_it_is_told_once_and_nothing_more_is_admitted() -> None:
    stops = Stops()
    budget = Budget(LimitsSection(budget_requests=2))
    subject = Gate(Admission([lane(limit=2)]), budget, 100, stops)
    subject.admission.prove(subject.endpoints[0])
    async with visiting() as tasks:
        inside = [await visit(tasks, subject) for _ in range(2)]
        waiting = [await visit(tasks, subject) for _ in range(4)]
        assert not stops
        for row in inside:
            assert stops == []  # what is in flight might give room
            budget.settled(row.cost, None, billed=True)
            await row.go()
        assert stops == ["budget"]
        assert [r.admitted for r in waiting] == [False] * 4
        assert not await subject.enter(cost())
        assert not await subject.enter(cost(), again=True)
        assert stops == ["budget"]


async def test_a_stop_at_the_very_first_row() -> None:
    stops = Stops()
    subject = Gate(Admission([lane()], lambda: 10.0), Budget(LimitsSection(), deadline_s=10.0), 100, stops)
    assert not await subject.enter(cost())
    assert not await subject.enter(cost())
    assert stops == ["deadline"]


async def test_room_in_a_budget_is_used_as_soon_as_something_settles() -> None:
    budget = Budget(LimitsSection(budget_tokens=100))
    subject = gate(budget=budget)
    async with visiting() as tasks:
        first = await visit(tasks, subject, cost(80))
        second = await visit(tasks, subject, cost(80))
        assert second.admitted is None
        budget.settled(first.cost, None, billed=False)
        await first.go()
        assert second.admitted


# ------------------------------------------------------------------------------------------------------------ the clock


async def test_those_who_wait_for_a_moment_are_admitted_when_it_comes() -> None:
    subject = gate(lane(limit=100, rpm=600))
    async with visiting() as tasks:
        tasks.start_soon(subject.admission.keep_time)
        began = time.monotonic()
        for _ in range(8):
            assert await subject.enter(cost())
        took = time.monotonic() - began
    assert 0.45 <= took < 5  # three at once, then one each 0.1 s


async def test_after_a_refusal_nothing_goes_before_the_time_the_server_gave() -> None:
    subject = gate(limit=100)
    async with visiting() as tasks:
        tasks.start_soon(subject.admission.keep_time)
        began = time.monotonic()
        subject.endpoints[0].pacer.refused(began, Cost(0, 0, 0, 0.0, sent_at=began), 0.2, 0)
        rows = [await visit(tasks, subject) for _ in range(5)]
        assert not any(r.admitted for r in rows)
        assert await subject.enter(cost(), again=True)
        assert 0.2 <= time.monotonic() - began < 5
        for row in rows:
            await row.decided.wait()
        assert all(r.admitted for r in rows)
        # 100 may be in flight, and the ramp is as long as the wait was.
        gaps = [later.cost.sent_at - earlier.cost.sent_at for earlier, later in itertools.pairwise(rows)]
        assert min(gaps) >= 0.002 - 1e-6


async def test_a_moment_that_moves_closer_is_not_slept_through() -> None:
    subject = gate(lane(limit=100, tpm=60_000))
    async with visiting() as tasks:
        tasks.start_soon(subject.admission.keep_time)
        big = Cost(177_000, 1_000, 0, 0.0)  # three bytes a token
        entered = await subject.enter(big)
        assert entered is not None
        assert big.tokens == 60_000
        fresh = await visit(tasks, subject, Cost(0, 1_000, 0, 0.0))
        assert fresh.admitted is None
        entered.pacer.answered(time.monotonic(), big, Usage(0, 1_000, 1_000), 0)
        subject.leave(entered)
        await settled()
        assert fresh.admitted


async def test_the_deadline_stops_a_run_that_waits_for_something_later() -> None:
    stops = Stops()
    now = time.monotonic()
    subject = Gate(Admission([lane()]), Budget(LimitsSection(), deadline_s=now + 0.1), 100, stops)
    subject.endpoints[0].pacer.refused(now, Cost(0, 0, 0, 0.0, sent_at=now), 3_600.0, 0)
    async with visiting() as tasks:
        tasks.start_soon(subject.admission.keep_time)
        assert not await subject.enter(cost())
    assert stops == ["deadline"]
    assert 0.1 <= time.monotonic() - now < 5


# ------------------------------------------------------------------------------------------------- several endpoints


def lanes(*limits: int) -> tuple[EndpointSlots, ...]:
    return tuple(lane(name, limit=limit) for name, limit in zip("abc", limits, strict=False))


def taken(gate: Gate) -> list[int]:
    return [one.in_flight for one in gate.endpoints]


async def test_rows_are_shared_by_load() -> None:
    subject = gate(*lanes(4, 2))
    async with visiting() as tasks:
        seen = []
        rows = []
        for _ in range(8):
            rows.append(await visit(tasks, subject))
            seen.append(taken(subject))
        assert seen == [[1, 0], [1, 1], [2, 1], [3, 1], [3, 2], [4, 2], [4, 2], [4, 2]]
        assert subject.in_flight == 6
        assert [r.admitted for r in rows[6:]] == [None, None]
        for leaving, then in zip([r for r in rows if r.lane is subject.endpoints[1]], rows[6:], strict=True):
            await leaving.go()
            assert then.lane is subject.endpoints[1]
        assert taken(subject) == [4, 2]


@pytest.mark.parametrize("seed", range(3))
async def test_no_window_is_passed_and_nothing_enters_a_paused_lane_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    limits = [chance.randint(1, 5) for _ in range(3)]
    subject = gate(*lanes(*limits))
    most = dict(zip(subject.endpoints, limits, strict=True))
    served = dict.fromkeys(subject.endpoints, 0)

    async def row() -> None:
        entered = await subject.enter(cost())
        assert entered is not None
        served[entered] += 1
        assert all(one.in_flight <= most[one] for one in subject.endpoints)
        for _ in range(chance.randint(0, 5)):
            await anyio.lowlevel.checkpoint()
        most[entered] -= not entered.is_open  # what is in flight on a paused lane can only become less
        subject.leave(entered)

    async def weather() -> None:
        for _ in range(60):
            one, why = chance.choice(subject.endpoints), chance.choice(["outage", "hours"])
            if chance.random() < 0.5:
                if one.is_open:
                    most[one] = one.in_flight
                subject.admission.pause(one, why)
            else:
                if one.pauses.keys() <= {why}:
                    most[one] = limits[subject.endpoints.index(one)]
                subject.admission.resume(one, why)
            await anyio.lowlevel.checkpoint()
        most.update(zip(subject.endpoints, limits, strict=True))
        for one in subject.endpoints:
            for why in ("outage", "hours"):
                subject.admission.resume(one, why)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(weather)
            for _ in range(300):
                tasks.start_soon(row)
    assert (sum(served.values()), subject.in_flight) == (300, 0)
    assert min(served.values()) > 0


async def test_a_lane_that_is_not_proven_gets_one_at_a_time() -> None:
    subject = gate(*lanes(3, 3), proven=False)
    a, b = subject.endpoints
    async with visiting() as tasks:
        assert (await visit(tasks, subject)).lane is a
        subject.admission.prove(a)
        rows = [await visit(tasks, subject) for _ in range(5)]
        assert taken(subject) == [3, 1]
        assert [r.admitted for r in rows] == [True, True, True, None, None]
        subject.admission.prove(b)
        await settled()
        assert taken(subject) == [3, 3]


async def test_rows_go_where_the_quota_allows_it() -> None:
    a, b = lane("a", limit=10, rpm=1), lane("b", limit=10)
    subject = gate(a, b)
    async with visiting() as tasks:
        rows = [await visit(tasks, subject) for _ in range(5)]
        assert [r.lane for r in rows] == [a, b, b, b, b]


async def test_a_refusal_of_one_endpoint_holds_only_its_own_lane() -> None:
    subject = gate(*lanes(3, 3))
    a, b = subject.endpoints
    now = time.monotonic()
    a.pacer.refused(now, Cost(0, 0, 0, 0.0, sent_at=now), 3_600.0, 0)
    async with visiting() as tasks:
        rows = [await visit(tasks, subject) for _ in range(4)]
        assert [r.lane for r in rows] == [b, b, b, None]
        assert subject.bound == "quota"


async def test_a_paused_lane_gets_nothing_and_the_other_goes_on() -> None:
    subject = gate(*lanes(2, 2))
    a, b = subject.endpoints
    async with visiting() as tasks:
        rows = [await visit(tasks, subject) for _ in range(2)]
        assert [r.lane for r in rows] == [a, b]
        subject.admission.pause(a, "outage")
        waiting = [await visit(tasks, subject) for _ in range(4)]
        assert [r.lane for r in waiting] == [b, None, None, None]
        await rows[0].go()  # what is in flight there may end
        await rows[1].go()
        assert [r.lane for r in waiting] == [b, b, None, None]
        assert taken(subject) == [0, 2]
        subject.admission.resume(a, "outage")
        await settled()
        assert [r.lane for r in waiting] == [b, b, a, a]


async def test_a_lane_is_open_when_all_reasons_for_its_pauses_are_gone() -> None:
    subject = gate()
    (only,) = subject.endpoints
    async with visiting() as tasks:
        for why in ("hours", "outage", "hours"):
            subject.admission.pause(only, why)
        fresh, again = await visit(tasks, subject), await visit(tasks, subject, again=True)
        assert not only.is_open
        subject.admission.resume(only, "hours")
        subject.admission.resume(only, "credit")
        await settled()
        assert (fresh.admitted, again.admitted) == (None, None)
        subject.admission.resume(only, "outage")
        await settled()
        assert only.is_open
        assert (fresh.admitted, again.admitted) == (True, True)


async def test_a_closed_lane_is_used_no_more() -> None:
    subject = gate(*lanes(2, 2))
    a, b = subject.endpoints
    async with visiting() as tasks:
        first = await visit(tasks, subject)
        assert first.lane is a
        assert subject.admission.close_endpoint(a)
        rows = [await visit(tasks, subject) for _ in range(3)]
        await first.go()
        assert [r.lane for r in rows] == [b, b, None]
        subject.admission.resume(a, "outage")
        await settled()
        assert rows[2].admitted is None
        assert not await subject.enter_as_probe(a, cost())
        assert not subject.admission.close_endpoint(b)  # it was the last
        await rows[0].go()
        assert rows[2].admitted is None
        subject.close()
        await settled()
        assert rows[2].admitted is False


# ------------------------------------------------------------------------------------------------------------- probes


async def test_a_probe_goes_through_a_pause_but_not_through_the_limits() -> None:
    now = [50.0]
    only = lane(limit=1)
    subject = Gate(Admission([only], lambda: now[0]), Budget(LimitsSection()), 100, Stops())
    async with visiting() as tasks:
        inside = await visit(tasks, subject)
        subject.admission.pause(only, "outage")
        only.pacer.refused(50.0, Cost(0, 0, 0, 0.0, sent_at=49.0), 30.0, 0)
        probe, entered = cost(), []

        async def enter() -> None:
            entered.append(await subject.enter_as_probe(only, probe))

        tasks.start_soon(enter)
        await anyio.sleep(0.15)
        assert not entered, "the lane is full"
        await inside.go()
        await anyio.sleep(0.15)
        assert not entered, "the key has to wait"
        now[0] = 80.0
        await anyio.sleep(0.15)
        assert (entered, probe.sent_at, only.in_flight) == ([True], 80.0, 1)
        subject.leave(only)


async def test_a_probe_that_waits_gets_the_next_slot() -> None:
    only = lane(limit=1)
    subject = gate(only)
    async with visiting() as tasks:
        inside = await visit(tasks, subject)
        waiting = await visit(tasks, subject)
        entered: list[bool] = []

        async def enter() -> None:
            entered.append(await subject.enter_as_probe(only, cost()))

        tasks.start_soon(enter)
        await settled()
        await inside.go()
        assert waiting.admitted is None
        await anyio.sleep(0.15)
        assert (entered, waiting.admitted) == ([True], None)
        subject.leave(only)
        await settled()
        assert waiting.admitted


async def test_a_probe_waits_for_the_budget_and_ends_a_run_that_has_none_left() -> None:
    stops = Stops()
    only = lane()
    budget = Budget(LimitsSection(budget_tokens=100))
    subject = Gate(Admission([only]), budget, 100, stops)
    subject.admission.prove(only)
    inside = cost(95)
    assert await subject.enter(inside)
    subject.admission.pause(only, "outage")
    with anyio.move_on_after(0.15) as waiting:
        await subject.enter_as_probe(only, cost(6))
    assert waiting.cancelled_caught and not subject.closed, "what is in flight might give room"
    assert not only.probe_waits
    probe = cost(5)
    assert await subject.enter_as_probe(only, probe)
    for attempt in (inside, probe):
        budget.settled(attempt, None, billed=True)
        subject.leave(only)
    assert not await subject.enter_as_probe(only, cost(1))
    assert (subject.closed, subject.in_flight, stops) == (True, 0, ["budget"])
    assert not await subject.enter_as_probe(only, cost())
    assert stops == ["budget"]


async def test_a_probe_reserves_what_it_may_use() -> None:
    budget = Budget(LimitsSection(budget_requests=1))
    subject = gate(budget=budget)
    async with visiting() as tasks:
        probe = cost()
        assert await subject.enter_as_probe(subject.endpoints[0], probe)
        fresh = await visit(tasks, subject)
        assert (fresh.admitted, subject.bound) == (None, "budget")
        budget.settled(probe, None, billed=False, sent=False)
        subject.leave(subject.endpoints[0])
        await settled()
        assert fresh.admitted


async def test_no_probe_after_the_deadline_or_once_the_gate_is_closed() -> None:
    stops = Stops()
    subject = Gate(Admission([lane()], lambda: 10.0), Budget(LimitsSection(), deadline_s=10.0), 100, stops)
    assert not await subject.enter_as_probe(subject.endpoints[0], cost())
    assert stops == ["deadline"]
    other = gate()
    other.close()
    assert not await other.enter_as_probe(other.endpoints[0], cost())
    assert other.in_flight == 0


# ---------------------------------------------------------------------------------------------------- what bounds a run


async def test_what_keeps_more_from_being_sent() -> None:
    subject = gate(limit=2, most_backing_off=1, proven=False)
    (only,) = subject.endpoints
    async with visiting() as tasks:
        assert subject.bound is None
        first = await visit(tasks, subject)
        assert subject.bound == "endpoint"  # not proven
        subject.admission.prove(only)
        assert subject.bound is None
        second = await visit(tasks, subject)
        assert subject.bound == "concurrency"
        third = await visit(tasks, subject)
        assert subject.bound == "concurrency"
        subject.begin_backing_off()
        await first.go()
        assert (third.admitted, subject.bound) == (None, "endpoint")
        subject.admission.pause(only, "outage")
        subject.end_backing_off()
        assert subject.bound == "waiting"
        subject.admission.resume(only, "outage")
        await settled()
        assert third.admitted
        for row in (second, third):
            await row.go()
        assert subject.bound is None


async def test_a_quota_or_a_budget_that_keeps_rows_waiting_is_named() -> None:
    async with visiting() as tasks:
        slow = gate(lane(rpm=1))
        for _ in range(2):
            await visit(tasks, slow)
        assert slow.bound == "quota"
        poor = gate(budget=Budget(LimitsSection(budget_requests=1)))
        for _ in range(2):
            await visit(tasks, poor)
        assert poor.bound == "budget"


# ------------------------------------------------------------------------------------- what has to wait for a limit, and what not


async def test_rows_of_a_model_that_has_to_wait_do_not_hold_up_those_of_another() -> None:
    shared = Allowance()
    subject = gate(EndpointSlots("a", Pacer(ConcurrencyLimit(4, fixed=True), shared)))
    for model in ("a", "b") * 2:  # each is told a limit of its own
        sent = Cost(0, 0, 0, 0.0, model=model, sent_model=model)
        shared.take(time.monotonic(), sent, 4)
        limit = 1e6 if model == "a" else 2e6
        shared.reported(time.monotonic(), sent, RateLimits(Level(limit, limit - 1, 30.0), None))
    held = Cost(0, 0, 0, 0.0, sent_at=time.monotonic(), sent_model="a")
    shared.refused(time.monotonic(), held, 60.0)
    async with visiting() as tasks:
        waits = await visit(tasks, subject, Cost(0, 0, 0, 0.0, model="a"))
        goes = await visit(tasks, subject, Cost(0, 0, 0, 0.0, model="b"))
        assert (waits.admitted, goes.admitted) == (None, True)
        assert shared.server_wait_s(time.monotonic()) == 0, "it is not the key that has to wait"
        (told,) = waits_of(subject, time.monotonic(), time.time())
        assert told.until is not None and 59 < told.until - time.time() < 61
        assert told.message.unquoted.startswith("the endpoint asks to wait before more is sent to the model a")
        subject.endpoints[0].without = frozenset("a")
        found = waits_of(subject, time.monotonic(), time.time())
        assert all(wait.endpoint is None for wait in found), "an endpoint not asked for the model is not waited for"


async def test_a_job_run_that_has_stopped_keeps_no_other_from_an_endpoint_in_doubt() -> None:
    stopping = gate()
    other = Gate(stopping.admission, Budget(LimitsSection()), 100, Stops())
    endpoint = stopping.endpoints[0]
    stopping.await_verdict(endpoint, True)
    async with visiting() as tasks:
        waits = await visit(tasks, other)
        assert waits.admitted is None
        stopping.close()
        stopping.await_verdict(endpoint, True)
        await settled()
        assert waits.admitted


async def test_a_row_that_is_too_large_for_the_tokens_left_lets_smaller_ones_pass() -> None:
    subject = gate(lane(tpm=1_000))
    async with visiting() as tasks:
        first = await visit(tasks, subject, Cost(90, 20, 0, 0.0))
        large = await visit(tasks, subject, Cost(2_580, 100, 0, 0.0))
        small = await visit(tasks, subject, Cost(30, 10, 0, 0.0))
        assert (first.admitted, large.admitted, small.admitted) == (True, None, True)


async def test_a_row_that_limits_refuse_again_and_again_takes_turns_with_new_ones() -> None:
    subject = gate(limit=1)
    async with visiting() as tasks:
        begun = await visit(tasks, subject)
        refused = Cost(0, 0, 0, 0.0, refusals=2)
        again = await visit(tasks, subject, refused, again=True)
        fresh = [await visit(tasks, subject) for _ in range(2)]
        seen = []
        for leaving in (begun, fresh[0], again):
            await leaving.go()
            seen.append([again.admitted, *(one.admitted for one in fresh)])
        assert seen == [[None, True, None], [True, True, None], [True, True, True]]


async def test_what_waits_for_a_slot_of_the_key_goes_when_one_is_free() -> None:
    """Two endpoints with one key that may have two in flight."""
    shared = Allowance()
    shared.slots.reported(0.0, 2)
    subject = gate(*(EndpointSlots(name, Pacer(ConcurrencyLimit(8, fixed=True), shared)) for name in "ab"))
    async with visiting() as tasks:
        rows = [await visit(tasks, subject) for _ in range(3)]
        assert [row.admitted for row in rows] == [True, True, None]
        assert subject.bound == "quota"
        await rows[0].go()
        assert rows[2].admitted
