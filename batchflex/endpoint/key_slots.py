"""How many requests a key may have in flight.

Decisions only: time is passed in, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import deque

# A slot that a server frees late: what is waited at first (a part of an answer's time), how that grows when it was too short and
# shrinks with each request that is let through: requests that end together may be refused together, so by the slots the less.
_LAG_PART, _LEAST_LAG_S, _FIRST_LAG_S, _LONGEST_LAG_S = 0.02, 0.0005, 0.01, 5.0
_LAG_GROWTH, _LAG_SHRINKS = 1.5, 0.005
# So long a lag is none: somebody else uses the slots, or there are fewer where none said how many. After a while one more is
# tried, then ever later.
_SHARED_S, _LATE_S, _MORE_S, _LONGEST_MORE_S = 0.1, 0.03, 0.5, 300.0


class KeySlots:
    """How many requests a key may have in flight, as its server says or its refusals show; and how many it has.

    Such a refusal is no matter of time: a slot is free when any request ends, or a moment later, as servers count an end after
    they have sent it; that moment is learned. ``most`` is ``None`` while no such limit is known.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self.in_flight = 0
        self._reported: int | None = None
        self._known_at = float("-inf")
        self._lag_s = 0.0
        self._answer_s = 0.0
        self._ends: deque[float] = deque()
        self._held_until = float("-inf")
        self._doubled_at = float("-inf")
        self._more_at = float("inf")
        self._more_s = _MORE_S
        self._tried_at: float | None = None
        self._others: int | None = None  # in flight besides one that was refused, until one is let through

    def wait_s(self, now: float) -> float:
        """Seconds until another may go; infinite until one ends."""
        if self.most is None:
            return 0.0
        if self.in_flight >= self.most or (self._others is not None and self.in_flight > self._others):
            return float("inf")
        while self._ends and self._ends[0] + self._lag_s <= now:
            self._ends.popleft()
        over = self.in_flight + len(self._ends) + 1 - self.most
        freed = self._ends[over - 1] + self._lag_s if over > 0 else now
        return max(0.0, freed - now, self._held_until - now)

    def ended(self, now: float) -> None:
        """A request has ended, however. The caller counts those it sends in ``in_flight``."""
        self.in_flight -= 1
        if self._lag_s:
            self._ends.append(now)

    def reported(self, now: float, limit: float) -> None:
        most = max(1, int(limit))
        if most != self._reported:
            self._reported = most
            self._know(now, most)

    def accepted(self, now: float, sent_at: float) -> None:
        """What was sent then was let through."""
        took = now - sent_at
        self._answer_s = took if not self._answer_s else self._answer_s + 0.1 * (took - self._answer_s)
        if sent_at >= self._doubled_at:
            self._others = None
        if self.most is None:
            return
        first_lag_s = min(_FIRST_LAG_S, _LAG_PART * self._answer_s)
        self._lag_s = self._lag_s * (1 - _LAG_SHRINKS / self.most) if self._lag_s else first_lag_s
        if self._tried_at is not None and sent_at >= self._tried_at and self.in_flight >= self.most:
            self._tried_at, self._more_s = None, _MORE_S
            self._more_at = now + _MORE_S
        if (
            now >= self._more_at
            and self.in_flight >= self.most
            and (self._reported is None or self.most < self._reported)
        ):
            self.most += 1
            self._tried_at = now
            self._more_at = now + max(self._more_s, self._answer_s)

    def refused(self, now: float, sent_at: float, limit: int | None) -> None:
        """What was sent then was refused, as too many are in flight; it is one of ``in_flight`` still."""
        others = max(1, self.in_flight - 1)
        if limit is not None:
            self.reported(now, limit)
        if self.most is None:
            self._know(now, others)
        elif sent_at < self._known_at:
            if self._reported is None:
                self.most = min(self.most, others)
        else:
            self._others = others if self._others is None else min(self._others, others)
            if sent_at >= self._doubled_at:
                self._too_soon(now, others)

    def _know(self, now: float, most: int) -> None:
        self.most, self._known_at = most, now
        self._lag_s = max(self._lag_s, min(_FIRST_LAG_S, _LAG_PART * self._answer_s))
        self._more_at = now + self._more_s if self._reported is None else float("inf")

    def _too_soon(self, now: float, others: int) -> None:
        """No more were in flight than may be, but a slot was not free yet; or others have it."""
        self._doubled_at = now
        if self.most is not None and self.most > 1 and self._tried_at is not None:
            self.most -= 1
            self._tried_at = None
            self._more_s = min(_LONGEST_MORE_S, 2 * self._more_s)
            self._more_at = now + self._more_s
            return
        self._lag_s = min(_LONGEST_LAG_S, max(_LEAST_LAG_S, _LAG_GROWTH * self._lag_s))
        first_lag_s = min(_FIRST_LAG_S, _LAG_PART * self._answer_s)
        long_s = max(_LATE_S, 4 * first_lag_s) if self._reported is None else max(_SHARED_S, 0.2 * self._answer_s)
        if self._lag_s > long_s and self.most is not None and self.most > 1:
            self.most = min(others, self.most - 1)
            self._more_at = now + self._more_s
            self._lag_s = first_lag_s
        self._held_until = now + self._lag_s
