"""What a folder remembers of its input files: ``inputs.jsonl``, so that a nightly job need not read again what it has finished.

A file is known by its path, size, times and the digest of its bytes. What identifies its rows stays when it is touched, copied
back or when rows are appended to it; one whose beginning has changed is another file. Lines are appended only; the last of a file
counts. It can be deleted: then answers are found by their keys, in a pass over the whole input. CONTRACT.md is the reference of
its fields.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..attachments import FileFacts
from ..core import StorageError
from ..storage import OPEN, Folder, Span, append
from .csv_dialect import Dialect, separated, shown
from .csv_files import usual_separator
from .formats import whole
from .input_file import InputFile, full_path
from .reading import digest
from .source import Ended, Known, Seen, Signature, escaped_name, is_young


class Remembered(msgspec.Struct, frozen=True, tag="file", tag_field="kind"):
    """A file that was read to its end. ``signature`` is how the system told of it (inode, size, times), ``None`` if it was too
    young for that to tell it from what it might become, or has grown while it was read. ``bytes`` are those of its ``rows``.
    ``at`` is when the plan that read it was made, in ns. ``spans`` identify its rows: one for each time that it has grown."""

    path: str
    format: str
    signature: tuple[int, int, int, int] | None
    rows: int
    lines: int
    bytes: int
    sha256: str | None
    extensible: bool
    spans: tuple[Span, ...] = ()
    at: int = 0


class Begun(msgspec.Struct, frozen=True, tag="begun", tag_field="kind"):
    """A file, or what was added to it, that a plan made ``at`` this moment has, and that was not read to its end yet. ``id``
    identifies its rows as long as its ``signature`` stays as it is."""

    path: str
    format: str
    signature: tuple[int, int, int, int] | None
    at: int = 0
    id: int = 0


class Planned(msgspec.Struct, frozen=True, tag="plan", tag_field="kind"):
    """A plan was begun, whose files were looked at ``at`` this moment, in ns."""

    plan: str
    at: int


class Since(msgspec.Struct, frozen=True, tag="since", tag_field="kind"):
    """What ``input.since`` meant when a run of this folder began first: files changed ``at`` that moment or later, in ns."""

    since: str
    at: int


class Sniffed(msgspec.Struct, frozen=True, tag="dialect", tag_field="kind"):
    """How a CSV file is written whose first ``bytes`` (unpacked) have this digest: if it grows these stay the same. ``said`` is
    what the job said of separator and encoding; the others were told from these bytes."""

    path: str
    separator: str
    encoding: str
    bytes: int
    sha256: str
    said: tuple[str | None, str | None] = (None, None)


class Found(NamedTuple):
    """An input file beside what is remembered: what identifies its rows, what is known of its beginning, and a sentence if that
    is not what it was. ``bytes`` are those of its whole lines, if rows are appended and the last is still being written."""

    spans: tuple[Span, ...]
    known: Known | None
    note: str | None
    bytes: int


# What a job says of the separator and the encoding of its CSV files.
Said = tuple[str | None, str | None]
# A CSV file, its dialect, and its beginning.
Written = tuple[InputFile, Dialect, bytes]
Entry = Remembered | Begun | Planned | Since | Sniffed | FileFacts
_decode = msgspec.json.Decoder(Entry).decode


class Inputs:
    """The memory of one folder. Reading it costs some 10 ms for a thousand nights; a line that is torn or strange is left out."""

    def __init__(self, folder: Folder) -> None:
        self._path = folder.inputs
        self._files: dict[str, Remembered] = {}
        self._begun: dict[str, Begun] = {}
        self._dialects: dict[tuple[str, Said], Sniffed] = {}
        self.last_plan: str | None = None
        self.since: dict[str, int] = {}
        self.looked_at: int | None = None
        self.attached: list[FileFacts] = []
        for line in _lines(self._path):
            with contextlib.suppress(msgspec.DecodeError):
                self._note(_decode(line))

    def _note(self, line: Entry) -> None:
        if isinstance(line, FileFacts):
            self.attached.append(line)
        elif isinstance(line, Since):
            self.since[line.since] = line.at
        elif isinstance(line, Begun):
            self._begun[line.path] = line
        elif isinstance(line, Remembered):
            self._files[line.path] = line
        elif isinstance(line, Sniffed):
            self._dialects[line.path, line.said] = line
        else:
            self.last_plan, self.looked_at = line.plan, line.at

    @property
    def is_empty(self) -> bool:
        return not (self._files or self._begun)

    def knows(self, seen: Seen) -> bool:
        """Whether a file of this path was in a plan, whatever it holds."""
        path = _full(seen.path)
        return path in self._files or path in self._begun

    def has_read(self, seen: Seen) -> bool:
        """Whether a file of this path and size was read to its end, or was in a plan; tells nothing of its bytes."""
        path = _full(seen.path)
        read, begun = self._files.get(path), self._begun.get(path)
        sizes = {read.signature[1] if read.signature else read.bytes} if read else set()
        if begun is not None and begun.signature is not None:
            sizes.add(begun.signature[1])
        return seen.size in sizes

    def has_read_of(self, seen: Seen) -> bool:
        """Whether a file of this path was read to its end when it was shorter, and may have grown."""
        read = self._files.get(_full(seen.path))
        return read is not None and read.extensible and seen.may_grow and read.bytes < seen.size

    def dialect(self, path: InputFile, beginning: bytes, seems: Dialect, said: Said) -> Dialect | None:
        """The dialect that a CSV file was read in, if it begins as it did then; ``None`` if nothing is known of it. Reads it if a
        version before, which knew but one dialect, has."""
        line = self._dialects.get((_full(str(path)), said))
        if line is not None:
            return Dialect(line.separator, line.encoding) if _is_so(line, beginning) else None
        before, first = self._files.get(_full(str(path))), Dialect(usual_separator(path), "utf-8")
        if before is None or before.format != "csv" or seems == first or said != (None, None):
            return None
        with contextlib.suppress(OSError):
            if path.stat().st_size >= before.bytes and digest(path, before.bytes).hexdigest() == before.sha256:
                return first
        return None

    def dialect_notes(self, files: Sequence[Written], said: Said) -> list[str]:
        """A sentence for each CSV file that is not written as it was."""
        found = []
        for path, now, _ in files:
            then = self._dialects.get((_full(str(path)), said))
            if then is None or (then.separator, then.encoding) == now[:2]:
                continue
            was = Dialect(then.separator, then.encoding)
            found.append(f"{path.name} was {_written(was)}, and is {_written(now)} now")
        return found

    def find(self, seen: Signature, files: Sequence[InputFile] | None = None) -> list[Found]:
        """The ``files`` of an input (``None``: those of the paths) beside what is remembered of them. Reads those that were
        touched or have grown."""
        found = []
        for each, file in zip(seen, files or [Path(each.path) for each in seen], strict=True):
            known, note = self._known_of(each, file)
            spans: tuple[Span, ...] = ()
            if known is not None:
                remembered = self._files[_full(each.path)]
                spans = remembered.spans or (Span(_new_id(), remembered.rows),)  # versions before had none
            size = self._whole(each, file, known)
            if known is None or known.bytes < size:
                spans += (Span(self._id_of_rest(each), OPEN),)
            found.append(Found(spans, known, note, size))
        return found

    def _whole(self, seen: Seen, file: InputFile, known: Known | None) -> int:
        """The bytes of a file without a last line that may be half a row. Rows are appended to a file that has grown, and to a
        JSONL file that was moved or has taken the place of another; any other is damaged if it ends so."""
        if not seen.may_grow or (known is None and seen.format != "jsonl") or (known and seen.size <= known.bytes):
            return seen.size
        try:
            found = whole(file, seen.format, known.bytes if known else 0, seen.size)
            return found if known or found == seen.size or self._has_grown_elsewhere(seen, file) else seen.size
        except OSError:
            return seen.size

    def _has_grown_elsewhere(self, seen: Seen, file: InputFile) -> bool:
        """Whether a file of this path was read to its end and held something else, or one of another path the beginning of this.

        :raises OSError: if the file cannot be read.
        """
        return _full(seen.path) in self._files or any(
            digest(file, each.bytes).hexdigest() == each.sha256
            for each in self._files.values()
            if each.extensible and each.format == seen.format and 0 < each.bytes <= seen.size
        )

    def _id_of_rest(self, seen: Seen) -> int:
        """What identifies the rows of a file beyond those that are known."""
        begun = self._begun.get(_full(seen.path))
        if begun is not None and begun.id and (begun.format, begun.signature) == (seen.format, seen[2:]):
            return begun.id
        return _new_id()

    def _known_of(self, seen: Seen, file: InputFile) -> tuple[Known | None, str | None]:
        before = self._files.get(_full(seen.path))
        if before is None or before.format != seen.format:
            return None, None
        known = Known(before.rows, before.lines, before.bytes, before.sha256)
        same_tag = seen.has_tag and before.signature is not None and before.signature[:2] == seen[2:4]
        if before.signature == seen[2:] or same_tag:
            return known, None
        name = file.name
        if seen.size < before.bytes:
            return None, f"{name} is shorter than it was: {before.bytes:,} bytes then, {seen.size:,} now"
        has_grown = seen.size > before.bytes
        if not has_grown or (before.extensible and seen.may_grow):
            try:
                now = digest(file, before.bytes)
            except OSError:
                return None, None
            if now.hexdigest() == before.sha256:
                return known._replace(digest=now), None
        return None, f"{name} has changed since it was read ({before.rows:,} rows then)"

    def begin(
        self,
        plan: str,
        spans: Sequence[tuple[Span, ...]],
        seen: Signature,
        now: int,
        dialects: Sequence[Written] = (),
        said: Said = (None, None),
    ) -> None:
        """Remember the files of a plan before it is asked, and the ``dialects`` of those that are CSV. They were looked at at
        ``now``, in ns.

        :raises StorageError: if it cannot be written.
        """
        lines: list[Entry] = [*self._new_dialects(dialects, said)]
        for of_file, each in zip(spans, seen, strict=True):
            path = _full(each.path)
            known = self._files.get(path)
            if known is not None and of_file[0].end <= known.rows and not known.spans:
                lines.append(msgspec.structs.replace(known, spans=of_file[:1]))
            is_read = known is not None and bool(known.spans) and known.spans[-1].file == of_file[-1].file
            if is_read or of_file[-1].end != OPEN:
                continue
            signature = None if is_young(each, now) else each[2:]
            before = self._begun.get(path)
            if before is None or (before.id, before.signature) != (of_file[-1].file, signature):
                lines.append(Begun(path, each.format, signature, now, of_file[-1].file))
        if lines or plan != self.last_plan:
            lines.append(Planned(plan, now))
            append(self._path, *lines, sync=False)
        for line in lines:
            self._note(line)

    def _new_dialects(self, dialects: Sequence[Written], said: Said) -> Iterator[Sniffed]:
        """What is not remembered so of the dialects."""
        for path, dialect, beginning in dialects:
            full = _full(str(path))
            line = self._dialects.get((full, said))
            if line is None or (line.separator, line.encoding) != dialect[:2] or not _is_so(line, beginning):
                sha256 = hashlib.sha256(beginning).hexdigest()
                yield Sniffed(full, dialect.separator, dialect.encoding, len(beginning), sha256, said)

    def begin_at(self, since: str, at: int) -> None:
        """Remember from when on files count in this folder.

        :raises StorageError: if it cannot be written.
        """
        if since not in self.since:
            append(self._path, Since(since, at), sync=False)
            self.since[since] = at

    def ended(
        self,
        spans: Sequence[Span],
        seen: Seen,
        ended: Ended,
        now: int,
        dialects: Sequence[Written] = (),
        said: Said = (None, None),
    ) -> None:
        """Remember a file that was read to its end, and in which dialect. What cannot be written is not remembered. ``now`` is
        when the plan was made, in ns."""
        known = ended.known
        signature = None if is_young(seen, now) or not ended.is_as_signed else seen[2:]
        line = Remembered(
            _full(seen.path), seen.format, signature, known.rows, known.lines, known.bytes, known.sha256, ended.is_extensible,
            tuple(Span(span.file, min(span.end, known.rows)) for span in spans), now,
        )  # fmt: skip
        before = self._files.get(line.path)
        if before is None or signature is None or msgspec.structs.replace(before, at=now) != line:
            lines: list[Entry] = [*self._new_dialects(dialects, said), line]
            with contextlib.suppress(StorageError):
                append(self._path, *lines, sync=False)
            for each in lines:
                self._note(each)

    def hashed(self, files: Iterable[tuple[FileFacts, int]]) -> None:
        """Remember files that rows name, with the time, in ns, when each was looked at. What cannot be written is forgotten."""
        lines = [facts for facts, at in files if not is_young(Seen(facts.path, "", *facts.signature), at)]
        if lines:
            with contextlib.suppress(StorageError, UnicodeEncodeError):
                append(self._path, *lines, sync=False)


def _is_so(line: Sniffed, beginning: bytes) -> bool:
    return len(beginning) >= line.bytes and hashlib.sha256(beginning[: line.bytes]).hexdigest() == line.sha256


def _written(dialect: Dialect) -> str:
    return f"{separated(dialect.separator)} in {shown(dialect.encoding)}"


def _new_id() -> int:
    return secrets.randbits(62) + 1


def _full(path: str) -> str:
    return escaped_name(full_path(path))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from path.read_bytes().splitlines()
    except OSError:
        return
