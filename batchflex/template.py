"""Columns to messages: Jinja2, sandboxed and strict.

Strict means that a column which is not there, or is null, is a fault of the row that says so, never the text ``None``
in a prompt. A template that says itself what to do instead is fine: ``{{ text or '' }}`` for a null,
``{{ text | default('…') }}`` or ``{% if text is defined %}`` also for a column that is not there. A column whose name
is no identifier is written ``{{ row['its name'] }}``.

Nothing in a template is random, so that the same row makes the same request on the next run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
import msgspec

from .errors import JobError
from .job import PromptSection
from .model import Row

WHOLE_ROW = "row"


class TemplateFault(Exception):
    """A row the template cannot be filled from; the text says which column and which there are."""


class _NullUsed(jinja2.TemplateRuntimeError):
    pass


class _Null(jinja2.Undefined):
    """A null in a template: false, equal to ``none``, not ``defined``, and an error where its text would be needed."""

    __slots__ = ()

    def __init__(self, place: str) -> None:
        super().__init__(hint=place, exc=_NullUsed)

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Null)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(None)

    __str__ = __repr__ = __iter__ = __len__ = jinja2.Undefined._fail_with_undefined_error


_AN_EXPRESSION = "an expression"


def _finalize(value: Any) -> Any:
    if value is None:  # of an expression: the nulls of columns are _Null
        raise _NullUsed(_AN_EXPRESSION)
    return value


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=lambda inner: None if isinstance(inner, _Null) else str(inner)).decode()


_environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined,
    finalize=_finalize,
    keep_trailing_newline=True,
    autoescape=False,  # prompts are no HTML: nothing is escaped
)
_environment.filters["tojson"] = _to_json
_environment.tests["none"] = lambda value: value is None or isinstance(value, _Null)
del _environment.filters["random"], _environment.globals["lipsum"]


class Prompt:
    """One prompt variant, compiled.

    :raises JobError: if a template is not valid Jinja2.
    """

    def __init__(self, section: PromptSection, place: str = "prompt") -> None:
        self.place = place
        self._used: set[str] = set()
        self._used_by_row: set[str] = set()
        self._spared: set[str] = set()
        if section.messages is not None:
            self._messages = [self._compile(m, f"{place}.messages.{i}") for i, m in enumerate(section.messages)]
        else:
            texts = (("system", section.system), ("user", section.user))
            self._messages = [
                {"role": role, "content": self._compile(text, f"{place}.{role}")} for role, text in texts if text
            ]

    def _compile(self, value: Any, place: str) -> Any:
        if isinstance(value, str):
            if "{" not in value:
                return value
            try:
                tree = _environment.parse(value)
                used = jinja2.meta.find_undeclared_variables(tree) - _environment.globals.keys()
                compiled = _environment.from_string(value)
            except jinja2.TemplateSyntaxError as error:
                raise JobError(
                    f"{place}: the template is not valid, line {error.lineno}: {error.message}. "
                    "A column whose name is not a plain word is written {{ row['Ticket Text'] }}"
                ) from None
            self._used |= used
            self._used_by_row |= _columns_of_row(tree)
            self._spared |= _guarded(tree)
            return compiled
        if isinstance(value, dict):
            return {k: self._compile(v, f"{place}.{k}") for k, v in value.items()}
        if isinstance(value, list):
            return [self._compile(v, place) for v in value]
        return value

    @property
    def columns(self) -> set[str] | None:
        """The columns that the templates name; ``None`` if they use the whole row."""
        if WHOLE_ROW in self._used and not self._used_by_row:
            return None
        return (self._used | self._used_by_row) - {WHOLE_ROW}

    def missing(self, columns: Collection[str]) -> list[str]:
        """The columns that the templates need and that are not among ``columns``."""
        needed = self._used if WHOLE_ROW in columns else (self._used | self._used_by_row) - {WHOLE_ROW}
        return sorted(needed - self._spared - set(columns))

    def render(self, columns: Row) -> list[Any]:
        """The messages for one row.

        :raises TemplateFault: if a column is missing or null, or the template fails on this row's values.
        """
        try:
            values = self._values(columns)
            return [_fill(message, values) for message in self._messages]
        except jinja2.UndefinedError as error:
            if missing := self.missing(columns):
                raise TemplateFault(missing_column(missing[0], columns)) from None
            raise TemplateFault(f"the template fails: {error.message}") from None
        except _NullUsed as null:
            raise TemplateFault(_null_used(str(null))) from None
        except Exception as error:  # whatever an expression in a user's template raises is that row's fault
            raise TemplateFault(f"the template fails: {type(error).__name__}: {error}") from None

    def _values(self, columns: Row) -> dict[str, Any]:
        values = {name: _strict(columns[name], name) for name in self._used if name in columns}
        if WHOLE_ROW in self._used and WHOLE_ROW not in columns:
            values[WHOLE_ROW] = {name: _strict(value, name) for name, value in columns.items()}
        return values


def _strict(value: Any, name: str) -> Any:
    """The value with every null in it, at any depth, as one that cannot be printed. So is a NaN, the null of floats."""
    if value is None or (isinstance(value, float) and value != value):
        return _Null(name)
    if isinstance(value, dict):
        return {key: _strict(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner, f"{name}[{index}]") for index, inner in enumerate(value)]
    return value


def _columns_of_row(tree: jinja2.nodes.Template) -> set[str]:
    """The columns written as ``row['a column']``."""
    return {
        node.arg.value
        for node in tree.find_all(jinja2.nodes.Getitem)
        if isinstance(node.node, jinja2.nodes.Name)
        and node.node.name == WHOLE_ROW
        and isinstance(node.arg, jinja2.nodes.Const)
        and isinstance(node.arg.value, str)
    }


def _guarded(tree: jinja2.nodes.Template) -> set[str]:
    """The columns for whose absence the template provides somewhere."""
    found = set()
    for node in tree.find_all((jinja2.nodes.Filter, jinja2.nodes.Test)):
        if node.name not in ("default", "d", "defined", "undefined"):
            continue
        inner = node.node
        if isinstance(inner, jinja2.nodes.Name):
            found.add(inner.name)
        elif isinstance(inner, jinja2.nodes.Getitem) and isinstance(inner.arg, jinja2.nodes.Const):
            found.add(inner.arg.value)
    return found


def missing_column(name: str, columns: Collection[str]) -> str:
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"the template uses the column {name!r}, which is not there{meant}; the columns are: {', '.join(columns)}"


def _null_used(name: str) -> str:
    if name == _AN_EXPRESSION:
        return "an expression of the template is null, and a null must not become the text 'None' in a prompt"
    written = name if re.match(r"[A-Za-z_]\w*([.\[]|$)", name) else f"{WHOLE_ROW}[{name!r}]"
    return (
        f"{name!r} is null, and a null must not become the text 'None' in a prompt; "
        f"write {{{{ {written} or '' }}}} if it may be left out"
    )


def beginning(section: PromptSection) -> int:
    """With how many bytes of text the prompts of a section begin whatever the row is: those up to the first expression."""
    messages = section.messages or [{"content": text} for text in (section.system, section.user) if text]
    length = 0
    for text in _texts([message.get("content") for message in messages]):
        fixed, is_whole = _fixed(text)
        length += len(fixed.encode())
        if not is_whole:
            break
    return length


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _fixed(text: str) -> tuple[str, bool]:
    """The beginning of a template that needs no row, and whether that is all of it."""
    found = ""
    for node in _environment.parse(text).body:
        if not isinstance(node, jinja2.nodes.Output):
            return found, False
        for part in node.nodes:
            if not isinstance(part, jinja2.nodes.TemplateData):
                return found, False
            found += part.data
    return found, True


def _fill(value: Any, columns: Mapping[str, Any]) -> Any:
    if isinstance(value, jinja2.Template):
        return value.render(columns)
    if isinstance(value, dict):
        return {k: _fill(v, columns) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, columns) for v in value]
    return value
