"""What a failed attempt means: the only place that decides it, by the table in :mod:`batchflex.protocol.failure_rules`.

Pure functions of status, headers, body and the wall clock passed in.
"""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..core import (  # fmt: skip
    AttemptError,
    Deferred,
    Filtered,
    KeyReplaced,
    Message,
    NotReady,
    RateLimited,
    RowFault,
    RunFault,
    StopReason,
    Transient,
    brief,
    named,
)
from .failure_rules import OF_REQUEST, OVER_LIMIT, ROW_BLAMED, RULES, Rule
from .rate_limit_headers import refused_by

F = TypeVar("F", bound=AttemptError)

_GAVE_UP_WAITING = {408, 504}  # somebody on the way did; the model may have gone on
_KEPT_BODY = 64 << 10
PROXY = "proxy"
KEY_COMMAND = "endpoint.api_key_command"
_NO_KEY = f"{KEY_COMMAND} gives no key"
# Characters of a message in which words are looked for: what it repeats of a request mostly comes later.
_SEARCHED = 600


class _Said(NamedTuple):
    """What an error body says. ``names`` are all codes and types in it, in lower case; ``words`` those that rules look at."""

    message: str
    kind: str | None = None
    code: str | None = None
    names: frozenset[str] = frozenset()
    words: str = ""
    again_s: float | None = None


def http_fault(status: int, headers: Mapping[str, str], body: bytes, now: float) -> AttemptError:
    """The error that an answer other than a completion stands for.

    ``headers`` must be case-insensitive or lower-case. ``now`` is the wall clock in seconds since the epoch.
    """
    said = _read(body)
    wait_s = retry_after(headers, now)
    again_s = said.again_s if wait_s is None else wait_s
    rule = next(
        rule
        for rule in RULES
        if _fits(rule, status, said, timed=again_s is not None or _A_RATE.search(said.words) is not None)
    )
    message = said.message or f"HTTP {status} without a message"
    if 300 <= status < 400:
        message = f"the endpoint redirects to {headers.get('location', 'nowhere')}, which is not followed: {message}"
    facts: dict[str, Any] = {
        "error_type": said.kind or f"http_{status}",
        "error_code": said.code,
        "http_status": status,
        "body": body[:_KEPT_BODY],
        "retry_after_s": again_s if rule.means == "wait" else wait_s,
        "rule": f"status_{status}" if rule.name == "status" else rule.name,
    }
    match rule.means:
        case "credit" | "key" | "model" | "url":
            return RunFault(message, **facts).because(rule.means)
        case "wait":
            return RateLimited(message, **facts).by(*refused_by(headers, message, said.kind, said.code))
        case "row":
            return RowFault(message, **facts)
        case "filtered":
            return Filtered(message, **facts)
        case "not_ready":
            return NotReady(message, **facts)
    fault = Transient(message, **facts)
    fault.billed = status in _GAVE_UP_WAITING
    is_of_row = status in ROW_BLAMED and rule.name == "status"
    return fault.blamed_on("row") if is_of_row else fault


def _fits(rule: Rule, status: int, said: _Said, *, timed: bool) -> bool:
    return (
        status in rule.statuses
        and (not rule.names or not rule.names.isdisjoint(said.names))
        and (rule.words is None or rule.words.search(said.words) is not None)
        and (timed or not rule.timed)
    )


