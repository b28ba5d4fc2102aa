"""How a large folder stood when its last run ended: which rows are finished, and the keys of their requests, to be looked at
where they lie. So a run that finds new rows beside ten million old ones reads none of the old answers before it asks.

``standing.bin``: a line of JSON (:class:`_Head`), filled up with blanks to a multiple of 4,096 bytes; then, little-endian, the
upper and the lower halves of the keys (uint64, sorted by the upper), the upper halves of the slots (uint64, sorted), and a bit
for each row, 1 if it is finished. It is derived from the parts and may be deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from ..core import KeySet, sorted_keys
from ..protocol import Policy
from ..storage import Folder, Layout, Void, part_files, part_index, replaced, storing
from .planner import Passed
from .resume import AnswerIndex

WORTH_ROWS = 200_000  # below, all of it is found in half a second
_PAGE = 4_096
_AT_ONCE = 1 << 20  # words
_VERSION = 4  # to be raised when other failures count than before, too

Words = npt.NDArray[np.uint64]


class _Head(msgspec.Struct, frozen=True):
    """``parts`` is the :func:`part_files.identity` of the parts, ``positions`` the :func:`part_index.found_id` of what
    tells where answers are besides. ``statuses`` counts the rows of each status that are done.
    ``spans`` are those whose rows follow: the file, the position of the first and how many they are."""

    version: int
    parts: str
    positions: str
    retry_failed: int
    per_item: int
    statuses: dict[str, int]
    keys: int
    slots: int
    spans: list[tuple[int, int, int]]


class Snapshot(NamedTuple):
    """What a folder's parts come to. All answers belong to rows of the ``spans``, and no row that is not finished has one that is
    done."""

    statuses: dict[str, int]
    hi: Words
    lo: Words
    slots: Words
    spans: list[tuple[int, int, int]]
    rows: npt.NDArray[np.uint8]  # a byte each, of all spans in turn

    @property
    def files(self) -> set[int]:
        """What identifies the input files."""
        return {file for file, _, _ in self.spans}

    def passed(self, layout: Layout, per_item: int) -> Passed | None:
        """The finished rows where they are in a plan, to be passed over; ``None`` if some of them are not in it."""
        pieces, at = [], 0
        if len(self.files) < len(self.spans):  # a file that comes twice in the input
            return None
        for file, first, length in self.spans:
            ends = layout.rows(np.array([file, file]), np.array([first, first + length - 1]))
            if ends[0] < 0 or ends[1] < 0:
                return None
            pieces.append((int(ends[0]), self.rows[at : at + length]))
            at += length
        rows = np.zeros(max((begin + len(some) for begin, some in pieces), default=0), np.uint8)
        for begin, some in pieces:
            rows[begin : begin + len(some)] = some
        return Passed(rows.tobytes(), _Seen(self), int(rows.sum()) * per_item)


class _Seen:
    """The keys and slots of finished rows, and what is added."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._more = KeySet()

    def add(self, keys: Sequence[bytes]) -> list[bool]:
        there = self._are_there(keys)
        return [one or other for one, other in zip(self._more.add(keys), there, strict=True)]

    def copy(self) -> _Seen:
        twin = _Seen(self._snapshot)
        twin._more = self._more.copy()
        return twin

    def find(self, keys: Sequence[bytes]) -> list[bool]:
        there = self._are_there(keys)
        return [one or other for one, other in zip(self._more.find(keys), there, strict=True)]

    def _are_there(self, keys: Sequence[bytes]) -> list[bool]:
        if not keys:
            return []
        wanted = sorted_keys.key_halves(keys)
        hi, lo = wanted["hi"].to_numpy(), wanted["lo"].to_numpy()
        found = _has(self._snapshot.slots, hi)
        his, los = self._snapshot.hi, self._snapshot.lo
        if len(his):
            at = np.minimum(np.searchsorted(his, hi), len(his) - 1)
            found |= (his[at] == hi) & (los[at] == lo)
        return [bool(one) for one in found]


