"""Data frames of any library as polars frames, and back: what comes as one kind goes out as the same kind.

polars and pyarrow are converted here, pandas in :mod:`.pandas_frames`; what else there is by narwhals, or by the protocols for
exchanging frames. A column that polars has no type for, or no single one, is one of Python objects.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from .errors import JobError

# What conversions raise for values that they have no type for.
UNFIT = (
    pa.ArrowException,
    pl.exceptions.PolarsError,
    TypeError,
    ValueError,
    OverflowError,
    pl.exceptions.PanicException,
)


class Frame(NamedTuple):
    """A data frame of the caller's. ``rows`` are its rows in their order, missing values as nulls.

    ``beside`` gives the caller's own frame with columns of as many rows added to it, or put in place of those of the same
    name; ``alike`` a new frame of the caller's kind.
    """

    rows: pl.DataFrame
    beside: Callable[[pl.DataFrame], Any]
    alike: Callable[[pl.DataFrame], Any]


def frame_of(frame: Any, whose: str) -> Frame:
    """A data frame of any kind: of polars (a lazy one is collected), pandas, pyarrow, or whatever narwhals knows. Of one that can
    only be read (a relation of DuckDB, an object with ``__arrow_c_stream__`` or ``__dataframe__``) a polars frame is made.

    :raises JobError: if it is none, or two of its columns have the same name. ``whose`` begins the sentence.
    """
    if isinstance(frame, pl.DataFrame):
        return Frame(_with_paths(frame), lambda columns: frame.with_columns(columns.get_columns()), lambda made: made)
    if isinstance(frame, pl.LazyFrame):
        rows = frame.collect()
        return Frame(
            _with_paths(rows), lambda columns: rows.with_columns(columns.get_columns()).lazy(), pl.DataFrame.lazy
        )
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    if isinstance(frame, pa.Table):
        return _of_arrow(frame, whose)
    import narwhals
    from narwhals.dependencies import is_pandas_dataframe

    if isinstance(frame, narwhals.DataFrame | narwhals.LazyFrame):
        native = frame_of(frame.to_native(), whose)
        return Frame(
            native.rows,
            lambda columns: narwhals.from_native(native.beside(columns)),
            lambda made: narwhals.from_native(native.alike(made)),
        )
    if is_pandas_dataframe(frame):
        from . import pandas_frames

        found = pandas_frames.frame_of(frame, whose)
        return found._replace(rows=_with_paths(found.rows))
    return _by_narwhals(frame, whose) or frame_of(_exchanged(frame, whose), whose)


def _with_paths(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with columns of :class:`~pathlib.Path` as texts."""
    made = [_as_texts(column) for column in rows.get_columns() if column.dtype == pl.Object]
    return rows.with_columns(column for column in made if column is not None)


def _as_texts(column: pl.Series) -> pl.Series | None:
    values = column.to_list()
    if not all(value is None or hasattr(value, "__fspath__") for value in values):
        return None
    return pl.Series(column.name, [None if value is None else str(value) for value in values], dtype=pl.String)


def _of_arrow(table: pa.Table, whose: str) -> Frame:
    names = distinct(table.column_names, whose)

    def beside(columns: pl.DataFrame) -> pa.Table:
        found = table
        for column in columns:
            at, values = found.schema.get_field_index(column.name), column.to_arrow()
            found = found.append_column(column.name, values) if at < 0 else found.set_column(at, column.name, values)
        return found

    return Frame(
        pl.DataFrame([series(name, column) for name, column in zip(names, table.columns, strict=True)]),
        beside,
        pl.DataFrame.to_arrow,
    )


def _by_narwhals(frame: Any, whose: str) -> Frame | None:
    """A frame of another library that narwhals knows; ``None`` if it does not."""
    import narwhals

    found: Any = narwhals.from_native(frame, pass_through=True)
    if isinstance(found, narwhals.LazyFrame):
        return frame_of(found.collect(backend="polars").to_native(), whose)
    if not isinstance(found, narwhals.DataFrame):
        return None
    kind = found.implementation

    def beside(columns: pl.DataFrame) -> Any:
        return found.with_columns(
            narwhals.new_series(column.name, column.to_list(), backend=kind) for column in columns
        ).to_native()

    def alike(made: pl.DataFrame) -> Any:
        return narwhals.from_dict(made.to_dict(as_series=False), backend=kind).to_native()

    return Frame(_of_arrow(found.to_arrow(), whose).rows, beside, alike)


def _exchanged(frame: Any, whose: str) -> pl.DataFrame:
    """A polars frame of an object that can give its columns.

    :raises JobError: if it cannot.
    """
    is_column = hasattr(frame, "to_frame")
    try:
        if hasattr(frame, "__arrow_c_stream__") and not is_column:
            return _of_arrow(pa.table(frame), whose).rows
        if hasattr(frame, "__dataframe__"):
            from pyarrow.interchange import from_dataframe

            return _of_arrow(from_dataframe(frame), whose).rows
    except UNFIT as error:
        raise JobError(f"{whose} cannot read the {type(frame).__name__} that it was given: {error}") from error
    hint = "; call its to_frame() first" if is_column else ""
    if isinstance(frame, Mapping | Sequence) and not isinstance(frame, str | bytes):
        hint = "; make a frame of it first, such as polars.DataFrame(…)"
    kind = type(frame).__name__
    raise JobError(f"{whose} takes a data frame, of polars, pandas, pyarrow or another library; found a {kind}{hint}")


def distinct(names: Sequence[str], whose: str) -> Sequence[str]:
    """:raises JobError: if two of the names are the same."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise JobError(f"{whose}: two columns of the frame are called {twice!r}; rename one of them")
    return names


def series(name: str, column: pa.Array | pa.ChunkedArray) -> pl.Series:
    """A column of Arrow's as one of polars': of Python objects where polars has no such type."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _of_extension(name, column)
    if pa.types.is_dictionary(kind) and not (
        pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    ):
        column = column.cast(kind.value_type)
    try:
        if not pa.types.is_decimal256(kind):  # polars would panic, and say so on standard error
            return pl.Series(name, column)
    except UNFIT:
        pass
    return pl.Series(name, column.to_pylist(), dtype=pl.Object)


def _of_extension(name: str, column: pa.Array | pa.ChunkedArray) -> pl.Series:
    """What an extension type stands for; identifiers as text."""
    values = column.to_pylist()
    if any(isinstance(value, uuid.UUID) for value in values):
        return pl.Series(name, [None if value is None else str(value) for value in values], dtype=pl.String)
    return series(name, column.cast(column.type.storage_type))
