"""A job run under way, as whoever waits for it has it: can be stopped, and hands over its rows as they come.

At most some thousand rows wait to be taken. With more the run is paused until half of them are: nothing is lost, memory is
bounded, and a consumer that is slower than the endpoint slows the run down.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.from_thread

from ..core import Outcome, RunStopped, heard
from ..display import in_notebook
from .job_run import JobRun
from .run_result import Run

if TYPE_CHECKING:
    from ..results import ResultRow

T = TypeVar("T")

MOST_WAITING = 1_000
_LOOKS_EVERY_S = 0.1
_FULL = "rows come faster than they are taken"
_INTERRUPTED = "interrupted; what was answered is kept: run it again to go on"


class Underway:
    """``wants_rows`` says whether somebody takes the rows. ``put`` and ``begun`` are for the run's event loop, all else for
    whoever waits, there or in another thread."""

    def __init__(self, *, wants_rows: bool = False) -> None:
        self._job_run: JobRun | None = None
        self._rows: deque[Outcome] = deque()
        self._is_full = False
        self.on_row = self.put if wants_rows else None
        self.on_change: Callable[[], object] = lambda: None

    def begun(self, job_run: JobRun) -> None:
        self._job_run = job_run

    def put(self, outcome: Outcome) -> None:
        self._rows.append(outcome)
        if len(self._rows) >= MOST_WAITING and not self._is_full and self._job_run is not None:
            self._is_full = True
            self._job_run.pause(_FULL)
        self.on_change()

    def take(self) -> ResultRow | None:
        """The next row, if there is one."""
        from ..results import ResultRow

        return ResultRow.of(self._rows.popleft()) if self._rows else None

    @property
    def has_rows(self) -> bool:
        return bool(self._rows)

    @property
    def has_room(self) -> bool:
        """Whether a run that was paused for want of room may :meth:`go_on`."""
        return self._is_full and len(self._rows) <= MOST_WAITING // 2

    def go_on(self) -> None:
        """In the run's event loop."""
        self._is_full = False
        if self._job_run is not None:
            self._job_run.resume()

    def stop(self, why: str) -> bool:
        """Send nothing more, and let what is in flight finish within its grace. False if there is nothing in flight to wait for:
        then it may as well be cancelled. In the run's event loop."""
        if self._job_run is None or not self._job_run.is_under_way:
            return False
        self._job_run.cancel(why)
        return True


def on_a_loop(work: Callable[[], Awaitable[T]]) -> T:
    """Do the work in this thread, on an event loop of its own: uvloop's where it is installed."""
    return anyio.run(work, backend_options=_loop_options())


def _loop_options() -> dict[str, Any]:
    return {"use_uvloop": importlib.util.find_spec("uvloop") is not None}


def wait_for(
    work: Callable[[], Awaitable[T]],
    underway: Underway,
    attend: Callable[[], object],
    on_row: Callable[[ResultRow], object] | None,
) -> T:
    """Do the work on an event loop in a thread of its own, and wait for it in this one, where ``attend`` is called now and then,
    and ``on_row`` with each row.

    The first Ctrl-C stops the run, and what is in flight may finish within its grace; the second cancels it. Either is raised
    when the run has ended. So is an error of ``attend`` or ``on_row``, which stops it likewise.
    """
    changed = threading.Event()
    underway.on_change = changed.set
    stopped_for: BaseException | None = None
    with anyio.from_thread.start_blocking_portal(backend_options=_loop_options()) as portal:
        ended = portal.start_task_soon(work)
        ended.add_done_callback(lambda _: changed.set())

        def look() -> None:
            while True:
                attend()
                if underway.has_room:
                    portal.call(underway.go_on)
                if on_row is None or stopped_for is not None or (row := underway.take()) is None:
                    return
                on_row(row)

        while not ended.done():
            try:
                changed.wait(
                    _LOOKS_EVERY_S
                )  # polars handles SIGINT in a way that does not wake a thread that waits for ever
                changed.clear()
                look()
            except BaseException as error:
                if stopped_for is not None:
                    raise
                stopped_for = error
                why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__} in the caller"
                if not portal.call(underway.stop, why):
                    raise
        result = ended.result()
        if stopped_for is None:
            look()
    if stopped_for is not None:
        raise stopped_for
    return result


