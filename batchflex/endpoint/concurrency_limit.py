"""How many requests may be in flight at one endpoint: a fixed number, or the fewest that reach its full throughput.

Decisions only: time is passed in, in seconds of a monotonic clock.

An endpoint with capacity left answers twice as many requests a second when twice as many are in flight; one without makes them
wait. So the window is judged by its throughput: how many are in flight, divided by how long an answer takes (Little's law). It
grows by half while that pays. Then it is held, and now and then tried a little larger and a little smaller: what delivers
clearly more is kept, and what is smaller and delivers as much. Where answers take no more than some milliseconds it grows until
they take as long, and is not made smaller. Only rounds count in which the window was used: a slow input, or a quota, says nothing
of the endpoint.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Literal

End = Literal["answer", "refusal", "failure"]

# Growth is kept if throughput grows by this part of it; a smaller window, if throughput falls by less than this part.
_PAYS, _COSTS = 0.25, 0.2
# At the beginning the window grows by at most and at least so much, as long as throughput grows by this power of that: by as much
# as throughput has just grown by, so that a server is sent no more than 1.6 times what it works on at a time.
_GROWTH, _LEAST_GROWTH, _GROWS = 1.5, 1.2, 0.5
_STEP, _LARGEST_STEP = 0.2, 1.0
# A step is so large that what it must deliver stands out of what throughput varies by chance, times this.
_OUT_OF_NOISE = 1.5
_USUAL_NOISE, _NOISE_WEIGHT = 0.05, 0.25
_STEADY_ERROR, _MOST_WINDOWS, _MOST_ANSWERS = 0.03, 4, 64
_GROWING_ERROR, _MOST_GROWING = 0.1, 64
_CHANGED, _RATE_WEIGHT = 0.15, 0.2
_LONGEST_HOLD = 6
# The window is used if it was full at times, and never far from it: after answers that come at once it takes a moment to fill.
_FULL, _USED = 0.95, 0.5
_NEARLY = 0.7  # of what is sent while it grows, what counts is sent with so much of it in flight
_FAILING = 0.05
# So many refusals, and such a share of the window, cut it: more where they name a time, as they then may be for the rate.
_REFUSING, _REFUSING_TIMED = (2, 0.15), (3, 0.25)
# While it grows the new requests are spread over this part of the time an answer takes.
_SPREAD = 0.3
_CUT = 0.7
# Refused again with about as many in flight, so soon: a ceiling, which is tried again after a while, then ever later.
_AGAIN_S, _ABOUT = 60.0, 1.5
_SAME_LEVELS, _SAME = 3, 1.15
_FEW, _MANY, _SHORT_S = 4, 0.6, 0.5
_CEILING_S, _LONGEST_CEILING_S = 30.0, 480.0
_QUEUING = 0.1
# Answers that take no longer than this, times the shortest, have not waited.
_UNQUEUED = 1.25
# Nobody suffers from a queue as short as this, and how such times change says more of this process than of the endpoint.
_SHORT_ANSWER_S = 0.01


@dataclass(slots=True)
class _Round:
    """What is seen while the window has one size, once ``unsettled`` answers to what was sent before have come."""

    began: float
    unsettled: int = 0
    ended: int = 0
    answers: int = 0
    peak: int = 0
    failed: int = 0
    refused: int = 0
    in_flight: int = 0
    sum: float = 0.0
    squares: float = 0.0
    window: float = 0.0
    means: list[float] = field(default_factory=list)

    def count(self, took_s: float, in_flight: int, size: int) -> None:
        """An answer came. As requests may have been sent in bursts, means are of whole windows of ``size`` answers."""
        self.answers += 1
        self.peak = max(self.peak, in_flight)
        self.in_flight += in_flight
        self.sum += took_s
        self.squares += took_s * took_s
        self.window += took_s
        if not self.answers % size:
            self.means.append(self.window / size)
            self.window = 0.0

    @property
    def mean_s(self) -> float:
        return self.sum / self.answers

    @property
    def rate(self) -> float:
        """Answers a second, by Little's law."""
        return self.in_flight / max(1e-9, self.sum)

    @property
    def variation(self) -> float:
        """Of the single answers' times: their variance, divided by their mean's square."""
        mean = max(1e-9, self.mean_s)
        return max(0.0, self.squares / self.answers / mean**2 - 1)


