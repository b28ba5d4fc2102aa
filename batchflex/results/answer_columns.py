"""Answers as columns beside the rows of a frame: fixed ones, and a typed one for each field of a schema. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from enum import Enum
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec
import polars as pl

from ..config import label_schema
from ..core import JobError, text_of
from ..protocol import pydantic_models, schema_of

FIXED = (
    "status", "content", "reasoning", "tool_calls", "parsed", "finish_reason",
    "prompt_tokens", "completion_tokens", "cost", "error_message",
)  # fmt: skip
_PREFIX = "answer_"
_SCALARS = {"string": pl.String, "integer": pl.Int64, "number": pl.Float64, "boolean": pl.Boolean}
_DEEPEST = 16
_decode = msgspec.json.Decoder().decode


class Wanted(NamedTuple):
    """What answers are to be: a ``response_format``, or a pydantic model that makes one, and the type of the column of each
    field."""

    response_format: Any
    fields: dict[str, pl.DataType | None]


def wanted(schema: Any = None, choices: Any = None) -> Wanted:
    """What ``schema`` (a pydantic model, a JSON Schema, or a ``response_format`` with one) or ``choices`` (texts in whatever
    holds them, an Enum class with their values, a Literal, or a mapping of names to such) ask for; nothing if there is neither.

    :raises JobError: if it is none of these, or the schema is not one of an object with named fields.
    """
    if choices is not None:
        made = label_schema(_listed(choices))
        return Wanted(made, fields_of(schema_of(made)))
    if schema is None:
        return Wanted(None, {})
    if pydantic_models.is_model(schema):
        return Wanted(schema, fields_of(pydantic_models.schema(schema)))
    if not isinstance(schema, Mapping):
        raise JobError(f"schema: must be a pydantic model, or a JSON Schema as a dict; found {schema!r:.80}")
    inside = schema_of(schema) if schema.get("type") == "json_schema" else None
    if isinstance(inside, Mapping):
        return Wanted(dict(schema), fields_of(inside))
    plain = pydantic_models.without_nulls(schema)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(schema.get("title", ""))).strip("_")[:64]
    return Wanted(pydantic_models.format_of(plain, name or "answer"), fields_of(plain))


def _listed(choices: Any) -> Any:
    """Choices as lists, whatever holds them: an array, a column, a tuple. A set, whose order is another in each process, by its
    texts' order: else the same call would ask all anew."""
    if isinstance(choices, Mapping):
        return {name: _listed(texts) for name, texts in choices.items()}
    if get_origin(choices) is Literal:
        choices = get_args(choices)
    if isinstance(choices, str | bytes) or not isinstance(choices, Iterable):
        return choices
    if isinstance(choices, Set):
        choices = sorted(choices, key=lambda text: str(text.value if isinstance(text, Enum) else text))
    values = [text.value if isinstance(text, Enum) else text for text in choices]
    return [str(value) if isinstance(value, str) else value for value in values]


def fields_of(schema: Mapping[str, Any]) -> dict[str, pl.DataType | None]:
    """The fields of the object that a JSON Schema describes, each with the type of its column; ``None`` for one of JSON as text.

    Whole numbers, numbers, texts and booleans are of those types; so are lists of one of these, and objects that have just the
    fields which the schema names. What may be null besides is of the type that it has otherwise.

    :raises JobError: if the schema is not one of an object with named fields.
    """
    found = _resolved(schema, schema)
    properties = found.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise JobError(
            "schema: an answer must be an object with named fields, so that each becomes a column: a pydantic model, or a JSON "
            "Schema with 'properties'; another one goes into response_format=…, and its JSON is in the column 'parsed'"
        )
    return {name: _type(inner, schema, 0) for name, inner in properties.items()}


