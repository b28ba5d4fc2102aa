"""Chat completions: an answer as it is read from a body. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from ..core import Answer, AttemptError, Ending, Usage
from . import classify
from .chat_message import calls_of, content_of, not_read, unknown_text, usage
from .chat_stream import Stream, raise_errors
from .event_stream import are_events
from .finish_reasons import NO_WORDS, ended, ending_of
from .loose_json import decode
from .route import Receipt

_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: None = None
    function_call: None = None
    refusal: None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    error: None = None


_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=2**62)] | None
_Dollars = Annotated[float, msgspec.Meta(ge=0, lt=1e9)] | None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = None
    reasoning_tokens: _Tokens = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Tokens = None
    completion_tokens: _Tokens = None
    total_tokens: _Tokens = None
    cache_read_input_tokens: _Tokens = None
    cache_creation_input_tokens: _Tokens = None
    reasoning_tokens: _Tokens = None
    cost: _Dollars = None
    estimated_cost: _Dollars = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Completion(msgspec.Struct, gc=False):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: _Usage
    model: str | None = None
    provider: str | None = None
    error: None = None


_decode_regular = msgspec.json.Decoder(_Completion).decode


def regular(raw: bytes, receipt: Receipt) -> Answer | None:
    """What :func:`read` gives, for an answer as nearly all are; ``None`` for any other. Takes a fifth of the time."""
    if b"\n" in raw:
        return None
    try:
        data = _decode_regular(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    choice, counts = data.choices[0], data.usage
    message, native = choice.message, choice.native_finish_reason
    if not message.content or message.content.isspace() or (native is not None and ending_of(native) == "again"):
        return None
    total, cached, reasoning = counts.total_tokens, counts.cache_read_input_tokens, counts.reasoning_tokens
    if total is None and counts.prompt_tokens is not None and counts.completion_tokens is not None:
        total = counts.prompt_tokens + counts.completion_tokens
    if cached is None and counts.prompt_tokens_details is not None:
        cached = counts.prompt_tokens_details.cached_tokens
    if reasoning is None and counts.completion_tokens_details is not None:
        reasoning = counts.completion_tokens_details.reasoning_tokens
    used = Usage(
        counts.prompt_tokens, counts.completion_tokens, total, cached, counts.cache_creation_input_tokens, reasoning,
        counts.estimated_cost if counts.cost is None else counts.cost,
    )  # fmt: skip
    return Answer(
        message.content, message.reasoning_content or message.reasoning, None, choice.finish_reason, data.model, used,
        raw, receipt.http_status, receipt.latency_s, receipt.ttft_s, receipt.request_id, data.provider,
    )  # fmt: skip


def answer(raw: bytes, receipt: Receipt, max_tokens: int | None = None, own: Mapping[str, Ending] = NO_WORDS) -> Answer:
    """The answer that the body of a 2xx holds, be it a completion or, unasked, the events of one. ``max_tokens`` is the limit
    of the request, ``own`` are words of the endpoint for how an answer ends.

    :raises AttemptError: if there is none, or it broke off.
    """
    found = regular(raw, receipt)
    if found is None:
        data, whole = decode(raw)
        if data is None and are_events(raw):
            data = _put_together(raw, receipt.http_status)
            whole = _encode(data)
        found = of_object(data, whole, receipt)
    return found if found.finish_reason == "stop" and not own else ended(found, max_tokens, own)


def _put_together(raw: bytes, http_status: int) -> dict[str, Any]:
    """The completion that the events of a whole stream come to.

    :raises AttemptError: if it is not complete, or carries an error.
    """
    stream = Stream(http_status)
    try:
        stream.take_all(raw)
    except AttemptError:
        if not stream.is_complete:
            raise
    if not stream.is_complete:
        raise classify.cut_short("the stream ended before the answer was complete", raw, http_status)
    return stream.completion()


def of_object(data: dict[str, Any] | None, raw: bytes, receipt: Receipt) -> Answer:
    """As :func:`read`, of whatever was decoded.

    :raises AttemptError: if there is no answer in it.
    """
    status = receipt.http_status
    if data is None:
        raise classify.not_json(raw, status)
    raise_errors(data, raw, status)
    found = read(data, raw, receipt)
    if found is None:
        raise classify.empty("the answer has no choices", raw, status)
    has_any = found.content or found.reasoning or found.tool_calls or found.refusal
    if not has_any and (place := unknown_text(data["choices"][0], "choices[0]")):
        raise classify.unknown_shape(not_read(place), raw, status)
    return found


def read(data: dict[str, Any], raw: bytes, receipt: Receipt) -> Answer | None:
    """The answer a completion holds; ``None`` if it has no choice with a message.

    Lenient on purpose: an answer that was paid for is not thrown away because a field beside it has an odd type.
    """
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return None
    message = next((choice[name] for name in ("message", "delta") if choice.get(name) is not None), None)
    if message is None and isinstance(choice.get("text"), str):
        message = {"content": choice["text"]}
    if not isinstance(message, dict):
        return None
    content, reasoning, refusal = content_of(message)
    calls = calls_of(message) or message.get("tool_calls")
    return Answer(
        content=content,
        reasoning=reasoning,
        tool_calls=_encode(calls).decode() if calls else None,
        finish_reason=_string(choice.get("finish_reason")),
        model=_string(data.get("model")),
        usage=usage(data.get("usage")),
        response=_encode(data) if b"\n" in raw else raw,
        http_status=receipt.http_status,
        latency_s=receipt.latency_s,
        ttft_s=receipt.ttft_s,
        request_id=receipt.request_id,
        deployment=_string(data.get("provider")),
        refusal=refusal or None,
    )


def _string(value: Any) -> str | None:
    return None if value is None else str(value)


def usage_of(raw: bytes) -> Usage | None:
    """What a body says it took that holds no whole answer; ``None`` if it does not say."""
    data = decode(raw)[0] or {}
    if not data and are_events(raw):
        stream = Stream()
        with contextlib.suppress(AttemptError):
            stream.take_all(raw)
        return stream.usage
    return usage(data["usage"]) if isinstance(data.get("usage"), dict) else None
