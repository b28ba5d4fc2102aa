"""When the next request to one endpoint may go: quotas of its key, waits that it demands, and how many may be in flight.

Decisions only. Time is passed in (seconds of a monotonic clock), nothing is slept and nothing is sent here:
:mod:`batchflex.engine.admission` carries out what is decided.
"""

from __future__ import annotations

import random

from ..core import TIMINGS, Message, Usage
from ..protocol import Limited, RateLimits
from .concurrency_limit import ConcurrencyLimit
from .cost import Cost, TokenEstimate
from .key_slots import KeySlots
from .quota import Ceiling, Quota
from .quota_from_headers import ByModel

_LONGEST_RAMP_S = 2.0
_SPREAD_CATCH_UP_S = 0.005
_UNKNOWN = Limited()


class Allowance:
    """What a key may use, wherever it is used: quotas, a time until which nothing goes, and how many may be in flight.

    ``rpm`` and ``tpm`` are ceilings that the job sets. Where the endpoint counts each model by itself, so is what is learned of
    its limits, from when that is seen. ``is_free`` is that nothing has limited it so far, neither a ceiling nor the endpoint.
    """

    def __init__(
        self,
        rpm: float | Ceiling | None = None,
        tpm: float | Ceiling | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self.requests = Quota(rpm)
        self.tokens = Quota(tpm, of_tokens=True)
        self.slots = KeySlots()
        self.is_free = self.requests.is_free and self.tokens.is_free
        self.said: Message | None = None
        self.held_since = float("-inf")
        self._jitter = jitter or random.Random()
        self._held_until = float("-inf")
        self._trusted_until = float("inf")  # an end of a window that was waited for in place of what the server asked
        self._ramp_s = 0.0
        self._ramp_next = 0.0
        self._refusals = 0
        self._refused_since: dict[str, float] = {}  # by model: refused since then, and not let through
        self._by_model: dict[str, Allowance] | None = None
        self._seen = ByModel()
        self._taken: dict[str, int] = {}

    def wait_s(self, now: float, tokens: float, model: str = "") -> float:
        """Seconds until an attempt that uses so many tokens may go; 0 is now, infinite is when one in flight has ended."""
        wait = max(0.0, self._held_until - now, self.requests.wait_s(now))
        if self.slots.most is not None:
            wait = max(wait, self.slots.wait_s(now))
        if self._ramp_s:
            wait = max(wait, self._ramp_next - now)
        wait = max(wait, self.tokens.wait_s(now, tokens))
        return wait if self._by_model is None else max(wait, self._of(model).wait_s(now, tokens))

    def held_s(self, now: float, model: str = "") -> float:
        """Seconds left of the wait that the endpoint demands: of all requests, and of those to this model."""
        held = max(0.0, self._held_until - now)
        return held if (own := self._if_by_itself(model)) is None else max(held, own.held_s(now))

    def server_wait_s(self, now: float, model: str = "") -> float:
        """Seconds until the endpoint lets requests to this model through, as it demands or as its headers show."""
        asked = max(self.held_s(now), self.requests.empty_s(now), self.tokens.empty_s(now))
        return asked if (own := self._if_by_itself(model)) is None else max(asked, own.server_wait_s(now))

    def _if_by_itself(self, model: str) -> Allowance | None:
        return self._by_model.get(model) if self._by_model else None

    def refusal_message(self, model: str) -> Message | None:
        """The server's words when it last refused a request to this model."""
        own = self._if_by_itself(model)
        return self.said if own is None else own.said or self.said

    def refused_for_s(self, now: float, model: str = "") -> float:
        """For how many seconds it has refused every request to this model."""
        return now - self._refused_since.get(model, now)

    def resumed(self) -> None:
        """Sending goes on after a pause that had other reasons than limits."""
        self._refused_since.clear()

    @property
    def may_pass_over(self) -> bool:
        """Whether one request may have to wait while another may be sent."""
        return self._by_model is not None or not self.tokens.is_free

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """Requests and tokens a second on the average; ``None`` where nothing bounds them."""
        rates = []
        for kind in ("requests", "tokens"):
            own = getattr(self, kind).rate
            of_models = [getattr(each, kind).rate for each in (self._by_model or {}).values()]
            all_models = [sum(of_models)] if of_models and None not in of_models else []
            rates.append(min([*([] if own is None else [own]), *all_models], default=None))
        return rates[0], rates[1]

    def take(self, now: float, cost: Cost, window: int) -> None:
        """An attempt is sent that is expected to use ``cost.tokens``, to an endpoint with a ``window`` of so many in flight."""
        if self.is_free:
            cost.requests_mark = self.requests.taken = self.requests.taken + 1.0
            cost.tokens_mark = self.tokens.taken = self.tokens.taken + cost.tokens
        else:
            cost.requests_mark = self.requests.take(now)
            cost.tokens_mark = self.tokens.take(now, cost.tokens)
            if self._ramp_s:
                self._ramp_next = now + self._ramp_s / window
                if now >= self._held_until + self._ramp_s:
                    self._ramp_s = 0.0
        if self._by_model is not None:
            self._of(cost.sent_model).take(now, cost, window)
        elif cost.sent_model:
            cost.model_mark = self._taken[cost.sent_model] = self._taken.get(cost.sent_model, 0) + 1

    def accepted(self, now: float, cost: Cost) -> None:
        """An attempt was let through."""
        if self._refused_since:
            self._refused_since.pop(cost.sent_model, None)
        self._trusted_until = float("inf")
        self.requests.accepted(now, cost.sent_at)
        self.slots.accepted(now, cost.sent_at)
        if self._by_model is not None:
            self._of(cost.sent_model).accepted(now, cost)

    def answered(self, now: float, cost: Cost, tokens: float) -> None:
        """The attempt was answered, and has used so many tokens."""
        self._refusals = 0
        self.accepted(now, cost)
        if not self.is_free:
            self._correct(now, cost, tokens - cost.tokens)
            if self._by_model is not None:
                self._of(cost.sent_model)._refusals = 0

    def unused(self, now: float, cost: Cost) -> None:
        self._correct(now, cost, -cost.tokens)

    def _correct(self, now: float, cost: Cost, tokens: float) -> None:
        self.tokens.correct(now, cost.sent_at, tokens)
        if self._by_model is not None:
            self._of(cost.sent_model).tokens.correct(now, cost.sent_at, tokens)

    def reported(self, now: float, cost: Cost, limits: RateLimits) -> None:
        """What the headers of an answer, or of a refusal, say of the quotas."""
        self.is_free = False
        for each in (limits, *limits.further):
            if each.in_flight is not None and each.in_flight.limit is not None:
                self.slots.reported(now, each.in_flight.limit)
            self._by_itself(now, cost, each)
            learning = self._of(cost.sent_model)
            learning.is_free = False
            if each.requests is not None:
                learning.requests.reported(now, cost.requests_mark, each.requests, each.descriptor)
            if each.tokens is not None:
                learning.tokens.reported(now, cost.tokens_mark, each.tokens, each.descriptor)

    def _by_itself(self, now: float, cost: Cost, limits: RateLimits) -> None:
        """Find out whether each model has limits of its own; from then on it has here."""
        level = limits.requests or limits.tokens
        if (
            self._by_model is not None
            or not cost.sent_model
            or level is None
            or limits.descriptor not in ("", "model_per_key")
        ):
            return
        if limits.requests is None:  # of tokens only the limit counts: how many a request takes is not known yet
            level = level._replace(remaining=0.0)
        back = self.requests.comes_back(limits.descriptor) if limits.requests else None
        if self._seen.seen(now, cost.sent_model, level, cost.model_mark, cost.requests_mark, back):
            self._by_model = {}
            self.requests.forget()
            self.tokens.forget()
            self._ramp_s = 0.0

    def _of(self, model: str) -> Allowance:
        """The allowance that limits of this model are learned in."""
        if self._by_model is None:
            return self
        if model not in self._by_model:
            self._by_model[model] = Allowance(jitter=self._jitter)
        return self._by_model[model]

    def refused(
        self,
        now: float,
        cost: Cost,
        retry_after_s: float | None,
        limited: Limited = _UNKNOWN,
        said: Message | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """A 429 came: all requests of the key wait until the time the server gave, then they are sent one by one.

        Where a window is known that ends sooner, until that: servers give a whole window's length. If they give no time, or one
        that is over already, until a jittered one that doubles with each refusal in a row. Refusals of what was sent before the
        wait began say nothing new. ``limited`` is which limit refused: one on what is in flight is waited for by its slots.
        ``alone``: others were let through meanwhile and this one was refused again; then nobody waits. ``said`` is what the
        server said.
        """
        self.unused(now, cost)
        self.said = said or self.said
        self._refused_since.setdefault(cost.sent_model, now)
        if alone:
            return
        self.is_free = False
        if limited.kind == "in_flight":
            self.slots.refused(now, cost.sent_at, limited.limit)
            return
        learning = self._of(cost.sent_model)
        learning.said = said or learning.said
        learning._hold(now, cost, retry_after_s, limited)

    def _hold(self, now: float, cost: Cost, retry_after_s: float | None, limited: Limited) -> None:
        self.is_free = False
        if retry_after_s:
            hold = retry_after_s
        elif cost.sent_at >= self.held_since:
            longest = min(TIMINGS.longest_backoff_s, TIMINGS.first_backoff_s * 2.0 ** min(self._refusals, 16))
            self._refusals += 1
            hold = longest * self._jitter.uniform(0.5, 1.0)
        else:
            return
        if cost.sent_at >= self._trusted_until:
            self.requests.mistaken()
            self.tokens.mistaken()
            self._trusted_until = float("inf")
        of_tokens = limited.kind == "tokens" and self.tokens.learned_from == "headers"
        quota, units = (self.tokens, max(1.0, cost.tokens)) if of_tokens else (self.requests, 1.0)
        known = quota.refused(now, cost.sent_at, retry_after_s, hold, units)
        if retry_after_s and 0 < known < hold:
            hold = known
            self._trusted_until = now + known
        if cost.sent_at >= self._held_until:
            self.held_since = now
        self._held_until = max(self._held_until, now + hold)
        # Afterwards as many as may be in flight leave over a while, not all at the same moment.
        self._ramp_s = min(_LONGEST_RAMP_S, hold)
        self._ramp_next = self._held_until


class Pacer:
    """All limits of one endpoint. The allowance may be shared with other endpoints of the same key. ``model`` is the one that all
    requests here go to, whatever they name."""

    def __init__(
        self, concurrency: ConcurrencyLimit, allowance: Allowance | None = None, model: str | None = None
    ) -> None:
        self.concurrency = concurrency
        self._model = model
        self.allowance = allowance or Allowance()
        self._estimate = TokenEstimate()
        self._spread_next = float("-inf")

    def wait_s(self, now: float, cost: Cost) -> float:
        """Seconds until an attempt may go; 0, or less, is now."""
        wait, allowance = 0.0, self.allowance
        if not allowance.is_free or allowance.slots.most is not None:
            if allowance.slots.most is not None:
                self.concurrency.allow(allowance.slots.most)
            wait = allowance.wait_s(now, self._estimate(cost), self._model or cost.model)
        return max(self._spread_next - _SPREAD_CATCH_UP_S - now, wait)

    def server_wait_s(self, now: float, model: str) -> float:
        """Seconds until the endpoint lets a row of this model through, as it demands or as its headers show."""
        return self.allowance.server_wait_s(now, self._model or model)

    def held_s(self, now: float, model: str) -> float:
        """Seconds left of the wait that the endpoint demands of such a row."""
        return self.allowance.held_s(now, self._model or model)

    def refused_for_s(self, now: float, model: str) -> float:
        """For how many seconds all such rows were refused."""
        return self.allowance.refused_for_s(now, self._model or model)

    def sent(self, now: float, cost: Cost, in_flight: int) -> None:
        """An attempt goes; with it so many are in flight here."""
        cost.sent_at, cost.among = now, in_flight
        cost.sent_model = self._model or cost.model
        cost.tokens = self._estimate(cost)
        self.allowance.take(now, cost, self.concurrency.size)
        self.allowance.slots.in_flight += 1
        if not self.concurrency.fixed and (gap_s := self.concurrency.gap_s):
            self._spread_next = max(self._spread_next, now) + gap_s

    def ended(self, now: float) -> None:
        """An attempt is over, however it ended; called after everything else about it."""
        slots = self.allowance.slots
        slots.ended(now)
        if slots.most is not None:
            self.concurrency.allow(slots.most)

    def answered(self, now: float, cost: Cost, usage: Usage, in_flight: int) -> None:
        """A completion came; so many are still in flight."""
        if usage.total_tokens is None:
            used = cost.tokens
        else:
            used = float(usage.total_tokens)
            self._estimate.learn(cost, usage)
        self.allowance.answered(now, cost, used)
        if not self.concurrency.fixed:
            self.concurrency.left(now, cost.sent_at, in_flight, "answer", among=cost.among)

    def unsent(self, now: float, cost: Cost, in_flight: int) -> None:
        """What was admitted was never sent."""
        self.allowance.unused(now, cost)
        self.concurrency.left(now, cost.sent_at, in_flight, "failure")

    def probed(self, now: float, cost: Cost, usage: Usage | None) -> None:
        """A probe ended. It is unlike any row, and shows nothing of how many may be in flight."""
        if usage is not None and usage.total_tokens is not None:
            self.allowance.answered(now, cost, float(usage.total_tokens))

    def failed(self, now: float, cost: Cost, in_flight: int, *, of_row: bool, reached: bool) -> None:
        """An attempt failed, ``of_row`` if the endpoint works and only this request does not.

        ``reached`` is whether the server answered at all, so that it has counted the request.
        """
        if reached:
            self.allowance.accepted(now, cost)
        self.concurrency.left(now, cost.sent_at, in_flight, "answer" if of_row else "failure", among=cost.among)

    def reported(self, now: float, cost: Cost, limits: RateLimits) -> None:
        """What the headers of an answer, or of a refusal, say of the quotas."""
        self.allowance.reported(now, cost, limits)

    def refused(
        self,
        now: float,
        cost: Cost,
        retry_after_s: float | None,
        in_flight: int | None,
        limited: Limited = _UNKNOWN,
        said: Message | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """A 429 came; so many are still in flight, ``None`` if that does not matter. See :meth:`Allowance.refused`."""
        if in_flight is not None and limited.kind != "in_flight" and not alone:
            self.concurrency.left(now, cost.sent_at, in_flight, "refusal", retry_after_s)
        self.allowance.refused(now, cost, retry_after_s, limited, said, alone=alone)
        self.concurrency.allow(self.allowance.slots.most)
