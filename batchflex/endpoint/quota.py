"""One quota of one key, requests or tokens: what the job allows, what headers report, what refusals show.

Decisions only. Time is passed in (seconds of a monotonic clock), nothing is slept and nothing is sent here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

from ..protocol import Level
from .quota_from_headers import HeaderLimit
from .quota_from_refusals import RefusalLimit

_CATCH_UP_S = 0.25
_WINDOW_S = 60.0
_TOKENS_CATCH_UP_S = 5.0


class Ceiling(Protocol):
    """A limit that the job sets: what is decided here by :class:`Spacing` and :class:`Window`, or leased from elsewhere."""

    @property
    def per_minute(self) -> float: ...

    def wait_s(self, now: float, units: float) -> float:
        """Seconds until ``units`` may go; infinite until there is more elsewhere."""

    def take(self, now: float, units: float) -> None:
        """They go."""

    def correct(self, now: float, sent_at: float, units: float) -> None:
        """What was sent then used so many more than was taken, or, negative, fewer."""


class Spacing:
    """At most ``per_minute`` units in any 60 s, evenly spread.

    The generic cell rate algorithm (ITU-T I.371) with a tolerance of ``catch_up_s``, so that a late wake-up is caught up with.
    The interval is stretched by the tolerance: unit n + ``per_minute`` never leaves within 60 s of unit n. With ``lent_s``
    neither where each may leave so much later than it was taken, and :attr:`at_once` are taken together.
    """

    def __init__(self, per_minute: float, catch_up_s: float = _CATCH_UP_S, lent_s: float = 0.0) -> None:
        self.per_minute = per_minute
        self._catch_up_s = catch_up_s
        self._interval = (_WINDOW_S + catch_up_s + 2 * lent_s) / per_minute
        self.at_once = 1.0 + lent_s // self._interval
        self._next = -_WINDOW_S

    def wait_s(self, now: float, units: float = 1.0) -> float:
        return max(0.0, self._next - self._catch_up_s - now)

    def correct(self, now: float, sent_at: float, units: float) -> None:
        """Each request is one."""

    def take(self, now: float, units: float = 1.0) -> None:
        self._next = max(self._next, now) + units * self._interval


@dataclass(slots=True)
class _Bin:
    since: float
    units: float


class Window:
    """Units of differing size: at most ``per_minute`` in any 60 s, as estimated when sent and corrected afterwards. They may be
    sent ``lent_s`` later than they were taken."""

    _BIN_S = 0.25

    def __init__(self, per_minute: float, lent_s: float = 0.0) -> None:
        self.per_minute = self.at_once = per_minute
        self._span_s = self._BIN_S + _WINDOW_S + lent_s
        # The window is the ceiling; the spacing only spreads, and must not add to what the window costs.
        self._spacing = Spacing(per_minute * (1 + _TOKENS_CATCH_UP_S / _WINDOW_S), _TOKENS_CATCH_UP_S)
        self._bins: deque[_Bin] = deque()
        self._sum = 0.0

    def wait_s(self, now: float, units: float) -> float:
        """Seconds until ``units`` fit. What is larger than the whole quota goes when nothing else is in the window."""
        self._expire(now)
        wait = self._spacing.wait_s(now)
        if self._sum + units <= self.per_minute or not self._bins:
            return wait
        left, free_at = self._sum, now
        for oldest in self._bins:
            left, free_at = left - oldest.units, oldest.since + self._span_s
            if left + units <= self.per_minute:
                break
        return max(wait, free_at - now)

    def take(self, now: float, units: float) -> None:
        self._expire(now)
        self._spacing.take(now, units)
        self._sum += units
        if self._bins and now - self._bins[-1].since < self._BIN_S:
            self._bins[-1].units += units
        else:
            self._bins.append(_Bin(now, units))

    def correct(self, now: float, sent_at: float, units: float) -> None:
        """Count what an attempt used beyond its estimate, or give back what it did not use.

        What was not used leaves the window together with the estimate it is a part of; given back as of now, it would
        still be missing from the sum when the estimate has left.
        """
        if units >= 0:
            self.take(now, units)
            return
        self._expire(now)
        self._spacing.take(now, units)
        for estimated in reversed(self._bins):
            if estimated.since <= sent_at:
                estimated.units += units
                self._sum += units
                return

    def _expire(self, now: float) -> None:
        while self._bins and self._bins[0].since + self._span_s <= now:
            self._sum -= self._bins.popleft().units
        if not self._bins:
            self._sum = 0.0


class Quota:
    """When the next units of one quota may go. The strictest of three holds: the job's ceiling, headers, refusals.

    ``ceiling`` is the job's, so many a minute or what decides it. With ``of_tokens`` units differ in size, are estimated
    when taken and corrected afterwards. Each unit is taken before it is sent; the mark that :meth:`take` returns goes with it
    and comes back with its answer. While no limit is known nothing waits.
    """

    def __init__(self, ceiling: float | Ceiling | None = None, *, of_tokens: bool = False) -> None:
        if isinstance(ceiling, int | float):
            ceiling = None if not ceiling else Window(ceiling) if of_tokens else Spacing(ceiling)
        self._ceiling: Ceiling | None = ceiling
        self._catch_up_s = _TOKENS_CATCH_UP_S if of_tokens else _CATCH_UP_S
        # By whose limit the headers say it is. Of one that says so of nobody nothing may be known any more.
        self._headers: dict[str, HeaderLimit] = {}
        self._dropped: set[str] = set()
        self._refusals = RefusalLimit()
        self._learned = False
        self._was_empty = False
        self.taken = 0.0
        self._next = float("-inf")

    @property
    def is_free(self) -> bool:
        """Whether nothing limits it yet; until then what is taken is only counted, in ``taken``."""
        return self._ceiling is None and not self._learned

    @property
    def rate(self) -> float | None:
        """Units a second that may go on the average; ``None`` if nothing bounds them."""
        ceiling = None if self._ceiling is None else self._ceiling.per_minute / _WINDOW_S
        rates = [ceiling, *(learned.usual_rate for learned in self._headers.values()), self._refusals.rate]
        return min((rate for rate in rates if rate is not None), default=None)

    @property
    def learned_from(self) -> Literal["headers", "refusals"] | None:
        """What the limit beyond the job's own ceiling was learned from."""
        if self._headers:
            return "headers"
        return "refusals" if self._refusals.rate is not None else None

    def wait_s(self, now: float, units: float = 1.0) -> float:
        """Seconds until ``units`` may go; 0 is now."""
        wait = 0.0 if self._ceiling is None else self._ceiling.wait_s(now, units)
        if not self._learned:
            return wait
        wait = max(wait, self._next - self._catch_up_s - now)
        return max(wait, self.empty_s(now, units))

    def empty_s(self, now: float, units: float = 1.0) -> float:
        """Seconds until the endpoint's own window, as its headers report it, has room for ``units``; 0 if it has."""
        return max((learned.empty_s(now, units) for learned in self._headers.values()), default=0.0)

    def _rate(self, now: float) -> float | None:
        rates = [learned.rate(now) for learned in self._headers.values()]
        return min((rate for rate in rates if rate is not None), default=self._refusals.rate)

    def take(self, now: float, units: float = 1.0) -> float:
        """``units`` are sent now; returns their mark."""
        self.taken += units
        if self._ceiling is not None:
            self._ceiling.take(now, units)
        self._refusals.took(now, units)
        if self._learned:
            for learned in self._headers.values():
                learned.took(now, units)
            if (rate := self._rate(now)) is not None:
                if self._was_empty:
                    # In a window that slides, a burst now would leave it empty again in a window's time.
                    self._next = max(self._next, now + self._catch_up_s)
                    self._was_empty = False
                self._next = max(self._next, now) + units / rate
            elif careful_s := self._refusals.careful_s:
                self._next = now + self._catch_up_s + careful_s
        return self.taken

    def correct(self, now: float, sent_at: float, units: float) -> None:
        """What was sent then used so many units more (or, negative, less) than was taken for it."""
        if self._ceiling is not None:
            self._ceiling.correct(now, sent_at, units)
        if self._learned and (rate := self._rate(now)):
            self._next += units / rate

    def accepted(self, now: float, sent_at: float, units: float = 1.0) -> None:
        """What was sent then was not refused."""
        for learned in self._headers.values():
            learned.accepted(now, sent_at)
        if not self._headers:
            self._refusals.accepted(now, sent_at, units)

    def comes_back(self, descriptor: str) -> float | None:
        """Units a second that come back before the window ends; ``None`` if it is not known how many."""
        learned = self._headers.get(descriptor)
        return 0.0 if learned is None else learned.comes_back

    def reported(self, now: float, mark: float, level: Level, descriptor: str = "") -> None:
        """What the headers of the answer to what was taken at ``mark`` report of the limit of that ``descriptor``."""
        if level.limit is None or level.remaining is None or descriptor in self._dropped:
            return
        learned = self._headers.setdefault(descriptor, HeaderLimit())
        learned.reported(now, mark, self.taken, level)
        if learned.contradicted and not descriptor:
            del self._headers[descriptor]
            self._dropped.add(descriptor)
            self._next = min(self._next, now)
        if not self._learned and level.window_s and level.reset_s is None and (rate := self._rate(now)):
            # What went before anything was known is a part of the window that began with it.
            self._next = now + min(self.taken, level.limit - level.remaining) / rate
        self._learned = True
        self._was_empty = self._was_empty or self.empty_s(now, 1.0) > 0

    def refused(
        self, now: float, sent_at: float, retry_after_s: float | None, hold_s: float, units: float = 1.0
    ) -> float:
        """What was sent at that time was refused for its rate. The caller sends nothing for ``hold_s`` seconds, or for as many as
        this returns, unless it is 0: until the end of a known window."""
        for learned in self._headers.values():
            learned.refused(now, retry_after_s, units)
        if not self._headers:
            soon_s = self._refusals.soon_s
            self._refusals.refused(now, sent_at, retry_after_s, hold_s if not soon_s else min(hold_s, soon_s))
            self._learned = self._was_empty = True
            return soon_s
        return self.empty_s(now, units)

    def mistaken(self) -> None:
        """What was taken for the end of a window was none: learn it anew."""
        for learned in self._headers.values():
            learned.mistaken()

    def forget(self) -> None:
        """Forget all but the job's ceiling: what was learned belongs elsewhere."""
        self._headers, self._refusals, self._learned = {}, RefusalLimit(), False
        self._next = float("-inf")
