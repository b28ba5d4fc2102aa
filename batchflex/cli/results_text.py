"""Answers as a table, and what an export has written, for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..core import count, one_line, printable
from ..storage import COLUMNS

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from ..results import Written

_LONG = 60
_FILES = 20


def table(head: pa.Table, rows: int, *, whole: bool = False) -> str:
    """The first of ``rows`` rows as a table that fits a terminal; the ``whole`` of it, or the columns worth showing."""
    import polars as pl

    frame = pl.DataFrame(head)
    chosen = frame if whole else frame.select(_worth_showing(frame))
    cells = pl.col(pl.String).map_elements(lambda text: one_line(text, 2 * _LONG), pl.String)
    cut = chosen.with_columns(cells)
    with pl.Config(
        tbl_rows=frame.height, tbl_cols=-1, fmt_str_lengths=_LONG, tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True, tbl_width_chars=160, tbl_formatting="UTF8_FULL_CONDENSED",
    ):  # fmt: skip
        text = printable(str(cut))  # names of columns, and what is nested, too
    more = f"\n{frame.height:,} of {rows:,} rows; --rows N shows more, -o FILE writes all"
    return text if rows <= frame.height else text + more


def written(files: Sequence[Written], of: int, *, is_batch: bool = False) -> str:
    """What an export has written. ``of`` is how many rows there are in all."""
    if is_batch and len(files) == 2:
        good, bad = files
        return f"{count(good.rows, 'answer')} in {good.path}, {count(bad.rows, 'failure')} in {bad.path}"
    rows = sum(each.rows for each in files)
    all_rows = count(rows, "row") if rows == of else f"{rows:,} of {count(of, 'row')}"
    if len(files) == 1:
        return f"{all_rows} in {files[0].path}"
    lines = [f"  {each.rows:,} in {each.path}" for each in files[:_FILES]]
    if len(files) > _FILES:
        lines.append(f"  and {len(files) - _FILES:,} more")
    return "\n".join([f"{all_rows} in {count(len(files), 'file')}", *lines])


def _worth_showing(frame: pl.DataFrame) -> list[str]:
    """The id, sweep and carried columns, the answer, and what went wrong."""
    chosen = ["id", *(n for n in frame.columns if n not in COLUMNS)]
    if frame["sample"].n_unique() > 1:
        chosen.append("sample")
    chosen.append("status")
    if not _in_columns(frame):
        chosen.append("parsed" if frame["parsed"].null_count() < frame.height else "content")
    if frame["error_message"].null_count() < frame.height:
        chosen.append("error_message")
    return [*chosen, "completion_tokens"]


def _in_columns(frame: pl.DataFrame) -> bool:
    """Whether all that the answers of these rows say is in columns of its own."""
    if frame["parsed"].null_count() or not frame.height:
        return False
    answers = [msgspec.json.decode(text) for text in frame["parsed"]]
    return all(isinstance(a, dict) and a and all({n, f"parsed_{n}"} & {*frame.columns} for n in a) for a in answers)
