"""Probes, requests for a single token: does an endpoint work?"""

from __future__ import annotations

import time

import anyio

from ..core import AttemptError, KeyReplaced, Request
from ..protocol import Route, classify
from ..storage import RunState
from .accounting import Accounting
from .endpoint_state import EndpointState
from .gate import Gate

HOURS = "hours"  # the pause of an endpoint outside of limits.active_hours
_ANSWER_S = 60.0
_POLL_S = 1.0


class NotSent(Exception):
    """Nothing is sent: the job run is over or paused, or the endpoint is closed."""


class Prober:
    """Sends probes at the cost of a job run: one at a time to an endpoint, within every limit that rows have."""

    def __init__(
        self,
        route: Route,
        gate: Gate,
        accounting: Accounting,
        run_state: RunState,
    ) -> None:
        self._route = route
        self.gate = gate
        self._accounting = accounting
        self._run_state = run_state

    @property
    def is_over(self) -> bool:
        """Whether the job run sends nothing now: it has stopped, or is paused."""
        return self.gate.closed or self.gate.is_paused

    async def send(self, state: EndpointState, like: Request) -> AttemptError | None:
        """Request one token of the model that ``like`` names; ``None`` if it came, else what failed. To be called with
        ``state.probing`` held.

        :raises NotSent: if nothing more is sent.
        """
        while isinstance(fault := await self._send_once(state, like), KeyReplaced):
            pass
        return fault

    async def _send_once(self, state: EndpointState, like: Request) -> AttemptError | None:
        request = self._route.probe(like.model, like=like.body)
        cost = self._accounting.cost(request, state.endpoint.name)
        while HOURS in state.pauses and not (self.gate.closed or state.closed):
            await self.gate.sleep(_POLL_S)
        if not await self.gate.enter_as_probe(state, cost):
            raise NotSent
        self._run_state.requests_sent += 1
        self._run_state.probes += 1
        try:
            try:
                with anyio.fail_after(_ANSWER_S):
                    answer = await state.client.attempt(request, route=self._route)
            except TimeoutError:
                raise classify.timed_out(f"no answer to a request for one token within {_ANSWER_S:g} s") from None
            self._accounting.answered(time.monotonic(), state, cost, answer.usage, probe=True)
            state.prove(like.model, cost.sent_at)
            return None
        except AttemptError as fault:
            self._accounting.failed(state, cost, fault, probe=True)
            return fault
        finally:
            self.gate.leave(state)
