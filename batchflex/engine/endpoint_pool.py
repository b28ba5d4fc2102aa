"""The endpoints of an engine, and what is known of each: does it answer, is it down, is its credit spent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import anyio
from anyio.abc import TaskGroup

from ..config import local
from ..core import AttemptError, Event, Message, NotReady, RateLimited, Request, RunFault, StopReason, Tell, Transient
from ..endpoint import others
from ..protocol import BLAMELESS, are_alike, classify, failure_text
from ..storage import RunState
from .admission import Admission
from .endpoint_state import EndpointState
from .gate import Gate
from .probes import HOURS, NotSent, Prober

_CREDIT_S, _LONGEST_CREDIT_S = 5.0, 300.0  # between probes whether the credit was topped up
_MOMENT_S = 0.2
_OUTAGE, _CREDIT = "outage", "credit"
_TRY = "see what `batchflex check` says, and run the same command again once that gets an answer"


@dataclass(eq=False)
class Member:
    """A job run, as those know it whom it shares endpoints with.

    ``models`` are those that its job names, if it names them all. ``tell`` takes what whoever watches should know, ``stop`` a
    reason and a sentence. ``on_return`` is called when an endpoint answers again, before
    anything is sent to it. ``gate`` and ``prober`` are there while it asks.
    """

    run_state: RunState
    stop: Callable[[StopReason, Message], None]
    tell: Tell
    models: frozenset[str] = frozenset()
    gate: Gate[EndpointState] | None = None
    prober: Prober | None = None
    on_return: Callable[[EndpointState], None] | None = None


class EndpointPool:
    """All of them. What one endpoint cannot do another may: job runs stop when the last one is disabled.

    A model that one does not have, or not for this key, is asked elsewhere; what none has is not asked any more, and the others
    go on. When none of the models that a job names is left, its run stops at once, else when nothing else is left to ask.

    ``wait_for_credit`` is ``on_no_credit = "wait"``, ``max_wait_s`` and ``max_outage_s`` are those of ``[limits]``. The ``tasks``
    that wait for an endpoint to come back run until they are cancelled.
    """

    def __init__(
        self,
        states: Sequence[EndpointState],
        admission: Admission[EndpointState],
        members: Sequence[Member],
        tasks: TaskGroup,
        tell: Tell,
        *,
        wait_for_credit: bool = False,
        max_wait_s: float = float("inf"),
        max_outage_s: float | None = None,
    ) -> None:
        # Why a model is asked nothing more of an endpoint, and of none.
        self._disabled: dict[tuple[EndpointState, str], tuple[StopReason, Message]] = {}
        self._set_aside: dict[str, tuple[StopReason, Message]] = {}
        self.any_disabled = False
        self._doubted: set[tuple[EndpointState, str]] = set()
        self._states = list(states)
        self._admission = admission
        self._members = members
        self._tasks = tasks
        self._tell = tell
        self._wait_for_credit = wait_for_credit
        self._max_wait_s = max_wait_s
        self._max_outage_s = max_outage_s
        self.any_answered = False
        self._given_up: list[Message] = []
        self._last: tuple[StopReason, Message] | None = None

    def welcome(self, member: Member) -> None:
        """Tell a job run that comes what has been found out already."""
        if self._last is not None:
            member.stop(*self._last)
        elif gone := member.models <= self._set_aside.keys() and self.unanswered(member.models):
            member.stop(*gone)
        member.run_state.given_up += self._given_up

    def others_than(self, state: EndpointState, model: str) -> bool:
        """Whether another endpoint may be asked for this model now."""
        others = (other for other in self._states if other is not state)
        return any(other.is_open and not self.is_disabled(other, model) for other in others)

    def answered(self, state: EndpointState, number: int, request: Request, sent_at: float, *, first: bool) -> None:
        """A row was answered; ``number`` is that of the attempt, ``first`` whether it is the row's first."""
        self.any_answered = True
        state.completions += 1
        of_model = state.of(request.model)
        of_model.completions += 1
        of_model.answered = request
        if sent_at > of_model.proof_at:
            of_model.proof_at = sent_at
        self.understood(state, number, first=first)
        self._admission.prove(state)

    def understood(self, state: EndpointState, number: int, *, first: bool) -> None:
        """The endpoint answered, be it to say that the row is wrong, or comes too soon."""
        state.breaker.answered(number, first=first)
        if state.failing:
            self._heed_doubt(state)

    def failed(
        self, state: EndpointState, fault: Transient, number: int, request: Request, *, first: bool
    ) -> Transient:
        """An attempt failed as it would if the endpoint were down; returns what that means for the row.

        Before anything was answered the row's own attempts decide: an endpoint that never worked is none to wait for, unless it
        says itself that it is starting.
        """
        if isinstance(fault, NotReady) and not state.breaker.is_open:
            state.breaker.open(time.monotonic())
            self._begin_outage(state, fault, request)
        if state.breaker.is_open and isinstance(fault, NotReady):
            return classify.deferred(fault)
        if not self.any_answered:
            return fault
        if fault.http_status == 200 and fault.blame == "row":
            self.understood(state, number, first=first)
            return fault
        if state.breaker.failed(time.monotonic(), number, first=first, timed_out=classify.is_time_out(fault)):
            self._begin_outage(state, fault, request)
        self._heed_doubt(state)
        return classify.deferred(fault) if state.breaker.is_open else fault

    def ended(self, state: EndpointState, number: int) -> None:
        """That attempt is over, whichever way."""
        state.breaker.ended(number)
        if state.failing:
            self._heed_doubt(state)

    def refuses(self, state: EndpointState, fault: RunFault, request: Request) -> AttemptError:
        """The endpoint refuses whatever is sent; returns what that means for the row."""
        if fault.reason == "credit" and self._wait_for_credit:
            if _CREDIT not in state.pauses and not state.closed:
                words = f"{self._name(state)}: the credit is spent; waiting for a top-up"
                self._admission.pause(state, _CREDIT, "the credit is spent: " + failure_text.why(fault))
                self._tell(Event("paused", words, level="warning", facts=self._facts(state, _CREDIT, fault)))
                self._tasks.start_soon(self._await_credit, state, request)
            return classify.deferred(fault)
        message = failure_text.advice(fault, key_from=state.client.key_from)
        if fault.reason == "model":
            message += Message(others(state.endpoint.model or request.model, state.catalog), "")
            self.disable(state, request.model, "model", fault, message)
            return fault
        if self._give_up(state, fault, fault.reason, message):
            return fault
        return classify.deferred(fault)

    def disable(
        self, state: EndpointState, model: str, reason: StopReason, fault: AttemptError | None, message: Message
    ) -> None:
        """Send nothing more of this model to this endpoint, for a ``reason`` that would stop the run: which it does once no model
        is left, or nothing else to ask."""
        if state.closed or (state, model) in self._disabled:
            return
        self._disabled[state, model] = reason, message
        self.any_disabled = True
        if state.endpoint.model is not None:
            self._give_up(state, fault, reason, message)
            return
        self._serve(state)
        self._set_aside_what_none_has()
        at, rest = self._at(state), []
        for member in list(self._members):
            if member.models and member.models <= self._set_aside.keys():
                member.stop(reason, at + message + BLAMELESS)
            else:
                rest.append(member)
        if rest and all(each.models and self._disabled_at(state) >= each.models for each in rest):
            message = f"{self._name(state)} is not used any more: " + message
        else:
            where = f" at {self._name(state)}" if len(self._states) > 1 else ""
            message = _not_asked(model, message, where)
        self._note_given_up(rest, message, self._facts(state, reason, fault))

    def _serve(self, state: EndpointState) -> None:
        """Have nothing sent there of models that are disabled, or may have to be."""
        self._admission.serve_without(
            state, self._disabled_at(state) | {model for where, model in self._doubted if where is state}
        )

    def _set_aside_what_none_has(self) -> None:
        """Of models that no endpoint is left for, nothing more is sent."""
        used = [state for state in self._states if not state.closed]
        for model in {model for _, model in self._disabled} - self._set_aside.keys():
            if used and all((state, model) in self._disabled for state in used):
                self._set_aside[model] = self._disabled[used[-1], model]
                self._admission.dismiss(model)

    def is_disabled(self, state: EndpointState, model: str) -> bool:
        """Whether nothing more of this model is sent to this endpoint."""
        return state.closed or (state, model) in self._disabled

    def is_set_aside(self, model: str) -> bool:
        """Whether nothing more is sent to this model, anywhere."""
        return model in self._set_aside

    def doubt_model(self, state: EndpointState, model: str) -> None:
        """Send nothing more of a model there that was refused where others were answered, until :meth:`lacks_model` tells."""
        self._doubted.add((state, model))
        self._serve(state)

    async def lacks_model(self, prober: Prober, state: EndpointState, request: Request, failed_at: float) -> bool:
        """Whether it is the model that was refused, and not this row: asked with one token, unless that was done since.

        If so, no further row of it is sent there; if the run stops or pauses, or this endpoint is closed, it is so, too.
        """
        try:
            return await self._lacks_model(prober, state, request, failed_at)
        finally:
            self._doubted.discard((state, request.model))
            self._serve(state)

    async def _lacks_model(self, prober: Prober, state: EndpointState, request: Request, failed_at: float) -> bool:
        of_model = state.of(request.model)
        while not (prober.is_over or self.is_disabled(state, request.model) or of_model.had_at > failed_at):
            if state.pauses:
                await prober.gate.sleep(_MOMENT_S)
                continue
            async with state.probing:
                if self.is_disabled(state, request.model) or of_model.had_at > failed_at:
                    break
                asked_at = time.monotonic()
                try:
                    found = await prober.ask(state, request)
                except NotSent:
                    break
                if isinstance(found, RunFault):
                    self.refuses(state, found, request)
                elif _means_down(found):
                    self._is_down(state, found, request)
                elif not isinstance(found, RateLimited):  # the pace makes the next probe wait
                    of_model.had_at = asked_at
        return of_model.had_at <= failed_at

    def unanswered(self, models: Collection[str]) -> tuple[StopReason, Message] | None:
        """Why rows of these models were not asked, if any of them is set aside: a reason to stop."""
        found = [(model, *why) for model, why in self._set_aside.items() if model in models]
        if not found:
            return None
        message = Message.of("")
        for model, _, why in found:
            message += ("; " if message.text else "") + _not_asked(model, why)
        return found[0][1], message + BLAMELESS

    async def works(
        self,
        prober: Prober,
        state: EndpointState,
        request: Request,
        since: float,
        tried: int,
        refused: AttemptError | None = None,
    ) -> float | None:
        """When something was sent to the model of this request, after ``since``, that the endpoint answered: a request for one
        token, if nothing else was. ``None`` if it does not work.

        If it does not, after ``tried`` attempts at one row, an outage begins, unless another model is answered there: then this
        one is asked nothing more. Before anything was answered the endpoint is given up. A paused endpoint is asked nothing, and
        does not work. Where ``refused`` is what was said to this very request, one is sent in any case, and an endpoint that says
        the same to that does not work either.
        """
        of_model = state.of(request.model)
        async with state.probing:
            while state.is_open and not prober.is_over and not self.is_disabled(state, request.model):
                if refused is None and of_model.proof_at > since:
                    return of_model.proof_at
                asked_at = time.monotonic()
                try:
                    fault = await prober.ask(state, request)
                    if isinstance(fault, RateLimited):  # says nothing; the pace makes the next probe wait
                        continue
                    if isinstance(fault, RunFault):
                        self.refuses(state, fault, request)
                    elif refused is not None and fault is not None and are_alike(fault, refused):
                        return None
                    elif not _means_down(fault):  # it works, if not for this row
                        state.prove(request.model, asked_at)
                        state.breaker.probe_answered()
                        self._heed_doubt(state)
                        self._admission.prove(state)
                        return asked_at
                    elif not self.any_answered and not isinstance(fault, NotReady):
                        message = failure_text.silence(fault, tried)
                        self._give_up(state, fault, "endpoint", message, end=f"; {_TRY}{BLAMELESS}")
                    elif await self._answers_other(prober, state, request.model):
                        message = "it does not answer, and others do: " + failure_text.why(fault)
                        self.disable(state, request.model, "endpoint", fault, message)
                    else:
                        self._is_down(state, fault, request)
                except NotSent:
                    return None
        return None

    async def _answers_other(self, prober: Prober, state: EndpointState, model: str) -> bool:
        """Whether the endpoint answers a request for one token of another model, which has answered rows there.

        :raises NotSent: if nothing more is sent.
        """
        other = state.answered({model, *self._disabled_at(state)})
        if other is None:
            return False
        while isinstance(fault := await prober.ask(state, other), RateLimited):
            pass
        return fault is None

    def _is_down(self, state: EndpointState, fault: Transient, like: Request) -> None:
        """A request of the run's own was not answered."""
        if not state.breaker.is_open:
            state.breaker.open(time.monotonic())
            self._begin_outage(state, fault, like)

    def _like(self, state: EndpointState, request: Request) -> Request:
        """What a probe is like: a row that this endpoint answered, of a model that is still asked there; else this one."""
        return state.answered(self._disabled_at(state)) or request

    def _disabled_at(self, state: EndpointState) -> set[str]:
        return {model for where, model in self._disabled if where is state}

    def heed_waits(self, now: float) -> None:
        """Send nothing more where the endpoint asks to wait for longer than ``limits.max_wait``, or has let nothing through for
        so long: nothing of one model, where each has a limit of its own. Where no row waits, what is in flight may be all
        there is."""
        for model in self._admission.waiting_models():
            for state in self._states:
                if not state.is_open or self.is_disabled(state, model):
                    continue
                pacer, allowance = state.pacer, state.pacer.allowance
                demanded_s, refused_for_s = pacer.demanded_s(now, model), pacer.refused_for_s(now, model)
                if demanded_s > self._max_wait_s:
                    until = local(time.time() + demanded_s)
                    head = f"the endpoint asks to wait until {until}, which is longer than limits.max_wait"
                elif refused_for_s >= self._max_wait_s:
                    head = f"the endpoint has let nothing through for {refused_for_s:,.0f} s (limits.max_wait)"
                else:
                    continue
                said = allowance.said_of(state.endpoint.model or model)
                message = Message.of(head) + ("" if said is None else Message(f": {said}", f" ({said.unquoted})"))
                message += "; run it again after that, or raise limits.max_wait"
                if allowance.demanded_s(now) > self._max_wait_s:
                    self._give_up(state, None, "quota", message)
                else:
                    self.disable(state, model, "quota", None, message)

    def _heed_doubt(self, state: EndpointState) -> None:
        state.failing = state.breaker.failing
        state.most_in_doubt = state.breaker.most_in_flight

    def _begin_outage(self, state: EndpointState, fault: Transient, like: Request) -> None:
        what = "is starting" if isinstance(fault, NotReady) else "does not answer"
        why = failure_text.why(fault)
        self._admission.pause(state, _OUTAGE, f"it {what}: " + why, self._max_outage_s)
        message = f"{self._name(state)} {what} (" + why + "); waiting for it"
        self._tell(Event("paused", message.text, message.unquoted, "warning", self._facts(state, _OUTAGE, fault)))
        self._tasks.start_soon(self._await_recovery, state, like)

    async def _await_recovery(self, state: EndpointState, like: Request) -> None:
        while True:
            await anyio.sleep(state.breaker.probe_in_s(time.monotonic()))
            async with state.probing:
                barred_from = time.monotonic()
                await _while(lambda: HOURS in state.pauses)
                state.breaker.barred(time.monotonic() - barred_from)
                state.breaker.probed(time.monotonic())
                try:
                    fault = await self._ask(state, probe := self._like(state, like))
                except NotSent:
                    return
            lasted_s = state.breaker.lasted_s(time.monotonic())
            lasted = f"{lasted_s:,.0f} s"
            if not _means_down(fault):
                state.breaker.close()
                self._heed_doubt(state)
                facts = {**self._facts(state, _OUTAGE), "lasted_s": round(lasted_s, 1)}
                self._tell(Event("resumed", f"{self._name(state)} answers again, after {lasted}", facts=facts))
                if isinstance(fault, RunFault):
                    self.refuses(state, fault, probe)
                for member in list(self._members):
                    if member.on_return is not None:
                        member.on_return(state)
                self._admission.resume(state, _OUTAGE)
                return
            if state.breaker.too_long(time.monotonic()):
                message = f"the endpoint has not answered for {lasted} (limits.max_outage): " + failure_text.why(fault)
                self._give_up(state, fault, "endpoint", message)
                return

    async def _ask(self, state: EndpointState, like: Request) -> AttemptError | None:
        """Ask for one token at the cost of one of the job runs that are there; waits for one, if there is none.

        :raises NotSent: if nothing more is sent there.
        """
        while not state.closed:
            for prober in [member.prober for member in self._members if member.prober is not None]:
                if not prober.is_over:
                    with contextlib.suppress(NotSent):
                        return await prober.ask(state, like)
            await anyio.sleep(_MOMENT_S)
        raise NotSent

    async def _await_credit(self, state: EndpointState, request: Request) -> None:
        distance = _CREDIT_S
        while True:
            await anyio.sleep(distance)
            distance = min(_LONGEST_CREDIT_S, 2 * distance)
            await _while(lambda: state.breaker.is_open and not state.closed)
            like = self._like(state, request)
            async with state.probing:
                try:
                    fault = await self._ask(state, like)
                except NotSent:
                    return
            if _means_down(fault):
                if self.any_answered:
                    self._is_down(state, fault, request)
            elif isinstance(fault, RunFault) and fault.reason not in ("credit", "model"):
                self.refuses(state, fault, like)
                return
            elif not isinstance(fault, RateLimited) and not (isinstance(fault, RunFault) and fault.reason == "credit"):
                words = f"{self._name(state)}: there is credit again"
                self._tell(Event("resumed", words, facts=self._facts(state, _CREDIT)))
                self._admission.resume(state, _CREDIT)
                if isinstance(fault, RunFault):
                    self.refuses(state, fault, like)
                return

    def _give_up(
        self,
        state: EndpointState,
        fault: AttemptError | None,
        reason: StopReason,
        message: Message,
        end: str = BLAMELESS,
    ) -> bool:
        """Use this endpoint no more. True: it was the last, and the run stops."""
        if state.closed:
            return self._last is not None
        if self._admission.close_endpoint(state):
            message = f"{self._name(state)} is not used any more: " + message
            self._note_given_up(self._members, message, self._facts(state, reason, fault))
            self._set_aside_what_none_has()
            return False
        self._last = reason, self._at(state) + message + end
        for member in list(self._members):
            member.stop(*self._last)
        return True

    def _note_given_up(self, members: Sequence[Member], message: Message, facts: dict[str, object]) -> None:
        self._given_up.append(message)
        for member in members:
            member.run_state.given_up.append(message)
            member.tell(Event("given_up", message.text, message.unquoted, "warning", facts))

    def _facts(self, state: EndpointState, reason: str, fault: AttemptError | None = None) -> dict[str, object]:
        return {"endpoint": self._name(state), "reason": reason, **({} if fault is None else failure_text.facts(fault))}

    def _name(self, state: EndpointState) -> str:
        return state.endpoint.name

    def _at(self, state: EndpointState) -> str:
        """Which of several endpoints it is, at the start of a sentence."""
        return f"{self._name(state)}: " if len(self._states) > 1 else ""


async def _while(holds: Callable[[], bool]) -> None:
    """Wait as long as that holds."""
    while True:
        if not holds():
            return
        await anyio.sleep(_MOMENT_S)


def _not_asked(model: str, why: Message, where: str = "") -> Message:
    return f"the model {model!r} is not asked any more{where}: " + why


def _means_down(fault: AttemptError | None) -> TypeGuard[Transient]:
    """Whether a probe that ended so was not understood."""
    return isinstance(fault, Transient) and not isinstance(fault, RateLimited)
