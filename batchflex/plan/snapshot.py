"""How a large folder stood when its last run ended: which rows are finished, and the keys of their requests. So a run that finds
new rows beside ten million old ones reads none of the old answers before it sends anything.

``standing.bin``: a line of JSON (:class:`_Head`), padded with blanks to a multiple of 4,096 bytes; then, little-endian, the upper
and the lower halves (uint64) of the keys and of each row's first slot, all sorted by the upper, and a bit for each row, 1 if it
is finished. It is derived from the parts and may be deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ..core import KeySet, raw
from ..protocol import Policy
from ..storage import Folder, Layout, Void, part_files, part_index, replaced, storing
from .answer_index import AnswerIndex
from .planner import Passed

if TYPE_CHECKING:
    from .plan import Plan

WORTH_ROWS = 200_000  # below, all of it is found in half a second
_PAGE = 4_096
_VERSION = 5  # to be raised when other failures count than before, too


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
    spans: list[tuple[int, int, int]]


class Snapshot(NamedTuple):
    """What a folder's parts come to. All answers belong to rows of the ``spans``, and no row that is not finished has one that is
    done. ``keys`` (``hi``, ``lo``) are those of the finished rows and their first slots, in the order of ``hi``."""

    statuses: dict[str, int]
    keys: pl.DataFrame
    spans: list[tuple[int, int, int]]
    rows: npt.NDArray[np.uint8]  # a byte each, of all spans in turn

    @property
    def files(self) -> set[int]:
        """What identifies the input files."""
        return {file for file, _, _ in self.spans}

    def finished(self, layout: Layout) -> bytes | None:
        """A byte for each of the first rows of a plan, 1 if it is finished; ``None`` if some that are are not in the plan."""
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
        return rows.tobytes()

    def passed(self, rows: bytes, per_item: int) -> Passed:
        """The :meth:`finished` rows, for a pass over the others."""
        seen = KeySet()
        seen.add_all(self.keys)
        return Passed(rows, seen, rows.count(1) * per_item)


def read(folder: Folder, retry_failed: int, per_item: int, reasks: Policy) -> Snapshot | None:
    """How the folder stands; ``None`` if that is not written down, or not of the parts that are there, or would be otherwise for
    a run of this policy."""
    try:
        with folder.snapshot.open("rb") as stream:
            head = msgspec.json.decode(stream.readline(), type=_Head)
            begin = stream.tell()
        if (head.version, head.retry_failed, head.per_item) != (_VERSION, retry_failed, per_item):
            return None
        if reasks.reopens(head.statuses) or not part_files.has_identity(folder.parts, head.parts):
            return None
        if head.positions != part_index.found_id(folder.positions):
            return None
        whole = np.memmap(folder.snapshot, np.uint8, "r", begin)
    except (OSError, ValueError, msgspec.DecodeError):
        return None
    length = sum(rows for _, _, rows in head.spans)
    size = 8 * head.keys
    if 2 * size + (length + 7) // 8 != len(whole):
        return None
    hi, lo, bits = np.split(whole, [size, 2 * size])
    keys = pl.DataFrame({"hi": _mapped(hi).set_sorted(), "lo": _mapped(lo)})
    return Snapshot(head.statuses, keys, head.spans, np.unpackbits(bits, count=length))


def _mapped(words: npt.NDArray[np.uint8]) -> pl.Series:
    """Numbers of 64 bits, which stay where they are."""
    return pl.Series(pa.Array.from_buffers(pa.uint64(), len(words) // 8, [None, pa.py_buffer(words)]))


def keep(folder: Folder, plan: Plan, layout: Layout, before: Snapshot | None, since: int) -> None:
    """Write down how the folder stands, if it is large, all of its answers belong to rows of the plan, and none is done of a row
    that is not finished; else forget it. ``layout`` is where the rows of each file are in the plan. ``before`` is how it stood
    before the parts from number ``since`` on came. Blocks.

    :raises StorageError: if it cannot be written.
    :raises FolderError: if a part is damaged.
    """
    heights = [sum(part_files.footer(folder.parts, number).groups) for number in part_files.part_numbers(folder.parts)]
    found = None
    if layout and sum(heights) >= WORTH_ROWS:
        found = None if before is None else _with_more(folder, plan, layout, before, since)
        found = found or _anew(folder, plan, layout)
    if found is None or not _write(folder, plan, layout, found):
        folder.snapshot.unlink(missing_ok=True)


class _Found(NamedTuple):
    """The keys as in :class:`Snapshot`, and all finished rows."""

    keys: pl.DataFrame
    rows: bytes
    statuses: dict[str, int]


def _anew(folder: Folder, plan: Plan, layout: Layout) -> _Found | None:
    """From all parts; some 100 bytes an answer."""
    positions = part_index.Positions(layout, part_index.read_found(folder.positions))
    done = AnswerIndex(folder.parts, plan.job.job.retry_failed, plan.labels, positions=positions)
    rows, statuses = done.finished(plan.per_item), done.statuses()
    if done.stale_answers or sum(statuses.values()) != rows.count(1) * plan.per_item:
        return None
    return _Found(done.keys_of(rows), rows, statuses)


def _with_more(folder: Folder, plan: Plan, layout: Layout, before: Snapshot, since: int) -> _Found | None:
    """From how it stood and the parts that came; ``None`` if that does not tell all."""
    finished = before.finished(layout)
    if finished is None:
        return None
    columns = ["slot", "row", "sample", "point", "status"]
    void, heads = Void(folder.parts), []
    for number in part_files.part_numbers(folder.parts):
        if number >= since:
            head = part_index.head(part_files.read_part(folder.parts, number, ["key", *columns]))
            gone = void.among(number, head["status"])
            heads.append(head if gone is None else head.filter(~gone))
    if not sum(head.height for head in heads):
        return _Found(before.keys, finished, before.statuses)
    new = part_index.last_of_each(pl.concat(heads))
    failed = new.filter(pl.col("status") == "failed")["row"].to_numpy()
    # How often a row has failed tell earlier parts alone.
    if (new["status"] == "invalid").any() or (
        len(failed) and (not plan.job.job.retry_failed or _are_old(failed, layout, before))
    ):
        return None
    answered = new.filter(pl.col("status") != "failed")
    counts = answered.group_by("row").len()
    if (counts["len"] != plan.per_item).any():
        return None
    # Failed ones count, too: a later run has to see that they are old.
    end = max(len(finished), int(new["row"].max()) + 1)  # type: ignore[arg-type]
    rows = np.zeros(end, np.uint8)
    rows[: len(finished)] = np.frombuffer(finished, np.uint8)
    if rows[answered["row"].to_numpy()].any():
        return None
    rows[answered["row"].to_numpy()] = 1
    first = answered.filter((pl.col("sample") == 0) & (pl.col("point") == plan.labels[0]))
    keys = pl.concat([answered.select("hi", "lo"), first.select(hi="slot_hi", lo="slot_lo")])
    statuses = dict(before.statuses)
    for status, more in answered["status"].value_counts().iter_rows():
        statuses[status] = statuses.get(status, 0) + more
    return _Found(before.keys.merge_sorted(keys.sort("hi"), "hi"), rows.tobytes(), statuses)


def _are_old(rows: npt.NDArray[np.int64], layout: Layout, before: Snapshot) -> bool:
    """Whether one of these was a row of the spans before, too."""
    file, position = layout.positions(rows)
    old = [(file == f) & (position >= first) & (position < first + length) for f, first, length in before.spans]
    return bool(any(each.any() for each in old))


def _write(folder: Folder, plan: Plan, layout: Layout, found: _Found) -> bool:
    """False if some of the rows are of no file that can be known again."""
    rows = np.frombuffer(found.rows, np.uint8)
    spans, pieces = [], [rows[:0]]
    for file, begin, end in layout.spans():
        some = rows[begin:end]
        if len(some):
            spans.append((file, int(layout.positions(np.array([begin]))[1][0]), len(some)))
            pieces.append(some)
    bits = np.concatenate(pieces)
    if bits.sum() != rows.sum() or len({file for file, _, _ in spans}) < len(spans):
        return False
    head = _Head(
        _VERSION, part_files.identity(folder.parts), part_index.found_id(folder.positions), plan.job.job.retry_failed,
        plan.per_item, found.statuses, found.keys.height, spans,
    )  # fmt: skip
    encoded = msgspec.json.encode(head)
    size = -(-(len(encoded) + 1) // _PAGE) * _PAGE
    with storing(folder.snapshot), replaced(folder.snapshot) as stream:
        stream.write(encoded.ljust(size - 1) + b"\n")
        for name in ("hi", "lo"):
            stream.write(raw(found.keys[name]))
        stream.write(np.packbits(bits).tobytes())
    return True
