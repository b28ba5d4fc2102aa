"""JSON as servers write it, also where it is not quite that. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode


def object_of(raw: bytes | str) -> dict[str, Any]:
    """A JSON object; an empty one if it is none."""
    try:
        found = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def decode(raw: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """A JSON object and the bytes that say it; ``None`` if it is none.

    Where strict JSON ends (half of a surrogate pair, bytes that are no UTF-8, ``NaN``, control characters in a string), the odd
    place is replaced by ``?``, U+FFFD, ``null`` or the escape, in the bytes too: it cost as much as any other answer.
    """
    try:
        data = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            loose = json.loads(raw.decode("utf-8-sig", "replace"), parse_constant=lambda _: None, strict=False)
            raw = json.dumps(loose, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            data = _decode(raw)
        except (ValueError, RecursionError):
            return None, raw
    return (data if isinstance(data, dict) else None), raw
