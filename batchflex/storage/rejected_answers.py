"""Answers of earlier runs that did not fit and are to be asked for again, found in the parts when it is their turn."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from ..core import Outcome
from . import part_files
from .part_numbers import Number
from .store import Store

PENDING = -1  # stands for the number of a part that is not written yet


class RejectedAnswers:
    """Finds answers by the positions that their keys have in an index.

    ``found`` has ``position``, the number of the ``part`` (one of ``numbers``) and the row ``at`` which it is there; 20 bytes
    an answer. One row group is kept in memory. Those of the part ``PENDING`` are ``pending``.
    """

    def __init__(
        self, parts: Store, found: pl.DataFrame, numbers: Sequence[Number], pending: Sequence[Outcome] = ()
    ) -> None:
        self._parts = parts
        self._pending = pending
        self._numbers = {int(number): number for number in numbers}
        found = found.sort("position")
        self._positions, self._part, self._at = (found[name].to_list() for name in ("position", "part", "at"))
        self._groups: dict[int, list[int]] = {}
        self._loaded: tuple[int, int] | None = None
        self._table = pa.table({})

    def __len__(self) -> int:
        return len(self._positions)

    def of(self, positions: Sequence[int]) -> dict[int, Outcome]:
        """The answers at those of the positions that have one here.

        :raises FolderError: if a part is damaged.
        """
        found: dict[int, Outcome] = {}
        for position in positions:
            place = bisect_left(self._positions, position)
            if place < len(self) and self._positions[place] == position:
                part, at = self._part[place], self._at[place]
                found[position] = self._pending[at] if part == PENDING else self._read(self._numbers[part], at)
        return found

    def _read(self, part: Number, at: int) -> Outcome:
        groups = self._groups.get(part)
        if groups is None:
            groups = self._groups[part] = part_files.footer(self._parts, part).groups
        group = 0
        while at >= groups[group]:
            at -= groups[group]
            group += 1
        if self._loaded != (part, group):
            self._loaded, self._table = (part, group), part_files.read_group(self._parts, part, group)
        return part_files.outcomes(self._table.slice(at, 1))[0]
