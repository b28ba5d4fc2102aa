"""Requests of the run's own, for a single token: does an endpoint work?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import anyio
import msgspec

from ..core import AttemptError, KeyReplaced, Request
from ..endpoint import Catalog, Client, Endpoint, Fallback, Outage, Prices, Quirks
from ..protocol import classify
from ..storage import Tally
from .accounting import Accounts
from .admission import Gate, Lane
from .budget import Budget

HOURS = "hours"  # the pause of a lane outside of limits.active_hours
_ANSWER_S = 60.0
_LOOK_S = 1.0


class NotSent(Exception):
    """The run, or this endpoint, is asked nothing more."""


@dataclass(slots=True)
class ModelState:
    """What one endpoint has shown of one model.

    ``proof_at`` is when the latest request was sent that was answered as by a model that works: with a completion, or with
    words about the request. ``completions`` counts the former, ``answered`` is the latest of them. ``had_at`` is when the model
    was asked for one token after it was refused as one that is not there, and answered. Seconds of the monotonic clock.
    """

    proof_at: float = float("-inf")
    completions: int = 0
    answered: Request | None = None
    had_at: float = float("-inf")


class Way:
    """One endpoint of a run: its lane of the gate, its client, its breaker, and what it has shown of each model.

    ``completions`` counts those of all models. ``catalog`` is its list of models, once that was fetched.
    """

    def __init__(
        self, lane: Lane, endpoint: Endpoint, client: Client, outage: Outage, fallback: Fallback = "json_object"
    ) -> None:
        self.lane = lane
        self.endpoint = endpoint
        self.client = client
        self.outage = outage
        self.quirks = Quirks(fallback)
        self.catalog = Catalog([])
        self.completions = 0
        self._models: dict[str, ModelState] = {}
        self.probing = anyio.Lock()

    def streams(self, request: Request) -> bool:
        """Whether this request is streamed: as the job says, else where it is known or was found that this gets more."""
        found = self.quirks.unstreamed_tokens is not None or request.before is not None
        if (
            found
            and self.endpoint.stream == "auto"
            and (
                self.quirks.streams(request.max_tokens)
                or (request.before is not None and request.before.cut_by == "server" and self.quirks.streams_help)
            )
        ):
            return True
        return self.endpoint.streams(request.max_tokens)

    def of(self, model: str) -> ModelState:
        """What is known of a model that rows name."""
        if (state := self._models.get(model)) is None:
            state = self._models[model] = ModelState()
        return state

    def answered(self, but: Collection[str]) -> Request | None:
        """The latest row that was answered by a model, ``but`` for these."""
        states = [state for model, state in self._models.items() if state.answered is not None and model not in but]
        return max(states, key=lambda state: state.proof_at).answered if states else None

    def prove(self, model: str, sent_at: float) -> None:
        """What was sent to this model then was answered as by one that works."""
        state = self.of(model)
        state.proof_at = max(state.proof_at, sent_at)


class Prober:
    """Sends probes: one at a time to an endpoint, within every limit that rows have."""

    def __init__(self, gate: Gate, budget: Budget, accounts: Accounts, tally: Tally, prices: Prices) -> None:
        self._prices = prices
        self._gate = gate
        self._budget = budget
        self._accounts = accounts
        self._tally = tally

    async def ask(self, way: Way, like: Request) -> AttemptError | None:
        """Ask for one token, of the model that ``like`` asks; ``None`` if it came. To be called with ``way.probing`` held.

        :raises NotSent: if nothing more is sent.
        """
        while isinstance(fault := await self._ask_once(way, like), KeyReplaced):
            pass
        return fault

    async def _ask_once(self, way: Way, like: Request) -> AttemptError | None:
        request = smallest(like)
        prices = self._prices.of(request.body, way.endpoint.name)
        cost = self._budget.cost(len(request.body), request.max_tokens, prices, like.model)
        while HOURS in way.lane.pauses and not (self._gate.closed or way.lane.closed):
            await self._gate.sleep(_LOOK_S)
        if not await self._gate.enter_as_probe(way.lane, cost):
            raise NotSent
        self._tally.requests_sent += 1
        self._tally.probes += 1
        try:
            try:
                with anyio.fail_after(_ANSWER_S):
                    answer = await way.client.attempt(request)
            except TimeoutError:
                raise classify.timed_out(f"no answer to a request for one token within {_ANSWER_S:g} s") from None
            self._accounts.answered(way.lane, cost, answer.usage, probe=True)
            way.prove(like.model, cost.sent_at)
            return None
        except AttemptError as fault:
            self._accounts.failed(way.lane, cost, fault, probe=True)
            return fault
        finally:
            self._gate.leave(way.lane)


class _Body(msgspec.Struct):
    model: str
    max_completion_tokens: int | None = None


def smallest(request: Request) -> Request:
    """The smallest request to the same model, which limits its answer by the same name."""
    body = msgspec.json.decode(request.body, type=_Body)
    limit = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked = {limit: 1, "messages": [{"role": "user", "content": "ok"}], "model": body.model}
    return msgspec.structs.replace(request, body=msgspec.json.encode(asked), max_tokens=1)
