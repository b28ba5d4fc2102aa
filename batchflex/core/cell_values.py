"""Values as text, for formats and names that hold nothing else. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

_encode = msgspec.json.Encoder().encode


def rows(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """The rows as Python values, in the order of the columns. Half the time that ``to_pylist`` takes."""
    return list(zip(*columns(batch), strict=True))


def columns(batch: pa.RecordBatch) -> list[list[Any]]:
    """The same by column."""
    return list(map(_values, batch.columns))


def _values(column: pa.Array) -> list[Any]:
    return [None] * len(column) if column.null_count == len(column) else pl.Series(column).to_list()


def csv_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column has as cells of CSV."""
    if kind == pa.float16():
        return pa.float32()
    return pa.string() if _texter(kind) else kind


def csv_cells(column: pa.Array) -> pa.Array:
    """A column as cells of CSV: lists and objects as JSON, bytes in base64, as in JSON; the rest as it is."""
    texter = _texter(column.type)
    if texter is None:
        return column.cast(csv_type(column.type))
    return pa.array([None if value is None else texter(value) for value in column.to_pylist()], pa.string())


def texts(column: pa.Array) -> pa.Array:
    """Any column as text: what is no text as its JSON. Null stays null."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.large_string())
    plain = [None if value is None else _encode(value).decode().strip('"') for value in pl.Series(column).to_list()]
    return pa.array(plain, pa.large_string())


def _texter(kind: pa.DataType) -> Callable[[Any], str] | None:
    if pa.types.is_nested(kind):
        return lambda value: _encode(value).decode()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return lambda value: base64.b64encode(value).decode()
    return None


def text_of(value: Any) -> str | None:
    """One value as :func:`texts` has it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return _encode(value).decode()
