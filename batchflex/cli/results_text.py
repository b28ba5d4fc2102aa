"""Answers as a table, and what an export has written, for people. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..core import Column, boxed, cell_values, count, one_line, printable, text_of

if TYPE_CHECKING:
    import pyarrow as pa

    from ..results import Written
    from ..storage import Origins

_LONG = 60
_FILES = 20
_EXACT = 10  # characters of a number with a fraction that are shown as they are


def table(head: pa.Table, rows: int, origins: Origins, width: int, *, id_name: str = "id", whole: bool = False) -> str:
    """The first of ``rows`` rows as a table of at most ``width`` cells; the ``whole`` of it, or the columns worth showing, as far
    as there is room for them. ``id_name`` is the column of the ids."""
    import pyarrow as pa

    names = head.schema.names if whole else _worth_showing(head, origins, id_name)
    columns = []
    for name in names:
        values = [row[0] for batch in head.select([name]).to_batches() for row in cell_values.rows(batch)]
        kind = head.schema.field(name).type
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        columns.append(Column(one_line(name, _LONG), [one_line(shown(value), _LONG) for value in values], is_number))
    made = boxed(columns, width)
    lines = [printable(line) for line in made.lines]
    if made.left_out:
        left = ", ".join(made.left_out)
        lines.append(f"no room for {left}; a wider terminal, --columns or -o FILE shows them")
    if rows > head.num_rows:
        lines.append(f"{head.num_rows:,} of {rows:,} rows; --rows N shows more, -o FILE writes all")
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as a cell shows it."""
    if isinstance(value, float):
        exact = str(text_of(value))
        return exact if len(exact) <= _EXACT else f"{value:.6g}"
    if isinstance(value, datetime.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return (
        "–"
        if value is None
        else str(value)
        if not isinstance(value, list | dict | bool | bytes)
        else str(text_of(value))
    )


def written(files: Sequence[Written], of: int, *, is_batch: bool = False) -> str:
    """What an export has written. ``of`` is how many rows there are in all."""
    if is_batch and len(files) == 2:
        good, bad = files
        return f"{count(good.rows, 'answer')} in {good.path}, {count(bad.rows, 'failure')} in {bad.path}"
    rows = sum(each.rows for each in files)
    all_rows = count(rows, "row") if rows == of else f"{rows:,} of {count(of, 'row')}"
    if len(files) == 1:
        lines = [f"{all_rows} in {files[0].path}"]
    else:
        lines = [f"{all_rows} in {count(len(files), 'file')}", *(f"  {e.rows:,} in {e.path}" for e in files[:_FILES])]
    if len(files) > _FILES:
        lines.append(f"  and {len(files) - _FILES:,} more")
    return "\n".join([*lines, *changed(files)])


def changed(files: Sequence[Written]) -> list[str]:
    """What an export for spreadsheets had to change."""
    defused, cut = sum(each.defused for each in files), sum(each.cut for each in files)
    lines = []
    if defused:
        cells = count(defused, "cell begins", "cells begin")
        lines.append(
            f"{cells} as a formula would (=, +, -, @, a tab or a line break), and got an apostrophe before that"
        )
    if cut:
        lines.append(
            f"{count(cut, 'text was', 'texts were')} cut to 32,767 characters, which is all that a cell of Excel holds"
        )
    return lines


def _worth_showing(head: pa.Table, origins: Origins, id_name: str) -> list[str]:
    """What tells most of a row comes first: its id and sweep point, the status if not all are ok, the answer, what went wrong;
    then what is carried, and tokens. Without columns in which nothing is."""
    empty = {name for name in head.schema.names if head[name].null_count == head.num_rows} - {id_name, "status"}
    sample = ["sample"] if any(head["sample"].to_pylist()) else []
    answer = origins.fields if _are_told(head, origins) else ["content" if "parsed" in empty else "parsed"]
    told = ["status"] if set(head["status"].to_pylist()) - {"ok"} else []
    first = [id_name, *origins.sweep, *sample, *told]
    chosen = [*first, *answer, "error_message", "status", *origins.carry, "completion_tokens"]
    return [name for name in dict.fromkeys(chosen) if name in head.schema.names and name not in empty]


def _are_told(head: pa.Table, origins: Origins) -> bool:
    """Whether all that the answers of these rows say is in columns of their own; those that are none are left aside."""
    answers = [msgspec.json.decode(text) for text in head["parsed"].to_pylist() if text is not None]
    return bool(answers) and all(
        isinstance(a, dict) and a and all({n, f"parsed_{n}"} & {*origins.fields} for n in a) for a in answers
    )
