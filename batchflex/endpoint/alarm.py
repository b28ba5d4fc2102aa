"""When the time for an answer is up, also where the process was stopped meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

_AWAY_S = 1.0  # a timer that is so late tells that the process was stopped, or had no CPU
_CLOCK_S = 0.002  # what a loop's timers may be early by
_LOOK_S = 1.0  # for what has come meanwhile, before it is given up


class Alarm:
    """Calls ``ring`` at ``due``, seconds of the event loop's clock, unless it is cancelled or put off before.

    Where the process was stopped meanwhile (Ctrl-Z, a paused container), what
    has come by then lies in the sockets: it is read first, for a second at most.
    """

    __slots__ = ("_due", "_loop", "_ring", "_timer")

    def __init__(self, due: float, ring: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = due
        self._ring = ring
        self._timer = self._loop.call_at(due, self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    def put(self, due: float) -> None:
        """Change the time. Putting it off costs next to nothing: the running timer checks."""
        is_sooner, self._due = due < self._due, due
        if is_sooner:
            self._timer.cancel()
            self._timer = self._loop.call_at(due, self._look)

    def _look(self, *, again: bool = True) -> None:
        late_s = self._loop.time() - self._due
        if late_s < -_CLOCK_S:
            self._timer = self._loop.call_at(self._due, self._look)
        elif again and late_s > _AWAY_S:
            self._timer = self._loop.call_later(_LOOK_S, partial(self._look, again=False))
        else:
            self._ring()


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """As ``asyncio.timeout``, with an :class:`Alarm`."""
    if seconds is None:
        yield
        return
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        alarm = Alarm(loop.time() + seconds, lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            alarm.cancel()
