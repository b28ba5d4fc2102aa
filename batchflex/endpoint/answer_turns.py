"""Spreads answers that come at once over turns of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque

_IN_A_TURN = 64


class AnswerTurns:
    """Wakes those who wait for answers, so many in a turn of the event loop; the next ones follow in the next turn.

    With hundreds of connections all answers of a turn would else be handled, and all next requests made, before the loop comes
    round to anything else: a time-out, a signal, the progress bar. One for all connections of a loop.
    """

    __slots__ = ("_waiting", "_woken")

    def __init__(self) -> None:
        self._woken = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """The answer that it waits for is there."""
        if self._woken == _IN_A_TURN:
            self._waiting.append(waiter)
            return
        if not self._woken:
            waiter.get_loop().call_soon(self._next_turn, waiter.get_loop())
        self._woken += 1
        waiter.set_result(None)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._woken = self._waiting, 0
        while waiting and self._woken < _IN_A_TURN:
            waiter = waiting.popleft()
            if not waiter.done():  # it may have been cancelled meanwhile
                waiter.set_result(None)
                self._woken += 1
        if self._woken:
            loop.call_soon(self._next_turn, loop)
