"""What an error body says, however the server words it. Pure."""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from .failure_rules import OVER_LIMIT
from .loose_json import object_of

# Characters of a message that are searched for words: what it repeats of a request mostly comes later.
_SEARCHED = 600


class ErrorBody(NamedTuple):
    """What an error body says. ``names`` are all codes and types in it, in lower case; ``words`` are matched by rules."""

    message: str
    kind: str | None = None
    code: str | None = None
    names: frozenset[str] = frozenset()
    words: str = ""
    again_s: float | None = None


def read(body: bytes) -> ErrorBody:
    """However the server words it; the text of an HTML page."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _in_words(_plain(body))
    if isinstance(data, list) and data:  # some gateways wrap the error in a list
        data = data[0]
    if not isinstance(data, dict):
        return _in_words(str(data)[:500])
    error = data.get("error") or data
    while isinstance(error, dict) and "message" not in error and isinstance(error.get("error"), dict):
        error = error["error"]  # some wrap it in itself
    if isinstance(error, str):
        return _in_words(error[:2000], data)
    if not isinstance(error, dict):
        return _in_words(str(error)[:500])
    given = error.get("message") or error.get("detail") or error.get("msg") or ""
    message = given if isinstance(given, str) else msgspec.json.encode(given).decode()
    kind, code = error.get("type"), error.get("code")
    metadata, status = error.get("metadata"), data.get("base_resp")
    if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str):  # a gateway's upstream has the words
        message = f"{message}: {metadata['raw']}"
    elif not message and isinstance(status, dict):  # MiniMax
        message, code = str(status.get("status_msg") or ""), status.get("status_code")
    said = _in_words(message[:2000] if isinstance(given, str) else "; ".join(_complaints(given)), error)
    return said._replace(
        message=message[:2000], kind=None if kind is None else str(kind), code=None if code is None else str(code)
    )


def _in_words(message: str, error: Mapping[str, Any] | None = None) -> ErrorBody:
    words = message[:_SEARCHED]
    if error is not None and str(error.get("param") or "").startswith("response_format"):
        words = f"response_format: {words}"
    names = set(_codes(error or {}))
    if (found := _REQUESTED.search(message)) and _number(found["requested"]) > _number(found["limit"]):
        names.add(OVER_LIMIT)
    return ErrorBody(message, names=frozenset(names), words=words, again_s=_again_in(message, error or {}))


def _codes(error: Mapping[str, Any]) -> Iterator[str]:
    """Whatever stands for a code or a type, at the depth at which servers have them."""
    for name in ("type", "code", "status", "reason", "error_type"):
        if isinstance(error.get(name), str | int):
            yield str(error[name]).lower()
    if error.get("flagged_input"):
        yield "flagged_input"
    for name in ("innererror", "metadata", "provider_specific_fields"):
        if isinstance(error.get(name), dict):
            yield from _codes(error[name])
    details = error.get("details")
    for each in details if isinstance(details, list) else ():
        if isinstance(each, dict):
            yield from _codes(each)


def _complaints(given: Any) -> Iterator[str]:
    """The words of a validator, without the values that it repeats."""
    for each in given if isinstance(given, list) else [given]:
        if isinstance(each, dict):
            where = each.get("loc")
            place = ".".join(map(str, where)) + ": " if isinstance(where, list) else ""
            yield place + " ".join(str(each[name]) for name in ("msg", "message", "error") if name in each)
        elif isinstance(each, str):
            yield each


_REQUESTED = re.compile(r"limit:? (?P<limit>[\d,]+)[^.]{0,60}\brequested:? (?P<requested>[\d,]+)", re.IGNORECASE)
_AGAIN = re.compile(
    r"(?:try again|retry)(?: (?:after|in))? (?:(?P<m>\d+)m)?(?P<n>\d+(?:\.\d+)?)(?![\d:-]) ?(?P<unit>ms|s|m|h)?",
    re.IGNORECASE,
)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
RATE_WORDS = re.compile(r"per[ -]?(second|minute)", re.IGNORECASE)


def _number(digits: str) -> int:
    return int(digits.replace(",", "") or "0")


def _again_in(message: str, error: Mapping[str, Any]) -> float | None:
    """Seconds until the next try, as the message has it."""
    if found := _AGAIN.search(message):
        seconds = float(found["n"]) * _UNIT_S[(found["unit"] or "s").lower()] + 60.0 * int(found["m"] or 0)
        return seconds if seconds < 1e9 else None
    details = error.get("details")
    delays = [each.get("retryDelay") for each in details if isinstance(each, dict)] if isinstance(details, list) else []
    return next((_float(delay.rstrip("s")) for delay in delays if isinstance(delay, str)), None)


def _plain(body: bytes) -> str:
    text = re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", body[:8192].decode("utf-8", "replace"))
    return re.sub(r"\s+", " ", text).strip()[:300]


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait as the server asks, from ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date)."""
    if (millis := _float(headers.get("retry-after-ms"))) is not None:
        return max(0.0, millis / 1000)
    given = headers.get("retry-after")
    if given is None:
        return None
    if (seconds := _float(given)) is not None:
        return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(given)
        if date.tzinfo is None:  # HTTP dates are in GMT, whether they say so or not
            date = date.replace(tzinfo=datetime.UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _float(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < 1e9 else None


def fields_named(body: bytes) -> list[str]:
    """The fields of the request that an error names."""
    data = object_of(body)
    error = data.get("error", data)
    if not isinstance(error, dict):
        return []
    found = [error["param"]] if isinstance(error.get("param"), str) else []
    details = error.get("detail")
    for detail in details if isinstance(details, list) else ():
        loc = detail.get("loc") if isinstance(detail, dict) else None
        found += [str(loc[1])] if isinstance(loc, list) and len(loc) > 1 and loc[0] == "body" else []
    return found
