"""A stored chat completion as OpenAI's API documents it, where the server left something out or has it otherwise. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .finish_reasons import ending_of
from .loose_json import object_of

_FINISH = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
_FINISHES = {"truncated": "length", "filtered": "content_filter"}  # of a row whose server has a word of its own

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _Call(msgspec.Struct):
    id: str
    type: Literal["function"]
    function: _Function


class _Message(msgspec.Struct):
    role: Literal["assistant"]
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: None = None


class _Choice(msgspec.Struct):
    index: int
    finish_reason: _FINISH
    message: _Message
    logprobs: None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Completion(msgspec.Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_Choice]
    usage: _Usage | None = None


_decode_completion = msgspec.json.Decoder(_Completion).decode


def documented(response: str, row: Mapping[str, Any]) -> tuple[Any, str]:
    """The completion, with all that it must have, and its id. ``row`` has the columns of the results."""
    try:
        completion_id = _decode_completion(response).id
        return (msgspec.Raw(response.encode()) if "\n" not in response else _decode(response)), completion_id
    except (msgspec.DecodeError, RecursionError):
        body = _completed(object_of(response), row)
        return body, body["id"]


def _completed(body: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with all that a chat completion of OpenAI must have, where the server left something out or has it otherwise."""
    if not isinstance(body.get("id"), str):
        body["id"] = f"chatcmpl-{row['key']}"
    body["object"] = "chat.completion"
    if not _is_count(body.get("created")):
        body["created"] = _seconds(row["finished_at"])
    if not isinstance(body.get("model"), str):
        body["model"] = row["model"] or ""
    choices = body.get("choices")
    body["choices"] = [_choice(c, n, row) for n, c in enumerate(choices) if isinstance(c, dict)] if choices else []
    counts = {name: row[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    usage = body.get("usage")
    if not isinstance(usage, dict) or not all(_is_count(usage.get(name)) for name in counts):
        known = all(count is not None for count in counts.values())
        body["usage"] = ({**usage, **counts} if isinstance(usage, dict) else counts) if known else None
    return body


def _choice(choice: dict[str, Any], number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    said = choice.get("finish_reason")
    if not _is_count(choice.get("index")):
        choice["index"] = number
    message = choice["message"] if isinstance(choice.get("message"), dict) else {}
    message["role"] = "assistant"
    if not isinstance(message.get("content"), str | None):
        message["content"] = row["content"]
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_call(c, n, row) for n, c in enumerate(message["tool_calls"]) if isinstance(c, dict)]
    if said not in _FINISH.__args__:  # type: ignore[attr-defined]
        ending = row["status"] if row["status"] in _FINISHES else ending_of(None if said is None else str(said))
        choice["finish_reason"] = _FINISHES.get(ending, "tool_calls" if message.get("tool_calls") else "stop")
    choice["message"] = message
    _complete_logprobs(choice.get("logprobs"))
    return choice


def _call(call: dict[str, Any], number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(call.get("id"), str):
        call["id"] = f"call_{row['key']}_{number}"
    if call.get("type") is None:
        call["type"] = "function"
    function = call.get("function")
    if isinstance(function, dict) and not isinstance(function.get("arguments"), str):
        function["arguments"] = _encode(function.get("arguments") or {}).decode()
    return call


def _complete_logprobs(logprobs: Any) -> None:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    for token in content if isinstance(content, list) else ():
        if isinstance(token, dict):
            token.setdefault("top_logprobs", [])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(moment: datetime.datetime | None) -> int:
    return 0 if moment is None else int(moment.timestamp())
