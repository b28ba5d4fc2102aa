"""A worker process: sends the rows that it is given, keeps the answers in a journal of its own, and reports to its parent.

It ends with its parent: when the pipe from there is closed, nothing more is admitted, and what is in flight is kept. Signals are
the parent's to hear.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from ..config import Job, build, dated_path, environment_of, path_variables
from ..core import Event, Message, Outcome, Request, SparedImports, StopReason, StorageError, malloc, sole_fault
from ..engine import Deadline, Engine, Execution, Lease, Lessor, RequestQueue, Share, on_a_loop
from ..plan import Prepared
from ..storage import Folder, RunState
from . import frames

_REPORT_S = 0.02
_PARENT_GONE = "the process of the run has ended"


class GivenRows(RequestQueue):
    """The queue of a worker: what its parent has sent it, in that order. ``taken`` counts what was taken in hand."""

    def __init__(self, on_read: Callable[[list[Request]], None], on_take: Callable[[], None]) -> None:
        super().__init__(iter(()), list, on_read=on_read)
        self.taken = 0
        self._on_take = on_take
        self._rows: deque[Request] = deque()
        self._has_ended = anyio.Event()

    def give(self, requests: list[Request]) -> None:
        self._on_read(requests)
        self.planned += len(requests)
        self._rows.extend(requests)
        self._wake()

    def end(self) -> None:
        """No more come."""
        self._has_ended.set()

    async def fill(self) -> None:
        await self._has_ended.wait()
        self.ended = not self._closed
        self.close()

    def take_now(self) -> Request | None:
        if not self._rows:
            return None
        self.taken += 1
        self._on_take()
        return self._rows.popleft()

    async def take(self) -> Request | None:
        while (request := self.take_now()) is None:
            if self._closed:
                return None
            self.starving += 1
            try:
                await self._more.wait()
            finally:
                self.starving -= 1
        return request

    def back(self, request: Request) -> None:
        """Its parent, who has those with the same prefix, hears it when the row is final."""

    def stop(self) -> None:
        self._rows.clear()
        self._has_ended.set()
        self.close()


class _GivenPlan:
    """What of a plan a worker needs: its rows come from its parent."""

    def __init__(self, identity: str | None, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._identity = identity

    def identity(self) -> str | None:
        return self._identity

    def slips(self) -> list[str]:
        return []

    def notes(self) -> list[str]:
        return []

    def count(self) -> int | None:
        return None


class Line:
    """Frames to and from the parent. What is sent is written by a thread, so that a parent that is slow holds nothing up."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._incoming = connection.makefile("rb")
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def send(self, frame: object) -> None:
        self._waiting.put(frames.packed(frame))

    def _write(self) -> None:
        while (data := self._waiting.get()) is not None:
            try:
                self._connection.sendall(data)
            except OSError:  # it is gone, which reading tells
                return

    def close(self) -> None:
        """Returns when all was written."""
        self._waiting.put(None)
        self._writer.join()

    def first(self) -> frames.Setup | None:
        found = frames.read(self._incoming)
        return found if isinstance(found, frames.Setup) else None

    def listen(self) -> asyncio.Queue[Any | None]:
        """Each frame as it comes; ``None`` when the parent is gone."""
        loop, heard = asyncio.get_running_loop(), asyncio.Queue[Any | None]()

        def read() -> None:
            frame: Any = True
            while frame is not None:
                frame = frames.read(self._incoming)
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(heard.put_nowait, frame)

        threading.Thread(target=read, daemon=True).start()
        return heard


