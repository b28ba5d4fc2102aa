"""What is done already, and what the job would change: the answers in a folder held against a plan."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from . import store
from .keyindex import SortedKeys, halves, halves_of_hex
from .model import STATUSES, Request

_STATUS = pl.Enum(STATUSES)


class Census(NamedTuple):
    """What a plan finds in a folder. ``changed`` slots have an answer to a different request; it cost what follows.

    ``orphans`` are answers that belong to no request of the plan.
    """

    planned: int
    done: int
    failed_again: int
    changed: int
    changed_tokens: int
    changed_cost: float | None
    orphans: int

    @property
    def left(self) -> int:
        """Requests still to be asked."""
        return self.planned - self.done

    def keeping(self) -> Census:
        """The census once the answers to changed requests count as done."""
        return self._replace(done=self.done + self.changed, changed=0)


class Done:
    """The final outcomes in a folder's parts, found by the block.

    ``sort_out`` says of each request whether it is still to be asked, and remembers where the plan has those that are not.
    About 40 bytes an answer.
    """

    def __init__(self, parts: Path, retry_failed: int) -> None:
        self._parts = parts
        frames = list(store.read_keys(parts, ["status"]))
        index = pl.concat(
            [
                f.select("hi", "lo", pl.col("status").cast(_STATUS))
                for f in frames
            ]
            or [pl.DataFrame(schema={"hi": pl.UInt64, "lo": pl.UInt64, "status": _STATUS})]
        )
        times = index.filter(pl.col("status") == "failed").group_by("hi", "lo").len("times")
        index = index.unique(subset=["hi", "lo"], keep="last", maintain_order=True)
        self._keys = index.select("hi", "lo")
        self._status = index["status"]
        self._sorted = SortedKeys(self._keys)
        again = index.join(times, on=["hi", "lo"], how="left", maintain_order="left")
        # A failed row is asked again on each further run, up to retry_failed times.
        self._again = ((again["status"] == "failed") & (again["times"].fill_null(0) <= retry_failed)).to_list()
        self._row = array("q", [-1]) * len(self._again)
        self._missing: list[pl.DataFrame] = []
        self._kept: SortedKeys | None = None
        self._kept_at: list[int] = []
        self._planned = self._found = self._failed_again = 0

    def __len__(self) -> int:
        return len(self._again)

    def sort_out(self, requests: Sequence[Request], *, survey: bool = False) -> list[Request]:
        """Those of ``requests`` still to be asked. With ``survey`` they are also counted for :meth:`census`."""
        if not len(self):
            if survey:
                self._planned += len(requests)
            return list(requests)
        wanted = []
        for request, at in zip(requests, self._sorted.find(halves([r.key for r in requests])), strict=True):
            if at >= 0:
                self._row[at] = request.row
                if not self._again[at]:
                    continue
            wanted.append((request, at))
        missing = [request for request, at in wanted if at < 0]
        if survey:
            self._planned += len(requests)
            self._found += len(requests) - len(wanted)
            self._failed_again += len(wanted) - len(missing)
            if missing:
                self._missing.append(halves([r.slot for r in missing]))
        if self._kept is None or not missing:
            return [request for request, _ in wanted]
        kept = set()
        for request, at in zip(missing, self._kept.find(halves([r.slot for r in missing])), strict=True):
            if at >= 0:
                self._row[self._kept_at[at]] = request.row
                kept.add(request.key)
        return [request for request, _ in wanted if request.key not in kept]

    def census(self) -> Census:
        """After a whole pass with ``survey``: what the plan found."""
        orphans = sum(1 for row in self._row if row < 0)
        changed = self._changed() if orphans and self._missing else None
        tokens, cost = 0, None
        if changed is not None and changed.height:
            tokens = int(changed["total_tokens"].sum())
            cost = changed["cost"].sum() if changed["cost"].count() else None
        return Census(
            self._planned, self._found, self._failed_again, 0 if changed is None else changed.height, tokens, cost, orphans
        )

    def keep_changed(self) -> None:
        """From now on a request whose slot has an answer to a different request counts as done."""
        changed = self._changed()
        self._kept = SortedKeys(changed.select(hi="slot_hi", lo="slot_lo"))
        self._kept_at = changed["at"].to_list()

    def statuses(self) -> dict[str, int]:
        """After a whole pass: how many answers of each status count as done for the plan."""
        counted = pl.Series([row >= 0 for row in self._row], dtype=pl.Boolean) & ~pl.Series(self._again, dtype=pl.Boolean)
        counts = self._status.filter(counted).value_counts()
        return dict(zip(counts["status"].to_list(), counts["count"].to_list(), strict=True))

    def planned(self) -> pl.DataFrame:
        """``hi``, ``lo`` and the present ``row`` of every answer that belongs to the plan."""
        return self._keys.with_columns(row=pl.Series(list(self._row), dtype=pl.Int64)).filter(pl.col("row") >= 0)

    def _changed(self) -> pl.DataFrame:
        """The answers no request has the key of, whose slot a missing request would fill: one a slot, the last."""
        free = self._keys.with_row_index("at").filter(pl.Series([row < 0 for row in self._row], dtype=pl.Boolean))
        missing = pl.concat(self._missing).unique().rename({"hi": "slot_hi", "lo": "slot_lo"})
        found: Iterable[pl.DataFrame] = (
            part.with_columns(*(halves_of_hex(part["slot"])[n].alias(f"slot_{n}") for n in ("hi", "lo")))
            .filter(pl.col("status") != "failed")
            .join(free, on=["hi", "lo"], how="inner", maintain_order="left")
            .join(missing, on=["slot_hi", "slot_lo"], how="semi", maintain_order="left")
            .select("at", "slot_hi", "slot_lo", "total_tokens", "cost")
            for part in store.read_keys(self._parts, ["slot", "status", "total_tokens", "cost"])
        )
        return pl.concat(found).unique(subset=["slot_hi", "slot_lo"], keep="last", maintain_order=True)
