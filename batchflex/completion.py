"""Chat completions: reading one, and putting a stream of chunks together into one. Pure."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec

from .model import Answer, Usage

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_BUILT = {"object", "choices", "usage"}  # fields of a chunk that the whole answer has in another shape


class Stream:
    """Chunks of one streamed answer, put together into the shape of an unstreamed one.

    Only the choice with index 0 is kept: a request has one answer. What has an odd type is passed over.
    """

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._call_at: dict[int | None, dict[str, Any]] = {}  # by the server's index, the call it continues
        self._logprobs: list[Any] = []
        self._usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None

    def feed(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; true if it brought something of the answer itself."""
        for name, value in chunk.items():
            if value is not None and name not in _BUILT:
                self._head[name] = value
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        brought = False
        for choice in _dicts(chunk.get("choices")):
            if choice.get("index"):
                continue
            if isinstance(choice.get("usage"), dict):  # some servers put it here
                self._usage = choice["usage"]
            if choice.get("finish_reason") is not None:
                self.finish_reason = str(choice["finish_reason"])
            logprobs = choice.get("logprobs")
            if isinstance(logprobs, dict):
                self._logprobs += _dicts(logprobs.get("content"))
            delta = choice.get("delta")
            if isinstance(delta, dict):
                brought = self._take(delta) or brought
        return brought

    def _take(self, delta: dict[str, Any]) -> bool:
        brought = False
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        for text, into in (
            (delta.get("content"), self._text),
            (reasoning, self._reasoning),
            (delta.get("refusal"), self._refusal),
        ):
            said = _text(text) if isinstance(text, str | list) else None
            if said:
                into.append(said)
                brought = True
        for call in _dicts(delta.get("tool_calls")):
            self._take_call(call)
            brought = True
        return brought

    def _take_call(self, delta: dict[str, Any]) -> None:
        # Some servers leave the index out, some give every call the index 0: then an id of its own begins a new call.
        index = delta["index"] if isinstance(delta.get("index"), int) else None
        ident = delta.get("id")
        call = self._call_at.get(index)
        if call is None or (ident and call["id"] and ident != call["id"]):
            call = next((c for c in self._calls if ident and c["id"] == ident), None)
            if call is None:
                call = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
                self._calls.append(call)
            self._call_at[index] = call
        for field in ("id", "type"):
            if delta.get(field):
                call[field] = delta[field]
        function, into = delta.get("function"), call["function"]
        if not isinstance(function, dict):
            return
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and name != into["name"]:  # some servers repeat it
            into["name"] += name
        if isinstance(arguments, str):
            into["arguments"] += arguments
        elif arguments is not None:
            into["arguments"] = _encode(arguments).decode()

    def completion(self) -> dict[str, Any]:
        """The answer as an unstreamed request would have given it."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text) if self._text else None}
        if not self._text and not self._calls and not self._refusal:
            message["content"] = ""
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._refusal:
            message["refusal"] = "".join(self._refusal)
        if self._calls:
            message["tool_calls"] = self._calls
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def decode(raw: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """A JSON object and the bytes that say it; ``None`` if it is none.

    Where strict JSON ends (half of a surrogate pair, bytes that are no UTF-8, ``NaN``), the odd place is replaced by
    ``?``, U+FFFD or ``null``, in the bytes too: it cost as much as any other answer.
    """
    try:
        data = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            loose = json.loads(raw.decode("utf-8-sig", "replace"), parse_constant=lambda _: None)
            raw = json.dumps(loose, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            data = _decode(raw)
        except (ValueError, RecursionError):
            return None, raw
    return (data if isinstance(data, dict) else None), raw


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str | None = None


_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=2**62)] | None


_Dollars = Annotated[float, msgspec.Meta(ge=0, lt=1e9)] | None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = None


class _CompletionDetails(msgspec.Struct, gc=False):
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
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Completion(msgspec.Struct, gc=False):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: _Usage
    model: str | None = None
    provider: str | None = None
    error: None = None


_decode_regular = msgspec.json.Decoder(_Completion).decode


def regular(raw: bytes, *, http_status: int, latency_s: float, request_id: str | None = None) -> Answer | None:
    """What :func:`read` gives, for an answer as nearly all are; ``None`` for any other. A fifth of the time."""
    if b"\n" in raw:
        return None
    try:
        data = _decode_regular(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    choice, counts = data.choices[0], data.usage
    message = choice.message
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
        raw, http_status, latency_s, None, request_id, data.provider,
    )  # fmt: skip


def read(
    data: dict[str, Any],
    raw: bytes,
    *,
    http_status: int,
    latency_s: float,
    ttft_s: float | None,
    request_id: str | None = None,
) -> Answer | None:
    """The answer a completion holds; ``None`` if it has no choice with a message.

    Lenient on purpose: an answer that was paid for is not thrown away because a field beside it has an odd type.
    """
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return None
    calls = message.get("tool_calls")
    if b"\n" in raw:
        raw = _encode(data)
    return Answer(
        content=_text(message.get("content")),
        reasoning=_text(message.get("reasoning_content") or message.get("reasoning")),
        tool_calls=_encode(calls).decode() if calls else None,
        finish_reason=_string(choice.get("finish_reason")),
        model=_string(data.get("model")),
        usage=usage(data.get("usage")),
        response=raw,
        http_status=http_status,
        latency_s=latency_s,
        ttft_s=ttft_s,
        request_id=request_id,
        deployment=_string(data.get("provider")),
    )


def _text(value: Any) -> str | None:
    """A message's content: a string, or what a list of parts says, or the JSON of anything else."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        return "".join(p["text"] for p in value)
    return _encode(value).decode()


def _string(value: Any) -> str | None:
    return None if value is None else str(value)


def usage(value: Any) -> Usage:
    """Token counts under the names of any server: OpenAI nests cached and reasoning tokens in details."""
    if not isinstance(value, dict):
        return Usage()
    prompt_details, completion_details = value.get("prompt_tokens_details"), value.get("completion_tokens_details")
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    total = _count(value.get("total_tokens"))
    if total is None and prompt is not None and completion is not None:
        total = prompt + completion
    cached = _count(value.get("cache_read_input_tokens"))
    if cached is None and isinstance(prompt_details, dict):
        cached = _count(prompt_details.get("cached_tokens"))
    reasoning = _count(value.get("reasoning_tokens"))
    if reasoning is None and isinstance(completion_details, dict):
        reasoning = _count(completion_details.get("reasoning_tokens"))
    cost = _dollars(value.get("cost"))
    if cost is None:
        cost = _dollars(value.get("estimated_cost"))
    created = _count(value.get("cache_creation_input_tokens"))
    return Usage(prompt, completion, total, cached, created, reasoning, cost)


def _dollars(value: Any) -> float | None:
    if isinstance(value, dict):  # some break it down
        value = value.get("total_cost")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return None
    return float(value)


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**62:
        return None
    return int(value)
