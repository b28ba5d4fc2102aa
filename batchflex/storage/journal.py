"""The journal: every outcome is here before it counts as done.

A segment is a file of lines, each ``CRC-32 of the JSON, 8 hex digits``, a space, the outcome as JSON, a newline. A line
is handed to the kernel in one ``write`` as soon as its answer is complete: killing the process loses none. ``sync``
makes what was written so far survive a power cut, and is called for many lines at once. A segment is only ever
appended to by the run that began it, so a torn tail needs no repair: its bad line is not counted, and the next run
begins another segment. Nothing here knows what becomes of a segment that was read.

A line with ``!`` in place of the space is a note: ``{"void": RUN_ID}`` says that the failures of that run count for nothing.
Versions that know no notes take such a line for a damaged one.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..core import FolderError, Outcome, StorageError
from .files import FULL, storing, sync_folder

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Outcome).decode
_SUFFIX = ".journal"
_OUTCOME, _NOTE = ord(" "), ord("!")


def segments(folder: Path) -> list[int]:
    """The numbers of the segments in a folder, ascending.

    :raises FolderError: if it cannot be read.
    """
    try:
        return sorted(int(p.stem) for p in folder.glob(f"*{_SUFFIX}") if p.stem.isdecimal())
    except OSError as error:
        raise FolderError(f"{folder} cannot be read: {error.strerror or error}") from None


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}{_SUFFIX}"


class _Note(msgspec.Struct):
    void: str | None = None


_decode_note = msgspec.json.Decoder(_Note).decode


def encode(outcome: Outcome) -> bytes:
    """One line of a segment. Halves of surrogate pairs, which UTF-8 has no place for, become U+FFFD."""
    try:
        data = _encode(outcome)
    except UnicodeEncodeError:
        data = _encode(
            msgspec.structs.replace(outcome, **{n: _whole(v) for n, v in msgspec.structs.asdict(outcome).items()})
        )
    return b"%08x %b\n" % (zlib.crc32(data), data)


def _whole(value: object) -> object:
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


def read(path: Path, void: list[str] | None = None) -> Iterator[Outcome]:
    """The outcomes of a segment, also of one that is being written or was torn: what is not a whole line is left out.

    A segment that is gone, because its run has sealed it meanwhile, has none. The ids of runs whose failures are void are added
    to ``void``.

    :raises FolderError: if it cannot be read, or a whole line of it is no outcome: another version wrote it.
    """
    try:
        with path.open("rb") as stream:
            for line in stream:
                if len(line) < 11 or line[-1] != 10 or line[8] not in (_OUTCOME, _NOTE):
                    continue
                data = line[9:-1]
                if b"%08x" % zlib.crc32(data) != line[:8]:
                    continue
                if line[8] == _OUTCOME:
                    yield _decode(data)
                elif void is not None and (run := _decode_note(data).void) is not None:
                    void.append(run)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise FolderError(f"{path} was written by another version of batchflex: {error}") from None


class Segment:
    """One file being appended to. Its length is kept here, so that a line half written can be cut off again. Making one blocks.

    :raises StorageError: if the file cannot be made, or is there.
    """

    __slots__ = ("_torn", "bytes", "descriptor", "number", "path", "rows", "synced")

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.path = segment_path(folder, number)
        self.rows = self.bytes = self.synced = 0
        self._torn = False
        with storing(self.path):
            self.descriptor = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644
            )
            try:
                sync_folder(folder)
            except OSError:
                self.end()
                raise

    def write(self, line: bytes) -> None:
        if self._torn:
            self._cut()
        try:
            written = os.write(self.descriptor, line)
            while written < len(line):  # a nearly full disk takes a part, and says why at the next call
                written += os.write(self.descriptor, line[written:])
        except OSError:
            self._torn = True
            self._cut()
            raise
        self.bytes += len(line)
        self.rows += 1

    def _cut(self) -> None:
        os.ftruncate(self.descriptor, self.bytes)
        self._torn = False

    def sync(self) -> None:
        if self.synced < self.bytes and self.descriptor >= 0:
            size = self.bytes
            with storing(self.path):
                os.fdatasync(self.descriptor)
            self.synced = size

    def end(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            if not self.rows:
                self.path.unlink(missing_ok=True)


class Journal:
    """Appends to one ``segment`` at a time. ``append`` and ``rotate`` are for the event loop; ``hold``, ``sync`` and ``close``
    block and are for a thread, any thread.

    A reserve of ``reserve_bytes`` lies on the disk from the start. When the disk fills up it is freed, so that the
    answers still in flight can be written; ``full`` then says that the run must end. ``longest`` is the longest line so far, in
    bytes.

    :raises StorageError: if not even the reserve fits.
    """

    def __init__(self, folder: Path, number: int, reserve_bytes: int = 0) -> None:
        self._reserve = folder / "reserve"
        self._syncing = threading.Lock()
        self._ended: deque[Segment] = deque()
        self.full = False
        self._reserved = 0
        self.longest = 0
        if reserve_bytes:
            with storing(self._reserve):
                self._keep(reserve_bytes)
        try:
            self.segment = Segment(folder, number)
        except BaseException:
            self._reserve.unlink(missing_ok=True)
            raise

    def _keep(self, size: int) -> None:
        descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        self._reserved = size

    def hold(self, size: int) -> None:
        """Enlarge the reserve to ``size`` bytes, if it is smaller; a disk without room for that is ``full``. Blocks.

        :raises StorageError: if the reserve cannot be written for another reason.
        """
        with self._syncing:
            if size <= self._reserved or self.full:
                return
            try:
                with storing(self._reserve):
                    self._keep(size)
            except StorageError as error:
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in FULL:
                    raise
                self.full = True

    def append(self, outcome: Outcome) -> None:
        """Write one outcome. When this returns, killing the process loses it no more.

        :raises StorageError: if it could not be written; the segment is as before.
        """
        self._write(encode(outcome))

    def void(self, run_id: str) -> None:
        """Note that the failures of a run count for nothing. As :meth:`append`."""
        data = _encode(_Note(run_id))
        self._write(b"%08x!%b\n" % (zlib.crc32(data), data))

    def _write(self, line: bytes) -> None:
        self.longest = max(self.longest, len(line))
        try:
            self.segment.write(line)
        except OSError as error:
            with storing(self.segment.path):
                if error.errno not in FULL or self.full:
                    raise
                self.full = True
                self._reserve.unlink(missing_ok=True)
                self.segment.write(line)

    def sync(self) -> None:
        """Make everything appended before this call survive a power cut.

        :raises StorageError: if the disk does not take it.
        """
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        while self._ended:
            self._ended[0].sync()
            self._ended.popleft().end()
        self.segment.sync()

    def rotate(self, fresh: Segment) -> None:
        """Continue in a fresh segment. The one before is closed by the next :meth:`sync`, for one may be under way in it."""
        self._ended.append(self.segment)
        self.segment = fresh

    def close(self) -> None:
        """Sync and end the segment; remove it if nothing was appended, and the reserve. Closing again does nothing.

        :raises StorageError: if the last answers cannot be synced, unless the disk was ``full`` already.
        """
        with self._syncing:
            try:
                self._sync()
            except StorageError:
                if not self.full:
                    raise
            finally:
                for segment in (*self._ended, self.segment):
                    segment.end()
                self._ended.clear()
                self._reserve.unlink(missing_ok=True)


def drop(folder: Path, number: int) -> None:
    """Remove a segment whose outcomes are safe elsewhere."""
    segment_path(folder, number).unlink(missing_ok=True)
