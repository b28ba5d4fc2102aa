"""What the headers of an answer say of rate limits, in every notation that servers use. Pure.

Names: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` (OpenAI and most others), the same without ``-requests``, and
without ``x-`` (the IETF's draft). A reset is a Unix time (seconds or milliseconds), an ISO 8601 time, a duration as Go writes it
(``6m0s``, ``120ms``), or plain seconds.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_STEP = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_UNIX_S, _UNIX_MS = 1e8, 1e11
_PREFIXES = ("x-ratelimit-", "ratelimit-")


class Level(NamedTuple):
    """One quota: units a window, units left, and seconds until the window (or the bucket) is as good as new."""

    limit: float | None
    remaining: float | None
    reset_s: float | None


class Told(NamedTuple):
    requests: Level | None
    tokens: Level | None


def read(headers: Mapping[str, str], now: float) -> Told | None:
    """``headers`` must be case-insensitive or lower-case; ``now`` is the wall clock, in seconds since the epoch.

    What cannot be understood is taken for not said.
    """
    requests = _level(headers, "-requests", now) or _level(headers, "", now)
    tokens = _level(headers, "-tokens", now)
    return Told(requests, tokens) if requests or tokens else None


def _level(headers: Mapping[str, str], unit: str, now: float) -> Level | None:
    for prefix in _PREFIXES:
        limit = _number(headers.get(f"{prefix}limit{unit}"))
        remaining = _number(headers.get(f"{prefix}remaining{unit}"))
        if limit is not None or remaining is not None:
            return Level(limit or None, remaining, _reset_s(headers.get(f"{prefix}reset{unit}"), now))
    return None


def _number(text: str | None) -> float | None:
    # "100, 100;w=60" is a list of policies, of which the first holds now.
    try:
        value = float(text.split(",")[0].split(";")[0]) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _reset_s(text: str | None, now: float) -> float | None:
    if not text:
        return None
    text = text.strip()
    number = _number(text)
    if number is not None:
        if number > _UNIX_MS:
            return max(0.0, number / 1000 - now)
        return max(0.0, number - now) if number > _UNIX_S else number
    if text and not _STEP.sub("", text):
        return sum(float(count) * _UNITS[unit] for count, unit in _STEP.findall(text))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else max(0.0, moment.timestamp() - now)
