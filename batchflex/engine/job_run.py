"""A job run: what is handed to an engine and ends. It holds its folder and makes the plan; the rest is its execution."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from ..config import Job, deadline_s
from ..core import BatchflexError, Emitter, JobError, StorageError, sole_fault
from ..endpoint import default_model, resolve_all
from ..plan import FrameInput, Plan, Prepared, prepare
from ..storage import Attempt, Folder, RunState, catch_up
from .engine import Engine
from .run_lifecycle import Deadline, Execution
from .run_result import Nobody, Observer, Run
from .workers import OnRow

if TYPE_CHECKING:
    import polars as pl

    from ..storage import remote_output
    from .retry_rows import Retry

Preparing = Callable[[Plan, Folder], Prepared]


def _deadline(job: Job, attempt: Attempt) -> Deadline | None:
    """That of the run, not of its preparation."""
    if job.limits.deadline is None:
        return None
    left_s = deadline_s(job.limits.deadline, attempt.moment)
    return Deadline(attempt.moment + datetime.timedelta(seconds=left_s), attempt.monotonic_s + left_s)


def _access(job: Job) -> list[dict[str, Any]]:
    """All that decides what is sent to which endpoint, and with which key."""
    limits = {"concurrency", "rpm", "tpm"}
    return [{**entry.model_dump(exclude=limits), "fallback": job.answer.fallback} for entry in job.endpoint_entries]


def _remote(folder: Folder, job: Job) -> remote_output.RemoteOutput | None:
    """The output in a bucket that a folder is the copy of."""
    if not folder.is_copy:
        return None
    from ..storage import remote_output

    return remote_output.of(folder, job.bucket, job.storage)


class JobRun:
    """One run of a job, handed to an engine by :meth:`run`; it can be paused, resumed and cancelled from its event loop.

    Rows come from ``frame``, if given, else from ``input.path``. If it is ``retried``, the plan is that of the first run, and the
    retry finds what to send. ``attempt`` learns when the run has begun, and the deadline counts from when that was made. ``then``
    is called with the run that has ended while the folder is still held. ``weight`` is its share of the engine beside other job
    runs. ``on_row`` is called with each row of this run that is final, once it is in the journal, and must return quickly.
    ``executed_by`` is another :class:`Execution` to send what is left.
    ``run_state`` has its counts from when it has begun.
    """

    def __init__(
        self,
        job: Job,
        *,
        retried: Retry | None = None,
        frame: pl.DataFrame | FrameInput | None = None,
        observer: Observer | None = None,
        attempt: Attempt | None = None,
        then: Callable[[Run, Folder], Awaitable[None]] | None = None,
        weight: float = 1.0,
        on_row: OnRow | None = None,
        executed_by: type[Execution] | Callable[..., Execution] = Execution,
    ) -> None:
        self.job = job
        self._executed_by = executed_by
        self.run_state: RunState | None = None
        self._frame = frame
        self._observer = observer or Nobody()
        self._retried = retried
        self._attempt = attempt
        self._then = then
        self._weight = weight
        self._on_row = on_row
        self._execution: Execution | None = None
        self._paused_for: str | None = None
        self._cancelled_for: str | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it sends requests, or makes its table of results: before that it prepares, after that it is scored."""
        return self._execution is not None

    def pause(self, why: str = "the run is paused") -> None:
        """Send nothing more until :meth:`resume`. What is in flight is answered and kept; the deadline goes on. ``why`` is a
        sentence for whoever asks what the run waits for."""
        self._paused_for = why
        if self._execution is not None:
            self._execution.pause(why)

    def resume(self) -> None:
        self._paused_for = None
        if self._execution is not None:
            self._execution.resume()

    def cancel(self, why: str = "cancelled") -> None:
        """End the run: nothing more is sent, and what is in flight may finish within ``limits.grace_s``. The next run goes on."""
        self._cancelled_for = why
        if self._execution is not None:
            self._execution.stop("signal", why)

    async def run(self, engine: Engine | None = None, *, handle_signals: bool = False) -> Run:
        """Run the job to its end, or until something stops it; either way what was answered is kept.

        Without an ``engine`` it has one of its own. With ``handle_signals`` the first SIGINT, SIGTERM or SIGHUP stops admitting
        and lets what is in flight finish within ``limits.grace_s``; the second ends the run at once, but for SIGHUP, which a
        terminal that is closed sends more than once. Cancelling this coroutine is safe at any moment: the next run goes on from
        the journal.

        A run that stops early (no credit, key refused, endpoint gone, disk full, budget, deadline, signal) is no exception:
        :attr:`Run.stopped_by` says so.

        The input is read once the folder is held, so that what came while another run held it counts. Where there is no folder
        yet it is read before: a wrong one makes none.

        :raises JobError, InputError, EndpointError, FolderError: before anything was sent.
        :raises StorageError: if the output folder takes nothing from the start.
        """
        job, attempt = self.job, self._attempt or Attempt()
        deadline = _deadline(job, attempt)
        if engine is None:
            endpoints = resolve_all(job)
        elif _access(job) == _access(engine.job):
            endpoints = engine.endpoints
        else:
            raise JobError("the engine has other endpoints, keys or answer.fallback than this job")
        for endpoint in endpoints:
            endpoint.require(job.models)
        retried, planned, named = self._retried, job, endpoints
        if retried is not None:
            planned = retried.planned
            named = resolve_all(planned, with_key=False)
        new_plan = partial(anyio.to_thread.run_sync, Plan, planned, default_model(named), self._frame)
        whole = Folder(job.out)
        early = None if whole.exists() else await new_plan()
        async with self._held(whole) as folder:
            remote = _remote(folder, job)
            if remote is not None:
                await anyio.to_thread.run_sync(remote.acquire, self._observer.note, abandon_on_cancel=True)
                folder.require_format()
            try:
                await anyio.to_thread.run_sync(catch_up, folder)
                plan = early or await new_plan()
                preparing: Preparing = partial(prepare, job) if retried is None else retried.prepare
                plan.tell = Emitter(self._observer, job.job.name, attempt.run_id).note
                prepared = await anyio.to_thread.run_sync(self._prepared, preparing, plan, folder)
                plan.tell = None  # from now on there is progress to be seen
            except BatchflexError:
                if remote is not None:
                    with suppress(StorageError):  # what was refused is the news
                        await anyio.to_thread.run_sync(remote.end)
                raise
            try:
                execution = self._execution = self._executed_by(
                    job, plan, folder, prepared, engine or Engine(job, endpoints), self._observer,
                    attempt.run_id, deadline, is_own=engine is None, weight=self._weight, on_row=self._on_row,
                )  # fmt: skip
                self.run_state = execution.run_state
                if self._paused_for is not None:
                    execution.pause(self._paused_for)
                attempt.begun()
                if self._cancelled_for is not None:
                    execution.stop("signal", self._cancelled_for)
                stop = partial(execution.stop, "disk")
                async with (
                    nullcontext() if remote is None else remote.uploading(job.journal, stop, self._observer.note)
                ):
                    try:
                        run = await execution.conduct(handle_signals)
                    finally:
                        self._execution = None
                    if self._then is not None:
                        await self._then(run, folder)
                    return run
            except BaseExceptionGroup as group:
                if fault := sole_fault(group):
                    raise fault from None
                raise

    @asynccontextmanager
    async def _held(self, whole: Folder) -> AsyncIterator[Folder]:
        """Hold the output folder, and give the one to run in."""
        with whole.held():
            yield whole

    def _prepared(self, preparing: Preparing, plan: Plan, folder: Folder) -> Prepared:
        """What is left to ask. Blocks."""
        prepared = preparing(plan, folder)
        for shard in folder.shards().values():
            catch_up(shard)
        folder.remove_shards()  # recovery has sealed what they had
        return prepared
