"""Files of requests, fetched and read when these are sent: in threads, and no more at a time than memory bears."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import msgspec

from ..attachments import RemoteFile, filled, without_data
from ..core import Attachment, AttemptError, Request
from .remote_files import RemoteFiles

_MOST_HELD = 512 << 20  # bytes that files take which are being read or sent, or whose answers are awaited
_REMOTE_BYTES = 4 << 20  # that a remote file is taken for until it is there
_COPIES = 3  # of what is sent: by itself, in the body, and with its head
_MOST_THREADS = 8
_MOST_AHEAD = 4 * _MOST_THREADS  # requests whose files are read before there is a slot for them


class Contents:
    """What takes the place of the files of one request. ``size`` is its bytes, ``text_bytes`` those of texts among them. ``went``
    is to be called when it has a slot."""

    def __init__(self, files: Sequence[Attachment], contents: Sequence[bytes]) -> None:
        self._contents = {file.token: content for file, content in zip(files, contents, strict=True)}
        sizes = [(file.kind, len(content)) for file, content in zip(files, contents, strict=True)]
        self.size = sum(size for _, size in sizes)
        self.text_bytes = sum(size for kind, size in sizes if kind != "image")
        self.went: Callable[[], None] = lambda: None

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
    """Reads the files of requests of one run, and has the ``remote`` ones fetched.

    What has been read may wait for a slot, and new rows may have to wait there until one that has failed is answered. So one of
    those that have failed needs no room: one at a time.
    """

    def __init__(self, remote: RemoteFiles) -> None:
        self._remote = remote
        self._threads = anyio.CapacityLimiter(min(_MOST_THREADS, os.cpu_count() or 1))
        self._held = self._ahead = 0
        self._is_beyond = False  # one that is tried again holds more than there is
        self._again: deque[anyio.Event] = deque()  # those that wait for room, and were sent before
        self._fresh: deque[anyio.Event] = deque()

    @property
    def are_awaited(self) -> bool:
        """Whether rows wait for their files: for a server, for a thread to read them, or for room."""
        return bool(self._again or self._fresh) or self._threads.available_tokens < 1 or self._remote.are_awaited

    @asynccontextmanager
    async def of(
        self, request: Request, is_wanted: Callable[[], bool], *, again: bool
    ) -> AsyncIterator[Contents | None]:
        """What the files of a request are sent as, for as long as it may be sent. Waits for memory, and for a thread: ``None`` if
        the request is not wanted any more then. ``again`` is that it was sent before, and failed.

        :raises FileFault: if one cannot be sent, with a sentence.
        :raises NotYet, HostDown: as :meth:`RemoteFiles.of`.
        """
        size = _COPIES * sum(_REMOTE_BYTES if file.url else file.size for file in request.files)
        is_beyond = await self._room(size, again)
        self._held += size
        self._ahead += 1
        is_ahead = True

        def went() -> None:
            nonlocal is_ahead
            self._ahead -= is_ahead
            is_ahead = False
            self._wake()

        try:
            self._wake()  # there may be room for another
            contents = fetched = None
            if is_wanted():
                fetched = await self._remote.of(request.files)
            if fetched is not None:
                known = _COPIES * sum(len(fetched[f.url].data) if f.url in fetched else f.size for f in request.files)
                self._held += known - size
                size = known
                contents = await anyio.to_thread.run_sync(
                    _read, request.files, fetched, is_wanted, limiter=self._threads, abandon_on_cancel=True
                )
            del fetched
            needed = 0 if contents is None else _COPIES * contents.size
            self._held += needed - size
            size = needed
            self._wake()
            if contents is not None:
                contents.went = went
            yield contents
        finally:
            self._is_beyond = self._is_beyond and not is_beyond
            self._held -= size
            went()

    async def _room(self, size: int, again: bool) -> bool:
        """Wait for room for so many bytes. True: there is none, and one that was sent before goes without."""
        queue = self._again if again else self._fresh
        while (self._held and self._held + size > _MOST_HELD) or self._ahead >= _MOST_AHEAD:
            if again and not self._is_beyond:
                self._is_beyond = True
                return True
            turn = anyio.Event()
            queue.append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn in queue:
                    queue.remove(turn)
                else:
                    self._wake()  # it was another's turn, then
                raise
        return False

    def _wake(self) -> None:
        """The next may look whether there is room for it."""
        queue = self._again or self._fresh
        if queue:
            queue.popleft().set()


def _read(
    files: Sequence[Attachment], fetched: Mapping[str, RemoteFile], is_wanted: Callable[[], bool]
) -> Contents | None:
    from ..attachments import content_of  # with what reads images and documents, which most runs have none of

    return Contents(files, [content_of(file, fetched.get(file.url)) for file in files]) if is_wanted() else None
