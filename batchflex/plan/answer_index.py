"""What is done already, and what the job would change: the answers in a folder compared with a plan."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ..core import STATUSES, KeySet, Outcome, Request, SortedKeys, Status, key_halves, raw
from ..protocol import REASK_STATUSES, Policy
from ..storage import (
    PENDING,
    Layout,
    RejectedAnswers,
    Store,
    Void,
    part_files,
    part_index,
)
from .planner import Passed, PlanDiff

_STATUS = pl.Enum(STATUSES)
_CHANGED = {"at": pl.Int64, "slot_hi": pl.UInt64, "slot_lo": pl.UInt64, "row": pl.Int64, "point": pl.Int32,
            "total_tokens": pl.Int64, "cost": pl.Float64}  # fmt: skip
_MARKED = 100_000  # keys looked up at once
_NO_REASKS = Policy()

_UNFIT = pl.Schema(
    {"hi": pl.UInt64, "lo": pl.UInt64, "status": pl.String, "reasks": pl.Int32, "again": pl.Boolean, "part": pl.Int64,
     "at": pl.Int64}
)  # fmt: skip
_UNFIT_COLUMNS = ["reasks", "grown", "answer_limit", "cut_by", "completion_tokens", "ttft_s"]


def _rejected_in(number: int, part: pl.DataFrame, more: pa.Table, policy: Policy) -> pl.DataFrame:
    """The answers of a part that may be asked for again, and which of them are, as :func:`reask.further` has it."""
    whole = pl.concat([part.select("hi", "lo", "status"), pl.DataFrame(more.select(_UNFIT_COLUMNS))], how="horizontal")
    limit = pl.coalesce("answer_limit", "completion_tokens", 0)
    by_server = pl.col("cut_by").eq_missing("server")
    is_old = (pl.col("status") == "truncated") & pl.col("answer_limit").is_null() & pl.col("cut_by").is_null()
    grows = (pl.col("cut_by").eq_missing("limit") | is_old) & (limit < policy.grow_to)
    unfit = (pl.col("status") == "invalid") & (pl.col("reasks") - pl.col("grown").fill_null(0) < policy.most)
    streams = by_server & pl.col("ttft_s").is_null() & policy.streams
    placed = whole.with_columns(
        again=streams | (~by_server & (grows | unfit)), part=pl.lit(int(number)), at=pl.int_range(pl.len())
    )
    return placed.filter(pl.col("status").is_in(REASK_STATUSES)).select(list(_UNFIT)).cast(_UNFIT)


def may_be_asked_again(parts: Store, number: int, part: pl.DataFrame, policy: Policy) -> bool:
    """Whether an answer of a part may be asked for again, if no later one has come."""
    if not policy.wants_reasks or not part["status"].is_in(REASK_STATUSES).any():
        return False
    return bool(_rejected_in(number, part, part_files.read_part(parts, number, _UNFIT_COLUMNS), policy)["again"].any())


class AnswerIndex:
    """The final outcomes in a folder's parts, found by the block.

    ``sort_out`` says of each request whether it is still to be asked, and remembers where the plan has those that are not: the
    key decides. About 30 bytes an answer. ``positions`` tell beforehand where answers are in the plan, as far as that can be told
    without going through it; ``labels`` are its sweep points in order. An answer that the policy of ``reasks`` asks for again is
    still to be asked for. A failure that is void is none; ``void`` are runs whose failures are, as the journal tells. ``pending``
    are outcomes that are in the journal only, as a run that goes on or was killed has left them: they count as the last.
    """

    def __init__(
        self,
        parts: Store,
        retry_failed: int,
        labels: Sequence[str] = (),
        *,
        positions: part_index.Positions | None = None,
        reasks: Policy = _NO_REASKS,
        void: Collection[str] = (),
        pending: Sequence[Outcome] = (),
    ) -> None:
        self._parts = parts
        self._pending = part_files.to_table(pending) if pending else None
        self._positions = positions
        self._is_gone_through = positions is None
        self._labels = tuple(labels)
        schema: dict[str, Any] = {"hi": pl.UInt64, "lo": pl.UInt64, "status": _STATUS}
        wanted = [pl.col("hi", "lo"), pl.col("status").cast(_STATUS)]
        columns = ["status"]
        if positions is not None:
            schema |= {"row": pl.Int64, "point": pl.Int32, "sample": pl.Int32}
            order = {label: number for number, label in enumerate(labels)}
            point = pl.col("point").replace_strict(order, default=None, return_dtype=pl.Int32)
            at = pl.when(point.is_null()).then(-1).otherwise(pl.col("row"))
            wanted += [at.alias("row"), point.fill_null(0), pl.col("sample")]
            columns += ["point", "sample", *positions.columns]
        columns = [name for name in columns if name != "key"]
        frames, unfit = [], [pl.DataFrame(schema=_UNFIT)]
        self._reading = parts.reading()
        self._numbers = part_files.part_numbers(parts)
        void_ones = Void(parts, void)
        for number, part in zip(self._numbers, part_index.read_keys(parts, columns, self._numbers), strict=True):
            frame = self._placed(part).select(wanted)
            gone = void_ones.among(number, part["status"])
            frames.append(frame if gone is None else frame.filter(~gone))
            if reasks.wants_reasks and part["status"].is_in(REASK_STATUSES).any():
                found = _rejected_in(number, part, part_files.read_part(parts, number, _UNFIT_COLUMNS), reasks)
                unfit.append(found if gone is None else found.filter(~gone.gather(found["at"])))
        if self._pending is not None:
            last = part_index.head(self._pending.select(["key", *columns]))
            frames.append(self._placed(last).select(wanted))
            if reasks.wants_reasks:
                unfit.append(_rejected_in(PENDING, last, self._pending, reasks))
        index = pl.concat([pl.DataFrame(schema=schema), *frames])
        del frames
        times = index.filter(pl.col("status") == "failed").group_by("hi", "lo").len("times")
        index = part_index.last_of_each(index)
        self._keys = index.select("hi", "lo")
        self._status = index["status"]
        self._sorted = SortedKeys(self._keys)
        # A failed row is asked again on each further run, up to retry_failed times.
        again = pl.Series(self._sorted.find(times.filter(pl.col("times") <= retry_failed)), dtype=pl.Int64)
        self._again = bytearray(len(self._keys))
        for at in again.filter(self._status.gather(again) == "failed"):
            self._again[at] = 1
        self._unfit = self._still_rejected(pl.concat(unfit), retry_failed, pending)
        if positions is None:
            self._row = array("q", [-1]) * len(self._keys)
            self._point = array("i", [0]) * len(self._keys)
            self._sample = pl.Series("sample", [], pl.Int32)
        else:
            self._sample = index["sample"]
            self._row = array("q", bytes(raw(index["row"])))
            self._point = array("i", bytes(raw(index["point"])))
        self.has_moved = False  # whether a pass has found answers elsewhere than was known
        self._missing: list[pl.DataFrame] = []
        self._changes: pl.DataFrame | None = None
        self._kept: SortedKeys | None = None
        self._kept_at: list[int] = []
        self._planned = self._found = self._failed_again = 0

    def _placed(self, part: pl.DataFrame) -> pl.DataFrame:
        return part if self._positions is None else part.with_columns(pl.Series("row", self._positions.rows(part)))

    def _still_rejected(self, unfit: pl.DataFrame, retry_failed: int, pending: Sequence[Outcome]) -> RejectedAnswers:
        """Those to be asked for again. One that could not be is tried on further runs as a failed row is."""
        steps = ["hi", "lo", "reasks", "status"]
        few = unfit.group_by(steps).len("times").filter(pl.col("times") <= 1 + retry_failed)
        last = part_index.last_of_each(unfit).filter("again").join(few, on=steps, how="semi")
        found = last.select(pl.Series("position", self._sorted.find(last), dtype=pl.Int64), "part", "at")
        found = found.filter(self._status.gather(found["position"]).cast(pl.String).is_in(REASK_STATUSES))
        for at in found["position"]:
            self._again[at] = 1
        return RejectedAnswers(self._parts, found, self._numbers, pending)

    def __len__(self) -> int:
        return len(self._again)

    def find(self, keys: pl.DataFrame) -> npt.NDArray[np.int64]:
        """The position of the answer with each of these keys (``hi``, ``lo``), -1 where there is none."""
        return np.array(self._sorted.find(keys), np.int64)

    def keys_at(self, positions: npt.NDArray[np.int64]) -> pl.DataFrame:
        """The keys of the answers at these positions."""
        return self._keys[positions]

    def kept_rows(self) -> npt.NDArray[np.int64]:
        """After :meth:`keep_changed`: the rows whose answers were given to different requests."""
        return np.array([self._row[at] for at in self._kept_at], np.int64)

    def holds(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of these keys have an answer, whatever its status is."""
        return [at >= 0 for at in self._sorted.find(key_halves(keys))]

    def sort_out(self, requests: Sequence[Request], *, survey: bool = False) -> list[Request]:
        """Those of ``requests`` still to be asked. With ``survey`` they are also counted for :meth:`diff`."""
        if not len(self):
            if survey:
                self._planned += len(requests)
            return list(requests)
        wanted: list[Request] = []
        missing: list[Request] = []
        unfit: dict[int, int] = {}
        rows, points, again = self._row, self._point, self._again
        has_moved = self.has_moved
        for request, at in zip(requests, self.answers(requests), strict=True):
            if at < 0:
                missing.append(request)
            else:
                if rows[at] != request.row:
                    has_moved = True
                    rows[at] = request.row
                points[at] = request.point
                if not again[at]:
                    continue
                unfit[at] = len(wanted)
            wanted.append(request)
        self.has_moved = has_moved
        if len(self._unfit) and not survey:
            for at, before in self._unfit.of(list(unfit)).items():
                wanted[unfit[at]] = msgspec.structs.replace(wanted[unfit[at]], before=before)
        if survey:
            self._planned += len(requests)
            self._found += len(requests) - len(wanted)
            self._failed_again += len(wanted) - len(missing)
            if missing:
                places = {
                    "row": [r.row for r in missing],
                    "point": [r.point for r in missing],
                    "named": [hash((r.id, r.point, r.sample)) for r in missing],
                }
                schema = {"row": pl.Int64, "point": pl.Int32, "named": pl.Int64}
                self._missing.append(key_halves([r.slot for r in missing]).hstack(pl.DataFrame(places, schema=schema)))
        return wanted

    def begin_survey(self, passed: Passed | None = None) -> None:
        """A pass over a plan begins that will tell where all answers are, but for those to rows that are ``passed`` over."""
        self._planned = self._found = 0 if passed is None else passed.requests
        self._is_gone_through = True
        rows = np.frombuffer(self._row, np.int64)
        if passed is None:
            stay = np.zeros(len(rows), np.bool_)
        else:
            mask = np.frombuffer(passed.rows + b"\0", np.uint8)
            stay = mask[np.where((rows >= 0) & (rows < len(passed.rows)), rows, len(passed.rows))] == 1
        self.has_moved = self.has_moved or bool((rows[~stay] >= 0).any())
        self._row = array("q", np.where(stay, rows, -1).astype(np.int64).tobytes())

    @property
    def stale_answers(self) -> int:
        """Answers whose place in the plan is not known; failed ones are none."""
        return int(((self._rows() < 0) & (self._status != "failed")).sum())

    def is_located(self, finished: bytes, per_item: int, *, is_as_last: bool) -> bool:
        """Whether it is known where all answers are, so that only rows that are not :meth:`finished` need be gone through: those
        that would not be asked for again, failed or not, have a row, and, unless the plan ``is_as_last``, no row has only some of
        its answers."""
        is_final = (self._status != "failed") | (self._asked_again() == 0)
        if ((self._rows() < 0) & is_final).any():
            return False
        return is_as_last or sum(self.statuses().values()) == finished.count(1) * per_item

    def mark(self, keys: pl.DataFrame) -> bytearray:
        """A byte for each answer, 1 for those with one of these keys."""
        marks = bytearray(len(self))
        for block in keys.iter_slices(_MARKED):
            for at in self._sorted.find(block):
                if at >= 0:
                    marks[at] = 1
        return marks

    def answers(self, requests: Sequence[Request]) -> list[int]:
        """The position of the answer that each request has, -1 if it has none. Kept ones count, after :meth:`keep_changed`."""
        found = self._sorted.find(key_halves([request.key for request in requests]))
        if self._kept is not None and (missing := [number for number, at in enumerate(found) if at < 0]):
            slots = key_halves([requests[number].slot for number in missing])
            for number, kept in zip(missing, self._kept.find(slots), strict=True):
                if kept >= 0:
                    found[number] = self._kept_at[kept]
        return found

    def has_elsewhere(self, requests: Sequence[Request], found: Sequence[int]) -> bool:
        """Whether one of these answers, as :meth:`answers` found them, is not to the row of its request as far as was known."""
        return any(at >= 0 and self._row[at] != request.row for request, at in zip(requests, found, strict=True))

    def status_of(self, at: int) -> Status:
        """That of the answer at a position."""
        found: Status = self._status[at]
        return found

    def finished(self, per_item: int, but: bytes | None = None) -> bytes:
        """With ``positions``: a byte for each row up to the last that has an answer, 1 if each of its ``per_item`` requests has
        and none is marked in ``but``, which are by default those still to be asked. Empty if two answers are at one place: equal
        requests are numbered anew as files come and go, and only going through the plan tells whose each is."""
        again = self._asked_again(but)
        if per_item == 1:
            found = pl.DataFrame([self._rows(), again]).filter(pl.col("row") >= 0)
            has_clash = found["row"].n_unique() < found.height
            rows = found.filter(pl.col("again") == 0)["row"]
        else:
            found = pl.DataFrame([self._rows(), self._points(), self._sample, again]).filter(pl.col("row") >= 0)
            has_clash = found.select("row", "point", "sample").n_unique() < found.height
            places = found.filter(pl.col("again") == 0).group_by("row").len()
            rows = places.filter(pl.col("len") == per_item)["row"]
            rows = rows.filter(~rows.is_in(found.filter(pl.col("again") == 1)["row"].implode()))
        if has_clash or not found.height:
            return b""
        end = int(found["row"].max()) + 1  # type: ignore[arg-type]
        return bytes(raw(pl.zeros(end, dtype=pl.UInt8, eager=True).scatter(rows, 1)))

    def passed(self, rows: bytes, per_item: int) -> Passed:
        """The :meth:`finished` rows, for a pass over the others."""
        seen = KeySet()
        for keys in self._seen(rows):
            seen.add_all(keys)
        return Passed(rows, seen, rows.count(1) * per_item)

    def keys_of(self, rows: bytes) -> pl.DataFrame:
        """With ``positions``: the keys of the :meth:`finished` rows and the first slot of each, in order."""
        return part_index.last_of_each(pl.concat([self._keys.clear(), *self._seen(rows)]))

    def _seen(self, rows: bytes) -> Iterator[pl.DataFrame]:
        """The keys of the answers to these rows and the first slot of each, part by part."""
        mask = np.frombuffer(rows + b"\0", np.uint8)
        known = np.frombuffer(self._row, np.int64)
        columns = ["slot", "sample", "point", "file", "position"]
        for part in part_index.read_keys(self._parts, columns, self._numbers):
            row = np.full(part.height, -1, np.int64)
            if self._positions is not None and not self.has_moved:
                row = self._positions.rows(part).copy()
            if (lost := row < 0).any():  # the plan may have come to them since
                at = np.array(self._sorted.find(part.filter(lost)), np.int64)
                row[lost] = np.where(at >= 0, known[at], -1)
            part = part.filter(mask[np.where((row >= 0) & (row < len(rows)), row, len(rows))] == 1)
            first = part.filter(
                (pl.col("sample") == 0) & (pl.col("point") == (self._labels[0] if self._labels else ""))
            )
            yield pl.concat([part.select("hi", "lo"), first.select(hi="slot_hi", lo="slot_lo")])

    def moved(self, layout: Layout) -> Iterator[pl.DataFrame]:
        """The answers that are elsewhere than their parts tell, after a pass over the plan, part by part: ``hi``, ``lo``, and
        ``file`` and ``position`` where they are, 0 of those that belong to no row."""
        known = np.frombuffer(self._row, np.int64)
        for part in part_index.read_keys(self._parts, ["file", "position"], self._numbers):
            at = np.array(self._sorted.find(part), np.int64)
            now = np.where(at >= 0, known[at], -1)
            own = part_index.Positions(layout).rows(part)
            here = part.select("hi", "lo").filter(now != own)
            file, position = layout.positions(now[now != own])
            yield here.with_columns(file=pl.Series(file, dtype=pl.Int64), position=pl.Series(position, dtype=pl.Int64))

    def diff(self) -> PlanDiff:
        """After a whole pass with ``survey``: what the plan found. With ``positions`` also before one."""
        if not self._is_gone_through:
            placed, again = self._rows() >= 0, self._asked_again() == 1
            return PlanDiff(None, int((placed & ~again).sum()), int((placed & again).sum()), 0, 0, None, 0)
        changed = self._changes = self._changed()
        shared = self._shared(changed)
        if not changed.height:
            self._missing.clear()
        return PlanDiff(
            planned=self._planned,
            done=self._found,
            failed_again=self._failed_again,
            changed=changed.height,
            changed_tokens=int(changed["total_tokens"].sum()),
            changed_cost=float(changed["cost"].sum()) if changed["cost"].count() else None,
            orphans=self.stale_answers,
            **shared,
        )

    def keep_changed(self) -> None:
        """From now on a request whose slot has an answer to a different request counts as done.

        A slot that several requests would fill, because they share an id, is left to be asked.
        """
        changed = self._changed() if self._changes is None else self._changes
        self.has_moved = self.has_moved or changed.height > 0
        for at, row, point in changed.select("at", "row", "point").iter_rows():
            self._row[at] = row
            self._point[at] = point
            self._again[at] = 0
        self._kept = SortedKeys(changed.select(hi="slot_hi", lo="slot_lo"))
        self._kept_at = changed["at"].to_list()

    def statuses(self) -> dict[str, int]:
        """After a whole pass: how many answers of each status count as done for the plan."""
        counts = self._status.filter((self._rows() >= 0) & (self._asked_again() == 0)).value_counts()
        return dict(zip(counts["status"].to_list(), counts["count"].to_list(), strict=True))

    def planned(self) -> pl.DataFrame:
        """``hi``, ``lo`` and the present ``row`` and sweep ``point`` of every answer that belongs to the plan."""
        return self._keys.with_columns(self._rows(), self._points()).filter(pl.col("row") >= 0)

    def _rows(self) -> pl.Series:
        return pl.Series("row", np.frombuffer(self._row, np.int64))

    def _points(self) -> pl.Series:
        return pl.Series("point", np.frombuffer(self._point, np.int32))

    def _asked_again(self, marks: bytes | None = None) -> pl.Series:
        return pl.Series("again", np.frombuffer(self._again if marks is None else marks, np.uint8))

    def _heads(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Keys and columns of all parts and of what is pending, as :func:`keyindex.read_keys` gives them."""
        yield from part_index.read_keys(self._parts, columns, self._numbers)
        if self._pending is not None:
            yield part_index.head(self._pending.select(["key", *columns]))

    def _changed(self) -> pl.DataFrame:
        """The answers no request has the key of, whose slot a missing request would fill: one a slot, the last.

        ``row`` and ``point`` are those of the missing request.
        """
        found = [pl.DataFrame(schema=_CHANGED)]
        free = (self._rows() < 0) & (self._status != "failed")
        if self._missing and free.any():
            # Of rows that share an id it cannot be told which of them an answer belonged to.
            missing = pl.concat(self._missing).filter(pl.len().over("named") == 1)
            slots, places = SortedKeys(missing), missing.select("row", "point")
            for part in self._heads(["slot", "total_tokens", "cost"]):
                frame = part.with_columns(
                    at=pl.Series(self._sorted.find(part), dtype=pl.Int64),
                    place=pl.Series(slots.find(part.select(hi="slot_hi", lo="slot_lo")), dtype=pl.Int64),
                )
                frame = frame.filter((pl.col("at") >= 0) & (pl.col("place") >= 0))
                frame = frame.filter(free.gather(frame["at"]))
                found.append(frame.hstack(places[frame["place"]]).select(list(_CHANGED)))
        changed = pl.concat(found)
        if changed.height:
            shared = part_index.shared_slots(self._heads(part_index.SHARED))
            changed = changed.join(shared, on=["slot_hi", "slot_lo"], how="anti", maintain_order="left")
        together = changed.rename({"slot_hi": "hi", "slot_lo": "lo"})
        return part_index.last_of_each(together).rename({"hi": "slot_hi", "lo": "slot_lo"})

    def _shared(self, changed: pl.DataFrame) -> dict[str, Any]:
        """What :class:`PlanDiff` says of answers to rows that share an id, by which those of ``changed`` slots are not known."""
        free = (self._rows() < 0) & (self._status != "failed")
        if not self._missing or not free.any():
            return {}
        missing = pl.concat(self._missing)["named"].value_counts(name="missing")
        if (missing["missing"] == 1).all():
            return {}
        found = []
        order = {label: number for number, label in enumerate(self._labels)}
        for part in self._heads(["id", "point", "sample", "total_tokens", "cost"]):
            part = part.with_columns(at=pl.Series(self._sorted.find(part), dtype=pl.Int64)).filter(pl.col("at") >= 0)
            part = part.filter(free.gather(part["at"]))
            names = zip(part["id"], (order.get(label, 0) for label in part["point"]), part["sample"], strict=True)
            named = part.with_columns(named=pl.Series([hash(name) for name in names], dtype=pl.Int64))
            found.append(named.select("named", "at", "total_tokens", "cost"))
        answers = pl.concat(found).unique("at", keep="last", maintain_order=True)
        answers = answers.join(missing, on="named").filter(pl.int_range(pl.len()).over("named") < pl.col("missing"))
        answers = answers.join(changed.select("at"), on="at", how="anti")
        cost = float(answers["cost"].sum()) if answers["cost"].count() else None
        return {"shared": answers.height, "shared_tokens": int(answers["total_tokens"].sum()), "shared_cost": cost}
