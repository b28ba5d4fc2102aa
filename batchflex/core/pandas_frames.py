"""Data frames of pandas as polars frames, and back. pandas is imported by whoever has such a frame.

What pandas takes for missing is null: ``None``, ``NaN``, ``NaT``, ``NA``. A column has the values that it would have in a Parquet
file that pandas writes; one that could not be written there is one of Python objects. A name that is no text goes by its text
(``0`` by ``"0"``), that of several levels by its levels with ``_`` between them. An index that has a name counts as a column.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Hashable, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from .errors import JobError
from .frames import UNFIT, Frame, distinct, series


def frame_of(frame: Any, whose: str) -> Frame:
    """:raises JobError: if two of its columns have the same name."""
    labels = {text_of(label): label for label in frame.columns}
    distinct([text_of(label) for label in frame.columns], whose)
    levels = {
        text_of(level): number
        for number, level in enumerate(frame.index.names)
        if level is not None and text_of(level) not in labels
    }
    if not (labels or levels) and len(frame):
        raise JobError(f"{whose}: the frame has rows, but no columns")
    columns = [_series(name, frame.index.get_level_values(number).to_series()) for name, number in levels.items()]
    columns += [_series(name, frame.iloc[:, number]) for number, name in enumerate(labels)]

    def label_of(name: str) -> Any:
        others = frame.columns.nlevels - 1
        return labels.get(name, (name, *[""] * others) if others else name)

    def beside(made: pl.DataFrame) -> Any:
        found = frame.copy(deep=False)
        for column in made:
            found[label_of(column.name)] = _values(column)
        return found

    return Frame(pl.DataFrame(columns), beside, lambda made: _pandas().DataFrame({c.name: _values(c) for c in made}))


def text_of(label: Hashable) -> str:
    """The name that a column goes by."""
    if isinstance(label, tuple):
        return "_".join(str(level) for level in label if level not in (None, ""))
    return str(label)


def _pandas() -> Any:
    import pandas

    return pandas


def _series(name: str, column: Any) -> pl.Series:
    pd = _pandas()
    kind = column.dtype
    if isinstance(kind, pd.SparseDtype):
        return _series(name, column.sparse.to_dense())
    if isinstance(kind, pd.PeriodDtype | pd.IntervalDtype):
        return pl.Series(name, _texts(column), dtype=pl.String)
    if isinstance(kind, pd.CategoricalDtype) and isinstance(kind.categories.dtype, pd.PeriodDtype | pd.IntervalDtype):
        return pl.Series(name, _texts(column), dtype=pl.String)
    if not pd.api.types.is_object_dtype(kind):
        try:
            return series(name, pa.array(column, from_pandas=True))
        except UNFIT:
            pass
    values = [_plain(value) for value in column.tolist()]
    try:
        return series(name, pa.array(values, from_pandas=True))
    except UNFIT:
        return pl.Series(name, values, dtype=pl.Object)


def _texts(column: Any) -> list[str | None]:
    return [None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]


def _plain(value: Any) -> Any:
    """A cell of a column of objects, with what is missing, of NumPy's or only of pandas' in it as Python has it, at any depth."""
    if value is None or isinstance(value, bool | int | bytes):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, uuid.UUID):
        return str(value)
    pd = _pandas()
    if isinstance(value, pd.Period | pd.Interval):
        return str(value)
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    if type(value).__module__ == "numpy":
        return _plain(value.tolist()) if hasattr(value, "tolist") else value
    return value


def _values(column: pl.Series) -> Any:
    """A column as an array of pandas': without an index, as it is put beside rows in their order."""
    pd = _pandas()
    kind, values = column.dtype, column.to_list()
    if kind.is_integer():
        return pd.array(values, dtype="UInt64" if kind == pl.UInt64 else "Int64")
    if kind == pl.Boolean:
        return pd.array(values, dtype="boolean" if column.null_count() else "bool")
    if kind.is_float():
        return pd.array([math.nan if value is None else value for value in values], dtype="float64")
    if kind == pl.String:
        return pd.array(_as_objects(values), dtype="str") if _has_texts(pd) else _as_objects(values)
    if kind.is_temporal():
        return column.to_arrow().to_pandas().array
    return _as_objects(values)


def _has_texts(pd: Any) -> bool:
    """Whether texts are a type of their own, and not objects: since pandas 3."""
    return int(pd.__version__.partition(".")[0]) >= 3


def _as_objects(values: Sequence[Any]) -> Any:
    import numpy as np

    found = np.empty(len(values), dtype=object)
    for number, value in enumerate(values):  # a list would be taken for a row of an array
        found[number] = value
    return found
