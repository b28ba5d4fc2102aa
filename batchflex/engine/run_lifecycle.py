"""What a job run does in the folder it holds: sends what is left, stores the outcomes, makes the table."""

from __future__ import annotations

import datetime
import importlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from typing import Any, NamedTuple

import anyio
import anyio.from_thread
import anyio.to_thread

from ..config import Job, local
from ..core import (
    Emitter,
    Event,
    FolderError,
    InputError,
    Message,
    StopReason,
    StorageError,
    __version__,
    guarded,
    signals,
    sole_fault,
)
from ..endpoint import LongPrompts, Prices
from ..plan import Plan, Prepared
from ..protocol import VOIDING, Shapes
from ..storage import Folder, Helper, OutcomeWriter, RowContext, RunState, disk_space, priced_by
from .accounting import Accounting
from .budget import Budget
from .endpoint_pool import EndpointPool
from .engine import Engine
from .engine_member import Member
from .gate import Gate
from .monitor import Monitor, unless_it_fails
from .probes import Prober
from .queue import RequestQueue
from .run_result import Observer, Run
from .warm_up import learn
from .workers import OnFinal, OnRow, Workers

_TABLE_IMPORT_S = 0.5
_AWAITED_TABLE = (
    "stopping: every answer is kept; the table of results is being made; interrupt again to end without a new one"
)


class Deadline(NamedTuple):
    """A moment, by the clock on the wall and by the monotonic one."""

    at: datetime.datetime
    due: float


class _NoTable(Exception):
    """The run ends without a new table of results."""


