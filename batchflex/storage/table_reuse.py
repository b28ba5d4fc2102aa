"""Which stretches of a table in a folder stay as they are, without a look at the answers in them: where no part has come that has
rows there, and the same rows of the same input files are there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import polars as pl

from ..core import __version__
from . import part_files, part_index, places, results_table
from .output_folder import Folder
from .part_numbers import part_sizes
from .positions import Layout


class Basis(msgspec.Struct, frozen=True):
    """What all stretches of a table depend on. ``how`` is a digest of how it is made, ``size`` how many sweep points and samples
    a row has, ``parts`` a digest of the parts up to the number ``last``. All answers are where the layout has their files."""

    how: str
    size: tuple[int, int]
    parts: str
    last: int


class Source(NamedTuple):
    """What a table is made from at the end of a run: where the rows of each file are in the plan, where answers are that were
    found ``elsewhere``, and the sweep points in order."""

    folder: Folder
    layout: Layout
    elsewhere: pl.DataFrame
    labels: Sequence[str]

    def has_in_place(self, since: int) -> bool:
        """Whether the answers in parts from this number on are to the rows that the parts say: those of a frame, or of a file
        that was changed while it was read, cannot be known again.

        :raises FolderError: if a part is damaged.
        """
        numbers = [number for number in part_files.part_numbers(self.folder.parts) if number >= since]
        return all((own == part["row"]).all() for own, part in self._placed(numbers, []))

    def _placed(self, numbers: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[pl.Series, pl.DataFrame]]:
        """Parts with the ``row`` that each answer is to by the layout, after the one that it says itself."""
        positions = part_index.Positions(self.layout, self.elsewhere)
        wanted = ["row", *columns, *(name for name in positions.columns if name != "key")]
        for part in part_index.read_keys(self.folder.parts, wanted, numbers):
            yield part["row"], part.with_columns(pl.Series("row", positions.rows(part)))

    def basis(self, made: results_table.Assembled) -> Basis:
        """That of a table which was made from it."""
        last = int(max(part_files.part_numbers(self.folder.parts), default=0))
        return Basis(self._how(made), made.size, _digest_of_parts(self.folder, last), last)

    def fits(self, made: results_table.Assembled, basis: Basis) -> bool:
        """Whether a table that was made in part goes with what there is of this basis."""
        return (self._how(made), made.size) == (basis.how, basis.size)

    def _how(self, made: results_table.Assembled) -> str:
        return _digest([__version__, made.how, part_index.found_id(self.folder.positions)])

    def rows_of(self, stretch: int, size: tuple[int, int]) -> str:
        """A digest of which rows of which files are in a stretch."""
        each = size[0] * size[1]
        begin, end = stretch * places.STRETCH_ROWS, (stretch + 1) * places.STRETCH_ROWS
        return _digest(self.layout.within(begin // each, -(-end // each)))

    def changed(self, basis: Basis) -> set[int] | None:
        """The stretches in which parts have rows that have come since; ``None`` if others may have changed, too.

        :raises FolderError: if a part is damaged.
        """
        parts, (points, samples) = self.folder.parts, basis.size
        if basis.parts != _digest_of_parts(self.folder, basis.last):
            return None
        numbers = [number for number in part_files.part_numbers(parts) if number > basis.last]
        found: set[int] = set()
        for number, (_, part) in zip(numbers, self._placed(numbers, ["sample", "point"]), strict=True):
            rows = places.pointed(part, self.labels).filter(pl.col("row") >= 0)
            beyond = (pl.col("point") >= points) | (pl.col("sample") >= samples)
            if part_files.footer(parts, number).void or rows.filter(beyond).height:
                return None
            found.update(rows.select(places.stretch_of(basis.size)).to_series().unique())
        return found


def _digest_of_parts(folder: Folder, last: int) -> str:
    """By their names: one that was merged is another. A number is given anew only where the last parts are gone: one id tells."""
    sizes = [(number, size) for number, size in part_sizes(folder.parts).items() if number <= last]
    newest = part_files.footer(folder.parts, sizes[-1][0]).id if sizes else ""
    return _digest([[(number.name, size) for number, size in sizes], newest])


def _digest(made_of: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(made_of), digest_size=16).hexdigest()
