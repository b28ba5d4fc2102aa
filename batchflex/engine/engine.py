"""An engine: endpoints that are open, admission to them, and the job runs that share both."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus

from ..config import Job, parse_duration, until_change_s
from ..core import EndpointError, Event, Message
from ..endpoint import Ceiling, CircuitBreaker, Client, Endpoint, Pacer, queue_metrics, resolve_all, serving
from .admission import Admission
from .budget import BudgetLimit
from .endpoint_pool import EndpointPool
from .endpoint_state import EndpointState
from .engine_member import Member
from .leases import Leased, LeasedBudget, Lessor
from .monitor import unless_it_fails
from .pacer_setup import ALONE, Share, pacers_of
from .probes import HOURS

_HOURS_EVERY_S = 30.0
_QUEUE_EVERY_S = 0.5
# For a limit by its name in [limits], and for rpm and tpm the endpoint's: where it is leased and in which portions, if it is.
LessorOf = Callable[[str, str | None], tuple[Lessor, float] | None]


class Engine:
    """The endpoints that a job names, and its limits on them: concurrency, requests and tokens per minute, hours, what is done
    about spent credit and outages. Job runs that are handed to it share these, and what was found out about the endpoints; each
    has its own budget, deadline, output folder and end. ``slots`` is how many requests all may have in flight. ``lessor_of`` says
    which limits are leased from where other engines lease them too, for all of its job runs together; ``share`` is this engine's
    part of how many requests all of them may have in flight.

    An async context manager; opens the endpoints with the first job run that has something to ask. ::

        async with Engine(job) as engine, anyio.create_task_group() as tasks:
            tasks.start_soon(JobRun(job).run, engine)
            tasks.start_soon(JobRun(other).run, engine)
    """

    def __init__(
        self,
        job: Job,
        endpoints: Sequence[Endpoint] | None = None,
        lessor_of: LessorOf | None = None,
        share: Share = ALONE,
    ) -> None:
        self.job = job
        self._lessor_of = lessor_of
        self._leased: dict[tuple[str, str | None], Leased] = {}
        self.endpoints = resolve_all(job) if endpoints is None else [*endpoints]
        self.states: list[EndpointState] = []
        self._pacers, self.slots, self.note = pacers_of(job, self.endpoints, self._ceiling, share)
        self.admission: Admission = Admission([])
        self._members: list[Member] = []
        self._lease_fault: str | None = None
        self._opening = anyio.Lock()
        self._closing = anyio.Event()

    async def __aenter__(self) -> Engine:
        self._tasks: TaskGroup = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool | None:
        self._closing.set()
        return await self._tasks.__aexit__(kind, error, at)

    @asynccontextmanager
    async def attended(self, member: Member) -> AsyncIterator[EndpointPool]:
        """The endpoints, open, for a job run that gets their events meanwhile.

        :raises EndpointError: if one cannot be opened, or a limit that is leased can be leased no more.
        """
        if self._lease_fault is not None:
            raise EndpointError(f"{self._lease_fault}. Give the job to a new engine")
        self._members.append(member)
        try:
            async with self._opening:
                if not self.states:
                    await self._tasks.start(self._hold_open)
            self.pool.brief(member)
            yield self.pool
        finally:
            self._members.remove(member)
            if member.prober is not None:
                self.admission.part(member.prober.gate)

    async def _hold_open(self, *, task_status: TaskStatus[None]) -> None:
        """Open the endpoints, and see to them until the engine is closed. They are closed by the task that opened them."""
        async with AsyncExitStack() as opened:
            pairs = enumerate(self._pacers)
            states = [await opened.enter_async_context(self._opened(number, pacer)) for number, pacer in pairs]
            limits = self.job.limits
            self.admission = Admission(states)
            async with anyio.create_task_group() as tasks:
                self.pool = EndpointPool(states, self.admission, self._members, tasks, self._emit, limits)
                self._keeping = tasks
                for name, leased in self._leased.items():
                    tasks.start_soon(self._keep_leased, name[0], leased)
                tasks.start_soon(self.admission.keep_time)
                for state in states:
                    tasks.start_soon(unless_it_fails, self._warn, self._watch_queue, state)
                if limits.active_hours is not None:
                    await tasks.start(self._keep_hours, limits.active_hours)
                self.states = states
                task_status.started()
                await self._closing.wait()
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _opened(self, number: int, pacer: Pacer) -> AsyncIterator[EndpointState]:
        entry = self.job.endpoint_entries[number]
        async with (
            serving(entry, self.endpoints[number], self._warn, self._server_is_gone) as endpoint,
            Client(endpoint, connections=pacer.concurrency.most) as client,
        ):
            breaker = CircuitBreaker(parse_duration(self.job.limits.max_outage))
            yield EndpointState(endpoint, pacer, client, breaker, self.job.answer.fallback)

    def budget_limit(self, ceiling: float | None, name: str) -> BudgetLimit:
        """One of the budgets of a job run."""
        leased = None if ceiling is None else self._lease(name, None, 0.0)
        return BudgetLimit(ceiling, name) if leased is None else LeasedBudget(leased, ceiling, name)

    def _ceiling(self, limit: str, endpoint: str | None, per_minute: float | None) -> float | Ceiling | None:
        return per_minute if per_minute is None else self._lease(limit, endpoint, per_minute) or per_minute

    def _lease(self, limit: str, endpoint: str | None, per_minute: float) -> Leased | None:
        key = limit, endpoint
        found = self._leased.get(key)
        if found is None and self._lessor_of is not None and (source := self._lessor_of(*key)) is not None:
            found = self._leased[key] = Leased(*source, per_minute, lambda: self.admission.pump())
            if self.states:
                self._keeping.start_soon(self._keep_leased, limit, found)
        return found

    async def _keep_leased(self, limit: str, leased: Leased) -> None:
        try:
            await leased.keep()
        except Exception as error:
            what = f"limits.{limit} is leased, and that fails: {type(error).__name__}"
            for member in list(self._members):
                member.stop("error", what + Message(f": {error}", ""))
            self._lease_fault = what

    def _emit(self, event: Event) -> None:
        for member in self._members:
            member.emit(event)

    def _warn(self, words: str) -> None:
        self._emit(Event("note", words, level="warning"))

    def _server_is_gone(self, message: Message) -> None:
        """The local model's server cannot be kept up. Where there are other endpoints they go on."""
        if len(self.endpoints) > 1:
            self._emit(Event("note", message.text, message.unquoted, "warning"))
            return
        for member in list(self._members):
            member.stop("endpoint", message)

    async def _watch_queue(self, state: EndpointState) -> None:
        """Where a server of one's own reports how many requests wait in it, that bounds how many it gets."""
        if state.pacer.concurrency.fixed or not state.endpoint.polls_metrics:
            return
        has_reported = False
        while True:
            text = await state.client.metrics()
            waiting = None if text is None else queue_metrics.waiting(text)
            if waiting is None and not has_reported:
                return
            has_reported = True
            state.pacer.concurrency.queue(waiting)
            await anyio.sleep(_QUEUE_EVERY_S)

    async def _keep_hours(self, hours: str, *, task_status: TaskStatus[None]) -> None:
        """Pause outside of the hours. Looks at the clock often: it may be set, or the machine sleep."""
        paused = False
        while True:
            active, change_s = until_change_s(hours, datetime.datetime.now())
            if paused == active:
                paused = not active
                words = f"it is {'not ' if paused else ''}within limits.active_hours ({hours})"
                for state in self.admission.endpoints:
                    if paused:
                        self.admission.pause(state, HOURS, words, for_s=change_s)
                    else:
                        self.admission.resume(state, HOURS)
                name, end = ("paused", ": nothing is sent until then") if paused else ("resumed", " again")
                self._emit(Event(name, words + end, facts={"reason": HOURS}, shown=paused))
            task_status.started()
            task_status = TASK_STATUS_IGNORED
            await anyio.sleep(min(change_s, _HOURS_EVERY_S))
