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

import datetime
import decimal
import functools
import re
from collections.abc import Callable, Collection, ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, NoReturn

import jinja2
import jinja2.meta
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils
import jinja2.visitor
import msgspec

from ..config import PromptSection
from ..core import JobError, Row, nearest
from ..protocol import unwritable
from . import file_filters
from .file_filters import Attach, FileMisused, Files

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


class _Missing(jinja2.StrictUndefined):
    """What is not there; nor has it a text inside of a list."""

    __slots__ = ()
    __repr__ = jinja2.Undefined._fail_with_undefined_error


class _TextMade(jinja2.TemplateRuntimeError):
    """Text was to be made of what has none."""


class _Opaque:
    """A function, a method, an iterator or another object of the template's own. It can be called, gone through and asked, but no
    text can be made of it, by whatever filter or operator."""

    __slots__ = ("name", "value")

    def __init__(self, value: Any, name: str) -> None:
        self.value, self.name = value, name

    def _refuse(self, *_: object) -> NoReturn:
        if isinstance(self.value, _GONE_THROUGH) and not isinstance(self.value, _OWN):
            raise _TextMade("makes text of a sequence; end it with | join(', '), | list or | length")
        if callable(self.value) and self.name:
            raise _TextMade(f"makes text of {self.name!r}, which is a function; call it: {self.name}(…)")
        raise _TextMade(f"makes text of what is no data ({self.name or type(self.value).__name__})")

    __str__ = __repr__ = __format__ = _refuse

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)

    def __next__(self) -> Any:
        return next(self.value)

    def __reversed__(self) -> Iterator[Any]:
        return iter(reversed(self.value))

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __contains__(self, item: object) -> bool:
        return item in self.value

    def __getitem__(self, item: Any) -> Any:
        return _held(self.value[item])

    def __eq__(self, other: object) -> bool:
        return bool(self.value == _bare(other))

    def __hash__(self) -> int:
        return hash(self.value)


class _Namespace(jinja2.utils.Namespace):
    """That of a template, which has no text."""

    def __repr__(self) -> str:
        raise _TextMade("makes text of a namespace; name what is in it")


_DATA = (
    str, int, float, bool, bytes, list, dict, tuple, set, frozenset, decimal.Decimal, datetime.date, datetime.time,
    datetime.timedelta, jinja2.Undefined, _Namespace, _Opaque, Files,
)  # fmt: skip
_NO_TEXT: tuple[Any, ...] = (object.__repr__, object.__str__)
_GONE_THROUGH = (Iterator, KeysView, ValuesView, ItemsView, range)
_OWN = (jinja2.runtime.LoopContext, jinja2.runtime.Macro, jinja2.runtime.TemplateReference, jinja2.runtime.Context)


def _held(value: Any, name: str = "") -> Any:
    """The value; what is no data so that no text can be made of it."""
    if value is None or isinstance(value, _DATA):
        return value
    kind = type(value)
    says_nothing = kind.__repr__ in _NO_TEXT and kind.__str__ in _NO_TEXT
    is_code = callable(value) or isinstance(value, _GONE_THROUGH + _OWN) or says_nothing
    return _Opaque(value, name) if is_code else value


def _bare(value: Any) -> Any:
    return value.value if isinstance(value, _Opaque) else value


_AN_EXPRESSION = "an expression"


