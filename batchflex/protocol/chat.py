"""Chat completions: reading one, putting a stream of chunks together into one. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from ..core import Answer, AttemptError, Ending, Usage
from . import classify
from .chat_message import calls_of, content_of, dicts, not_read, unknown_text, usage
from .finish_reasons import NO_WORDS, ended, ending_of

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_BUILT = {"object", "choices", "usage"}  # fields of a chunk that the whole answer has in another shape
_BOM = b"\xef\xbb\xbf"
_SIGNS_OF_LIFE = {"ping", "heartbeat", "keepalive", "keep-alive", "processing"}
# ------------------------------------------------------------------------------------------------------------ streams


class Stream:
    """Events of one streamed answer, put together into the shape of an unstreamed one.

    Only one choice is kept, the first that comes: a request has one answer. What has an odd type is passed over.
    """

    def __init__(self, http_status: int = 200) -> None:
        self.http_status = http_status
        self.events = Events()
        self._index: str | None = None
        self._whole: list[str] = []  # texts that stand where a delta is expected: in `message`, or as `text`
        self._message: dict[str, Any] = {}
        self._unknown: str | None = None
        self.done = False
        self._head: dict[str, Any] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._call_at: dict[int | None, dict[str, Any]] = {}  # by the server's index, the call it continues
        self._logprobs: list[Any] = []
        self._usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None

    @property
    def usage(self) -> Usage | None:
        """What it took so far, if that was told."""
        return None if self._usage is None else usage(self._usage)

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer is there: it has a finish reason, or both the usage and the end of the stream came."""
        by_itself = self.done and self._usage is not None and self._index is not None
        return self.finish_reason is not None or by_itself

    def take(self, name: str, data: bytes) -> bool:
        """Take an event; true if it brought something of the answer itself. What comes after ``[DONE]`` is ignored.

        :raises AttemptError: if it carries an error, or is no JSON object.
        """
        text = data.strip()
        if self.done or not text:
            return False
        word = text.strip(b'"')
        if word == b"[DONE]":
            self.done = True
            return False
        if name.lower() in _SIGNS_OF_LIFE or word.strip(b"[]").lower().decode("latin-1") in _SIGNS_OF_LIFE:
            return False
        chunk, raw = decode(text)
        if chunk is None:
            words = f"the answer is not a JSON object: {classify.describe(raw)[0]}"
            raise classify.cut_short(words, raw, self.http_status)
        if name == "error" and "error" not in chunk:
            chunk = {"error": chunk}
            raw = _encode(chunk)
        _heed_errors(chunk, raw, self.http_status)
        return self.feed(chunk)

    def feed(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; true if it brought something of the answer itself."""
        for name, value in chunk.items():
            if value is not None and name not in _BUILT:
                self._head[name] = value
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        brought = False
        for choice in dicts(chunk.get("choices")):
            index = str(choice.get("index") or 0)
            self._index = self._index or index
            if index != self._index:
                continue
            if isinstance(choice.get("usage"), dict):  # some servers put it here
                self._usage = choice["usage"]
            if choice.get("finish_reason"):  # some have "" until there is one
                self.finish_reason = str(choice["finish_reason"])
            logprobs = choice.get("logprobs")
            if isinstance(logprobs, dict):
                self._logprobs += dicts(logprobs.get("content"))
            delta = choice.get("delta")
            here = isinstance(delta, dict) and self._take(delta)
            here = self._take_whole(choice) or here
            if not here and self._unknown is None:
                self._unknown = unknown_text(choice, "choices[0]")
            brought = brought or here
        return brought

    def _take_whole(self, choice: dict[str, Any]) -> bool:
        """What stands in place of a delta: a message, or a text."""
        message, text = choice.get("message"), choice.get("text")
        if isinstance(message, dict):
            self._message = message
            text = content_of(message)[0]
        if not isinstance(text, str) or not text:
            return bool(self._message.get("tool_calls"))
        self._whole.append(text)
        return True

    def _take(self, delta: dict[str, Any]) -> bool:
        brought = False
        if isinstance(delta.get("content"), str | list | None):
            for said, into in zip(content_of(delta), (self._text, self._reasoning, self._refusal), strict=True):
                if said:
                    into.append(said)
                    brought = True
        for call in calls_of(delta):
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
        """The answer as an unstreamed request would have given it.

        :raises RowFault: if there is text in it, and none where it is looked for.
        """
        self._heed_whole()
        if self._unknown is not None and not (self._text or self._reasoning or self._refusal or self._calls):
            raise classify.unknown_shape(not_read(self._unknown), _encode(self._head), self.http_status)
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

    def _heed_whole(self) -> None:
        """Take what came outside of deltas, if nothing came in them. Each such text has all before it in front, or none has."""
        if not self._text and self._whole:
            grows = all(two.startswith(one) for one, two in zip(self._whole, self._whole[1:], strict=False))
            self._text = self._whole[-1:] if grows else self._whole
        if self._message:
            _, reasoning, refusal = content_of(self._message)
            self._reasoning = self._reasoning or [text for text in (reasoning,) if text]
            self._refusal = self._refusal or [text for text in (refusal,) if text]
            self._calls = self._calls or calls_of(self._message)


class Events:
    """Name and data of the events in the bytes of a stream, however these are cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._at_start = True
        self._name, self._data = "", list[bytes]()

    def feed(self, piece: bytes) -> Iterator[tuple[str, bytes]]:
        """Those that have ended with this piece."""
        text = self._rest + piece
        if self._at_start:  # a byte order mark before the first event would hide it
            if _BOM.startswith(text):
                self._rest = text
                return
            self._at_start, text = False, text.removeprefix(_BOM)
        held = b"\r" if text.endswith(b"\r") else b""  # a line feed may follow
        if b"\r" in text:
            text = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._rest = rest + held
        for line in lines:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            elif field == b"event":
                self._name = value.strip().decode("utf-8", "replace")
            elif not line:
                name, data = self._name, self._data
                self._name, self._data = "", []
                if data:
                    yield name, b"\n".join(data)


def _are_events(raw: bytes) -> bool:
    return raw.removeprefix(_BOM).lstrip().startswith((b"data:", b"event:", b":", b"id:"))


def _heed_errors(data: dict[str, Any], raw: bytes, http_status: int) -> None:
    """:raises AttemptError: if there is an error in place of an answer, or beside it."""
    if fault := classify.error_inside(data, raw, http_status, 0.0):
        raise fault
    for choice in dicts(data.get("choices"))[:1]:
        if fault := classify.error_of_choice(choice.get("error"), http_status, 0.0):
            raise fault
        native = choice.get("native_finish_reason")
        if isinstance(native, str) and ending_of(native) == "again":  # which a gateway has translated to "stop"
            raise classify.broke_off(f"the answer broke off: {native!r} at the gateway's upstream", raw, http_status)


# ----------------------------------------------------------------------------------------------------- whole answers


def decode(raw: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """A JSON object and the bytes that say it; ``None`` if it is none.

    Where strict JSON ends (half of a surrogate pair, bytes that are no UTF-8, ``NaN``, control characters in a string), the odd
    place is replaced by ``?``, U+FFFD, ``null`` or the escape, in the bytes too: it cost as much as any other answer.
    """
    try:
        data = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            loose = json.loads(raw.decode("utf-8-sig", "replace"), parse_constant=lambda _: None, strict=False)
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
    function_call: None = None
    refusal: None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    error: None = None


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
        raw, http_status, latency_s, None, request_id, data.provider,
    )  # fmt: skip


def answer(
    raw: bytes,
    *,
    http_status: int,
    latency_s: float,
    request_id: str | None = None,
    max_tokens: int | None = None,
    own: Mapping[str, Ending] = NO_WORDS,
) -> Answer:
    """The answer that the body of a 2xx holds, be it a completion or, unasked, the events of one. ``own`` are words of the
    endpoint for how an answer ends.

    :raises AttemptError: if there is none, or it broke off.
    """
    found = regular(raw, http_status=http_status, latency_s=latency_s, request_id=request_id)
    if found is None:
        data, whole = decode(raw)
        if data is None and _are_events(raw):
            data, whole = together(raw, http_status), raw
            whole = _encode(data)
        found = of_object(data, whole, http_status=http_status, latency_s=latency_s, ttft_s=None, request_id=request_id)
    return found if found.finish_reason == "stop" and not own else ended(found, max_tokens, own)


def together(raw: bytes, http_status: int) -> dict[str, Any]:
    """The completion that the events of a whole stream come to.

    :raises AttemptError: if it is not complete, or carries an error.
    """
    stream = Stream(http_status)
    try:
        for name, data in stream.events.feed(raw + b"\n\n"):
            stream.take(name, data)
    except AttemptError:
        if not stream.is_complete:
            raise
    if not stream.is_complete:
        raise classify.cut_short("the stream ended before the answer was complete", raw, http_status)
    return stream.completion()


def of_object(
    data: dict[str, Any] | None,
    raw: bytes,
    *,
    http_status: int,
    latency_s: float,
    ttft_s: float | None,
    request_id: str | None,
) -> Answer:
    """As :func:`read`, of whatever was decoded.

    :raises AttemptError: if there is no answer in it.
    """
    if data is None:
        raise classify.cut_short(f"the answer is not a JSON object: {classify.describe(raw)[0]}", raw, http_status)
    _heed_errors(data, raw, http_status)
    found = read(data, raw, http_status=http_status, latency_s=latency_s, ttft_s=ttft_s, request_id=request_id)
    if found is None:
        raise classify.empty("the answer has no choices", raw, http_status)
    has_any = found.content or found.reasoning or found.tool_calls or found.refusal
    if not has_any and (place := unknown_text(data["choices"][0], "choices[0]")):
        raise classify.unknown_shape(not_read(place), raw, http_status)
    return found


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
    if not isinstance(choice, dict):
        return None
    message = next((choice[name] for name in ("message", "delta") if choice.get(name) is not None), None)
    if message is None and isinstance(choice.get("text"), str):
        message = {"content": choice["text"]}
    if not isinstance(message, dict):
        return None
    content, reasoning, refusal = content_of(message)
    calls = calls_of(message) or message.get("tool_calls")
    if b"\n" in raw:
        raw = _encode(data)
    return Answer(
        content=content,
        reasoning=reasoning,
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
        refusal=refusal or None,
    )


def _string(value: Any) -> str | None:
    return None if value is None else str(value)


def usage_of(raw: bytes) -> Usage | None:
    """What a body says it took that holds no whole answer; ``None`` if it does not say."""
    data = decode(raw)[0] or {}
    if not data and _are_events(raw):
        stream = Stream()
        with contextlib.suppress(AttemptError):
            for name, event in stream.events.feed(raw + b"\n\n"):
                stream.take(name, event)
        return stream.usage
    return usage(data["usage"]) if isinstance(data.get("usage"), dict) else None
