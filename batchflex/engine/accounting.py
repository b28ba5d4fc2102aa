"""What an attempt that has ended means for the budget, for the pace of its endpoint and for the counts of the run."""

from __future__ import annotations

import time

from ..config import price_usd
from ..core import AttemptError, KeyReplaced, RateLimited, Request, Usage
from ..endpoint import Cost, Prices
from ..protocol import Limited, classify, failure_text
from ..storage import RunState
from .budget import Budget
from .endpoint_state import EndpointSlots

_FILE_MARGIN = 3  # as a token is taken for three bytes until usage has been seen


class Accounting:
    """Estimates attempts, and settles them while their slots are still taken.

    A ``probe`` costs like any other request, but its duration and length say nothing about rows.
    """

    def __init__(self, budget: Budget, prices: Prices, run_state: RunState) -> None:
        self.prices = prices
        self.budget = budget
        self._run_state = run_state

    def cost(self, request: Request, endpoint: str | None = None) -> Cost:
        """What a request may use at most: at the prices of that endpoint, else at the highest. Of what its files take there is an
        estimate, of which three times as much is reserved."""
        prices = None
        if self.prices.are_any:
            model = request.model
            prices = self.prices.dearest(model) if endpoint is None else self.prices.of(model, endpoint)
        size = len(request.body)
        if request.files:
            size += _FILE_MARGIN * request.file_tokens
        return self.budget.cost(size, request.max_tokens, prices, request.model)

    def measured(self, cost: Cost, request: Request, text_bytes: int) -> None:
        """What a request that is not in flight may use, now that it is known how long the texts are that are put into it."""
        images = sum(file.tokens for file in request.files if file.kind == "image")
        size = len(request.body) + text_bytes + _FILE_MARGIN * images
        now = self.budget.cost(size, request.max_tokens, cost.prices, request.model)
        cost.body_bytes, cost.most_tokens, cost.most_usd = now.body_bytes, now.most_tokens, now.most_usd

    def answered(self, now: float, endpoint: EndpointSlots, cost: Cost, usage: Usage, *, probe: bool = False) -> None:
        """An attempt was answered."""
        self._run_state.use(usage, None if cost.prices is None else price_usd(cost.prices, usage))
        if self.budget.is_limited:
            self.budget.settled(cost, usage, None if probe else now - cost.sent_at, billed=True)
        if probe:
            endpoint.pacer.probed(now, cost, usage)
        else:
            endpoint.pacer.answered(now, cost, usage, endpoint.in_flight - 1)

    def failed(
        self, endpoint: EndpointSlots, cost: Cost, fault: AttemptError, *, probe: bool = False, alone: bool = False
    ) -> None:
        """An attempt was refused, or failed; ``alone`` if a rate limit refused it again, and let others through meanwhile."""
        now, others = time.monotonic(), endpoint.in_flight - 1
        if fault.usage is not None:
            self._run_state.spend(fault.usage, None if cost.prices is None else price_usd(cost.prices, fault.usage))
        if not fault.sent:
            self._run_state.requests_sent -= 1
            self._run_state.probes -= probe
        self.budget.settled(cost, fault.usage, billed=fault.billed, sent=fault.sent)
        if isinstance(fault, RateLimited):
            self._run_state.rate_limited += not probe
            limited, said = Limited(fault.limit_kind, fault.limit), failure_text.why(fault)
            endpoint.pacer.refused(
                now, cost, fault.retry_after_s, None if probe else others, limited, said, alone=alone
            )
        elif probe:
            endpoint.pacer.probed(now, cost, None)
        else:
            reached = fault.http_status is not None
            works = classify.is_of_row(fault) or isinstance(fault, KeyReplaced)
            endpoint.pacer.failed(now, cost, others, of_row=works, reached=reached)
