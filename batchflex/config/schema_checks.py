"""Mistakes in the JSON Schemas of a job. Pure."""

from __future__ import annotations

from typing import Any

from ..protocol import json_answers, unsayable
from .job_mistakes import Mistake


def check_format(place: str, value: Any) -> list[Mistake]:
    """The schema in a ``response_format``, if it has one."""
    inside = f"{place}.json_schema.schema" if "json_schema" in value else f"{place}.schema"
    return check_schema(inside, json_answers.schema_of(value))


def check_schema(place: str, schema: Any) -> list[Mistake]:
    """A JSON Schema, if it is there."""
    if schema is None:
        return []
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return [Mistake(place, "should be the JSON Schema itself: what stands in its key 'schema'")]
    why = unsayable(schema) or json_answers.unusable(schema)
    return [Mistake(place, f"answers cannot be held against this schema: {why}")] if why else []
