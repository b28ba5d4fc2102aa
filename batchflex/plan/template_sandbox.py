"""What Jinja2 is to the templates of prompts: sandboxed and strict. Nothing becomes text but data, and a null does not."""

from __future__ import annotations

import datetime
import decimal
import functools
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any, NoReturn

import jinja2
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils
import jinja2.visitor
import msgspec

from . import file_filters
from .file_filters import Files


class NullUsed(jinja2.TemplateRuntimeError):
    pass


class Null(jinja2.Undefined):
    """A null in a template: false, equal to ``none``, not ``defined``, and an error where its text would be needed."""

    __slots__ = ()

    def __init__(self, place: str) -> None:
        super().__init__(hint=place, exc=NullUsed)

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(None)

    __str__ = __repr__ = __iter__ = __len__ = jinja2.Undefined._fail_with_undefined_error


class _Missing(jinja2.StrictUndefined):
    """What is not there; nor has it a text inside of a list."""

    __slots__ = ()
    __repr__ = jinja2.Undefined._fail_with_undefined_error


class TextMade(jinja2.TemplateRuntimeError):
    """Text was to be made of what has none."""


class _Opaque:
    """A function, a method, an iterator or another object of the template's own. It can be called, gone through and asked, but no
    text can be made of it, by whatever filter or operator."""

    __slots__ = ("name", "value")

    def __init__(self, value: Any, name: str) -> None:
        self.value, self.name = value, name

    def _refuse(self, *_: object) -> NoReturn:
        if isinstance(self.value, _GONE_THROUGH) and not isinstance(self.value, _OWN):
            raise TextMade("makes text of a sequence; end it with | join(', '), | list or | length")
        if callable(self.value) and self.name:
            raise TextMade(f"makes text of {self.name!r}, which is a function; call it: {self.name}(…)")
        raise TextMade(f"makes text of what is no data ({self.name or type(self.value).__name__})")

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
        return held(self.value[item])

    def __eq__(self, other: object) -> bool:
        return bool(self.value == _bare(other))

    def __hash__(self) -> int:
        return hash(self.value)


class _Namespace(jinja2.utils.Namespace):
    """That of a template, which has no text."""

    def __repr__(self) -> str:
        raise TextMade("makes text of a namespace; name what is in it")


_DATA = (
    str, int, float, bool, bytes, list, dict, tuple, set, frozenset, decimal.Decimal, datetime.date, datetime.time,
    datetime.timedelta, jinja2.Undefined, _Namespace, _Opaque, Files,
)  # fmt: skip
_NO_TEXT: tuple[Any, ...] = (object.__repr__, object.__str__)
_GONE_THROUGH = (Iterator, KeysView, ValuesView, ItemsView, range)
_OWN = (jinja2.runtime.LoopContext, jinja2.runtime.Macro, jinja2.runtime.TemplateReference, jinja2.runtime.Context)


def held(value: Any, name: str = "") -> Any:
    """The value; what is no data so that no text can be made of it."""
    if value is None or isinstance(value, _DATA):
        return value
    kind = type(value)
    says_nothing = kind.__repr__ in _NO_TEXT and kind.__str__ in _NO_TEXT
    is_code = callable(value) or isinstance(value, _GONE_THROUGH + _OWN) or says_nothing
    return _Opaque(value, name) if is_code else value


def _bare(value: Any) -> Any:
    return value.value if isinstance(value, _Opaque) else value


AN_EXPRESSION = "an expression"


def _finalize(value: Any) -> Any:
    if value is None:  # of an expression: the nulls of columns are Null
        raise NullUsed(AN_EXPRESSION)
    return value.marks if isinstance(value, Files) else value


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=lambda inner: None if isinstance(inner, Null) else str(inner)).decode()


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """One in which whatever is looked up, called or filtered comes back as :func:`held` gives it."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return held(super().getattr(_bare(obj), attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return held(super().getitem(_bare(obj), argument), argument if isinstance(argument, str) else "")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        return held(super().call(__context, _bare(__obj), *args, **kwargs))


def _filter(made: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(made)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        return held(made(*args, **kwargs))

    return filtered


environment = _Environment(
    undefined=_Missing,
    finalize=_finalize,
    keep_trailing_newline=True,
    autoescape=False,  # prompts are no HTML: nothing is escaped
)
environment.filters |= {"tojson": _to_json, **file_filters.FILTERS}
del environment.filters["random"], environment.globals["lipsum"]
environment.filters = {name: _filter(made) for name, made in environment.filters.items()} | {"_held": held}
environment.globals["namespace"] = _Namespace
environment.globals = {name: _Opaque(value, name) for name, value in environment.globals.items()}
environment.tests["none"] = lambda value: value is None or isinstance(value, Null)
environment.tests["callable"] = lambda value: callable(_bare(value))
# To be asked which names a template does not set itself, those of globals among them.
naming = environment.overlay()
naming.globals = {}
SELF, SELF_COLUMN = "self", "_self_column"


class Rewriting(jinja2.visitor.NodeTransformer):
    """Makes a template look for data before methods of the same name, and hold what it has made itself as :func:`held` does.
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
        if node.name == SELF and not self._has_blocks:
            return jinja2.nodes.Name(SELF_COLUMN, "load", lineno=node.lineno)
        if node.name in self._own or node.name == SELF:
            return jinja2.nodes.Filter(
                node, "_held", [jinja2.nodes.Const(node.name)], [], None, None, lineno=node.lineno
            )
        return node
