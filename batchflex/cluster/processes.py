"""A job run whose rows are sent by several worker processes of this machine.

The plan is made and the rows are read here; they go to whichever worker has room. What bounds the run is decided here for all
of them together: quotas and budgets are lent in portions, concurrency is divided, failures are counted, and what stops one stops
all. A worker keeps answers in a journal of its own before it reports them; one that is killed loses none, and another goes on
with what it had not finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from ..config import EndpointsEntry, Job
from ..core import Event, JobError, Message, Outcome, Request, StopReason
from ..endpoint import Spacing, Window
from ..engine import BudgetLimit, Execution, Failures, LocalLessor, unless_it_fails
from ..protocol import REASK_STATUSES
from ..storage import RunState, disk_space, journal, part_index, part_numbers, writer
from . import frames
from .worker_process import WorkerProcess

_LENT_S = 0.1
_MOST_AT_ONCE = 200  # rows in a frame
_MOST_DEATHS = 3  # of workers, with no row final in between
_SHARE_OF_BUDGET = 0.02  # what a worker leases at a time, of the whole
_BUDGETS = ("budget_usd", "budget_tokens", "budget_requests")
_PARENTS_OWN = {"started", "stopped"}  # events


def on_processes(job: Job, processes: int) -> Callable[..., Execution]:
    """What sends the rows of a job run on so many processes: for ``JobRun(…, executed_by=…)``.

    :raises JobError: if the job cannot be run so.
    """
    for entry in job.endpoint_entries:
        if entry.base_url is None and entry.name == "local":
            raise JobError(
                "--processes is for endpoints with an address: the local model has one server of its own already"
            )
        place = "limits.concurrency" if isinstance(entry.concurrency, int) else "limits.max_concurrency"
        most = entry.concurrency if isinstance(entry.concurrency, int) else job.limits.max_concurrency
        if most < processes:
            requests = "the 1 request" if most == 1 else f"the {most} requests"
            raise JobError(
                f"--processes {processes} is more than {requests} that may be in flight at a time ({place}); each process needs "
                "one at least"
            )
    return partial(ProcessesExecution, processes=processes)


class ProcessesExecution(Execution):
    """A job run that hands its rows to worker processes."""

    def __init__(self, *given: Any, processes: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self._processes = processes
        self._workers: dict[int, WorkerProcess] = {}
        self._ended_counts: list[Mapping[str, Any]] = []  # of workers that are gone
        self._failures = Failures(self._job.limits.max_failures)
        self._lessors: dict[frames.Limit, tuple[LocalLessor, float]] = self._lent()
        self._next_number = self._prepared.segment
        self._before = dict(self._prepared.before)
        self._asked = 0 if self._prepared.again is None else self._prepared.again.asked
        self._is_proven = anyio.Event()
        self._deaths = 0
        self._said: set[str] = set()
        self._next_folder = 0

    def _lent(self) -> dict[frames.Limit, tuple[LocalLessor, float]]:
        """The limits that the workers share, each with the portion that one leases at a time."""
        limits = self._job.limits
        found: dict[frames.Limit, tuple[LocalLessor, float]] = {}
        by_account: dict[object, list[EndpointsEntry]] = {}
        for number, endpoint in enumerate(self._engine.endpoints):
            by_account.setdefault(endpoint.account or number, []).append(self._job.endpoint_entries[number])
        for sharing in by_account.values():
            rpm = min((entry.rpm for entry in sharing if entry.rpm is not None), default=None)
            tpm = min((entry.tpm for entry in sharing if entry.tpm is not None), default=None)
            if rpm:
                spacing = Spacing(rpm, lent_s=_LENT_S)
                found["rpm", sharing[0].name] = LocalLessor(spacing, _LENT_S), max(1.0, spacing.at_once)
            if tpm:
                found["tpm", sharing[0].name] = LocalLessor(Window(tpm, _LENT_S), _LENT_S), tpm / 600
        for name in _BUDGETS:
            if (ceiling := getattr(limits, name)) is not None:
                lessor = LocalLessor(BudgetLimit(ceiling, name), 1.0)
                found[name, None] = lessor, ceiling * _SHARE_OF_BUDGET / self._processes
        return found

    @property
    def _in_flight(self) -> int:
        return self.run_state.in_flight

    async def _send_and_store(self, watch: disk_space.Watch) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as beside:
                    for advisory in (self._monitor.count, partial(self._monitor.watch_disk, watch), self._import_table):
                        beside.start_soon(unless_it_fails, self._warn, advisory)
                    if self._deadline is not None:
                        beside.start_soon(self._end_at, self._deadline.due)
                    beside.start_soon(self._fill)
                    async with anyio.create_task_group() as workers:
                        for number in range(self._processes):
                            workers.start_soon(self._keep_working, number)
                    beside.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(writer.recover, self._folder, self._prepared.carry_schema)
        self._sum_up()
        if self.run_state.stopped_by is None and self.run_state.left:
            self.stop("error", f"{self.run_state.left:,} rows are without an outcome; run the same command again")

    async def _keep_working(self, number: int) -> None:
        """See to one worker's part until there is nothing left, with another process where one dies."""
        unfinished: list[Request] = []
        while True:
            worker = WorkerProcess(self._folder.worker(self._next_folder), unfinished)
            self._next_folder += 1
            self._workers[number] = worker
            try:
                await self._serve(worker, number)
            finally:
                del self._workers[number]
                if worker.counts is not None:
                    self._ended_counts.append(
                        {**worker.counts, "in_flight": 0, "backing_off": 0, "waiting": [], "binding": None}
                    )
            if worker.has_ended:
                if worker.fault is not None:
                    self.stop("error", f"a worker process cannot go on: {worker.fault}")
                return
            unfinished = await anyio.to_thread.run_sync(self._recovered, worker)
            for limit, lease in worker.leases:  # what of it was used is not known
                await self._lessors[limit][0].settle(lease, lease.units)
            self._deaths += 1
            self._sum_up()
            if self.run_state.stopped_by is not None:
                return
            how = worker.ending()
            if self._deaths >= _MOST_DEATHS:
                self.stop("error", f"worker processes end again and again ({how}); every answer is kept")
                return
            rows = f"{len(unfinished):,} row{'' if len(unfinished) == 1 else 's'}"
            self._warn(f"a worker process has ended ({how}); another one goes on with its {rows}")

    async def _serve(self, worker: WorkerProcess, number: int) -> None:
        async with worker.running(self._setup(worker, number)), anyio.create_task_group() as tasks:
            tasks.start_soon(self._feed, worker, number)
            async for frame in worker.frames():
                self._hear(worker, frame, tasks)
            tasks.cancel_scope.cancel()

    def _setup(self, worker: WorkerProcess, number: int) -> frames.Setup:
        run_state, schema = self.run_state, self._prepared.carry_schema
        return frames.Setup(
            self._job.resolved(), str(self._folder.path), int(worker.folder.path.name), number, self._processes,
            self._taken_number(), run_state.run_id, run_state.plan, self._plan.labels,
            None if schema is None else schema.serialize().to_pybytes(),
            {limit: portion for limit, (_, portion) in self._lessors.items()},
            None if self._deadline is None else max(0.0, self._deadline.due - time.monotonic()),
        )  # fmt: skip

    def _taken_number(self) -> int:
        """The number of another segment: whoever asks later has the higher one."""
        self._next_number += 1
        return self._next_number - 1

    async def _feed(self, worker: WorkerProcess, number: int) -> None:
        """Give it rows as it takes them, what another has not finished before all else."""
        if number:
            await self._is_proven.wait()  # one request is enough to learn that a key is wrong
        while self.run_state.stopped_by is None:
            await worker.has_room()
            if not worker.first and (request := await self._queue.take()) is not None:
                worker.first.append(request)
            if not worker.first:
                break
            rows: list[Request] = []
            most = min(_MOST_AT_ONCE, worker.room)
            while len(rows) < most or not rows:
                further = worker.first.popleft() if worker.first else self._queue.take_now()
                if further is None:
                    break
                rows.append(further)
            worker.give(rows)
        worker.post(frames.End())

    def _hear(self, worker: WorkerProcess, frame: Any, tasks: Any) -> None:
        if isinstance(frame, frames.Progress):
            self._note_progress(worker, frame)
        elif isinstance(frame, frames.Ask):
            tasks.start_soon(self._grant, worker, frame)
        elif isinstance(frame, frames.Settled):
            worker.leases.remove((frame.limit, frame.lease))
            tasks.start_soon(self._lessors[frame.limit][0].settle, frame.lease, frame.used)
        elif isinstance(frame, frames.NextSegment):
            worker.numbers.append(self._taken_number())
            worker.post(frames.Segment(worker.numbers[-1]))
        elif isinstance(frame, frames.Happened):
            self._tell(frame.event)
        elif isinstance(frame, frames.Stopped):
            self.stop(frame.reason, frame.message)
        elif isinstance(frame, frames.Ended):
            worker.has_ended, worker.fault = True, frame.fault
            self._is_proven.set()

    async def _grant(self, worker: WorkerProcess, asked: frames.Ask) -> None:
        lease = await self._lessors[asked.limit][0].ask(asked.least, asked.units)
        if lease is not None:
            worker.leases.append((asked.limit, lease))
        worker.post(frames.Granted(asked.number, lease))

    def _note_progress(self, worker: WorkerProcess, progress: frames.Progress) -> None:
        worker.counts = progress.counts
        for key in progress.final:
            request = worker.outstanding.pop(key, None)
            if request is not None and request.prefix is not None:
                self._queue.back(request)
            self._deaths = 0
        worker.took(progress.taken)
        if progress.is_proven:
            self._is_proven.set()
        self._sum_up()
        self._failures.add_others(progress.answered, progress.invalid)
        for outcome in progress.failed:
            if useless := self._failures.add(outcome):
                self.stop("failures", useless)

    def _tell(self, event: Event) -> None:
        """What a worker tells, once where several tell the same."""
        if event.name in _PARENTS_OWN:
            return
        if event.name == "note":
            if event.message in self._said:
                return
            self._said.add(event.message)
        self._emitter.emit(event)

    def _sum_up(self) -> None:
        there = [worker.counts for worker in self._workers.values() if worker.counts is not None]
        self.run_state.sum_up(self._before, self._asked, [*self._ended_counts, *there])

    def stop(self, reason: StopReason, message: Message | str) -> None:
        is_first = self.run_state.stopped_by is None
        super().stop(reason, message)
        if is_first:
            self._is_proven.set()
            # Until their answers are sealed as well; what is not waited for then is in their journals.
            for worker in self._workers.values():
                worker.post(frames.Stop(reason, self.run_state.message or Message.of(message)))

    def _recovered(self, worker: WorkerProcess) -> list[Request]:
        """The rows that a dead worker has not finished. What it had kept and not reported yet is counted. Blocks."""
        found: dict[bytes, Outcome] = {}
        for number in journal.segments(worker.folder.journal):
            for outcome in journal.read(journal.segment_path(worker.folder.journal, number)):
                found[bytes.fromhex(outcome.key)] = outcome
        there = set(part_numbers.part_numbers(self._folder.parts))
        sealed = [number for number in there if int(number) in worker.numbers]
        sealed_keys: set[bytes] = set()
        for part in part_index.read_keys(self._folder.parts, [], sealed):
            sealed_keys |= {
                hi.to_bytes(8, "little") + lo.to_bytes(8, "little") for hi, lo in part.select("hi", "lo").iter_rows()
            }
        uncounted = RunState("", "", "", time.time(), {})
        left = list(worker.first)
        for key, request in worker.outstanding.items():
            kept_last = found.get(key)
            if kept_last is None:
                if key not in sealed_keys:
                    left.append(request)
            elif kept_last.status in REASK_STATUSES:
                left.append(msgspec.structs.replace(request, before=kept_last))
            else:
                uncounted.add(kept_last, request.stands)
                uncounted.requests_sent += kept_last.attempts
                uncounted.answered += kept_last.status != "failed"
                uncounted.prompt_tokens += kept_last.prompt_tokens or 0
                uncounted.completion_tokens += kept_last.completion_tokens or 0
        self._ended_counts.append(uncounted.snapshot())
        writer.seal_all(worker.folder, self._prepared.carry_schema)
        return left