class ConcurrencyLimit:
    """The window of one endpoint. ``size`` is how many may be in flight now, never more than ``most``.

    ``allowed`` is how many of these the key may have. ``fixed`` keeps it at ``most``; else it begins with ``first``.
    ``last_reason`` is why it has this size, in words.
    """

    def __init__(self, most: int, *, first: int = 8, fixed: bool = False) -> None:
        self.most = most
        self.fixed = fixed
        self.size = most if fixed else min(first, most)
        self.last_reason = "fixed" if fixed else "begins small"
        self._round = _Round(float("-inf"))
        # While it grows: the size of the round before, what it delivered, and how long an answer took.
        self._growing = not fixed
        self._before: tuple[int, float, float] | None = None
        self._reached = 0  # the largest that has paid: it is doubled up to there
        # Afterwards: the size that is held, and what it delivers.
        self._base = self.size
        self._rate: float | None = None
        self._noise = _USUAL_NOISE
        self._last_mean: float | None = None
        self._hold, self._held = 1, 0
        self._fewer_next = True
        self._stride = 1.0
        self._cut_at, self._cut_size = float("-inf"), 0
        self._ceiling = most
        self._ceiling_until = float("-inf")
        self._ceiling_s = _CEILING_S
        self._refused_at = float("-inf")
        self._levels: list[int] = []
        self._queued: int | None = None
        self.allowed = most
        self._least_s = float("inf")

    def left(
        self,
        now: float,
        sent_at: float,
        in_flight: int,
        end: End,
        wait_s: float | None = None,
        *,
        among: int | None = None,
    ) -> None:
        """A request sent then has ended; ``in_flight`` is how many there still are without it, ``among`` how many there were with
        it when it was sent, if that was another number.

        ``wait_s`` is the wait that a refusal names, if it does: then it may be for the rate, not for how many are in flight.
        """
        seen = self._round
        if self.fixed:
            return
        of_this_round = sent_at >= seen.began
        among = in_flight + 1 if among is None else among
        seen.ended += of_this_round
        if end == "refusal" and self._always_here(now, sent_at, in_flight + 1, wait_s):
            self._limit(now, min(self._levels))
        elif end == "refusal" and of_this_round:
            seen.refused += 1
            fewest, share = _REFUSING_TIMED if wait_s else _REFUSING
            if seen.refused >= max(fewest, share * max(self.size, seen.ended)):
                self._cut(now, timed=bool(wait_s))
        elif end == "failure":
            seen.failed += of_this_round
        elif end == "answer" and self._growing and of_this_round and among >= _NEARLY * self.size:
            seen.count(now - sent_at, among, self.size)
            enough = min(_MOST_GROWING, seen.variation / _GROWING_ERROR**2)
            if seen.answers >= max(self.size, enough) and not self._is_inconclusive(now):
                self._grown(now)
        elif end == "answer" and not self._growing:
            if seen.unsettled:
                seen.unsettled -= 1
                return
            seen.count(now - sent_at, in_flight + 1, self.size)
            if len(seen.means) >= self._windows() and not seen.window:
                self._judge(now)

    @property
    def gap_s(self) -> float:
        """Seconds that should pass between two requests while it grows, so that what a quota refuses is little."""
        if not self._growing or self._before is None:
            return 0.0
        return _SPREAD * self._before[2] / self.size

    def allow(self, most: int | None) -> None:
        """The key may have so many in flight at all; ``None``: as far as is known any number."""
        allowed = self.most if most is None else min(most, self.most)
        if allowed == self.allowed:
            return
        self.allowed = allowed
        if self.fixed:
            self.size = allowed
        elif self.size > allowed:
            self.size = self._base = allowed
            self.last_reason = "the key may have no more in flight"

    def queue(self, waiting: int | None) -> None:
        """The endpoint reports how many requests wait in its own queue; ``None``: it does not any more."""
        self._queued = waiting

    def at_most(self, most: int) -> None:
        """No more than so many from the start, for want of connections."""
        self.most = self._ceiling = most
        self.allowed = min(self.allowed, most)
        self.size = self._base = min(self.size, most)

    def reset(self, now: float) -> None:
        """The endpoint is back after a pause: half of what it took before, then growing again."""
        if not self.fixed:
            self._grow(now, self.size // 2, "the endpoint is back")

    def _set(self, now: float, size: int, why: str) -> None:
        before, self.size = self.size, max(1, min(self._highest(now), size))
        self.last_reason = why
        self._round = _Round(now, 0 if self.size == before else max(before, self.size))
        if self.size != before:
            self._last_mean = None

    def _highest(self, now: float) -> int:
        return min(self.allowed, self._ceiling if now < self._ceiling_until else self.most)

    def _is_inconclusive(self, now: float) -> bool:
        """Whether the round that ends shows nothing; then it is begun again."""
        seen = self._round
        if seen.peak < _FULL * self.size or seen.in_flight < _USED * self.size * seen.answers:
            self._set(now, self.size, "the window is not used")
        elif seen.failed > _FAILING * (seen.answers + seen.failed):
            self._set(now, self.size, "requests fail")
        else:
            return False
        return True

    @property
    def _queues(self) -> bool:
        return self._queued is not None and self._queued > max(1.0, _QUEUING * self.size)

    # ------------------------------------------------------------------------------------------------------- growing

    def _grow(self, now: float, size: int, why: str) -> None:
        self._growing, self._before = True, None
        self._set(now, size, why)

    def _grown(self, now: float) -> None:
        """A round has ended: did the larger window deliver more than the one before?"""
        seen, before = self._round, self._before
        self._least_s = min(self._least_s, seen.mean_s)
        self._before = self.size, seen.rate, seen.mean_s
        enough, gained = self.size, _GROWTH
        if before is not None and before[0] < self.size:
            gained = seen.rate / before[1]
            if gained < (self.size / before[0]) ** _GROWS and seen.mean_s > _SHORT_ANSWER_S:
                enough = math.ceil(before[0] * gained)
        if enough == self.size < self._highest(now) and not self._queues:
            self._reached = max(self._reached, self.size)
            further = 2.0 if 2 * self.size <= self._reached else min(_GROWTH, max(_LEAST_GROWTH, gained))
            self._set(now, math.ceil(further * self.size), "grows: it has paid so far")
        else:
            self._steady(now, enough, "growing does not pay any more")

    # -------------------------------------------------------------------------------------------------------- steady

    def _steady(self, now: float, size: int, why: str) -> None:
        self._growing = False
        self._rate = None
        self._hold, self._held, self._fewer_next, self._stride = 1, 0, True, 1.0
        self._set(now, size, why)
        self._base = self.size

    def _windows(self) -> int:
        """How many windows of answers a round takes."""
        most = max(_MOST_WINDOWS, math.ceil(_MOST_ANSWERS / self.size))
        return max(2, min(most, math.ceil((self._noise / _STEADY_ERROR) ** 2)))

    def _judge(self, now: float) -> None:
        seen = self._round
        if self._is_inconclusive(now):
            return
        means = [self._last_mean, *seen.means] if self._last_mean is not None else seen.means
        for one, other in itertools.pairwise(means):
            # The mean distance of two draws is 2/√π deviations.
            off = abs(one - other) / max(1e-9, one + other) * math.sqrt(math.pi)
            self._noise += _NOISE_WEIGHT * (off - self._noise)
        self._last_mean = seen.means[-1]
        self._least_s = min(self._least_s, seen.mean_s)
        if self.size == self._base:
            self._go_on(now, seen.rate)
        elif self.size > self._base:
            self._tried_more(now, seen.rate)
        else:
            self._tried_fewer(now, seen.rate)

    def _go_on(self, now: float, rate: float) -> None:
        usual = self._rate
        if usual is not None and abs(rate - usual) > max(_CHANGED, 3 * self._error) * usual:
            self._rate = rate
            self._hold, self._held, self._fewer_next = 1, 0, rate < usual
            self._set(now, self.size, "what the endpoint delivers has changed")
            return
        self._rate = rate if usual is None else usual + _RATE_WEIGHT * (rate - usual)
        self._held += 1
        # Where the key may have no more in flight, and those there are do not wait, fewer would deliver less.
        settled = self.size >= self.allowed < self.most and self._round.mean_s <= _UNQUEUED * self._least_s
        if self._held < self._hold or settled:
            self._set(now, self.size, self.last_reason)
        else:
            self._try(now)

    @property
    def _error(self) -> float:
        """By how much a round's rate is off by chance."""
        return self._noise / math.sqrt(self._windows())

    def _try(self, now: float) -> None:
        self._held = 0
        step = max(_STEP, _OUT_OF_NOISE * self._error / _PAYS)
        fewer = min(self.size - 1, round(self.size / (1 + min(_LARGEST_STEP, step))))
        more = max(self.size + 1, round(self.size * (1 + min(_LARGEST_STEP, step * self._stride))))
        if self._round.mean_s <= _SHORT_ANSWER_S and not self._queues:
            self._set(now, more, "tries more")
        elif (self._fewer_next or self._queues or self.size >= self._highest(now)) and fewer >= 1:
            self._set(now, fewer, "tries fewer")
        else:
            self._set(now, more, "tries more")

    def _tried_more(self, now: float, rate: float) -> None:
        grown = self.size / self._base - 1
        if rate >= (self._rate or 0.0) * (1 + _PAYS * grown) and not self._queues:
            self._stride *= 1.5
            self._rate = rate
            self._accept(now)
        else:
            self._stride = 1.0
            self._go_back(now, "more in flight would not deliver more")

    def _tried_fewer(self, now: float, rate: float) -> None:
        shrunk = 1 - self.size / self._base
        if rate >= (self._rate or 0.0) * (1 - _COSTS * shrunk):
            # What was delivered is remembered, lest many small losses add up.
            self._accept(now)
        else:
            self._go_back(now, "fewer in flight would deliver less")

    def _accept(self, now: float) -> None:
        """Go on from here in the same direction, at once."""
        self._fewer_next = self.size < self._base
        self._base, self._hold = self.size, 1
        self._try(now)

    def _go_back(self, now: float, why: str) -> None:
        self._fewer_next = self.size > self._base
        self._hold = min(_LONGEST_HOLD, 2 * self._hold)
        self._set(now, self._base, why)

    # ------------------------------------------------------------------------------------------------------ refusals

    def _always_here(self, now: float, sent_at: float, in_flight: int, wait_s: float | None) -> bool:
        """Whether this is one more refusal, after others were waited for, with as many in flight as at those.

        A quota that is spent with few in flight, or that is refilled in no time, is something else.
        """
        if sent_at < self._refused_at or in_flight < max(_FEW, _MANY * self.size) or 0 < (wait_s or 0.0) < _SHORT_S:
            return False
        self._refused_at = now
        self._levels = [*self._levels, in_flight][-_SAME_LEVELS:]
        lowest = min(self._levels)
        return len(self._levels) == _SAME_LEVELS and max(self._levels) <= _SAME * lowest

    def _cut(self, now: float, *, timed: bool) -> None:
        """So many are too many: at once, and for a while if that was so not long ago."""
        again = now - self._cut_at < _AGAIN_S and self._cut_size / _ABOUT <= self.size <= self._cut_size * _ABOUT
        has_tried = not self._growing and self.size > self._base
        self._cut_at, self._cut_size = now, self.size
        if timed and not (again or has_tried):
            self._grow(now, math.floor(_CUT * self.size), "refusals")
            return
        self._limit(now, self.size)
        self._set(now, math.floor(_CUT * self._cut_size), "refusals")
        self._base = self.size

    def _limit(self, now: float, refused: int) -> None:
        """Stay below so many in flight for a while, the longer the more often that was so."""
        lasting = now < self._ceiling_until + _AGAIN_S
        self._ceiling_s = min(_LONGEST_CEILING_S, 2 * self._ceiling_s) if lasting else _CEILING_S
        self._ceiling, self._ceiling_until = max(1, math.floor(0.9 * refused)), now + self._ceiling_s
        self._steady(now, self._ceiling, "refusals")
        self._fewer_next = False
