"""The endpoints of a run, and what is known of each: does it answer, is it down, is its credit spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeGuard

import anyio
from anyio.abc import TaskGroup

from . import classify
from .catalog import others
from .dated import local
from .errors import AttemptError, NotReady, RateLimited, RunFault, StopReason, Transient
from .events import Event, Tell
from .failures import BLAMELESS, are_alike
from .gate import Gate, Lane
from .model import Request
from .params import model_of
from .probing import HOURS, NotSent, Prober, Way
from .tally import Tally

_CREDIT_S, _LONGEST_CREDIT_S = 5.0, 300.0  # between probes whether the credit was topped up
_MOMENT_S = 0.2
_OUTAGE, _CREDIT = "outage", "credit"
ALIKE = "the endpoint refuses the smallest request with the same words as the rows"
_TRY = "see what `batchflex check` says, and run the same command again once that gets an answer"
MEND = "see to what these words say, and run the same command again"


class Ways:
    """All of them. What one endpoint cannot do another may: the run stops when the last one is given up.

    A model that the last one does not have, or not for this key, is not asked any more; the others go on. ``models`` are those
    that the job names: when none of them is left, the run stops at once, else when nothing else is left to ask.

    ``wait_for_credit`` is ``on_no_credit = "wait"``, ``max_wait_s`` and ``max_outage_s`` are those of ``[limits]``. ``tell`` is
    told what whoever watches should know. ``stop`` takes a reason, a sentence, and the sentence without words of a server.
    """

    def __init__(
        self,
        ways: Sequence[Way],
        gate: Gate,
        prober: Prober,
        tally: Tally,
        stop: Callable[[StopReason, str, str], None],
        tell: Tell,
        *,
        wait_for_credit: bool = False,
        max_wait_s: float = float("inf"),
        max_outage_s: float | None = None,
        models: Collection[str] = (),
    ) -> None:
        self._models = models
        # By model: why it is asked nothing more, in words with and without those of the server.
        self._set_aside: dict[str, tuple[StopReason, str, str]] = {}
        self.any_set_aside = False
        # Models that have refused a row where others were answered: set once it is known whether it is the model.
        self.doubted: dict[tuple[Way, str], anyio.Event] = {}
        # When a model was asked for one token, and answered, after a row with it was refused there.
        self._had: dict[tuple[Way, str], float] = {}
        self._ways = {id(way.lane): way for way in ways}
        self._gate = gate
        self._prober = prober
        self._tally = tally
        self._stop = stop
        self._tell = tell
        self._wait_for_credit = wait_for_credit
        self._max_wait_s = max_wait_s
        self._max_outage_s = max_outage_s
        self._answered: Request | None = None

    @property
    def any_answered(self) -> bool:
        """Whether a row was answered, by whichever endpoint."""
        return self._answered is not None

    def of(self, lane: Lane) -> Way:
        return self._ways[id(lane)]

    def others_than(self, way: Way) -> bool:
        """Whether another endpoint may be asked now."""
        return any(other.lane.is_open for other in self._ways.values() if other is not way)

    def others_left(self, way: Way) -> bool:
        """Whether another endpoint is still used, be it later."""
        return any(not other.lane.closed for other in self._ways.values() if other is not way)

    def watch_in(self, tasks: TaskGroup, on_return: Callable[[Way], None]) -> None:
        """Where the tasks run that wait for an endpoint to come back. To be cancelled when nothing is left to ask.

        ``on_return`` is called when one answers again, before anything is sent to it.
        """
        self._tasks = tasks
        self._on_return = on_return

    def answered(self, way: Way, number: int, request: Request, sent_at: float, *, first: bool) -> None:
        """A row was answered; ``number`` is that of the attempt, ``first`` whether it is the row's first."""
        self._answered = request
        way.completions += 1
        way.prove(sent_at)
        self.understood(way, number, first=first)
        self._gate.prove(way.lane)

    def understood(self, way: Way, number: int, *, first: bool) -> None:
        """The endpoint answered, be it to say that the row is wrong, or comes too soon."""
        way.outage.answered(number, first=first)
        if way.lane.failing:
            self._heed_doubt(way)

    def failed(self, way: Way, fault: Transient, number: int, request: Request, *, first: bool) -> Transient:
        """An attempt failed as it would if the endpoint were down; returns what that means for the row.

        Before anything was answered the row's own attempts decide: an endpoint that never worked is none to wait for, unless it
        says itself that it is starting.
        """
        if isinstance(fault, NotReady) and not way.outage.on:
            way.outage.begin(time.monotonic())
            self._begin_outage(way, fault, request)
        if way.outage.on and isinstance(fault, NotReady):
            return classify.deferred(fault)
        if self._answered is None:
            return fault
        if fault.http_status == 200 and fault.blame == "row":
            self.understood(way, number, first=first)
            return fault
        if way.outage.failed(time.monotonic(), number, first=first, timed_out=classify.is_time_out(fault)):
            self._begin_outage(way, fault, request)
        self._heed_doubt(way)
        return classify.deferred(fault) if way.outage.on else fault

    def ended(self, way: Way, number: int) -> None:
        """That attempt is over, whichever way."""
        way.outage.ended(number)
        if way.lane.failing:
            self._heed_doubt(way)

    def refuses(self, way: Way, fault: RunFault, request: Request) -> AttemptError:
        """The endpoint refuses whatever is sent; returns what that means for the row."""
        if fault.reason == "credit" and self._wait_for_credit:
            if _CREDIT not in way.lane.pauses and not way.lane.closed:
                words = f"{self._name(way)}: the credit is spent; waiting for a top-up"
                said, bare = (f"the credit is spent: {why}" for why in _whys(fault))
                self._gate.pause(way.lane, _CREDIT, said, bare)
                self._tell(Event("paused", words, level="warning", facts=self._facts(way, _CREDIT, fault)))
                self._tasks.start_soon(self._await_credit, way, request)
            return classify.deferred(fault)
        words, bare = (
            classify.advice(fault, key_from=way.client.key_from, quoting=quoting) for quoting in (True, False)
        )
        if fault.reason == "model":
            asked = way.endpoint.model or model_of(request.body)
            words += others(asked, way.catalog)
            if not self.others_left(way):
                self.set_aside(way, model_of(request.body), "model", fault, words, bare)
                return fault
        if self._given_up(way, fault, fault.reason, words, bare):
            return fault
        return classify.deferred(fault)

    def set_aside(self, way: Way, model: str, reason: StopReason, fault: AttemptError, words: str, bare: str) -> None:
        """Send nothing more to this model, for a ``reason`` that would stop the run: which it does once no other is left, or
        nothing else to ask. ``bare`` are the words without those of the server."""
        if model in self._set_aside or way.lane.closed:
            return
        self._set_aside[model] = reason, words, bare
        self.any_set_aside = True
        if self._models and set(self._models) <= self._set_aside.keys():
            self._given_up(way, fault, reason, words, bare)
            return
        words, bare = (_not_asked(model, why) for why in (words, bare))
        self._tally.given_up.append(words)
        self._tally.given_up_unquoted.append(bare)
        self._tell(Event("given_up", words, bare, "warning", self._facts(way, reason, fault)))

    def is_set_aside(self, request: Request) -> bool:
        """Whether nothing more is sent to the model of this request."""
        return model_of(request.body) in self._set_aside

    def doubt_model(self, way: Way, request: Request) -> None:
        """Whether the model of this request, which was refused, may be asked there is to be found out: see
        :meth:`refuses_model`."""
        self.doubted.setdefault((way, model_of(request.body)), anyio.Event())

    def in_doubt(self, lane: Lane, request: Request) -> anyio.Event | None:
        """What is set when it is known whether this request's model may be asked; ``None`` if it may, as far as is known."""
        return self.doubted.get((self.of(lane), model_of(request.body)))

    async def refuses_model(self, way: Way, request: Request, failed_at: float) -> bool:
        """Whether it is the model that was refused, and not this row: asked with one token, unless that was done since.

        If so, no further row is sent to it; if the run stops, or this endpoint is closed, it is so, too.
        """
        model = model_of(request.body)
        try:
            return await self._refuses_model(way, model, request, failed_at)
        finally:
            if (known := self.doubted.pop((way, model), None)) is not None:
                known.set()

    async def _refuses_model(self, way: Way, model: str, request: Request, failed_at: float) -> bool:
        def had() -> bool:
            return self._had.get((way, model), float("-inf")) > failed_at

        while not (self._gate.closed or way.lane.closed or model in self._set_aside or had()):
            if way.lane.pauses:
                await self._gate.sleep(_MOMENT_S)
                continue
            async with way.probing:
                if model in self._set_aside or had():
                    break
                asked_at = time.monotonic()
                try:
                    found = await self._prober.ask(way, request)
                except NotSent:
                    break
                if isinstance(found, RunFault):
                    self.refuses(way, found, request)
                elif _means_down(found):
                    if not way.outage.on:
                        way.outage.begin(time.monotonic())
                        self._begin_outage(way, found, request)
                elif not isinstance(found, RateLimited):  # the pace makes the next probe wait
                    self._had[way, model] = asked_at
        return not had()

    def end(self) -> None:
        """Nothing is left to ask. If models were set aside, their rows are unanswered, and the run has stopped for that."""
        if self._set_aside:
            reason, *_ = next(iter(self._set_aside.values()))
            words, bare = (
                "; ".join(_not_asked(model, told[n]) for model, told in self._set_aside.items()) + BLAMELESS
                for n in (1, 2)
            )
            self._stop(reason, words, bare)

    async def works(
        self, way: Way, request: Request, since: float, tried: int, refused: AttemptError | None = None
    ) -> bool:
        """Whether the endpoint answers something that was sent after ``since``: a request for one token, if nothing else was.

        If it does not, after ``tried`` attempts at one row, an outage begins; before anything was answered it is given up.
        A paused endpoint is asked nothing, and does not work. Where ``refused`` is what was said to this very request, one to
        the same model is sent in any case, and an endpoint that says the same to that does not work either.
        """
        async with way.probing:
            while way.lane.is_open and not self._gate.closed:
                if refused is None and way.proof_at > since:
                    return True
                asked_at = time.monotonic()
                like = request if refused is not None else self._like(request)
                try:
                    fault = await self._prober.ask(way, like)
                except NotSent:
                    return False
                if isinstance(fault, RateLimited):  # says nothing; the pace makes the next probe wait
                    continue
                if isinstance(fault, RunFault):
                    self.refuses(way, fault, like)
                    if self.is_set_aside(request):
                        return False
                elif refused is not None and fault is not None and are_alike(fault, refused):
                    return False
                elif not _means_down(fault):  # it works, if not for this row
                    way.prove(asked_at)
                    way.outage.probe_answered()
                    self._heed_doubt(way)
                    self._gate.prove(way.lane)
                    return True
                elif self._answered is None and not isinstance(fault, NotReady):
                    words, bare = (classify.silence(fault, tried, quoting=quoting) for quoting in (True, False))
                    self._given_up(way, fault, "endpoint", words, bare, end=f"; {_TRY}{BLAMELESS}")
                elif not way.outage.on:
                    way.outage.begin(time.monotonic())
                    self._begin_outage(way, fault, request)
        return False

    def _like(self, request: Request) -> Request:
        """What a probe is like: a row that was answered, as long as its model is asked; else this one."""
        return request if self._answered is None or self.is_set_aside(self._answered) else self._answered

    def refuses_all(self, way: Way, fault: AttemptError) -> bool:
        """The endpoint says to every request what it has said to a row. True: it was the last one, and the run stops."""
        words, bare = (f"{ALIKE}: {why} (HTTP {fault.http_status}); {MEND}" for why in _whys(fault))
        return self._given_up(way, fault, "failures", words, bare)

    def heed_waits(self, now: float) -> None:
        """Use an endpoint no more that asks to wait for longer than ``limits.max_wait``, or has let nothing through for so
        long. Where no row waits, what is in flight may be all there is."""
        if not (self._gate.waiting or self._gate.backing_off):
            return
        for way in self._ways.values():
            if not way.lane.is_open:
                continue
            allowance = way.lane.pace.allowance
            asked_s, fruitless_s = allowance.asked_s(now), allowance.fruitless_s(now)
            if asked_s > self._max_wait_s:
                until = local(time.time() + asked_s)
                head = f"the endpoint asks to wait until {until}, which is longer than limits.max_wait"
            elif fruitless_s >= self._max_wait_s:
                head = f"the endpoint has let nothing through for {fruitless_s:,.0f} s (limits.max_wait)"
            else:
                continue
            said = allowance.said
            words, bare = ("", "") if said is None else (f": {said.message}", f" ({said.bare})")
            todo = "; run it again after that, or raise limits.max_wait"
            self._given_up(way, None, "quota", f"{head}{words}{todo}", f"{head}{bare}{todo}")

    async def until_it_returns(self, way: Way) -> None:
        """Wait as long as nothing is sent to this endpoint, nor to any other."""
        while not (way.lane.is_open or way.lane.closed or self._gate.closed or self.others_than(way)):
            await self._gate.sleep(_MOMENT_S)

    def _heed_doubt(self, way: Way) -> None:
        way.lane.failing = way.outage.failing
        way.lane.most_in_doubt = way.outage.most_in_flight

    def _begin_outage(self, way: Way, fault: Transient, like: Request) -> None:
        what = "is starting" if isinstance(fault, NotReady) else "does not answer"
        said, bare = (f"it {what}: {why}" for why in _whys(fault))
        self._gate.pause(way.lane, _OUTAGE, said, bare, self._max_outage_s)
        words, bare = (f"{self._name(way)} {what} ({why}); waiting for it" for why in _whys(fault))
        self._tell(Event("paused", words, bare, "warning", self._facts(way, _OUTAGE, fault)))
        self._tasks.start_soon(self._await_recovery, way, like)

    async def _await_recovery(self, way: Way, like: Request) -> None:
        while True:
            await self._gate.sleep(way.outage.probe_in_s(time.monotonic()))
            async with way.probing:
                barred_from = time.monotonic()
                while HOURS in way.lane.pauses and not self._gate.closed:
                    await self._gate.sleep(_MOMENT_S)
                way.outage.barred(time.monotonic() - barred_from)
                way.outage.probed(time.monotonic())
                try:
                    fault = await self._prober.ask(way, probe := self._like(like))
                except NotSent:
                    return
            lasted_s = way.outage.lasted_s(time.monotonic())
            lasted = f"{lasted_s:,.0f} s"
            if not _means_down(fault):
                way.outage.over()
                self._heed_doubt(way)
                facts = {**self._facts(way, _OUTAGE), "lasted_s": round(lasted_s, 1)}
                self._tell(Event("resumed", f"{self._name(way)} answers again, after {lasted}", facts=facts))
                if isinstance(fault, RunFault):
                    self.refuses(way, fault, probe)
                self._on_return(way)
                self._gate.resume(way.lane, _OUTAGE)
                return
            if way.outage.too_long(time.monotonic()):
                words, bare = (
                    f"the endpoint has not answered for {lasted} (limits.max_outage): {why}" for why in _whys(fault)
                )
                self._given_up(way, fault, "endpoint", words, bare)
                return

    async def _await_credit(self, way: Way, request: Request) -> None:
        distance = _CREDIT_S
        while True:
            await self._gate.sleep(distance)
            distance = min(_LONGEST_CREDIT_S, 2 * distance)
            while way.outage.on and not (way.lane.closed or self._gate.closed):
                await self._gate.sleep(_MOMENT_S)
            like = self._like(request)
            async with way.probing:
                try:
                    fault = await self._prober.ask(way, like)
                except NotSent:
                    return
            if _means_down(fault):
                if self._answered is not None and not way.outage.on:
                    way.outage.begin(time.monotonic())
                    self._begin_outage(way, fault, request)
            elif isinstance(fault, RunFault) and fault.reason not in ("credit", "model"):
                self.refuses(way, fault, like)
                return
            elif not isinstance(fault, RateLimited) and not (isinstance(fault, RunFault) and fault.reason == "credit"):
                words = f"{self._name(way)}: there is credit again"
                self._tell(Event("resumed", words, facts=self._facts(way, _CREDIT)))
                self._gate.resume(way.lane, _CREDIT)
                if isinstance(fault, RunFault):
                    self.refuses(way, fault, like)
                return

    def _given_up(
        self, way: Way, fault: AttemptError | None, reason: StopReason, words: str, bare: str, end: str = BLAMELESS
    ) -> bool:
        """Use this endpoint no more. True: it was the last, and the run stops. ``bare`` is without the server's words."""
        if way.lane.closed:
            return self._gate.closed
        if self._gate.close_lane(way.lane):
            words, bare = (f"{self._name(way)} is not used any more: {brief}" for brief in (words, bare))
            self._tally.given_up.append(words)
            self._tally.given_up_unquoted.append(bare)
            self._tell(Event("given_up", words, bare, "warning", self._facts(way, reason, fault)))
            return False
        at = self._at(way)
        self._stop(reason, f"{at}{words}{end}", f"{at}{bare}{end}")
        return True

    def _facts(self, way: Way, reason: str, fault: AttemptError | None = None) -> dict[str, object]:
        return {"endpoint": self._name(way), "reason": reason, **({} if fault is None else classify.facts(fault))}

    def _name(self, way: Way) -> str:
        return way.endpoint.name

    def _at(self, way: Way) -> str:
        """Which of several endpoints it is, at the start of a sentence."""
        return f"{self._name(way)}: " if len(self._ways) > 1 else ""


def _not_asked(model: str, why: object) -> str:
    return f"the model {model!r} is not asked any more: {why}"


def _whys(fault: AttemptError) -> tuple[str, str]:
    """What went wrong: with the server's words, and without."""
    return fault.message, classify.unquoted(fault)


def _means_down(fault: AttemptError | None) -> TypeGuard[Transient]:
    """Whether a probe that ended so was not understood."""
    return isinstance(fault, Transient) and not isinstance(fault, RateLimited)
