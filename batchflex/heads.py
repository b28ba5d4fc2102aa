"""What the headers of an answer tell at a glance: the id that the server gave the request, and what to look at closer. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

# By which a server's people find a request again. That of the server itself comes before that of what stands in front.
_IDS = (b"x-request-id", b"request-id", b"x-amzn-requestid", b"cf-ray")
_RANK = {name: rank for rank, name in enumerate(_IDS)}
_SANE = re.compile(rb"[!-~]{1,128}")


class Glance(NamedTuple):
    """``request_id`` is at most 128 printable characters of ASCII, without spaces; what is no such id is none."""

    request_id: str | None
    tells_limits: bool


def glance(headers: Sequence[tuple[bytes, bytes]]) -> Glance:
    """One pass over the headers, whose names may be in any case."""
    best, found, tells = len(_IDS), b"", False
    for name, value in headers:
        name = name.lower()
        if name in _RANK:
            if _RANK[name] < best and _SANE.fullmatch(value):
                best, found = _RANK[name], value
        elif b"ratelimit" in name:
            tells = True
    return Glance(found.decode("ascii") if found else None, tells)