def beside(
    results: pl.DataFrame, fields: Mapping[str, pl.DataType | None], taken: Collection[str]
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The columns to put beside a frame that has those ``taken``, in the order of its rows: the ``fields`` of the answers, then
    the fixed ones. A name that is taken gets ``answer_`` before it; where that is taken too, ``_2`` after it, ``_3`` and so on.
    Returns also what each field is called that was renamed.

    ``results`` is a table of results with one row for each of the frame.
    """
    results = results.sort("row")
    held = {*taken}
    fixed = {name: _free(name, held) for name in FIXED}  # before the fields: one called `status` gives way
    named = {name: _free(name, held) for name in fields}
    answers = [_object(text) for text in results["parsed"]] if fields else []
    columns = [_column(named[name], [each.get(name) for each in answers], kind) for name, kind in fields.items()]
    columns += [results[name].alias(out) for name, out in fixed.items()]
    return pl.DataFrame(columns), {name: out for name, out in named.items() if name != out}


def _free(name: str, held: set[str]) -> str:
    if name in held:
        name = _PREFIX + name.removeprefix(_PREFIX)
    tried = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
    free = next(each for each in tried if each not in held)
    held.add(free)
    return free


def _object(text: str | None) -> dict[str, Any]:
    value = None if text is None else _decode(text)
    return value if isinstance(value, dict) else {}


def _column(name: str, values: list[Any], kind: pl.DataType | None) -> pl.Series:
    if kind is not None:
        try:
            return pl.Series(name, [_fitted(value, kind) for value in values], dtype=kind)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            pass  # the schema was no bound: a number of more than 64 bits, answers to an earlier one
    return pl.Series(name, [text_of(value) for value in values], dtype=pl.String)


def _fitted(value: Any, kind: Any) -> Any:
    """A value of JSON, which has one kind of number, as the column takes it.

    :raises TypeError: if it is another kind of value.
    """
    if value is None:
        return None
    if isinstance(kind, pl.List):
        if not isinstance(value, list):
            raise TypeError
        return [_fitted(each, kind.inner) for each in value]
    if isinstance(kind, pl.Struct):
        names = {field.name: field.dtype for field in kind.fields}
        if not isinstance(value, dict) or not value.keys() <= names.keys():
            raise TypeError
        return {name: _fitted(value.get(name), inner) for name, inner in names.items()}
    if kind in (pl.Int64, pl.Float64):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if kind == pl.Float64:
            return float(value)
        if value != int(value):
            raise TypeError
        return int(value)
    if not isinstance(value, bool if kind == pl.Boolean else str):
        raise TypeError
    return value


# ------------------------------------------------------------------------------------------------------------ types


def _type(schema: Any, root: Mapping[str, Any], depth: int) -> pl.DataType | None:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    schema = _resolved(schema, root)
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(word), list):
            return _common([_type(each, root, depth + 1) for each in options if each != {"type": "null"}])
    match _kind(schema):
        case "array":
            inner = _type(schema.get("items"), root, depth + 1) if "prefixItems" not in schema else None
            return None if inner is None else pl.List(inner)
        case "object":
            return _struct(schema, root, depth)
        case str() as kind if kind in _SCALARS:
            return _SCALARS[kind]()
    return None


def _struct(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> pl.DataType | None:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties or schema.get("additionalProperties") is not False:
        return None
    inner = {name: _type(each, root, depth + 1) for name, each in properties.items()}
    found = [pl.Field(name, kind) for name, kind in inner.items() if kind is not None]
    return pl.Struct(found) if len(found) == len(inner) else None


def _common(kinds: Sequence[pl.DataType | None]) -> pl.DataType | None:
    """The type that all have; that of numbers for whole ones and others."""
    distinct = [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]
    if len(distinct) == 2 and all(kind in (pl.Int64, pl.Float64) for kind in distinct):
        return pl.Float64()
    return distinct[0] if len(distinct) == 1 else None


def _kind(schema: Mapping[str, Any]) -> str | None:
    """The one type of JSON that a value has, besides null."""
    said = schema.get("type")
    kinds = {said} if isinstance(said, str) else set(said) if isinstance(said, list) else set()
    if not kinds:
        values = schema.get("enum", [schema["const"]] if "const" in schema else [])
        names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
        kinds = {names.get(type(value), "other") for value in (values if isinstance(values, list) else [])}
    kinds -= {"null"}
    if kinds == {"integer", "number"}:
        return "number"
    return kinds.pop() if len(kinds) == 1 else None


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference within the schema refers to."""
    for _ in range(_DEEPEST):
        place = schema.get("$ref")
        if not isinstance(place, str) or not place.startswith("#"):
            break
        found: Any = root
        for step in place.removeprefix("#").strip("/").split("/"):
            found = found.get(step) if isinstance(found, Mapping) and step else found
        if not isinstance(found, Mapping):
            break
        schema = found
    return schema
