"""When the next request to one endpoint may go: its key's quotas, the waits it asked for, and how many may be in flight.

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


class Allowance:
    """What a key may use, wherever it is used: quotas, and a time until which nothing goes.

    ``rpm`` and ``tpm`` are ceilings that the job sets.
    """

    def __init__(self, rpm: float | None = None, tpm: float | None = None, jitter: random.Random | None = None) -> None:
        self.requests = Quota(rpm)
        self.tokens = Quota(tpm, of_tokens=True)
        self._jitter = jitter or random.Random()
        self._held_until = float("-inf")
        self._held_since = float("-inf")
        self._ramp_s = 0.0
        self._ramp_next = 0.0
        self._refusals = 0

    def wait_s(self, now: float, tokens: float) -> float:
        """Seconds until an attempt that uses so many tokens may go; 0 is now."""
        wait = max(0.0, self._held_until - now, self.requests.wait_s(now))
        if self._ramp_s:
            wait = max(wait, self._ramp_next - now)
        return max(wait, self.tokens.wait_s(now, tokens))

    def held_s(self, now: float) -> float:
        """Seconds that the endpoint asked to wait and that are not over."""
        return max(0.0, self._held_until - now)

    def take(self, now: float, cost: Cost, window: int) -> None:
        """An attempt goes that is expected to use ``cost.tokens``, to an endpoint that may have so many in flight."""
        cost.requests_mark = self.requests.take(now)
        cost.tokens_mark = self.tokens.take(now, cost.tokens)
        if self._ramp_s:
            self._ramp_next = now + self._ramp_s / window
            if now >= self._held_until + self._ramp_s:
                self._ramp_s = 0.0

    def accepted(self, now: float, cost: Cost) -> None:
        """An attempt was let through."""
        self.requests.accepted(now, cost.sent_at)

    def answered(self, now: float, cost: Cost, tokens: float) -> None:
        """It was answered, and has used so many tokens."""
        self._refusals = 0
        self.tokens.correct(now, cost.sent_at, tokens - cost.tokens)
        self.accepted(now, cost)

    def unused(self, now: float, cost: Cost) -> None:
        """It used no tokens."""
        self.tokens.correct(now, cost.sent_at, -cost.tokens)

    def told(self, now: float, cost: Cost, told: Told) -> None:
        """What the headers of an answer, or of a refusal, say of the quotas."""
        if told.requests is not None:
            self.requests.told(now, cost.requests_mark, told.requests)
        if told.tokens is not None:
            self.tokens.told(now, cost.tokens_mark, told.tokens)

    def refused(self, now: float, cost: Cost, retry_after_s: float | None) -> None:
        """A 429 came: every request of the key waits until the time the server gave, then they go one by one.

        If it gave none, or one that is over already, until a jittered time that doubles with each refusal in a row.
        Refusals of what was sent before the wait began say nothing new.
        """
        self.unused(now, cost)
        if retry_after_s:
            hold = retry_after_s
        elif cost.sent_at >= self._held_since:
            longest = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(self._refusals, 16))
            self._refusals += 1
            hold = longest * self._jitter.uniform(0.5, 1.0)
        else:
            return
        self.requests.refused(now, cost.sent_at, retry_after_s, hold)
        self._held_since = now
        self._held_until = max(self._held_until, now + hold)
        # Afterwards as many as may be in flight leave over a while, not all at the same moment.
        self._ramp_s = min(_LONGEST_RAMP_S, hold)
        self._ramp_next = self._held_until


class Pace:
    """Every limit of one endpoint, asked together. The allowance may be shared with other endpoints of the same key."""

    def __init__(self, concurrency: Concurrency, allowance: Allowance | None = None) -> None:
        self.concurrency = concurrency
        self.allowance = allowance or Allowance()
        self._estimate = TokenEstimate()
        self._spread_next = float("-inf")

    def wait_s(self, now: float, cost: Cost) -> float:
        """Seconds until an attempt may go; 0 is now."""
        return max(self._spread_next - _SPREAD_CATCH_UP_S - now, self.allowance.wait_s(now, self._estimate(cost)))

    def sent(self, now: float, cost: Cost) -> None:
        """An attempt goes."""
        cost.sent_at = now
        cost.tokens = self._estimate(cost)
        self.allowance.take(now, cost, self.concurrency.size)
        if gap_s := self.concurrency.gap_s:
            self._spread_next = max(self._spread_next, now) + gap_s

    def answered(self, now: float, cost: Cost, usage: Usage, in_flight: int) -> None:
        """A completion came; so many are still in flight."""
        if usage.total_tokens is None:
            used = cost.tokens
        else:
            used = float(usage.total_tokens)
            self._estimate.learn(cost, usage)
        self.allowance.answered(now, cost, used)
        self.concurrency.left(now, cost.sent_at, in_flight, "answer")

    def unsent(self, now: float, cost: Cost, in_flight: int) -> None:
        """What was admitted was never sent."""
        self.allowance.unused(now, cost)
        self.concurrency.left(now, cost.sent_at, in_flight, "failure")

    def probed(self, now: float, cost: Cost, usage: Usage | None) -> None:
        """A request of the run's own ended. It is like no row, and says nothing of how many may be in flight."""
        if usage is not None and usage.total_tokens is not None:
            self.allowance.answered(now, cost, float(usage.total_tokens))

    def failed(self, now: float, cost: Cost, in_flight: int, *, of_row: bool, reached: bool) -> None:
        """An attempt failed, ``of_row`` if the endpoint works and only this request does not.

        ``reached`` tells whether the server answered at all, so that it has counted the request.
        """
        if reached:
            self.allowance.accepted(now, cost)
        self.concurrency.left(now, cost.sent_at, in_flight, "answer" if of_row else "failure")

    def told(self, now: float, cost: Cost, told: Told) -> None:
        """What the headers of an answer, or of a refusal, say of the quotas."""
        self.allowance.told(now, cost, told)

    def refused(self, now: float, cost: Cost, retry_after_s: float | None, in_flight: int | None) -> None:
        """A 429 came; so many are still in flight, ``None`` if that does not matter."""
        if in_flight is not None:
            self.concurrency.left(now, cost.sent_at, in_flight, "refusal", retry_after_s)
        self.allowance.refused(now, cost, retry_after_s)
