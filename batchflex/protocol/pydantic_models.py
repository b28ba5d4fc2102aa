"""Pydantic models as what answers must be: the ``response_format`` they stand for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel

Model = type[BaseModel]


def is_model(value: Any) -> TypeGuard[Model]:
    return isinstance(value, type) and issubclass(value, BaseModel)


def response_format(model: Model) -> dict[str, Any]:
    """The ``response_format`` for this model's JSON.

    ``strict`` is set where OpenAI's API would take it: if no object leaves out a field or takes others.
    """
    return format_of(schema(model), model.__name__)


def format_of(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The ``response_format`` for a JSON Schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "strict": _is_strict(schema), "schema": schema}}


def schema(model: Model) -> dict[str, Any]:
    """The model's JSON Schema, without defaults and examples; objects take no other fields unless the model says so."""
    return dict(_tidied(model.model_json_schema()))


def without_nulls(schema: Any) -> Any:
    """A JSON Schema without nulls as values, which a job file cannot hold; else as it is."""
    if isinstance(schema, list | tuple):
        return [without_nulls(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    has_default = "default" in schema and schema["default"] is None
    kept = {name: without_nulls(inner) for name, inner in schema.items() if not (name == "default" and has_default)}
    return _without_null(kept)


def _tidied(value: Any, *, names: bool = False) -> Any:
    """``names``: the keys are names of fields or definitions, not keywords of JSON Schema."""
    if isinstance(value, list):
        return [_tidied(each) for each in value]
    if not isinstance(value, dict):
        return value
    tidy = {
        name: _tidied(inner, names=not names and name in ("properties", "$defs"))
        for name, inner in value.items()
        if names or name not in ("default", "examples")
    }
    if not names and "properties" in tidy:
        tidy.setdefault("additionalProperties", False)
    return tidy if names else _without_null(tidy)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Null as a type in place of a value: a job file, which keeps the format, has no null."""
    if "const" in schema and schema["const"] is None:
        return {**{name: inner for name, inner in schema.items() if name != "const"}, "type": "null"}
    values = schema.get("enum")
    if not isinstance(values, list) or None not in values:
        return schema
    others = [value for value in values if value is not None]
    rest = {name: inner for name, inner in schema.items() if name not in ("enum", "type")}
    kinds = schema.get("type")
    if isinstance(kinds, list):
        kinds = [kind for kind in kinds if kind != "null"]
    value_of = {"enum": others} | ({} if kinds is None else {"type": kinds})
    return {**rest, **({"anyOf": [value_of, {"type": "null"}]} if others else {"type": "null"})}


def _is_strict(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_strict, value))
    if not isinstance(value, dict):
        return True
    properties = value.get("properties")
    if isinstance(properties, dict) and "type" in value:
        closed = value.get("additionalProperties") is False
        if not closed or set(value.get("required", ())) != set(properties):
            return False
    return all(map(_is_strict, value.values()))
