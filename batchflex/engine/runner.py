"""The run: the only wiring of all the other modules. It prints nothing and reads no command line."""

from __future__ import annotations

import datetime
import importlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import anyio
import anyio.to_thread
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from ..config import Job, deadline_s, local, parse_duration, until_change_s
from ..core import (
    BatchflexError,
    Event,
    FolderError,
    InputError,
    StopReason,
    StorageError,
    Teller,
    __version__,
    guarded,
    signals,
)
from ..endpoint import (
    CircuitBreaker,
    Client,
    Endpoint,
    LongPrompts,
    Pacer,
    Prices,
    default_model,
    queue_metrics,
    resolve,
    serving,
)
from ..plan import Plan, Prepared, Settled, completion_marker, prepare
from ..protocol import VOIDING, Shapes, answer_limit
from ..storage import (
    Attempt,
    Folder,
    Layout,
    OutcomeWriter,
    RowContext,
    RunState,
    Wait,
    catch_up,
    declared,
    disk_space,
    part_files,
    priced_by,
    run_id,
)
from .accounting import Accounting
from .admission import Gate
from .budget import Budget
from .endpoint_pool import EndpointPool
from .endpoint_state import EndpointState
from .failure_limit import Failures
from .pacer_setup import paces_of
from .probes import HOURS, Prober
from .queue import RequestQueue
from .telemetry import Telemetry, Waits, binding
from .warm_up import learn
from .workers import Workers

if TYPE_CHECKING:
    import polars as pl

Preparing = Callable[[Job, Plan, Folder], Prepared]

_TICK_S = 0.5
_STATE_EVERY_S = 1.0
_TELEMETRY_EVERY_S = 5.0
_HOURS_EVERY_S = 30.0
_QUEUE_EVERY_S = 0.5
_ROOM_EVERY_S = 1.0
_LOGGED_WAITS = ("quota", "endpoint")


class Observer(Protocol):
    """Is told how a run goes, twice a second and when something happens; must return quickly.

    One that has a method ``event`` too is given an :class:`~batchflex.core.events.Event` in place of each note.
    """

    def tick(self, run_state: RunState) -> None: ...

    def note(self, text: str) -> None:
        """A sentence for whoever watches."""


class _Nobody:
    def tick(self, run_state: RunState) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Run:
    """A run that has ended. ``summary`` is what ``run.json`` holds; CONTRACT.md gives the fields' meaning.

    Of a job with ``[[score]]``, ``scores`` is what ``scores.json`` holds, and ``unscored`` says what is missing there, if
    anything. ``untold`` has a sentence for each way of ``[notify]`` that failed. ``unquoted`` is ``summary`` without words of a
    server or of a row, for a log.
    """

    def __init__(self, out: Path, summary: dict[str, Any], unquoted: dict[str, Any] | None = None) -> None:
        self.out = out
        self.summary = summary
        self.unquoted = summary if unquoted is None else unquoted
        self.scores: dict[str, Any] | None = None
        self.unscored: str | None = None
        self.untold: list[str] = []

    def __repr__(self) -> str:
        return f"<Run {self.summary['status']}: {self.summary['done']} rows in {self.out}>"

    @property
    def exit_code(self) -> int:
        """What the command line would exit with: 0 every row answered, 1 some failed, invalid or empty, 3 stopped early, or with
        scores missing."""
        code = int(self.summary["exit_code"])
        return 3 if code in (0, 1) and self.unscored is not None else code

    @property
    def stopped_by(self) -> str | None:
        """Why the run stopped early; ``None`` if it came to its end."""
        return None if self.summary["stopped_by"] is None else str(self.summary["stopped_by"])

    def results(self) -> pl.DataFrame:
        """One row a request, in input order. CONTRACT.md gives the columns.

        :raises FolderError: if the run was stopped so early, or at once, that there is no table.
        """
        import polars as pl

        if not (self.out / "results.parquet").exists():
            raise FolderError(f"there is no table in {self.out}: {self.summary['message']}")
        return pl.read_parquet(self.out / "results.parquet")