def describe(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, type and code of an error body, however the server words it; the text of an HTML page."""
    return _read(body)[:3]


def _read(body: bytes) -> _Said:
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


def _in_words(message: str, error: Mapping[str, Any] | None = None) -> _Said:
    words = message[:_SEARCHED]
    if error is not None and str(error.get("param") or "").startswith("response_format"):
        words = f"response_format: {words}"
    names = set(_codes(error or {}))
    if (found := _REQUESTED.search(message)) and _number(found["requested"]) > _number(found["limit"]):
        names.add(OVER_LIMIT)
    return _Said(message, names=frozenset(names), words=words, again_s=_again_in(message, error or {}))


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
_A_RATE = re.compile(r"per[ -]?(second|minute)", re.IGNORECASE)


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


def cut_short(message: str, body: bytes | None = None, status: int | None = None) -> Transient:
    """A broken connection, a body that ends early, or one that is not what it says it is."""
    body = body and body[:_KEPT_BODY]
    return _billed(Transient(message, error_type="bad_answer", http_status=status, body=body, rule="bad_answer"))


def empty(message: str, body: bytes, status: int) -> Transient:
    """A well-formed answer that answers nothing: asked again, but the endpoint works."""
    kept = body[:_KEPT_BODY]
    fault = Transient(message, error_type="empty_answer", http_status=status, body=kept, rule="empty_answer")
    return _billed(fault.blamed_on("row"))


def too_large(message: str, status: int) -> RowFault:
    """An answer that is larger than ``endpoint.max_answer_mb``: so would the next one be."""
    fault = RowFault(message, error_type="answer_too_large", http_status=status)
    fault.billed = True
    return fault


def unreachable(message: str) -> Transient:
    return _unsent(Transient(message, error_type="connect", rule="connect"))


def no_key(why: str) -> RunFault:
    """The command that is to give the key gives none."""
    return _unsent(RunFault(f"{_NO_KEY}: {why}", error_type="api_key_command").because("key"))


def proxy_refuses(message: str, status: int | None) -> RunFault:
    """What a proxy answers in place of the endpoint: it wants other credentials, or leads nowhere. ``message`` is a sentence."""
    fault = RunFault(message, error_type=PROXY, http_status=status)
    return fault.because("key" if status == 407 else "url")


def timed_out(message: str) -> Transient:
    return _billed(Transient(message, error_type="timeout", rule="timeout"))


def of_row(fault: AttemptError) -> RowFault:
    """What others are not refused for is the row's: a rate limit that lets them pass, a model that answers them."""
    return RowFault(fault.message, **_facts(fault))


def deferred(fault: AttemptError) -> Deferred:
    """A fault of the endpoint, as the row sees it that waits for the endpoint to work again."""
    return Deferred(fault.message, **_facts(fault))


def key_replaced(fault: AttemptError) -> KeyReplaced:
    """A refusal of a key, where another is there to be sent."""
    return KeyReplaced(fault.message, **_facts(fault))


def is_time_out(fault: AttemptError) -> bool:
    """Whether the answer was not waited for any longer, here and not by the server."""
    return fault.http_status is None and fault.error_type == "timeout"


def is_of_row(fault: AttemptError) -> bool:
    """Whether it is the row that is at fault, and the endpoint works."""
    return isinstance(fault, RowFault) or (isinstance(fault, Transient) and fault.blame == "row")


def is_about_request(fault: AttemptError) -> bool:
    """Whether the server's words are about what this request has in it, and not about who asks: it was read.

    They speak of its length, its content or its format, as rules know it; or they name a field of the body other than the model
    (``param``, or a place as FastAPI has it).
    """
    if isinstance(fault, RowFault) and (fault.rule in OF_REQUEST or fault.http_status == 413):
        return True
    return any(name not in ("", "model", "None", "null") for name in _fields(fault.body or b""))


def _fields(body: bytes) -> list[str]:
    """The fields of the request that an error names."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    error = data.get("error", data) if isinstance(data, dict) else None
    if not isinstance(error, dict):
        return []
    found = [error["param"]] if isinstance(error.get("param"), str) else []
    details = error.get("detail")
    for detail in details if isinstance(details, list) else ():
        loc = detail.get("loc") if isinstance(detail, dict) else None
        found += [str(loc[1])] if isinstance(loc, list) and len(loc) > 1 and loc[0] == "body" else []
    return found


def _unsent(fault: F) -> F:
    fault.sent = False
    return fault


def _billed(fault: Transient) -> Transient:
    fault.billed = True
    return fault


def _facts(fault: AttemptError) -> dict[str, Any]:
    names = ("error_type", "error_code", "http_status", "body", "request_id", "rule")
    return {name: getattr(fault, name) for name in names}


_ADVICE: dict[StopReason, tuple[str, str]] = {
    "key": ("the endpoint refuses the key", ""),
    "credit": ("the credit is spent", "top up"),
    "model": (
        "the endpoint does not have the model",
        "correct params.model, sweep.model or --model; `batchflex check` lists what there is",
    ),
    "url": ("there are no {} at this address", "correct the base URL; it mostly ends in /v1"),
}


def silence(fault: AttemptError, tried: int) -> Message:
    """A sentence on an endpoint of which nothing whole has come: after ``tried`` attempts at one row it failed likewise to answer
    a request for one token."""
    begins = fault.http_status is not None and 200 <= fault.http_status < 300
    what = "gives no whole answer" if begins else "does not answer"
    return f"the endpoint {what}: " + why(fault) + f" (after {tried} attempts at one row)"


def why(fault: AttemptError) -> Message:
    """What went wrong, in the server's words where it said any."""
    return Message(fault.message, unquoted(fault))


def told(fault: AttemptError, more: str = "") -> Message:
    """As :func:`why`, to follow what was made of it: in the server's words after a colon, else in brackets."""
    return Message(f": {fault.message}{more}", f" ({unquoted(fault)})")


def unquoted(fault: AttemptError) -> str:
    """What went wrong, without the server's words."""
    return brief(fault.http_status, fault.error_type, fault.error_code, fault.message)


def facts(fault: AttemptError) -> dict[str, Any]:
    """What is known of a failure, for a log."""
    names = ("http_status", "error_type", "error_code", "request_id", "rule")
    return named({name: getattr(fault, name) for name in names})


def advice(fault: RunFault, *, key_from: str | None) -> Message:
    """A sentence for whoever runs the job. ``key_from`` is where the key came from, ``None`` if none was sent."""
    if fault.error_type == "api_key_command":
        return Message(fault.message, _NO_KEY) + "; run that command by hand to see why"
    if fault.error_type == PROXY:
        return Message.of(fault.message)
    head, todo = _ADVICE[fault.reason]
    if (fault.rule or "").startswith("model_denied"):
        head = "the endpoint does not let this key use the model"
        todo = "name another in params.model, sweep.model or --model (`batchflex check` lists them), or have the key allowed"
    if fault.reason == "key" and key_from is not None:
        is_printed = key_from == KEY_COMMAND
        todo = f"the key came from {key_from}: {'see that it prints a valid key' if is_printed else 'set a valid key there'}"
    elif fault.reason == "key":
        head = "the endpoint wants a key, and none was sent"
        todo = "set BATCHFLEX_API_KEY (a file .env beside the job file will do), or name a variable with --api-key-env"
    return head.format(fault.what) + told(fault, f" (HTTP {fault.http_status})") + f"; {todo}"


def error_inside(data: dict[str, Any], raw: bytes, status: int, now: float) -> AttemptError | None:
    """The error that a 200, or an event of a stream, carries in its body; ``None`` if it carries none.

    It means what the same error means with the status that it names, 500 if it names none; ``http_status`` is the
    ``status`` that came with it.
    """
    error = data.get("error")
    if not error and not data.get("choices"):  # some have the words where the answer should be
        base = data.get("base_resp")
        is_error = data.get("object") == "error" or (isinstance(data.get("message"), str) and "code" in data)
        error = data if is_error else base if isinstance(base, dict) and base.get("status_code") else None
    if not error or _is_success(error):
        return None
    return _inside(error, raw, status, now)


def error_of_choice(error: Any, status: int, now: float) -> AttemptError | None:
    """The same of an error beside the choice in which an answer broke off: never the row's for the status that it names."""
    if not error or _is_success(error):
        return None
    raw = msgspec.json.encode({"error": error})
    fault = _inside(error, raw, status, now)
    if isinstance(fault, RowFault) and (fault.rule or "").startswith("status_"):
        return broke_off(fault.message, raw, status)
    return fault


def _inside(error: Any, raw: bytes, status: int, now: float) -> AttemptError:
    code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
    means = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500
    fault = http_fault(means, {}, raw, now)
    fault.http_status = status
    fault.billed = True  # it had begun to answer
    return fault


def _is_success(error: Any) -> bool:
    """Whether what stands in the place of an error says that there is none."""
    if not isinstance(error, dict):
        return False
    code, message = error.get("code"), str(error.get("message") or "").strip().lower()
    if message not in ("", "ok", "success"):
        return False
    if code is None and not message:
        return not any(error.values())
    return str(code if code is not None else 0).strip().lower() in ("0", "200", "ok", "success")


def broke_off(message: str, body: bytes, status: int) -> Transient:
    """An answer that ended before it was whole, as its server says: asked again, but the endpoint works."""
    fault = Transient(
        message, error_type="broken_answer", http_status=status, body=body[:_KEPT_BODY], rule="finish_reason"
    )
    return _billed(fault.blamed_on("row"))


def unknown_shape(message: str, body: bytes, status: int) -> RowFault:
    """An answer with text in a place that is not known: asking again would bring the same, and it is paid for."""
    fault = RowFault(
        message, error_type="unknown_shape", http_status=status, body=body[:_KEPT_BODY], rule="unknown_shape"
    )
    fault.billed = True
    return fault