class _Leases:
    """Leases that the parent was asked for and has not granted yet."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Lease | None]] = {}
        self.are_lost = False

    async def ask(self, limit: frames.Limit, least: float, units: float) -> Lease | None:
        if self.are_lost:
            return None
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self.line.send(frames.Ask(number, limit, least, units))
        return await self._asked[number]

    def granted(self, frame: frames.Granted) -> None:
        future = self._asked.pop(frame.asked)
        if not future.done():
            future.set_result(frame.lease)

    def lost(self) -> None:
        """The parent is gone: nothing more is granted."""
        self.are_lost = True
        for future in self._asked.values():
            if not future.done():
                future.set_result(None)


class _LineLessor:
    """A :class:`Lessor`: the units of one limit, which the parent lends."""

    def __init__(self, limit: frames.Limit, leases: _Leases) -> None:
        self._limit = limit
        self._leases = leases

    async def ask(self, least: float, units: float) -> Lease | None:
        return await self._leases.ask(self._limit, least, units)

    async def settle(self, lease: Lease, used: float) -> None:
        self._leases.line.send(frames.Settled(self._limit, lease, used))


class WorkerExecution(Execution):
    """One worker's part of a run. It makes no table, and writes no history."""

    def serve(self, line: Line, leases: _Leases) -> None:
        """Speak to the parent over this line, and get leases there."""
        self._line, self._leases = line, leases
        self._on_row = self._count
        self._on_final = self._note_final
        self._next_segment = self._asked_segment
        self._final: list[bytes] = []
        self._failed: list[Outcome] = []
        self._answered = self._invalid = 0
        self._report_is_due = False
        self._segment: asyncio.Future[int] | None = None

    def _new_queue(self) -> RequestQueue:
        self._rows = GivenRows(self._long_prompts.look, self._due)
        return self._rows

    async def listen(self) -> None:
        """Do what the parent says, until it is gone."""
        heard = self._line.listen()
        while (frame := await heard.get()) is not None:
            self._hear(frame)
        super().stop("error", _PARENT_GONE)
        self._leases.lost()
        if self._segment is not None and not self._segment.done():
            self._segment.set_exception(StorageError(_PARENT_GONE))

    def _hear(self, frame: Any) -> None:
        if isinstance(frame, frames.Rows):
            self._rows.give(frame.requests)
        elif isinstance(frame, frames.End):
            self._rows.end()
        elif isinstance(frame, frames.Stop):
            super().stop(frame.reason, frame.message)
        elif isinstance(frame, frames.Segment):
            if self._segment is not None and not self._segment.done():
                self._segment.set_result(frame.number)
        elif isinstance(frame, frames.Granted):
            self._leases.granted(frame)

    def stop(self, reason: StopReason, message: Message | str) -> None:
        is_first = self.run_state.stopped_by is None
        super().stop(reason, message)
        if is_first and self.run_state.message is not None:
            self._line.send(frames.Stopped(reason, self.run_state.message))

    async def _asked_segment(self) -> int:
        """:raises StorageError: if there is nobody to tell the number: then what is kept stays in the journal until the end."""
        if self._leases.are_lost:
            raise StorageError(_PARENT_GONE)
        self._segment = asyncio.get_running_loop().create_future()
        self._line.send(frames.NextSegment())
        return await self._segment

    def _count(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            self._failed.append(outcome)
            asyncio.get_running_loop().call_soon(self.report)  # so that too many end the run before there are many more
        else:
            self._answered += 1
            self._invalid += outcome.status == "invalid"

    def _note_final(self, request: Request) -> None:
        self._final.append(request.key)
        self._due()

    def _due(self) -> None:
        if not self._report_is_due:
            self._report_is_due = True
            asyncio.get_running_loop().call_later(_REPORT_S, self.report)

    def report(self) -> None:
        self._report_is_due = False
        run_state, gate = self.run_state, self._gate
        if gate is not None:
            run_state.in_flight, run_state.backing_off = gate.in_flight, gate.backing_off
        is_proven = gate is not None and gate.admission.proven
        self._line.send(
            frames.Progress(
                self._final,
                self._failed,
                self._answered,
                self._invalid,
                self._rows.taken,
                run_state.snapshot(),
                is_proven,
            )
        )
        self._final, self._failed, self._answered, self._invalid = [], [], 0, 0

    async def _send_all(self) -> None:
        await self._send_and_store(self._disk_watch())

    def _emit_start(self) -> None:
        """That is the parent's to tell, as what models have answered."""

    def _emit_substitutes(self) -> None:
        """As :meth:`_emit_start`."""

    async def _finish(self) -> None:
        """The table is the parent's."""

    def _conclude(self) -> dict[str, Any]:
        self.run_state.in_flight = 0
        self.report()
        return self.run_state.state(time.time(), ended=True)


class _Reporter:
    """Passes events on to the parent, which decides what is shown of them."""

    debug = True

    def __init__(self, line: Line) -> None:
        self._line = line

    def tick(self, run_state: RunState) -> None:
        pass

    def note(self, text: str) -> None:
        self.event(Event("note", text))

    def event(self, event: Event) -> None:
        self._line.send(frames.Happened(event._replace(facts=dict(event.facts))))


def _job(setup: frames.Setup) -> Job:
    """The job with all failures allowed: how many there may be is for all workers together, and the parent counts them."""
    out = dated_path.escaped(path_variables.escaped(setup.out))
    settings = [("job.out", out), ("limits.max_failures", 1.0)]
    return build(setup.job, settings, environment=environment_of(setup.job, [], Path(), lenient=True))


def _deadline(due_in_s: float | None) -> Deadline | None:
    if due_in_s is None:
        return None
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=due_in_s)
    return Deadline(at, time.monotonic() + due_in_s)


async def _work(setup: frames.Setup, line: Line) -> None:
    job, leases = _job(setup), _Leases(line)
    folder = Folder(Path(setup.out)).worker(setup.worker)
    schema = None
    if setup.carry_schema is not None:
        import pyarrow as pa

        schema = pa.ipc.read_schema(pa.py_buffer(setup.carry_schema))

    def lessor_of(limit: str, endpoint: str | None) -> tuple[Lessor, float] | None:
        portion = setup.leased.get((limit, endpoint))
        return None if portion is None else (_LineLessor((limit, endpoint), leases), portion)

    engine = Engine(job, lessor_of=lessor_of, share=Share(setup.number, setup.of))
    plan: Any = _GivenPlan(setup.plan, setup.labels)
    prepared = Prepared(setup.segment, {}, None, schema, None, iter(()))
    with folder.held():
        execution = WorkerExecution(
            job, plan, folder, prepared, engine, _Reporter(line), setup.run_id, _deadline(setup.due_in_s)
        )
        execution.serve(line, leases)
        async with anyio.create_task_group() as listening:
            listening.start_soon(execution.listen)
            await execution.conduct(handle_signals=False)
            listening.cancel_scope.cancel()


def main() -> None:
    """Serve the process that has started this one, over the socket that is its standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    malloc.give_back()
    sys.meta_path.insert(0, SparedImports)
    line = Line(socket.socket(fileno=os.dup(0)))
    fault = None
    try:
        if (setup := line.first()) is not None:
            on_a_loop(partial(_work, setup, line))
    except Exception as error:
        if (known := sole_fault(error)) is None:
            raise
        fault = str(known)
    line.send(frames.Ended(fault))
    line.close()
    os._exit(0)  # nothing is to be put away


if __name__ == "__main__":
    main()