class Execution:
    """One run of ``job`` in a folder that is held. ``engine`` is one that is open, or, if ``is_own``, one to open while it asks.

    While :meth:`conduct` goes on it can be paused, resumed and stopped.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan,
        folder: Folder,
        prepared: Prepared,
        engine: Engine,
        observer: Observer,
        run_id: str,
        deadline: Deadline | None,
        *,
        is_own: bool = True,
        weight: float = 1.0,
        on_row: OnRow | None = None,
    ) -> None:
        self._job = job
        self._plan = plan
        self._folder = folder
        self._prepared = prepared
        self._engine = engine
        self._observer = observer
        self._deadline = deadline
        self._has_own_engine = is_own
        self._weight = weight
        self._on_row = on_row
        run_state = RunState(run_id, job.job.name, folder.shown, time.time(), prepared.before, prepared.again)
        run_state.plan = plan.identity()
        if job.job.results == "folder":
            run_state.results = "results/"
        if prepared.diff is not None:
            run_state.planned = prepared.diff.planned
        elif prepared.empty:
            run_state.planned = 0
        self.run_state = run_state
        self._emitter = Emitter(observer, job.job.name, run_id)
        self._monitor = Monitor(folder, plan, run_state, observer, self._emitter, self.stop)
        self._scope = anyio.CancelScope()
        self._long_prompts = LongPrompts(self._warn)
        self._queue = self._new_queue()
        self._gate: Gate | None = None
        self._outcome_writer: OutcomeWriter | None = None
        self._helper = Helper(self._on_helper_gone)
        self._paused_for: str | None = None
        self._makes_table = self._at_once = False
        # For who has a part of a run: the number of each further segment, and who hears which rows are final.
        self._next_segment: Callable[[], Awaitable[int]] | None = None
        self._on_final: OnFinal | None = None

    def _new_queue(self) -> RequestQueue:
        prepared = self._prepared
        return RequestQueue(prepared.blocks, prepared.sort_out, prepared.passed, on_read=self._long_prompts.look)

    async def conduct(self, handle_signals: bool) -> Run:
        # As soon and as long as can be: an exception that a signal raises in an event loop ends up anywhere.
        with signals.received() if handle_signals else nullcontext() as received:
            self._emit_start()
            self._warn_of_slips()
            for note in self._prepared.notes:
                self._emitter.note(note)
            async with anyio.create_task_group() as beside:
                if received is not None:
                    beside.start_soon(self._handle_signals, received)
                beside.start_soon(self._monitor.report)
                await self._to_the_end()
                beside.cancel_scope.cancel()
            self._observer.tick(self.run_state)
            state = self._conclude()
        return Run(self._folder.path, state, state | self.run_state.unquoted())

    async def _to_the_end(self) -> None:
        try:
            self._folder.write_state(self.run_state.state(time.time()))
            if not self._prepared.finished:
                async with self._helper:  # it ends before the table is made: both at once take the most memory
                    await self._send_all()
        except StorageError as error:
            self.stop("disk", str(error))
        except anyio.get_cancelled_exc_class():
            self.stop("signal", "cancelled")
            self._conclude()
            raise
        except BaseException as error:
            fault = sole_fault(error)
            if fault is not None:
                self.run_state.refused_with = fault.exit_code
            kind = type(error).__name__
            self.stop("error", Message(f"{kind}: {error}", kind) if fault is None else str(fault))
            self._conclude()
            raise
        self._emit_substitutes()
        await self._finish()

    def _emit_start(self) -> None:
        run_state = self.run_state
        facts = {
            "planned": run_state.planned,
            "done": run_state.done,
            "endpoints": [endpoint.base_url or "local" for endpoint in self._engine.endpoints],
            "models": self._job.models,
            "out": run_state.out,
            "version": __version__,
            "pid": os.getpid(),
        }
        self._emitter.emit(Event("started", f"started; output in {run_state.out}", facts=facts, shown=False))

    def _emit_substitutes(self) -> None:
        """An evaluation must not mix models unnoticed."""
        found = self.run_state.substitutes
        if words := found.words():
            facts = {"substituted": found.rows}
            self._emitter.emit(Event("substituted", words, found.words(named=False), "warning", facts))

    def _warn_of_slips(self) -> None:
        for slip in self._plan.slips():
            self._warn(slip)

    def _warn(self, words: str) -> None:
        self._emitter.note(words, "warning")

    def _on_helper_gone(self, why: str) -> None:
        ended = f"the process that writes its Parquet files has ended ({why or 'it could not be started'})"
        anyio.from_thread.run_sync(self._warn, f"{ended}; the run writes them itself from now on")

    async def _send_all(self) -> None:
        engine, watch = self._engine, self._disk_watch()
        if short := watch.short():
            return self.stop("disk", short)
        if doubt := self._monitor.disk_warning(watch):
            self._warn(doubt)
        if engine.note is not None:
            self._warn(engine.note)
        where = " and ".join(endpoint.base_url or "the local model" for endpoint in engine.endpoints)
        until = "" if self._deadline is None else f", until {local(self._deadline.at.timestamp())}"
        self._emitter.note(f"asking {where}, {engine.slots} at a time at most{until}; output in {self.run_state.out}")
        await self._send_and_store(watch)

    def _disk_watch(self) -> disk_space.Watch:
        job = self._job
        bound = job.route.answer_limit(job.params | job.override)
        guess = None if bound is None else disk_space.guessed_row(bound)
        return disk_space.Watch(self._folder, job.limits.min_free_disk_mb, guess, job.journal.seal_mb)

    async def _send_and_store(self, watch: disk_space.Watch) -> None:
        """Send what is left, and see each outcome into the folder."""
        job, engine = self._job, self._engine
        writer = self._outcome_writer = OutcomeWriter(
            self._folder,
            self._prepared.segment,
            job.journal,
            slots=engine.slots,
            carry_schema=self._prepared.carry_schema,
            helper=self._helper,
            left=lambda: self.run_state.left,
            next_number=self._next_segment,
        )
        try:
            with self._scope:
                async with AsyncExitStack() as opened:
                    if self._has_own_engine:
                        await opened.enter_async_context(engine)
                    models = frozenset(job.models if job.names_every_model else ())
                    member = Member(self.run_state, self.stop, self._emitter.emit, models)
                    pool = await opened.enter_async_context(engine.attended(member))
                    await self._send_rows(pool, member, writer, watch)
        finally:
            if self._at_once:
                writer.abandon()
            else:
                with anyio.CancelScope(shield=True):
                    await writer.finish()

    async def _send_rows(
        self, pool: EndpointPool, member: Member, writer: OutcomeWriter, watch: disk_space.Watch
    ) -> None:
        job, engine, run_state, monitor = self._job, self._engine, self.run_state, self._monitor
        due = None if self._deadline is None else self._deadline.due
        prices = Prices(job)
        run_state.prices = prices.used
        budget = Budget(job.limits, due, lambda: priced_by(prices.used()), engine.budget_limit)
        gate = Gate(engine.admission, budget, max(256, 2 * engine.slots), self.stop, self._weight)
        self._gate = monitor.gate = gate
        if self._paused_for is not None:
            gate.pause(self._paused_for)
        if run_state.stopped_by is not None:
            gate.close()
        accounting = Accounting(budget, prices, run_state)
        prober = member.prober = Prober(job.route, gate, accounting, run_state)
        shapes = Shapes(job.answer.json_schema, lenient=job.answer.lenient, models=job.models_by_format)
        endpoint_name = engine.states[0].endpoint.name
        context = RowContext(
            run_state.run_id, endpoint_name, self._plan.labels, shapes, job.answer.allow_empty, job.route
        )
        workers = Workers(job, context, pool, member, prober, accounting, writer, self._on_row, self._on_final)
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._store, writer)
            for advisory in (
                monitor.count,
                partial(monitor.watch_disk, watch),
                partial(monitor.measure, gate, self._queue, pool, workers.files),
                self._import_table,
            ):
                beside.start_soon(unless_it_fails, self._warn, advisory)
            if due is not None:
                beside.start_soon(self._end_at, due)
            await learn(beside, gate, engine.states, job, prices, self._long_prompts.contexts)
            beside.start_soon(self._fill)
            await workers.run(self._queue, engine.slots)
            beside.cancel_scope.cancel()

    async def _end_at(self, due: float) -> None:
        await anyio.sleep(max(0.0, due - time.monotonic()))
        self.stop("deadline", "the deadline has come")

    async def _import_table(self) -> None:
        """Import what makes the table of results while answers are awaited, once the first requests have gone."""
        await anyio.sleep(_TABLE_IMPORT_S)
        await anyio.to_thread.run_sync(importlib.import_module, "batchflex.storage.results_table")

    async def _store(self, outcome_writer: OutcomeWriter) -> None:
        try:
            await outcome_writer.run()
        except* StorageError as group:
            self.stop("disk", str(group.exceptions[0]))

    async def _fill(self) -> None:
        try:
            await self._queue.fill()
            self._long_prompts.end()
            self._warn_of_slips()
            for note in self._plan.notes():
                self._emitter.note(note)
            if self._queue.ended:
                self.run_state.planned = self._queue.planned  # exact, whatever was counted before
        except InputError as error:
            self.stop("input", str(error))

    # ----------------------------------------------------------------------------------------- paused, stopped, ended

    def pause(self, why: str) -> None:
        """Send nothing more until :meth:`resume`."""
        self._paused_for = why
        if self._gate is not None:
            self._gate.pause(why)

    def resume(self) -> None:
        self._paused_for = None
        if self._gate is not None:
            self._gate.resume()

    def stop(self, reason: StopReason, message: Message | str) -> None:
        """Admit nothing more, and let what is in flight finish within the grace."""
        run_state = self.run_state
        if run_state.stopped_by is not None:
            return
        run_state.stopped_by = reason
        message = Message.of(message)
        run_state.message = message = Message(message.text, guarded(message.unquoted))
        if reason in VOIDING:
            self._void_failures()
        self._queue.stop()
        if self._gate is not None:
            self._gate.close()
        grace_s = self._job.limits.grace_s
        if reason == "deadline" and self._deadline is not None:
            # It stops admitting so early that answers may still come until then.
            grace_s = max(grace_s, self._deadline.due - time.monotonic())
        self._scope.deadline = anyio.current_time() + grace_s
        in_flight = self._in_flight
        message = f"stopping ({reason}): " + message
        is_awaited = reason == "signal" and (in_flight > 0 or self._makes_table)
        if is_awaited:
            message = Message.of(
                _AWAITED_TABLE
                if self._makes_table
                else (
                    f"stopping: what is in flight ({in_flight:,}) may finish within {self._job.limits.grace_s:g} s; "
                    "interrupt again to end at once"
                )
            )
        facts = {"stopped_by": reason, "in_flight": in_flight}
        self._emitter.emit(Event("stopped", message.text, message.unquoted, "warning", facts, shown=is_awaited))

    @property
    def _in_flight(self) -> int:
        return self._gate.in_flight if self._gate is not None else 0

    def _void_failures(self) -> None:
        """What has failed in this run proves nothing against the rows."""
        try:
            if self.run_state.has_failures and self._outcome_writer is not None:
                self._outcome_writer.void(self.run_state.run_id)
        except StorageError as error:
            self._warn(f"that rows failed in this run counts against them: {error}")
            return
        self.run_state.void()

    async def _handle_signals(self, received: AsyncIterator[signal.Signals]) -> None:
        async for number in received:
            if self.run_state.signal is None:
                self.run_state.signal = int(number)
                self.stop("signal", f"interrupted by {signal.Signals(number).name}")
            elif number != signal.SIGHUP:  # a terminal that is closed sends one, and its shell another
                self._end_at_once()

    def _end_at_once(self) -> None:
        self._at_once = True
        lost = self._in_flight
        if self._makes_table:
            what = "every answer is kept, but not in the table of results yet: the same command makes it anew"
        else:
            what = f"{lost:,} in flight were not waited for; they may be charged for, and will be asked again"
        if lost or self._makes_table:
            again = ", twice: " if self.run_state.stopped_by == "signal" else "; interrupted then: "
            self.run_state.message = Message.of(self.run_state.message or "") + again + what
        self._scope.cancel()

    # ---------------------------------------------------------------------------------------------------- the table

    async def _finish(self) -> None:
        """Make the table. Derived from the parts, so that ending without it loses nothing."""
        if self._at_once:
            return
        self.run_state.in_flight = 0
        if self._prepared.complete:
            return
        self._makes_table = True
        try:
            await anyio.to_thread.run_sync(self._write_results)
        except _NoTable:
            return
        except StorageError as error:
            return self.stop("disk", str(error))
        except FolderError as error:
            return self.stop("disk", f"the table of results could not be made: {error}")
        finally:
            self._makes_table = False
        if self._at_once:
            return
        try:
            await anyio.to_thread.run_sync(self._keep_snapshot)
        except (StorageError, FolderError) as error:  # nothing depends on it
            self._warn(f"the next run will look longer for what is done: {error}")

    def _unless_ended(self) -> None:
        """Called between the steps of making the table, in its thread."""
        if self._at_once:
            raise _NoTable

    def _write_results(self) -> None:
        from ..plan import completion_marker  # brings pyarrow and polars, which the first request does without

        folder, plan, prepared = self._folder, self._plan, self._prepared
        planned = self._queue.planned if self._queue.ended else None
        marker = completion_marker.marker_of(folder, plan, prepared, planned, self.run_state.rows)
        as_folder = self._job.job.results == "folder"
        completion_marker.make(folder, plan, prepared, marker, as_folder=as_folder, between=self._unless_ended)

    def _keep_snapshot(self) -> None:
        from ..plan import completion_marker

        completion_marker.keep_snapshot(self._folder, self._plan, self._prepared)

    def _conclude(self) -> dict[str, Any]:
        state = self.run_state.state(time.time(), ended=True)
        try:
            self._folder.write_state(state)
            self._folder.add_history(state)
        except StorageError as error:
            self._emitter.note(str(error), "error")
        return state
