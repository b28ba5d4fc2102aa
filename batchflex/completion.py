"""Chat completions: reading one, and putting a stream of chunks together into one. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from .model import Answer, Usage

_encode = msgspec.json.Encoder().encode


class Stream:
    """Chunks of one streamed answer, put together into the shape of an unstreamed one.

    Only the choice with index 0 is kept: a request has one answer.
    """

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[Any] = []
        self._usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None

    def feed(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; true if it brought something of the answer itself."""
        for name in ("id", "created", "model", "system_fingerprint", "timings"):
            if chunk.get(name) is not None:
                self._head[name] = chunk[name]
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        brought = False
        for choice in chunk.get("choices") or ():
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            if choice.get("finish_reason") is not None:
                self.finish_reason = str(choice["finish_reason"])
            logprobs = choice.get("logprobs")
            if isinstance(logprobs, dict):
                self._logprobs += logprobs.get("content") or ()
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
            if isinstance(text, str) and text:
                into.append(text)
                brought = True
        for call in delta.get("tool_calls") or ():
            if isinstance(call, dict):
                self._take_call(call)
                brought = True
        return brought

    def _take_call(self, delta: dict[str, Any]) -> None:
        index = delta.get("index")
        if not isinstance(index, int):  # some servers leave it out: an id begins a new call
            index = len(self._calls) if delta.get("id") or not self._calls else max(self._calls)
        call = self._calls.setdefault(index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        for name in ("id", "type"):
            if delta.get(name):
                call[name] = delta[name]
        function = delta.get("function") or {}
        into = call["function"]
        if (name := function.get("name")) and name != into["name"]:
            into["name"] += name
        arguments = function.get("arguments")
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
            message["tool_calls"] = [self._calls[i] for i in sorted(self._calls)]
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage}


def read(
    data: dict[str, Any], raw: bytes, *, http_status: int, latency_s: float, ttft_s: float | None
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
    return Usage(prompt, completion, total, cached, _count(value.get("cache_creation_input_tokens")), reasoning)


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**62:
        return None
    return int(value)
