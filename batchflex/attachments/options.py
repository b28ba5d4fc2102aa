"""How a template asks for a file: the kinds of use and their options. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..core import AttachmentKind

_SMALLEST_SIDE, _LARGEST_SIDE = 16, 16_384
_MOST_CHARS = 1_000_000
_DETAILS = ("auto", "low", "high")
_PAGES = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")


class Use(NamedTuple):
    """What a template wants of the file at a ``path``, which may be a URL. ``options`` are those that were given, by name."""

    kind: AttachmentKind
    path: str
    options: tuple[tuple[str, str | int], ...] = ()

    def option(self, name: str) -> str | int | None:
        return dict(self.options).get(name)


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low:,} to {high:,}")
        return value

    return check


def _detail(value: Any) -> str:
    if value not in _DETAILS:
        raise ValueError("'low', 'high' or 'auto'")
    return str(value)


def _pages(value: Any) -> str:
    """``"1-3,7"``; the pages of a document are counted from 1."""
    text = str(value).replace(" ", "")
    if isinstance(value, bool) or not _PAGES.fullmatch(text) or not page_ranges(text):
        raise ValueError("pages such as '1-3' or '1,4-6', counted from 1")
    return text


def _encoding(value: Any) -> str:
    try:
        b"x".decode(value, "replace")
        return codecs.lookup(value).name
    except (LookupError, TypeError, ValueError):
        raise ValueError("an encoding such as 'cp1252'") from None


_OPTIONS: Mapping[AttachmentKind, Mapping[str, Callable[[Any], str | int]]] = {
    "image": {"max_side": _whole(_SMALLEST_SIDE, _LARGEST_SIDE), "detail": _detail},
    "pdf_text": {"max_chars": _whole(1, _MOST_CHARS), "pages": _pages},
    "file_text": {"max_chars": _whole(1, _MOST_CHARS), "encoding": _encoding},
}
KINDS = tuple(_OPTIONS)


def checked(
    kind: AttachmentKind, given: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[tuple[str, str | int], ...]:
    """The options of a use, by name, without those that are null. The first may be given without its name.

    :raises ValueError: with a sentence, if one is not known or its value is not allowed.
    """
    known = _OPTIONS[kind]
    if len(given) > 1:
        raise ValueError(f"{kind} takes one option without its name; it has {', '.join(known)}")
    wanted = {**dict(zip(known, given, strict=False)), **named}
    found = []
    for name, value in sorted(wanted.items()):
        if name not in known:
            raise ValueError(f"{kind} has no option {name!r}; it has {', '.join(known)}")
        if value is None:
            continue
        try:
            found.append((name, known[name](value)))
        except ValueError as error:
            raise ValueError(f"{name} of {kind} must be {error}; found {value!r:.60}") from None
    return tuple(found)


def page_ranges(text: str) -> list[range]:
    """The ranges of pages that a text names, from 0; empty if one has no page."""
    found = []
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        pages = range(int(first) - 1, int(last or first))
        if pages.start < 0 or not pages:
            return []
        found.append(pages)
    return found
