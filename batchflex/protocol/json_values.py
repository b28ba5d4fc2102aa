"""What of a value can stand in a job file and in the JSON of a request. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_DEEPEST = 64
HALF = "holds half a character (a lone surrogate)"
_HALVES = re.compile(r"[\ud800-\udfff]")


def unwritable(value: Any, depth: int = 0) -> str | None:
    """Why a value can stand in no job file or no JSON request; ``None`` if it can stand in both."""
    if isinstance(value, str):
        return HALF if not value.isascii() and _HALVES.search(value) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else "is a whole number of more than 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"holds {value}, which JSON does not have"
    if value is None:
        return "holds a null, which a job file cannot; leave the key out"
    if depth >= _DEEPEST:
        return f"is nested more than {_DEEPEST} deep"
    if isinstance(value, dict):
        odd = [name for name in value if not isinstance(name, str)]
        if odd:
            return f"holds a key that is no text: {odd[0]!r:.80}"
        return next((why for part in (*value, *value.values()) if (why := unwritable(part, depth + 1))), None)
    if isinstance(value, list):
        return next((why for part in value if (why := unwritable(part, depth + 1))), None)
    return f"holds a {type(value).__name__}, which JSON does not have; write it in quotes"


def halves_in(tables: Any, place: str = "") -> Iterator[str]:
    """The places of texts that hold half a character; of such a key that of its table."""
    if isinstance(tables, str):
        if _HALVES.search(tables):
            yield place
    elif isinstance(tables, Mapping):
        for key, value in tables.items():
            if isinstance(key, str) and _HALVES.search(key):
                yield place
            else:
                yield from halves_in(value, f"{place}.{key}" if place else str(key))
    elif isinstance(tables, list):
        for number, value in enumerate(tables):
            yield from halves_in(value, place if isinstance(value, str) else f"{place}.{number}")
