"""Files of requests, read when these are sent: in threads, and no more at a time than memory bears."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import msgspec

from ..attachments import content_of, filled, without_data
from ..core import Attachment, AttemptError, Request

_MOST_HELD = 512 << 20  # bytes that files take which are being read or sent, or whose answers are awaited
_COPIES = 3  # of what is sent: by itself, in the body, and with its head
_MOST_THREADS = 8


class Contents:
    """What takes the place of the files of one request. ``size`` is its bytes, ``text_bytes`` those of texts among them."""

    def __init__(self, files: Sequence[Attachment], contents: Sequence[bytes]) -> None:
        self._contents = {file.token: content for file, content in zip(files, contents, strict=True)}
        sizes = [(file.kind, len(content)) for file, content in zip(files, contents, strict=True)]
        self.size = sum(size for _, size in sizes)
        self.text_bytes = sum(size for kind, size in sizes if kind != "image")

    def into(self, request: Request) -> Request:
        """The request with its body as it is sent."""
        return msgspec.structs.replace(request, body=filled(request.body, self._contents))


def take_out(fault: AttemptError) -> None:
    """Take out of the words of a server the images that it repeats: they are kept nowhere."""
    fault.message = without_data(fault.message)
    fault.args = (fault.message,)
    if fault.body is not None:
        fault.body = without_data(fault.body.decode("utf-8", "replace")).encode()


class AttachedFiles:
    """Reads the files of requests of one run.

    What has been read may wait for a slot, and new rows may have to wait there until one that has failed is answered. So that one
    of these needs no memory that is left: one at a time.
    """

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(min(_MOST_THREADS, os.cpu_count() or 1))
        self._held = self._waiting = 0
        self._is_beyond = False  # one that is tried again holds more than there is
        self._freed = anyio.Event()

    @property
    def are_awaited(self) -> bool:
        """Whether rows wait for a thread to read their files, or for memory."""
        return self._waiting > 0 or self._threads.available_tokens < 1

    @asynccontextmanager
    async def of(
        self, request: Request, is_wanted: Callable[[], bool], *, again: bool
    ) -> AsyncIterator[Contents | None]:
        """What the files of a request are sent as, for as long as it may be sent. Waits for memory, and for a thread: ``None`` if
        the request is not wanted any more then. ``again`` is that it was sent before, and failed.

        :raises FileFault: if one cannot be sent, with a sentence.
        """
        size = _COPIES * sum(file.size for file in request.files)
        is_beyond = False
        while self._held and self._held + size > _MOST_HELD:
            if again and not self._is_beyond:
                self._is_beyond = is_beyond = True
                break
            self._waiting += 1
            try:
                await self._freed.wait()
            finally:
                self._waiting -= 1
        self._held += size
        try:
            contents = await anyio.to_thread.run_sync(
                _read, request.files, is_wanted, limiter=self._threads, abandon_on_cancel=True
            )
            needed = 0 if contents is None else _COPIES * contents.size
            self._let_go(size - needed)
            size = needed
            yield contents
        finally:
            if is_beyond:
                self._is_beyond = False
            self._let_go(size)

    def _let_go(self, size: int) -> None:
        self._held -= size
        self._freed.set()
        self._freed = anyio.Event()


def _read(files: Sequence[Attachment], is_wanted: Callable[[], bool]) -> Contents | None:
    return Contents(files, [content_of(file) for file in files]) if is_wanted() else None
