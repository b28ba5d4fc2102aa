"""The endpoints of an engine, and what is known of each: whether it answers, is down, has credit, has a model."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from anyio.abc import TaskGroup

from ..config import LimitsSection, local, parse_duration
from ..core import AttemptError, Emit, Event, Message, NotReady, RateLimited, Request, RunFault, StopReason, Transient
from ..endpoint import others
from ..protocol import BLAMELESS, are_alike, classify, failure_text
from .admission import Admission
from .endpoint_state import EndpointState
from .engine_member import Member
from .outage_recovery import CREDIT, OUTAGE, Recovery, facts_of, means_down
from .probes import NotSent, Prober

_TRY = "see what `batchflex check` says, and run the same command again once that gets an answer"


class EndpointPool:
    """What one endpoint cannot do another may: job runs stop when the last one is closed.

    A model that one does not have, or not for this key, is sent elsewhere; what none has is disabled everywhere, and other models
    go on. When all models that a job names are disabled, its run stops at once, else when nothing else is left to send.

    The ``tasks`` that wait for an endpoint to come back run until they are cancelled.
    """

    def __init__(
        self,
        states: Sequence[EndpointState],
        admission: Admission,
        members: Sequence[Member],
        tasks: TaskGroup,
        emit: Emit,
        limits: LimitsSection,
    ) -> None:
        # Why a model is disabled at an endpoint, and everywhere.
        self._disabled: dict[tuple[EndpointState, str], tuple[StopReason, Message]] = {}
        self._disabled_everywhere: dict[str, tuple[StopReason, Message]] = {}
        self._in_question: set[tuple[EndpointState, str]] = set()
        self.any_disabled = False
        self._states = list(states)
        self._admission = admission
        self._members = members
        self._tasks = tasks
        self._recovery = Recovery(self, admission, members, emit)
        self._emit = emit
        self._limits = limits
        self._max_wait_s = parse_duration(limits.max_wait)
        self.any_answered = False
        self._notes: list[Message] = []
        self._last: tuple[StopReason, Message] | None = None

    def brief(self, member: Member) -> None:
        """Apply to a new job run what has been found out already."""
        if self._last is not None:
            member.stop(*self._last)
        elif gone := member.models <= self._disabled_everywhere.keys() and self.unanswered(member.models):
            member.stop(*gone)
        member.run_state.given_up += self._notes

    def others_than(self, state: EndpointState, model: str) -> bool:
        """Whether another endpoint takes this model now."""
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
        state.breaker.answered(number, first=first)
        if state.failing:
            self.follow_breaker(state)
        if not state.proven:
            self._admission.prove(state)

    def responded(self, state: EndpointState, number: int, *, first: bool) -> None:
        """The endpoint answered, perhaps with a refusal of this one row."""
        state.breaker.answered(number, first=first)
        if state.failing:
            self.follow_breaker(state)

    def failed(
        self, state: EndpointState, fault: Transient, number: int, request: Request, *, first: bool
    ) -> Transient:
        """An attempt failed as it would if the endpoint were down; returns what that means for the row.

        Before anything was answered the row's own attempts decide: an endpoint that never worked is none to wait for, unless it
        says itself that it is starting.
        """
        if isinstance(fault, NotReady):
            self.is_down(state, fault, request)
            return classify.deferred(fault)
        if not self.any_answered:
            return fault
        if fault.http_status == 200 and fault.blame == "row":
            self.responded(state, number, first=first)
            return fault
        if state.breaker.failed(time.monotonic(), number, first=first, timed_out=classify.is_time_out(fault)):
            self._begin_outage(state, fault, request)
        self.follow_breaker(state)
        return classify.deferred(fault) if state.breaker.is_open else fault

    def refused_all(self, state: EndpointState, fault: RunFault, request: Request) -> AttemptError:
        """The endpoint refuses everything, whatever the row; returns what that means for the row."""
        if fault.reason == "credit" and self._limits.on_no_credit == "wait":
            if CREDIT not in state.pauses and not state.closed:
                words = f"{state.endpoint.name}: the credit is spent; waiting for a top-up"
                self._admission.pause(state, CREDIT, "the credit is spent: " + failure_text.why(fault))
                self._emit(Event("paused", words, level="warning", facts=facts_of(state, CREDIT, fault)))
                self._tasks.start_soon(self._recovery.await_credit, state, request)
            return classify.deferred(fault)
        message = failure_text.advice(fault, key_from=state.client.key_from)
        if fault.reason == "model":
            message += Message(others(state.endpoint.model or request.model, state.catalog), "")
            self.disable(state, request.model, "model", fault, message)
            return fault
        if self.close(state, fault, fault.reason, message):
            return fault
        return classify.deferred(fault)

    def disable(
        self, state: EndpointState, model: str, reason: StopReason, fault: AttemptError | None, message: Message
    ) -> None:
        """Send nothing more of this model to this endpoint. For this ``reason`` a job run stops once none of its models is left,
        or nothing else to send."""
        if state.closed or (state, model) in self._disabled:
            return
        self._disabled[state, model] = reason, message
        self.any_disabled = True
        if state.endpoint.model is not None:
            self.close(state, fault, reason, message)
            return
        self._serve(state)
        self._disable_everywhere_what_none_has()
        rest = self._stop_those_without_models(reason, self._at(state) + message + BLAMELESS)
        if rest and all(each.models and self._disabled_at(state) >= each.models for each in rest):
            message = f"{state.endpoint.name} is not used any more: " + message
        else:
            where = f" at {state.endpoint.name}" if len(self._states) > 1 else ""
            message = _not_asked(model, message, where)
        self._note(rest, message, facts_of(state, reason, fault))

    def _disable_everywhere_what_none_has(self) -> None:
        """Disable models that no endpoint is left for."""
        used = [state for state in self._states if not state.closed]
        for model in {model for _, model in self._disabled} - self._disabled_everywhere.keys():
            if used and all((state, model) in self._disabled for state in used):
                self._disabled_everywhere[model] = self._disabled[used[-1], model]
                self._admission.dismiss(model)

    def _stop_those_without_models(self, reason: StopReason, message: Message) -> list[Member]:
        """Stop the job runs all of whose models are disabled everywhere. Returns the others."""
        rest = []
        for member in list(self._members):
            if member.models and member.models <= self._disabled_everywhere.keys():
                member.stop(reason, message)
            else:
                rest.append(member)
        return rest

    def question(self, state: EndpointState, model: str, *, is_open: bool) -> None:
        """Whether it is an open question if a model is there that was refused: none of its rows are sent there meanwhile."""
        (self._in_question.add if is_open else self._in_question.discard)((state, model))
        self._serve(state)

    def _serve(self, state: EndpointState) -> None:
        """Send nothing there of models that are disabled or in question."""
        in_question = {model for where, model in self._in_question if where is state}
        self._admission.serve_without(state, self._disabled_at(state) | in_question)

    def is_disabled(self, state: EndpointState, model: str) -> bool:
        """Whether nothing more of this model is sent to this endpoint."""
        return state.closed or (state, model) in self._disabled

    def is_disabled_everywhere(self, model: str) -> bool:
        """Whether nothing more is sent to this model, anywhere."""
        return model in self._disabled_everywhere

    def unanswered(self, models: Collection[str]) -> tuple[StopReason, Message] | None:
        """Why rows of these models were not sent, if any of these is disabled everywhere: a reason to stop."""
        found = [(model, *why) for model, why in self._disabled_everywhere.items() if model in models]
        if not found:
            return None
        message = Message.of("")
        for model, _, why in found:
            message += ("; " if message.text else "") + _not_asked(model, why)
        return found[0][1], message + BLAMELESS

    async def find_proof(
        self,
        prober: Prober,
        state: EndpointState,
        request: Request,
        since: float,
        tried: int,
        refused: AttemptError | None = None,
    ) -> float | None:
        """When something was sent to the model of this request, after ``since``, that the endpoint answered: a probe, if nothing
        else was. ``None`` if the model does not answer there.

        If it does not, after ``tried`` attempts at one row, an outage begins, unless another model is answered there: then this
        one is disabled. Before anything was answered the endpoint is closed. A paused endpoint gets no probe, and the answer is
        ``None``. Where ``refused`` is what was said to this very request, a probe is sent in any case, and ``None`` is also the
        answer if that is refused in the same words.
        """
        of_model = state.of(request.model)
        async with state.probing:
            while state.is_open and not prober.is_over and not self.is_disabled(state, request.model):
                if refused is None and of_model.proof_at > since:
                    return of_model.proof_at
                sent_at = time.monotonic()
                try:
                    fault = await prober.send(state, request)
                    if isinstance(fault, RateLimited):  # says nothing; the pace makes the next probe wait
                        continue
                    if isinstance(fault, RunFault):
                        self.refused_all(state, fault, request)
                    elif refused is not None and fault is not None and are_alike(fault, refused):
                        return None
                    elif not means_down(fault):  # it works, if not for this row
                        state.prove(request.model, sent_at)
                        state.breaker.probe_answered()
                        self.follow_breaker(state)
                        self._admission.prove(state)
                        return sent_at
                    elif not self.any_answered and not isinstance(fault, NotReady):
                        message = failure_text.silence(fault, tried)
                        self.close(state, fault, "endpoint", message, end=f"; {_TRY}{BLAMELESS}")
                    elif await self._answers_other(prober, state, request.model):
                        message = "it does not answer, and others do: " + failure_text.why(fault)
                        self.disable(state, request.model, "endpoint", fault, message)
                    else:
                        self.is_down(state, fault, request)
                except NotSent:
                    return None
        return None

    async def _answers_other(self, prober: Prober, state: EndpointState, model: str) -> bool:
        """Whether the endpoint answers a probe of another model, which has answered rows there.

        :raises NotSent: if nothing more is sent.
        """
        other = state.answered({model, *self._disabled_at(state)})
        if other is None:
            return False
        while isinstance(fault := await prober.send(state, other), RateLimited):
            pass
        return fault is None

    def is_down(self, state: EndpointState, fault: Transient, like: Request) -> None:
        """A probe was not answered."""
        if not state.breaker.is_open:
            state.breaker.open(time.monotonic())
            self._begin_outage(state, fault, like)

    def like(self, state: EndpointState, request: Request) -> Request:
        """The row that a probe is made from: one that this endpoint answered, of a model that is still sent there; else this
        one."""
        return state.answered(self._disabled_at(state)) or request

    def _disabled_at(self, state: EndpointState) -> set[str]:
        return {model for where, model in self._disabled if where is state}

    def check_waits(self, now: float) -> None:
        """Close an endpoint that asks to wait for longer than ``limits.max_wait``, or has let nothing through for so long; where
        each model has a limit of its own, disable that model. Only models that rows wait for are checked."""
        for model in self._admission.waiting_models():
            for state in self._states:
                if not state.is_open or self.is_disabled(state, model):
                    continue
                pacer, allowance = state.pacer, state.pacer.allowance
                server_wait_s, refused_for_s = pacer.server_wait_s(now, model), pacer.refused_for_s(now, model)
                if server_wait_s > self._max_wait_s:
                    until = local(time.time() + server_wait_s)
                    head = f"the endpoint asks to wait until {until}, which is longer than limits.max_wait"
                elif refused_for_s >= self._max_wait_s:
                    head = f"the endpoint has let nothing through for {refused_for_s:,.0f} s (limits.max_wait)"
                else:
                    continue
                said = allowance.refusal_message(state.endpoint.model or model)
                message = Message.of(head) + ("" if said is None else Message(f": {said}", f" ({said.unquoted})"))
                message += "; run it again after that, or raise limits.max_wait"
                if allowance.server_wait_s(now) > self._max_wait_s:
                    self.close(state, None, "quota", message)
                else:
                    self.disable(state, model, "quota", None, message)

    def follow_breaker(self, state: EndpointState) -> None:
        state.failing = state.breaker.failing
        state.most_half_open = state.breaker.most_in_flight

    def _begin_outage(self, state: EndpointState, fault: Transient, like: Request) -> None:
        what = "is starting" if isinstance(fault, NotReady) else "does not answer"
        why = failure_text.why(fault)
        self._admission.pause(state, OUTAGE, f"it {what}: " + why, parse_duration(self._limits.max_outage))
        message = f"{state.endpoint.name} {what} (" + why + "); waiting for it"
        self._emit(Event("paused", message.text, message.unquoted, "warning", facts_of(state, OUTAGE, fault)))
        self._tasks.start_soon(self._recovery.await_answer, state, like)

    def close(
        self,
        state: EndpointState,
        fault: AttemptError | None,
        reason: StopReason,
        message: Message,
        end: str = BLAMELESS,
    ) -> bool:
        """Use this endpoint no more. True: it was the last, and job runs stop."""
        if state.closed:
            return self._last is not None
        if self._admission.close_endpoint(state):
            self._disable_everywhere_what_none_has()
            rest = self._stop_those_without_models(reason, self._at(state) + message + end)
            message = f"{state.endpoint.name} is not used any more: " + message
            self._note(rest, message, facts_of(state, reason, fault))
            return not rest
        self._last = reason, self._at(state) + message + end
        for member in list(self._members):
            member.stop(*self._last)
        return True

    def _note(self, members: Sequence[Member], message: Message, facts: dict[str, object]) -> None:
        self._notes.append(message)
        for member in members:
            member.run_state.given_up.append(message)
            member.emit(Event("given_up", message.text, message.unquoted, "warning", facts))

    def _at(self, state: EndpointState) -> str:
        """Which of several endpoints it is, at the start of a sentence."""
        return f"{state.endpoint.name}: " if len(self._states) > 1 else ""


def _not_asked(model: str, why: Message, where: str = "") -> Message:
    return f"the model {model!r} is not asked any more{where}: " + why
