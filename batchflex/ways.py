"""The endpoints of a run, and what is known of each: does it answer, is it down, is its credit spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import anyio
import msgspec
from anyio.abc import TaskGroup

from . import classify
from .budget import Budget
from .client import Client
from .endpoint import Endpoint
from .errors import AttemptError, RateLimited, RowFault, RunFault, StopReason, Transient
from .gate import Gate, Lane
from .model import Request
from .outage import Outage
from .tally import Tally

_PROBE_S = 60.0  # for the answer to a probe
_CREDIT_S, _LONGEST_CREDIT_S = 5.0, 300.0  # between probes whether the credit was topped up
_MOMENT_S = 0.2
_OUTAGE, _CREDIT = "outage", "credit"


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

    ``wait_for_credit`` is ``on_no_credit = "wait"``. ``note`` is told what whoever watches should know.
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

    @property
    def any_answered(self) -> bool:
        """Whether a row was answered, by whichever endpoint."""
        return self._answered is not None

    def of(self, lane: Lane) -> Way:
        return self._ways[id(lane)]

    def watch_in(self, tasks: TaskGroup) -> None:
        """Where the tasks run that wait for an endpoint to come back. To be cancelled when nothing is left to ask."""
        self._tasks = tasks

    def answered(self, way: Way, number: int, request: Request) -> None:
        """A row was answered; ``number`` is that of the attempt."""
        self._answered = request
        way.has_answered = True
        self.understood(way, number)
        self._gate.prove(way.lane)

    def understood(self, way: Way, number: int) -> None:
        """The endpoint answered as one that works, be it to say that the row is wrong, or comes too soon."""
        way.outage.answered(number)
        way.lane.doubted = way.outage.doubted

    def failed(self, way: Way, fault: Transient, number: int, request: Request) -> Transient:
        """An attempt failed as it would if the endpoint were down; returns what that means for the row.

        Before anything was answered the row's own attempts decide: an endpoint that never worked is none to wait for.
        """
        if self._answered is None:
            return fault
        if fault.error_type == "empty_answer":
            self.understood(way, number)
            return fault
        late = fault.error_type == "timeout"
        begins = way.outage.failed(time.monotonic(), number, request.key, way.lane.in_flight - 1, timed_out=late)
        way.lane.doubted = way.outage.doubted
        if begins:
            self._gate.pause(way.lane, _OUTAGE)
            self._note(f"{self._name(way)} does not answer ({fault.message}); waiting for it")
            self._tasks.start_soon(self._await_recovery, way, request)
        return classify.deferred(fault) if way.outage.on else fault

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

    async def works(self, way: Way, suspect: Request, tried: int) -> bool:
        """Whether the endpoint answers a request for one token, after a row was given up; if not, it is given up."""
        while way.outage.on and not way.lane.closed and not self._gate.closed:
            await self._gate.sleep(_MOMENT_S)
        way = next((way for way in (way, *self._ways.values()) if not way.lane.closed), way)
        try:
            fault = await self._probe(way, suspect)
        except _NotSent:
            return False
        if fault is None or isinstance(fault, RowFault):  # it works, if not for this
            self._gate.prove(way.lane)
            return True
        if isinstance(fault, RunFault):
            self.refuses(way, fault, suspect)
        elif isinstance(fault, Transient):
            words = f"the endpoint does not answer: {fault.message} (after {tried} attempts at one row)"
            self._given_up(way, "endpoint", words, words)
        return False

    async def _await_recovery(self, way: Way, like: Request) -> None:
        while True:
            await self._gate.sleep(way.outage.probe_in_s(time.monotonic()))
            way.outage.probed(time.monotonic())
            try:
                fault = await self._probe(way, like)
            except _NotSent:
                return
            lasted = f"{way.outage.lasted_s(time.monotonic()):,.0f} s"
            if not isinstance(fault, Transient) or isinstance(fault, RateLimited):
                way.outage.over()
                way.lane.doubted = False
                self._note(f"{self._name(way)} answers again, after {lasted}")
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

        :raises _NotSent: if nothing more is sent.
        """
        request = _smallest(self._answered or like)
        cost = self._budget.cost(len(request.body), request.max_tokens)
        lane = way.lane
        while not self._gate.enter_as_probe(lane, cost):
            if self._gate.closed or lane.closed:
                raise _NotSent
            await self._gate.sleep(_MOMENT_S)
        self._tally.requests_sent += 1
        began = time.monotonic()
        try:
            try:
                with anyio.fail_after(_PROBE_S):
                    answer = await way.client.attempt(request)
            except TimeoutError:
                raise classify.timed_out(f"no answer to a request for one token within {_PROBE_S:g} s") from None
            self._tally.use(answer.usage, None)
            self._budget.settled(cost, answer.usage, time.monotonic() - began, billed=True)
            lane.pace.answered(time.monotonic(), cost, answer.usage, lane.in_flight - 1)
            return None
        except AttemptError as fault:
            self._budget.settled(cost, None, billed=classify.may_be_billed(fault))
            if isinstance(fault, RateLimited):
                self._tally.rate_limited += 1
                lane.pace.refused(time.monotonic(), cost, fault.retry_after_s, lane.in_flight - 1)
            else:
                lane.pace.failed(time.monotonic(), cost, lane.in_flight - 1, of_row=False)
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


class _Model(msgspec.Struct):
    model: str


def _smallest(request: Request) -> Request:
    """The smallest request to the same model."""
    model = msgspec.json.decode(request.body, type=_Model).model
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": "ok"}], "model": model}
    return msgspec.structs.replace(request, body=msgspec.json.encode(body), max_tokens=1)
