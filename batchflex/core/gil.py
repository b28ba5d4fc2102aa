"""Work in a thread that leaves the interpreter to the event loop most of the time.

Python code in two threads takes turns of 5 ms each, and the loop gives its turn away with every system call: a thread that
computes without a pause lets it answer a few connections in that time, not a hundred. So such work is done in pieces
of a few milliseconds, with a pause after each that is a few times as long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PIECE_S = 0.004
_TIMES = 3.0
_LONGEST_S = 0.1


def pause_s(computed_s: float) -> float:
    """How long to pause after so much work; 0 if it goes on first."""
    return min(_LONGEST_S, _TIMES * computed_s) if computed_s >= _PIECE_S else 0.0


class GilYield:
    """To be called in the thread that works, as often as it can be. Does not pause once :meth:`hurry` was called.

    ``clock`` gives the seconds that the calling thread has computed.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._hurry = threading.Event()
        self._clock = clock
        self._before = threading.local()

    def hurry(self) -> None:
        """Somebody waits for the work."""
        self._hurry.set()

    def relax(self) -> None:
        """Nobody does any more."""
        self._hurry.clear()

    def begin(self) -> None:
        """What this thread does from now on is the work."""
        self._before.s = self._clock()

    def due_s(self) -> float:
        """How long it would pause now."""
        return 0.0 if self._hurry.is_set() else pause_s(self._clock() - self._before.s)

    def __call__(self) -> None:
        if wait_s := self.due_s():
            self._hurry.wait(wait_s)
            self._before.s = self._clock()
