"""The gate, observed from outside: who is in, who waits, who is told that nothing more is admitted."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from batchflex.errors import StopReason
from batchflex.gate import Gate
from batchflex.job import LimitsSection
from batchflex.model import Usage
from batchflex.pace import Cost, Pace

pytestmark = pytest.mark.anyio


def cost(most_tokens: int = 0) -> Cost:
    return Cost(0.0, most_tokens, 0.0, 0)


class Stops(list[StopReason]):
    """What the gate says when the run must end."""

    def __call__(self, reason: StopReason) -> None:
        self.append(reason)


def gate(pace: Pace | None = None, *, limit: int = 3, most_backing_off: int = 100, proven: bool = True) -> Gate:
    made = Gate(pace or Pace(LimitsSection()), limit, most_backing_off, Stops())
    if proven:
        made.prove()
    return made


class Visitor:
    """A task that enters, and stays until it is told to go."""

    def __init__(self, gate: Gate, cost: Cost, *, again: bool = False) -> None:
        self.admitted: bool | None = None
        self.scope = anyio.CancelScope()
        self.cost = cost
        self._gate, self._again = gate, again
        self._go = anyio.Event()

    async def __call__(self) -> None:
        with self.scope:
            self.admitted = await self._gate.enter(self.cost, again=self._again)
            if self.admitted:
                try:
                    await self._go.wait()
                finally:
                    self._gate.leave()

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
                assert await subject.enter(cost(), again=turn > 0)
                try:
                    inside += 1
                    visits += 1
                    peak = max(peak, inside)
                    assert inside <= subject.in_flight <= limit
                    for _ in range(nap):
                        await anyio.lowlevel.checkpoint()
                finally:
                    inside -= 1
                    subject.leave()

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
        subject.prove()
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
        subject.prove()
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
        subject.doubt_row(2)
        await settled()
        assert [r.admitted for r in others] == [True, None, None]
        subject.begin_backing_off()
        await others[0].go()
        assert [r.admitted for r in others] == [True, None, None]  # two rows are on trial
        subject.end_backing_off()
        await settled()
        assert [r.admitted for r in others] == [True, True, None]


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
    pace = Pace(LimitsSection(budget_tokens=100))
    subject = gate(pace, limit=5)
    inside = cost(90)
    assert await subject.enter(inside)
    # anyio would deliver what the event brought first; a task of asyncio's own is cancelled at once.
    waiting = asyncio.ensure_future(subject.enter(cost(60)))
    next_one = asyncio.ensure_future(subject.enter(cost(70)))
    await settled()
    pace.settled(0.0, inside, None, billed=False)
    subject.leave()
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
        assert await subject.enter(cost())
        waiting = await visit(tasks, subject)
        next_one = await visit(tasks, subject)
        subject.leave()
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


async def test_when_the_pace_says_stop_it_is_told_once_and_nothing_more_is_admitted() -> None:
    stops = Stops()
    pace = Pace(LimitsSection(budget_requests=2))
    subject = Gate(pace, 2, 100, stops)
    subject.prove()
    async with visiting() as tasks:
        inside = [await visit(tasks, subject) for _ in range(2)]
        waiting = [await visit(tasks, subject) for _ in range(4)]
        assert not stops
        for row in inside:
            assert stops == []  # what is in flight might give room
            pace.settled(0.0, row.cost, None, billed=True)
            await row.go()
        assert stops == ["budget"]
        assert [r.admitted for r in waiting] == [False] * 4
        assert not await subject.enter(cost())
        assert not await subject.enter(cost(), again=True)
        assert stops == ["budget"]


async def test_a_stop_at_the_very_first_row() -> None:
    stops = Stops()
    subject = Gate(Pace(LimitsSection(), deadline_s=10.0), 3, 100, stops, clock=lambda: 10.0)
    assert not await subject.enter(cost())
    assert not await subject.enter(cost())
    assert stops == ["deadline"]


async def test_room_in_a_budget_is_used_as_soon_as_something_settles() -> None:
    pace = Pace(LimitsSection(budget_tokens=100))
    subject = gate(pace)
    async with visiting() as tasks:
        first = await visit(tasks, subject, cost(80))
        second = await visit(tasks, subject, cost(80))
        assert second.admitted is None
        pace.settled(0.0, first.cost, None, billed=False)
        await first.go()
        assert second.admitted


# ------------------------------------------------------------------------------------------------------------ the clock


async def test_those_who_wait_for_a_moment_are_admitted_when_it_comes() -> None:
    subject = gate(Pace(LimitsSection(rpm=600)), limit=100)
    async with visiting() as tasks:
        tasks.start_soon(subject.keep_time)
        began = time.monotonic()
        for _ in range(8):
            assert await subject.enter(cost())
        took = time.monotonic() - began
    assert 0.45 <= took < 5  # three at once, then one each 0.1 s


async def test_after_a_refusal_nothing_goes_before_the_time_the_server_gave() -> None:
    pace = Pace(LimitsSection())
    subject = gate(pace, limit=100)
    async with visiting() as tasks:
        tasks.start_soon(subject.keep_time)
        began = time.monotonic()
        pace.refused(began, began, 0.2)
        rows = [await visit(tasks, subject) for _ in range(5)]
        assert not any(r.admitted for r in rows)
        assert await subject.enter(cost(), again=True)
        assert 0.2 <= time.monotonic() - began < 5
        await settled()
        assert all(r.admitted for r in rows)


async def test_a_moment_that_moves_closer_is_not_slept_through() -> None:
    pace = Pace(LimitsSection(tpm=60_000))
    subject = gate(pace, limit=100)
    async with visiting() as tasks:
        tasks.start_soon(subject.keep_time)
        big = Cost(60_000.0, 0, 0.0, 0)
        assert await subject.enter(big)
        fresh = await visit(tasks, subject, Cost(1_000.0, 0, 0.0, 0))
        assert fresh.admitted is None
        pace.settled(time.monotonic(), big, Usage(0, 0, 0), billed=True)
        subject.leave()
        await settled()
        assert fresh.admitted


async def test_the_deadline_stops_a_run_that_waits_for_something_later() -> None:
    stops = Stops()
    now = time.monotonic()
    pace = Pace(LimitsSection(), deadline_s=now + 0.1)
    subject = Gate(pace, 3, 100, stops)
    pace.refused(now, now, 3_600.0)
    async with visiting() as tasks:
        tasks.start_soon(subject.keep_time)
        assert not await subject.enter(cost())
    assert stops == ["deadline"]
    assert 0.1 <= time.monotonic() - now < 5
