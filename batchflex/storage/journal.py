"""The journal: every outcome is here before it counts as done.

A segment is a file of records, one after the other: ``FF 42 46 02`` (the last is the number of this form), the CRC-32 of what
follows and its length, 4 bytes each, little-endian; then the outcome as a MessagePack array of its fields. The file is mapped
into memory, and a record is copied there as soon as its answer is complete, its head last: killing the process loses none.
Space is reserved on the disk before it is mapped, so that a full disk is an error then and no signal later; what of it is not
used is zeros, and is cut off in the end. Where the file system may need more for what it has reserved (see
:func:`.files.keeps_reserved_space`), a record is handed to the kernel in one ``write``.

``sync`` makes what was kept so far survive a power cut, and is called for many records at once. A segment is only ever appended
to by the run that began it, so a torn tail needs no repair: it is no whole record, and the next run begins another segment.
Nothing here knows what becomes of a segment that was read.

A MessagePack map in place of the array is a note: ``{"void": RUN_ID}`` says that the failures of that run count for nothing.
Segments of folders of format 2 and before are lines of JSON, and are read as well.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import mmap
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from ..core import FolderError, Outcome, StorageError
from .files import FULL, keeps_reserved_space, storing, sync_folder

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome | dict[str, Any]).decode
_SUFFIX = ".journal"
_MARKER = b"\xffBF\x02"  # 0xFF is in no text, so in no segment of lines
_HEAD = struct.Struct("<4sII")
_BLOCK = 64 << 10
_FIRST_ROOM, _STEP, _LARGEST_ROOM = 1 << 20, 4 << 20, 64 << 20  # bytes reserved at once; _STEP is mapped at once


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


def encode(outcome: Outcome) -> bytes:
    """The body of a record. Halves of surrogate pairs, which UTF-8 has no place for, become U+FFFD."""
    try:
        return _encode(outcome)
    except UnicodeEncodeError:
        return _encode(Outcome(*map(_whole, msgspec.structs.astuple(outcome))))


def _whole(value: Any) -> Any:
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


def read(path: Path, void: list[str] | None = None) -> Iterator[Outcome]:
    """The outcomes of a segment, also of one that is being written or was torn: what is no whole record is left out.

    A segment that is gone, because its run has sealed it meanwhile, has none. The ids of runs whose failures are void are added
    to ``void``.

    :raises FolderError: if it cannot be read, or a whole record of it is no outcome: another version wrote it.
    """
    try:
        with path.open("rb") as stream:
            records = _records(stream)
            first = next(records, None)
            for record in _lines(stream) if first is None else itertools.chain([first], records):
                if isinstance(record, Outcome):
                    yield record
                elif void is not None and isinstance(run := record.get("void"), str):
                    void.append(run)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise FolderError(f"{path} was written by another version of batchflex: {error}") from None


def _records(stream: IO[bytes]) -> Iterator[Outcome | dict[str, Any]]:
    """What is whole of a file of records. After damage it goes on at the next that is. What is not whole, or not there though
    something after it is, may have been written just as it was read: it is looked at once more before it is passed over."""
    begin, broken_at, missing_at, size = 0, -1, -1, os.fstat(stream.fileno()).st_size
    while _seek_marker(stream, begin):
        found = stream.tell()
        if found > begin and missing_at != begin:
            missing_at = begin
            continue
        begin = found
        while len(head := stream.read(_HEAD.size)) == _HEAD.size:
            marker, checksum, length = _HEAD.unpack(head)
            if marker != _MARKER or not 0 < length <= size - begin:
                break
            body = stream.read(length)
            if len(body) < length or zlib.crc32(body) != checksum:
                break
            yield _decode(body)
            begin += len(head) + length
        begin, broken_at = (begin + 1, -1) if begin == broken_at else (begin, begin)


def _seek_marker(stream: IO[bytes], begin: int) -> bool:
    """Go to the first marker at or after ``begin``, as the file is now; false if there is none."""
    stream.seek(0, io.SEEK_END)  # empties the buffer
    stream.seek(begin)
    block = b""
    while more := stream.read(_BLOCK):
        block = block[1 - len(_MARKER) :] + more
        if (found := block.find(_MARKER)) >= 0:
            stream.seek(found - len(block), io.SEEK_CUR)
            return True
    return False


class _Line(Outcome, frozen=True, gc=False, array_like=False):
    response: str | None = None  # type: ignore[assignment]


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_note = msgspec.json.Decoder(dict[str, Any]).decode


def _lines(stream: IO[bytes]) -> Iterator[Outcome | dict[str, Any]]:
    """What is whole of a file of lines: the CRC-32 of the JSON in hexadecimal, a space (of a note ``!``), the JSON."""
    stream.seek(0)
    for line in stream:
        data, kind = line[9:-1], line[8:9]
        if not data or line[-1] != 10 or kind not in (b" ", b"!") or b"%08x" % zlib.crc32(data) != line[:8]:
            continue
        if kind == b"!":
            yield _decode_note(data)
        else:
            fields = msgspec.structs.asdict(_decode_line(data))
            response = fields.pop("response")
            yield Outcome(**fields, response=None if response is None else response.encode())


class Segment:
    """One file being appended to: ``bytes`` is where its records end, ``room`` how much of the disk is reserved at once, if there
    is as much. Making one blocks.

    :raises StorageError: if the file cannot be made, or is there.
    """

    __slots__ = (
        "_begin", "_end", "_is_mapped", "_map", "_reserved", "_torn", "bytes", "descriptor", "number", "path", "rows", "synced",
    )  # fmt: skip
    _map: mmap.mmap

    def __init__(self, folder: Path, number: int, room: int = 0) -> None:
        self.number = number
        self.path = segment_path(folder, number)
        self.rows = self.bytes = self.synced = self._reserved = 0
        self._begin = self._end = 0  # of what is mapped
        self._torn = False
        with storing(self.path):
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                self._is_mapped = keeps_reserved_space(self.descriptor)
                self._reserve(min(max(room, _FIRST_ROOM), _LARGEST_ROOM), least=0)
                sync_folder(folder)
            except OSError:
                self.end()
                raise

    def write(self, body: bytes) -> None:
        """:raises OSError: if it cannot be written; the segment is as before."""
        end = self.bytes + _HEAD.size + len(body)
        if end <= self._end or self._is_mapped_to(end):
            at = self.bytes - self._begin
            self._map[at + _HEAD.size : end - self._begin] = body
            _HEAD.pack_into(self._map, at, _MARKER, zlib.crc32(body), len(body))
        else:
            self._append(_HEAD.pack(_MARKER, zlib.crc32(body), len(body)) + body)
        self.bytes = end
        self.rows += 1

    def _is_mapped_to(self, end: int) -> bool:
        """Map the file as far as that, which may reserve more of the disk. False where it is to be written."""
        if self.descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if end > self._reserved:
            more = min(max(self._reserved, _FIRST_ROOM), _STEP)
            self._reserve(max(self._reserved + more, end), least=end)
        self._unmap()
        if self._is_mapped:
            self._begin = self.bytes - self.bytes % mmap.ALLOCATIONGRANULARITY
            size = min(max(self._begin + _STEP, end), self._reserved) - self._begin
            self._map = mmap.mmap(self.descriptor, size, offset=self._begin)
            self._end = self._begin + size
        return self._is_mapped

    def _reserve(self, end: int, least: int) -> None:
        for wanted in (end, least):
            if not self._is_mapped or wanted <= self._reserved:
                return
            try:
                os.posix_fallocate(self.descriptor, self._reserved, wanted - self._reserved)
                self._reserved = wanted
            except OSError as error:
                os.ftruncate(self.descriptor, self._reserved)  # gives back what of it was had
                self._is_mapped = error.errno not in (errno.EOPNOTSUPP, errno.EINVAL)
                if self._is_mapped and (error.errno not in FULL or wanted == least):
                    raise

    def _unmap(self) -> None:
        if self._end:
            self._end = 0
            self._map.close()

    def _append(self, record: bytes) -> None:
        if self._torn:
            self._cut()
        try:
            written = 0
            while written < len(record):  # a nearly full disk takes a part, and says why at the next call
                written += os.pwrite(self.descriptor, record[written:], self.bytes + written)
        except OSError:
            self._torn = True
            self._cut()
            raise

    def _cut(self) -> None:
        os.ftruncate(self.descriptor, self.bytes)
        self._torn = False

    def sync(self) -> None:
        if self.synced < self.bytes and self.descriptor >= 0:
            size = self.bytes
            with storing(self.path):
                os.fdatasync(self.descriptor)  # what is mapped, too (msync(2))
            self.synced = size

    def end(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            self._unmap()
            with contextlib.suppress(OSError):  # zeros at its end do no harm
                os.ftruncate(descriptor, self.bytes)
            os.close(descriptor)
            if not self.rows:
                self.path.unlink(missing_ok=True)


class Journal:
    """Appends to one ``segment`` at a time. ``append`` and ``rotate`` are for the event loop; ``hold``, ``sync`` and ``close``
    block and are for a thread, any thread.

    A reserve of ``reserve_bytes`` lies on the disk from the start. When the disk fills up it is freed, so that the
    answers still in flight can be written; ``full`` then says that the run must end. ``longest`` is the longest record so far, in
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
        self._write(_encode({"void": run_id}))

    def _write(self, body: bytes) -> None:
        if len(body) > self.longest:
            self.longest = len(body)
        try:
            self.segment.write(body)
        except OSError as error:
            with storing(self.segment.path):
                if error.errno not in FULL or self.full:
                    raise
                self.full = True
                self._reserve.unlink(missing_ok=True)
                self.segment.write(body)

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
