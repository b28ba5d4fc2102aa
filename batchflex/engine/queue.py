"""The requests of a plan that are left to send, read ahead by a bounded amount."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import anyio
import anyio.to_thread

from ..core import GilYield, InputError, Request
from ..plan import PrefixQueue, grouped, name_of

_READ_AHEAD = 2_000
_PLENTY = 500
_AT_ONCE = _READ_AHEAD // 2  # until a thread is back may take as long as many answers
_FIRST_WINDOW, _WINDOW_REQUESTS = 400, 4_000
_WINDOW_BYTES = 16 << 20


class RequestQueue:
    """Hands out what ``sort_out`` leaves of the ``blocks`` of a plan, one request at a time, to any number of tasks.

    Blocks are read in a thread, by the window, at most some 2,000 requests ahead. The first window is small; where prefixes
    differ, later ones have some 4,000 requests or 16 MB, and requests with the same prefix are put together;
    :class:`~batchflex.plan.prefix_order.PrefixQueue` decides which may go next. ``starving`` counts tasks that wait for requests
    to be read. ``on_read`` is called with those that were read, before they may go. ``planned`` counts the requests, and begins
    with those of the rows that the blocks leave out.
    """

    def __init__(
        self,
        blocks: Iterator[list[Request]],
        sort_out: Callable[[Sequence[Request]], list[Request]],
        planned: int = 0,
        clock: Callable[[], float] = time.monotonic,
        on_read: Callable[[list[Request]], None] = lambda requests: None,
    ) -> None:
        self._on_read = on_read
        self._blocks = blocks
        self._sort_out = sort_out
        self._prefixes = PrefixQueue(clock)
        self._window = _FIRST_WINDOW
        self._last: bytes | None = None  # the prefix that the last window ended with
        self._damage: InputError | None = None
        self._more = anyio.Event()
        self._is_low = anyio.Event()
        self._gil = GilYield()
        self.planned = planned
        self.starving = 0
        self.ended = False
        self._closed = False

    async def fill(self) -> None:
        """Read until the input ends or this is cancelled.

        :raises InputError: if a file is damaged beyond single rows.
        """
        try:
            while not self._closed and (window := await anyio.to_thread.run_sync(self._next)) is not None:
                if self._closed:
                    return
                total, wanted, names = window
                self.planned += total
                self._on_read(wanted)
                self._prefixes.add(wanted, names)
                self._wake()
                while self._prefixes.size > _READ_AHEAD:
                    self._is_low = anyio.Event()
                    await self._is_low.wait()
            self.ended = not self._closed
        finally:
            self.close()

    def _next(self) -> tuple[int, list[Request], set[bytes | None]] | None:
        """The next window: how many requests it has, those of them that are left to send, and the names of their prefixes."""
        if self._damage is not None:
            raise self._damage
        self._gil.begin()
        total = size = 0
        wanted: list[Request] = []
        names: set[bytes | None] = set()
        while (block := self._read(total)) is not None:
            total += len(block)
            left = self._sort_out(block)
            names.update(map(name_of, left))
            wanted = wanted + left if wanted else left
            if self._prefixes.size > _PLENTY:
                self._gil()
            if total >= (self._window if len(names) > 1 else min(self._window, _AT_ONCE)) or self._closed:
                break
            size += sum(len(request.body) for request in left)
            if size >= _WINDOW_BYTES:
                break
        self._window = min(2 * self._window, _WINDOW_REQUESTS)
        if len(names) > 1:
            wanted = grouped(wanted, self._last)
            self._last = name_of(wanted[-1])
        return (total, wanted, names) if total or block is not None else None

    def _read(self, before: int) -> list[Request] | None:
        """The next block. Damage is reported once what came before it in the window was handed out."""
        try:
            return next(self._blocks, None)
        except InputError as damage:
            if not before:
                raise
            self._damage = damage
            return None

    def take_now(self) -> Request | None:
        """The next request, if one may go now. :meth:`back` is to be called with it."""
        request = self._prefixes.take()
        if self._prefixes.size == _READ_AHEAD // 2:
            self._is_low.set()
        return request

    async def take(self) -> Request | None:
        """The next request, once it may go; ``None`` when there are no more. :meth:`back` is to be called with it."""
        while (request := self.take_now()) is None:
            is_waiting = self._prefixes.size > 0
            if self._closed and not is_waiting:
                return None
            self.starving += not is_waiting
            try:
                if (wait_s := self._prefixes.wait_s()) == float("inf"):
                    await self._more.wait()
                else:
                    with anyio.move_on_after(wait_s):
                        await self._more.wait()
            finally:
                self.starving -= not is_waiting
        return request

    def back(self, request: Request) -> None:
        """It was answered, or an attempt at it has failed: those with the same prefix need not wait for it any longer."""
        if self._prefixes.ended(request):
            self._wake()

    def close(self) -> None:
        """No more is added; what is ready can still be taken."""
        self._closed = True
        self._wake()

    def stop(self) -> None:
        """Hand out nothing more."""
        self._prefixes.clear()
        self._is_low.set()
        self.close()

    def _wake(self) -> None:
        self._more.set()
        self._more = anyio.Event()
