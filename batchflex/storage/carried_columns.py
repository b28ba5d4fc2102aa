"""Carried columns: input values that travel beside a request as JSON, and the Arrow types they come back in. Pure."""

from __future__ import annotations

import base64
import datetime
import decimal
import functools
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pyarrow as pa

_encode = msgspec.json.Encoder().encode
_DIGITS = 38  # of a decimal
_from_base64 = functools.partial(base64.b64decode, validate=True)
_READERS: list[tuple[Callable[[pa.DataType], bool], Callable[[str], Any]]] = [
    (pa.types.is_timestamp, datetime.datetime.fromisoformat),
    (pa.types.is_date, datetime.date.fromisoformat),
    (pa.types.is_time, datetime.time.fromisoformat),
    (pa.types.is_decimal, decimal.Decimal),
    (pa.types.is_binary, _from_base64),
    (pa.types.is_large_binary, _from_base64),
    (pa.types.is_fixed_size_binary, _from_base64),
]


def describe(carries: Iterable[str | None], schema: pa.Schema | None) -> tuple[dict[str, list[str]], pa.Schema]:
    """What kinds of values each column of these rows has, and of the Arrow types those that hold all of them unchanged.

    ``schema`` may name columns that are not carried, and types of another file than the one the rows came from.
    """
    found = columns(carries)
    kinds = {name: sorted(set(map(kind_of, values))) for name, values in found.items()}
    types = {field.name: narrowed(field.type) for field in schema or () if field.name in found}
    return kinds, pa.schema([(name, kind) for name, kind in types.items() if holds(kind, found[name])])


def narrowed(kind: pa.DataType) -> pa.DataType:
    """A type that whoever reads the results knows: decimals of more than 38 digits are Arrow's own."""
    is_wide = pa.types.is_decimal256(kind) and 0 <= kind.scale <= _DIGITS
    return pa.decimal128(_DIGITS, kind.scale) if is_wide else kind


def columns(carries: Iterable[str | None]) -> dict[str, list[Any]]:
    """The values by column, in the order the columns are first seen; rows without a column are left out of it."""
    found: dict[str, list[Any]] = {}
    for text in carries:
        if text is not None:
            for name, value in msgspec.json.decode(text).items():
                found.setdefault(name, []).append(value)
    return found


def kind_of(value: Any) -> str:
    """``null``, ``bool``, ``int``, ``float``, ``str``; ``other`` for lists, objects and integers beyond 64 bits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "other"
    return {float: "float", str: "str"}.get(type(value), "other")


def type_of(kinds: Iterable[str]) -> pa.DataType:
    """The type of a column of which no Arrow type is known: the narrowest of int64, double, bool and string."""
    match sorted(set(kinds) - {"null"}):
        case ["int"]:
            return pa.int64()
        case ["float"] | ["float", "int"]:
            return pa.float64()
        case ["bool"]:
            return pa.bool_()
    return pa.string()


def holds(kind: pa.DataType, values: list[Any]) -> bool:
    """Whether a column of this type gives all values back as they are."""
    if pa.types.is_decimal256(kind):
        return False
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (_is_plain(kind.value_type if is_list else kind) or _reader(kind)):
        return False
    try:
        read = _read(values, kind)
        return bool(pa.array(read, kind).to_pylist() == read)
    except (ValueError, TypeError, ArithmeticError, LookupError, pa.ArrowException):
        return False


def typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values as a column of a type that :func:`holds` them or that :func:`type_of` gave for their kinds, here or of
    :mod:`.parsed_columns`.

    In a column of strings what is no string becomes its JSON.
    """
    if pa.types.is_list(kind) and pa.types.is_float64(kind.value_type):
        values = [v if v is None else [e if e is None else float(e) for e in v] for v in values]
    if pa.types.is_float64(kind):
        return pa.array([v if v is None else float(v) for v in values], kind)
    if pa.types.is_string(kind):
        return pa.array([v if v is None or isinstance(v, str) else _encode(v).decode() for v in values], kind)
    return pa.array(_read(values, kind), kind)


def _read(values: list[Any], kind: pa.DataType) -> list[Any]:
    reader = _reader(kind)
    return values if reader is None else [None if v is None else reader(v) for v in values]


def _reader(kind: pa.DataType) -> Callable[[str], Any] | None:
    """How to read a value back of which JSON has made a string."""
    return next((reader for is_it, reader in _READERS if is_it(kind)), None)


def _is_plain(kind: pa.DataType) -> bool:
    t = pa.types
    return any(is_it(kind) for is_it in (t.is_integer, t.is_floating, t.is_boolean, t.is_string, t.is_large_string))
