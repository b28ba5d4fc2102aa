"""Text in columns for a terminal, where one character may take two cells, or none. Pure.

Widths are those of a terminal that draws each emoji by itself: one that joins a family of them takes less room, never more.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from typing import NamedTuple

_EMOJI_STYLE = "\ufe0f"  # makes the sign before it an emoji
_LEAST = 12  # cells that a column is made narrower to, before one is left out
_BETWEEN, _AROUND = 3, 4  # cells that the lines of a box take


def width(text: str) -> int:
    """How many cells it takes."""
    if text.isascii():
        return len(text)
    taken, last = 0, 1  # before it there is a space
    for sign in text:
        if sign == _EMOJI_STYLE:
            taken, last = taken + (last == 1), 2
        elif own := _width_of(sign):
            taken, last = taken + own, own
    return taken


def _width_of(sign: str) -> int:
    if unicodedata.category(sign) in ("Mn", "Me", "Cf") or "\u1160" <= sign <= "\u11ff":  # joined to what is before
        return 0
    return 2 if unicodedata.east_asian_width(sign) in ("W", "F") else 1


def clipped(text: str, most: int) -> str:
    """The text in ``most`` cells, the last of them ``…`` if it is wider."""
    if width(text) <= most:
        return text
    taken, last, kept = 0, 1, ""
    for sign in text:
        own = int(last == 1) if sign == _EMOJI_STYLE else _width_of(sign)
        if taken + own > most - 1:
            break
        taken, last, kept = taken + own, own or last, kept + sign
    return f"{kept}…"


def padded(text: str, cells: int, *, right: bool = False) -> str:
    """The text in so many cells, at their left or their right end."""
    room = " " * (cells - width(text))
    return room + text if right else text + room


def aligned(lines: Sequence[Sequence[str]], *, gap: str = "  ", right: Collection[int] = ()) -> list[str]:
    """The cells of each line below those of the line before; the columns with these numbers to the right."""
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    return [
        gap.join(
            padded(cell, cells, right=number in right)
            for number, (cell, cells) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


class Column(NamedTuple):
    """A column of a table: its name, and what is in its cells."""

    name: str
    cells: Sequence[str]
    is_number: bool = False


class Boxed(NamedTuple):
    """A table in lines, and the names of the columns for which there was no room."""

    lines: list[str]
    left_out: list[str]


def boxed(columns: Sequence[Column], most: int) -> Boxed:
    """A table of at most ``most`` cells in width, of as many of the columns, from the first, as there is room for. Those with
    much text give way first. One column is there in any case, if it has to be cut."""
    natural = [max(1, width(column.name), *map(width, column.cells)) for column in columns]
    shown = len(columns)
    while shown > 1 and sum(min(cells, _LEAST) for cells in natural[:shown]) > _room(most, shown):
        shown -= 1
    widths = narrowed(natural[:shown], _room(most, shown))
    kept = columns[:shown]
    lines = [_rule("┌─┬┐", widths), _line([column.name for column in kept], widths, ()), _rule("╞═╪╡", widths)]
    right = [number for number, column in enumerate(kept) if column.is_number]
    lines += [_line(cells, widths, right) for cells in zip(*(column.cells for column in kept), strict=True)]
    return Boxed([*lines, _rule("└─┴┘", widths)], [column.name for column in columns[shown:]])


def _room(most: int, columns: int) -> int:
    """What is left for the cells of so many columns."""
    return max(columns, most - _BETWEEN * (columns - 1) - _AROUND)


def narrowed(natural: Sequence[int], room: int) -> list[int]:
    """The widths of columns that together have ``room`` cells: the widest give way, down to a common width."""
    level = max(natural, default=0)
    while level > 1 and sum(min(cells, level) for cells in natural) > room:
        level -= 1
    widths = [min(cells, level) for cells in natural]
    left = room - sum(widths)
    for number, cells in enumerate(natural):
        if cells > level and left > 0:
            widths[number], left = widths[number] + 1, left - 1
    return widths


def _line(cells: Sequence[str], widths: Sequence[int], right: Collection[int]) -> str:
    shown = [
        padded(clipped(cell, most), most, right=number in right)
        for number, (cell, most) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"│ {' ┆ '.join(shown)} │"


def _rule(signs: str, widths: Sequence[int]) -> str:
    begin, along, between, end = tuple(signs)
    return begin + between.join(along * (cells + 2) for cells in widths) + end
