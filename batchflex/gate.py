"""Admission: holds the slots, and asks :mod:`batchflex.pace` when the next attempt may take one.

Nothing is awaited where a slot is free and the pace allows it. A row that waits for another attempt holds no slot.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import anyio

from .errors import StopReason
from .pace import Cost, Pace


class _Waiter:
    __slots__ = ("admitted", "cost", "decided")

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self.decided = anyio.Event()
        self.admitted = False


class Gate:
    """Bounds the attempts in flight.

    Until :meth:`prove` is called requests go one at a time, and until :meth:`doubt_row` the very first row goes alone, however
    often it has to be tried: one request is enough to learn that a key is wrong. ``most_backing_off`` bounds the rows that
    wait for another attempt; beyond it no new row begins. ``on_stop`` is called once, when the pace says that the run must
    end. Not thread-safe.
    """

    def __init__(
        self,
        pace: Pace,
        limit: int,
        most_backing_off: int,
        on_stop: Callable[[StopReason], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.in_flight = 0
        self.backing_off = 0
        self.closed = False
        self._pace = pace
        self._most_backing_off = most_backing_off
        self._on_stop = on_stop
        self._clock = clock
        self._proven = False
        self._rows_on_trial = 1
        self._fresh: deque[_Waiter] = deque()
        self._again: deque[_Waiter] = deque()
        self._due = float("inf")
        self._nudge = anyio.Event()
        self._closing = anyio.Event()

    async def enter(self, cost: Cost, *, again: bool = False) -> bool:
        """Take a slot, waiting for it; ``again`` goes before new rows. False: nothing more is admitted."""
        if self.closed:
            return False
        queue = self._again if again else self._fresh
        if not queue and self._fits(again) and self._admit(cost):
            return True
        if self.closed:
            return False
        waiter = _Waiter(cost)
        queue.append(waiter)
        try:
            await waiter.decided.wait()
        except BaseException:
            if waiter.admitted:
                self._pace.settled(self._clock(), cost, None, billed=False)
                self.leave()
            elif waiter in queue:
                queue.remove(waiter)
            raise
        return waiter.admitted

    def leave(self) -> None:
        """Give the slot back."""
        self.in_flight -= 1
        self._pump()

    def begin_backing_off(self) -> None:
        self.backing_off += 1

    def end_backing_off(self) -> None:
        self.backing_off -= 1
        self._pump()

    def prove(self) -> None:
        """The endpoint answered as one that works does: open to the limit."""
        if not self._proven:
            self._proven = True
            self._pump()

    def doubt_row(self, rows: int) -> None:
        """The failure may be the row's own: before the endpoint has proven itself, so many rows may be on trial."""
        self._rows_on_trial = rows
        self._pump()

    def close(self) -> None:
        """Admit nothing more; whoever waits is told so."""
        self.closed = True
        self._closing.set()
        for queue in (self._again, self._fresh):
            while queue:
                queue.popleft().decided.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond :meth:`close`."""
        with anyio.move_on_after(seconds):
            await self._closing.wait()

    async def keep_time(self) -> None:
        """Admit those who wait for a moment when it comes. Runs until cancelled."""
        while True:
            with anyio.move_on_after(max(0.0, self._due - self._clock())):
                await self._nudge.wait()
                self._nudge = anyio.Event()
            if self._clock() >= self._due:
                self._due = float("inf")
                self._pump()

    def _fits(self, again: bool) -> bool:
        if self.in_flight >= (self.limit if self._proven else 1):
            return False
        if again:
            return True
        return not self._again and self.backing_off < (self._most_backing_off if self._proven else self._rows_on_trial)

    def _admit(self, cost: Cost) -> bool:
        now = self._clock()
        verdict = self._pace.verdict(now, cost)
        if verdict.stop is not None:
            self.close()
            self._on_stop(verdict.stop)
            return False
        if verdict.wait_s > 0:
            if now + verdict.wait_s < self._due:
                self._due = now + verdict.wait_s
                self._nudge.set()
            return False
        self._pace.sent(now, cost)
        self.in_flight += 1
        return True

    def _pump(self) -> None:
        while not self.closed:
            queue = self._again or self._fresh
            if not queue or not self._fits(queue is self._again) or not self._admit(queue[0].cost):
                return
            waiter = queue.popleft()
            waiter.admitted = True
            waiter.decided.set()
