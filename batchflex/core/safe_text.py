"""Makes text that came from elsewhere fit for a terminal, a log or a page. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .redact import each_text

_LONGEST = 500
# What a terminal obeys, what changes the direction of text, and what is invisible. The joiners of scripts and emoji are spared.
_INVISIBLE = "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
_UNPRINTABLE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_INVISIBLE}\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def printable(text: str) -> str:
    """The text with a sign (``␛``, ``�``) for what a terminal would obey or not show. Line breaks and tabs stay."""
    return text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub(_sign_for, text)


def one_line(text: str, most: int = _LONGEST) -> str:
    """The same in one line of at most ``most`` characters, with a space for line breaks and control characters."""
    text = printable(_CONTROL.sub(" ", text).strip())
    return text if len(text) <= most else f"{text[:most]}…"


def _sign_for(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"


def json_line(data: object, enc_hook: Callable[[Any], Any] | None = None) -> bytes:
    """JSON in one line, in which what :func:`printable` would replace is escaped, so that it can be shown as it is. Half of a
    surrogate pair, which JSON cannot say, is ``�``."""
    import msgspec

    try:
        encoded = msgspec.json.encode(data, enc_hook=enc_hook)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(
            each_text(msgspec.to_builtins(data, enc_hook=enc_hook), _whole), enc_hook=enc_hook
        )
    return printable_json(encoded)


def printable_json(encoded: bytes) -> bytes:
    """JSON, with what :func:`printable` would replace escaped."""
    if encoded.isascii() and b"\x7f" not in encoded:  # below a space msgspec escapes by itself
        return encoded
    text = encoded.decode("utf-8", "replace")
    return _UNPRINTABLE.sub(lambda found: _in_json(found[0]), text).encode()


def _in_json(character: str) -> str:
    pairs = character.encode("utf-16-be")
    return "".join(f"\\u{pairs[at : at + 2].hex()}" for at in range(0, len(pairs), 2))


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
