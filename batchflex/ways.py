"""The endpoints of a run, and what is known of each: does it answer, is it down, is its credit spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeGuard

import anyio
import msgspec
from anyio.abc import TaskGroup

from . import classify
from .budget import Budget, Cost
from .client import Client
from .endpoint import Endpoint
from .errors import AttemptError, RateLimited, RowFault, RunFault, StopReason, Transient
from .gate import Gate, Lane
from .model import Request, Usage
from .outage import Outage
from .tally import Tally

_PROBE_S = 60.0  # for the answer to a probe
_CREDIT_S, _LONGEST_CREDIT_S = 5.0, 300.0  # between probes whether the credit was topped up
_MOMENT_S = 0.2
_OUTAGE, _CREDIT, HOURS = "outage", "credit", "hours"


class _NotSent(Exception):
    """The run, or this endpoint, is asked nothing more."""


class Way:
    """One endpoint of a run: its lane of the gate, its client, its breaker."""

    def __init__(self, lane: Lane, endpoint: Endpoint, client: Client, outage: Outage) -> None:
        self.lane = lane
        self.endpoint = endpoint
        self.client = client
        self.outage = outage
        self.has_answered = False


class Ways:
    """All of them. What one endpoint cannot do another may: the run stops when the last one is given up.

    ``wait_for_credit`` is ``on_no_credit = "wait"``. ``note`` is told what whoever watches should know. ``outages`` counts
    those that are over, false ones not included.
    """

    def __init__(
        self,
        ways: Sequence[Way],
        gate: Gate,
        budget: Budget,
        tally: Tally,
        stop: Callable[[StopReason, str], None],
        note: Callable[[str], None],
        *,
        wait_for_credit: bool = False,
    ) -> None:
        self._ways = {id(way.lane): way for way in ways}
        self._gate = gate
        self._budget = budget
        self._tally = tally
        self._stop = stop
        self._note = note
        self._wait_for_credit = wait_for_credit
        self._answered: Request | None = None
        self.outages = 0

    @property
    def any_answered(self) -> bool:
        """Whether a row was answered, by whichever endpoint."""
        return self._answered is not None

    def of(self, lane: Lane) -> Way:
        return self._ways[id(lane)]

    def watch_in(self, tasks: TaskGroup, on_return: Callable[[Way, bool], None]) -> None:
        """Where the tasks run that wait for an endpoint to come back. To be cancelled when nothing is left to ask.

        ``on_return`` is called when one answers again, and whether it was an outage at all, before anything is sent to it.
        """
        self._tasks = tasks
        self._on_return = on_return

    def settle_answer(self, way: Way, cost: Cost, usage: Usage) -> None:
        """An attempt was answered: account for it, while its slot is still taken."""
        now = time.monotonic()
        self._tally.use(usage, self._budget.price_usd(usage))
        self._budget.settled(cost, usage, now - cost.sent_at, billed=True)
        way.lane.pace.answered(now, cost, usage, way.lane.in_flight - 1)

    def settle_failure(self, way: Way, cost: Cost, fault: AttemptError) -> None:
        """An attempt failed: account for it, while its slot is still taken."""
        now, others = time.monotonic(), way.lane.in_flight - 1
        self._budget.settled(cost, None, billed=classify.may_be_billed(fault))
        if isinstance(fault, RateLimited):
            self._tally.rate_limited += 1
            way.lane.pace.refused(now, cost, fault.retry_after_s, others)
        else:
            way.lane.pace.failed(now, cost, others, of_row=classify.is_of_row(fault))

    def answered(self, way: Way, number: int, request: Request, *, first: bool) -> None:
        """A row was answered; ``number`` is that of the attempt, ``first`` whether it is the row's first."""
        self._answered = request
        way.has_answered = True
        self.understood(way, number, first=first)
        self._gate.prove(way.lane)

    def understood(self, way: Way, number: int, *, first: bool) -> None:
        """The endpoint answered as one that works, be it to say that the row is wrong, or comes too soon."""
        way.outage.answered(number, first=first)
        if way.lane.failing:
            self._heed_doubt(way)

    def failed(self, way: Way, fault: Transient, number: int, request: Request, *, first: bool) -> Transient:
        """An attempt failed as it would if the endpoint were down; returns what that means for the row.

        Before anything was answered the row's own attempts decide: an endpoint that never worked is none to wait for.
        """
        if self._answered is None:
            return fault
        if fault.error_type == "empty_answer":
            self.understood(way, number, first=first)
            return fault
        late = fault.error_type == "timeout"
        if way.outage.failed(time.monotonic(), number, first=first, timed_out=late):
            self._begin_outage(way, fault, request)
        self._heed_doubt(way)
        return classify.deferred(fault) if way.outage.on else fault

    def ended(self, way: Way, number: int) -> None:
        """That attempt is over, whichever way."""
        way.outage.ended(number)
        if way.lane.failing:
            self._heed_doubt(way)

    def _heed_doubt(self, way: Way) -> None:
        way.lane.failing = way.outage.failing
        way.lane.most_in_doubt = way.outage.most_in_flight

    def _begin_outage(self, way: Way, fault: Transient, like: Request) -> None:
        self._gate.pause(way.lane, _OUTAGE)
        self._note(f"{self._name(way)} does not answer ({fault.message}); waiting for it")
        self._tasks.start_soon(self._await_recovery, way, like)

    def refuses(self, way: Way, fault: RunFault, request: Request) -> AttemptError:
        """The endpoint refuses whatever is sent; returns what that means for the row."""
        if fault.reason == "credit" and self._wait_for_credit:
            if _CREDIT not in way.lane.pauses:
                self._gate.pause(way.lane, _CREDIT)
                self._note(f"{self._name(way)}: the credit is spent; waiting for a top-up")
                self._tasks.start_soon(self._await_credit, way, request)
            return classify.deferred(fault)
        words = classify.advice(fault, with_key=way.client.has_key)
        if self._given_up(way, fault.reason, f"{words}. No row was marked failed", words):
            return fault
        return classify.deferred(fault)

    async def works(self, way: Way, request: Request, tried: int) -> bool:
        """Whether the endpoint answers a request for one token, after a row was tried so often without success.

        If it does not, that is an outage like any other, and over when this returns; before anything was answered it is given
        up. While the endpoint is not asked anyway, it is not asked this: the answer is no once it is asked again.
        """
        if not way.lane.is_open:
            await self._until_it_returns(way)
            return False
        try:
            fault = await self._probe(way, request)
        except _NotSent:
            return False
        if isinstance(fault, RunFault):
            self.refuses(way, fault, request)
            return False
        if not _means_down(fault):  # it works, if not for this row
            way.outage.probe_answered()
            self._heed_doubt(way)
            self._gate.prove(way.lane)
            return True
        if self._answered is None:
            words = f"the endpoint does not answer: {fault.message} (after {tried} attempts at one row)"
            self._given_up(way, "endpoint", words, words)
            return False
        if not way.outage.on:
            way.outage.begin(time.monotonic())
            self._begin_outage(way, fault, request)
        await self._until_it_returns(way)
        return False

    async def _until_it_returns(self, way: Way) -> None:
        while way.lane.pauses and not way.lane.closed and not self._gate.closed:
            await self._gate.sleep(_MOMENT_S)

    async def _await_recovery(self, way: Way, like: Request) -> None:
        while True:
            await self._gate.sleep(way.outage.probe_in_s(time.monotonic()))
            way.outage.probed(time.monotonic())
            try:
                fault = await self._probe(way, like)
            except _NotSent:
                return
            lasted = f"{way.outage.lasted_s(time.monotonic()):,.0f} s"
            if not _means_down(fault):
                real = way.outage.over()
                self.outages += real
                self._heed_doubt(way)
                self._note(f"{self._name(way)} answers again, after {lasted}")
                self._on_return(way, real)
                if isinstance(fault, RunFault):
                    self.refuses(way, fault, like)
                self._gate.resume(way.lane, _OUTAGE)
                return
            if way.outage.too_long(time.monotonic()):
                words = f"the endpoint has not answered for {lasted} (limits.max_outage): {fault.message}"
                self._given_up(way, "endpoint", f"{words}. No row was marked failed", words)
                return

    async def _await_credit(self, way: Way, request: Request) -> None:
        distance = _CREDIT_S
        while True:
            await self._gate.sleep(distance)
            distance = min(_LONGEST_CREDIT_S, 2 * distance)
            try:
                fault = await self._probe(way, request)
            except _NotSent:
                return
            if fault is None or isinstance(fault, RowFault):
                self._note(f"{self._name(way)}: there is credit again")
                self._gate.resume(way.lane, _CREDIT)
                return
            if isinstance(fault, RunFault) and fault.reason != "credit":
                self.refuses(way, fault, request)
                return

    async def _probe(self, way: Way, like: Request) -> AttemptError | None:
        """Ask for one token, of a model that has answered if one has; ``None`` if it came.

        Waits for the active hours, and for room in the budget.

        :raises _NotSent: if nothing more is sent.
        """
        request = _smallest(self._answered or like)
        cost = self._budget.cost(len(request.body), request.max_tokens)
        lane = way.lane
        while HOURS in lane.pauses or not self._gate.enter_as_probe(lane, cost):
            if self._gate.closed or lane.closed:
                raise _NotSent
            await self._gate.sleep(_MOMENT_S)
        self._tally.requests_sent += 1
        try:
            try:
                with anyio.fail_after(_PROBE_S):
                    answer = await way.client.attempt(request)
            except TimeoutError:
                raise classify.timed_out(f"no answer to a request for one token within {_PROBE_S:g} s") from None
            self.settle_answer(way, cost, answer.usage)
            return None
        except AttemptError as fault:
            self.settle_failure(way, cost, fault)
            return fault
        finally:
            self._gate.leave(lane)

    def _given_up(self, way: Way, reason: StopReason, message: str, brief: str) -> bool:
        """Use this endpoint no more. True: it was the last, and the run stops."""
        if self._gate.close_lane(way.lane):
            self._note(f"{self._name(way)} is not used any more: {brief}")
            return False
        self._stop(reason, message)
        return True

    def _name(self, way: Way) -> str:
        return way.endpoint.name


def _means_down(fault: AttemptError | None) -> TypeGuard[Transient]:
    """Whether a probe that ended so was not understood."""
    return isinstance(fault, Transient) and not isinstance(fault, RateLimited)


class _Model(msgspec.Struct):
    model: str


def _smallest(request: Request) -> Request:
    """The smallest request to the same model."""
    model = msgspec.json.decode(request.body, type=_Model).model
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": "ok"}], "model": model}
    return msgspec.structs.replace(request, body=msgspec.json.encode(body), max_tokens=1)
