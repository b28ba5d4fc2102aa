"""How often values are there, as a table for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core import Column, boxed, count, one_line, percent, printable
from .results_text import shown

if TYPE_CHECKING:
    from ..results import Counts

_LONG = 60

Rows = Mapping[Any, int]  # by value


def text(found: Counts, most: int, width: int) -> str:
    """The ``most`` frequent values, each with its rows and their share. Across stand the values of a second column, or the sweep
    points where there are several; then shares are of the rows of each column."""
    across: dict[str, dict[Any, int]] = {}
    if len(found.columns) == 2:
        whole: dict[Any, int] = {}
        for (value, other), n in found.values.items():
            whole[value] = whole.get(value, 0) + n
            across.setdefault(_value(other), {})[value] = n
        across = dict(sorted(across.items(), key=lambda pair: -sum(pair[1].values())))
    else:
        whole = {value: n for (value,), n in found.values.items()}
        for point, values in found.points.items():
            across[_point(found.sweep, point)] = {value: n for (value,), n in values.items()}
    down = sorted(whole, key=lambda value: -whole[value])[:most]
    made = boxed(_columns(found, whole, across, down), width)
    lines = [f"{' by '.join(found.columns)} in {count(found.rows, 'row')}", *map(printable, made.lines)]
    if made.left_out:
        lines.append(f"no room for {', '.join(made.left_out)}; a wider terminal or --json shows them")
    if len(down) < len(whole):
        beyond = found.rows - sum(whole[value] for value in down)
        lines.append(
            f"and {count(len(whole) - len(down), 'value')} more in {count(beyond, 'row')}; --rows N shows more"
        )
    return "\n".join(lines)


def _columns(found: Counts, whole: Rows, across: Mapping[str, Rows], down: Sequence[Any]) -> list[Column]:
    last = ["all"] if across else []
    columns = [
        Column(one_line(found.columns[0], _LONG), [*map(_value, down), *last]),
        Column("rows", [f"{whole[value]:,}" for value in down] + [f"{found.rows:,}" for _ in last], True),
        Column("share", [percent(whole[value] / found.rows) for value in down] + [percent(1.0) for _ in last], True),
    ]
    for name, values in across.items():
        rows = sum(values.values())
        cells = [f"{n:,} ({percent(n / rows)})" if (n := values.get(value, 0)) else "0" for value in down]
        columns.append(Column(name, [*cells, f"{rows:,}"], True))
    return columns


def _point(names: Sequence[str], values: Sequence[Any]) -> str:
    """``temperature = 0.7``; of several variables ``shown · 0.7``."""
    told = " · ".join(map(_value, values))
    return f"{one_line(names[0], _LONG)} = {told}" if len(names) == 1 else told


def _value(value: Any) -> str:
    return "(null)" if value is None else "(empty)" if value == "" else one_line(shown(value), _LONG)
