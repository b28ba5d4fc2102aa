"""Structured answers: whether an answer is the JSON that its request wants, and fits its schema. Pure.

Not all servers enforce a ``response_format``, so answers are validated here too. JSON Schema as in drafts 4 to 2020-12
(jsonschema-rs); ``format`` is not checked, and no reference is fetched.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from pydantic import BaseModel, ValidationError

_WANTS_JSON = {"json_object", "json_schema"}
_SHOWN_FAULTS = 5
_LONGEST_COMPLAINT = 1_000
_MOST_TRIES = 200  # places in an answer where JSON may begin
_FENCED = re.compile(r"```[\w+-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_THOUGHT = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?</\1>", re.DOTALL)

_AROUND_A_CHOICE = " \t\r\n\"'`*.“”‘’"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_raw_decode = json.JSONDecoder().raw_decode


class _Body(msgspec.Struct):
    response_format: msgspec.Raw = msgspec.Raw(b"null")


_decode_body = msgspec.json.Decoder(_Body).decode


class Judged(NamedTuple):
    """``parsed`` is the answer as JSON without white space; ``complaint`` is a sentence on why it is not what was
    wanted. Neither where no JSON was wanted."""

    parsed: str | None = None
    complaint: str | None = None


_NOT_JUDGED = Judged()


class Shape:
    """What JSON an answer has to be. ``schema`` is a JSON Schema; without one any JSON will do, or any object. ``model`` is a
    pydantic model that it must satisfy besides.

    A schema that cannot be used (see :func:`unusable`) is passed over.
    """

    def __init__(self, schema: Any = None, *, any_object: bool = False, model: type[BaseModel] | None = None) -> None:
        self._any_object = any_object
        self._model = model
        self._label = _label(schema)
        self._validator: Any = None
        if schema is not None:
            with contextlib.suppress(ValueError, RecursionError):
                self._validator = _validator(schema)

    def judge(self, content: str, *, lenient: bool | None = None) -> Judged:
        """The answer's JSON, or what is wrong with it. ``lenient`` finds it among prose, in a fence, behind a thought, and takes
        a text that is one of the choices where the schema is that of a label: an object of one field, with texts to choose from.
        With ``None`` labels alone are read so."""
        if lenient is None:
            lenient = self._label is not None
        value, complaint = _read(content)
        if complaint is None:
            complaint = self.complaint(value)
        if complaint is not None and lenient:
            value, complaint = self._search(content, complaint)
        if complaint is not None:
            return Judged(None, complaint)
        return Judged(_encode(value).decode())

    def complaint(self, value: Any) -> str | None:
        """Why the value does not fit; ``None`` if it does."""
        if self._any_object and not isinstance(value, dict):
            return f"a JSON object was asked for, and the answer is {_kind(value)}"
        if self._validator is None or self._validator.is_valid(value):
            return None if self._model is None else _complaint_of(self._model, value)
        faults: list[str] = []
        for fault in self._validator.iter_errors(value):
            if len(faults) == _SHOWN_FAULTS:
                faults.append("…")
                break
            place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in fault.instance_path).lstrip(".")
            faults.append(f"{place}: {fault.message}" if place else fault.message)
        return _shortened("the answer does not fit its schema: " + "; ".join(faults))

    def _search(self, content: str, complaint: str) -> tuple[Any, str | None]:
        """The first JSON in the text that fits; else the complaint about the longest that there is."""
        longest = 0
        for text in _candidates(content):
            value, fault = _read(text)
            if fault is None:
                fault = self.complaint(value)
                if fault is None:
                    return value, None
                if len(text) > longest:
                    longest, complaint = len(text), fault
        if self._label is not None:
            name, choices = self._label
            bare = _THOUGHT.sub("", content).strip(_AROUND_A_CHOICE).casefold()
            value = {name: choices.get(bare)}
            if value[name] is not None and self.complaint(value) is None:
                return value, None
        return None, complaint


class Shapes:
    """The shapes that the answers of a job must have.

    ``schema``, a JSON Schema, holds for every answer; without it the ``response_format`` of each request says what its
    answer must be. ``models`` are pydantic models that answers to these formats must satisfy besides.
    """

    def __init__(
        self,
        schema: Mapping[str, Any] | None = None,
        *,
        lenient: bool | None = None,
        models: Mapping[bytes, type[BaseModel]] | None = None,
    ) -> None:
        of = next((m for asked, m in (models or {}).items() if schema_of(_decode(asked)) == schema), None)
        self._shape = None if schema is None else Shape(dict(schema), model=of)
        self._lenient = lenient
        self._of_models = {asked: _shape_of(asked, model) for asked, model in (models or {}).items()}

    def judge(self, body: bytes, content: str | None) -> Judged:
        if self._shape is None and b'"response_format"' not in body:
            return _NOT_JUDGED
        return self.judge_format(requested_format(body), content)

    def judge_format(self, response_format: bytes | None, content: str | None) -> Judged:
        """As :meth:`judge`, for a request of which only the ``response_format`` is known, as JSON."""
        shape = self._shape or self._of_models.get(response_format or b"") or shape_of(response_format)
        return _NOT_JUDGED if shape is None else shape.judge(content or "", lenient=self._lenient)


def requested_format(body: bytes) -> bytes | None:
    """The ``response_format`` of a request, as JSON; ``None`` if it has none."""
    if b'"response_format"' not in body:
        return None
    return bytes(_decode_body(body).response_format)


@lru_cache(maxsize=256)
def shape_of(response_format: bytes | None) -> Shape | None:
    """What a ``response_format``, as JSON, asks for; ``None`` if that is no JSON."""
    return _shape_of(response_format, None)


def _shape_of(response_format: bytes | None, model: type[BaseModel] | None) -> Shape | None:
    asked = None if response_format is None else _decode(response_format)
    if not isinstance(asked, dict) or asked.get("type") not in _WANTS_JSON:
        return None
    schema = schema_of(asked)
    return Shape(schema, any_object=schema is None and asked["type"] == "json_object", model=model)


def schema_of(response_format: Any) -> Any:
    """The JSON Schema in a ``response_format``, where OpenAI's API or llama.cpp's has it; ``None`` if there is none."""
    if not isinstance(response_format, dict):
        return None
    inside = response_format.get("json_schema")
    return inside.get("schema") if isinstance(inside, dict) else response_format.get("schema")


def _label(schema: Any) -> tuple[str, dict[str, str]] | None:
    """The field of a label, and its choices by how they are written in lower case, but those that differ in that alone; ``None``
    if the schema is another."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or len(properties) != 1:
        return None
    (name, field), *_ = properties.items()
    choices = field.get("enum") if isinstance(field, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        return None
    written = [choice.strip(_AROUND_A_CHOICE).casefold() for choice in choices]
    return name, {bare: choice for bare, choice in zip(written, choices, strict=True) if written.count(bare) == 1}


def unusable(schema: Any) -> str | None:
    """Why a value is no JSON Schema that answers can be validated against; ``None`` if it is one."""
    if not isinstance(schema, dict | bool):
        return f"a JSON Schema is a table, not {_kind(schema)}"
    try:
        _validator(schema)
    except (ValueError, RecursionError) as error:
        return _shortened(str(error).partition("\n")[0])
    return None


def _validator(schema: Any) -> Any:
    import jsonschema_rs  # only jobs with a schema wait for it

    return jsonschema_rs.validator_for(schema, offline=True)


def _read(text: str) -> tuple[Any, str | None]:
    try:
        return _decode(text), None
    except (msgspec.DecodeError, UnicodeError) as error:
        return None, f"JSON was asked for, and the answer is not JSON: {error}"
    except RecursionError:
        return None, "JSON was asked for, and the answer is nested too deeply to be read"


def _complaint_of(model: type[BaseModel], value: Any) -> str | None:
    try:
        model.model_validate_json(_encode(value))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors(include_url=False)]
        return _shortened(f"the answer does not fit {model.__name__}: " + "; ".join(faults[:_SHOWN_FAULTS]))
    except Exception as error:  # a validator's own mistake; the answer was paid for all the same
        return _shortened(
            f"the answer does not fit {model.__name__}: a validator raised {type(error).__name__}: {error}"
        )
    return None


def _candidates(content: str) -> Iterator[str]:
    """Pieces of an answer that may be its JSON, the likeliest first."""
    content = _THOUGHT.sub("", content)
    yield content
    yield from (fenced[1] for fenced in _FENCED.finditer(content))
    end = tries = 0
    for begin in re.finditer(r"[{\[]", content):
        if begin.start() < end:
            continue
        tries += 1
        if tries > _MOST_TRIES:
            return
        try:
            _, end = _raw_decode(content, begin.start())
        except (ValueError, RecursionError):
            continue
        yield content[begin.start() : end]


def _kind(value: Any) -> str:
    words = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_COMPLAINT else f"{text[:_LONGEST_COMPLAINT]}…"
