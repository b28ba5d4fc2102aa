"""Tables of request parameters, whose keys are free, and the JSON Schemas in them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..protocol import CHAT, TRANSPORT, json_answers, unwritable
from .mistake_messages import KEY_HINT, Mistake, names_a_key


def name_fault(name: str) -> str | None:
    """Why a job cannot set a parameter of this name, as the end of a sentence; ``None`` if it can."""
    if name in TRANSPORT:
        return "set endpoint.stream to true, false or 'auto' instead"
    return KEY_HINT if names_a_key(name) else None


def format_mistakes(place: str, value: Any) -> Iterator[Mistake]:
    """What is wrong with the schema in a ``response_format``, if it has one."""
    if why := schema_fault(json_answers.schema_of(value)):
        yield Mistake(f"{place}.json_schema.schema" if "json_schema" in value else f"{place}.schema", why)


def schema_fault(schema: Any) -> str | None:
    """Why answers cannot be validated by this JSON Schema, as the end of a sentence; ``None`` if they can, or it is ``None``."""
    if schema is None:
        return None
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return "should be the JSON Schema itself: the value of its key 'schema'"
    why = unwritable(schema) or json_answers.unusable(schema)
    return f"answers cannot be validated by this schema: {why}" if why else None


def _mistakes(table: Mapping[str, Any]) -> Iterator[Mistake]:
    for name, value in table.items():
        if name == "messages":
            yield Mistake(name, "messages come from the input or from [prompt], not from here")
        elif why := name_fault(name) or unwritable(value) or CHAT.parameters.out_of_range(name, value):
            yield Mistake(name, why)
        elif name == "response_format":
            yield from format_mistakes(name, value)


def _check(table: dict[str, Any]) -> dict[str, Any]:
    wrong: list[InitErrorDetails] = [
        {"type": PydanticCustomError("parameter", "{what}", {"what": what}), "loc": (name,), "input": None}
        for name, what in _mistakes(table)
    ]
    if wrong:
        raise ValidationError.from_exception_data("parameters", wrong)
    return table


Parameters = Annotated[dict[str, Any], AfterValidator(_check)]
