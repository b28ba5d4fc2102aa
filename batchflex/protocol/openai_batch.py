"""Rows as the lines of the output and error files of OpenAI's batch API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from ..core import cell_values, text_of
from .chat_route import CHAT
from .loose_json import object_of
from .route import Route

_COLUMNS = (
    "id", "key", "sample", "status", "content", "model", "finish_reason", "prompt_tokens", "completion_tokens",
    "total_tokens", "finished_at", "http_status", "error_type", "error_code", "error_message", "response",
)  # fmt: skip
_REQUEST_ID = "request_id"  # only in tables that have it


class Ids(NamedTuple):
    """What makes a ``custom_id``: swept variables by their columns, and whether there are several samples; and of which route
    the answers are."""

    sweep: Mapping[str, str]
    samples: bool
    route: Route = CHAT


_encode = msgspec.json.Encoder().encode


def columns(ids: Ids, there: Sequence[str]) -> list[str]:
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
        outcome = _refused(row) if is_error else _answered(row, ids.route)
        line = {"id": f"batch_req_{row['key']}", "custom_id": custom_id(row, ids), **outcome}
        yield _encode(line) + b"\n", is_error


def custom_id(row: Mapping[str, Any], ids: Ids) -> str:
    """The row's id, and after it what tells the rows of one id from each other: ``r1@temperature=0.7,seed=1#2``."""
    given = {name: text_of(row[column]) for column, name in ids.sweep.items() if row.get(column) is not None}
    point = "@" + ",".join(f"{name}={value}" for name, value in given.items()) if given else ""
    return f"{row['id']}{point}" + (f"#{row['sample']}" if ids.samples else "")


def _is_refusal(row: Mapping[str, Any]) -> bool:
    """Whether nothing of an answer came."""
    return (row["http_status"] or 200) >= 300 or (row["content"] is None and row["finish_reason"] is None)


def _answered(row: Mapping[str, Any], route: Route) -> dict[str, Any]:
    body, answer_id = route.documented(row["response"] or "{}", row)
    return _response(row["http_status"] or 200, row.get(_REQUEST_ID) or answer_id, body)


def _refused(row: Mapping[str, Any]) -> dict[str, Any]:
    code, message, status = row["error_code"] or row["error_type"], row["error_message"], row["http_status"]
    if status is None or 200 <= status < 300:  # nothing came, or something that is no answer
        return {"response": None, "error": {"code": code, "message": message}}
    body = object_of(row["response"] or "")
    if not isinstance(body.get("error"), dict):
        body = {"error": {"message": message, "type": row["error_type"], "param": None, "code": row["error_code"]}}
    return _response(status, row.get(_REQUEST_ID), body)


def _response(status: int, request_id: str | None, body: Any) -> dict[str, Any]:
    return {"response": {"status_code": status, "request_id": request_id, "body": body}, "error": None}
