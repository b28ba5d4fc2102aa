"""Columns made of structured answers: the top-level fields of ``parsed``, typed. Pure.

A field that the job's schema names has a column in any case. Of other fields the first 64 have one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from . import carried_columns

MOST_FIELDS = 64  # of those that no schema names: an object may be keyed by anything

_SCALARS = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "str": pa.string()}
_OF_SCHEMA = {"integer": "int", "number": "float", "boolean": "bool", "string": "str", "null": "null"}


def declared(schemas: Iterable[Any]) -> dict[str, list[str]]:
    """The fields that JSON Schemas of an object name, in their order, each with the kinds of values that it may have."""
    found: dict[str, list[str]] = {}
    for schema in schemas:
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if isinstance(properties, Mapping):
            for name, inside in properties.items():
                found.setdefault(name, []).extend(_kinds_of_schema(inside))
    return found


def _kinds_of_schema(schema: Any) -> list[str]:
    if not isinstance(schema, Mapping):
        return []
    types = schema.get("type")
    kinds = []
    for each in [types] if isinstance(types, str) else types if isinstance(types, list) else []:
        if each == "array":
            items = schema.get("items")
            inside = _kinds_of_schema(items) if isinstance(items, Mapping) else []
            kinds.append(f"list[{inside[0]}]" if len(inside) == 1 and inside[0] in _SCALARS else "other")
        else:
            kinds.append(_OF_SCHEMA.get(each, "other"))
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return kinds or [kind_of(value) for value in (values if isinstance(values, list) else [])]


def kinds(answers: Iterable[str | None]) -> dict[str, list[str]]:
    """The fields of some answers, in the order they are first seen, each with the kinds of its values."""
    found: dict[str, set[str]] = {}
    for values in objects(answers):
        for name, value in values.items():
            if name in found or len(found) < MOST_FIELDS:
                found.setdefault(name, set()).add(kind_of(value))
    return {name: sorted(seen) for name, seen in found.items()}


def objects(answers: Iterable[str | None]) -> Iterator[dict[str, Any]]:
    """The answers as objects; an empty one for what is none."""
    for text in answers:
        value = {}
        if text is not None and text.startswith("{"):
            with contextlib.suppress(msgspec.DecodeError):
                value = msgspec.json.decode(text)
        yield value


def kind_of(value: Any) -> str:
    """As :func:`carried_columns.kind_of`; a list of values of one of these kinds is ``list[int]`` and so on."""
    if isinstance(value, list):
        inside = {carried_columns.kind_of(each) for each in value} - {"null"}
        if not inside:
            return "list[null]"
        if inside == {"int", "float"}:
            return "list[float]"
        return f"list[{inside.pop()}]" if len(inside) == 1 and inside <= _SCALARS.keys() else "other"
    return carried_columns.kind_of(value)


def type_of(seen: Iterable[str], declared: Sequence[str] = ()) -> pa.DataType:
    """The type of a column with values of these kinds; if there are none, of those that the schema names.

    The narrowest of int64, double, bool, string and lists of these that holds all of them; else string, for JSON.
    """
    kinds = set(seen) - {"null"} or set(declared) - {"null"}
    if "float" in declared and kinds == {"int"}:
        kinds = {"float"}  # a number, whether or not one of these has a fraction
    if kinds and all(kind.startswith("list[") for kind in kinds):
        inside = {kind[5:-1] for kind in kinds} - {"null"}
        kind = carried_columns.type_of(inside or {"str"})
        return pa.list_(kind) if len(inside) <= 1 or kind == pa.float64() else pa.string()
    return carried_columns.type_of(kinds)
