"""When the time for an answer is up, also where the process was stopped meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

_STOPPED_S = 1.0  # a timer that is so late shows that the process was stopped, or had no CPU
_CLOCK_S = 0.002  # what a loop's timers may be early by
_READ_S = 1.0  # for what has come meanwhile


class Alarm:
    """Calls ``ring`` at ``due``, seconds of the event loop's clock, unless it is cancelled or put off before.

    Where the process was stopped meanwhile (Ctrl-Z, a paused container), what has come by then lies in the sockets: it is read
    first, for a second at most.
    """

    __slots__ = ("_loop", "_ring", "_timer", "due")

    def __init__(self, due: float, ring: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self.due = due
        self._ring = ring
        self._timer = self._loop.call_at(due, self._check)

    def cancel(self) -> None:
        self._timer.cancel()

    def put(self, due: float) -> None:
        """Change the time. Putting it off costs next to nothing, as does a later ``due``: the running timer checks."""
        is_sooner, self.due = due < self.due, due
        if is_sooner:
            self._timer.cancel()
            self._timer = self._loop.call_at(due, self._check)

    def _check(self, *, again: bool = True) -> None:
        late_s = self._loop.time() - self.due
        if late_s < -_CLOCK_S:
            self._timer = self._loop.call_at(self.due, self._check)
        elif again and late_s > _STOPPED_S:
            self._timer = self._loop.call_later(_READ_S, partial(self._check, again=False))
        else:
            self._ring()


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[Alarm]:
    """As ``asyncio.timeout``, with an :class:`Alarm`, which can be put off."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        alarm = Alarm(loop.time() + seconds, lambda: limit.reschedule(loop.time()))
        try:
            yield alarm
        finally:
            alarm.cancel()