async def awaited(work: Callable[[Underway], Awaitable[Run]]) -> Run:
    """The run, on this event loop. Cancelling whoever waits for it cancels it; in a notebook, where that is what an interrupt
    does, as :func:`_ended_for` has it."""
    if not in_notebook():
        return await work(Underway())
    underway = Underway()
    task = asyncio.ensure_future(work(underway))
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await _ended_for(task, underway)
        raise asyncio.CancelledError(_INTERRUPTED) from None
    return await task


async def _ended_for(task: asyncio.Future[Run], underway: Underway) -> None:
    """End the run for an interrupt of the kernel: what is in flight may finish within its grace, but for a second one. Of that a
    kernel tells nobody who is being cancelled already, so it is listened for here."""
    if not underway.stop("interrupted"):
        task.cancel()
    loop = asyncio.get_running_loop()
    with heard(signal.SIGINT, lambda: loop.call_soon_threadsafe(task.cancel)):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:  # by the code of the notebook
                task.cancel()
    if not task.cancelled():
        task.exception()  # seen: the interrupt is what is raised


class RowStream:
    """The rows of a run as they come: ``async for row in stream``. The run begins with the loop, on its event loop.

    Leaving the loop early stops the run, and what is in flight may finish within ``limits.grace_s``; to wait for that, as before
    the same job is run again, leave it within ``async with stream:``, or ``await stream.aclose()``. Cancelling the task that
    takes the rows cancels the run; an interrupt of a notebook's kernel lets what is in flight finish first. Either way what was
    answered is kept, and another loop goes on where this one ended. ``run`` is what came of the run, once it has ended.
    """

    def __init__(self, work: Callable[[Underway], Awaitable[Run]]) -> None:
        self.run: Run | None = None
        self._work = work
        # Not to be kept alive by this: where nobody takes its rows any more, Python closes it.
        self._rows: Callable[[], AsyncGenerator[ResultRow, None] | None] = lambda: None
        self._over: asyncio.Event | None = None  # of the run, once it has begun

    def __aiter__(self) -> AsyncIterator[ResultRow]:
        """:raises RunStopped: after the last row, if the run stopped before every row had its answer."""
        rows = self._taken()
        self._rows = weakref.ref(rows)
        return rows

    async def __aenter__(self) -> RowStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the run, if it goes on, and wait for its end."""
        if (rows := self._rows()) is not None:
            await rows.aclose()
        if self._over is not None:  # Python is closing it already
            await self._over.wait()

    async def _taken(self) -> AsyncGenerator[ResultRow, None]:
        self._over = asyncio.Event()
        try:
            async with contextlib.aclosing(rows_of(self._work, self._ended)) as rows:
                async for row in rows:
                    yield row
        finally:
            self._over.set()
        run = self.run
        if run is not None and run.stopped_by is not None:
            kept = "what was answered is kept: run it again to go on"
            raise RunStopped(f"stopped by {run.stopped_by}: {run.summary['message']} ({kept})", run.stopped_by)

    def _ended(self, run: Run) -> None:
        self.run = run


async def rows_of(
    work: Callable[[Underway], Awaitable[Run]], ended: Callable[[Run], object]
) -> AsyncGenerator[ResultRow, None]:
    """The rows of a run, on this event loop, as they come; ``ended`` is called with the run. Closing it stops the run, and what
    is in flight may finish within its grace; cancelling whoever takes the rows cancels it."""
    underway = Underway(wants_rows=True)
    changed = asyncio.Event()
    underway.on_change = changed.set

    async def whole() -> Run:
        return await work(underway)

    task = asyncio.get_running_loop().create_task(whole())
    task.add_done_callback(lambda _: changed.set())
    try:
        while True:
            changed.clear()
            while (row := underway.take()) is not None:
                yield row
                if underway.has_room:
                    underway.go_on()
            if task.done() and not underway.has_rows:
                break
            await changed.wait()
    except asyncio.CancelledError:
        if in_notebook():
            await _ended_for(task, underway)
            raise asyncio.CancelledError(_INTERRUPTED) from None
        task.cancel()
        raise
    finally:
        if not task.done():
            if not task.cancelling() and not underway.stop("nobody takes its rows any more"):
                task.cancel()
            await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            ended(task.result())
    await task
