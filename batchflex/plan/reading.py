"""One input file being read: its bytes, its positions, and what every reader gives.

A file that is written to while it is read is read as far as it went when the plan was made; what comes later is for a later run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import IO, Any, NamedTuple, cast

from ..core import InputError, Row
from ..storage import RemoteError
from .input_file import InputFile, native

PACKED = (".gz", ".zst")
BLOCK_BYTES = 4 << 20
PROGRESS_ROWS = 100_000  # after so many passed over a reader tells where it is
_AT_ONCE = 1 << 18  # bytes
LONGEST_LINE = 256 << 20  # bytes; a file that unpacks to gigabytes without a newline does not fill the memory
NEWLINE = 10
# What the readers raise for a file that is damaged, besides what the system says of one that cannot be read.
DAMAGED = (OSError, EOFError, ValueError, zlib.error, NotImplementedError)


class Fault(NamedTuple):
    """A row that cannot be read; the text says why."""

    text: str


class Needs(NamedTuple):
    """The columns that are looked at, of rows that have an id in each of ``ids``."""

    columns: frozenset[str]
    ids: tuple[str, ...]


class Rows(NamedTuple):
    """What a reader gives. ``end`` is the position after the last row it has passed, also of those passed over."""

    end: int
    rows: list[Row | Fault]
    at: Sequence[int]
    lines: list[int] | None = None


class Every:
    """In place of a byte for each row: all are to be passed over."""

    def __len__(self) -> int:
        return 1 << 62

    def __getitem__(self, at: int) -> int:
        return 1

    def count(self, byte: bytes, begin: int, end: int) -> int:
        return 0


class Reading(io.RawIOBase):
    """One file being read, from the byte ``begin``, before which it has ``lines`` lines, to the byte ``end`` (``None``: to its
    end). ``begin`` and ``end`` count in text files that are not packed.

    Once it is read, ``lines`` and ``bytes`` are those up to where the next row would begin, and ``digest`` is of all bytes
    before that, if it was given that of what comes before ``begin``. ``is_extensible`` tells that rows which are appended to the
    file change nothing in those that were read. ``how`` is what its format has to know besides: the dialect of a CSV file, the
    sheet of a workbook. Columns beyond those that it ``needs`` may be left out; ``None`` needs all.
    """

    longest_line = LONGEST_LINE

    def __init__(
        self,
        path: InputFile,
        begin: int = 0,
        lines: int = 0,
        end: int | None = None,
        digest: hashlib._Hash | None = None,
        how: Any = None,
        needs: Needs | None = None,
    ) -> None:
        self.path = path
        self.needs = needs
        self.how = how
        self.begin = self.bytes = begin
        self.lines = lines
        self.end = end
        self.digest = digest
        self.is_extensible = False
        self._last = NEWLINE
        self._file: io.RawIOBase | None = None

    @property
    def is_packed(self) -> bool:
        return self.path.suffix.lower() in PACKED

    def open(self) -> IO[bytes]:
        if self.path.suffix.lower() == ".gz":
            unpacked = gzip.GzipFile(fileobj=(packed := self.path.open("rb")), mode="rb")
            unpacked.myfileobj = cast(Any, packed)  # to be closed with it
            return cast(IO[bytes], unpacked)
        if self.path.suffix.lower() == ".zst":
            import pyarrow

            return io.BufferedReader(pyarrow.input_stream(native(self.path), compression="zstd"), _AT_ONCE)
        self._file = cast(io.RawIOBase, self.path.open("rb", buffering=0))
        self._file.seek(self.begin)
        return cast(IO[bytes], io.BufferedReader(self, _AT_ONCE))

    def beginning(self, size: int = _AT_ONCE) -> bytes:
        """The first ``size`` bytes, unpacked. Of a packed file that is damaged after some of them, those before that.

        :raises OSError, EOFError, ValueError, zlib.error: if not even its first bytes can be read.
        """
        if not self.is_packed:
            with self.path.open("rb", buffering=0) as file:
                return file.read(size)
        found = b""
        with self.open() as stream:
            try:
                while len(found) < size and (data := stream.read(min(size - len(found), 1 << 14))):
                    found += data
            except DAMAGED:
                if not found:
                    raise
        return found

    def too_long(self, line: int) -> str:
        """What is said of a line that has not ended after ``longest_line`` bytes."""
        most = self.longest_line >> 20
        return f"{self.path}, line {line:,} is longer than {most} MB: that is no row, and would fill the memory"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer)
        if self.end is not None:
            room = room[: self.end - self.bytes]
        size = (self._file.readinto(room) or 0) if self._file is not None and room else 0
        if size:
            self.bytes += size
            self._last = room[size - 1]
            if self.digest is not None:
                self.digest.update(room[:size])
        return size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    @property
    def ends_a_line(self) -> bool:
        return self._last == NEWLINE

    def has_grown(self) -> bool:
        """Whether more was written to it meanwhile, so that what is left of a last line is only its beginning."""
        try:
            return self.end is not None and not self.is_packed and self.path.stat().st_size > self.end
        except OSError:
            return False

    def leave(self, length: int) -> None:
        """The last bytes are no row yet."""
        self.bytes -= length
        self._last = NEWLINE
        if self.digest is not None:
            self.digest = digest(self.path, self.bytes)


def digest(path: InputFile, size: int | None = None) -> hashlib._Hash:
    """SHA-256 of a file, or of its first ``size`` bytes.

    :raises OSError: if it cannot be read.
    """
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(1 << 20 if size is None else min(1 << 20, size)):
            found.update(data)
            size = None if size is None else size - len(data)
    return found


def fault(path: InputFile, what: str, error: Exception, words: str = "") -> InputError:
    """That a file cannot be reached, or ``what`` it is if it can be."""
    if isinstance(error, RemoteError):
        return InputError(f"{path} cannot be read: {error.strerror}")
    return InputError(f"{path} {what}: {words or error}")


def unread(path: InputFile, row: int, error: Exception) -> InputError:
    """Why a file could not be read on after so many rows: it cannot be reached, or is damaged."""
    if isinstance(error, OSError) and error.errno:
        return InputError(f"{path} cannot be read{f' on after row {row}' if row else ''}: {error.strerror}")
    return InputError(f"{path} is damaged somewhere after row {row}: {error}")


def passes_all(skip: bytes, begin: int, end: int) -> bool:
    """Whether all rows from ``begin`` to ``end`` are to be passed over."""
    return end <= len(skip) and skip.find(b"\0", begin, end) < 0


def wanted(begin: int, end: int, skip: bytes | Every) -> Sequence[int]:
    """The positions from ``begin`` to ``end`` that are not to be passed over."""
    known = min(end, len(skip))
    left = skip.count(b"\0", begin, known) if known > begin else 0
    if left == max(0, known - begin):
        return range(begin, end)
    if not left:
        return range(known, end)
    return [at for at in range(begin, end) if at >= known or not skip[at]]


def suffix(path: InputFile | PurePath) -> str:
    """``.jsonl`` of ``rows.jsonl.gz``."""
    return PurePath(path.stem).suffix.lower() if path.suffix.lower() in PACKED else path.suffix.lower()
