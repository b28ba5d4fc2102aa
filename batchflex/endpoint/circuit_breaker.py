"""Whether an endpoint is down, and when to probe it again. Decisions only: time is passed in, nothing is sent here.

The question is how surprising it would be if an endpoint that works failed so often without an answer in between (a sequential
test; Wald 1945, "Sequential Tests of Statistical Hypotheses"). The share of requests that fail although it works is learned.
"""

from __future__ import annotations

import math

from ..core import TIMINGS

# What happens once in a million times to an endpoint that works means that it is down; once in ten thousand, that it may be.
_DOWN, _DOUBT = 1e-6, 1e-4
# The share that fails is taken to be 1 of 50 until more is known; of so many it is remembered.
_FAIL_FIRST, _OF_FIRST, _MEMORY = 1.0, 50.0, 1_000.0
_LEAST_SHARE, _MOST_SHARE = 0.002, 0.9
_GROWTH = 0.08


def _chance(failed: int, of: int, share: float) -> float:
    """An upper bound of the probability that so many fail of so many that are independent, each with the same share."""
    if failed <= 0:
        return 1.0
    choices = math.lgamma(of + 1) - math.lgamma(failed + 1) - math.lgamma(of - failed + 1)
    return math.exp(min(0.0, choices + failed * math.log(share)))


