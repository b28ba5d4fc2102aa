"""How a folder stands: which rows are finished, and the keys of their requests. So a run that finds new rows beside ten million
old ones reads none of the old answers before it sends anything.

A large folder has it written down, in ``standing.bin``: a line of JSON (:class:`_Head`), padded with blanks to a multiple of
4,096 bytes; then, little-endian, the upper and the lower halves (uint64) of the keys and of each row's first slot, all sorted by
the upper, and a bit for each row, 1 if it is finished. It speaks of the parts up to a number; what has come since is added when
it is read, so that it is written anew only once that has become much. It is derived from the parts and may be deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ..core import STATUSES, KeySet, malloc, raw
from ..protocol import REASK_STATUSES, Policy
from ..storage import Folder, Layout, Number, Void, part_files, part_index, replaced, storing
from .answer_index import AnswerIndex, may_be_asked_again
from .planner import Passed

if TYPE_CHECKING:
    from .plan import Plan

_WORTH_SHARE = 8  # written anew when more than this part of the keys, or so many parts, have come since
_WORTH_PARTS = 100
_PAGE = 4_096
_VERSION = 6  # to be raised when other failures count than before, too


class _Head(msgspec.Struct, frozen=True):
    """``parts`` is the :func:`part_files.identity` of the parts up to the number ``last``, ``positions`` the
    :func:`part_index.found_id` of what tells where answers are besides. ``statuses`` counts the rows of each status that are
    done. ``spans`` are those whose rows follow: the file, the position of the first and how many they are."""

    version: int
    last: int
    parts: str
    positions: str
    retry_failed: int
    per_item: int
    statuses: dict[str, int]
    keys: int
    spans: list[tuple[int, int, int]]


class Snapshot(NamedTuple):
    """What a folder's parts up to the number ``last`` come to. All answers belong to rows of the ``spans``, and no row that is
    not finished has one that is done. ``keys`` (``hi``, ``lo``) are those of the finished rows and their first slots, in frames
    that are each in the order of ``hi``. If ``written`` is not 0, the first frame is on the disk, which speaks of the parts up to
    that number. ``failed`` counts the rows of the others that failed and are asked again."""

    statuses: dict[str, int]
    keys: Sequence[pl.DataFrame]
    spans: list[tuple[int, int, int]]
    rows: npt.NDArray[np.uint8]  # a byte each, of all spans in turn
    last: int
    failed: int = 0
    written: int = 0

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
        for keys in self.keys:
            seen.add_all(keys)
        return Passed(rows, seen, rows.count(1) * per_item)


_NOTHING = Snapshot({}, (), [], np.zeros(0, np.uint8), 0)


class Standing(NamedTuple):
    """How a folder stands for a plan: its ``finished`` rows as bytes, and where the files of the answers are."""

    snapshot: Snapshot
    finished: bytes
    layout: Layout


def of(folder: Folder, plan: Plan, reasks: Policy) -> Standing | None:
    """How the folder stands, by what is written down and the parts that have come since; ``None`` if only an index of all answers
    can tell: some belong to no row of the plan, or some of a row's are missing, or were given again.

    :raises FolderError: if a part is damaged.
    """
    before = _read(folder, plan.job.job.retry_failed, plan.per_item, reasks) or _NOTHING
    return _with_more(folder, plan, None, before, reasks)


def _read(folder: Folder, retry_failed: int, per_item: int, reasks: Policy) -> Snapshot | None:
    """What is written down; ``None`` if nothing is, or it is not of the parts that are there, or would be otherwise for a run of
    this policy."""
    try:
        with folder.snapshot.open("rb") as stream:
            head = msgspec.json.decode(stream.readline(), type=_Head)
            begin = stream.tell()
        if (head.version, head.retry_failed, head.per_item) != (_VERSION, retry_failed, per_item):
            return None
        if reasks.reopens(head.statuses) or head.parts != part_files.identity(folder.parts, head.last):
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
    bytes_ = np.unpackbits(bits, count=length)
    return Snapshot(head.statuses, [keys], head.spans, bytes_, head.last, 0, head.last)


def _mapped(words: npt.NDArray[np.uint8]) -> pl.Series:
    """Numbers of 64 bits, which stay where they are."""
    return pl.Series(pa.Array.from_buffers(pa.uint64(), len(words) // 8, [None, pa.py_buffer(words)]))


def keep(folder: Folder, plan: Plan, layout: Layout, before: Snapshot | None) -> None:
    """Write down how the folder stands, if all of its answers belong to rows of the plan, and none is done of a row that is not
    finished; else forget it. ``layout`` is where the rows of each file are in the plan. ``before`` is how it stood when the run
    began. Blocks.

    :raises StorageError: if it cannot be written.
    :raises FolderError: if a part is damaged.
    """
    found = _with_more(folder, plan, layout, before or _NOTHING, plan.job.reasks) or _indexed(folder, plan, layout)
    if found is None:
        folder.snapshot.unlink(missing_ok=True)
    elif not _is_written(folder, found.snapshot):
        _write(folder, plan, found.snapshot)


def _is_written(folder: Folder, found: Snapshot) -> bool:
    """Whether what is on the disk is enough, as little has come since."""
    if not found.written:
        return False
    there, *since = (keys.height for keys in found.keys)
    parts = sum(number > found.written for number in part_files.part_numbers(folder.parts))
    return sum(since) * _WORTH_SHARE <= there and parts <= _WORTH_PARTS


def _with_more(folder: Folder, plan: Plan, layout: Layout | None, before: Snapshot, reasks: Policy) -> Standing | None:
    """How it stood and the parts that came; ``None`` if that does not tell all. Without a ``layout`` it is that of the plan."""
    numbers = [number for number in part_files.part_numbers(folder.parts) if number > before.last]
    with malloc.keeping():
        heads = _heads(folder, plan, numbers, reasks)
    if heads is None:
        return None
    placed = part_index.read_found(folder.positions)
    if layout is None:
        layout = plan.layout(before.files.union(*(head["file"].unique() for head in [placed, *heads])))
    finished = before.finished(layout)
    if finished is None:
        return None
    if not heads:
        return Standing(before, finished, layout)
    positions = part_index.Positions(layout, placed)
    for at, head in enumerate(heads):
        heads[at] = positions.place(head).drop("file", "position")
        if heads[at].height < head.height:
            return None
    new = pl.concat(heads)
    heads.clear()
    failed = new.filter(pl.col("status") == "failed")
    if failed.height or new["status"].is_in(REASK_STATUSES).any():
        often = failed.group_by("hi", "lo").len().filter(pl.col("len") > plan.job.job.retry_failed)
        new = part_index.last_of_each(new)
        failed = new.filter(pl.col("status") == "failed")
        # How often a row has failed tell earlier parts alone.
        if failed.join(often, on=["hi", "lo"], how="semi").height or _are_old(failed["row"], layout, before):
            return None
        new = new.filter(pl.col("status") != "failed")
    # Failed ones count, too: a later run has to see that they are old.
    end = max([len(finished), *(1 + int(some["row"].max()) for some in (new, failed) if some.height)])  # type: ignore[arg-type]
    answered = np.bincount(new["row"], minlength=end)
    rows, has = np.zeros(end, np.uint8), answered > 0
    rows[: len(finished)] = np.frombuffer(finished, np.uint8)
    if (rows & has).any() or has.sum() * plan.per_item != new.height or answered.max(initial=0) > plan.per_item:
        return None
    rows |= has
    statuses = dict(before.statuses)
    for status, more in new["status"].value_counts().iter_rows():
        statuses[status] = statuses.get(status, 0) + more
    slots = new.filter("is_first").select(hi="slot_hi", lo="slot_lo")
    keys = pl.concat([new.select("hi", "lo"), slots], rechunk=True)
    del new, slots  # at ten million rows each copy counts
    keys = keys.sort("hi")
    if _has_twice(keys["hi"], before):
        return None
    return _standing(folder, layout, rows, statuses, [*before.keys, keys], before.written, failed.height)


def _heads(folder: Folder, plan: Plan, numbers: Sequence[Number], reasks: Policy) -> list[pl.DataFrame] | None:
    """What tells of the answers in these parts; ``None`` if one may be asked for again, or is of no sweep point of the plan."""
    columns = ["slot", "status", "file", "position", "sample", "point"]
    halves = ["hi", "lo", "slot_hi", "slot_lo"]
    is_first = (pl.col("sample") == 0) & (pl.col("point") == plan.labels[0])
    void, heads = Void(folder.parts), []
    for number, part in zip(numbers, part_index.read_keys(folder.parts, columns, numbers), strict=True):
        if may_be_asked_again(folder.parts, number, part, reasks) or not part["point"].is_in(plan.labels).all():
            return None
        gone = void.among(number, part["status"])
        status, place = pl.col("status").cast(pl.Enum(STATUSES)), pl.col("file", "position").fill_null(0)
        head = part.select(*halves, status, place, is_first=is_first)
        heads.append(head if gone is None else head.filter(~gone))
    return heads


def _has_twice(hi: pl.Series, before: Snapshot) -> bool:
    """Whether one of these keys, which are in their order, comes twice, or was there before: then its last answer counts."""
    if (hi == hi.shift(-1)).any():
        return True
    for earlier in (keys["hi"] for keys in before.keys if keys.height):
        near = earlier.search_sorted(hi).clip(upper_bound=len(earlier) - 1)
        if (earlier.gather(near) == hi).any():
            return True
    return False


def _are_old(rows: pl.Series, layout: Layout, before: Snapshot) -> bool:
    """Whether one of these was a row of the spans before, too."""
    file, position = layout.positions(rows.to_numpy())
    old = [(file == f) & (position >= first) & (position < first + length) for f, first, length in before.spans]
    return bool(any(each.any() for each in old))


def _indexed(folder: Folder, plan: Plan, layout: Layout) -> Standing | None:
    """By an index of all answers; some 100 bytes each."""
    positions = part_index.Positions(layout, part_index.read_found(folder.positions))
    done = AnswerIndex(folder.parts, plan.job.job.retry_failed, plan.labels, positions=positions)
    finished, statuses = done.finished(plan.per_item), done.statuses()
    if done.stale_answers or sum(statuses.values()) != finished.count(1) * plan.per_item:
        return None
    rows = np.frombuffer(finished, np.uint8)
    return _standing(folder, layout, rows, statuses, [done.keys_of(finished)])


def _standing(
    folder: Folder,
    layout: Layout,
    rows: npt.NDArray[np.uint8],
    statuses: dict[str, int],
    keys: Sequence[pl.DataFrame],
    written: int = 0,
    failed: int = 0,
) -> Standing | None:
    """``None`` if some of the rows are of no file that can be known again."""
    spans, pieces = [], [rows[:0]]
    for file, begin, end in layout.spans():
        some = rows[begin:end]
        if len(some):
            spans.append((file, int(layout.positions(np.array([begin]))[1][0]), len(some)))
            pieces.append(some)
    bits = np.concatenate(pieces)
    if bits.sum() != rows.sum() or len({file for file, _, _ in spans}) < len(spans):
        return None
    last = int(max(part_files.part_numbers(folder.parts), default=0))
    return Standing(Snapshot(statuses, keys, spans, bits, last, failed, written), rows.tobytes(), layout)


def _write(folder: Folder, plan: Plan, found: Snapshot) -> None:
    keys = found.keys[0]
    for more in found.keys[1:]:
        keys = keys.merge_sorted(more, "hi")
    head = _Head(
        _VERSION, found.last, part_files.identity(folder.parts), part_index.found_id(folder.positions),
        plan.job.job.retry_failed, plan.per_item, found.statuses, keys.height, found.spans,
    )  # fmt: skip
    encoded = msgspec.json.encode(head)
    size = -(-(len(encoded) + 1) // _PAGE) * _PAGE
    with storing(folder.snapshot), replaced(folder.snapshot) as stream:
        stream.write(encoded.ljust(size - 1) + b"\n")
        for name in ("hi", "lo"):
            stream.write(raw(keys[name]))
        stream.write(np.packbits(found.rows).tobytes())
