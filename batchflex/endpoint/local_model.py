"""The local model: its file, and its server while a run needs it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import IO
from urllib.parse import urlsplit

import anyio
import msgspec

from ..config import EndpointSection
from ..core import EndpointError, Message
from .provider import LOCAL, Endpoint, model_file

_START_S = 120.0
_STARTS, _LIVED_S = 3, 60.0  # how often it is started again if it does not live for so long


@asynccontextmanager
async def serving(
    section: EndpointSection,
    endpoint: Endpoint,
    say: Callable[[str], None] = lambda _: None,
    gone: Callable[[Message], None] = lambda _: None,
) -> AsyncIterator[Endpoint]:
    """The endpoint, ready for requests: starts the local model's server if it is that one, and ends it afterwards.

    A server that ends before that is started again, under the same address, and ``say`` is called with a sentence about it. One
    that has not lived for a minute three times in a row is not: then ``gone`` is called with what happened, which quotes the end
    of the server's log.

    :raises EndpointError: if the server does not start.
    """
    if endpoint.name != LOCAL or endpoint.base_url:
        yield endpoint
        return
    if importlib.util.find_spec("xllamacpp") is None:
        raise EndpointError("the local model needs its server: pip install 'batchflex[local]'")
    command = [sys.executable, "-m", "batchflex.endpoint.local_server", str(model_file(section))]
    command += [str(section.n_parallel), str(section.context), endpoint.default_model or "local"]
    with tempfile.TemporaryFile() as log:
        server = _Server(command, log)
        try:
            address = await server.start()
            watching = asyncio.create_task(server.watch(say, gone))
            try:
                yield endpoint._replace(base_url=address)
            finally:
                watching.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await server.stop()


class _Server:
    """The process of the local model's server."""

    def __init__(self, command: Sequence[str], log: IO[bytes]) -> None:
        self._command = command
        self._log = log
        self._port = 0
        self._process: anyio.abc.Process | None = None

    async def start(self) -> str:
        """Start it, and return its address.

        :raises EndpointError: if it does not come up.
        """
        # A session of its own: Ctrl-C is for the run, which still needs the server to finish what is in flight.
        process = self._process = await anyio.open_process(
            [*self._command, str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        said = b""
        with anyio.move_on_after(_START_S) as waiting:
            try:
                while process.stdout is not None and b"\n" not in said:
                    said += await process.stdout.receive()
            except anyio.EndOfStream:
                await process.wait()
        try:
            address = str(msgspec.json.decode(said)["base_url"])
        except (msgspec.DecodeError, KeyError, TypeError):
            why = f"no answer in {_START_S:g} s" if waiting.cancelled_caught else f"it {_end_of(process)}"
            words = f"{why}\n{self._last_words()}".strip()
            raise EndpointError(f"the local model's server did not start: {words}") from None
        self._port = urlsplit(address).port or 0
        return address

    async def watch(self, say: Callable[[str], None], gone: Callable[[Message], None]) -> None:
        """Start it again when it ends. Runs until cancelled, or until it has called ``gone``."""
        ends = 0
        while self._process is not None:
            began = time.monotonic()
            await self._process.wait()
            ends = 1 if time.monotonic() - began > _LIVED_S else ends + 1
            what = f"the local model's server {_end_of(self._process)}"
            if ends > _STARTS:
                what = f"{what}, for the {ends}th time in a row within {_LIVED_S:g} s of its start"
                gone(Message(f"{what}\n{self._last_words()}".strip(), what))
                return
            say(f"{what}; it is started again")
            await self._process.aclose()
            try:
                await self.start()
            except (EndpointError, OSError) as error:
                gone(f"{what}, and cannot be started again" + Message(f": {error}", ""))
                return

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            await process.stdin.aclose()  # its end is the child's signal to go
        with anyio.move_on_after(5):
            await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        return self._log.read().decode("utf-8", "replace")


def _end_of(process: anyio.abc.Process) -> str:
    code = process.returncode or 0
    try:
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    except ValueError:
        return f"was killed by signal {-code}"