def _finalize(value: Any) -> Any:
    if value is None:  # of an expression: the nulls of columns are _Null
        raise _NullUsed(_AN_EXPRESSION)
    return value.marks if isinstance(value, Files) else value


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=lambda inner: None if isinstance(inner, _Null) else str(inner)).decode()


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """One in which whatever is looked up, called or filtered comes back as :func:`_held` gives it."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return _held(super().getattr(_bare(obj), attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return _held(super().getitem(_bare(obj), argument), argument if isinstance(argument, str) else "")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        return _held(super().call(__context, _bare(__obj), *args, **kwargs))


def _filter(made: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(made)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        return _held(made(*args, **kwargs))

    return filtered


_environment = _Environment(
    undefined=_Missing,
    finalize=_finalize,
    keep_trailing_newline=True,
    autoescape=False,  # prompts are no HTML: nothing is escaped
)
_environment.filters |= {"tojson": _to_json, **file_filters.FILTERS}
del _environment.filters["random"], _environment.globals["lipsum"]
_environment.filters = {name: _filter(made) for name, made in _environment.filters.items()} | {"_held": _held}
_environment.globals["namespace"] = _Namespace
_environment.globals = {name: _Opaque(value, name) for name, value in _environment.globals.items()}
_environment.tests["none"] = lambda value: value is None or isinstance(value, _Null)
_environment.tests["callable"] = lambda value: callable(_bare(value))
# To be asked which names a template does not set itself, those of globals among them.
_naming = _environment.overlay()
_naming.globals = {}
_SELF, _SELF_COLUMN = "self", "_self_column"


class _Rewriting(jinja2.visitor.NodeTransformer):
    """Makes a template look for data before methods of the same name, and hold what it has made itself as :func:`_held` does.
    Without blocks ``self`` is no more than a name: that of a column."""

    def __init__(self, tree: jinja2.nodes.Template) -> None:
        self._own = {"loop", "caller", *(macro.name for macro in tree.find_all(jinja2.nodes.Macro))}
        self._has_blocks = next(tree.find_all(jinja2.nodes.Block), None) is not None

    def visit_Call(self, node: jinja2.nodes.Call) -> jinja2.nodes.Node:
        called = node.node
        if isinstance(called, jinja2.nodes.Getattr):
            called.node = self.visit(called.node)
            node.node = jinja2.nodes.Name("", "load")
            self.generic_visit(node)
            node.node = called
            return node
        return self.generic_visit(node)

    def visit_Getattr(self, node: jinja2.nodes.Getattr) -> jinja2.nodes.Node:
        key = jinja2.nodes.Const(node.attr, lineno=node.lineno)
        return jinja2.nodes.Getitem(self.visit(node.node), key, node.ctx, lineno=node.lineno)

    def visit_Name(self, node: jinja2.nodes.Name) -> jinja2.nodes.Node:
        if node.ctx != "load":
            return node
        if node.name == _SELF and not self._has_blocks:
            return jinja2.nodes.Name(_SELF_COLUMN, "load", lineno=node.lineno)
        if node.name in self._own or node.name == _SELF:
            return jinja2.nodes.Filter(
                node, "_held", [jinja2.nodes.Const(node.name)], [], None, None, lineno=node.lineno
            )
        return node


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
                tree = _naming.parse(value)
                used = _columns_named(tree)
                by_row = _columns_of_row(tree) if WHOLE_ROW in used else set()
                spared, files = _guarded(tree), file_filters.wanted(tree)
                compiled = _environment.from_string(_Rewriting(tree).visit(tree))
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

    def missing(self, columns: Collection[str]) -> list[str]:
        """The columns that the templates need and that are not among ``columns``."""
        needed = self._used if WHOLE_ROW in columns else (self._used | self._used_by_row) - {WHOLE_ROW}
        return sorted(needed - self._spared - set(columns) - _environment.globals.keys())

    def render(self, columns: Row, attach: Attach | None = None) -> list[Any]:
        """The messages for one row. ``attach`` gives what stands for the files that it puts in.

        :raises TemplateFault: if a column is missing or null, or the template fails on this row's values.
        """
        try:
            values = self._values(columns)
            messages = [_fill(message, values) for message in self._messages]
            if not self.file_kinds:
                return messages
            if attach is None:
                raise TemplateFault("no file can be put in here")
            return [file_filters.put_in(message, attach) for message in messages]
        except jinja2.UndefinedError as error:
            if missing := self.missing(columns):
                raise TemplateFault(missing_column(missing[0], columns)) from None
            raise TemplateFault(f"the template fails: {error.message}") from None
        except _NullUsed as null:
            raise TemplateFault(_null_used(str(null))) from None
        except TemplateFault:
            raise
        except (_TextMade, FileMisused) as made:
            raise TemplateFault(f"the template {made}") from None
        except Exception as error:  # whatever an expression in a user's template raises is that row's fault
            raise TemplateFault(f"the template fails: {type(error).__name__}: {error}") from None

    def _values(self, columns: Row) -> dict[str, Any]:
        values = {name: _strict(columns[name], name) for name in self._used if name in columns}
        if _SELF in values:
            values[_SELF_COLUMN] = values.pop(_SELF)
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
    return _held(value, name)


def _columns_named(tree: jinja2.nodes.Template) -> set[str]:
    """The columns written as ``text``. What is only called (``range(3)``) is no column."""
    named = jinja2.meta.find_undeclared_variables(tree)
    called = {id(call.node) for call in tree.find_all(jinja2.nodes.Call)}
    read = {node.name for node in tree.find_all(jinja2.nodes.Name) if node.ctx == "load" and id(node) not in called}
    found = {name for name in named if name not in _environment.globals or name in read}
    if _SELF in read and next(tree.find_all(jinja2.nodes.Block), None) is None:
        found.add(_SELF)
    return found


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
    if not columns:
        return f"the template uses the column {name!r}, and the input has no columns"
    near = nearest(name, columns)
    meant = f" (did you mean {near!r}?)" if near else ""
    odd = next((each for each in columns if name in re.split(r"\W+", each) and not each.isidentifier()), None)
    how = f". A column whose name is not a plain word is written {_written(odd)}" if odd and name.isidentifier() else ""
    return (
        f"the template uses the column {name!r}, which is not there{meant}; the columns are: {', '.join(columns)}{how}"
    )


def _written(column: str) -> str:
    return f"{{{{ {WHOLE_ROW}[{column!r}] }}}}"


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
        for node in _environment.parse(text).body:
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


def _fill(value: Any, columns: Mapping[str, Any]) -> Any:
    if isinstance(value, jinja2.Template):
        text = value.render(columns)
        if why := unwritable(text):
            raise TemplateFault(f"what the template makes {why}")
        return text
    if isinstance(value, dict):
        return {k: _fill(v, columns) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, columns) for v in value]
    return value
