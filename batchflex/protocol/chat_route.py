"""The route of chat completions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..core import Answer, Ending, Request, Usage
from . import chat, chat_export
from .chat_stream import Stream
from .finish_reasons import ending_of
from .json_answers import Shapes
from .parameters import CHAT_PARAMETERS
from .route import Receipt, Route, Verdict

_STREAMING = b',"stream":true,"stream_options":{"include_usage":true}}'
_INSTRUCTS = ("system", "developer")  # the roles of a message with instructions

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _Limit(msgspec.Struct):
    max_completion_tokens: int | None = None


class ChatRoute(Route):
    """``POST /chat/completions``: a row a request, its answer the first choice."""

    path = "/chat/completions"
    what = "chat completions"
    field = "messages"
    parameters = CHAT_PARAMETERS
    limits = ("max_tokens", "max_completion_tokens")
    streams = True

    def checked(self, content: Any) -> Any:
        if isinstance(content, str):
            try:
                content = _decode(content)
            except (msgspec.DecodeError, RecursionError) as error:
                raise ValueError(f"'messages' is a string, but not of JSON: {error}") from None
        if not isinstance(content, list) or not content:
            raise ValueError("'messages' must be a list with at least one message")
        for message in content:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise ValueError(f"each message must be an object with a 'role'; found {message!r:.60}")
        return content

    def beginning(self, content: Any) -> Any | None:
        return content[0] if content[0]["role"] in _INSTRUCTS else None

    def body(self, rows: Sequence[Request], *, streamed: bool = False) -> bytes:
        (row,) = rows
        return row.body[:-1] + _STREAMING if streamed else row.body

    def probe(self, model: str, *, like: bytes | None = None, words: str = "ok", most_tokens: int = 1) -> Request:
        by_other_name = like is not None and msgspec.json.decode(like, type=_Limit).max_completion_tokens is not None
        limit = "max_completion_tokens" if by_other_name else "max_tokens"
        body = _encode({limit: most_tokens, "messages": [{"role": "user", "content": words}], "model": model})
        return Request(b"", b"", "probe", 0, 0, 0, body, most_tokens, None, model=model)

    def answers(
        self, raw: bytes, rows: Sequence[Request], receipt: Receipt, finish_reasons: Mapping[str, Ending]
    ) -> list[Answer]:
        return [chat.answer(raw, receipt, rows[0].max_tokens, finish_reasons)]

    def usage_of(self, raw: bytes) -> Usage | None:
        return chat.usage_of(raw)

    def stream(self, http_status: int) -> Stream:
        return Stream(http_status)

    def verdict(self, answer: Answer, body: bytes, shapes: Shapes, *, allow_empty: bool) -> Verdict:
        """Text counts, whatever stands beside it: a refusal makes a row ``filtered`` if there is no text, or if JSON was asked
        for and the text is not it."""
        ending = answer.ending or ("ok" if answer.finish_reason == "stop" else ending_of(answer.finish_reason))
        if ending == "filtered":
            return Verdict("filtered", None, "refusal" if answer.refusal else None, answer.refusal)
        if ending != "ok":
            return Verdict("truncated")
        if answer.tool_calls:
            return Verdict("ok")
        content = answer.content
        is_blank = not content or content.isspace()
        if is_blank and answer.refusal:
            return Verdict("filtered", None, "refusal", answer.refusal)
        parsed, complaint = shapes.judge(body, content)
        if complaint is not None:
            if answer.refusal:
                return Verdict("filtered", None, "refusal", answer.refusal)
            return Verdict("invalid", None, "invalid_answer", complaint)
        if is_blank and parsed is None and not allow_empty:
            return Verdict("empty", None, "empty_answer", _nothing(answer))
        return Verdict("ok", parsed)

    def replied(self, body: dict[str, Any], answer: str, reply: str) -> bool:
        body["messages"] = [
            *body["messages"],
            {"role": "assistant", "content": answer},
            {"role": "user", "content": reply},
        ]
        return True

    def instructed(self, body: dict[str, Any], words: str) -> None:
        first, *others = body["messages"]
        if first["role"] not in _INSTRUCTS:
            first, others = {"role": "system", "content": words}, [first, *others]
        elif isinstance(content := first.get("content"), list):
            first = {**first, "content": [*content, {"type": "text", "text": words}]}
        else:
            first = {**first, "content": f"{content}\n\n{words}" if content else words}
        body["messages"] = [first, *others]

    def conversation(self, body: Mapping[str, Any]) -> list[tuple[str, Any]]:
        messages = body.get("messages")
        found = messages if isinstance(messages, list) else ()
        return [(str(each.get("role", "?")), each.get("content")) for each in found if isinstance(each, Mapping)]

    def documented(self, response: str, row: Mapping[str, Any]) -> tuple[Any, str | None]:
        return chat_export.documented(response, row)


def _nothing(answer: Answer) -> str:
    """Why there is no text in an answer."""
    tokens = answer.usage.completion_tokens
    if answer.reasoning and not answer.reasoning.isspace():
        spent = "" if tokens is None else f", which took {tokens:,} tokens"
        return f"the answer has no text, only reasoning{spent}: more max_tokens may help"
    return "the answer has no text"


CHAT = ChatRoute()
