"""Where the rows of one plan are in another, whose files are the same in part. Pure.

A plan's rows are numbered through all of its files. A file that comes in between moves those after it; one that rows were
appended to keeps those it had.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# For each file of a plan, in order: its number, and how many rows it had; ``None`` if that is not known.
Layout = Sequence[tuple[int, int | None]]
_OPEN = 1 << 62
_ALL: Mapping[int, int] = {}

Rows = npt.NDArray[np.int64]


class Moves(NamedTuple):
    """Rows from ``begins`` to ``ends`` (ascending, apart) are moved by ``by``; others are nowhere."""

    begins: Rows
    ends: Rows
    by: Rows

    @property
    def are_none(self) -> bool:
        """Whether every row stays where it is."""
        return len(self.begins) == 1 and self.begins[0] == 0 and self.ends[0] == _OPEN and self.by[0] == 0

    def moved(self, rows: Rows) -> Rows:
        """Where these rows are now; -1 where they are nowhere."""
        if self.are_none:
            return rows
        if not len(self.begins):
            return np.full(len(rows), -1, np.int64)
        at = np.searchsorted(self.begins, rows, "right") - 1
        inside = (at >= 0) & (rows < self.ends[at])
        return np.where(inside, rows + self.by[at], -1)


STAY = Moves(np.zeros(1, np.int64), np.full(1, _OPEN), np.zeros(1, np.int64))


# Of rows in turn, how many are moved in which way; in the only stretch there is, all of them. ``None`` if that is not known.
Stretches = Sequence[tuple[int, Moves | None]]


# How many rows of a part in turn are of which plan.
Runs = Sequence[tuple[str | None, int]]


def stretches(plans: Mapping[int, Runs], moves: Mapping[str, Moves]) -> dict[int, Stretches]:
    """For each part by its number how its rows are moved; ``moves`` has that for each plan of which it is known."""
    return {number: [(rows, moves.get(named or "")) for named, rows in runs] for number, runs in plans.items()}


def placed(stretches: Stretches, rows: int) -> list[tuple[int, int, Moves | None]]:
    """For ``rows`` rows where each stretch begins, how long it is, and how it is moved."""
    if len(stretches) < 2:
        return [(0, rows, stretches[0][1] if stretches else None)]
    found, begin = [], 0
    for length, moved in stretches:
        found.append((begin, length, moved))
        begin += length
    return found


def moves(then: Layout, now: Layout, kept: Mapping[int, int] = _ALL) -> Moves:
    """From the rows of one plan to those of another. Files after one of unknown length are nowhere, for where they begin is not
    known. Where ``now`` has fewer rows in a file, those beyond are nowhere. Of some files only so many rows are ``kept``: those
    beyond are nowhere, too."""
    begins_now: dict[int, tuple[int, int]] = {}
    at = 0
    for number, rows in now:
        begins_now[number] = at, _OPEN if rows is None else rows
        if rows is None:
            break
        at += rows
    found: list[tuple[int, int, int]] = []
    at = 0
    for number, rows in then:
        if number in begins_now:
            begin, most = begins_now[number]
            length = min(_OPEN if rows is None else rows, most, kept.get(number, _OPEN))
            by = begin - at
            if found and found[-1][1] == at and found[-1][2] == by:
                found[-1] = found[-1][0], min(_OPEN, at + length), by
            elif length:
                found.append((at, min(_OPEN, at + length), by))
        if rows is None:
            break
        at += rows
    columns = np.array(found, np.int64).reshape(-1, 3)
    return Moves(columns[:, 0].copy(), columns[:, 1].copy(), columns[:, 2].copy())


def unknown_before(now: Layout, wanted: Collection[int]) -> list[int]:
    """The positions in ``now`` of files whose length has to be known, so that it is known where each of the ``wanted`` begins."""
    last = max((at for at, (number, _) in enumerate(now) if number in wanted), default=0)
    return [at for at, (_, rows) in enumerate(now[:last]) if rows is None]
