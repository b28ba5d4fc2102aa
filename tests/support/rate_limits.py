"""What an endpoint admits: so much in each window (:class:`Rate`), and so many at a time (:class:`Slots`).

Decisions only: time is passed in, in seconds, and must not go back.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable
from typing import Generic, TypeVar

Who = TypeVar("Who", bound=Hashable)


class Rate:
    """So many units (requests, tokens) in each window; without ``most`` everything fits and nothing is charged.

    ``kind``: ``fixed`` windows begin at the multiples of ``window_s``, those ``from_first`` with the first charge after the one
    before; a ``sliding`` one ends now; a ``bucket`` of ``burst`` (else ``most``) is full at first and refilled at ``most`` in
    ``window_s``.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self.window_s, self.kind, self.size = 60.0, "fixed", 0.0
        self.charges: collections.deque[tuple[float, int]] = collections.deque()  # of the window
        self.charged = 0  # their sum
        self.level, self.filled_at = float("inf"), 0.0  # of the bucket

    def agree(self, most: int | None, window_s: float, kind: str, burst: int | None, now: float) -> None:
        """Other terms from now on. What was charged stays, unless there was no limit or is none now."""
        if self.most is None or most is None:
            self.forget()
        else:
            self._pass(now)
        self.most, self.window_s, self.kind = most, window_s, kind
        self.size, self.filled_at = float(burst or most or 0), now

    def forget(self) -> None:
        self.charges.clear()
        self.charged, self.level = 0, float("inf")

    def fits(self, units: int, now: float) -> bool:
        return self.most is None or units <= self._free(now)

    def charge(self, units: int, now: float) -> None:
        """Whether or not they fit."""
        if self.most is None:
            return
        self._pass(now)
        self.level -= units
        self.charges.append((now, units))
        self.charged += units

    def left(self, now: float) -> int:
        return max(0, int(self._free(now)))

    def more_in(self, now: float) -> float:
        """Seconds until more is left than now; of a bucket, until one unit is (0 if it is)."""
        if self.kind == "bucket":
            return self.fits_in(1, now)
        self._pass(now)
        if self.kind == "fixed":
            return self.window_s - now % self.window_s
        if self.kind == "from_first":
            return self.charges[0][0] + self.window_s - now if self.charges else self.window_s
        return self.charges[0][0] + self.window_s - now if self.charges else 0.0

    def fits_in(self, units: int, now: float) -> float:
        """Seconds until so many fit; a whole window for what never will, and at least the rest of a fixed one."""
        most = self.most or 0
        if self.fits(units, now):
            return 0.0
        if self.kind in ("fixed", "from_first"):
            return self.more_in(now)
        if not most or units > (self.size if self.kind == "bucket" else most):
            return self.window_s
        if self.kind == "bucket":
            return (units - self.level) * self.window_s / most
        over = self.charged + units - most
        for at, amount in self.charges:
            over -= amount
            if over <= 0:
                return at + self.window_s - now
        raise AssertionError("what is not charged fits")

    def _free(self, now: float) -> float:
        self._pass(now)
        return self.level if self.kind == "bucket" else (self.most or 0) - self.charged

    def _pass(self, now: float) -> None:
        """Drop what has left the window, refill the bucket."""
        self.level = min(self.size, self.level + (now - self.filled_at) * (self.most or 0) / self.window_s)
        self.filled_at = now
        fixed = self.kind == "fixed"
        begin = now - now % self.window_s if fixed else now - self.window_s
        if self.kind == "from_first" and self.charges:
            begin = now + 1 if self.charges[0][0] + self.window_s <= now else self.charges[0][0] - 1
        while self.charges:
            at, units = self.charges[0]
            if at > begin or (fixed and at == begin):
                break
            self.charged -= units
            self.charges.popleft()


class Slots(Generic[Who]):
    """So many run at a time, without ``most`` any number; the others wait in the order in which they came."""

    def __init__(self) -> None:
        self.most: int | None = None
        self.running = 0
        self.queue: collections.OrderedDict[Who, None] = collections.OrderedDict()

    def take(self, who: Who) -> bool:
        """Whether ``who`` runs at once; else it waits until :meth:`due` has it."""
        if self.queue or not self._free():
            self.queue[who] = None
            return False
        self.running += 1
        return True

    def leave(self, who: Who) -> bool:
        """``who`` runs or waits no more. Whether it had waited."""
        if who in self.queue:
            del self.queue[who]
            return True
        self.running -= 1
        return False

    def due(self) -> list[Who]:
        """Those whose turn it is now; they run from now on."""
        begun = []
        while self.queue and self._free():
            begun.append(self.queue.popitem(last=False)[0])
            self.running += 1
        return begun

    def _free(self) -> bool:
        return self.most is None or self.running < self.most