class CircuitBreaker:
    """The breaker of one endpoint: closed, half-open while it may be down (requests go one at a time), or open (an outage: only
    probes go). ``most_s`` is how long an outage may last, ``past_outages`` counts those that are over.

    Only first attempts are evidence: that a row fails again may be the row's own fault. One at least must have been sent after
    a failure was known: a machine behind a balancer that dies takes all that it has in flight with it, and what is sent then is
    answered by another. The failures since the last answer are judged twice: those in a row, as if whatever is still in flight
    were to be answered, as failures may come sooner than answers; and those sent since the first of them, whatever becomes of
    older ones, as a server that dies may still finish what it has begun.

    Probes come after 3.6 s, then every 5.3 s, then, from the first minute on, at distances that grow with the outage up to 30 s.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._sent = self._latest = self._in_flight = 0
        self._seen_failing, self._seen = _FAIL_FIRST, _OF_FIRST
        self._known_at = self._older_in_flight = 0
        self._clear()
        self._since: float | None = None
        self._last_probe = 0.0
        self._probes = 0
        self._certain = False
        self.past_outages = 0

    def _clear(self) -> None:
        # Since the first failure that no answer to a later request has put right: its number, which was the last one sent when
        # it was known, how many of those sent since it have failed, one of them since it was known, and how many in all.
        self._first: int | None = None
        self._in_a_row = self._newer = self._pending = 0
        self._confirmed = False
        self._half_open_at: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is an outage: nothing but probes goes."""
        return self._since is not None

    @property
    def failing(self) -> bool:
        """Whether a first attempt has failed and nothing that was sent later was answered."""
        return self._first is not None

    @property
    def most_in_flight(self) -> int | None:
        """How many requests may be in flight while it is half-open: one besides those sent before; ``None`` if it is not."""
        return None if self._half_open_at is None else self._older_in_flight + 1

    @property
    def usual_share(self) -> float:
        """The share of first attempts that is taken to fail while the endpoint works: that seen, and one deviation."""
        share = max(_LEAST_SHARE, self._seen_failing / self._seen)
        return min(_MOST_SHARE, share + math.sqrt(share / self._seen))

    def sent(self) -> int:
        """A request goes; returns its number."""
        self._sent += 1
        self._in_flight += 1
        return self._sent

    def ended(self, number: int) -> None:
        """Its end, whichever it was, after :meth:`failed` or :meth:`answered`."""
        self._in_flight -= 1
        if self._half_open_at is not None and number <= self._half_open_at:
            self._older_in_flight -= 1

    def failed(self, now: float, number: int, *, first: bool, timed_out: bool = False) -> bool:
        """An attempt failed as it would if the endpoint were down; ``first`` if the row had not failed before.

        One that ``timed_out`` is evidence of when it was sent, not of now: none if a later one was answered.
        True: with this one the breaker opens.
        """
        if self._since is not None or not first:
            return False
        if timed_out and number < self._latest:
            self._learn(1, 1)
            return False
        self._in_a_row += 1
        self._pending += 1
        if self._first is None:
            self._first, self._known_at = number, self._sent
        self._newer += number >= self._first
        self._confirmed = self._confirmed or number > self._known_at
        newer = self._chance_of_newer()
        if (
            self._half_open_at is None
            and min(newer, _chance(self._in_a_row, self._in_a_row, self.usual_share)) <= _DOUBT
        ):
            self._half_open_at, self._older_in_flight = self._sent, self._in_flight
        others = self._in_flight - 1
        in_a_row = _chance(self._in_a_row, self._in_a_row + others, self.usual_share)
        if not self._confirmed or min(newer, in_a_row) > _DOWN:
            return False
        self._open(now)
        return True

    def answered(self, number: int, *, first: bool) -> None:
        """An attempt was answered, by a completion, a refusal or words about the request itself."""
        if number > self._latest:
            self._latest = number
        if first:
            self._seen += 1
            if self._seen > _MEMORY:
                self._learn(0, 0)
        if self._first is None or self._since is not None:
            return
        self._in_a_row = 0
        if number >= self._first:
            self._learn(self._pending, self._pending)
            self._clear()
        elif self._half_open_at is not None and self._chance_of_newer() > _DOUBT:
            self._half_open_at = None

    def probe_answered(self) -> None:
        """A probe was answered, which was sent after all else."""
        self._sent += 1
        self.answered(self._sent, first=False)

    def open(self, now: float) -> None:
        """A probe failed as if the endpoint were down: that is no matter of a row."""
        self._open(now)
        self._certain = True

    def close(self) -> None:
        """A probe was answered. If it was the first, there may have been no outage, but rows that cannot be answered."""
        if not self._certain and self._probes <= 1:
            # What was usual before is not usual now.
            scale = min(1.0, _OF_FIRST / self._seen)
            self._seen, self._seen_failing = self._seen * scale, self._seen_failing * scale
            self._learn(self._pending, self._pending)
        self._since = None
        self._certain = False
        self._sent += 1
        self._latest = self._sent
        self._clear()
        self.past_outages += 1

    def barred(self, seconds: float) -> None:
        """Nothing could be sent for so long, for reasons of the run's own: that does not count as outage."""
        if self._since is not None:
            self._since += seconds
            self._last_probe += seconds

    def probe_in_s(self, now: float) -> float:
        if self._since is None:
            return float("inf")
        distance = TIMINGS.first_probe_s
        if self._probes:
            distance = min(
                TIMINGS.longest_probe_s, max(TIMINGS.next_probe_s, _GROWTH * (self._last_probe - self._since))
            )
        due = self._last_probe + distance
        # One more just when it has lasted too long, unless that is over already.
        last = self._since + self._most_s
        return max(0.0, (min(due, last) if self._last_probe < last else due) - now)

    def probed(self, now: float) -> None:
        self._probes += 1
        self._last_probe = now

    def lasted_s(self, now: float) -> float:
        return 0.0 if self._since is None else now - self._since

    def too_long(self, now: float) -> bool:
        """Whether to give up."""
        return self._since is not None and now - self._since >= self._most_s

    def _chance_of_newer(self) -> float:
        since_first = 0 if self._first is None else self._sent - self._first + 1
        return _chance(self._newer, since_first, self.usual_share)

    def _open(self, now: float) -> None:
        self._since = self._last_probe = now
        self._probes = 0

    def _learn(self, failing: int, of: int) -> None:
        self._seen_failing += failing
        self._seen += of
        if self._seen > _MEMORY:
            self._seen_failing /= 2
            self._seen /= 2
