"""A message of a completion, or the delta of one: where servers have its text, reasoning, refusal and tool calls. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from ..core import Usage

_encode = msgspec.json.Encoder().encode
# Fields in which no text of an answer is, or which are read.
_KNOWN = {
    "role", "index", "finish_reason", "native_finish_reason", "stop_reason", "matched_stop", "id", "object", "type", "name",
    "model", "provider", "created", "logprobs", "error", "usage", "content", "refusal", "text", "reasoning_content", "reasoning",
    "reasoning_details", "thinking", "signature", "tool_calls", "function_call", "annotations", "audio", "images", "citations",
    "content_filter_results", "provider_specific_fields", "metadata",
}  # fmt: skip


def unknown_text(value: Any, place: str) -> str | None:
    """The place of text that this module does not read; ``None`` if there is none."""
    if isinstance(value, str):
        return place if value.strip() else None
    if isinstance(value, list):
        inside = ((each, f"{place}[{number}]") for number, each in enumerate(value))
    elif isinstance(value, dict):
        seen = value.items()
        inside = ((v, f"{place}.{n}") for n, v in seen if n not in _KNOWN or (n == "content" and isinstance(v, dict)))
    else:
        return None
    return next((found for each, where in inside if (found := unknown_text(each, where))), None)


def not_read(place: str) -> str:
    return f"the answer has text in {place[:200]}, where none is looked for: this is no chat completion as OpenAI's API has it"


def dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def calls_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The tool calls of a message or a delta, also the one of the older API."""
    calls, old = dicts(message.get("tool_calls")), message.get("function_call")
    return calls or ([{"type": "function", "function": old}] if isinstance(old, dict) else [])


def content_of(message: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """The text, the reasoning and the refusal in a message or a delta."""
    content, audio = message.get("content"), message.get("audio")
    if content is None and isinstance(message.get("text"), str):
        content = message["text"]
    if content is None and isinstance(audio, dict):
        content = audio.get("transcript")
    reasoning = text_of(message.get("reasoning_content") or message.get("reasoning"))
    refusal = message.get("refusal")
    refusal = refusal if isinstance(refusal, str) else None
    parts = dicts(content)
    if parts and all(part.get("type") in _PARTS for part in parts):  # Mistral has reasoning here, OpenAI refusals
        texts = {
            kind: "".join(text_of(part.get(kind)) or "" for part in parts if part["type"] == kind) for kind in _PARTS
        }
        return texts["text"], reasoning or texts["thinking"] or None, refusal or texts["refusal"] or None
    return text_of(content), reasoning, refusal


_PARTS = ("text", "thinking", "refusal")


def text_of(value: Any) -> str | None:
    """A message's content: a string, or what a list of parts says, or the JSON of anything else."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        return "".join(p["text"] for p in value)
    return _encode(value).decode()


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
