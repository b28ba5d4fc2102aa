"""What the tables of a job have in common: their base class, and the types of fields that several of them have. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from .mistake_messages import found


class WrongField(AttributeError):
    """A field was read that a job lacks because its value is wrong."""


class Section(BaseModel):
    """A table of a job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields:
                raise WrongField(name)
            return super().__getattr__(name)


def wanted(words: str) -> WrapValidator:
    """For a field of several types: one message instead of one for each type."""

    def validate(value: Any, inner: Any) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise PydanticCustomError("wanted", "{wanted}", {"wanted": words}) from None

    return WrapValidator(validate)


def refusing(check: Callable[[Any], object]) -> AfterValidator:
    """For a field with a rule of its own: ``check`` refuses a value by a ``ValueError``, or by a text that says what is wrong."""

    def validate(value: Any) -> Any:
        if isinstance(fault := check(value), str):
            raise ValueError(fault)
        return value

    return AfterValidator(validate)


def name_rule(whose: str, marks: str, longest: int) -> AfterValidator:
    """For a name that becomes part of a path or a column: letters, digits and ``marks``."""
    *first, last = (f"'{mark}'" for mark in marks)
    letters = re.compile(rf"[A-Za-z0-9][A-Za-z0-9{marks}]*")

    def fault(name: str) -> str | None:
        if len(name) <= longest and letters.fullmatch(name):
            return None
        return (
            f"{whose} may hold letters, digits, {', '.join(first)} and {last}, begins with a letter or a digit, and has at "
            f"most {longest} characters; {found(name)}"
        )

    return refusing(fault)


def variable_rule(example: str, never: str) -> AfterValidator:
    """For the name of an environment variable. The value is not repeated in the message: it may be the secret itself."""

    def fault(name: str) -> str | None:
        if re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            return None
        return f"must be the name of an environment variable in capitals, such as '{example}', never the {never} itself"

    return refusing(fault)


NonEmpty = Annotated[str, Field(min_length=1)]
NonEmptyList = Annotated[list[NonEmpty], Field(min_length=1)]
as_command = wanted("a command in quotes, or a list of a program and its arguments")


_SEPARATORS = {"\\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


def as_separator(text: str) -> str:
    """The character that separates the columns of a CSV file; a tab may be written ``tab`` or, as typed into a shell, ``\\t``."""
    mark = _SEPARATORS.get(text, text)
    if len(mark) != 1 or mark in '"\r\n' or mark.isalnum():
        raise ValueError(f"must be one character, such as ';' or '|', or 'tab'; {found(text)}")
    return mark


def as_encoding(name: str) -> str:
    """The name of an encoding of text, as Python knows it."""
    try:
        is_known = codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        is_known = False
    if not is_known:
        raise ValueError(
            f"no encoding has this name; utf-8, utf-16, windows-1252, latin-1 and shift_jis are some; {found(name)}"
        )
    return name


def http_url(text: str) -> SplitResult | None:
    """The parts of an HTTP or HTTPS URL; ``None`` if the text is not one, or has spaces in it."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_url and text.isprintable() and " " not in text else None
