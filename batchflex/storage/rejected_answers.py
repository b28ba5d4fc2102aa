"""Answers of earlier runs that did not fit and are to be asked for again, read from the parts when their requests come."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..core import Outcome
from . import part_files
from .part_numbers import Number
from .store import Store

PENDING = -1  # stands for the number of a part that is not written yet


class RejectedAnswers:
    """Finds answers by the positions that their keys have in an index.

    ``found`` has ``position``, the number of the ``part`` (one of ``numbers``) and the row ``at`` which it is there; 20 bytes
    an answer. Those of the part ``PENDING`` are ``pending``.
    """

    def __init__(
        self, parts: Store, found: pl.DataFrame, numbers: Sequence[Number], pending: Sequence[Outcome] = ()
    ) -> None:
        self._parts = parts
        self._pending = pending
        self._numbers = {int(number): number for number in numbers}
        self._found = found.sort("position")

    def __len__(self) -> int:
        return self._found.height

    def of(self, positions: Sequence[int]) -> dict[int, Outcome]:
        """The answers at those of the positions that have one here.

        :raises FolderError: if a part is damaged.
        """
        found: dict[int, Outcome] = {}
        if not len(self):
            return found
        wanted = pl.Series(positions, dtype=pl.Int64)
        near = self._found["position"].search_sorted(wanted).clip(upper_bound=len(self) - 1)
        here = self._found[near].filter(pl.col("position") == wanted)
        for rows in here.sort("part", "at").partition_by("part", maintain_order=True):
            found.update(zip(rows["position"], self._read(rows["part"][0], rows["at"]), strict=True))
        return found

    def _read(self, part: int, at: pl.Series) -> list[Outcome]:
        if part == PENDING:
            return [self._pending[each] for each in at]
        tables = part_files.read_rows(self._parts, self._numbers[part], at.to_numpy())
        return [outcome for table in tables for outcome in part_files.outcomes(table)]