async def arun(
    job: Job,
    *,
    frame: pl.DataFrame | None = None,
    observer: Observer | None = None,
    heed_signals: bool = False,
    planned: Job | None = None,
    preparing: Preparing = prepare,
    attempt: Attempt | None = None,
    then: Callable[[Run, Folder], Awaitable[None]] | None = None,
) -> Run:
    """Run a job to its end, or until something stops it; either way what was answered is kept.

    Rows come from ``frame``, if given, else from ``input.path``. With ``heed_signals`` the first SIGINT, SIGTERM or SIGHUP
    stops admitting and lets what is in flight finish within ``limits.grace_s``; the second ends the run at once, but for
    SIGHUP, which a terminal that is closed sends more than once. Cancelling this coroutine is safe at any moment: the next
    run goes on from the journal.

    A run that stops early (no credit, key refused, endpoint gone, disk full, budget, deadline, signal) is no exception:
    :attr:`Run.stopped_by` says so.

    The plan is that of ``planned``, if it is another job than the one that says how to ask. ``preparing`` finds what of it is
    to be asked. ``attempt`` is told when the run has begun, and its deadline counts from when that was made. ``then`` is done
    with the run that has ended while the folder is still held.

    The input is read once the folder is held, so that what came while another run held it counts. Where there is no folder yet it
    is read before: a wrong one makes none.

    :raises JobError, InputError, EndpointError, FolderError: before anything was sent.
    :raises StorageError: if the output folder takes nothing from the start.
    """
    end = _end_of(job, attempt)
    endpoints = [resolve(entry, job.environment) for entry in job.asked]
    for endpoint in endpoints:
        endpoint.require(job.models)
    named = endpoints if planned is None else [resolve(entry, with_key=False) for entry in planned.asked]
    new_plan = partial(anyio.to_thread.run_sync, Plan, planned or job, default_model(named), frame)
    folder = Folder(job.out)
    early = None if folder.exists() else await new_plan()
    with folder.held():
        await anyio.to_thread.run_sync(catch_up, folder)
        plan = early or await new_plan()
        prepared = await anyio.to_thread.run_sync(preparing, job, plan, folder)
        try:
            conduct = _Conduct(job, endpoints, plan, folder, prepared, observer or _Nobody(), end, attempt)
            if attempt is not None:
                attempt.begun()
            run = await conduct.conduct(heed_signals)
            if then is not None:
                await then(run, folder)
            return run
        except BaseExceptionGroup as group:
            if fault := _sole_fault(group):
                raise fault from None
            raise


class _End(NamedTuple):
    """The deadline as a moment, by the clock on the wall and by the monotonic one. That of the run, not of its preparation."""

    at: datetime.datetime
    due: float


def _end_of(job: Job, attempt: Attempt | None) -> _End | None:
    if job.limits.deadline is None:
        return None
    began = attempt or Attempt()
    left_s = deadline_s(job.limits.deadline, began.moment)
    return _End(began.moment + datetime.timedelta(seconds=left_s), began.monotonic_s + left_s)


