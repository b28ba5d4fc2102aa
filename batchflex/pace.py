"""When the next request may go: quotas, waits the server asked for, budgets, the deadline.

Decisions only. Time is passed in (seconds of a monotonic clock), nothing is slept and nothing is sent here:
:mod:`batchflex.gate` carries out what is decided.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from .errors import StopReason
from .job import LimitsSection, PricesSection
from .model import Usage

_CATCH_UP_S = 0.25
_WINDOW_S = 60.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 60.0
# Until usage has been seen. Three bytes a token is on the careful side for prose in Latin script.
_FIRST_TOKENS_PER_BYTE, _FIRST_COMPLETION_TOKENS = 1 / 3, 256
_UNTIL_SOMETHING_SETTLES = float("inf")


@dataclass(slots=True)
class Cost:
    """What one attempt is expected to use, and what it may use at the very most. One attempt at a time has it."""

    tokens: float
    most_tokens: int
    most_usd: float
    body_bytes: int
    sent_at: float = 0.0


class Verdict(NamedTuple):
    """``wait_s`` is 0 to go now, infinite to wait for something in flight; ``stop`` ends the run."""

    wait_s: float = 0.0
    stop: StopReason | None = None


GO = Verdict()


class Spacing:
    """At most ``per_minute`` units in any 60 s, evenly spread.

    The generic cell rate algorithm (ITU-T I.371) with a tolerance of 0.25 s, so that a late wake-up is caught up with.
    The interval is stretched by the tolerance: unit n + ``per_minute`` never leaves within 60 s of unit n.
    """

    def __init__(self, per_minute: float) -> None:
        self._interval = (_WINDOW_S + _CATCH_UP_S) / per_minute
        self._next = -_WINDOW_S

    def wait_s(self, now: float) -> float:
        return max(0.0, self._next - _CATCH_UP_S - now)

    def take(self, now: float, units: float = 1.0) -> None:
        self._next = max(self._next, now) + units * self._interval


@dataclass(slots=True)
class _Bin:
    since: float
    units: float


class Window:
    """Units of differing size: at most ``per_minute`` in any 60 s, as estimated when sent and corrected afterwards."""

    _BIN_S = 0.25

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._spacing = Spacing(per_minute)
        self._bins: deque[_Bin] = deque()
        self._sum = 0.0

    def wait_s(self, now: float, units: float) -> float:
        """Seconds until ``units`` fit. What is larger than the whole quota goes when nothing else is in the window."""
        self._expire(now)
        wait = self._spacing.wait_s(now)
        if self._sum + units <= self._per_minute or not self._bins:
            return wait
        left, free_at = self._sum, now
        for oldest in self._bins:
            left, free_at = left - oldest.units, oldest.since + self._BIN_S + _WINDOW_S
            if left + units <= self._per_minute:
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
        while self._bins and self._bins[0].since + self._BIN_S + _WINDOW_S <= now:
            self._sum -= self._bins.popleft().units
        if not self._bins:
            self._sum = 0.0


class Purse:
    """A ceiling that is reserved from before anything is spent. ``None`` is no ceiling."""

    def __init__(self, ceiling: float | None) -> None:
        self._ceiling = ceiling
        self._reserved = 0.0
        self._reservations = 0
        self.spent = 0.0

    def verdict(self, most: float) -> Verdict:
        if self._ceiling is None or self.spent + self._reserved + most <= self._ceiling + 1e-9:
            return GO
        return Verdict(_UNTIL_SOMETHING_SETTLES) if self._reserved > 0 else Verdict(stop="budget")

    def reserve(self, most: float) -> None:
        self._reserved += most
        self._reservations += 1

    def settle(self, most: float, used: float) -> None:
        self._reservations -= 1
        # Sums of fractions leave a trace, which must not be taken for something in flight.
        self._reserved = self._reserved - most if self._reservations else 0.0
        self.spent += used


def price_usd(prices: PricesSection, usage: Usage) -> float | None:
    """What an answer cost; ``None`` if the server did not count its tokens."""
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return None
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cached = min(usage.cache_read_input_tokens or 0, prompt)
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    return ((prompt - cached) * prices.input + cached * cached_price + completion * prices.output) / 1e6


class Pace:
    """Every limit on one endpoint's key, asked together.

    ``deadline_s`` is the moment, on the same clock as every ``now``, after which nothing more is sent. A budget is
    for one run. The most a request can cost takes one token for each byte of its body, and ``max_tokens`` for the
    answer; an image that is given by its URL alone can cost more than that.
    """

    def __init__(
        self,
        limits: LimitsSection,
        prices: PricesSection | None = None,
        deadline_s: float | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._prices = prices
        self._deadline_s = deadline_s
        self._requests = Spacing(limits.rpm) if limits.rpm else None
        self._tokens = Window(limits.tpm) if limits.tpm else None
        self._usd = Purse(limits.budget_usd)
        self._budget_tokens = Purse(limits.budget_tokens)
        self._budget_requests = Purse(limits.budget_requests)
        self._limited = bool(
            self._requests or self._tokens or deadline_s is not None
            or limits.budget_usd or limits.budget_tokens or limits.budget_requests
        )  # fmt: skip
        self._jitter = jitter or random.Random()
        self._held_until = 0.0
        self._held_since = 0.0
        self._refusals = 0
        self._seen_bytes = self._seen_prompt = self._seen_completion = self._seen_answers = 0

    def cost(self, body_bytes: int, max_tokens: int | None) -> Cost:
        """What an attempt with this body is going to use."""
        if not self._limited:
            return Cost(0.0, 0, 0.0, body_bytes)
        completion = max_tokens or 0
        usd = 0.0
        if self._prices is not None:
            usd = (body_bytes * self._prices.input + completion * self._prices.output) / 1e6
        return Cost(self._expected(body_bytes, max_tokens), body_bytes + completion, usd, body_bytes)

    def _expected(self, body_bytes: int, max_tokens: int | None) -> float:
        if self._seen_answers:
            prompt = body_bytes * self._seen_prompt / max(1, self._seen_bytes)
            return prompt + self._seen_completion / self._seen_answers
        return body_bytes * _FIRST_TOKENS_PER_BYTE + min(max_tokens or _FIRST_COMPLETION_TOKENS, 4096)

    def verdict(self, now: float, cost: Cost) -> Verdict:
        """Whether an attempt may go now."""
        if not self._limited:
            return GO if now >= self._held_until else Verdict(self._held_until - now)
        if self._deadline_s is not None and now >= self._deadline_s:
            return Verdict(stop="deadline")
        for purse, most in (
            (self._budget_requests, 1.0),
            (self._budget_tokens, float(cost.most_tokens)),
            (self._usd, cost.most_usd),
        ):
            if (verdict := purse.verdict(most)) is not GO:
                return verdict
        wait = max(0.0, self._held_until - now)
        if self._requests:
            wait = max(wait, self._requests.wait_s(now))
        if self._tokens:
            wait = max(wait, self._tokens.wait_s(now, cost.tokens))
        if self._deadline_s is not None:
            wait = min(wait, self._deadline_s - now)
        return Verdict(wait) if wait else GO

    def sent(self, now: float, cost: Cost) -> None:
        """An attempt goes: reserve the most it can use."""
        cost.sent_at = now
        if not self._limited:
            return
        if self._requests:
            self._requests.take(now)
        if self._tokens:
            self._tokens.take(now, cost.tokens)
        self._budget_requests.reserve(1.0)
        self._budget_tokens.reserve(cost.most_tokens)
        self._usd.reserve(cost.most_usd)

    def settled(self, now: float, cost: Cost, usage: Usage | None, *, billed: bool) -> None:
        """An attempt ended. One that was ``billed`` without telling its ``usage`` counts with the most it can have used."""
        if usage is not None:
            self._refusals = 0
        if not self._limited:
            return
        tokens, usd = (float(cost.most_tokens), cost.most_usd) if billed else (0.0, 0.0)
        if usage is not None and usage.total_tokens is not None:
            tokens = float(usage.total_tokens)
            self._learn(cost, usage)
            if self._tokens:
                self._tokens.correct(now, cost.sent_at, tokens - cost.tokens)
        if self._prices and usage is not None and None not in (usage.prompt_tokens, usage.completion_tokens):
            usd = price_usd(self._prices, usage) or 0.0
        self._budget_requests.settle(1.0, 1.0)
        self._budget_tokens.settle(cost.most_tokens, tokens)
        self._usd.settle(cost.most_usd, usd)

    def _learn(self, cost: Cost, usage: Usage) -> None:
        self._seen_answers += 1
        self._seen_bytes += cost.body_bytes
        self._seen_prompt += usage.prompt_tokens or 0
        self._seen_completion += usage.completion_tokens or 0

    def refused(self, now: float, sent_at: float, retry_after_s: float | None) -> None:
        """A 429 came: every request of the key waits until the time the server gave.

        If it gave none, or one that is over already, until a jittered time that doubles with each refusal in a row.
        Refusals of what was sent before the wait began say nothing new.
        """
        if retry_after_s:
            self._held_until = max(self._held_until, now + retry_after_s)
            self._held_since = now
        elif sent_at >= self._held_since or not self._held_until:
            longest = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(self._refusals, 16))
            self._refusals += 1
            self._held_until = max(self._held_until, now + longest * self._jitter.uniform(0.5, 1.0))
            self._held_since = now
