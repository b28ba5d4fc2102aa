"""Which parts there are. A part that others were merged into stands for them from the moment it has its name.

``000012.parquet`` is the part of journal segment 12. ``000001-000012-1.parquet`` is merged: it stands for all parts whose
segments are 1 to 12, and what of these is still there does not count. The last number is how often this was merged.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence

from ..core import FolderError
from .store import Store

_MERGED = re.compile(r"(\d{6,})-(\d{6,})-([1-9]\d*)\.parquet")


class Number(int):
    """The number of a part: that of the last segment in it. ``first`` is that of the first, ``times`` how often it was merged.

    Numbers ascend with time. Two parts that count never have the same.
    """

    first: int
    times: int

    def __new__(cls, last: int, first: int | None = None, times: int = 0) -> Number:
        made = super().__new__(cls, last)
        made.first = last if first is None else first
        made.times = times
        return made

    @property
    def name(self) -> str:
        """That of its object."""
        return f"{self.first:06d}-{int(self):06d}-{self.times}.parquet" if self.times else f"{int(self):06d}.parquet"


def part_sizes(store: Store) -> dict[Number, int]:
    """The parts in a store that count, ascending, and their sizes in bytes.

    :raises FolderError: if it cannot be read.
    """
    sizes = _objects(store)
    return {number: sizes.get(number.name, 0) for number in _sort_out(sizes)[0]}


def part_numbers(store: Store) -> list[Number]:
    """As :func:`part_sizes`, without the sizes."""
    return list(part_sizes(store))


def part_name(number: int) -> str:
    """That of the object which a part is."""
    return number.name if isinstance(number, Number) else f"{number:06d}.parquet"


def _objects(store: Store) -> dict[str, int]:
    try:
        return store.list()
    except OSError as error:
        raise FolderError(f"{store} cannot be read: {error.strerror or error}") from None


def merged(numbers: Sequence[Number]) -> Number:
    """The number of a part to merge these neighbours into."""
    return Number(int(numbers[-1]), numbers[0].first, 1 + max(number.times for number in numbers))


def _sort_out(names: Iterable[str]) -> tuple[list[Number], list[Number]]:
    """The parts that count, and those that others stand for. Pure."""
    found = [number for name in names if (number := _number_of(name)) is not None]
    there = sorted(found, key=lambda number: (-number, number.first, -number.times))
    counting: list[Number] = []
    others: list[Number] = []
    for number in there:
        if counting and number.first >= counting[-1].first and number <= counting[-1]:
            if number.name != counting[-1].name:
                others.append(number)
        else:
            counting.append(number)
    return counting[::-1], others


def _number_of(name: str) -> Number | None:
    if match := _MERGED.fullmatch(name):
        return Number(int(match[2]), int(match[1]), int(match[3]))
    stem, _, suffix = name.rpartition(".")
    return Number(int(stem)) if suffix == "parquet" and stem.isdecimal() else None


def is_sealed(numbers: Iterable[Number], segment: int) -> bool:
    """Whether one of these parts has the answers of a journal segment."""
    return any(number.first <= segment <= number for number in numbers)


def clear(store: Store) -> int:
    """Remove the parts that others stand for, unless somebody reads them, and return how many are still there. To be called
    by the holder of the output folder."""
    if others := _sort_out(_objects(store))[1]:
        with contextlib.suppress(OSError):  # they do not count, so that they are no reason to fail
            store.delete(number.name for number in others)
        others = _sort_out(_objects(store))[1]
    return len(others)
