"""What a failed attempt means: the only place that decides it.

Pure functions of status, headers, body and the wall clock passed in. The first rule of :data:`RULES` that fits decides. They
stand in the order of their evidence: a specific code or type, specific words, a generic type, the status. What a rule means:

==============  ========================================================================================
``credit``      the run stops: no request gets through until somebody pays, or raises a budget
``key``         the run stops: the key is refused
``model``       nothing more is sent to this model; when no other is left, the run stops
``url``         the run stops: there are no chat completions at this address
``wait``        a rate limit: waited for, costs no attempt
``not_ready``   the endpoint is starting: waited for as in an outage, also before anything was answered
``row``         the row is final
``filtered``    the row is final: it was refused for its content
``again``       transient; if it persists, the endpoint's fault, or the row's (408, 409, 425, 500)
==============  ========================================================================================
"""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from .errors import (
    AttemptError,
    Deferred,
    Filtered,
    NotReady,
    RateLimited,
    RowFault,
    RunFault,
    StopReason,
    Transient,
)  # fmt: skip
from .events import brief, named

Means = Literal["credit", "key", "model", "url", "wait", "not_ready", "row", "filtered", "again"]

_ROW_BLAMED = {408, 409, 425, 500}
_GAVE_UP_WAITING = {408, 504}  # somebody on the way did; the model may have gone on
_KEPT_BODY = 64 << 10
_SEARCHED = (
    600  # characters of a message in which words are looked for: what it repeats of a request mostly comes later
)

_ANY = range(100, 1000)
_CLIENT = frozenset(range(400, 500)) - {429}
_INVALID = frozenset({400, 422})
_SERVER = range(500, 1000)


class Rule(NamedTuple):
    """Fits if all that it names is there: one of the ``names`` as a code or type (in lower case), the ``words`` in the message,
    the status among ``statuses``, and if ``timed`` a time to try again, in a header or in words."""

    name: str
    means: Means
    statuses: Container[int] = _ANY
    names: frozenset[str] = frozenset()
    words: re.Pattern[str] | None = None
    timed: bool = False


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_OVER_LIMIT = "requested_over_limit"  # what a single request asks for is more than the limit: no wait helps
_CREDIT_WORDS = _words(
    r"budget has been exceeded", r"exceeded ?budget", r"over (\d+\w* )?budget", r"crossed budget", r"api usage limits",
    r"credit balance is too low",
    r"exceeded your current quota", r"exceeded your monthly", r"insufficient[ _](account )?(balance|credits?|quota|funds)",
    r"billing_not_active", r"account is not active, please check your billing", r"more credits", r"out of credits?\b",
    r"used all available credits", r"spend(ing)? limit", r"payment required", r"credit limit exceeded", r"key limit exceeded",
    r"in good standing", r"overdue[- ]payment", r"余额不足", r"欠费",
)  # fmt: skip

