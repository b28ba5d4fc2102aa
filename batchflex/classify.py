"""What a failed attempt means: the only place that decides it.

Pure functions of status, headers, body and the wall clock passed in. The table is the provider's reference joined with
what OpenAI-compatible servers are seen to do:

======================================================  =============================================
400, 413, 422 and other 4xx                             the row is final
401, 403                                                the run stops: the key
402, or any status with code ``insufficient_quota``     the run stops: the credit
404, 400 with code ``model_not_found``                  the run stops: the model, or the URL
3xx, 405                                                the run stops: the URL
429, or a 5xx whose body carries the code of one        wait; costs no attempt
408, 409, 425, 500                                      transient; final for the row if it persists
502, 503, 504, 52x and every other 5xx                  transient; the endpoint's fault if it persists
======================================================  =============================================
"""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from .errors import AttemptError, Deferred, RateLimited, RowFault, RunFault, StopReason, Transient
from .events import brief, named
from .ratelimit import refused_by

_CREDIT = {"insufficient_quota", "insufficient_credits", "billing_hard_limit_reached"}
_NO_MODEL = {"model_not_found", "model_not_exist"}
_RATE = {"429", "rate_limit_exceeded", "rate_limit_error", "throttling_error"}
_ROW_BLAMED = {408, 409, 425, 500}
_GAVE_UP_WAITING = {408, 504}  # somebody on the way did; the model may have gone on
_KEPT_BODY = 64 << 10


def http_fault(status: int, headers: Mapping[str, str], body: bytes, now: float) -> AttemptError:
    """The error that an answer other than a completion stands for.

    ``headers`` must be case-insensitive or lower-case. ``now`` is the wall clock in seconds since the epoch.
    """
    message, kind, code = describe(body)
    message = message or f"HTTP {status} without a message"
    facts: dict[str, Any] = {
        "error_type": kind or f"http_{status}",
        "error_code": code,
        "http_status": status,
        "body": body[:_KEPT_BODY],
        "retry_after_s": retry_after(headers, now),
    }
    names = {str(name).lower() for name in (kind, code) if name is not None}
    if status == 402 or names & _CREDIT:
        return RunFault(message, **facts).because("credit")
    if status in (401, 403):
        return RunFault(message, **facts).because("key")
    if names & _NO_MODEL and status in (400, 404, 422):
        return RunFault(message, **facts).because("model")
    if status in (404, 405) or 300 <= status < 400:
        if status < 400:
            to = headers.get("location", "nowhere")
            message = f"the endpoint redirects to {to}, which is not followed: {message}"
        named_model = status == 404 and "model" in message.lower()
        return RunFault(message, **facts).because("model" if named_model else "url")
    if status == 429 or (status >= 500 and names & _RATE):
        return RateLimited(message, **facts).by(*refused_by(headers, message, kind, code))
    if 400 <= status < 500 and status not in _ROW_BLAMED:
        return RowFault(message, **facts)
    fault = Transient(message, **facts)
    fault.billed = status in _GAVE_UP_WAITING
    return fault.blamed_on("row") if status in _ROW_BLAMED else fault


def describe(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, type and code of an error body, however the server words it; the text of an HTML page."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _plain(body), None, None
    if isinstance(data, list) and data:  # some gateways wrap the error in a list
        data = data[0]
    if not isinstance(data, dict):
        return str(data)[:500], None, None
    error = data.get("error") or data
    if isinstance(error, str):
        return error[:2000], None, None
    if not isinstance(error, dict):
        return str(error)[:500], None, None
    message = error.get("message") or error.get("detail") or error.get("msg") or ""
    if not isinstance(message, str):
        message = msgspec.json.encode(message).decode()
    kind, code = error.get("type"), error.get("code")
    return message[:2000], None if kind is None else str(kind), None if code is None else str(code)


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


def cut_short(message: str, body: bytes | None = None, status: int | None = None) -> Transient:
    """A broken connection, a body that ends early, or one that is not what it says it is."""
    return _billed(Transient(message, error_type="bad_answer", http_status=status, body=body and body[:_KEPT_BODY]))


def empty(message: str, body: bytes, status: int) -> Transient:
    """A well-formed answer that answers nothing: asked again, but the endpoint works."""
    fault = Transient(message, error_type="empty_answer", http_status=status, body=body[:_KEPT_BODY])
    return _billed(fault.blamed_on("row"))


def unreachable(message: str) -> Transient:
    return Transient(message, error_type="connect")


def timed_out(message: str) -> Transient:
    return _billed(Transient(message, error_type="timeout"))


def too_often(fault: RateLimited) -> RowFault:
    """A rate limit that refuses one row again and again while others pass: the row does not fit into it."""
    return RowFault(fault.message, **_facts(fault))


def deferred(fault: AttemptError) -> Deferred:
    """A fault of the endpoint, as the row sees it that waits for the endpoint to work again."""
    return Deferred(fault.message, **_facts(fault))


def is_time_out(fault: AttemptError) -> bool:
    """Whether the answer was not waited for any longer, here and not by the server."""
    return fault.http_status is None and fault.error_type == "timeout"


def is_of_row(fault: AttemptError) -> bool:
    """Whether it is the row that is at fault, and the endpoint works."""
    return isinstance(fault, RowFault) or (isinstance(fault, Transient) and fault.blame == "row")


def _billed(fault: Transient) -> Transient:
    fault.billed = True
    return fault


def _facts(fault: AttemptError) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in ("error_type", "error_code", "http_status", "body", "request_id")}


_ADVICE: dict[StopReason, tuple[str, str]] = {
    "key": ("the endpoint refuses the key", "set a valid key"),
    "credit": ("the credit is spent", "top up"),
    "model": (
        "the endpoint does not have the model",
        "correct params.model or --model; `batchflex check` lists what there is",
    ),
    "url": ("there are no chat completions at this address", "correct the base URL; it mostly ends in /v1"),
}


def unquoted(fault: AttemptError) -> str:
    """What went wrong, without the server's words."""
    return brief(fault.http_status, fault.error_type, fault.error_code, fault.message)


def facts(fault: AttemptError) -> dict[str, Any]:
    """What is known of a failure, for a log."""
    names = ("http_status", "error_type", "error_code", "request_id")
    return named({name: getattr(fault, name) for name in names})


def advice(fault: RunFault, *, with_key: bool, quoting: bool = True) -> str:
    """A sentence for whoever runs the job. ``with_key`` tells whether a key was sent. Without ``quoting`` it has none of the
    server's words."""
    what, todo = _ADVICE[fault.reason]
    if fault.reason == "key" and not with_key:
        what, todo = (
            "the endpoint wants a key, and none was sent",
            "set BATCHFLEX_API_KEY (a file .env beside the job file will do), or name a variable with --api-key-env",
        )
    said = f": {fault.message} (HTTP {fault.http_status})" if quoting else f" ({unquoted(fault)})"
    return f"{what}{said}; {todo}"


def error_inside(data: dict[str, Any], raw: bytes, status: int, now: float) -> AttemptError | None:
    """The error that a 200, or an event of a stream, carries in its body; ``None`` if it carries none.

    It means what the same error means with the status that it names, 500 if it names none; ``http_status`` is the
    ``status`` that came with it.
    """
    error = data.get("error")
    if not error:
        return None
    code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
    told = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500
    fault = http_fault(told, {}, raw, now)
    fault.http_status = status
    fault.billed = True  # it had begun to answer
    return fault
