"""The one place that decides a row's status."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from batchflex.config.sections import PricesSection
from batchflex.core.errors import RowFault, Transient
from batchflex.core.types import Answer, Request, Usage
from batchflex.storage import record
from batchflex.storage.record import Effort, RowContext

FRAME = RowContext("run-1", "http://here/v1", ('{"temperature":0.0}', '{"temperature":0.7}'))
EFFORT = Effort(3, 1_000_000, 2_500_000, model="m")
SCHEMA = {"type": "json_schema", "json_schema": {"name": "label", "schema": {"type": "object"}}}


def request(**body: Any) -> Request:
    full = {"messages": [{"role": "user", "content": "hi"}], "model": "m", **body}
    return Request(b"k" * 16, b"s" * 16, "a", 7, 1, 2, json.dumps(full).encode(), None, '{"stars":5}')


def answer(content: str | None = "yes", finish_reason: str | None = "stop", **fields: Any) -> Answer:
    whole = Answer(content, None, None, finish_reason, "m-1", Usage(10, 5, 15, 2, 1, 3), b'{"x":1}', 200, 1.5, 0.2)
    return msgspec.structs.replace(whole, **fields)


def made(answer_: Answer, prices: PricesSection | None = None, **body: Any) -> Any:
    return record.answered(FRAME, request(**body), msgspec.structs.replace(EFFORT, prices=prices), answer_)


@pytest.mark.parametrize(
    ("finish_reason", "status"),
    [
        ("stop", "ok"),
        ("eos", "ok"),
        ("tool_calls", "ok"),
        (None, "ok"),
        ("length", "truncated"),
        ("max_tokens", "truncated"),
        ("content_filter", "filtered"),
        ("safety", "filtered"),
    ],
)
@pytest.mark.parametrize("content", ["yes", "", None])
def test_the_finish_reason_decides_the_status(finish_reason: str | None, status: str, content: str | None) -> None:
    row = made(answer(content, finish_reason))
    if status == "ok" and not content:
        assert (row.status, row.error_type, row.error_message) == ("empty", "empty_answer", "the answer has no text")
    else:
        assert (row.status, row.error_type, row.error_message) == (status, None, None)
    assert (row.content, row.finish_reason, row.parsed) == (content, finish_reason, None)


@pytest.mark.parametrize("wanted", [{"type": "json_object"}, SCHEMA])
@pytest.mark.parametrize(
    ("content", "parsed"),
    [
        ('{"label": "good"}', '{"label":"good"}'),
        (' \n{"a": [1, 2.5, null, true], "b": "ä"}\n', '{"a":[1,2.5,null,true],"b":"ä"}'),
    ],
)
def test_json_that_was_asked_for_is_parsed(wanted: dict[str, Any], content: str, parsed: str) -> None:
    row = made(answer(content), response_format=wanted)
    assert (row.status, row.parsed, row.content) == ("ok", parsed, content)


@pytest.mark.parametrize("wanted", [{"type": "json_object"}, SCHEMA])
@pytest.mark.parametrize(
    "content",
    ["", None, "  ", "good", '{"label": "go', '{"a": 1} and more', "```json\n{}\n```", "{'a': 1}", "NaN", "[" * 20_000],
)
def test_what_is_not_the_json_that_was_asked_for_is_invalid(wanted: dict[str, Any], content: str | None) -> None:
    row = made(answer(content), response_format=wanted)
    assert (row.status, row.parsed, row.content) == ("invalid", None, content)
    assert row.error_type == "invalid_answer"
    assert row.error_message.startswith("JSON was asked for, and the answer is ")
    assert row.prompt_tokens == 10  # it was paid for nevertheless


@pytest.mark.parametrize("wanted", [None, {"type": "text"}, {}, "json", {"type": 5}, ["json_object"]])
def test_without_a_wish_for_json_anything_goes(wanted: Any) -> None:
    row = made(answer("{not json"), response_format=wanted)
    assert (row.status, row.parsed) == ("ok", None)


def test_words_about_response_format_are_no_wish_for_json() -> None:
    row = made(answer("no json"), messages=[{"role": "user", "content": 'what is "response_format" for?'}])
    assert row.status == "ok"


@pytest.mark.parametrize(("finish_reason", "status"), [("length", "truncated"), ("content_filter", "filtered")])
def test_json_that_was_cut_off_is_truncated_not_invalid(finish_reason: str, status: str) -> None:
    row = made(answer('{"label": "go', finish_reason), response_format=SCHEMA)
    assert (row.status, row.error_type) == (status, None)


def test_a_call_of_a_tool_in_place_of_json_is_ok() -> None:
    calls = '[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]'
    row = made(answer(None, "tool_calls", tool_calls=calls), response_format=SCHEMA)
    assert (row.status, row.content, row.tool_calls, row.parsed) == ("ok", None, calls, None)


def test_an_answered_row_has_all_that_is_known() -> None:
    row = made(answer("yes", reasoning="because"), PricesSection(input=1.0, output=2.0, cached_input=0.5))
    assert msgspec.structs.asdict(row) == {
        "key": "6b" * 16, "slot": "73" * 16, "id": "a", "row": 7, "sample": 2, "status": "ok",
        "attempts": 3, "started_at": 1_000_000, "finished_at": 2_500_000,
        "endpoint": "http://here/v1", "run_id": "run-1",
        "content": "yes", "reasoning": "because", "tool_calls": None, "parsed": None,
        "finish_reason": "stop", "model": "m-1",
        "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
        "cache_read_input_tokens": 2, "cache_creation_input_tokens": 1, "reasoning_tokens": 3,
        "cost": pytest.approx(19e-6), "latency_s": 1.5, "ttft_s": 0.2, "http_status": 200,
        "error_type": None, "error_code": None, "error_message": None,
        "response": b'{"x":1}', "point": '{"temperature":0.7}', "carry": '{"stars":5}',
        "reasks": 0, "reask_prompt_tokens": None, "reask_completion_tokens": None, "reask_cost": None,
        "retried_with": None, "request_id": None, "requested_model": "m",
        "gateway_cost": None, "gateway_deployment": None, "gateway_fallbacks": None, "proof": None,
        "file": None, "position": None, "grown": None,
        "answer_limit": None, "cut_by": None, "format_fallback": None,
    }  # fmt: skip


def test_what_the_server_did_not_count_stays_empty() -> None:
    row = made(answer(usage=Usage()), PricesSection(input=1.0, output=2.0))
    assert (row.prompt_tokens, row.completion_tokens, row.total_tokens, row.cost) == (None, None, None, None)


def test_without_prices_there_is_no_cost() -> None:
    assert made(answer()).cost is None


def test_a_response_is_kept_as_it_came() -> None:
    assert made(answer(response=b'{"a":"\xff"}')).response == b'{"a":"\xff"}'


@pytest.mark.parametrize("kind", [RowFault, Transient])
def test_a_failed_row_keeps_the_servers_words(kind: type[RowFault | Transient]) -> None:
    error = kind(
        "This model's maximum context length is 4096 tokens.",
        error_type="invalid_request_error",
        error_code="context_length_exceeded",
        http_status=400,
        body=b'{"error": {"message": "This model\'s \xff"}}',
    )
    row = record.failed(FRAME, request(), EFFORT, error)
    assert row.status == "failed"
    assert (row.http_status, row.error_type, row.error_code) == (
        400,
        "invalid_request_error",
        "context_length_exceeded",
    )
    assert row.error_message == "This model's maximum context length is 4096 tokens."
    assert row.response == b'{"error": {"message": "This model\'s \xff"}}'
    assert (row.attempts, row.started_at, row.finished_at) == (EFFORT.attempts, EFFORT.started_at, EFFORT.finished_at)
    assert (row.content, row.total_tokens, row.cost, row.latency_s) == (None, None, None, None)


def test_a_row_that_was_never_answered_has_no_response() -> None:
    row = record.failed(FRAME, request(), EFFORT, Transient("cannot connect", error_type="connect"))
    assert (row.http_status, row.response, row.error_type) == (None, None, "connect")


def test_a_row_that_cannot_be_asked_says_why_and_took_no_attempt() -> None:
    broken = msgspec.structs.replace(request(), fault="a.jsonl, line 3: not JSON")
    row = record.unsendable(FRAME, broken, str(broken.fault), 5)
    assert (row.status, row.error_type, row.error_message) == ("failed", "input", "a.jsonl, line 3: not JSON")
    assert (row.attempts, row.started_at, row.finished_at, row.http_status) == (0, 5, 5, None)


def test_a_row_names_the_endpoint_that_it_was_sent_to_else_that_of_the_run() -> None:
    assert EFFORT.endpoint is None
    error = Transient("cannot connect", error_type="connect")
    for effort, endpoint in (
        (EFFORT, FRAME.endpoint),
        (msgspec.structs.replace(EFFORT, endpoint="http://there/v1"), "http://there/v1"),
    ):
        assert record.answered(FRAME, request(), effort, answer()).endpoint == endpoint
        assert record.failed(FRAME, request(), effort, error).endpoint == endpoint
    assert record.unsendable(FRAME, request(), "not JSON", 5).endpoint == FRAME.endpoint
