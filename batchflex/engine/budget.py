"""What a run may spend: money, tokens, requests and time. All are reserved from before anything is sent.

Decisions only: time is passed in, in seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..config import LimitsSection, PricesSection, price_usd
from ..core import StopReason, Usage
from ..endpoint import Cost

_SLOW_WEIGHT = 0.05
_COUNTED = 20  # prompts, until what is usual is known


class Verdict(NamedTuple):
    """``wait_s`` is 0 to go now, infinite to wait for something in flight; ``stop`` ends the run, for what ``why`` says."""

    wait_s: float = 0.0
    stop: StopReason | None = None
    why: str = ""


GO = Verdict()
WAIT = Verdict(float("inf"))  # until something in flight has ended


class BudgetLimit:
    """A ceiling that is reserved from before anything is spent. ``None`` is no ceiling. ``name`` is what it is called."""

    def __init__(self, ceiling: float | None, name: str = "") -> None:
        self._ceiling = ceiling
        self._name = name
        self._reserved = 0.0
        self._reservations = 0
        self.spent = 0.0

    @property
    def left(self) -> float:
        """What is neither spent nor reserved."""
        return float("inf") if self._ceiling is None else self._ceiling - self.spent - self._reserved

    def verdict(self, most: float) -> Verdict:
        if self._ceiling is None or self.spent + self._reserved + most <= self._ceiling + 1e-9:
            return GO
        if self._reserved > 0:
            return WAIT
        return self.spent_verdict(most)

    def spent_verdict(self, most: float) -> Verdict:
        """What is said when so much is too much, and nothing in flight can change that."""
        used, ceiling, needed = (f"{amount:,.8g}" for amount in (self.spent, self._ceiling, most))
        return Verdict(
            stop="budget",
            why=f"{used} of limits.{self._name} = {ceiling} are used, and the next request may use {needed}. "
            "A budget is for one run: raise it, or run again",
        )

    def reserve(self, most: float) -> None:
        self._reserved += most
        self._reservations += 1

    def settle(self, most: float, used: float) -> None:
        self._reservations -= 1
        # Sums of fractions leave a trace, which must not be taken for something in flight.
        self._reserved = self._reserved - most if self._reservations else 0.0
        self.spent += used


class Deadline:
    """Nothing is sent that would probably not be answered in time: answers take as long as those before, and two deviations.

    ``due`` is on the clock of every ``now``; ``None`` is none.
    """

    def __init__(self, due: float | None) -> None:
        self.due = due
        self._mean = self._variance = 0.0

    @property
    def answer_s(self) -> float:
        """Seconds that an answer may well take; 0 until one came."""
        return self._mean + 2 * math.sqrt(self._variance)

    def answered(self, seconds: float) -> None:
        """An answer took so long."""
        off = seconds - self._mean
        if not self._mean:
            self._mean = seconds
            return
        self._mean += _SLOW_WEIGHT * off
        self._variance += _SLOW_WEIGHT * (off * off - self._variance)

    def left_s(self, now: float) -> float:
        """Seconds in which requests may still be sent."""
        return float("inf") if self.due is None else self.due - self.answer_s - now


class Budget:
    """Every ceiling on a run. A budget is for one run, whatever number of endpoints that has.

    The most a request can cost takes one token for each byte of its body, and ``max_tokens`` for the answer; an image that
    is given by its URL alone can cost more than that. So much is reserved. An attempt that was lost on its way back, and may have
    been charged for, counts with ``max_tokens`` and, once prompts have been counted, with twice the most tokens a byte seen.
    """

    def __init__(
        self,
        limits: LimitsSection,
        deadline_s: float | None = None,
        priced_by: Callable[[], str] = str,
        limit: Callable[[float | None, str], BudgetLimit] = BudgetLimit,
    ) -> None:
        self._limits = limits
        self._priced_by = priced_by
        self._deadline = Deadline(deadline_s)
        self._usd = limit(limits.budget_usd, "budget_usd")
        self._tokens = limit(limits.budget_tokens, "budget_tokens")
        self._requests = limit(limits.budget_requests, "budget_requests")
        self.is_bounded = bool(limits.budget_usd or limits.budget_tokens or limits.budget_requests)
        self.is_limited = self.is_bounded or deadline_s is not None
        self._counted = 0
        self._densest = 0.0

    def cost(
        self, body_bytes: int, max_tokens: int | None, prices: PricesSection | None = None, model: str = ""
    ) -> Cost:
        """What a request with this body, to that model, may use at most, at these prices."""
        usd, completion = 0.0, max_tokens or 0
        if prices is not None:
            usd = (body_bytes * prices.input + completion * prices.output) / 1e6
        return Cost(body_bytes, max_tokens, body_bytes + completion, usd, prices, model=model)

    def verdict(self, now: float, cost: Cost) -> Verdict:
        """Whether an attempt may go now."""
        if not self.is_limited:
            return GO
        if self._deadline.left_s(now) <= 0:
            return Verdict(stop="deadline", why="the deadline leaves no time for another answer")
        if cost.prices is None and self._limits.budget_usd is not None:
            return Verdict(stop="budget", why="the price of the next request's model is not known: set [prices]")
        for limit, most in ((self._requests, 1.0), (self._tokens, float(cost.most_tokens)), (self._usd, cost.most_usd)):
            if (verdict := limit.verdict(most)) is not GO:
                is_priced = verdict.stop is not None and limit is self._usd
                return verdict._replace(why=f"{verdict.why} (counted {self._priced_by()})") if is_priced else verdict
        return GO

    def left_s(self, now: float) -> float:
        """Seconds until the deadline lets nothing more go; infinite without one."""
        return self._deadline.left_s(now)

    def sent(self, cost: Cost) -> None:
        """An attempt goes: reserve the most it can use."""
        if self.is_bounded:
            self._requests.reserve(1.0)
            self._tokens.reserve(cost.most_tokens)
            self._usd.reserve(cost.most_usd)

    def settled(
        self, cost: Cost, usage: Usage | None, took_s: float | None = None, *, billed: bool, sent: bool = True
    ) -> None:
        """An attempt ended. One that was ``billed`` without telling its ``usage`` counts with the most it can have used.

        ``took_s`` is how long an answer took that others may take as well.
        One that was not even ``sent`` gives everything back.
        """
        if took_s is not None and self._deadline.due is not None:
            self._deadline.answered(took_s)
        if not self.is_bounded:
            return
        if usage is not None and usage.prompt_tokens is not None:
            self._counted += 1
            self._densest = max(self._densest, usage.prompt_tokens / max(1, cost.body_bytes))
        tokens = usd = None
        if usage is not None and usage.total_tokens is not None:
            tokens = float(usage.total_tokens)
        if cost.prices and usage is not None and None not in (usage.prompt_tokens, usage.completion_tokens):
            usd = price_usd(cost.prices, usage) or 0.0
        if tokens is None or usd is None:
            most_tokens, most_usd = self._most(cost) if billed else (0.0, 0.0)
            tokens, usd = most_tokens if tokens is None else tokens, most_usd if usd is None else usd
        self._requests.settle(1.0, float(sent))
        self._tokens.settle(cost.most_tokens, tokens)
        self._usd.settle(cost.most_usd, usd)

    def _most(self, cost: Cost) -> tuple[float, float]:
        """Tokens and dollars that an attempt can have cost whose usage is not known."""
        if self._counted < _COUNTED:
            return float(cost.most_tokens), cost.most_usd
        prompt = min(float(cost.body_bytes), 2 * self._densest * cost.body_bytes)
        spared = cost.body_bytes - prompt
        return cost.most_tokens - spared, cost.most_usd - spared * (cost.prices.input if cost.prices else 0.0) / 1e6
