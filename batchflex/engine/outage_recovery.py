"""Waiting for an endpoint to come back: after an outage, or until its credit is topped up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeGuard

import anyio

from ..core import TIMINGS, AttemptError, Emit, Event, RateLimited, Request, RunFault, Transient
from ..protocol import failure_text
from .admission import Admission
from .endpoint_state import EndpointState
from .engine_member import Member
from .probes import HOURS, NotSent, Prober

if TYPE_CHECKING:
    from .endpoint_pool import EndpointPool

OUTAGE, CREDIT = "outage", "credit"
_POLL_S = 0.2


def means_down(fault: AttemptError | None) -> TypeGuard[Transient]:
    """Whether a probe that ended so was not understood."""
    return isinstance(fault, Transient) and not isinstance(fault, RateLimited)


def facts_of(state: EndpointState, reason: str, fault: AttemptError | None = None) -> dict[str, object]:
    return {"endpoint": state.endpoint.name, "reason": reason, **({} if fault is None else failure_text.facts(fault))}


class Recovery:
    """Probes endpoints that are paused, each in a task of its own, and resumes them. What else a probe finds out it reports to
    the ``pool``."""

    def __init__(self, pool: EndpointPool, admission: Admission, members: Sequence[Member], emit: Emit) -> None:
        self._pool = pool
        self._admission = admission
        self._members = members
        self._emit = emit

    async def await_answer(self, state: EndpointState, like: Request) -> None:
        """Resume an endpoint that was down once it answers, or close it after ``limits.max_outage``; hours and pauses do not
        count."""
        while not state.closed:
            await anyio.sleep(state.breaker.probe_in_s(time.monotonic()))
            # Not while others wait for ``probing``: they may be over before this ends.
            barred_from = time.monotonic()
            await _while(lambda: HOURS in state.pauses or self._payer() is None)
            state.breaker.barred(time.monotonic() - barred_from)
            async with state.probing:
                state.breaker.probed(time.monotonic())
                try:
                    fault = await self._send(state, probe := self._pool.like(state, like))
                except NotSent:
                    continue
            lasted_s = state.breaker.lasted_s(time.monotonic())
            lasted = f"{lasted_s:,.0f} s"
            if not means_down(fault):
                state.breaker.close()
                self._pool.follow_breaker(state)
                facts = {**facts_of(state, OUTAGE), "lasted_s": round(lasted_s, 1)}
                self._emit(Event("resumed", f"{state.endpoint.name} answers again, after {lasted}", facts=facts))
                if isinstance(fault, RunFault):
                    self._pool.refused_all(state, fault, probe)
                for member in list(self._members):
                    if member.on_return is not None:
                        member.on_return(state)
                self._admission.resume(state, OUTAGE)
                return
            if state.breaker.too_long(time.monotonic()):
                head = f"the endpoint has not answered for {lasted} (limits.max_outage): "
                self._pool.close(state, fault, "endpoint", head + failure_text.why(fault))
                return

    async def _send(self, state: EndpointState, like: Request) -> AttemptError | None:
        """Request one token at the cost of one of the job runs that are there.

        :raises NotSent: if nothing more is sent there, or none of them sends anything now.
        """
        prober = None if state.closed else self._payer()
        if prober is None:
            raise NotSent
        return await prober.send(state, like)

    def _payer(self) -> Prober | None:
        """That of a job run that is neither paused nor over."""
        probers = (member.prober for member in self._members)
        return next((prober for prober in probers if prober is not None and not prober.is_over), None)

    async def await_credit(self, state: EndpointState, request: Request) -> None:
        """Resume an endpoint once there is credit again."""
        distance = TIMINGS.credit_probe_s
        while not state.closed:
            await anyio.sleep(distance)
            distance = min(TIMINGS.longest_credit_probe_s, 2 * distance)
            await _while(lambda: (state.breaker.is_open or self._payer() is None) and not state.closed)
            like = self._pool.like(state, request)
            async with state.probing:
                try:
                    fault = await self._send(state, like)
                except NotSent:
                    continue
            if means_down(fault):
                if self._pool.any_answered:
                    self._pool.is_down(state, fault, request)
            elif isinstance(fault, RunFault) and fault.reason not in ("credit", "model"):
                self._pool.refused_all(state, fault, like)
                return
            elif not isinstance(fault, RateLimited) and not (isinstance(fault, RunFault) and fault.reason == "credit"):
                words = f"{state.endpoint.name}: there is credit again"
                self._emit(Event("resumed", words, facts=facts_of(state, CREDIT)))
                self._admission.resume(state, CREDIT)
                if isinstance(fault, RunFault):
                    self._pool.refused_all(state, fault, like)
                return


async def _while(holds: Callable[[], bool]) -> None:
    """Wait as long as that holds."""
    while holds():  # noqa: ASYNC110  nothing says when
        await anyio.sleep(_POLL_S)
