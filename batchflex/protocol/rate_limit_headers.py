"""What the headers of an answer, and the words of a refusal, say of rate limits, in every notation that servers use. Pure.

Names of headers: ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` (OpenAI and most others), the same without
``-requests``, with a period after it (``-requests-day``), and without ``x-`` (the IETF's draft); ``x-ratelimit-DESCRIPTOR-…``
where a proxy tells whose limit it is (LiteLLM: ``api_key``, ``team``, …), of ``max_parallel_requests`` too;
``anthropic-ratelimit-requests-limit`` and its like. A reset is a Unix time (seconds or milliseconds), an ISO 8601 time, a
duration as Go writes it (``6m0s``, ``120ms``), or plain seconds.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from ..core import LimitKind

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_STEP = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_UNIX_S, _UNIX_MS = 1e8, 1e11
_PERIODS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_WINDOW_S = 60.0  # of a limit with a descriptor and without a reset, as LiteLLM's
_NAMES = [
    re.compile(
        r"(?:x-)?ratelimit-(?:(?P<whose>[a-z][a-z0-9_]*)-)?(?P<part>limit|remaining|reset)"
        r"(?:-(?P<unit>requests|req|tokens|max[_-]parallel[_-]requests|concurrent[_-]requests|concurrency)"
        r"(?:-(?P<period>second|minute|hour|day))?)?"
    ),
    re.compile(r"anthropic-ratelimit-(?P<unit>requests|tokens)-(?P<part>limit|remaining|reset)(?P<whose>)(?P<period>)"),
]
_KINDS: dict[str, LimitKind] = {"": "requests", "req": "requests", "requests": "requests", "tokens": "tokens"}

_AT_A_TIME = re.compile(
    r"max[_ ]parallel[_ ]requests?|(?:concurrent|parallel|simultaneous)\W+(?:\w+\W+)?(?:request|connection|session|call|job)"
    r"|concurrency|并发",
    re.IGNORECASE,
)
_A_RATE = re.compile(r"\b[rt]p[ms]\b|[rt]pm[_ ]limit|per (?:second|minute|min|hour|day)|/min\b", re.IGNORECASE)
_OF_TOKENS = re.compile(r"\btokens?\b.{0,40}\bper (?:min|day|hour)|\btpm\b|\btoken rate limit", re.IGNORECASE)
_OF_REQUESTS = re.compile(
    r"\brequests?\b.{0,40}\bper (?:min|sec|day|hour)|\brpm\b|\brequests? rate limit", re.IGNORECASE
)
_TYPE_NAMED = re.compile(r"limit type: *(\w+)", re.IGNORECASE)
_HOW_MANY = [
    re.compile(r"\blimit(?: is| of)?[:=]? *(\d{1,5})\b", re.IGNORECASE),
    re.compile(r"\bconcurrency(?: limit)?(?: is| of)?[:=]? *\(?(\d{1,5})\b", re.IGNORECASE),
    re.compile(r"\b(\d{1,5}) (?:concurrent|parallel|simultaneous)\b", re.IGNORECASE),
    re.compile(r"\bmax_parallel_requests[:=]? *(\d{1,5})\b", re.IGNORECASE),
]
_CODES_AT_A_TIME = {"1302", "concurrency_limit_exceeded", "too_many_concurrent_requests"}


class Level(NamedTuple):
    """One quota: units a window, units left, and seconds until the window (or the bucket) is as good as new.

    ``window_s`` is how long a window is, where the header's name says so.
    """

    limit: float | None
    remaining: float | None
    reset_s: float | None
    window_s: float | None = None


class RateLimits(NamedTuple):
    """The quotas of one ``descriptor`` (empty: it does not say whose they are): requests and tokens in each window, and how many
    requests may be in flight. ``further`` are those of other descriptors in the same answer."""

    requests: Level | None
    tokens: Level | None
    in_flight: Level | None = None
    descriptor: str = ""
    further: tuple[RateLimits, ...] = ()


class Limited(NamedTuple):
    """Which limit has refused a request, as far as that was said, and for a limit on what is in flight how many may be."""

    kind: LimitKind | None = None
    limit: int | None = None


def read(headers: Mapping[str, str], now: float) -> RateLimits | None:
    """``headers`` must be case-insensitive or lower-case; ``now`` is the wall clock, in seconds since the epoch.

    What cannot be understood is taken for not said.
    """
    found: dict[str, dict[LimitKind, dict[str, str]]] = {}
    windows: dict[str, float] = {}
    for name, text in headers.items():
        if "ratelimit" not in name:
            continue
        match = next((match for pattern in _NAMES if (match := pattern.fullmatch(name.lower()))), None)
        if match is None:
            continue
        unit, whose, period = (match[group] or "" for group in ("unit", "whose", "period"))
        descriptor = whose or period
        if period or whose:
            windows[descriptor] = _PERIODS_S.get(period, _WINDOW_S)
        parts = found.setdefault(descriptor, {}).setdefault(_KINDS.get(unit, "in_flight"), {})
        # "-requests" is said more exactly than nothing.
        if unit or match["part"] not in parts:
            parts[match["part"]] = text
    limits = []
    for descriptor, kinds in found.items():
        levels = {kind: _level(parts, now, windows.get(descriptor)) for kind, parts in kinds.items()}
        if any(levels.values()):
            limits.append(RateLimits(levels.get("requests"), levels.get("tokens"), levels.get("in_flight"), descriptor))
    if not limits:
        return None
    first, *others = sorted(limits, key=_share_left)
    return first._replace(further=tuple(others))


def _share_left(limits: RateLimits) -> float:
    levels = [level for level in limits[:3] if level is not None and level.limit and level.remaining is not None]
    return min(((level.remaining or 0.0) / (level.limit or 1.0) for level in levels), default=1.0)


def _level(parts: Mapping[str, str], now: float, window_s: float | None) -> Level | None:
    limit, remaining = _number(parts.get("limit")), _number(parts.get("remaining"))
    if limit is None and remaining is None:
        return None
    return Level(limit or None, remaining, _reset_s(parts.get("reset"), now), window_s)


def refused_by(headers: Mapping[str, str], message: str, kind: str | None, code: str | None) -> Limited:
    """Which limit a refusal is about. ``kind`` and ``code`` are the error's own type and code, ``message`` its words."""
    named = _TYPE_NAMED.search(message)
    said = (headers.get("rate_limit_type") or (named[1] if named else "") or kind or "").lower()
    if said in ("requests", "tokens"):
        return Limited("requests" if said == "requests" else "tokens")
    at_a_time = _AT_A_TIME.search(message) is not None and not _A_RATE.search(message)
    if _AT_A_TIME.search(said) or (code or "").lower() in _CODES_AT_A_TIME or at_a_time:
        return Limited("in_flight", _how_many(headers, message))
    of_tokens, of_requests = _OF_TOKENS.search(message), _OF_REQUESTS.search(message)
    if (of_tokens is None) == (of_requests is None):
        return Limited()
    return Limited("tokens" if of_tokens else "requests")


def _how_many(headers: Mapping[str, str], message: str) -> int | None:
    limits = read(headers, 0.0)
    counts = [each.in_flight.limit for each in (limits, *limits.further) if each.in_flight] if limits else []
    numbers = [int(count) for count in counts if count]
    if not numbers:
        numbers = [int(match[1]) for pattern in _HOW_MANY if (match := pattern.search(message))][:1]
    return min((number for number in numbers if number >= 1), default=None)


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
