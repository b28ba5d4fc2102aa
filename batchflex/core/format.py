"""Counts, durations and money for people. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence


def count(number: float, noun: str, plural: str | None = None) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """``0.8 s``, ``12 s``, ``3:05``, ``2:00:01``; a dash for nothing."""
    if seconds is None:
        return "–"
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if round(seconds, 1) < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def money(usd: float | None) -> str:
    """``$1,234.50``, ``$0.0012``; a dash for nothing."""
    return "–" if usd is None else f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"


def short(number: int) -> str:
    """``950``, ``23.2k``, ``1.4M``."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def clipped(text: str, most: int) -> str:
    """The text in ``most`` characters, the last of them ``…`` if it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def aligned(lines: Sequence[Sequence[str]], *, gap: str = "  ", right: Collection[int] = ()) -> list[str]:
    """The cells of each line below those of the line before; the columns with these numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        gap.join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def seconds_between(one: str, two: str) -> float:
    """Between two moments in ISO format, as in ``run.json``."""
    return (datetime.datetime.fromisoformat(two) - datetime.datetime.fromisoformat(one)).total_seconds()