RULES: tuple[Rule, ...] = (
    # ------------------------------------------------------------------------------------ a specific code or type
    Rule("too_large_code", "row", names=_names(
        f"{_OVER_LIMIT} context_length_exceeded contextwindowexceedederror context_window_exceeded string_above_max_length "
        "request_too_large tokens_limit_reached exceed_context_size_error"
    )),
    Rule("filtered_code", "filtered", frozenset({*_CLIENT, *_SERVER}), _names(
        "content_filter content_policy_violation contentpolicyviolationerror responsibleaipolicyviolation moderation_blocked "
        "content_moderation data_inspection_failed datainspectionfailed invalid_prompt flagged_input prompt_blocked "
        "content_blocked guardrail_intervened"
    )),
    Rule("credit_code", "credit", names=_names(
        "insufficient_quota insufficient_credits insufficient_balance insufficient_user_quota insufficient_funds "
        "billing_hard_limit_reached billing_not_active budget_exceeded exceeded_current_quota_error arrearage out_of_credits "
        "credits_exhausted"
    )),
    Rule("key_code", "key", frozenset({*_CLIENT, *_SERVER}), _names(
        "invalid_api_key incorrect_api_key api_key_invalid token_not_found_in_db no_db_connection expired_key key_expired "
        "api_key_expired token_expired account_deactivated invalidapikey"
    )),
    Rule("model_denied_code", "model", _CLIENT, _names(
        "key_model_access_denied team_model_access_denied user_model_access_denied org_model_access_denied "
        "project_model_access_denied model_access_denied"
    )),
    Rule("model_code", "model", _CLIENT, _names(
        "model_not_found model_not_exist invalid_model model_decommissioned unsupported_model deploymentnotfound "
        "unknown_model modelnotfound"
    )),
    Rule("not_ready_code", "not_ready", frozenset({425, *_SERVER}), _names("model_loading model_not_ready loading_model")),
    # ---------------------------------------------------------------------------------------------- specific words
    Rule("too_large_words", "row", frozenset(_ANY) - {401, 402, 403}, words=_words(
        r"request too large", r"context ?window ?exceeded", r"maximum context length", r"exceeds? the (available )?context size",
        r"context (length|window|size) (is |was )?exceed", r"exceed\w*[^.]{0,40}\bcontext (length|window|size)",
        r"(prompt|input) is too long", r"exceeds the (maximum|max|limit)\b[^.]{0,60}\btokens",
        r"reduce the length of the messages",
    )),
    Rule("filtered_words", "filtered", frozenset({*_CLIENT, *_SERVER}), words=_words(
        r"content management policy", r"content[ _]policy", r"contentpolicyviolation", r"content exists risk",
        r"violat\w+ (our |the )?(usage|content|safety) (guideline|polic)", r"prohibited content", r"inappropriate content",
        r"\b(input|prompt|content|message|request|text)s? (was|were|has been|is|got) (flagged|blocked)",
        r"(requires|failed|content) moderation", r"rejected (by|as a result of) (our|the) safety system", r"敏感内容", r"不安全",
    )),
    Rule("credit_words_with_a_time", "wait", frozenset(_ANY) - {402}, words=_CREDIT_WORDS, timed=True),
    Rule("credit_words", "credit", words=_CREDIT_WORDS),
    Rule("model_denied_words", "model", _CLIENT, words=_words(
        r"not allowed to access (this )?model", r"can only access models", r"model\b.{0,80}\bnot available for this (api )?key",
        r"(does not|doesn't|do not) have access to (the )?model",
    )),
    Rule("model_words", "model", _CLIENT - {401}, words=_words(
        r"invalid model name", r"(no such|unknown|unsupported) model\b", r"\bmodel not (found|exist)", r"not a valid model",
        r"\bmodel\b[^.]{0,80}\b(does not exist|not found|is not found|has been decommissioned|is not supported by this endpoint)",
        r"no endpoints found (for|matching) ",
    )),
    Rule("key_words", "key", _CLIENT, words=_words(
        r"(invalid|incorrect|malformed|missing) (api|proxy server|authentication) ?(key|token)", r"api[ _]key (is )?not valid",
        r"(key|token) (has |is )?expired", r"expired (api )?(key|token)", r"no connected db",
    )),
    Rule("format_refused", "row", _INVALID, words=_words(
        r"response[_ ]format", r"json_schema", r"structured outputs?", r"json mode",
    )),
    Rule("not_ready_words", "not_ready", frozenset({425, *_SERVER}), words=_words(
        r"loading (the )?model", r"model\b.{0,100}\b(is|being|still) (currently |still |being )*load(ing|ed)", r"\bis loading\b",
        r"warm(ing)?[- ]?up", r"\bis (still )?(starting|initiali[sz]ing)\b", r"starting up",
        r"(model|server|engine) (is )?not ready", r"cold start",
    )),
    # ---------------------------------------------------------------------------------------------- a generic type
    Rule("rate_type", "wait", frozenset({400, 403, 429, *_SERVER}), _names(
        "429 rate_limit_exceeded rate_limit_error rate_limit ratelimiterror throttling_error throttling too_many_requests "
        "resource_exhausted all_deployments_in_cooldown"
    )),
    Rule("overloaded_type", "again", frozenset({400, 403, 500}), _names(
        "overloaded_error overloaded engine_overloaded engine_overloaded_error server_overloaded unavailable_error"
    )),
    Rule("key_type", "key", _INVALID, _names("authentication_error auth_error unauthenticated invalid_authentication_error")),
    # -------------------------------------------------------------------------------------------------- the status
    Rule("status", "credit", frozenset({402})),
    Rule("status", "key", frozenset({401, 403})),
    Rule("status", "model", frozenset({404}), words=_words("model")),
    Rule("status", "url", frozenset({404, 405, *range(300, 400)})),
    Rule("status", "wait", frozenset({429})),
    Rule("status", "again", frozenset(_ROW_BLAMED)),
    Rule("status", "row", range(400, 500)),
    Rule("status", "again"),
)  # fmt: skip


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
            return RateLimited(message, **facts)
        case "row":
            return RowFault(message, **facts)
        case "filtered":
            return Filtered(message, **facts)
        case "not_ready":
            return NotReady(message, **facts)
    fault = Transient(message, **facts)
    fault.billed = status in _GAVE_UP_WAITING
    is_of_row = status in _ROW_BLAMED and rule.name == "status"
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
        names.add(_OVER_LIMIT)
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


def unreachable(message: str) -> Transient:
    return Transient(message, error_type="connect", rule="connect")


def timed_out(message: str) -> Transient:
    return _billed(Transient(message, error_type="timeout", rule="timeout"))


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
    names = ("error_type", "error_code", "http_status", "body", "request_id", "rule")
    return {name: getattr(fault, name) for name in names}


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
    names = ("http_status", "error_type", "error_code", "request_id", "rule")
    return named({name: getattr(fault, name) for name in names})


def advice(fault: RunFault, *, with_key: bool, quoting: bool = True) -> str:
    """A sentence for whoever runs the job. ``with_key`` tells whether a key was sent. Without ``quoting`` it has none of the
    server's words."""
    what, todo = _ADVICE[fault.reason]
    if (fault.rule or "").startswith("model_denied"):
        what = "the endpoint does not let this key use the model"
        todo = (
            "name another in params.model or --model (`batchflex check` lists those there are), or have the key allowed"
        )
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
    if not error and not data.get("choices"):  # some have the words where the answer should be
        base = data.get("base_resp")
        is_error = data.get("object") == "error" or (isinstance(data.get("message"), str) and "code" in data)
        error = data if is_error else base if isinstance(base, dict) and base.get("status_code") else None
    if not error or (data.get("choices") and _is_success(error)):
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
    told = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500
    fault = http_fault(told, {}, raw, now)
    fault.http_status = status
    fault.billed = True  # it had begun to answer
    return fault


def _is_success(error: Any) -> bool:
    """Whether what stands in the place of an error says that there is none."""
    if not isinstance(error, dict):
        return False
    code, message = (str(error.get(name) or "").strip().lower() for name in ("code", "message"))
    return code in ("", "0", "200", "ok", "success") and message in ("", "ok", "success")


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
