"""From a request to its outcome: workers, attempts, and what is done when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import anyio
import msgspec
from anyio.abc import TaskGroup

from ..attachments import FileFault
from ..config import Job, unbounded
from ..core import (
    BAD,
    AttemptError,
    KeyReplaced,
    Outcome,
    Proof,
    RateLimited,
    Request,
    RowFault,
    RunFault,
    StorageError,
    Transient,
)
from ..endpoint import Cost, Pacer, retry_policy
from ..protocol import BLAMELESS, RateLimits, can_be_void, classify, reask
from ..storage import OutcomeWriter, RowContext, record
from . import log_events
from .accounting import Accounting
from .attached_files import AttachedFiles, Contents, take_out
from .endpoint_pool import EndpointPool
from .endpoint_state import EndpointState
from .engine_member import Member
from .failure_limit import Failures
from .further_requests import FurtherRequests
from .pending_row import PendingRow, now_us
from .probes import Prober
from .queue import RequestQueue
from .remote_files import HostDown, NotYet, RemoteFiles
from .undecided_failures import MOST_UNDECIDED, UndecidedFailures, UndecidedRow

OnRow = Callable[[Outcome], None]
OnFinal = Callable[[Request], None]
_MOST_AWAITING_FILES = 1_000  # rows that wait for a file and take no worker
_LET_FAIL = "see to the cause, or let so many rows fail with --set limits.max_failures=1.0"


class _Halted(Exception):
    """Nothing more is admitted for this row; it stays unfinished."""


def _reported(pacer: Pacer, cost: Cost, limits: RateLimits) -> None:
    pacer.reported(time.monotonic(), cost, limits)


class Workers:
    """Sends what the queue has, until it ends or the run is stopped; every final outcome goes to the writer before its slot is
    free, and then to ``on_row``; ``on_final`` gets the request of each row that is final, also where it stays as it was. What
    ends the run stops ``member``, which closes the gate and the queue."""

    def __init__(
        self,
        job: Job,
        context: RowContext,
        pool: EndpointPool,
        member: Member,
        prober: Prober,
        accounting: Accounting,
        outcome_writer: OutcomeWriter,
        on_row: OnRow | None = None,
        on_final: OnFinal | None = None,
    ) -> None:
        self._on_final = on_final
        self._policy = job.retry
        self._limits, self._is_bounded = job.limits, accounting.budget.is_bounded
        self._reasks = job.reasks
        self._further = FurtherRequests(job.reasks, context.route, accounting, member)
        self._failures = Failures(job.limits.max_failures)
        self._context = context
        self._pool = pool
        self._member = member
        self._run_state, self._stop, self._emit = member.run_state, member.stop, member.emit
        self._prober = prober
        self._gate = prober.gate
        self._accounting = accounting
        self._prices = accounting.prices
        self._outcome_writer = outcome_writer
        self._remote_files = RemoteFiles(job, member.emit, self._gate.sleep)
        self.files = AttachedFiles(self._remote_files)
        self._awaiting_files = 0
        self._on_row = on_row
        self._rules: set[str] = set()
        self._unanswered: set[str] = set()  # models of rows that have no outcome, or failed
        self._undecided = UndecidedFailures(
            pool,
            prober,
            job.models,
            confirm=lambda each: self._keep(each.made, each.row.request),
            resend=self._resend,
            changed=lambda: self._changed.set(),
        )
        self._retrying = 0
        self._troubled = False
        self._changed = anyio.Event()
        self._unstarted = self._waiting = 0  # workers that may still be started, and those that wait for a request

    async def run(self, queue: RequestQueue, workers: int) -> None:
        """Send all that the queue has, ``workers`` at a time at most, and retry until every row has its outcome."""
        async with anyio.create_task_group() as watching:
            self._undecided.tasks = watching
            async with anyio.create_task_group() as self._retries:
                self._member.on_return = lambda state: self._resend(self._undecided.take(state))
                async with anyio.create_task_group() as tasks:
                    self._unstarted = workers - 1
                    tasks.start_soon(self._work, queue, tasks)
                while self._run_state.stopped_by is None and (self._retrying or self._undecided.rows):
                    self._changed = anyio.Event()
                    if not self._retrying:
                        self._undecided.decide_all()
                    await self._changed.wait()
            self._member.on_return = None
            await self._remote_files.aclose()
            if gone := self._pool.unanswered(self._unanswered):
                self._stop(*gone)
            elif left := self._remote_files.unanswered():
                self._stop("files", left)
            watching.cancel_scope.cancel()

    async def _work(self, queue: RequestQueue, tasks: TaskGroup) -> None:
        """Work until the queue ends; with no other worker waiting, start the next: few rows need no thousand of them."""
        while True:
            if (request := queue.take_now()) is None:
                self._waiting += 1
                request = await queue.take()
                self._waiting -= 1
                if request is None:
                    return
            if self._unstarted and not self._waiting:
                self._unstarted -= 1
                tasks.start_soon(self._work, queue, tasks)
            try:
                if (row := self._pending(request)) is not None:
                    await self._finish(row)
            finally:
                if request.prefix is not None:
                    queue.back(request)

    def _pending(self, request: Request) -> PendingRow | None:
        """A request of the plan as it is to be sent; ``None`` if its outcome is made without sending anything."""
        fault = request.fault
        if fault is None and request.max_tokens is None and self._is_bounded:
            fault = unbounded(self._limits, request)
        if fault is not None:
            self._keep(record.unsendable(self._context, request, fault, now_us()), request)
            return None
        to_send: Request | None = request
        if (before := request.before) is not None:
            to_send = reask.further(request, before, self._reasks, self._context.route)
        if before is not None and to_send is None:
            self._run_state.add(before)  # it cannot get longer
            if self._on_row is not None:
                self._on_row(before)
            if self._on_final is not None:
                self._on_final(request)
        return None if to_send is None else PendingRow(request, to_send, self._accounting.cost(to_send))

    async def _finish(self, row: PendingRow, *, apart: bool = False) -> None:
        """Send until an answer fits or no further one is allowed. A failure is retried in a task of its own, and files are waited
        for in one, unless this is one (``apart``) or there are too many."""
        further: PendingRow | None = row
        try:
            while further is not None:
                row = further
                if not row.request.files:
                    further = await self._send(row)
                elif apart or self._awaiting_files >= _MOST_AWAITING_FILES:
                    further = await self._attempt_when_there(row)
                else:
                    further = await self._attempt(row)
        except _Halted:
            pass
        except NotYet as later:
            self._awaiting_files += 1
            self._retrying += 1
            self._retries.start_soon(self._finish_later, row, later)
        except AttemptError as fault:
            if isinstance(fault, Transient) and row.waiting:
                self._start_retrying(row, fault)
            else:
                self._settle_failure(row, fault)

    async def _finish_later(self, row: PendingRow, later: NotYet) -> None:
        """A row that waits for a file; its worker has gone on to the next one."""
        await self._gate.sleep(later.wait_s)
        await self._finish(row, apart=True)
        self._awaiting_files -= 1
        self._retried()

    def _start_retrying(self, row: PendingRow, first: Transient) -> None:
        self._retrying += 1
        self._retries.start_soon(self._retry, row, first)

    async def _retry(self, row: PendingRow, first: Transient) -> None:
        """Retries of a row; its worker has gone on to the next one."""
        further = None
        try:
            further = await retry_policy.persist(
                lambda: self._attempt_again(row), first, row.tries, self._policy, self._gate.sleep
            )
        except _Halted:
            pass
        except AttemptError as fault:
            self._settle_failure(row, fault)
        finally:
            self._gate.end_backing_off(row.request.model)
        if further is not None:
            await self._finish(further)
        self._retried()

    def _retried(self) -> None:
        self._retrying -= 1
        if not self._retrying:
            self._changed.set()

    async def _attempt_again(self, row: PendingRow) -> PendingRow | None:
        """As :meth:`_attempt`. Before the last one the endpoint must have answered something since the latest failure, so that an
        outage does not use up a row's attempts."""
        state, model = row.state, row.request.model
        is_last = retry_policy.is_last(row.tries, self._policy)
        if state is not None and is_last and state.of(model).proof_at <= row.failed_at:
            if self._pool.others_than(state, model):
                row.forgive()
            elif self._pool.any_answered:
                await self._pool.find_proof(self._prober, state, row.request, row.failed_at, row.tries.sent)
        return await (self._attempt_when_there(row) if row.request.files else self._send(row))

    async def _attempt_when_there(self, row: PendingRow) -> PendingRow | None:
        """As :meth:`_attempt`; waits for files that are not there yet."""
        while True:
            try:
                return await self._attempt(row)
            except NotYet as later:
                await self._gate.sleep(later.wait_s)

    async def _attempt(self, row: PendingRow) -> PendingRow | None:
        """As :meth:`_send`, of a row with files.

        :raises NotYet: if nothing was sent, as a file is not there yet.
        """
        # Read before there is a slot, so that none is taken for that, and no pace is upset by what reading takes.
        row.started_at = row.started_at or now_us()
        try:
            async with self.files.of(row.request, lambda: not self._gate.closed, again=row.waiting) as contents:
                if contents is None:
                    raise self._halted(row)
                self._accounting.measured(row.cost, row.request, contents.text_bytes)
                return await self._send(row, contents)
        except HostDown:
            raise self._halted(row) from None
        except FileFault as fault:
            error = classify.unreadable_file(str(fault))
            self._keep(record.failed(self._context, row.request, row.effort(), error, "input"), row.request)
            return None

    async def _send(self, row: PendingRow, contents: Contents | None = None) -> PendingRow | None:
        """Send the row once, with the files that are put in, and store its answer before the slot is free. If that does not fit:
        what to send next.

        :raises AttemptError: if no answer came.
        :raises _Halted: if nothing was sent because the run is stopping, or the model is disabled everywhere.
        """
        cost, pool, model = row.cost, self._pool, row.request.model
        while True:
            if pool.any_disabled and pool.is_disabled_everywhere(model):
                raise self._halted(row)
            state = await self._gate.enter(cost, again=row.waiting)
            if state is None:
                raise self._halted(row)
            if not (pool.any_disabled and pool.is_disabled(state, model)):
                break
            self._gate.give_back(state, cost)  # it was disabled between the two
        if contents is not None:
            contents.went()
        if row.state is not None and row.outages != row.state.breaker.past_outages:
            row.forgive()
        row.state = state
        row.outages = state.breaker.past_outages
        if self._prices.differ:
            cost.prices = self._prices.of(model, state.endpoint.name)
        run_state, tries = self._run_state, row.tries
        row.started_at = row.started_at or now_us()
        run_state.requests_sent += 1
        run_state.retries += tries.sent > 0
        began, row.number = cost.sent_at, state.breaker.sent()
        sent, fallback = (
            state.quirks.adapted(row.request, self._context.route) if state.quirks.instead else (row.request, None)
        )
        if contents is not None:
            sent = contents.into(sent)
        streamed = state.streams(sent)
        try:
            (answer,) = await state.client.send(
                self._context.route, (sent,), partial(_reported, state.pacer, cost), streamed=streamed
            )
            now = time.monotonic()
            tries.count(now - began, costs=True)
            if b'"response_format"' in row.request.body:
                state.quirks.answered(row.request, fallback)
            made = record.answered(self._context, row.request, row.effort(fallback), answer)
            if streamed and made.cut_by == "server" and made.ttft_s is None:  # it streams nothing, and never will
                made = msgspec.structs.replace(made, cut_by=None)
            further = self._further.after_answer(row, state, made) if made.status in reask.REASK_STATUSES else None
            self._keep(made, row.request, final=further is None)
            self._accounting.answered(now, state, cost, answer.usage)
            pool.answered(state, row.number, row.request, began, first=not row.waiting)
            if self._undecided.rows:
                self._undecided.answered(state, model, began)
            return further
        except AttemptError as fault:
            if contents is not None:
                take_out(fault)
            refusal = fault if state.quirks.is_refusal(row.request, fallback, fault) else None
            means = self._failed_once(row, state, fault, began, proves=refusal is None)
            if refusal is not None:
                if (otherwise := self._further.in_another_format(row, state, fallback, refusal)) is None:
                    raise _Halted from None
                return otherwise
            if isinstance(fault, RowFault) and fallback is not None:
                state.quirks.refused_otherwise(row.request)
            raise means from None
        finally:
            state.breaker.ended(row.number)
            if state.failing:
                pool.follow_breaker(state)
            self._gate.leave(state)

    def _halted(self, row: PendingRow) -> _Halted:
        self._unanswered.add(row.request.model)
        return _Halted()

    def _failed_once(
        self, row: PendingRow, state: EndpointState, fault: AttemptError, began: float, *, proves: bool = True
    ) -> AttemptError:
        """Account for a failed attempt while its slot is still taken; returns what it means for the row. Without ``proves`` a
        refusal is no sign that the endpoint works."""
        now = row.failed_at = time.monotonic()
        if fault.rule is not None and fault.rule not in self._rules:
            self._rules.add(fault.rule)
            self._emit(log_events.rule_applied(fault))
        first = not row.waiting
        of_row = classify.is_of_row(fault)
        alone = False
        if isinstance(fault, RateLimited):
            self._pool.responded(state, row.number, first=first)
            is_last = state.in_flight == 1 and not self._gate.admission.waiting
            alone = row.was_refused(fault, state, state.of(row.request.model), is_last=is_last)
        self._accounting.failed(state, row.cost, fault, alone=alone)
        if isinstance(fault, RunFault) and not classify.maybe_of_a_row(fault, others_answered=state.completions > 0):
            # Before the slot is free for the next to fail likewise.
            fault = self._pool.refused_all(state, fault, row.request)
        elif isinstance(fault, RunFault) and fault.reason == "model":
            self._pool.question(state, row.request.model, is_open=True)
        elif isinstance(fault, RowFault):
            self._pool.responded(state, row.number, first=first)
            if classify.is_about_request(fault):
                state.prove(row.request.model, began)
                if proves:
                    self._gate.admission.prove(state)
        elif isinstance(fault, KeyReplaced):
            self._pool.responded(state, row.number, first=first)
        elif isinstance(fault, Transient) and not isinstance(fault, RateLimited):
            means = self._pool.failed(state, fault, row.number, row.request, first=first)
            fault = means if row.may_be_forgiven else fault
        self._run_state.retries -= not fault.sent and row.tries.sent > 0
        row.tries.count(now - began, costs=retry_policy.costs(fault))
        if isinstance(fault, RateLimited) and row.is_too_large:
            return classify.of_row(fault)
        if isinstance(fault, Transient):
            if retry_policy.costs(fault) and not retry_policy.exhausted(fault, row.tries, self._policy):
                is_first, self._troubled = not self._troubled, True
                sent = row.tries.sent
                self._emit(log_events.retrying(row.planned.id, state.endpoint.name, sent, fault, shown=is_first))
            if of_row or row.tries.sent > 1:  # twice is no chance: others may show more
                self._gate.try_rows(MOST_UNDECIDED)
            if not row.waiting and not retry_policy.exhausted(fault, row.tries, self._policy):
                row.waiting = True
                self._gate.begin_backing_off(row.request.model)
        return fault

    def _settle_failure(self, row: PendingRow, fault: AttemptError) -> None:
        """A row gets no further attempt: is it to blame, or the endpoint?

        Where the server's words do not say, it awaits a verdict: it is marked failed once another row, sent later, is answered.
        With too many that wait, or when no other is left, a probe decides; at once, where the model is said not to be there. If
        the endpoint was down, or lacks the model, the row is sent again.
        """
        self._unanswered.add(row.request.model)
        is_of_model = isinstance(fault, RunFault) and fault.reason == "model"
        is_refusal = is_of_model or (isinstance(fault, RowFault) and not row.is_too_large)
        proof: Proof = "words" if is_refusal and not is_of_model and classify.is_about_request(fault) else "answers"
        of_row = classify.of_row(fault) if is_of_model else fault
        made = record.failed(self._context, row.request, row.effort(), of_row, proof)
        if proof == "words":
            self._keep(made, row.request)
        elif self._run_state.stopped_by is None and row.state is not None:
            self._undecided.add(UndecidedRow(made, fault, row, row.state, time.monotonic(), is_refusal))
        elif is_of_model and row.state is not None:
            self._pool.question(row.state, row.request.model, is_open=False)

    def _resend(self, undecided: Sequence[UndecidedRow]) -> None:
        """They failed where nothing was answered, and are not to blame: each waits for another attempt."""
        for each in undecided:
            each.row.forgive(always=True)
            each.row.waiting = True
            self._gate.begin_backing_off(each.row.request.model)
            self._start_retrying(each.row, classify.deferred(each.fault))

    def _keep(self, made: Outcome, request: Request, *, final: bool = True) -> None:
        """Store an outcome. One that is not ``final`` is sent again, by the next run if this one ends before. A failure does not
        replace an answer that a retry found."""
        if self._run_state.is_void and can_be_void(made):
            return
        stays = request.stands is not None and record.stays(request, made)
        try:
            if not stays:
                self._outcome_writer.keep(made)
        except StorageError as error:
            self._run_state.unstored += 1
            self._stop("disk", str(error))
            return
        if not final:
            self._run_state.add_rejected(made, request.stands)
        else:
            self._run_state.add(made, request.stands, stays=stays)
            if self._on_row is not None and not stays:
                self._on_row(made)
            if self._on_final is not None:
                self._on_final(request)
            if useless := self._failures.add(made):
                self._stop("failures", useless + f"; {_LET_FAIL}{BLAMELESS}")
            if made.status in BAD:
                for event in log_events.of_bad_row(made, request, self._failures.doubt(made)):
                    self._emit(event)
        if self._outcome_writer.full:
            self._stop("disk", "the disk is full: free some space")