def _has(words: Words, wanted: Words) -> npt.NDArray[np.bool_]:
    if not len(words):
        return np.zeros(len(wanted), np.bool_)
    near = words[np.minimum(np.searchsorted(words, wanted), len(words) - 1)]
    return np.asarray(near == wanted, np.bool_)


def read(folder: Folder, retry_failed: int, per_item: int, reasks: Policy) -> Snapshot | None:
    """How the folder stands; ``None`` if that is not written down, or not of the parts that are there, or would be otherwise for
    a run of this policy."""
    try:
        with folder.snapshot.open("rb") as stream:
            head = msgspec.json.decode(stream.readline(), type=_Head)
            begin = stream.tell()
        if (head.version, head.retry_failed, head.per_item) != (_VERSION, retry_failed, per_item):
            return None
        if reasks.reopens(head.statuses) or not part_files.is_of(folder.parts, head.parts):
            return None
        if head.positions != part_index.found_id(folder.positions):
            return None
        whole = np.memmap(folder.snapshot, np.uint8, "r", begin)
    except (OSError, ValueError, msgspec.DecodeError):
        return None
    length = sum(rows for _, _, rows in head.spans)
    sizes = [8 * head.keys, 8 * head.keys, 8 * head.slots, (length + 7) // 8]
    if sum(sizes) != len(whole):
        return None
    hi, lo, slots, bits = np.split(whole, np.cumsum(sizes)[:-1])
    rows = np.unpackbits(bits, count=length)
    return Snapshot(head.statuses, hi.view(np.uint64), lo.view(np.uint64), slots.view(np.uint64), head.spans, rows)


class Now(NamedTuple):
    """What a run knows when it has ended: the sweep points of its plan, how many requests an item has, where the rows of each
    file are in it, and how often failed rows are asked again."""

    labels: Sequence[str]
    per_item: int
    layout: Layout
    retry_failed: int


def keep(folder: Folder, now: Now, before: Snapshot | None, since: int) -> None:
    """Write down how the folder stands, if it is large, all of its answers belong to rows of the plan, and none is done of a row
    that is not finished; else forget it. ``before`` is how it stood before the parts from number ``since`` on came. Blocks.

    :raises StorageError: if it cannot be written.
    :raises FolderError: if a part is damaged.
    """
    heights = [sum(part_files.footer(folder.parts, number).groups) for number in part_files.part_numbers(folder.parts)]
    found = None
    if now.layout and sum(heights) >= WORTH_ROWS:
        found = None if before is None else _with_more(folder, now, before, since)
        if found is None:
            before, found = None, _anew(folder, now)
    if found is None or not _write(folder, now, before, found):
        folder.snapshot.unlink(missing_ok=True)


class _Found(NamedTuple):
    """Keys (``hi``, ``lo``) sorted by the upper half, upper halves of slots in order, and all finished rows."""

    keys: pl.DataFrame
    slots: pl.Series
    rows: bytes
    statuses: dict[str, int]


def _anew(folder: Folder, now: Now) -> _Found | None:
    """From all parts; some 100 bytes an answer."""
    positions = part_index.Positions(now.layout, part_index.read_found(folder.positions))
    done = AnswerIndex(folder.parts, now.retry_failed, now.labels, positions=positions)
    rows, statuses = done.finished(now.per_item), done.statuses()
    if done.stale_answers or done.clashes(now.per_item) or sum(statuses.values()) != rows.count(1) * now.per_item:
        return None
    keys, slots = done.keys_of(rows)
    return _Found(keys, slots, rows, statuses)


def _with_more(folder: Folder, now: Now, before: Snapshot, since: int) -> _Found | None:
    """From how it stood and the parts that came; ``None`` if that does not tell all."""
    passed = before.passed(now.layout, now.per_item)
    if passed is None:
        return None
    columns = ["slot", "row", "sample", "point", "status"]
    void, heads = Void(folder.parts), []
    for number in _from(folder, since):
        head = part_index.head(part_files.read_part(folder.parts, number, ["key", *columns]))
        gone = void.among(number, head["status"])
        heads.append(head if gone is None else head.filter(~gone))
    if not sum(head.height for head in heads):
        return _Found(sorted_keys.key_halves([]), pl.Series([], dtype=pl.UInt64), passed.rows, before.statuses)
    new = part_index.last_of_each(pl.concat(heads))
    failed = new.filter(pl.col("status") == "failed")["row"].to_numpy()
    # How often a row has failed tell earlier parts alone.
    if (new["status"] == "invalid").any() or (
        len(failed) and (not now.retry_failed or _are_old(failed, now.layout, before))
    ):
        return None
    answered = new.filter(pl.col("status") != "failed")
    counts = answered.group_by("row").len()
    if (counts["len"] != now.per_item).any():
        return None
    # Failed ones count, too: a later run has to see that they are old.
    end = max(len(passed.rows), int(new["row"].max()) + 1)  # type: ignore[arg-type]
    rows = np.zeros(end, np.uint8)
    rows[: len(passed.rows)] = np.frombuffer(passed.rows, np.uint8)
    if rows[answered["row"].to_numpy()].any():
        return None
    rows[answered["row"].to_numpy()] = 1
    first = answered.filter((pl.col("sample") == 0) & (pl.col("point") == now.labels[0]))
    statuses = dict(before.statuses)
    for status, more in answered["status"].value_counts().iter_rows():
        statuses[status] = statuses.get(status, 0) + more
    return _Found(answered.select("hi", "lo"), first["slot_hi"].sort(), rows.tobytes(), statuses)


def _from(folder: Folder, since: int) -> list[int]:
    return [number for number in part_files.part_numbers(folder.parts) if number >= since]


def _are_old(rows: npt.NDArray[np.int64], layout: Layout, before: Snapshot) -> bool:
    """Whether one of these was a row of the spans before, too."""
    file, position = layout.positions(rows)
    old = [(file == f) & (position >= first) & (position < first + length) for f, first, length in before.spans]
    return bool(any(each.any() for each in old))


def _write(folder: Folder, now: Now, before: Snapshot | None, found: _Found) -> bool:
    """False if some of the rows are of no file that can be known again."""
    rows = np.frombuffer(found.rows, np.uint8)
    spans, pieces = [], []
    for file, begin, end in now.layout.spans():
        some = rows[begin:end]
        if len(some):
            spans.append((file, int(now.layout.positions(np.array([begin]))[1][0]), len(some)))
            pieces.append(some)
    bits = np.concatenate(pieces) if pieces else rows[:0]
    if bits.sum() != rows.sum() or len({file for file, _, _ in spans}) < len(spans):
        return False
    hi, lo, slots = found.keys["hi"].to_numpy(), found.keys["lo"].to_numpy(), found.slots.to_numpy()
    old = (before.hi, before.lo, before.slots) if before is not None else (hi[:0], lo[:0], slots[:0])
    at = np.searchsorted(old[0], hi)
    head = _Head(
        _VERSION, part_files.identity(folder.parts), part_index.found_id(folder.positions), now.retry_failed, now.per_item,
        found.statuses, len(old[0]) + len(hi), len(old[2]) + len(slots), spans,
    )  # fmt: skip
    told = msgspec.json.encode(head)
    size = -(-(len(told) + 1) // _PAGE) * _PAGE
    with storing(folder.snapshot), replaced(folder.snapshot) as stream:
        stream.write(told.ljust(size - 1) + b"\n")
        for words, more, places in (
            (old[0], hi, at),
            (old[1], lo, at),
            (old[2], slots, np.searchsorted(old[2], slots)),
        ):
            for piece in _merged(words, more, places):
                stream.write(piece.tobytes())
        stream.write(np.packbits(bits).tobytes())
    return True


def _merged(words: Words, more: Words, at: npt.NDArray[np.intp]) -> Iterator[Words]:
    """``words`` with ``more`` put in ``at`` these places (ascending), piece by piece."""
    for begin in range(0, max(1, len(words)), _AT_ONCE):
        end = begin + _AT_ONCE
        here = slice(*np.searchsorted(at, [begin, end if end < len(words) else len(words) + 1]))
        yield np.insert(words[begin:end], at[here] - begin, more[here])
