"""What a folder remembers of its input files: ``inputs.jsonl``, so that a nightly job need not read again what it has finished.

A file is known by its path, size, times and the digest of its bytes. It keeps its number when it is touched, copied back or
when rows are appended to it; one whose beginning has changed is another file. Lines are appended only; the last of a file
counts. It can be deleted: then answers are found by their keys, in passes over the whole input. CONTRACT.md is the reference of
its fields.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..core import StorageError
from ..storage import STAY, Folder, Layout, Moves, append, moves
from .formats import digest, whole
from .source import Ended, Known, Seen, Signature, is_young, sayable


class Remembered(msgspec.Struct, frozen=True, tag="file", tag_field="kind"):
    """A file that was read to its end. ``signature`` is how the system told of it (inode, size, times), ``None`` if it was too
    young for that to tell it from what it might become, or has grown while it was read. ``bytes`` are those of its ``rows``.
    ``at`` is when the plan that read it was made, in ns."""

    number: int
    path: str
    format: str
    signature: tuple[int, int, int, int] | None
    rows: int
    lines: int
    bytes: int
    sha256: str | None
    extensible: bool
    at: int = 0


class Begun(msgspec.Struct, frozen=True, tag="begun", tag_field="kind"):
    """A file that a plan made ``at`` this moment has, and that was not read to its end yet. It keeps its number while it stays as
    it is, if it was not too young to tell that: then ``signature`` is ``None``."""

    number: int
    path: str
    format: str
    signature: tuple[int, int, int, int] | None
    at: int = 0

    def is_of(self, line: Remembered) -> bool:
        """Whether it was this file, as it is now, that was read to its end later."""
        return self.at == line.at or (self.signature is not None and self.signature == line.signature)


class Planned(msgspec.Struct, frozen=True, tag="plan", tag_field="kind"):
    """The files of a plan in order, by number, each with its rows; ``None`` where that was not known when the plan was made: then
    the next line of this file says it. Plans of one ``shape`` make the same requests of the same rows. ``at`` is when the files
    were looked at, in ns."""

    plan: str
    shape: str
    files: tuple[tuple[int, int | None], ...]
    at: int


class Since(msgspec.Struct, frozen=True, tag="since", tag_field="kind"):
    """What ``input.since`` meant when a run of this folder began first: files changed ``at`` that moment or later, in ns."""

    since: str
    at: int


class Found(NamedTuple):
    """An input file beside what is remembered: its number, what is known of its beginning, and a sentence if that is not what it
    was. ``bytes`` are those of its whole lines, if it has grown and the last one is still being written."""

    number: int
    known: Known | None
    told: str | None
    bytes: int


PrefixQueue = Remembered | Begun | Planned | Since
_decode = msgspec.json.Decoder(PrefixQueue).decode


class Inputs:
    """The memory of one folder. Reading it costs some 10 ms for a thousand nights; a line that is torn or strange is left out."""

    def __init__(self, folder: Folder) -> None:
        self._path = folder.inputs
        self._files: dict[str, Remembered] = {}
        self._begun: dict[str, Begun] = {}
        self._known: dict[int, Remembered] = {}  # by number
        self._unread: dict[int, Begun] = {}
        self._layouts: dict[str, tuple[str, list[tuple[int, int | None]]]] = {}
        # Files of plans that were not read to their ends by then: plan, place in it, and how the file was.
        self._open: dict[int, list[tuple[str, int, Begun | None]]] = {}
        # Of some files a plan had more than the rows that are there still: how many these are.
        self._kept: dict[str, dict[int, int]] = {}
        self.since: dict[str, int] = {}
        self.looked_at: int | None = None
        self._next = 1
        for line in _lines(self._path):
            with contextlib.suppress(msgspec.DecodeError):
                self._note(_decode(line))

    def _note(self, line: PrefixQueue) -> None:
        if isinstance(line, Since):
            self.since[line.since] = line.at
            return
        if not isinstance(line, Planned):
            self._next = max(self._next, line.number + 1)
        if isinstance(line, Begun):
            self._begun[line.path] = self._unread[line.number] = line
            return
        if isinstance(line, Remembered):
            for plan, at, begun in self._open.pop(line.number, ()):
                if begun is not None and begun.is_of(line):
                    self._layouts[plan][1][at] = line.number, line.rows
                else:
                    self._keep(plan, line.number, self._known.get(line.number))
            self._files[line.path] = self._known[line.number] = line
            return
        files = list(line.files)
        self.looked_at = line.at
        self._layouts[line.plan] = line.shape, files
        self._kept.pop(line.plan, None)
        for at, (number, rows) in enumerate(files):
            self._next = max(self._next, number + 1)
            known = self._known.get(number)
            if known is None or known.rows != rows:
                others = [each for each in self._open.get(number, ()) if each[0] != line.plan]
                self._open[number] = [*others, (line.plan, at, self._unread.get(number))]

    def _keep(self, plan: str, number: int, known: Known | Remembered | None) -> None:
        self._kept.setdefault(plan, {})[number] = 0 if known is None else known.rows

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

    def find(self, seen: Signature) -> list[Found]:
        """The files of an input beside what is remembered of them. Reads those that were touched or have grown."""
        found = []
        for each in seen:
            known, told = self._known_of(each)
            number = self._number_of(each, known)
            found.append(Found(number, known, told, _whole(each, known)))
            for plan, _, begun in self._open.get(number, ()):
                # It may have become another beyond what was read to its end.
                if begun is None or begun.signature != each[2:]:
                    self._keep(plan, number, known)
        return found

    def _known_of(self, seen: Seen) -> tuple[Known | None, str | None]:
        before = self._files.get(_full(seen.path))
        if before is None or before.format != seen.format:
            return None, None
        known = Known(before.rows, before.lines, before.bytes, before.sha256)
        if before.signature == seen[2:]:
            return known, None
        name = Path(seen.path).name
        if seen.size < before.bytes:
            return None, f"{name} is shorter than it was: {before.bytes:,} bytes then, {seen.size:,} now"
        has_grown = seen.size > before.bytes
        if not has_grown or (before.extensible and seen.may_grow):
            try:
                now = digest(Path(seen.path), before.bytes)
            except OSError:
                return None, None
            if now.hexdigest() == before.sha256:
                return known._replace(digest=now), None
        return None, f"{name} has changed since it was read ({before.rows:,} rows then)"

    def _number_of(self, seen: Seen, known: Known | None) -> int:
        path = _full(seen.path)
        if known is not None:
            return self._files[path].number
        begun = self._begun.get(path)
        if begun is not None and (begun.format, begun.signature) == (seen.format, seen[2:]):
            return begun.number
        self._next += 1
        return self._next - 1

    def plan(self, plan: str, shape: str, files: Layout, seen: Signature, now: int) -> None:
        """Remember the files of a plan before it is asked. They were looked at at ``now``, in ns.

        :raises StorageError: if it cannot be written.
        """
        if self._layouts.get(plan) == (shape, list(files)):
            return
        lines: list[Begun | Planned] = []
        for (number, rows), each in zip(files, seen, strict=True):
            known = self._known.get(number)
            if known is not None and known.rows == rows:
                continue
            begun = Begun(number, _full(each.path), each.format, None if is_young(each, now) else each[2:], now)
            before = self._unread.get(number)
            if before is None or begun.signature is None or before.signature != begun.signature:
                lines.append(begun)
        lines.append(Planned(plan, shape, tuple(files), now))
        append(self._path, *lines, sync=False)
        for line in lines:
            self._note(line)

    def begin_at(self, since: str, at: int) -> None:
        """Remember from when on files count in this folder.

        :raises StorageError: if it cannot be written.
        """
        if since not in self.since:
            append(self._path, Since(since, at), sync=False)
            self.since[since] = at

    def ended(self, number: int, seen: Seen, ended: Ended, now: int) -> None:
        """Remember a file that was read to its end. What cannot be written is not remembered. ``now`` is when the plan was made,
        in ns."""
        known = ended.known
        signature = None if is_young(seen, now) or not ended.is_as_signed else seen[2:]
        line = Remembered(
            number, _full(seen.path), seen.format, signature, known.rows, known.lines, known.bytes, known.sha256,
            ended.is_extensible, now,
        )  # fmt: skip
        before = self._files.get(line.path)
        if before is None or signature is None or msgspec.structs.replace(before, at=now) != line:
            with contextlib.suppress(StorageError):
                append(self._path, line, sync=False)
            self._note(line)

    def moves(self, plan: str, shape: str, files: Layout) -> dict[str, Moves]:
        """From each plan of the same shape that is remembered to a plan of these files."""
        found = {
            then: moves(layout, files, self._kept.get(then, {}))
            for then, (shaped, layout) in self._layouts.items()
            if shaped == shape
        }
        return found | {plan: STAY}

    def numbers_of(self, plans: Collection[str]) -> set[int]:
        """The files of some plans."""
        return {number for plan in plans if plan in self._layouts for number, _ in self._layouts[plan][1]}


def _whole(seen: Seen, known: Known | None) -> int:
    """Rows are appended to a file that has grown, so that its last line may be half a row; any other is damaged if it is."""
    if known is None or not seen.may_grow or seen.size <= known.bytes:
        return seen.size
    try:
        return whole(Path(seen.path), seen.format, known.bytes, seen.size)
    except OSError:
        return seen.size


def _full(path: str) -> str:
    return sayable(str(Path(path).absolute()))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from path.read_bytes().splitlines()
    except OSError:
        return
