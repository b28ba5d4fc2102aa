"""The parent's end of one worker process: starts it, sends it frames, and knows what it was given and has not finished."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import anyio
from anyio.abc import Process

from ..core import Request, guarded
from ..engine import Lease
from ..storage import Folder
from . import frames

_AHEAD = 8  # rows that a worker has beyond those it has taken in hand, at least
_AHEAD_S = 0.2  # and as many as it takes in that time
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from batchflex.cluster.worker import main; main()"
_SHOWN_LINE = 300
_BUFFER_BYTES = 1 << 20  # on their way to a worker, so that it need not wait for the parent's next turn


class WorkerProcess:
    """One worker process. ``first`` are rows that it gets before others, ``outstanding`` those that it was given and that are not
    final, by key. ``numbers`` are those of
    its segments, ``counts`` what it reported last, ``leases`` what it has leased and not settled. ``has_ended`` is that it has
    done all it was to do, ``fault`` why it could not."""

    def __init__(self, folder: Folder, first: Iterable[Request] = ()) -> None:
        self.folder = folder
        self.first = deque(first)
        self.outstanding: dict[bytes, Request] = {}
        self.numbers: list[int] = []
        self.counts: dict[str, Any] | None = None
        self.leases: list[tuple[frames.Limit, Lease]] = []
        self.has_ended = False
        self.fault: str | None = None
        self._process: Process | None = None
        self._reader: asyncio.StreamReader
        self._outbox: list[bytes] = []
        self._posted = anyio.Event()
        self._room = anyio.Event()
        self._given = self._taken = self._taken_then = 0
        self._rate = 0.0
        self._seen_at = time.monotonic()

    @asynccontextmanager
    async def running(self, setup: frames.Setup) -> AsyncIterator[None]:
        """Start it with this setup. It is gone when the block ends, whatever it does.

        :raises OSError: if it cannot be started.
        """
        self.numbers.append(setup.segment)
        self.post(setup)
        ours, theirs = socket.socketpair()
        with theirs, self._log() as log:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            process = self._process = await anyio.open_process(
                [sys.executable, "-c", _PROGRAM, *sys.path], stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send, writer)
                yield
                tasks.cancel_scope.cancel()
        finally:
            writer.close()
            with anyio.CancelScope(shield=True):
                if process.returncode is None and not self.has_ended:
                    process.kill()
                await process.wait()

    def _log(self) -> IO[bytes]:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        return self._log_path.open("wb")

    @property
    def _log_path(self) -> Path:
        return self.folder.path / "stderr.log"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def ending(self) -> str:
        """How it ended that had not done its work, in a few words."""
        code = None if self._process is None else self._process.returncode
        how = "it could not be started" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        with contextlib.suppress(OSError):
            lines = self._log_path.read_text(errors="replace").strip().splitlines()
            if lines:
                how += f": {guarded(lines[-1]):.{_SHOWN_LINE}}"
        return how

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def post(self, frame: object) -> None:
        """Send a frame, in turn. One to a process that is gone is lost."""
        self._outbox.append(frames.packed(frame))
        self._posted.set()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self._posted.wait()
                self._posted = anyio.Event()
                data, self._outbox = b"".join(self._outbox), []
                writer.write(data)
                await writer.drain()

    async def frames(self) -> AsyncIterator[Any]:
        """What it says, until it is gone."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                size = frames.length(await self._reader.readexactly(frames.LENGTH_BYTES))
                yield frames.unpacked(await self._reader.readexactly(size))

    def give(self, requests: list[Request]) -> None:
        for request in requests:
            self.outstanding[request.key] = request
        self._given += len(requests)
        self.post(frames.Rows(requests))

    def took(self, taken: int) -> None:
        """It has taken so many rows in hand, in all."""
        now = time.monotonic()
        if (seconds := now - self._seen_at) > 0.1:
            self._rate += 0.5 * ((taken - self._taken_then) / seconds - self._rate)
            self._taken_then, self._seen_at = taken, now
        self._taken = taken
        self._room.set()

    @property
    def room(self) -> int:
        """How many rows more it may be given now."""
        return _AHEAD + int(self._rate * _AHEAD_S) - (self._given - self._taken)

    async def has_room(self) -> None:
        while self.room <= 0:
            self._room = anyio.Event()
            await self._room.wait()
