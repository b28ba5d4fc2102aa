"""When the next request to one endpoint may go: its quotas, the waits it asked for, and how many may be in flight.

Decisions only. Time is passed in (seconds of a monotonic clock), nothing is slept and nothing is sent here:
:mod:`batchflex.gate` carries out what is decided.
"""

from __future__ import annotations

import random

from .budget import Cost, TokenEstimate
from .concurrency import Concurrency
from .model import Usage
from .quota import Quota
from .ratelimit import Told

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 60.0
_LONGEST_RAMP_S = 2.0
_SPREAD_CATCH_UP_S = 0.005


class Pace:
    """Every limit of one endpoint's key, asked together. ``rpm`` and ``tpm`` are ceilings that the job sets."""

    def __init__(
        self,
        concurrency: Concurrency,
        rpm: float | None = None,
        tpm: float | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self.concurrency = concurrency
        self.requests = Quota(rpm)
        self.tokens = Quota(tpm, of_tokens=True)
        self._estimate = TokenEstimate()
        self._jitter = jitter or random.Random()
        self._held_until = float("-inf")
        self._held_since = float("-inf")
        self._ramp_s = 0.0
        self._ramp_next = 0.0
        self._spread_next = float("-inf")
        self._refusals = 0

    def wait_s(self, now: float, cost: Cost) -> float:
        """Seconds until an attempt may go; 0 is now."""
        wait = max(0.0, self._held_until - now, self.requests.wait_s(now), self._spread_next - _SPREAD_CATCH_UP_S - now)
        if self._ramp_s:
            wait = max(wait, self._ramp_next - now)
        return max(wait, self.tokens.wait_s(now, self._estimate(cost)))

    def held_s(self, now: float) -> float:
        """Seconds that the endpoint asked to wait and that are not over."""
        return max(0.0, self._held_until - now)

    def sent(self, now: float, cost: Cost) -> None:
        """An attempt goes."""
        cost.sent_at = now
        cost.tokens = self._estimate(cost)
        cost.requests_mark = self.requests.take(now)
        cost.tokens_mark = self.tokens.take(now, cost.tokens)
        if gap_s := self.concurrency.gap_s:
            self._spread_next = max(self._spread_next, now) + gap_s
        if self._ramp_s:
            self._ramp_next = now + self._ramp_s / self.concurrency.size
            if now >= self._held_until + self._ramp_s:
                self._ramp_s = 0.0

    def answered(self, now: float, cost: Cost, usage: Usage, in_flight: int) -> None:
        """A completion came; so many are still in flight."""
        self._refusals = 0
        used = cost.tokens if usage.total_tokens is None else float(usage.total_tokens)
        if usage.total_tokens is not None:
            self._estimate.learn(cost, usage)
            self.tokens.correct(now, cost.sent_at, used - cost.tokens)
        self.requests.accepted(now, cost.sent_at)
        self.concurrency.left(now, cost.sent_at, in_flight, "answer")

    def unsent(self, now: float, cost: Cost, in_flight: int) -> None:
        """What was admitted was never sent."""
        self.tokens.correct(now, cost.sent_at, -cost.tokens)
        self.concurrency.left(now, cost.sent_at, in_flight, "failure")

    def failed(self, now: float, cost: Cost, in_flight: int, *, of_row: bool) -> None:
        """An attempt failed, ``of_row`` if the endpoint works and only this request does not."""
        self.requests.accepted(now, cost.sent_at)
        self.concurrency.left(now, cost.sent_at, in_flight, "answer" if of_row else "failure")

    def told(self, now: float, cost: Cost, told: Told) -> None:
        """What the headers of an answer, or of a refusal, say of the quotas."""
        if told.requests is not None:
            self.requests.told(now, cost.requests_mark, told.requests)
        if told.tokens is not None:
            self.tokens.told(now, cost.tokens_mark, told.tokens)

    def refused(self, now: float, cost: Cost, retry_after_s: float | None, in_flight: int) -> None:
        """A 429 came: every request of the key waits until the time the server gave, then they go one by one.

        If it gave none, or one that is over already, until a jittered time that doubles with each refusal in a row.
        Refusals of what was sent before the wait began say nothing new.
        """
        self.concurrency.left(now, cost.sent_at, in_flight, "refusal", retry_after_s)
        self.requests.refused(now, cost.sent_at, retry_after_s)
        self.tokens.correct(now, cost.sent_at, -cost.tokens)
        if retry_after_s:
            hold = retry_after_s
        elif cost.sent_at >= self._held_since:
            longest = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(self._refusals, 16))
            self._refusals += 1
            hold = longest * self._jitter.uniform(0.5, 1.0)
        else:
            return
        self._held_since = now
        self._held_until = max(self._held_until, now + hold)
        # Afterwards as many as may be in flight leave over a while, not all at the same moment.
        self._ramp_s = min(_LONGEST_RAMP_S, hold)
        self._ramp_next = self._held_until
