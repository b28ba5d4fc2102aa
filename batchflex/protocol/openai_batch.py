"""Rows as the lines of the output and error files of OpenAI's batch API."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import pyarrow as pa

from ..core import cell_values, text_of
from .finish_reasons import ending_of

_COLUMNS = (
    "id", "key", "sample", "status", "content", "model", "finish_reason", "prompt_tokens", "completion_tokens",
    "total_tokens", "finished_at", "http_status", "error_type", "error_code", "error_message", "response",
)  # fmt: skip
_REQUEST_ID = "request_id"  # only in tables that have it
_FINISH = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
_FINISHES = {"truncated": "length", "filtered": "content_filter"}  # of a row whose server has a word of its own


class Ids(NamedTuple):
    """What makes a ``custom_id``: swept variables by their columns, and whether there are several samples."""

    sweep: Mapping[str, str]
    samples: bool


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


class _Response(msgspec.Struct):
    status_code: int
    request_id: str | None
    body: Any


class _Error(msgspec.Struct):
    code: str | None
    message: str | None


class _Line(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_completion = msgspec.json.Decoder(_Completion).decode


def columns(ids: Ids, there: Sequence[str]) -> list[str]:
    """The columns that lines are made of."""
    further = [_REQUEST_ID] if _REQUEST_ID in there else []
    return [*_COLUMNS, *further, *(name for name in ids.sweep if name in there)]


def lines(batch: pa.RecordBatch, ids: Ids) -> Iterator[tuple[bytes, bool]]:
    """Each row as a line with its newline, and whether it belongs into the error file: that of a row that ``failed``, or was
    refused for its content before there was an answer.

    As OpenAI does, a request that was refused has its ``response`` with the status and the body of the refusal, and no
    ``error``; one that no answer came for has an ``error`` and no ``response``.
    """
    names = batch.schema.names
    for values in cell_values.rows(batch):
        row = dict(zip(names, values, strict=True))
        is_error = row["status"] == "failed" or (row["status"] == "filtered" and _is_refusal(row))
        response, error = (_refused if is_error else _answered)(row)
        line = _Line(f"batch_req_{row['key']}", custom_id(row, ids), response, error)
        yield _encode(line) + b"\n", is_error


def custom_id(row: Mapping[str, Any], ids: Ids) -> str:
    """The row's id, and after it what tells the rows of one id from each other: ``r1@temperature=0.7,seed=1#2``."""
    given = {name: text_of(row[column]) for column, name in ids.sweep.items() if row.get(column) is not None}
    point = "@" + ",".join(f"{name}={value}" for name, value in given.items()) if given else ""
    return f"{row['id']}{point}" + (f"#{row['sample']}" if ids.samples else "")


def _is_refusal(row: Mapping[str, Any]) -> bool:
    """Whether nothing of an answer came."""
    return (row["http_status"] or 200) >= 300 or (row["content"] is None and row["finish_reason"] is None)


def _answered(row: Mapping[str, Any]) -> tuple[_Response, None]:
    text = row["response"] or "{}"
    try:
        answer = _decode_completion(text)
        body, said = (msgspec.Raw(text.encode()) if "\n" not in text else _decode(text)), answer.id
    except (msgspec.DecodeError, RecursionError):
        body = _completed(_object(text), row)
        said = body["id"]
    return _Response(row["http_status"] or 200, row.get(_REQUEST_ID) or said, body), None


def _refused(row: Mapping[str, Any]) -> tuple[_Response | None, _Error | None]:
    code, message, status = row["error_code"] or row["error_type"], row["error_message"], row["http_status"]
    if status is None or 200 <= status < 300:  # nothing came, or something that is no answer
        return None, _Error(code, message)
    body = _object(row["response"])
    if not isinstance(body.get("error"), dict):
        body = {"error": {"message": message, "type": row["error_type"], "param": None, "code": row["error_code"]}}
    return _Response(status, row.get(_REQUEST_ID), body), None


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = _decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
