"""An endpoint in use: its slots, its pace, its circuit breaker, and what is known of its models."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import anyio

from ..core import Message, Request
from ..endpoint import Catalog, CircuitBreaker, Client, Endpoint, Fallback, Pacer, Quirks


class Pause(NamedTuple):
    """Why nothing goes to an endpoint, since when and, if that is known, until when, in seconds of the clock."""

    message: Message
    since: float
    until: float | None = None


class EndpointSlots:
    """How many requests are in flight at one endpoint, and whether more may go.

    ``proven`` is that it has answered as one that works; until then ``on_trial`` requests go at a time.
    ``most_half_open`` is how many may be in flight while it is doubted again. While it is ``failing``, rows that have not
    failed go before those that have: they show more. Rows get no slot here while a probe waits for one (``probe_waits``), or
    gates want to know first whether the endpoint or rows are to blame (``awaiting_verdict``). ``pauses`` are why nothing
    goes now, by a word for the reason. One that is ``closed`` is used no more; models ``without`` are asked
    elsewhere. ``sent_at`` is when something went there last.
    """

    def __init__(self, name: str, pacer: Pacer) -> None:
        self.name = name
        self.pacer = pacer
        self.in_flight = 0
        self.proven = False
        self.on_trial = 1
        self.most_half_open: int | None = None
        self.failing = False
        self.probe_waits = False
        self.awaiting_verdict: set[object] = set()
        self.closed = False
        self.without: frozenset[str] = frozenset()
        self.pauses: dict[str, Pause] = {}
        self.sent_at = float("-inf")

    @property
    def window(self) -> int:
        """How many requests may be in flight here now."""
        size = self.pacer.concurrency.size
        if not self.proven:
            return min(self.on_trial, size)
        return size if self.most_half_open is None else min(size, self.most_half_open)

    @property
    def is_open(self) -> bool:
        return not self.pauses and not self.closed

    @property
    def has_room(self) -> bool:
        """Whether one more may go."""
        if self.pauses or self.closed or self.probe_waits or self.awaiting_verdict:
            return False
        return self.in_flight < self.window


@dataclass(slots=True)
class ModelState:
    """What one endpoint has shown of one model.

    ``proof_at`` is when the latest request was sent that was answered as by a model that works: with a completion, or with
    words about the request, in seconds of the monotonic clock. ``completions`` counts the former, ``answered`` is the latest of
    them.
    """

    proof_at: float = float("-inf")
    completions: int = 0
    answered: Request | None = None


class EndpointState(EndpointSlots):
    """One endpoint of a run: its slots and pace, its client, its circuit breaker, and what it has shown of each model.

    ``completions`` counts those of all models. ``catalog`` is its list of models, once that was fetched.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pacer: Pacer,
        client: Client,
        breaker: CircuitBreaker,
        fallback: Fallback = "json_object",
    ) -> None:
        super().__init__(endpoint.name, pacer)
        self.endpoint = endpoint
        self.client = client
        self.breaker = breaker
        self.quirks = Quirks(fallback)
        self.catalog = Catalog([])
        self.completions = 0
        self._models: dict[str, ModelState] = {}
        self.probing = anyio.Lock()

    def streams(self, request: Request) -> bool:
        """Whether this request is streamed: as the job says, else where it is known or was found that this gets more."""
        quirks, before = self.quirks, request.before
        if (quirks.unstreamed_tokens is not None or before is not None) and self.endpoint.stream == "auto":
            after_cut = before is not None and before.cut_by == "server" and quirks.streams_help
            if after_cut or quirks.streams(request.max_tokens):
                return True
        return self.endpoint.streams(request.max_tokens)

    def of(self, model: str) -> ModelState:
        """What is known of a model that rows name."""
        if (found := self._models.get(model)) is None:
            found = self._models[model] = ModelState()
        return found

    def answered(self, but: Collection[str]) -> Request | None:
        """The latest row that was answered by a model, ``but`` for these."""
        found = [each for model, each in self._models.items() if each.answered is not None and model not in but]
        return max(found, key=lambda each: each.proof_at).answered if found else None

    def prove(self, model: str, sent_at: float) -> None:
        """What was sent to this model then was answered as by one that works."""
        of_model = self.of(model)
        of_model.proof_at = max(of_model.proof_at, sent_at)
