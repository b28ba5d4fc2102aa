"""Columns to messages: Jinja2, sandboxed and strict.

Strict means that a column which is not there, or is null, is a fault of the row that says so, never the text
``None`` in a prompt. ``{{ text or '' }}`` and ``{{ text | default('…') }}`` say what to do instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox
import msgspec

from .errors import JobError
from .job import PromptSection
from .model import Row


class TemplateFault(Exception):
    """A row the template cannot be filled from; the text says which column and which there are."""


class _NullValue(Exception):
    pass


def _finalize(value: Any) -> Any:
    if value is None:
        raise _NullValue
    return value


_environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, finalize=_finalize, keep_trailing_newline=True, autoescape=False
)  # prompts are no HTML: nothing is escaped
_environment.filters["tojson"] = lambda value: msgspec.json.encode(value).decode()


class Prompt:
    """One prompt variant, compiled.

    :raises JobError: if a template is not valid Jinja2.
    """

    def __init__(self, section: PromptSection, place: str = "prompt") -> None:
        messages: list[dict[str, Any]] = section.messages or [
            {"role": role, "content": text} for role, text in (("system", section.system), ("user", section.user)) if text
        ]
        self.columns: set[str] = set()
        self._messages = [self._compile(message, place) for message in messages]

    def _compile(self, value: Any, place: str) -> Any:
        if isinstance(value, str):
            try:
                used = jinja2.meta.find_undeclared_variables(_environment.parse(value))
                self.columns |= used
                return _environment.from_string(value) if "{" in value else value
            except jinja2.TemplateSyntaxError as error:
                raise JobError(f"{place}: the template is not valid, line {error.lineno}: {error.message}") from None
        if isinstance(value, dict):
            return {k: self._compile(v, f"{place}.{k}") for k, v in value.items()}
        if isinstance(value, list):
            return [self._compile(v, place) for v in value]
        return value

    def render(self, columns: Row) -> list[Any]:
        """The messages for one row.

        :raises TemplateFault: if a column is missing or null, or the template fails on this row's values.
        """
        try:
            return [_fill(message, columns) for message in self._messages]
        except jinja2.UndefinedError as error:
            missing = [c for c in sorted(self.columns) if c not in columns]
            if missing:
                raise TemplateFault(missing_column(missing[0], columns)) from None
            raise TemplateFault(f"the template fails: {error.message}") from None
        except _NullValue:
            nulls = [c for c in sorted(self.columns) if columns.get(c) is None]
            name = nulls[0] if nulls else "a value"
            raise TemplateFault(
                f"{name!r} is null, and a null must not become the text 'None' in a prompt; "
                f"write {{{{ {name} or '' }}}} if it may be left out"
            ) from None
        except Exception as error:  # whatever an expression in a user's template raises is that row's fault
            raise TemplateFault(f"the template fails: {type(error).__name__}: {error}") from None


def missing_column(name: str, columns: Iterable[str]) -> str:
    have = list(columns)
    near = difflib.get_close_matches(name, have, n=1, cutoff=0.6)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"the template uses the column {name!r}, which is not there{meant}; the columns are: {', '.join(have)}"


def _fill(value: Any, columns: Row) -> Any:
    if isinstance(value, jinja2.Template):
        return value.render(columns)
    if isinstance(value, dict):
        return {k: _fill(v, columns) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, columns) for v in value]
    return value
