"""From a request to its row: workers, attempts, and what is done when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import anyio
import msgspec

from ..config import RetrySection
from ..core import (
    BAD,
    RULE,
    AttemptError,
    Event,
    FormatFallback,
    KeyReplaced,
    Message,
    Outcome,
    Proof,
    RateLimited,
    Request,
    RowFault,
    RunFault,
    StopReason,
    StorageError,
    Tell,
    Transient,
    ident,
    named,
    unquoted,
)
from ..endpoint import Prices, retry_policy
from ..protocol import BLAMELESS, can_be_void, classify, failure_text, reask
from ..storage import OutcomeWriter, RowContext, RunState, record
from .accounting import Accounting
from .budget import Budget
from .endpoint_pool import EndpointPool, Member
from .endpoint_state import EndpointState
from .failure_limit import Failures
from .probes import Prober
from .queue import RequestQueue
from .undecided_failures import MOST_EXCUSED, MOST_HELD, Asked, Held, Verdicts

# After so many refusals by a rate limit that let others pass in between, the row is too large for it. From the second on it waits
# by itself, and no other waits for it.
_MOST_REFUSALS, _ALONE, _LONGEST_ALONE_S = 50, 2, 5.0
_LET_FAIL = "see to the cause, or let so many rows fail with --set limits.max_failures=1.0"


class _Halted(Exception):
    """The run admits nothing more; the row stays unfinished."""


def _maybe_of_a_row(fault: RunFault, state: EndpointState) -> bool:
    """After others were answered: moderation answers 403, and a row may itself name a model that is not there."""
    return state.completions > 0 and (fault.http_status == 403 or fault.reason in ("model", "url"))


class Workers:
    """Asks until the feed ends or the run is stopped; every final outcome goes to the writer before its slot is free.

    ``stop`` is called with a reason and a sentence when the run must end; it closes the gate and the feed. ``tell`` is told of
    what fails. ``models`` are those that the job names: where an endpoint refuses whatever one of them is asked, the others are
    still asked.
    """

    def __init__(
        self,
        policy: RetrySection,
        frame: RowContext,
        pool: EndpointPool,
        member: Member,
        prober: Prober,
        budget: Budget,
        accounting: Accounting,
        outcome_writer: OutcomeWriter,
        failures: Failures,
        run_state: RunState,
        stop: Callable[[StopReason, Message | str], None],
        tell: Tell,
        reasks: reask.Policy,
        prices: Prices,
        models: Collection[str] = (),
    ) -> None:
        self._reasks = reasks
        self._prices = prices
        self._policy = policy
        self._frame = frame
        self._pool = pool
        self._member = member
        self._prober = prober
        self._gate = prober.gate
        self._budget = budget
        self._accounting = accounting
        self._outcome_writer = outcome_writer
        self._failures = failures
        self._run_state = run_state
        self._stop = stop
        self._tell = tell
        self._rules: set[str] = set()
        self._unanswered: set[str] = set()  # models of rows that were not asked, or not to blame
        self._verdicts = Verdicts(pool, prober, models, run_state, self._blame, self._ask_again, self._has_changed)
        self._persisting = 0
        self._troubled = False
        self._changed = anyio.Event()

    async def everything(self, feed: RequestQueue, workers: int) -> None:
        """Ask all that the feed has, ``workers`` at a time at most."""
        async with anyio.create_task_group() as watching:
            self._verdicts.judge_in(watching)
            async with anyio.create_task_group() as self._again:
                self._member.on_return = lambda state: self._ask_again(self._verdicts.take(state))
                async with anyio.create_task_group() as tasks:
                    for _ in range(workers):
                        tasks.start_soon(self._work, feed)
                while self._run_state.stopped_by is None and (self._persisting or self._verdicts.held):
                    self._changed = anyio.Event()
                    if not self._persisting:
                        self._verdicts.judge_all()
                    await self._changed.wait()
            self._member.on_return = None
            if gone := self._pool.unanswered(self._unanswered):
                self._stop(*gone)
            watching.cancel_scope.cancel()

    def _has_changed(self) -> None:
        self._changed.set()

    async def _work(self, feed: RequestQueue) -> None:
        while (request := await feed.take()) is not None:
            try:
                if (row := self._begun(request)) is not None:
                    await self._see_through(row)
            finally:
                if request.prefix is not None:
                    feed.back(request)

    def _begun(self, request: Request) -> Asked | None:
        """What to ask for a request of the plan; ``None`` if its row is made without."""
        fault = request.fault
        if fault is None and request.max_tokens is None and self._budget.is_bounded:
            fault = self._budget.unbounded(request)
        if fault is not None:
            self._keep(record.unaskable(self._frame, request, fault, _now_us()), request)
            return None
        asked = (
            request
            if request.before is None
            else reask.further(request, request.before, self._reasks, self._frame.route)
        )
        if asked is None:  # more than there is cannot be asked for
            if request.before is not None:
                self._run_state.add(request.before)
            return None
        return self._row(request, asked)

    def _row(self, planned: Request, asked: Request) -> Asked:
        prices = self._prices.dearest(asked.body) if self._prices.are_any else None
        return Asked(planned, asked, self._budget.cost(len(asked.body), asked.max_tokens, prices, asked.model))

    async def _see_through(self, row: Asked) -> None:
        """Ask until an answer fits or no further one is allowed; what fails is tried again by a task of its own."""
        further: Asked | None = row
        try:
            while further is not None:
                row = further
                further = await self._attempt(row)
        except _Halted:
            pass
        except AttemptError as fault:
            if isinstance(fault, Transient) and row.waiting:
                self._begin_persisting(row, fault)
            else:
                await self._give_up(row, fault)

    def _begin_persisting(self, row: Asked, first: Transient) -> None:
        self._persisting += 1
        self._again.start_soon(self._persist, row, first)

    async def _persist(self, row: Asked, first: Transient) -> None:
        """The further attempts of a row, in a task of its own: its worker has gone on to the next."""
        further = None
        try:
            try:
                further = await retry_policy.persist(
                    lambda: self._attempt_again(row), first, row.tries, self._policy, self._gate.sleep
                )
            except _Halted:
                pass
            except AttemptError as fault:
                await self._give_up(row, fault)
            finally:
                self._gate.end_backing_off(row.request.model)
            if further is not None:
                await self._see_through(further)
        finally:
            self._persisting -= 1
            if not self._persisting:
                self._changed.set()

    async def _attempt_again(self, row: Asked) -> Asked | None:
        """As :meth:`_attempt`. Before the last attempt the endpoint has to have answered something since the one before."""
        state = row.state
        model = row.request.model
        if (
            state is not None
            and retry_policy.is_last(row.tries, self._policy)
            and state.of(model).proof_at <= row.failed_at
        ):
            if self._pool.others_than(state, model):
                self._excuse(row)
            elif self._pool.any_answered:
                await self._pool.works(self._prober, state, row.request, row.failed_at, row.tries.sent)
        return await self._attempt(row)

    def _excuse(self, row: Asked) -> None:
        if row.excused < MOST_EXCUSED:
            row.excused += 1
            row.tries.forgive()

    async def _attempt(self, row: Asked) -> Asked | None:
        """Send the row once, and keep its answer before anything else can happen. If it does not fit: what to ask next.

        :raises AttemptError: if there is none.
        :raises _Halted: if nothing was sent because the run is stopping.
        """
        if self._pool.any_disabled and self._pool.is_set_aside(row.request.model):
            raise self._halted(row)
        state = await self._gate.enter(row.cost, again=row.waiting)
        while state is not None and self._pool.any_disabled and self._pool.is_disabled(state, row.request.model):
            self._gate.give_back(state, row.cost)  # it was disabled between the two
            if self._pool.is_set_aside(row.request.model):
                raise self._halted(row)
            state = await self._gate.enter(row.cost, again=row.waiting)
        if state is None:
            raise self._halted(row)
        if row.state is not None and row.outages != row.state.breaker.past_outages:
            self._excuse(row)
        row.state = state
        row.outages = state.breaker.past_outages
        if self._prices.differ:
            row.cost.prices = self._prices.of(row.request.body, state.endpoint.name)
        run_state = self._run_state
        row.started_at = row.started_at or _now_us()
        run_state.requests_sent += 1
        run_state.retries += row.tries.sent > 0
        began, number = row.cost.sent_at, state.breaker.sent()
        row.number = number
        sent, fallback = (
            state.quirks.adapted(row.request, self._frame.route) if state.quirks.instead else (row.request, None)
        )
        streamed = state.streams(sent)
        try:
            (answer,) = await state.client.send(
                self._frame.route,
                (sent,),
                lambda limits: state.pacer.reported(time.monotonic(), row.cost, limits),
                streamed=streamed,
            )
            now = time.monotonic()
            row.tries.count(now - began, costs=True)
            if b'"response_format"' in row.request.body:
                state.quirks.answered(row.request, fallback)
            made = record.answered(self._frame, row.request, self._effort(row, fallback), answer)
            if streamed and made.cut_by == "server" and made.ttft_s is None:  # it streams nothing, and never will
                made = msgspec.structs.replace(made, cut_by=None)
            further = self._further(row, state, made) if made.status in reask.MAY_BE_ASKED_AGAIN else None
            self._keep(made, row.request, final=further is None)
            self._accounting.answered(state, row.cost, answer.usage)
            self._pool.answered(state, number, row.request, began, first=not row.waiting)
            if self._verdicts.held:
                self._verdicts.answered(state, row.request.model, began)
            return further
        except AttemptError as fault:
            refusal = fault if state.quirks.is_refusal(row.request, fallback, fault) else None
            means = self._failed_once(row, state, fault, began, proves=refusal is None)
            if refusal is not None:
                return self._in_another_format(row, state, fallback, refusal)
            if isinstance(fault, RowFault) and fallback is not None:
                state.quirks.refused_otherwise(row.request)
            raise means from None
        finally:
            self._pool.ended(state, number)
            self._gate.leave(state)

    def _halted(self, row: Asked) -> _Halted:
        self._unanswered.add(row.request.model)
        return _Halted()

    def _further(self, row: Asked, state: EndpointState, made: Outcome) -> Asked | None:
        """What to ask after an answer that does not fit or was cut off; ``None`` if it is the last."""
        before, can_stream = row.request.before, state.endpoint.stream == "auto"
        after_cut = before is not None and before.cut_by == "server" and can_stream
        if before is not None and after_cut and state.quirks.streamed(before, made):
            self._note(
                f"{state.endpoint.name}: an answer was cut off at {made.completion_tokens:,} tokens when streamed, too: such "
                "answers stay truncated"
            )
        if made.cut_by == "server" and made.ttft_s is None:
            known = state.quirks.unstreamed_tokens
            if not (can_stream and state.quirks.cut_unstreamed(made)):
                return None
            if known is None:
                self._note(
                    f"{state.endpoint.name} cuts answers that are not streamed at {made.completion_tokens:,} tokens, below their "
                    "max_tokens: from now on longer ones are streamed there, and this one is asked for again"
                )
        asked = reask.further(row.planned, made, self._reasks, self._frame.route)
        return None if asked is None else self._next(row, asked)

    def _next(self, row: Asked, asked: Request) -> Asked:
        """What is asked after ``row`` to the same end."""
        further = self._row(row.planned, asked)
        further.started_at, further.sent_before = row.started_at, row.sent_before + row.tries.sent
        return further

    def _in_another_format(
        self, row: Asked, state: EndpointState, sent_as: FormatFallback | None, fault: AttemptError
    ) -> Asked:
        """What to ask after a refusal of the response format that this was ``sent_as``.

        :raises _Halted: if the run stops for it.
        """
        name = f"{state.endpoint.name}: {state.endpoint.model or row.request.model}"
        was = state.quirks.adapted(row.request, self._frame.route)[1]
        instead = state.quirks.refused(row.request, sent_as, fault)
        if instead is None:
            todo = 'answer.fallback is "stop"; with "json_object" or "prompt" it is asked without, and validated here'
            self._stop(
                "format", f"{name} refuses the response_format" + failure_text.appended(fault) + f"; {todo}{BLAMELESS}"
            )
            raise _Halted
        if instead != was:
            how = "response_format json_object" if instead == "json_object" else "words alone"
            told = f"{name} refuses the response_format; asked with {how} and the schema in the system message, validated here"
            self._note(told)
        return self._next(row, row.request)

    def _note(self, words: str) -> None:
        self._tell(Event("note", words, level="warning"))

    def _failed_once(
        self, row: Asked, state: EndpointState, fault: AttemptError, began: float, *, proves: bool = True
    ) -> AttemptError:
        """Take note of a failed attempt, while its slot is still taken; returns what it means for the row. Unless it ``proves``
        that rows are answered there, a refusal opens the endpoint to no others."""
        now = row.failed_at = time.monotonic()
        self._tell_of_rule(fault)
        first = not row.waiting
        of_row = classify.is_of_row(fault)
        of_model = state.of(row.request.model)
        alone = False
        if isinstance(fault, RateLimited):
            self._pool.understood(state, row.number, first=first)
            row.cost.refusals += 1
            if fault.limit_kind not in ("requests", "in_flight"):  # those are the same for every row
                others_passed, of_model_passed = (
                    row.completions != state.completions,
                    row.of_model != of_model.completions,
                )
                if row.refused >= _ALONE and state.in_flight == 1 and not self._gate.admission.waiting:
                    others_passed, of_model_passed = True, of_model.completions > 0  # all of them
                row.refused += others_passed
                row.passed += of_model_passed
                alone = others_passed and row.refused >= _ALONE
            row.completions, row.of_model = state.completions, of_model.completions
            if alone:
                fault.wait_s = min(_LONGEST_ALONE_S, fault.retry_after_s or 2.0 ** min(row.refused - _ALONE, 8))
        self._accounting.failed(state, row.cost, fault, alone=alone)
        if isinstance(fault, RunFault) and not _maybe_of_a_row(fault, state):
            # Before the slot is free for the next to fail likewise.
            fault = self._pool.refuses(state, fault, row.request)
        elif isinstance(fault, RunFault) and fault.reason == "model":
            self._pool.doubt_model(state, row.request.model)
        elif isinstance(fault, RowFault):
            self._pool.understood(state, row.number, first=first)
            if classify.is_about_request(fault):
                state.prove(row.request.model, began)
                if proves:
                    self._gate.admission.prove(state)
        elif isinstance(fault, KeyReplaced):
            self._pool.understood(state, row.number, first=first)
        elif isinstance(fault, Transient) and not isinstance(fault, RateLimited):
            told = self._pool.failed(state, fault, row.number, row.request, first=first)
            fault = told if row.excused < MOST_EXCUSED else fault
        self._run_state.retries -= not fault.sent and row.tries.sent > 0
        row.tries.count(now - began, costs=retry_policy.costs(fault))
        if isinstance(fault, RateLimited) and row.passed >= _MOST_REFUSALS:
            return classify.of_row(fault)
        if isinstance(fault, Transient):
            if retry_policy.costs(fault) and not retry_policy.exhausted(fault, row.tries, self._policy):
                self._tell_of_trouble(row, state, fault)
            if of_row or row.tries.sent > 1:  # twice is no chance: others may tell more
                self._gate.doubt_row(MOST_HELD)
            if not row.waiting and not retry_policy.exhausted(fault, row.tries, self._policy):
                row.waiting = True
                self._gate.begin_backing_off(row.request.model)
        return fault

    def _tell_of_rule(self, fault: AttemptError) -> None:
        """The first failure that a rule applies to says which: for whoever looks into how failures are read."""
        if fault.rule is not None and fault.rule not in self._rules:
            self._rules.add(fault.rule)
            words = f"read by the rule {fault.rule}: {failure_text.unquoted(fault)}"
            said = "" if fault.http_status is None else f": {fault.message}"
            self._tell(Event(RULE, words + said, words, facts=failure_text.facts(fault)))

    def _tell_of_trouble(self, row: Asked, state: EndpointState, fault: Transient) -> None:
        is_first, self._troubled = not self._troubled, True
        facts = {
            "id": row.planned.id,
            "endpoint": state.endpoint.name,
            "attempts": row.tries.sent,
            **failure_text.facts(fault),
        }
        words = "trying again after a failure: " + failure_text.why(fault)
        logged = f"{words.unquoted} (row {row.planned.id}){ident(fault.request_id)}"
        self._tell(Event("retrying", words.text, logged, "warning", facts, shown=is_first))

    async def _give_up(self, row: Asked, fault: AttemptError) -> None:
        """A row gets no further attempt: is it to blame, or the endpoint?

        Unless the server's words tell, it is a suspect until another that is asked after it is answered: then it is marked
        failed. With too many suspects, or when nobody is left to be answered, the endpoint is asked for a single token. If
        it was down, the row is asked again. A refusal is a suspect until the same model answers.
        """
        self._unanswered.add(row.request.model)
        if isinstance(fault, RunFault) and fault.reason == "model" and row.state is not None:
            if await self._pool.lacks_model(self._prober, row.state, row.request, row.failed_at):
                if self._run_state.stopped_by is None and not self._pool.is_set_aside(row.request.model):
                    self._send_again(row, fault)  # another endpoint may have it
                return
            # It has answered a request for one token since.
            fault = classify.of_row(fault)
            self._keep(record.failed(self._frame, row.request, self._effort(row), fault), row.request)
            return
        is_refusal = isinstance(fault, RowFault) and row.passed < _MOST_REFUSALS
        proof: Proof = "words" if is_refusal and classify.is_about_request(fault) else "answers"
        made = record.failed(self._frame, row.request, self._effort(row), fault, proof)
        if proof == "words":
            self._keep(made, row.request)
            return
        if self._run_state.stopped_by is not None or row.state is None:
            return
        self._verdicts.add(Held(made, fault, row, row.state, time.monotonic(), is_refusal))

    def _blame(self, held: Held) -> None:
        self._keep(held.made, held.row.request)

    def _ask_again(self, held: Sequence[Held]) -> None:
        """They were given up where nothing was answered, and are not to blame."""
        for each in held:
            each.row.excused += 1
            each.row.tries.forgive()
            self._send_again(each.row, each.fault)

    def _send_again(self, row: Asked, fault: AttemptError) -> None:
        """A row was given up, and is not to blame: it goes on as one that waits for another attempt."""
        row.waiting = True
        self._gate.begin_backing_off(row.request.model)
        self._begin_persisting(row, classify.deferred(fault))

    def _keep(self, made: Outcome, request: Request, *, final: bool = True) -> None:
        """Keep an outcome. One that is not ``final`` is asked for again: should this run end before, by the next. A failure
        does not take the place of an answer that stands."""
        if self._run_state.is_void and can_be_void(made):
            return
        stays = record.stays(request, made)
        try:
            if not stays:
                self._outcome_writer.keep(made)
        except StorageError as error:
            self._run_state.unstored += 1
            self._stop("disk", str(error))
            return
        if not final:
            self._run_state.add_unfit(made, request.stands)
        else:
            self._run_state.add(made, request.stands, stays=stays)
            if useless := self._failures.add(made):
                self._stop("failures", useless + f"; {_LET_FAIL}{BLAMELESS}")
            if made.status in BAD:
                self._tell_of_row(made, request)
        if self._outcome_writer.full:
            self._stop("disk", "the disk is full: free some space")

    def _tell_of_row(self, made: Outcome, request: Request) -> None:
        facts = {
            "status": made.status,
            **{name: getattr(made, name) for name in ("id", "row", "sample", "endpoint", "attempts", "http_status")},
            **{name: getattr(made, name) for name in ("error_type", "error_code", "request_id")},
        }
        is_failed = made.status == "failed"
        heads = {"failed": f"row {made.id} failed", "empty": f"the answer of row {made.id} is empty"}
        head = heads.get(made.status, f"the answer of row {made.id} does not fit")
        known_as = ident(made.request_id)
        words = head + Message(f": {made.error_message}", f": {unquoted(made)}" if is_failed else "") + known_as
        self._tell(
            Event("row_failed", words.text, words.unquoted, "warning", named(facts), shown=False, request=request.body)
        )

    def _effort(self, row: Asked, fallback: FormatFallback | None = None) -> record.Effort:
        name, model = (row.state.endpoint.name, row.state.endpoint.model) if row.state else (None, None)
        return record.Effort(
            row.sent_before + row.tries.sent, row.started_at, _now_us(), name, model or row.request.model, fallback,
            row.cost.prices,
        )  # fmt: skip


def _now_us() -> int:
    return time.time_ns() // 1_000
