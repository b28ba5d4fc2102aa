"""The rows of input files, by the block; lazily.

A block is read, handed on and forgotten: memory does not grow with the input. How files are read is in
:mod:`batchflex.plan.formats`; what a row means is decided in :mod:`batchflex.plan.rows`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core import TIMINGS, InputError, Row, did_you_mean
from .formats import (
    DAMAGED,
    PACKED,
    Every,
    Fault,
    Reading,
    Rows,
    csv_header,
    digest,
    parquet_metadata,
    parquet_schema,
    passes_all,
    read_csv,
    read_jsonl,
    read_parquet,
    suffix,
    wanted,
)

_FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv",
}  # fmt: skip
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
        return self.format != "parquet" and Path(self.path).suffix.lower() not in PACKED

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
    ``file`` is empty for a frame; ``number`` is which of the source's files it is, from 0.
    """

    file: str
    rows: list[Row | Fault]
    at: Sequence[int]
    lines: list[int] | None
    first: int = 0
    number: int = 0

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
        format: str = "auto",
        frame: Any = None,
        without: Path | None = None,
        counts: Callable[[Seen], bool] | None = None,
    ) -> None:
        self._frame = frame
        self.left_out = 0
        self.files: list[tuple[Path, str]] = []
        self.known: list[Known | None] = []
        if frame is not None:
            return
        if not paths:
            raise InputError(
                "the job names no input: set input.path to a file, a folder or a pattern such as 'data/*.jsonl'"
            )
        found = _expand([paths] if isinstance(paths, str) else paths)
        if without is not None:
            inside = without.resolve()
            found = [p for p in found if not p.resolve().is_relative_to(inside)]
        newer = [p for p in found if counts is None or counts(_seen(p, ""))]
        self.left_out = len(found) - len(newer)
        self.files = [(p, _format(p, format)) for p in newer]
        self.known = [None] * len(newer)

    def blocks(
        self,
        max_rows: int = BLOCK_ROWS,
        skip: bytes = b"",
        signed: Signature | None = None,
        on_change: Callable[[Path], object] = lambda path: None,
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
            for begin in range(0, self._frame.height, max_rows):
                at = wanted(begin, min(begin + max_rows, self._frame.height), skip)
                if at:
                    yield Block("", self._frame[at].to_dicts(), at, None)
            return
        first = 0
        for number, (path, kind) in enumerate(self.files):
            seen = None if signed is None else signed[number]

            def is_unchanged(path: Path = path, kind: str = kind, seen: Seen | None = seen) -> bool:
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
            reading = _reading(path, kind, seen, start)
            try:
                for read in _READERS[kind](reading, max_rows, begin, skip):
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
                raise InputError(f"{path} is damaged somewhere after row {end - first}: {error}") from error
            first = end

    def seen(self) -> Signature | None:
        """What tells that the files are still those that were read, without reading them; ``None`` of a frame. It does not tell
        that of a file that :func:`is_young`.

        :raises InputError: if a file is gone.
        """
        return None if self._frame is not None else tuple(_seen(path, kind) for path, kind in self.files)

    def columns(self) -> list[str] | None:
        """The columns of a table input, known before its rows are; ``None`` for JSONL, where each line may differ."""
        if self._frame is not None:
            return list(self._frame.columns)
        names: dict[str, None] = {}
        if not self.files:
            return None
        for path, kind in self.files:
            if kind == "jsonl":
                return None
            names |= dict.fromkeys(parquet_schema(path).names if kind == "parquet" else csv_header(path))
        return list(names)

    def arrow_schema(self) -> Any | None:
        """The Arrow schema of a Parquet or frame input, so that carried columns keep their types; else ``None``."""
        if self._frame is not None:
            return self._frame.head(0).to_arrow().schema
        if self.files and all(kind == "parquet" for _, kind in self.files):
            return parquet_schema(self.files[0][0])
        return None

    def count(self, signed: Signature | None = None) -> int | None:
        """How many rows there are, where that costs no unpacking and no parsing; else ``None``."""
        if self._frame is not None:
            return int(self._frame.height)
        if not all(
            kind == "parquet" or (kind == "jsonl" and path.suffix.lower() not in PACKED) for path, kind in self.files
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
        if kind == "parquet":
            return int(parquet_metadata(path).num_rows)
        before = known.rows if known is not None else 0
        end = before
        try:
            for read in _READERS[kind](_reading(path, kind, seen, known, counts=True), BLOCK_ROWS, before, Every()):
                end = read.end
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno:
                raise InputError(f"{path} cannot be read: {error.strerror}") from None
            raise InputError(f"{path} is damaged somewhere after row {end}: {error}") from error
        return end


def escaped_name(path: str) -> str:
    """A path as text that can be written down: bytes of a name that are no UTF-8 are escaped."""
    return path.encode(errors="backslashreplace").decode()


def is_young(seen: Seen, now: int) -> bool:
    """Whether a file might be written to again without getting another time. ``now`` is in ns."""
    return seen.newest > now - 1e9 * (_COARSE_S if seen.newest % 1_000_000_000 == 0 else TIMINGS.young_file_s)


_READERS: dict[str, Callable[[Reading, int, int, Any], Iterator[Rows]]] = {
    "jsonl": read_jsonl, "csv": read_csv, "parquet": read_parquet,
}  # fmt: skip


def _reading(path: Path, kind: str, seen: Seen | None, known: Known | None, *, counts: bool = False) -> Reading:
    """With ``counts`` no digest is made of the bytes."""
    is_text = kind != "parquet" and path.suffix.lower() not in PACKED
    end = seen.size if seen is not None and is_text else None
    if known is None or not is_text:
        return Reading(path, end=end, digest=None if counts or end is None else hashlib.sha256())
    so_far = None if counts or known.digest is None else known.digest.copy()
    return Reading(path, known.bytes, known.lines, end, so_far)


def _ended(reading: Reading, kind: str, seen: Seen | None, rows: int) -> Ended | None:
    """What is known of a file from now on; ``None`` if it has changed meanwhile. Reads it once more if its reader has not seen
    its bytes."""
    if seen is None:
        return None
    if reading.end is not None:
        sha256 = reading.digest.hexdigest() if reading.digest is not None else None
        known = Known(rows, reading.lines, reading.bytes, sha256, reading.digest)
        return Ended(known, reading.is_extensible, _seen_now(reading.path, kind) == seen)
    sha256 = digest(reading.path).hexdigest()
    return Ended(Known(rows, 0, seen.size, sha256), False, True) if _is_still(reading.path, kind, seen) else None


def _passes_none(skip: bytes, begin: int) -> bool:
    """Whether nothing is passed over from here on."""
    return skip.count(b"\0", begin) >= len(skip) - begin


def _begins_so(path: Path, known: Known | None) -> bool:
    """Whether a file begins as is known of it, which is read for that."""
    try:
        return known is not None and known.sha256 is not None and digest(path, known.bytes).hexdigest() == known.sha256
    except OSError:
        return False


def _seen(path: Path, kind: str) -> Seen:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    return Seen(str(path), kind, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _seen_now(path: Path, kind: str) -> Seen | None:
    try:
        return _seen(path, kind)
    except InputError:
        return None


def _is_still(path: Path, kind: str, seen: Seen) -> bool:
    """Whether a file is as it was, or longer; one that is gone is not, though what is open can be read to its end."""
    now = _seen_now(path, kind)
    return now is not None and seen.has_become(now)


def _expand(patterns: list[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in patterns:
        try:
            found |= dict.fromkeys(_named(pattern))
        except OSError as error:
            raise InputError(f"the input {pattern} cannot be looked through: {error}") from None
    return list(found)


def _named(pattern: str) -> list[Path]:
    path = _expanded_user(pattern)
    if "://" in pattern:
        raise InputError(f"the input {pattern} is not on this machine; copy it here and name the file in input.path")
    if path.is_dir():
        outputs = {
            run.parent for run in path.rglob("run.json") if run.parent != path and (run.parent / "parts").is_dir()
        }
        here = sorted(p for p in path.rglob("*") if _is_input(p, path) and outputs.isdisjoint(p.parents))
        if not here:
            raise InputError(f"the folder {path} has no .jsonl, .parquet or .csv file")
    elif path.exists():
        if not path.is_file():
            raise InputError(f"the input {path} is no file: it is read more than once, so write it into one first")
        here = [path]
    elif any(c in pattern for c in "*?["):
        here = sorted(_glob(path))
        if not here:
            raise InputError(f"no file matches the input path {pattern}")
    else:
        raise InputError(f"there is no input file {path}{did_you_mean(path)}")
    return here


def _expanded_user(pattern: str) -> Path:
    try:
        return Path(pattern).expanduser()
    except RuntimeError:  # there is no such user: then it is a name
        return Path(pattern)


def _is_input(path: Path, folder: Path) -> bool:
    return not _is_hidden(path, folder) and suffix(path) in _FORMATS and path.is_file()


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _glob(pattern: Path) -> Iterator[Path]:
    """Files by a pattern; the folders at its beginning that exist are no pattern, whatever characters they have."""
    root, rest = Path(pattern.anchor), list(pattern.relative_to(pattern.anchor).parts)
    while rest and (root / rest[0]).exists():
        root /= rest.pop(0)
    asks_for_hidden = any(part.startswith(".") for part in rest)
    for path in root.glob("/".join(rest)):
        if path.is_file() and (asks_for_hidden or not _is_hidden(path, root)):
            yield path


def _format(path: Path, given: str) -> str:
    kind = given if given != "auto" else _FORMATS.get(suffix(path))
    if kind is None:
        raise InputError(
            f"what {path} holds cannot be told from its name: name it .jsonl, .parquet or .csv (.gz and .zst may follow), "
            "or set input.format"
        )
    return kind
