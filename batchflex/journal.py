"""The journal: every outcome is here before it counts as done.

A segment is a file of lines, each ``CRC-32 of the JSON, 8 hex digits``, a space, the outcome as JSON, a newline. A line
is handed to the kernel in one ``write`` as soon as its answer is complete: killing the process loses none. ``sync``
makes what was written so far survive a power cut, and is called for many lines at once. A segment is only ever
appended to by the run that began it, so a torn tail needs no repair: its bad line is not counted, and the next run
begins another segment. Nothing here knows what becomes of a segment that was read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .errors import StorageError
from .folder import FULL, storing, sync_folder
from .model import Outcome

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Outcome).decode
_SUFFIX = ".journal"


def segments(folder: Path) -> list[int]:
    """The numbers of the segments in a folder, ascending."""
    return sorted(int(p.stem) for p in folder.glob(f"*{_SUFFIX}") if p.stem.isdigit())


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}{_SUFFIX}"


def encode(outcome: Outcome) -> bytes:
    """One line of a segment."""
    data = _encode(outcome)
    return b"%08x %b\n" % (zlib.crc32(data), data)


def read(path: Path) -> Iterator[Outcome]:
    """The outcomes of a segment, also of one that is being written or was torn: lines that are not whole are left out."""
    with path.open("rb") as stream:
        for line in stream:
            if len(line) < 11 or line[-1] != 10 or line[8] != 32:
                continue
            data = line[9:-1]
            if b"%08x" % zlib.crc32(data) == line[:8]:
                yield _decode(data)


class Journal:
    """Appends to one segment at a time. ``append`` is for the event loop; ``sync`` and ``close`` block and are for a
    thread.

    A reserve of ``reserve_bytes`` lies on the disk from the start. When the disk fills up it is given back, so that the
    answers still on their way can be written; ``full`` then tells that the run must end.

    :raises StorageError: if not even the reserve fits.
    """

    def __init__(self, folder: Path, number: int, reserve_bytes: int = 0) -> None:
        self._folder = folder
        self._reserve = folder / "reserve"
        self.full = False
        if reserve_bytes:
            with storing(self._reserve):
                self._keep(reserve_bytes)
        self._begin(number)

    def _keep(self, size: int) -> None:
        descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def _begin(self, number: int) -> None:
        path = segment_path(self._folder, number)
        with storing(path):
            # Nothing changes unless this succeeds: a failed rotation goes on with the segment there is.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            sync_folder(self._folder)
        self._descriptor = descriptor
        self.number = number
        self.rows = 0
        self.bytes = 0
        self._synced = 0

    def append(self, outcome: Outcome) -> None:
        """Write one outcome. When this returns, killing the process loses it no more.

        :raises StorageError: if it could not be written; the segment is as before.
        """
        line = encode(outcome)
        try:
            self._write(line)
        except OSError as error:
            os.ftruncate(self._descriptor, self.bytes)
            if error.errno not in FULL or self.full:
                with storing(segment_path(self._folder, self.number)):
                    raise
            self.full = True
            self._reserve.unlink(missing_ok=True)
            try:
                self._write(line)
            except OSError as again:
                os.ftruncate(self._descriptor, self.bytes)
                with storing(segment_path(self._folder, self.number)):
                    raise again from None
        self.bytes += len(line)
        self.rows += 1

    def _write(self, line: bytes) -> None:
        written = os.write(self._descriptor, line)
        while written < len(line):  # a nearly full disk takes a part, and says why at the next call
            written += os.write(self._descriptor, line[written:])

    def sync(self) -> None:
        """Make everything appended before this call survive a power cut."""
        if self._synced < self.bytes:
            size = self.bytes
            with storing(segment_path(self._folder, self.number)):
                os.fdatasync(self._descriptor)
            self._synced = size

    def rotate(self, number: int) -> int:
        """End this segment, begin the next, and return the ended one's descriptor, still to be closed."""
        ended = self._descriptor
        self._begin(number)
        return ended

    def close(self) -> None:
        """Sync and end the segment; remove it if nothing was appended, and the reserve."""
        try:
            self.sync()
        except StorageError:
            if not self.full:
                raise
        finally:
            os.close(self._descriptor)
            if not self.rows:
                segment_path(self._folder, self.number).unlink(missing_ok=True)
            self._reserve.unlink(missing_ok=True)


def drop(folder: Path, number: int) -> None:
    """Remove a segment whose outcomes are safe elsewhere."""
    segment_path(folder, number).unlink(missing_ok=True)