def _sole_fault(error: BaseException) -> BatchflexError | None:
    """The error for people that task groups have wrapped, if there is nothing else in it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, BatchflexError) else None


class _Conduct:
    """One run in a folder it holds."""

    def __init__(
        self,
        job: Job,
        endpoints: list[Endpoint],
        plan: Plan,
        folder: Folder,
        prepared: Prepared,
        observer: Observer,
        end: _End | None,
        attempt: Attempt | None,
    ) -> None:
        self._job = job
        self._endpoints = endpoints
        self._plan = plan
        self._folder = folder
        self._prepared = prepared
        self._started = time.time()
        of = run_id(self._started) if attempt is None else attempt.run_id
        self._run_state = RunState(of, job.job.name, str(folder.path), self._started, prepared.before, prepared.again)
        self._run_state.plan = plan.identity()
        self._observer = observer
        self._teller = Teller(observer, job.job.name, of)
        if prepared.diff is not None:
            self._run_state.planned = prepared.diff.planned
        self._scope = anyio.CancelScope()
        self._long_prompts = LongPrompts(lambda words: self._teller.note(words, "warning"))
        self._feed = RequestQueue(prepared.blocks, prepared.sort_out, prepared.passed, heed=self._long_prompts.look)
        self._gate: Gate[EndpointState] | None = None
        self._outcome_writer: OutcomeWriter | None = None
        self._at_once = False
        self._end = end

    async def conduct(self, heed_signals: bool) -> Run:
        self._tell_of_start()
        for note in self._prepared.notes:
            self._teller.note(note)
        async with anyio.create_task_group() as beside:
            if heed_signals:
                beside.start_soon(self._heed_signals)
            beside.start_soon(self._report)
            try:
                self._folder.write_state(self._run_state.state(time.time()))
                if not self._prepared.finished:
                    await self._ask_all()
            except StorageError as error:
                self._stop("disk", str(error))
            except anyio.get_cancelled_exc_class():
                self._stop("signal", "cancelled")
                self._conclude()
                raise
            except BaseException as error:
                fault = _sole_fault(error)
                if fault is not None:
                    self._run_state.refused_with = fault.exit_code
                unquoted = type(error).__name__ if fault is None else None
                self._stop("error", str(fault or f"{type(error).__name__}: {error}"), unquoted)
                self._conclude()
                raise
            self._tell_of_substitutes()
            await self._finish()
            beside.cancel_scope.cancel()
        self._observer.tick(self._run_state)
        state = self._conclude()
        return Run(self._folder.path, state, state | self._run_state.unquoted())

    def _tell_of_start(self) -> None:
        run_state = self._run_state
        facts = {
            "planned": run_state.planned,
            "done": run_state.done,
            "endpoints": [endpoint.base_url or "local" for endpoint in self._endpoints],
            "models": self._job.models,
            "out": run_state.out,
            "version": __version__,
            "pid": os.getpid(),
        }
        self._teller.tell(Event("started", f"started; output in {run_state.out}", facts=facts, shown=False))

    def _tell_of_substitutes(self) -> None:
        """An evaluation must not mix models unseen."""
        found = self._run_state.substitutes
        if words := found.words():
            facts = {"substituted": found.rows}
            self._teller.tell(Event("substituted", words, found.words(named=False), "warning", facts))

    async def _ask_all(self) -> None:
        job, run_state, limits = self._job, self._run_state, self._job.limits
        bound = answer_limit(job.params | job.override)
        guess = None if bound is None else disk_space.guessed_row(bound)
        watch = disk_space.Watch(self._folder, limits.min_free_disk_mb, guess, job.journal.seal_mb)
        if short := watch.short():
            return self._stop("disk", short)
        if doubt := self._doubt(watch):
            self._teller.note(doubt, "warning")
        paces, slots, fewer = paces_of(job, self._endpoints)
        if fewer is not None:
            self._teller.note(fewer, "warning")
        outcome_writer = self._outcome_writer = OutcomeWriter(
            self._folder,
            self._prepared.segment,
            job.journal,
            slots=slots,
            carry_schema=self._prepared.carry_schema,
        )
        try:
            where = " and ".join(endpoint.base_url or "the local model" for endpoint in self._endpoints)
            until = "" if self._end is None else f", until {local(self._end.at.timestamp())}"
            self._teller.note(f"asking {where}, {slots} at a time at most{until}; output in {self._folder.path}")
            due = None if self._end is None else self._end.due
            prices = Prices(job)
            budget = Budget(limits, due, lambda: priced_by(prices.told()))
            run_state.prices = prices.told
            with self._scope:
                async with AsyncExitStack() as opened:
                    states = [
                        await opened.enter_async_context(self._endpoint(n, pacer)) for n, pacer in enumerate(paces)
                    ]
                    gate = self._gate = Gate(states, budget, max(256, 2 * slots), self._stop)
                    if self._run_state.stopped_by is not None:
                        gate.close()
                    accounting = Accounting(budget, run_state)
                    prober = Prober(gate, budget, accounting, run_state, prices)
                    known = EndpointPool(
                        states, gate, prober, run_state, self._stop, self._teller.tell,
                        wait_for_credit=limits.on_no_credit == "wait", max_wait_s=parse_duration(limits.max_wait),
                        max_outage_s=parse_duration(limits.max_outage),
                        models=job.models if job.names_every_model else (),
                    )  # fmt: skip
                    shapes = Shapes(job.answer.json_schema, lenient=job.answer.lenient, models=job.models_by_format)
                    endpoint_name = states[0].endpoint.name
                    frame = RowContext(
                        run_state.run_id, endpoint_name, self._plan.labels, shapes, job.answer.allow_empty
                    )
                    failures = Failures(limits.max_failures)
                    asking = Workers(
                        job.retry, frame, known, gate, budget, accounting, outcome_writer, failures, run_state, self._stop,
                        self._teller.tell, job.reasks, prices, job.models,
                    )  # fmt: skip
                    async with anyio.create_task_group() as beside:
                        beside.start_soon(self._store, outcome_writer)
                        beside.start_soon(gate.keep_time)
                        for advisory in (
                            self._count,
                            partial(self._watch_room, watch),
                            partial(self._measure, gate, known),
                            self._get_table_ready,
                        ):
                            beside.start_soon(self._unless_it_fails, advisory)
                        for state in states:
                            beside.start_soon(self._look_at_queue, state)
                        if due is not None:
                            beside.start_soon(self._end_at, due)
                        if limits.active_hours is not None:
                            await beside.start(self._keep_hours, gate, limits.active_hours)
                        await learn(beside, gate, states, job, prices, self._long_prompts.contexts)
                        beside.start_soon(self._fill)
                        await asking.everything(self._feed, slots)
                        beside.cancel_scope.cancel()
        finally:
            if self._at_once:
                outcome_writer.abandon()
            else:
                with anyio.CancelScope(shield=True):
                    await outcome_writer.finish()

    @asynccontextmanager
    async def _endpoint(self, number: int, pacer: Pacer) -> AsyncIterator[EndpointState]:
        entry = self._job.asked[number]
        async with (
            serving(entry, self._endpoints[number], self._warn, self._server_is_gone) as endpoint,
            Client(endpoint, connections=pacer.concurrency.most) as client,
        ):
            yield EndpointState(
                endpoint,
                pacer,
                client,
                CircuitBreaker(parse_duration(self._job.limits.max_outage)),
                self._job.answer.fallback,
            )

    def _warn(self, words: str) -> None:
        self._teller.note(words, "warning")

    def _server_is_gone(self, words: str, unquoted: str) -> None:
        """The local model's server cannot be kept up. Where there are other endpoints they go on."""
        if len(self._endpoints) > 1:
            self._warn(words)
        else:
            self._stop("endpoint", words, unquoted)

    async def _look_at_queue(self, state: EndpointState) -> None:
        """Where a server of one's own tells how many requests wait in it, tell those who decide how many it gets."""
        if state.pacer.concurrency.fixed or not state.endpoint.asks_metrics:
            return
        told = False
        while True:
            text = await state.client.metrics()
            waiting = None if text is None else queue_metrics.waiting(text)
            if waiting is None and not told:
                return
            told = True
            state.pacer.concurrency.queue(waiting)
            await anyio.sleep(_QUEUE_EVERY_S)

    async def _keep_hours(self, gate: Gate[EndpointState], hours: str, *, task_status: TaskStatus[None]) -> None:
        """Pause outside of the hours. Looks at the clock often: it may be set, or the machine sleep."""
        paused = False
        while True:
            active, change_s = until_change_s(hours, datetime.datetime.now())
            if paused == active:
                paused = not active
                for state in gate.endpoints:
                    if paused:
                        gate.pause(state, HOURS, f"it is not within limits.active_hours ({hours})", for_s=change_s)
                    else:
                        gate.resume(state, HOURS)
                self._tell_of_hours(hours, paused=paused)
            task_status.started()
            task_status = TASK_STATUS_IGNORED
            await anyio.sleep(min(change_s, _HOURS_EVERY_S))

    def _tell_of_hours(self, hours: str, *, paused: bool) -> None:
        facts = {"reason": HOURS}
        if paused:
            words = f"it is not within limits.active_hours ({hours}): nothing is sent until then"
            self._teller.tell(Event("paused", words, facts=facts))
        else:
            words = f"it is within limits.active_hours ({hours}) again"
            self._teller.tell(Event("resumed", words, facts=facts, shown=False))

    async def _measure(self, gate: Gate[EndpointState], known: EndpointPool) -> None:
        """Find the word for what bounds the run, and what it waits for; write a line of telemetry now and then."""
        telemetry, waits = Telemetry(time.monotonic()), Waits()
        due = time.monotonic() + _TELEMETRY_EVERY_S
        wall, cpu = time.monotonic(), time.thread_time()
        while True:
            await anyio.sleep(_TICK_S)
            now, spent = time.monotonic(), time.thread_time()
            starved = self._feed.starving > 0 and not self._feed.ended
            self._run_state.binding = binding(gate.bound, starved=starved, busy=(spent - cpu) / max(1e-9, now - wall))
            wall, cpu = now, spent
            before, self._run_state.waiting = self._run_state.waiting, waits.now(now, time.time(), gate)
            self._tell_of_waits(before, self._run_state.waiting)
            known.heed_waits(now)
            if now >= due:
                due = now + _TELEMETRY_EVERY_S
                line = telemetry.sample(now, time.time(), self._run_state, gate)
                try:
                    await anyio.to_thread.run_sync(self._folder.add_telemetry, line)
                except StorageError as error:  # nothing depends on it
                    self._teller.note(f"no more telemetry: {error}", "warning")
                    due = float("inf")

    async def _unless_it_fails(self, task: Callable[[], Awaitable[None]]) -> None:
        """Nothing depends on this task: what goes wrong in it must not cost what is in flight."""
        try:
            await task()
        except Exception as error:
            what = str(error) if isinstance(error, BatchflexError) else f"{type(error).__name__}: {error}"
            self._warn(f"the run goes on, with less to say of itself: {what}")

    def _tell_of_waits(self, before: list[Wait], waiting: list[Wait]) -> None:
        """Log the waits for limits and for first answers; of the others those tell who begin them."""
        keys = {(wait.endpoint, wait.reason) for wait in before}
        still = {(wait.endpoint, wait.reason) for wait in waiting}
        for wait in waiting:
            if wait.reason in _LOGGED_WAITS and (wait.endpoint, wait.reason) not in keys:
                until = "" if wait.until is None else f", until {local(wait.until)}"
                at = "" if wait.endpoint is None else f"{wait.endpoint}: "
                facts = {name: value for name, value in wait.facts(quoting=False).items() if name != "message"}
                self._teller.tell(
                    Event("paused", f"{at}{wait.message}{until}", f"{at}{wait.bare}{until}", "warning", facts)
                )
        for wait in before:
            if wait.reason in _LOGGED_WAITS and (wait.endpoint, wait.reason) not in still:
                facts = {
                    "endpoint": wait.endpoint,
                    "reason": wait.reason,
                    "lasted_s": round(time.time() - wait.since, 1),
                }
                words = f"{wait.endpoint or 'the run'} goes on after {facts['lasted_s']:,} s"
                self._teller.tell(Event("resumed", words, facts=facts, shown=False))

    async def _end_at(self, due: float) -> None:
        await anyio.sleep(max(0.0, due - time.monotonic()))
        self._stop("deadline", "the deadline has come")

    async def _watch_room(self, watch: disk_space.Watch) -> None:
        """Stop before the disk is full, and say early that it may become so."""
        while True:
            await anyio.sleep(_ROOM_EVERY_S)
            if short := await anyio.to_thread.run_sync(watch.short):
                self._stop("disk", short)
                return
            if doubt := await anyio.to_thread.run_sync(self._doubt, watch):
                self._teller.note(doubt, "warning")

    def _doubt(self, watch: disk_space.Watch) -> str | None:
        planned, done = self._run_state.planned, self._run_state.done
        return watch.doubt(None if planned is None else planned - done, done)

    async def _get_table_ready(self) -> None:
        """Import what makes the table of results while answers are awaited, once the first requests have gone."""
        await anyio.sleep(_TICK_S)
        await anyio.to_thread.run_sync(importlib.import_module, "batchflex.storage.results_table")

    async def _store(self, outcome_writer: OutcomeWriter) -> None:
        try:
            await outcome_writer.run()
        except* StorageError as group:
            self._stop("disk", str(group.exceptions[0]))

    async def _fill(self) -> None:
        try:
            await self._feed.fill()
            self._long_prompts.end()
            for note in self._plan.notes():
                self._teller.note(note)
            if self._feed.ended:
                self._run_state.planned = self._feed.planned  # exact, whatever was counted before
        except InputError as error:
            self._stop("input", str(error))

    async def _count(self) -> None:
        if self._run_state.planned is None:
            counted = await anyio.to_thread.run_sync(self._plan.count, abandon_on_cancel=True)
            if self._run_state.planned is None:
                self._run_state.planned = counted

    def _stop(self, reason: StopReason, message: str = "", unquoted: str | None = None) -> None:
        """Admit nothing more, and let what is in flight finish within the grace. ``unquoted`` is the message without words of a
        server, if it has any."""
        if self._run_state.stopped_by is not None:
            return
        self._run_state.stopped_by = reason
        self._run_state.message = message or None
        self._run_state.message_unquoted = guarded(message if unquoted is None else unquoted) or None
        if reason in VOIDING:
            self._void_failures()
        self._feed.stop()
        if self._gate is not None:
            self._gate.close()
        grace_s = self._job.limits.grace_s
        if reason == "deadline" and self._end is not None:
            # It stops admitting so early that answers may still come until then.
            grace_s = max(grace_s, self._end.due - time.monotonic())
        self._scope.deadline = anyio.current_time() + grace_s
        in_flight = self._gate.in_flight if self._gate is not None else 0
        message, bare = (f"stopping ({reason}): {words}" for words in (message, self._run_state.message_unquoted))
        if is_awaited := reason == "signal" and in_flight > 0:
            message = bare = (
                f"stopping: what is in flight ({in_flight:,}) may finish within {self._job.limits.grace_s:g} s; "
                "interrupt again to end at once"
            )
        facts = {"stopped_by": reason, "in_flight": in_flight}
        self._teller.tell(Event("stopped", message, bare, "warning", facts, shown=is_awaited))

    def _void_failures(self) -> None:
        """What has failed in this run proves nothing against the rows."""
        try:
            if self._run_state.has_failures and self._outcome_writer is not None:
                self._outcome_writer.void(self._run_state.run_id)
        except StorageError as error:
            self._teller.note(f"that rows failed in this run counts against them: {error}", "warning")
            return
        self._run_state.void()

    async def _heed_signals(self) -> None:
        with anyio.open_signal_receiver(*signals.ending()) as received:
            async for number in received:
                if number == signal.SIGHUP and self._run_state.signal is not None:
                    continue  # a terminal that is closed sends one, and its shell another
                if self._run_state.signal is None:
                    self._run_state.signal = int(number)
                    self._stop("signal", f"interrupted by {signal.Signals(number).name}")
                else:
                    self._at_once = True
                    lost = self._gate.in_flight if self._gate is not None else 0
                    if lost:
                        message = (
                            f"{self._run_state.message}, twice: {lost:,} in flight were not waited for; they may be charged for, "
                            "and will be asked again"
                        )
                        self._run_state.message = self._run_state.message_unquoted = message
                    self._scope.cancel()

    async def _report(self) -> None:
        due = time.monotonic() + _TICK_S
        while True:
            await anyio.sleep(_TICK_S)
            if self._gate is not None:
                self._run_state.in_flight, self._run_state.backing_off = self._gate.in_flight, self._gate.backing_off
            self._observer.tick(self._run_state)
            if time.monotonic() >= due:
                due = time.monotonic() + _STATE_EVERY_S
                try:
                    await anyio.to_thread.run_sync(self._write_state)
                except StorageError as error:
                    self._stop("disk", str(error))

    def _write_state(self) -> None:
        self._run_state.plan = self._plan.identity()
        self._folder.write_state(self._run_state.state(time.time()))

    async def _finish(self) -> None:
        """Make the table. Derived from the parts, so that giving it up loses nothing."""
        if self._at_once:
            return
        self._run_state.in_flight = 0
        if self._prepared.complete:
            return
        try:
            await anyio.to_thread.run_sync(self._write_results)
        except StorageError as error:
            return self._stop("disk", str(error))
        except FolderError as error:
            return self._stop("disk", f"the table of results could not be made: {error}")
        try:
            await anyio.to_thread.run_sync(self._keep_snapshot)
        except (StorageError, FolderError) as error:  # nothing depends on it
            self._teller.note(f"the next run will look longer for what is done: {error}", "warning")

    def _write_results(self) -> None:
        prepared, folder, plan = self._prepared, self._folder, self._plan
        variables, fields = plan.job.sweep.variables, declared(plan.job.schemas)
        completion_marker.make(
            folder, variables, plan.labels, fields, prepared.done, prepared.segment, self._settled(), prepared.layout
        )

    def _keep_snapshot(self) -> None:
        from ..plan import snapshot  # brings polars, which the first request does without

        prepared, plan = self._prepared, self._plan
        layout = Layout() if prepared.kept else plan.layout(prepared.layout.files)
        now = snapshot.Now(plan.labels, plan.per_item, layout, plan.job.job.retry_failed)
        snapshot.keep(self._folder, now, prepared.snapshot, prepared.segment)

    def _settled(self) -> Settled | None:
        """For the next run: what it need not find out if nothing has changed."""
        identity, diff = self._plan.identity(), self._prepared.diff
        planned = self._feed.planned if self._feed.ended else diff and diff.planned
        if identity is None or planned is None or self._prepared.kept:
            return None
        rows = {str(status): rows for status, rows in self._run_state.rows.items()}
        return Settled(identity, self._job.input.limit, planned, part_files.identity(self._folder.parts), rows)

    def _conclude(self) -> dict[str, Any]:
        state = self._run_state.state(time.time(), ended=True)
        try:
            self._folder.write_state(state)
            self._folder.add_history(state)
        except StorageError as error:
            self._teller.note(str(error), "error")
        return state
