"""Leaves the interpreter lock to the event loop most of the time, for work in a thread.

Threads that run Python code hold the lock for 5 ms in turn, and the loop releases it with every system call: beside a thread
that computes without a pause it serves a few connections in that time, not a hundred. So such work is done in pieces of a few
milliseconds, with a pause after each that is a few times as long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PIECE_S = 0.004
_TIMES = 3.0
_LONGEST_S = 0.1


def pause_s(computed_s: float) -> float:
    """How long to pause after so much work; 0 if there was too little for a pause."""
    return min(_LONGEST_S, _TIMES * computed_s) if computed_s >= _PIECE_S else 0.0


class GilYield:
    """Called by the thread that works, as often as possible. Does not pause while somebody waits (:meth:`hurry`).

    ``clock`` gives the CPU seconds of the calling thread.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._hurry = threading.Event()
        self._clock = clock
        self._before = threading.local()

    def hurry(self) -> None:
        """Somebody waits for the work: no more pauses."""
        self._hurry.set()

    def relax(self) -> None:
        """Nobody waits any more."""
        self._hurry.clear()

    def begin(self) -> None:
        """The work of this thread begins."""
        self._before.s = self._clock()

    def due_s(self) -> float:
        """How long a call would pause now, in seconds."""
        return 0.0 if self._hurry.is_set() else pause_s(self._clock() - self._before.s)

    def __call__(self) -> None:
        if wait_s := self.due_s():
            self._hurry.wait(wait_s)
            self._before.s = self._clock()
