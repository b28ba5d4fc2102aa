"""Columns to messages: Jinja2, sandboxed and strict.

Strict means that a column which is not there, or is null, is a fault of the row that says so, never the text ``None``
in a prompt. A template that says itself what to do instead is fine: ``{{ text or '' }}`` for a null,
``{{ text | default('…') }}`` or ``{% if text is defined %}`` also for a column that is not there. A column whose name
is no identifier is written ``{{ row['its name'] }}``.

Nothing in a template is random, so that the same row makes the same request on the next run. A column wins over what Jinja2
has under its name (``range``, ``dict``, ``self``, …), and of a function, a method or another object of the template no text can
be made: that is a fault of the row, too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes

from ..config import PromptSection
from ..core import JobError, Row
from ..protocol import unwritable
from . import file_filters
from .file_filters import Attach, FileMisused
from .template_faults import WHOLE_ROW, TemplateFault, missing_column
from .template_sandbox import (
    AN_EXPRESSION,
    SELF,
    SELF_COLUMN,
    Null,
    NullUsed,
    Rewriting,
    TextMade,
    environment,
    held,
    naming,
)

# Values that are put into a text as Jinja2 does, unless they are NaN.
_PLAIN = frozenset({str, int, bool, float})


class _Text:
    """A text with expressions. Jinja2 is not needed where these are columns, and a row has texts or numbers in them."""

    def __init__(self, tree: jinja2.nodes.Template) -> None:
        self._text, self._columns = _with_columns(tree)
        self._template = environment.from_string(Rewriting(tree).visit(tree))

    def filled(self, row: Row, values: Callable[[], Mapping[str, Any]]) -> str:
        """The text for a row; ``values`` are those of its columns as a template has them."""
        text: str | None = None
        if self._columns is not None:
            found = [row.get(name) for name, is_of_row in self._columns if not is_of_row or WHOLE_ROW not in row]
            if len(found) == len(self._columns) and all(type(each) in _PLAIN and each == each for each in found):
                text = self._text % tuple(found)
        if text is None:
            text = self._template.render(values())
        if why := unwritable(text):
            raise TemplateFault(f"what the template makes {why}")
        return text


def _with_columns(tree: jinja2.nodes.Template) -> tuple[str, list[tuple[str, bool]] | None]:
    """The text of a template with ``%s`` in place of columns, and these, each with whether it is one of ``row``; ``None`` if
    anything else is in it."""
    text, columns = "", list[tuple[str, bool]]()
    for node in tree.body:
        for part in node.nodes if isinstance(node, jinja2.nodes.Output) else [node]:
            if isinstance(part, jinja2.nodes.TemplateData):
                text += part.data.replace("%", "%%")
            elif isinstance(part, jinja2.nodes.Name):
                text, columns = f"{text}%s", [*columns, (part.name, False)]
            elif (name := _column_of_row(part)) is not None:
                text, columns = f"{text}%s", [*columns, (name, True)]
            else:
                return "", None
    return text, columns


class Prompt:
    """One prompt variant, compiled.

    :raises JobError: if a template is not valid Jinja2.
    """

    def __init__(self, section: PromptSection, place: str = "prompt") -> None:
        self.place = place
        self._used: set[str] = set()
        self._used_by_row: set[str] = set()
        self._spared: set[str] = set()
        self.file_kinds: set[str] = set()  # of files that are put in
        self.file_columns: set[str] = set()  # that name them
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
                tree = naming.parse(value)
                used = _columns_named(tree)
                by_row = _columns_of_row(tree) if WHOLE_ROW in used else set()
                spared, files = _guarded(tree), file_filters.wanted(tree)
                compiled = _Text(tree)
            except jinja2.TemplateSyntaxError as error:
                raise JobError(
                    f"{place}: the template is not valid, line {error.lineno}: {(error.message or '').rstrip('.')}. "
                    "A column whose name is not a plain word is written {{ row['Ticket Text'] }}"
                ) from None
            except ValueError as error:
                raise JobError(f"{place}: {error}") from None
            self.file_kinds |= files.kinds
            self.file_columns |= files.columns
            self._used |= used
            self._used_by_row |= by_row
            self._spared |= spared
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

    @property
    def uses_row(self) -> bool:
        """Whether the templates name the row itself, be it for one of its columns."""
        return WHOLE_ROW in self._used

    def missing(self, columns: Collection[str]) -> list[str]:
        """The columns that the templates need and that are not among ``columns``."""
        needed = self._used if WHOLE_ROW in columns else (self._used | self._used_by_row) - {WHOLE_ROW}
        return sorted(needed - self._spared - set(columns) - environment.globals.keys())

    def render(self, columns: Row, attach: Attach | None = None) -> list[Any]:
        """The messages for one row. ``attach`` gives what stands for the files that it puts in.

        :raises TemplateFault: if a column is missing or null, or the template fails on this row's values.
        """
        try:
            values = functools.cache(lambda: self._values(columns))
            messages = [_fill(message, columns, values) for message in self._messages]
            if not self.file_kinds:
                return messages
            if attach is None:
                raise TemplateFault("no file can be put in here")
            return [file_filters.put_in(message, attach) for message in messages]
        except jinja2.UndefinedError as error:
            if missing := self.missing(columns):
                raise TemplateFault(missing_column(missing[0], columns)) from None
            raise TemplateFault(f"the template fails: {error.message}") from None
        except NullUsed as null:
            raise TemplateFault(_null_used(str(null))) from None
        except TemplateFault:
            raise
        except (TextMade, FileMisused) as made:
            raise TemplateFault(f"the template {made}") from None
        except Exception as error:  # whatever an expression in a user's template raises is that row's fault
            raise TemplateFault(f"the template fails: {type(error).__name__}: {error}") from None

    def _values(self, columns: Row) -> dict[str, Any]:
        values = {name: _strict(columns[name], name) for name in self._used if name in columns}
        if SELF in values:
            values[SELF_COLUMN] = values.pop(SELF)
        if WHOLE_ROW in self._used and WHOLE_ROW not in columns:
            values[WHOLE_ROW] = {name: _strict(value, name) for name, value in columns.items()}
        return values


def _strict(value: Any, name: str) -> Any:
    """The value with every null in it, at any depth, as one that cannot be printed. So is a NaN, the null of floats."""
    if value is None or (isinstance(value, float) and value != value):
        return Null(name)
    if isinstance(value, dict):
        return {key: _strict(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner, f"{name}[{index}]") for index, inner in enumerate(value)]
    return held(value, name)


def _columns_named(tree: jinja2.nodes.Template) -> set[str]:
    """The columns written as ``text``. What is only called (``range(3)``) is no column."""
    named = jinja2.meta.find_undeclared_variables(tree)
    called = {id(call.node) for call in tree.find_all(jinja2.nodes.Call)}
    read = {node.name for node in tree.find_all(jinja2.nodes.Name) if node.ctx == "load" and id(node) not in called}
    found = {name for name in named if name not in environment.globals or name in read}
    if SELF in read and next(tree.find_all(jinja2.nodes.Block), None) is None:
        found.add(SELF)
    return found


def _columns_of_row(tree: jinja2.nodes.Template) -> set[str]:
    """The columns written as ``row['a column']``."""
    named = map(_column_of_row, tree.find_all(jinja2.nodes.Getitem))
    return {name for name in named if name is not None}


def _column_of_row(node: jinja2.nodes.Node) -> str | None:
    """The column that is written ``row['a column']``."""
    if not (isinstance(node, jinja2.nodes.Getitem) and isinstance(node.arg, jinja2.nodes.Const)):
        return None
    is_of_row = isinstance(node.node, jinja2.nodes.Name) and node.node.name == WHOLE_ROW
    return node.arg.value if is_of_row and isinstance(node.arg.value, str) else None


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


def _null_used(name: str) -> str:
    if name == AN_EXPRESSION:
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
        for node in environment.parse(text).body:
            for part in node.nodes if isinstance(node, jinja2.nodes.Output) else [node]:
                if not isinstance(part, jinja2.nodes.TemplateData):
                    return length
                length += len(part.data.encode())
    return length


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _fill(value: Any, row: Row, values: Callable[[], Mapping[str, Any]]) -> Any:
    if isinstance(value, _Text):
        return value.filled(row, values)
    if isinstance(value, dict):
        return {k: _fill(v, row, values) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, row, values) for v in value]
    return value
