"""Where the answers in a folder belong in a plan, by the input file and the position in it that they carry. Pure.

A file keeps what identifies it while rows are appended to it: those get a span of their own. So an answer is found again wherever
the plan has its file now, and no row number of one plan has to be translated to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

    from ..core import SortedKeys

    Rows = npt.NDArray[np.int64]

OPEN = 1 << 62  # the end of a span whose rows are not counted yet


class Span(NamedTuple):
    """Rows of one input file up to the position ``end``, from the end of the span before. ``file`` identifies these rows."""

    file: int
    end: int


def file_at(spans: Sequence[Span], position: int) -> int | None:
    """What identifies the row at this position; ``None`` if it is beyond all spans."""
    return next((span.file for span in spans if position < span.end), None)


def shaped(spans: Sequence[Span], shape: str) -> tuple[Span, ...]:
    """The same spans, identified also by what a job of this shape makes of their rows."""
    return tuple(Span(_digest(shape, span.file), span.end) for span in spans)


def _digest(shape: str, file: int) -> int:
    made = hashlib.blake2b(f"{shape} {file}".encode(), digest_size=8).digest()
    return int.from_bytes(made, "little") >> 1  # a signed integer of 64 bits


class Layout:
    """The rows of a plan by file. ``files`` are those of the plan in order: the spans of each and its number of rows, ``None`` if
    that is not known; where the files after it begin is not known then. Rows from ``limit`` on are not of the plan."""

    def __init__(self, files: Sequence[tuple[Sequence[Span], int | None]] = (), limit: int | None = None) -> None:
        found: list[tuple[int, int, int, int]] = []
        begin = 0
        for spans, rows in files:
            start = 0
            for span in spans:
                end = span.end if rows is None else min(span.end, rows)
                if limit is not None:
                    end = min(end, limit - begin)
                if start < end:
                    found.append((span.file, start, end, begin))
                start = span.end
            if rows is None:
                break
            begin += rows
        self._found = sorted(found)

    @cached_property
    def _columns(self) -> list[Any]:
        """Arrays of the files, of the positions where the rows begin and end, and of where the file begins in the plan."""
        import numpy as np

        return [np.array([each[n] for each in self._found], np.int64) for n in range(4)]

    def __bool__(self) -> bool:
        return bool(self._found)

    def rows(self, file: Rows, position: Rows) -> Rows:
        """Where these rows are in the plan, by the number of the row; -1 where they are not in it. ``file`` is 0 where it is not
        known."""
        import numpy as np

        files, start, end, begin = self._columns
        if not len(files):
            return np.full(len(file), -1, np.int64)
        if len(file) and (file == file[0]).all():  # as nearly all parts have it: a tenth of the time
            file = file[:1]
        at = np.minimum(np.searchsorted(files, file), len(files) - 1)
        inside = (files[at] == file) & (position >= start[at]) & (position < end[at])
        return np.where(inside, position + begin[at], -1)

    def positions(self, rows: Rows) -> tuple[Rows, Rows]:
        """The reverse: of rows of the plan the file, 0 where that is not known, and the position in it."""
        import numpy as np

        files, start, end, begin = self._columns
        order = np.argsort(begin + start)
        if not len(order):
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        first = (begin + start)[order]
        at = order[np.maximum(np.searchsorted(first, rows, "right") - 1, 0)]
        position = rows - begin[at]
        inside = (position >= start[at]) & (position < end[at])
        return np.where(inside, files[at], 0), np.where(inside, position, 0)

    @property
    def files(self) -> set[int]:
        """What identifies the files in it."""
        return {file for file, *_ in self._found}

    def within(self, begin: int, end: int) -> list[tuple[int, int, int, int]]:
        """For each span that has some of these rows of the plan: its file, the position of the first of them, and the numbers of
        the first and of that after the last, in the order of the plan."""
        found = []
        for file, position, first, after in self._in_order:
            if first < end and after > begin:
                at = max(first, begin)
                found.append((file, position + at - first, at, min(after, end)))
        return found

    def spans(self) -> list[tuple[int, int, int]]:
        """For each span in the order of the plan: its file, the number of its first row in the plan and that after its last."""
        return [(file, first, after) for file, _, first, after in self._in_order]

    @cached_property
    def _in_order(self) -> list[tuple[int, int, int, int]]:
        """For each span in the order of the plan: its file, the position where it begins, and where it is in the plan."""
        found = [(file, start, begin + start, begin + end) for file, start, end, begin in self._found]
        return sorted(found, key=lambda span: span[2])


class Positions:
    """Where answers are in a plan: at the position in an input file that their part says, or, of those that were ``found``
    elsewhere by their keys (as :func:`part_index.read_found` gives them), there. About 30 bytes for each of these."""

    def __init__(self, layout: Layout, found: pl.DataFrame | None = None) -> None:
        self._layout = layout
        self._found = found if found is not None and found.height else None
        self._keys: SortedKeys | None = None
        if self._found is not None:
            from ..core import SortedKeys

            self._keys = SortedKeys(self._found)
        self.columns = ["file", "position"] if self._found is None else ["key", "file", "position"]

    def rows(self, part: pl.DataFrame) -> Rows:
        """The row of the plan that each answer is to, -1 where it is not in it. ``part`` has these ``columns``, the key as ``hi``
        and ``lo``."""
        import numpy as np

        file, position = (part[name].fill_null(0).to_numpy() for name in ("file", "position"))
        if self._keys is not None and self._found is not None:
            at = np.array(self._keys.find(part), np.int64)
            known = at >= 0
            there = [self._found[name].gather(at.clip(0)).to_numpy() for name in ("file", "position")]
            file, position = (np.where(known, found, own) for found, own in zip(there, (file, position), strict=True))
        return self._layout.rows(file, position)

    def place(self, part: pl.DataFrame) -> pl.DataFrame:
        """The answers that are in the plan, with the ``row`` that they are to."""
        import polars as pl

        return part.with_columns(pl.Series("row", self.rows(part))).filter(pl.col("row") >= 0)
