"""The rows of input files, by the block; lazily.

A block is read, handed on and forgotten: memory does not grow with the input. How files are read is in
:mod:`batchflex.plan.formats`; what a row means is decided in :mod:`batchflex.plan.rows`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import StorageSection
from ..core import TIMINGS, InputError, Row, is_bucket, is_url, url_name
from .formats import FORMATS, Opening, Remembered, Settings, may_grow, opening
from .frame_input import FrameInput, Made
from .input_file import InputFile
from .input_paths import expand, splits_note
from .reading import DAMAGED, PACKED, Every, Fault, Needs, Reading, digest, passes_all, unread

if TYPE_CHECKING:
    import polars as pl

BLOCK_ROWS = 1_000
_COARSE_S = 3.0  # that a file is young where the file system keeps seconds only; else TIMINGS.young_file_s


class Seen(NamedTuple):
    """What the system says of a file, without reading it. Times in ns."""

    path: str
    format: str
    inode: int
    size: int
    modified: int
    changed: int

    @property
    def newest(self) -> int:
        return max(self.modified, self.changed)

    @property
    def may_grow(self) -> bool:
        """Whether rows can be appended to it without changing what is there."""
        return may_grow(url_name(self.path) if is_url(self.path) else PurePath(self.path), self.format)

    @property
    def is_told_by_tag(self) -> bool:
        """Whether its tag and its time are enough to know it again, so that it need not be read for its digest."""
        return self.has_tag or (bool(self.inode) and is_url(self.path) and self.modified % 1_000_000_000 == 0)

    @property
    def has_tag(self) -> bool:
        """Whether ``inode`` stands for a tag that changes with the content, as object stores have it. On the web it need not."""
        return bool(self.inode) and is_bucket(self.path)

    def has_become(self, now: Seen) -> bool:
        """Whether it may be the same file still, in which the same rows come first."""
        return now == self or (self.may_grow and now.inode == self.inode and now.size > self.size)


# What :meth:`Source.seen` tells of each file.
Signature = tuple[Seen, ...]


class Known(NamedTuple):
    """How a file begins, as is known without reading it: so many ``rows`` on so many ``lines``, which take its first ``bytes``.

    ``sha256`` is the digest of these bytes, ``digest`` the same to be gone on with; either may be missing.
    """

    rows: int
    lines: int
    bytes: int
    sha256: str | None = None
    digest: hashlib._Hash | None = None


class Ended(NamedTuple):
    """A file that was read to its end: how it begins, or rather is, whether rows can be appended to it, and whether it is still
    as it was signed: if it is longer, its beginning might be another, too."""

    known: Known
    is_extensible: bool
    is_as_signed: bool


class Block(NamedTuple):
    """Rows of one file, in their order. ``at`` are their positions in the whole input, from 0.

    ``lines`` are their line numbers, from 1, where the file has lines; ``first`` is the position of the file's first row.
    ``file`` is empty for a frame; ``number`` is which of the source's files it is, from 0. ``messages`` are those of each row,
    where a function has made them.
    """

    file: str
    rows: list[Row | Fault]
    at: Sequence[int]
    lines: list[int] | None
    first: int = 0
    number: int = 0
    messages: list[Made] | None = None

    def where(self, index: int) -> str:
        """``reviews.jsonl, line 17`` for the row at ``index`` of this block."""
        if self.lines is not None:
            return f"{self.file}, line {self.lines[index]}"
        row = self.at[index] - self.first + 1
        return f"{self.file}, row {row}" if self.file else f"row {row}"


class Source:
    """The rows of one or more files, in the order of the paths given; a folder's and a glob's files by name.

    Files inside the folder ``without`` are left out: a run may write into a folder that it reads. So are those of which
    ``counts`` is not true, ``left_out`` of them. What is ``known`` of the files need not be read where
    all of its rows are passed over.

    :raises InputError: if nothing is there, or the kind of a file cannot be told.
    """

    def __init__(
        self,
        paths: str | list[str] | None,
        settings: Settings = Settings(),  # noqa: B008 - it is immutable
        frame: pl.DataFrame | FrameInput | None = None,
        without: Path | None = None,
        counts: Callable[[Seen], bool] | None = None,
        remembered: Remembered = lambda path, beginning, seems: None,
        storage: StorageSection = StorageSection(),  # noqa: B008
    ) -> None:
        self._frame = FrameInput.of(frame)
        self.needs: Needs | None = None  # of the rows, when that is known
        self.left_out = 0
        self.files: list[tuple[InputFile, str]] = []
        self.openings: list[Opening] = []
        self.known: list[Known | None] = []
        if frame is not None:
            return
        if not paths:
            raise InputError(
                "the job names no input: set input.path to a file, a folder or a pattern such as 'data/*.jsonl'"
            )
        found = expand(paths, storage)
        if without is not None:
            inside = without.resolve()
            found = [p for p in found if not p.resolve().is_relative_to(inside)]
        newer = [p for p in found if counts is None or counts(_seen(p, ""))]
        self.left_out = len(found) - len(newer)
        self.openings = [opening(path, settings, remembered) for path in newer]
        self.files = [(path, opened.kind) for path, opened in zip(newer, self.openings, strict=True)]
        self.known = [None] * len(newer)

    def notes(self) -> list[str]:
        """Sentences about how the files are read, where that is not told by their names: the dialects of CSV files, sheets,
        splits. Files that are alike share one."""
        paths = [path for path, _ in self.files]
        found = [] if (splits := splits_note(paths)) is None else [splits]
        alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for path, opened in zip(paths, self.openings, strict=True):
            if opened.note is not None:
                alike.setdefault((opened.note, opened.keys), []).append(path.name)
        for (words, keys), names in alike.items():
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            say = "says" if len(keys) == 1 else "say"
            found.append(f"{names[0]}{more}: {words} ({' and '.join(keys)} {say} otherwise)")
        return found

    def blocks(
        self,
        max_rows: int = BLOCK_ROWS,
        skip: bytes = b"",
        signed: Signature | None = None,
        on_change: Callable[[InputFile], object] = lambda path: None,
        on_end: Callable[[int, Ended], None] | None = None,
    ) -> Iterator[Block]:
        """The rows from the beginning, at most ``max_rows`` a block.

        ``skip`` has a byte for each of the first rows of the input. Those where it is not zero are passed over, which
        costs a fraction of reading them, or nothing. A file that is longer now than it was ``signed`` is read as far as it went
        then. ``on_change`` is called before a block of a file is given that is not, or no more, as it was ``signed``;
        ``on_end`` with the number of each file that was read to its end and is as it was, or begins so.

        :raises InputError: if a file cannot be opened or is damaged beyond single rows.
        """
        if self._frame is not None:
            for rows, at, messages in self._frame.blocks(max_rows, skip):
                yield Block("", rows, at, None, messages=messages)
            return
        first = 0
        for number, (path, kind) in enumerate(self.files):
            seen = None if signed is None else signed[number]

            def is_unchanged(path: InputFile = path, kind: str = kind, seen: Seen | None = seen) -> bool:
                is_still = seen is None or _is_still(path, kind, seen)
                if not is_still:
                    on_change(path)
                return is_still

            is_unchanged()
            known = None if seen is None else self.known[number]
            counts_on_it = known is not None or not _passes_none(skip, first)
            if counts_on_it and seen is not None and seen != _seen_now(path, kind) and not _begins_so(path, known):
                on_change(path)  # in place of what was added, what is passed over might have been changed
                known = None
            passes = known is not None and known.rows > 0 and passes_all(skip, first, first + known.rows)
            start = known if passes else None
            begin = end = first + (start.rows if start is not None else 0)
            if start is not None and seen is not None and start.bytes == seen.size:
                first = end
                continue
            reading = self._reading(number, seen, start)
            try:
                for read in FORMATS[kind].read(reading, max_rows, begin, skip):
                    end = read.end
                    if read.rows:
                        is_unchanged()
                        yield Block(path.name, read.rows, read.at, read.lines, first, number)
                if on_end is not None and is_unchanged() and (ended := _ended(reading, kind, seen, end - first)):
                    is_sure = ended.is_as_signed or passes or known is None
                    if is_sure or _begins_so(path, known):
                        on_end(number, ended)
                    else:
                        on_change(path)
            except DAMAGED as error:
                raise unread(path, end - first, error) from error
            first = end

    @property
    def has_messages(self) -> bool:
        """Whether the rows come with messages that a function has made of them."""
        return self._frame is not None and self._frame.has_messages

    def seen(self) -> Signature | None:
        """What tells that the files are still those that were read, without reading them; ``None`` of a frame. It does not tell
        that of a file that :func:`is_young`.

        :raises InputError: if a file is gone.
        """
        return None if self._frame is not None else tuple(_seen(path, kind) for path, kind in self.files)

    def columns(self) -> list[str] | None:
        """The columns of a table input, known before its rows are; ``None`` for JSONL, where each line may differ."""
        if self._frame is not None:
            return self._frame.columns
        names: dict[str, None] = {}
        if not self.files:
            return None
        for (path, kind), opened in zip(self.files, self.openings, strict=True):
            columns = FORMATS[kind].columns
            if columns is None:
                return None
            names |= dict.fromkeys(columns(path, opened.how))
        return list(names)

    def arrow_schema(self) -> Any | None:
        """The Arrow schema of a frame, or of files that have types and one format, so that carried columns keep their types;
        else ``None``."""
        if self._frame is not None:
            return self._frame.arrow_schema()
        kinds = {kind for _, kind in self.files}
        schema = FORMATS[kinds.pop()].schema if len(kinds) == 1 else None
        return None if schema is None else schema(self.files[0][0], self.openings[0].how)

    def count(self, signed: Signature | None = None) -> int | None:
        """How many rows there are, where that costs no unpacking and no parsing; else ``None``."""
        if self._frame is not None:
            return len(self._frame)
        if not all(
            FORMATS[kind].rows is not None or (kind == "jsonl" and path.suffix.lower() not in PACKED)
            for path, kind in self.files
        ):
            return None
        return sum(
            self.rows_of(number, None if signed is None else signed[number]) for number in range(len(self.files))
        )

    def rows_of(self, number: int, seen: Seen | None = None) -> int:
        """How many rows a file has; what is not known of it is read, and not kept.

        :raises InputError: if it is damaged.
        """
        path, kind = self.files[number]
        known = self.known[number]
        if known is not None and seen is not None and known.bytes == seen.size:
            return known.rows
        if (count := FORMATS[kind].rows) is not None:
            return count(path, self.openings[number].how)
        before = known.rows if known is not None else 0
        end = before
        try:
            for read in FORMATS[kind].read(
                self._reading(number, seen, known, counts=True), BLOCK_ROWS, before, Every()
            ):
                end = read.end
        except DAMAGED as error:
            raise unread(path, end, error) from error
        return end

    def _reading(self, number: int, seen: Seen | None, known: Known | None, *, counts: bool = False) -> Reading:
        """With ``counts`` no digest is made of the bytes."""
        (path, kind), how = self.files[number], self.openings[number].how
        is_text = may_grow(path, kind)
        end = seen.size if seen is not None and is_text else None
        if known is None or not is_text:
            fresh = None if counts or end is None else hashlib.sha256()
            return Reading(path, end=end, digest=fresh, how=how, needs=self.needs)
        so_far = None if counts or known.digest is None else known.digest.copy()
        return Reading(path, known.bytes, known.lines, end, so_far, how)


def escaped_name(path: str) -> str:
    """A path as text that can be written down: bytes of a name that are no UTF-8 are escaped."""
    return path.encode(errors="backslashreplace").decode()


def is_young(seen: Seen, now: int) -> bool:
    """Whether a file might be written to again without getting another time. ``now`` is in ns."""
    return not seen.has_tag and seen.newest > now - 1e9 * (
        _COARSE_S if seen.newest % 1_000_000_000 == 0 else TIMINGS.young_file_s
    )


def _ended(reading: Reading, kind: str, seen: Seen | None, rows: int) -> Ended | None:
    """What is known of a file from now on; ``None`` if it has changed meanwhile. Reads it once more if its reader has not seen
    its bytes."""
    if seen is None:
        return None
    if reading.end is not None:
        sha256 = reading.digest.hexdigest() if reading.digest is not None else None
        known = Known(rows, reading.lines, reading.bytes, sha256, reading.digest)
        return Ended(known, reading.is_extensible, _seen_now(reading.path, kind) == seen)
    sha256 = None if seen.is_told_by_tag else digest(reading.path).hexdigest()
    return Ended(Known(rows, 0, seen.size, sha256), False, True) if _is_still(reading.path, kind, seen) else None


def _passes_none(skip: bytes, begin: int) -> bool:
    """Whether nothing is passed over from here on."""
    return skip.count(b"\0", begin) >= len(skip) - begin


def _begins_so(path: InputFile, known: Known | None) -> bool:
    """Whether a file begins as is known of it, which is read for that."""
    try:
        return known is not None and known.sha256 is not None and digest(path, known.bytes).hexdigest() == known.sha256
    except OSError:
        return False


def _seen(path: InputFile, kind: str) -> Seen:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    return Seen(str(path), kind, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _seen_now(path: InputFile, kind: str) -> Seen | None:
    try:
        return _seen(path, kind)
    except InputError:
        return None


def _is_still(path: InputFile, kind: str, seen: Seen) -> bool:
    """Whether a file is as it was, or longer; one that is gone is not, though what is open can be read to its end."""
    now = _seen_now(path, kind)
    return now is not None and seen.has_become(now)
