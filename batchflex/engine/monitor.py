"""What a job run reports while it goes on: ticks, ``run.json``, ``telemetry.jsonl``, and warnings of a full disk."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread

from ..config import local
from ..core import TIMINGS, BatchflexError, Emitter, Event, StopReason, StorageError
from ..plan import Plan
from ..storage import Folder, RunState, Wait, disk_space
from .attached_files import AttachedFiles
from .endpoint_pool import EndpointPool
from .gate import Gate
from .queue import RequestQueue
from .run_result import Observer
from .telemetry import Telemetry, binding, waits_of

_TICK_S = 0.5
_STATE_EVERY_S = 1.0
_DISK_EVERY_S = 1.0
_LOGGED_WAITS = ("quota", "endpoint")


async def unless_it_fails(warn: Callable[[str], None], task: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run a task that nothing depends on: an error in it is a warning, and must not cost what is in flight."""
    try:
        await task(*args)
    except Exception as error:
        what = str(error) if isinstance(error, BatchflexError) else f"{type(error).__name__}: {error}"
        warn(f"the run goes on, with less to say of itself: {what}")


class Monitor:
    """Reports to ``observer`` and ``emitter`` how a job run goes. ``stop`` takes a reason and a sentence. ``gate`` is there once
    requests are sent. ``counts`` is whether the plan has just the requests of this run."""

    def __init__(
        self,
        folder: Folder,
        plan: Plan,
        run_state: RunState,
        observer: Observer,
        emitter: Emitter,
        stop: Callable[[StopReason, str], None],
    ) -> None:
        self._folder = folder
        self._plan = plan
        self._run_state = run_state
        self._observer = observer
        self._emitter = emitter
        self._stop = stop
        self.gate: Gate | None = None
        self.counts = True

    async def report(self) -> None:
        """Tick, and write ``run.json`` now and then. Runs until cancelled."""
        due = time.monotonic() + _TICK_S
        while True:
            await anyio.sleep(_TICK_S)
            if self.gate is not None:
                self._run_state.in_flight, self._run_state.backing_off = self.gate.in_flight, self.gate.backing_off
            self._observer.tick(self._run_state)
            if time.monotonic() >= due:
                due = time.monotonic() + _STATE_EVERY_S
                try:
                    await anyio.to_thread.run_sync(self.write_state)
                except StorageError as error:
                    self._stop("disk", str(error))

    def write_state(self) -> None:
        """:raises StorageError: if it cannot be written. Blocks."""
        self._run_state.plan = self._plan.identity()
        self._folder.write_state(self._run_state.state(time.time()))

    async def measure(self, gate: Gate, queue: RequestQueue, pool: EndpointPool, files: AttachedFiles) -> None:
        """Find the word for what bounds the run, and what it waits for; write a line of telemetry now and then."""
        telemetry = Telemetry(time.monotonic())
        due = time.monotonic() + TIMINGS.telemetry_every_s
        wall, cpu = time.monotonic(), time.thread_time()
        run_state = self._run_state
        while True:
            await anyio.sleep(_TICK_S)
            now, spent = time.monotonic(), time.thread_time()
            starved = (queue.starving > 0 and not queue.ended) or files.are_awaited
            run_state.binding = binding(gate.bound, starved=starved, busy=(spent - cpu) / max(1e-9, now - wall))
            wall, cpu = now, spent
            before, run_state.waiting = run_state.waiting, waits_of(gate, now, time.time(), run_state.waiting)
            self._emit_waits(before, run_state.waiting)
            pool.check_waits(now)
            if now >= due:
                due = now + TIMINGS.telemetry_every_s
                line = telemetry.sample(now, time.time(), run_state, gate)
                try:
                    await anyio.to_thread.run_sync(self._folder.add_telemetry, line)
                except StorageError as error:  # nothing depends on it
                    self._emitter.note(f"no more telemetry: {error}", "warning")
                    due = float("inf")

    def _emit_waits(self, before: list[Wait], waiting: list[Wait]) -> None:
        """Log the waits for limits and for first answers; others are logged where they begin."""
        was, now = ({wait[:2]: wait for wait in waits if wait.reason in _LOGGED_WAITS} for waits in (before, waiting))
        for key, wait in now.items():
            if key not in was:
                until = "" if wait.until is None else f", until {local(wait.until)}"
                at = "" if wait.endpoint is None else f"{wait.endpoint}: "
                facts = {name: value for name, value in wait.facts(quoting=False).items() if name != "message"}
                message = at + wait.message + until
                self._emitter.emit(Event("paused", message.text, message.unquoted, "warning", facts))
        for key, wait in was.items():
            if key not in now:
                lasted_s = round(time.time() - wait.since, 1)
                facts = {"endpoint": wait.endpoint, "reason": wait.reason, "lasted_s": lasted_s}
                words = f"{wait.endpoint or 'the run'} goes on after {lasted_s:,} s"
                self._emitter.emit(Event("resumed", words, facts=facts, shown=False))

    async def watch_disk(self, watch: disk_space.Watch) -> None:
        """Stop before the disk is full, and say early that it may become so."""
        while True:
            await anyio.sleep(_DISK_EVERY_S)
            if short := await anyio.to_thread.run_sync(watch.short):
                self._stop("disk", short)
                return
            if doubt := await anyio.to_thread.run_sync(self.disk_warning, watch):
                self._emitter.note(doubt, "warning")

    def disk_warning(self, watch: disk_space.Watch) -> str | None:
        """A sentence if the rows that are left may not fit. Blocks."""
        return watch.doubt(self._run_state.left, self._run_state.done)

    async def count(self) -> None:
        """Count the requests of the plan, where nothing else gives their number sooner."""
        if self.counts and self._run_state.planned is None:
            counted = await anyio.to_thread.run_sync(self._plan.count, abandon_on_cancel=True)
            if self._run_state.planned is None:
                self._run_state.planned = counted
