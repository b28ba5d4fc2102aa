"""A row that has no final outcome yet: what is sent for it, and what its attempts have shown."""

from __future__ import annotations

import time

import msgspec

from ..core import FormatFallback, RateLimited, Request
from ..endpoint import Cost, Tries
from ..storage import record
from .endpoint_state import EndpointState, ModelState

# Outages that do not count against a row that was in flight. A row that meets more may be what brings the server down.
_MOST_FREE_RETRIES = 10
# After so many refusals by a rate limit that let others pass in between, the row is too large for it. From the second on it waits
# by itself, and no other waits for it.
_MOST_REFUSALS, _ALONE, _LONGEST_ALONE_S = 50, 2, 5.0


class PendingRow(msgspec.Struct, eq=False):
    """``planned`` is the request as it is in the plan; ``request`` follows an answer that did not fit, if there was one, and
    ``sent_before`` is how many requests were sent until then.

    ``state`` is where it was sent last, as the request of that ``number``. ``outages``, ``completions`` and ``of_model``
    (completions of its model) are how many there had been there by then, ``failed_at`` is when it failed, in seconds of the
    monotonic clock. ``refused`` counts refusals by a rate limit while others were answered, ``passed`` those while others of its
    model were, ``free_retries`` how often its failures were forgiven. ``waiting`` is whether it waits for another attempt.
    """

    planned: Request
    request: Request
    cost: Cost
    sent_before: int = 0
    number: int = 0
    outages: int = 0
    completions: int = 0
    of_model: int = 0
    failed_at: float = 0.0
    refused: int = 0
    passed: int = 0
    free_retries: int = 0
    started_at: int = 0
    waiting: bool = False
    state: EndpointState | None = None
    tries: Tries = msgspec.field(default_factory=Tries)

    @property
    def may_be_forgiven(self) -> bool:
        """Whether further failures may be taken for the endpoint's."""
        return self.free_retries < _MOST_FREE_RETRIES

    def forgive(self, *, always: bool = False) -> None:
        """The endpoint was to blame: what was used up of the row's attempts does not count."""
        if always or self.may_be_forgiven:
            self.free_retries += 1
            self.tries.forgive()

    @property
    def is_too_large(self) -> bool:
        """Whether rate limits have refused it so often, and let others of its model pass, that it will never be let through."""
        return self.passed >= _MOST_REFUSALS

    def was_refused(self, fault: RateLimited, state: EndpointState, of_model: ModelState, *, is_last: bool) -> bool:
        """Count a refusal by a rate limit. True: the limit is this row's problem alone, so that no other has to wait for it.

        ``is_last`` is that nothing else is in flight or waits.
        """
        self.cost.refusals += 1
        alone = False
        if fault.limit_kind not in ("requests", "in_flight"):  # those are the same for every row
            others_passed = self.completions != state.completions
            of_model_passed = self.of_model != of_model.completions
            if self.refused >= _ALONE and is_last:
                others_passed, of_model_passed = True, of_model.completions > 0  # all of them
            self.refused += others_passed
            self.passed += of_model_passed
            alone = others_passed and self.refused >= _ALONE
        self.completions, self.of_model = state.completions, of_model.completions
        if alone:
            fault.wait_s = min(_LONGEST_ALONE_S, fault.retry_after_s or 2.0 ** min(self.refused - _ALONE, 8))
        return alone

    def effort(self, fallback: FormatFallback | None = None) -> record.Effort:
        """How its outcome came about, by now."""
        name, model = None, self.request.model
        if self.state is not None:
            name, model = self.state.endpoint.name, self.state.endpoint.model or model
        sent = self.sent_before + self.tries.sent
        return record.Effort(sent, self.started_at, now_us(), name, model, fallback, self.cost.prices)


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000
