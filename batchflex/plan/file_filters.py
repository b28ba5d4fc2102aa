"""Filters of templates that put in files: ``{{ photo | image }}``, ``{{ paper | pdf_text }}``, ``{{ notes | file_text }}``. Pure.

A filter makes nothing but a note of what is wanted. In the rendered text that is a mark, which nothing in a row can imitate; then
messages are taken apart at their marks: an image becomes a part of its own, a text stays where it is, as a token
(:mod:`batchflex.attachments.tokens`) in whose place the text comes when the request is sent.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, NoReturn

import jinja2
import jinja2.nodes
import msgspec

from ..attachments import KINDS, Use, checked
from ..core import AttachmentKind

# What stands for a file in a body: a token, or the URL of an image.
Attach = Callable[[Use], str]

_NONCE = f"{secrets.randbelow(10**20):020}"  # of this process; it is in no body
# Digits alone, and hexadecimal ones, which survive a block that changes the case of its text.
_OPEN, _CLOSE = f"\ue000{_NONCE}", "\ue001"
_MARK = re.compile(f"{_OPEN}([0-9a-fA-F]+){_CLOSE}")
_WHERE = "an image can be put only into the text of a message, or as the whole url of an image_url"


class FileMisused(jinja2.TemplateRuntimeError):
    """A file was asked for as it cannot be put in; the text follows "the template"."""


class Files:
    """What a filter makes: the files that are wanted at this place. It can only be put into the text as it is."""

    __slots__ = ("uses",)

    def __init__(self, uses: Iterable[Use]) -> None:
        self.uses = tuple(uses)

    def __bool__(self) -> bool:
        return bool(self.uses)

    def _refuse(self, *_: object) -> NoReturn:
        kind = self.uses[0].kind if self.uses else KINDS[0]
        raise FileMisused(
            f"makes something else of a file: what | {kind} gives is put in when the request is sent, so it has to stand by "
            f"itself, as in {{{{ path | {kind} }}}}"
        )

    __str__ = __repr__ = __format__ = __iter__ = __len__ = __add__ = __radd__ = __contains__ = _refuse

    @property
    def marks(self) -> str:
        return "".join(f"{_OPEN}{msgspec.json.encode(use).hex()}{_CLOSE}" for use in self.uses)


def _filter(kind: AttachmentKind) -> Callable[..., Files]:
    def wanted(value: Any, *given: Any, **named: Any) -> Files:
        try:
            options = checked(kind, given, named)
        except ValueError as error:
            raise FileMisused(f"cannot put in a file: {error}") from None
        return Files(Use(kind, path, options) for path in _paths(value, kind))

    return wanted


FILTERS: dict[str, Callable[..., Files]] = {kind: _filter(kind) for kind in KINDS}


def _paths(value: Any, kind: str) -> Iterator[str]:
    """The paths in a column: one, or a list of them. A null or an empty text is none."""
    if value in (None, ""):
        return
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(inner, kind)
    elif isinstance(value, str) or hasattr(value, "__fspath__"):
        yield str(value).strip()
    else:
        inside = (
            " (what a table itself holds cannot be put in: write it into files)"
            if isinstance(value, dict | bytes)
            else ""
        )
        raise FileMisused(f"wants a path, or a list of them, before | {kind}; found {type(value).__name__}{inside}")


class Wanted(NamedTuple):
    """What the filters of a template are: their kinds, and the columns that they are put after."""

    kinds: frozenset[str]
    columns: frozenset[str]


def wanted(tree: jinja2.nodes.Template) -> Wanted:
    """:raises ValueError: if an option is wrong, as far as that can be told before there is a row."""
    found = [node for node in tree.find_all(jinja2.nodes.Filter) if node.name in FILTERS]
    for node in found:
        try:
            given = tuple(each.as_const() for each in node.args)
            named = {each.key: each.value.as_const() for each in node.kwargs}
        except jinja2.nodes.Impossible:
            continue
        checked(node.name, given, named)  # type: ignore[arg-type]
    columns = {name for node in found if (name := _column(node.node)) is not None}
    return Wanted(frozenset(node.name for node in found), frozenset(columns))


def _column(node: jinja2.nodes.Node | None) -> str | None:
    """The column that ``photo`` or ``row['photo']`` is."""
    if isinstance(node, jinja2.nodes.Name):
        return node.name
    if isinstance(node, jinja2.nodes.Getitem) and isinstance(node.arg, jinja2.nodes.Const):
        return node.arg.value if isinstance(node.arg.value, str) else None
    return None


def put_in(message: dict[str, Any], attach: Attach) -> dict[str, Any]:
    """A rendered message with what ``attach`` gives for its marks.

    :raises FileMisused: if an image stands where there can be none, or nothing is left of it.
    """
    made = {name: _elsewhere(value, attach) for name, value in message.items() if name != "content"}
    content = message.get("content")
    if isinstance(content, str):
        if not content.strip():
            raise FileMisused("leaves a message without any content, as what it puts in is null or empty")
        parts = _parts(content, attach)
        content = parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
    elif isinstance(content, list):
        content = [part for each in content for part in _expanded(each, attach)]
    return {name: content if name == "content" else made[name] for name in message}


def _expanded(part: Any, attach: Attach) -> list[Any]:
    """What becomes of a part of a message's content."""
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        *pieces, last = _parts(part["text"], attach)
        others = {name: value for name, value in part.items() if name not in ("type", "text")}
        return [*pieces, {**last, **others}]  # such as where a cache may end
    return [_elsewhere(part, attach)]


def _parts(text: str, attach: Attach) -> list[dict[str, Any]]:
    """A text taken apart: pieces of text, and images between them. White space alone beside an image is left out."""
    parts: list[dict[str, Any]] = []
    piece, at = "", 0
    for found in _MARK.finditer(text):
        piece += text[at : found.start()]
        at = found.end()
        use = _use(found)
        if use.kind != "image":
            piece += attach(use)
            continue
        image = {"url": attach(use)}
        if (detail := use.option("detail")) is not None:
            image["detail"] = str(detail)
        parts += [{"type": "text", "text": piece}] if piece.strip() else []
        parts.append({"type": "image_url", "image_url": image})
        piece = ""
    piece += text[at:]
    return [*parts, {"type": "text", "text": piece}] if piece.strip() or not parts else parts


def _use(found: re.Match[str]) -> Use:
    return msgspec.json.decode(bytes.fromhex(found[1]), type=Use)


def _elsewhere(value: Any, attach: Attach) -> Any:
    """A value that is no text of a message."""
    if isinstance(value, dict):
        return {name: _elsewhere(inner, attach) for name, inner in value.items()}
    if isinstance(value, list):
        return [_elsewhere(inner, attach) for inner in value]
    if not isinstance(value, str) or _OPEN not in value:
        return value

    def put(found: re.Match[str]) -> str:
        use = _use(found)
        if use.kind == "image" and found[0] != value.strip():
            raise FileMisused(f"puts an image where it cannot be: {_WHERE}")
        return attach(use)

    return _MARK.sub(put, value.strip() if _MARK.fullmatch(value.strip()) else value)
