"""What a failed attempt means: the only place that decides it, by the table in :mod:`batchflex.protocol.failure_rules`.

Pure functions of status, headers, body and the wall clock passed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ..core import (  # fmt: skip
    AttemptError,
    Deferred,
    Filtered,
    KeyReplaced,
    NotReady,
    RateLimited,
    RowFault,
    RunFault,
    Transient,
)
from . import error_body
from .failure_rules import OF_REQUEST, ROW_BLAMED, RULES, Rule
from .rate_limit_headers import refused_by

F = TypeVar("F", bound=AttemptError)

_GAVE_UP_WAITING = {408, 504}  # somebody on the way did; the model may have gone on
_KEPT_BODY = 64 << 10
PROXY = "proxy"
KEY_COMMAND = "endpoint.api_key_command"
NO_KEY = f"{KEY_COMMAND} gives no key"


def http_fault(status: int, headers: Mapping[str, str], body: bytes, now: float) -> AttemptError:
    """The error that an answer other than a completion stands for.

    ``headers`` must be case-insensitive or lower-case. ``now`` is the wall clock in seconds since the epoch.
    """
    said = error_body.read(body)
    wait_s = error_body.retry_after(headers, now)
    again_s = said.again_s if wait_s is None else wait_s
    rule = next(
        rule
        for rule in RULES
        if _fits(rule, status, said, timed=again_s is not None or error_body.RATE_WORDS.search(said.words) is not None)
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


def _fits(rule: Rule, status: int, said: error_body.ErrorBody, *, timed: bool) -> bool:
    return (
        status in rule.statuses
        and (not rule.names or not rule.names.isdisjoint(said.names))
        and (rule.words is None or re.search(rule.words, said.words) is not None)
        and (timed or not rule.timed)
    )


def _no_answer(
    kind: type[F],
    message: str,
    name: str,
    status: int | None = None,
    body: bytes | None = None,
    rule: str | None = None,
) -> F:
    """What came in place of an answer; the endpoint may have worked for it all the same, and charge."""
    fault = kind(message, error_type=name, http_status=status, body=body and body[:_KEPT_BODY], rule=rule)
    fault.billed = True
    return fault


def cut_short(message: str, body: bytes | None = None, status: int | None = None) -> Transient:
    """A broken connection, a body that ends early, or one that is not what it says it is."""
    return _no_answer(Transient, message, "bad_answer", status, body, "bad_answer")


def not_json(body: bytes, status: int) -> Transient:
    """An answer, or an event of one, that is no JSON object."""
    return cut_short(f"the answer is not a JSON object: {error_body.read(body).message}", body, status)


def timed_out(message: str) -> Transient:
    """No answer within the time that there is for one."""
    return _no_answer(Transient, message, "timeout", rule="timeout")


def empty(message: str, body: bytes, status: int) -> Transient:
    """A well-formed answer that answers nothing: sent again, but the endpoint works."""
    return _no_answer(Transient, message, "empty_answer", status, body, "empty_answer").blamed_on("row")


def broke_off(message: str, body: bytes, status: int) -> Transient:
    """An answer that ended before it was whole, as its server says: sent again, but the endpoint works."""
    return _no_answer(Transient, message, "broken_answer", status, body, "finish_reason").blamed_on("row")


def too_large(message: str, status: int) -> RowFault:
    """An answer that is larger than ``endpoint.max_answer_mb``: so would the next one be."""
    return _no_answer(RowFault, message, "answer_too_large", status)


def unknown_shape(message: str, body: bytes, status: int) -> RowFault:
    """An answer with text in a place that is not known: another would be the same, and this one is paid for."""
    return _no_answer(RowFault, message, "unknown_shape", status, body, "unknown_shape")


def unreachable(message: str) -> Transient:
    """No connection: nothing was sent."""
    return _unsent(Transient(message, error_type="connect", rule="connect"))


def unreadable_file(message: str) -> RowFault:
    """A file that cannot be put into its request: nothing was sent. ``message`` is a sentence."""
    return _unsent(RowFault(message, error_type="file"))


def unfetched_file(message: str, after_s: float | None = None) -> Transient:
    """A file of a request that could not be fetched this time: nothing was sent. ``message`` is a sentence."""
    return _unsent(Transient(message, error_type="file", retry_after_s=after_s)).blamed_on("row")


def no_key(why: str) -> RunFault:
    """The command that is to give the key gives none."""
    return _unsent(RunFault(f"{NO_KEY}: {why}", error_type="api_key_command").because("key"))


def proxy_refuses(message: str, status: int | None) -> RunFault:
    """What a proxy answers in place of the endpoint: it wants other credentials, or leads nowhere. ``message`` is a sentence."""
    fault = RunFault(message, error_type=PROXY, http_status=status)
    return fault.because("key" if status == 407 else "url")


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


def maybe_of_a_row(fault: RunFault, *, others_answered: bool) -> bool:
    """Whether a refusal that usually means the run may mean the row, as others were answered: moderation answers 403, and a row
    may itself name a model that is not there."""
    return others_answered and (fault.http_status == 403 or fault.reason in ("model", "url"))


def is_about_request(fault: AttemptError) -> bool:
    """Whether the server's words are about the content of this request, and not about who sends it: it was read.

    They speak of its length, its content or its format, as rules know it; or they name a field of the body other than the model
    (``param``, or a place as FastAPI has it).
    """
    if isinstance(fault, RowFault) and (fault.rule in OF_REQUEST or fault.http_status == 413):
        return True
    return any(name not in ("", "model", "None", "null") for name in error_body.fields_named(fault.body or b""))


def _unsent(fault: F) -> F:
    fault.sent = False
    return fault


def _facts(fault: AttemptError) -> dict[str, Any]:
    names = ("error_type", "error_code", "http_status", "body", "request_id", "rule")
    return {name: getattr(fault, name) for name in names}


def error_inside(data: dict[str, Any], raw: bytes, status: int) -> AttemptError | None:
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
    return _inside(error, raw, status)


def error_of_choice(error: Any, status: int) -> AttemptError | None:
    """The same of an error beside the choice in which an answer broke off: never the row's for the status that it names."""
    if not error or _is_success(error):
        return None
    raw = msgspec.json.encode({"error": error})
    fault = _inside(error, raw, status)
    if isinstance(fault, RowFault) and (fault.rule or "").startswith("status_"):
        return broke_off(fault.message, raw, status)
    return fault


def _inside(error: Any, raw: bytes, status: int) -> AttemptError:
    code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
    means = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500
    fault = http_fault(means, {}, raw, 0.0)  # no header names a time
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
