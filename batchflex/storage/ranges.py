"""A file that is read by ranges, of which each is a request: what was read ahead is kept, and that is some MB."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

LEAST_BYTES, MOST_BYTES = 256 << 10, 8 << 20
TAIL_BYTES = 64 << 10  # in which readers of Parquet look for the footer

# The bytes from the first of these positions to the second, which is not among them.
Fetch = Callable[[int, int], bytes]


class RangeFile(io.RawIOBase):
    """A file of ``size`` bytes that ``fetch`` gives ranges of.

    With ``ahead``, what is read in sequence is fetched in ranges that double up to :data:`MOST_BYTES`, so that a look at a
    beginning costs little, and a whole file few requests. Without, only what is asked for is fetched: for formats that know where
    what they need is.
    """

    def __init__(self, fetch: Fetch, size: int, *, ahead: bool = True) -> None:
        self._fetch = fetch
        self._size = size
        self._at = 0
        self._ahead = ahead
        self._next = LEAST_BYTES
        self._begin = 0
        self._kept = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, fewer only at the end of the file.

        :raises OSError: if they cannot be fetched.
        """
        left = self._size - self._at
        size = left if size is None or size < 0 else min(size, left)
        first = self._some(size)
        if len(first) == size or not first:
            return first
        pieces, length = [first], len(first)
        while length < size and (data := self._some(size - length)):
            pieces.append(data)
            length += len(data)
        return b"".join(pieces)

    def readall(self) -> bytes:
        return self.read()

    def _some(self, size: int) -> bytes:
        """Some of the next ``size`` bytes: those that are kept, else the first of what is fetched for them."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        size = min(size, self._size - self._at)
        if size <= 0:
            return b""
        at = self._at - self._begin
        if not 0 <= at < len(self._kept):
            end = self._at + (min(max(size, self._grown()), MOST_BYTES) if self._ahead else size)
            self._kept, self._begin, at = self._fetch(self._at, min(end, self._size)), self._at, 0
        data = self._kept[at : at + size]
        self._at += len(data)
        if not self._ahead:  # what was asked for once is not asked for again
            self._kept = b""
        return data

    def _grown(self) -> int:
        is_in_sequence = self._at == self._begin + len(self._kept)
        self._next = min(2 * self._next, MOST_BYTES) if is_in_sequence and self._kept else LEAST_BYTES
        return self._next

    def close(self) -> None:
        self._kept = b""
        super().close()
