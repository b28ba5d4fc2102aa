"""Answers that others have superseded, and what is sure to stay of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import STATUSES, raw
from . import part_files, part_index
from .store import Store
from .void_failures import Void

_STATUS = pl.Enum(STATUSES)
_AGAIN = ("failed", "invalid")  # whether such a request is asked again depends on how often it has ended so
_SLOT = ["slot_hi", "slot_lo"]


class Known(NamedTuple):
    """``rows`` are those of all parts, ``statuses`` counts the last answers to each request, ``digest`` is of their keys,
    statuses and times, in their order."""

    rows: int
    statuses: dict[str, int]
    digest: str


def known(store: Store, left_out: Mapping[int, pl.Series] | None) -> Known:
    """What the parts of a store come to: the last answers to each request, without those ``left_out`` (by part, as positions
    in it). If that is ``None``, all answers count as last ones, and no index is needed, else one as that of :class:`Answers`.

    :raises FolderError: if a part is damaged.
    """
    last = Answers(store, 0).last if left_out is not None else None
    digests = [hashlib.blake2b(digest_size=16) for _ in range(4)]  # a column each: parts may be cut in other ways
    statuses = dict.fromkeys(STATUSES, 0)
    begin = 0
    numbers = part_files.part_numbers(store)
    for number, frame in zip(numbers, part_index.read_keys(store, ["status", "finished_at"], numbers), strict=True):
        height = frame.height
        if last is not None and left_out is not None:
            mask = last.slice(begin, height)
            if number in left_out:
                mask = mask.scatter(left_out[number], False)
            frame = frame.filter(mask)
        begin += height
        for status, count in frame["status"].value_counts().iter_rows():
            statuses[status] += count
        columns = frame.select("hi", "lo", pl.col("status").cast(_STATUS), "finished_at")
        for digest, column in zip(digests, columns, strict=True):
            digest.update(raw(column.to_physical()) if frame.height else b"")
    counts = {str(status): count for status, count in statuses.items()}
    return Known(begin, counts, "".join(digest.hexdigest() for digest in digests))


class Answers:
    """The answers of all parts, in their order: which is the ``last`` to its request, and which are superseded. Those that
    ended before ``before_us``, in µs since the epoch, are old. A failure that is void is no answer. Some 60 bytes an answer,
    twice that while they are sorted.

    :raises FolderError: if a part is damaged.
    """

    def __init__(self, store: Store, before_us: int) -> None:
        self._store = store
        self._numbers = part_files.part_numbers(store)
        frames, self._rows = [], []
        void = Void(store)
        kept = part_index.read_keys(store, ["status", "finished_at"], self._numbers)
        for number, frame in zip(self._numbers, kept, strict=True):
            old = pl.col("finished_at").dt.timestamp("us") < before_us
            gone = void.among(number, frame["status"])
            counts = pl.lit(True) if gone is None else ~gone
            frames.append(frame.select("hi", "lo", pl.col("status").cast(_STATUS), old=old, counts=counts))
            self._rows.append(frame.height)
        empty = pl.DataFrame(
            schema={"hi": pl.UInt64, "lo": pl.UInt64, "status": _STATUS, "old": pl.Boolean, "counts": pl.Boolean}
        )
        self._all = pl.concat([empty, *frames]).with_row_index("at")
        del frames
        ordered = self._all.filter("counts").select("hi", "lo", "at").sort("hi", "lo", "at")
        as_next = ((pl.col("hi") == pl.col("hi").shift(-1)) & (pl.col("lo") == pl.col("lo").shift(-1))).fill_null(False)
        twice = ordered.select("at", as_next=as_next)
        twice = twice.with_columns(several=pl.col("as_next") | pl.col("as_next").shift(1, fill_value=False))
        none = pl.repeat(False, self._all.height, dtype=pl.Boolean, eager=True)
        self.last = none.scatter(twice["at"].filter(~twice["as_next"]), True)
        self._several = twice.filter("several")["at"].sort()

    def superseded(self, results: Sequence[Path] | None) -> dict[int, pl.Series]:
        """The old answers that may go, by part, as positions in it. ``results`` are the files of the table of the present
        job, if it is up to date: what is not in it, and whose place another answer has there, belongs to an earlier job.

        How often a request has failed, or its answer not fitted, counts as long as it still does: these are kept.
        """
        here = self._all[self._several].with_columns(last=self.last.gather(self._several))
        status = pl.col("status").cast(pl.String)
        present = status.last().over("hi", "lo", order_by="at")
        may_go = ~pl.col("last") & pl.col("old") & ~(present.is_in(_AGAIN) & status.is_in(_AGAIN))
        gone = pl.concat([here.filter(may_go)["at"], self._all.filter("old", ~pl.col("counts"))["at"]])
        if results is not None:
            gone = pl.concat([gone, self._of_earlier_jobs(results)])
        gone = gone.unique()
        found, begin = {}, 0
        for number, rows in zip(self._numbers, self._rows, strict=True):
            mine = gone.filter(gone.is_between(begin, begin + rows, closed="left")) - begin
            if len(mine):
                found[int(number)] = mine.sort()
            begin += rows
        return found

    def _of_earlier_jobs(self, results: Sequence[Path]) -> pl.Series:
        """Those to requests that the table does not have, in whose slot one that it has was answered later."""
        keys = part_index.head(pa.concat_tables(pq.read_table(path, columns=["key"]) for path in results))
        last = self._all.filter(self.last)
        others = last.join(keys, on=["hi", "lo"], how="anti")
        if not others.height:
            return pl.Series(dtype=pl.UInt32)
        slots = pl.concat(part_index.read_keys(self._store, ["slot"], self._numbers)).select(_SLOT).with_row_index("at")
        present = last.join(keys, on=["hi", "lo"], how="semi").select("at").join(slots, on="at")
        present = present.group_by(_SLOT).agg(newest=pl.col("at").max())
        earlier = others.select("hi", "lo", "at").join(slots, on="at").join(present, on=_SLOT)
        earlier = earlier.filter(pl.col("at") < pl.col("newest"))
        earlier = earlier.join(
            part_index.shared_slots(part_index.read_keys(self._store, part_index.SHARED)), on=_SLOT, how="anti"
        )
        return self._all.filter("old").join(earlier, on=["hi", "lo"], how="semi")["at"]
