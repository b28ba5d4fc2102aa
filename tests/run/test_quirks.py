"""What an endpoint turns out not to do is found with the first request and told once: formats refused, answers cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchflex.core.errors import RowFault
from batchflex.core.types import Answer, Outcome, Request, Usage
from batchflex.endpoint import quirks
from batchflex.protocol import CHAT, reask
from batchflex.protocol.classify import http_fault
from tests.run.test_reasks import FORMAT, SCHEMA, write
from tests.support.command_line import Ended, called, table
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.runs import killed_command

WORDS = " ".join(f"w{number}" for number in range(100))


def options(endpoint: CountingEndpoint, rows: Path, *more: object) -> list[object]:
    asks = ["--base-url", endpoint.base_url, "--model", "m", "--out", rows.parent / "out", "--json"]
    return ["run", rows, *asks, "--set", "retry.base_s=0.01", *more]


def run(endpoint: CountingEndpoint, rows: Path, *more: object) -> Ended:
    return called(*options(endpoint, rows, *more))


def spent(results: pl.DataFrame) -> int:
    names = ["prompt_tokens", "completion_tokens", "reask_prompt_tokens", "reask_completion_tokens"]
    return sum(int(results[name].sum()) for name in names)


# ------------------------------------------------------------------------------------------- formats that are refused


@pytest.mark.parametrize(
    ("refused", "setting", "used", "refusals"),
    [
        (["json_schema"], [], "json_object", 1),
        (["json_schema"], ["--set", "answer.fallback=prompt"], "prompt", 1),
        (["json_schema", "json_object"], [], "prompt", 2),
    ],
    ids=["by default", "the prompt", "both are refused"],
)
def test_a_refused_schema_goes_into_the_system_message(
    refused: list[str], setting: list[str], used: str, refusals: int, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", 40, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', unfit=0.2, refuse_formats=refused)
    done = called(*options(endpoint, rows, *setting))
    results = table(tmp_path / "out")
    assert done.code == 1, done.err
    assert set(results["status"]) == {"ok", "invalid"}, "what comes is validated here"
    assert set(results["format_fallback"]) == {used}
    assert endpoint.stats()["outcomes"] == {"ok": 40, "format": refusals}
    assert done.err.count("refuses the response_format") == refusals
    assert results["attempts"].sum() == done.summary["requests_sent"] == 40 + refusals


def test_its_answers_count_under_the_keys_of_the_plan(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 8, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', refuse_formats=["json_schema"])
    assert run(endpoint, rows).code == 0
    keys = table(tmp_path / "out")["key"].to_list()
    endpoint.knobs(refuse_formats=[])
    assert run(endpoint, rows).summary["requests_sent"] == 0
    (tmp_path / "out").rename(tmp_path / "before")
    run(endpoint, rows)
    assert table(tmp_path / "out")["key"].to_list() == keys
    assert table(tmp_path / "out")["format_fallback"].null_count() == 8


def test_stop_stops_with_the_first_request(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 40, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', refuse_formats=["json_schema"])
    stopped = run(endpoint, rows, "--set", "answer.fallback=stop")
    assert (stopped.code, stopped.summary["stopped_by"], stopped.summary["failed"]) == (3, "format", 0)
    assert endpoint.stats()["requests"] == 1
    assert "answer.fallback" in stopped.summary["message"]
    assert run(endpoint, rows).summary["ok"] == 40


def test_of_several_models_the_others_are_asked_as_before(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 10, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', refuse_formats=["json_schema"], refuse_models=["b"])
    (tmp_path / "job.toml").write_text(
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\n[input]\npath = "{rows}"\n[sweep]\nmodel = ["a", "b"]\n'
    )
    assert called("run", tmp_path / "job.toml", "--out", tmp_path / "out", "--json").code == 0
    found = table(tmp_path / "out").group_by("sweep_model", "format_fallback").len()
    assert sorted(found.rows(), key=str) == [("a", None, 10), ("b", "json_object", 10)]


def test_a_refusal_for_another_reason_is_the_rows(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 10, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', poison={"row 3": "400"})
    done = run(endpoint, rows)
    assert (done.summary["failed"], done.summary["ok"]) == (1, 9)
    assert table(tmp_path / "out")["format_fallback"].null_count() == 10


def _request(format_: Any, *messages: dict[str, Any], model: str = "m") -> Request:
    body = {"messages": list(messages), "model": model, "response_format": format_}
    return Request(b"k", b"s", "id", 0, 0, 0, json.dumps(body).encode(), None, None)


USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("first", "becomes"),
    [
        ([], 2),
        ([{"role": "system", "content": "Be short."}], "Be short.\n\nAnswer with JSON that fits"),
        ([{"role": "developer", "content": [{"type": "text", "text": "Be short."}]}], "Be short."),
    ],
)
def test_the_schema_is_added_to_the_system_message(first: list[Any], becomes: Any) -> None:
    made = json.loads(quirks.in_fallback_format(_request(FORMAT, *first, USER), "prompt", CHAT).body)
    assert "response_format" not in made and made["messages"][-1] == USER and len(made["messages"]) == 2
    said = made["messages"][0]["content"]
    text = said if isinstance(said, str) else said[-1]["text"]
    assert json.dumps(SCHEMA, separators=(",", ":")) in text
    assert isinstance(becomes, int) or becomes in (said if isinstance(said, str) else said[0]["text"])


@pytest.mark.parametrize(
    ("words", "is_it"),
    [
        ("This model does not support response_format", True),
        ("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.", True),
        ("litellm.BadRequestError: json_schema is not supported", True),
        ("'response_format.type' must be 'json_schema' or 'text'", True),
        ("Structured outputs are not available for this model", True),
        ("JSON mode is not enabled for this model", True),
        ("the maximum context length is 2048 tokens", False),
        ("temperature must be at most 2", False),
    ],
)
def test_words_that_refuse_a_format(words: str, is_it: bool) -> None:
    fault = http_fault(400, {}, json.dumps({"error": {"message": words}}).encode(), 0.0)
    assert quirks.Quirks("prompt").is_refusal(_request(FORMAT, USER), None, fault) is is_it


def test_what_is_remembered_of_a_refusal() -> None:
    other = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    one, two = _request(FORMAT, USER), _request(other, USER)
    refusal = RowFault("response_format is not supported", error_type="e")
    found = quirks.Quirks("json_object")
    assert found.refused(one, None, refusal) == "json_object"
    assert [found.adapted(each)[1] for each in (one, two)] == ["json_object"] * 2, "it is the model's"
    found.refused_otherwise(one)
    assert found.adapted(one)[1] is None, "nothing showed that the format was at fault"

    took = quirks.Quirks("json_object")
    took.answered(one, None)
    assert took.refused(two, None, refusal) == "json_object"
    assert [took.adapted(each)[1] for each in (one, two)] == [None, "json_object"], "the model takes others"
    assert quirks.Quirks("stop").refused(one, None, refusal) is None
    assert quirks.Quirks("json_object").refused(_request({"type": "json_object"}, USER), None, refusal) == "prompt"


# ---------------------------------------------------------------------------------------------------- larger limits


def test_cut_answers_are_asked_again_with_twice_as_much(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 20, max_tokens=30)
    endpoint.knobs(answer=WORDS, obey_max_tokens=True)
    done = run(endpoint, rows, "--set", "answer.grow_max_tokens=500")
    results = table(tmp_path / "out")
    assert (done.code, done.summary["truncated"], done.summary["ok"]) == (0, 0, 20)
    assert set(results["answer_limit"]) == {120} and set(results["reasks"]) == {2}
    assert results["reask_completion_tokens"].to_list() == [30 + 60] * 20
    assert results["cut_by"].null_count() == 20
    assert spent(results) == endpoint.stats()["tokens"]
    assert done.summary["reasks"] == 40
    assert run(endpoint, rows, "--set", "answer.grow_max_tokens=500").summary["requests_sent"] == 0


def test_it_ends_at_the_largest_limit_and_goes_on_from_there_later(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 5, max_tokens=30)
    endpoint.knobs(answer=WORDS, obey_max_tokens=True)
    assert run(endpoint, rows).summary["truncated"] == 5
    keys = table(tmp_path / "out")["key"].to_list()
    grown = run(endpoint, rows, "--set", "answer.grow_max_tokens=50")
    assert (grown.summary["truncated"], grown.summary["requests_sent"]) == (5, 5)
    assert set(table(tmp_path / "out")["answer_limit"]) == {50}
    assert run(endpoint, rows, "--set", "answer.grow_max_tokens=50").summary["requests_sent"] == 0
    more = run(endpoint, rows, "--set", "answer.grow_max_tokens=1000")
    assert (more.summary["ok"], more.summary["requests_sent"]) == (5, 5)
    results = table(tmp_path / "out")
    assert results["key"].to_list() == keys and set(results["answer_limit"]) == {100}
    assert spent(results) == endpoint.stats()["tokens"]


def test_killed_in_between_it_goes_on_from_the_cut_answer(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 12, max_tokens=30)
    endpoint.knobs(answer=WORDS, obey_max_tokens=True)
    grow = ["--set", "answer.grow_max_tokens=500", "--concurrency", 3]
    killed_command(endpoint, 6, *options(endpoint, rows, *grow))
    lost = sum(r["tokens"] for r in endpoint.log() if not r["later"])
    assert run(endpoint, rows, *grow).code == 0
    log, results = endpoint.log(), table(tmp_path / "out")
    received = {record["hash"]: record["seq"] for record in log if record["later"]}
    assert [r for r in log if r["hash"] in received and r["seq"] > received[r["hash"]]] == []
    assert endpoint.stats()["tokens"] - lost <= spent(results) <= endpoint.stats()["tokens"]
    assert set(results["answer_limit"]) == {120}


def test_reasoning_that_took_all_tokens_is_given_more_of_them(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Where JSON is asked for, such an answer is invalid."""
    rows = write(tmp_path / "rows.jsonl", 10, max_tokens=16, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', think=40)
    assert run(endpoint, rows).summary["invalid"] == 10
    assert set(table(tmp_path / "out")["cut_by"]) == {"limit"}
    done = run(endpoint, rows, "--set", "answer.grow_max_tokens=256")
    results = table(tmp_path / "out")
    assert (done.code, set(results["status"]), set(results["answer_limit"])) == (0, {"ok"}, {64})
    said = endpoint.log()
    assert len(said) == 10 + 20


def test_growing_uses_up_no_reask(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 4, max_tokens=16, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "neither"}', think=20)
    grow = ["--set", "answer.grow_max_tokens=256", "--set", "answer.max_reasks=1"]
    done = run(endpoint, rows, *grow)
    results = table(tmp_path / "out")
    assert done.code == 1 and set(results["status"]) == {"invalid"}
    assert set(results["reasks"]) == {2} and set(results["answer_limit"]) == {32}
    assert endpoint.stats()["requests"] == 12, "cut off, then one that does not fit, then asked again for it"


def test_an_answer_that_cannot_be_asked_for_with_more_stays(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 3, max_tokens=30)
    endpoint.knobs(answer=WORDS, obey_max_tokens=True, poison={'"max_tokens":60': "400_context"})
    done = run(endpoint, rows, "--set", "answer.grow_max_tokens=500")
    results = table(tmp_path / "out")
    assert (done.code, set(results["status"])) == (0, {"truncated"})
    assert all("asking again failed: the maximum context length" in words for words in results["error_message"])
    sent = [run(endpoint, rows, "--set", "answer.grow_max_tokens=500").summary["requests_sent"] for _ in range(5)]
    assert sent[0] == 3 and sent[-1] == 0, "it is tried again, but not for ever"


# ---------------------------------------------------------------------------------- answers cut unless they are streamed


def test_an_unknown_cap_on_unstreamed_answers(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 30, max_tokens=500)
    endpoint.knobs(answer=WORDS, unstreamed_cap=40)
    done = called(*options(endpoint, rows))
    results = table(tmp_path / "out")
    assert (done.code, done.summary["ok"], done.summary["truncated"]) == (0, 30, 0)
    assert set(results["content"]) == {WORDS}
    unstreamed = [record for record in endpoint.log() if not record["stream"]]
    assert len(unstreamed) == done.summary["reasks"] == results["reasks"].sum() < 30
    assert spent(results) == endpoint.stats()["tokens"], "what was cut was paid for, and counts"
    assert done.err.count("cuts answers that are not streamed at 40 tokens") == 1


def test_stopped_in_between_the_next_run_asks_for_the_stream(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 1, max_tokens=500)
    endpoint.knobs(answer=WORDS, unstreamed_cap=40)
    stopped = run(endpoint, rows, "--set", "limits.budget_requests=1")
    assert (stopped.code, stopped.summary["done"], stopped.summary["reasks"]) == (3, 0, 1)
    assert run(endpoint, rows).summary["ok"] == 1
    assert [record["stream"] for record in endpoint.log()] == [False, True]
    assert spent(table(tmp_path / "out")) == endpoint.stats()["tokens"]


def test_requests_below_the_cap_stay_unstreamed(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    lines = [
        {"id": f"{i}", "messages": [{"role": "user", "content": f"row {i}"}], "max_tokens": 500 if i % 2 else 20}
        for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    endpoint.knobs(answer=WORDS, unstreamed_cap=40, obey_max_tokens=True)
    done = run(endpoint, tmp_path / "rows.jsonl", "--concurrency", 1)
    assert (done.summary["truncated"], done.summary["ok"]) == (20, 20)
    assert sum(record["stream"] for record in endpoint.log()) == 20


@pytest.mark.parametrize("streams", [True, False])
def test_where_streaming_gets_no_more_it_is_truncated(
    streams: bool, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", 30, max_tokens=500)
    endpoint.knobs(answer=WORDS, cap=40, streams=streams)
    done = called(*options(endpoint, rows, "--concurrency", 1))
    assert (done.code, done.summary["truncated"]) == (0, 30)
    assert sum(record["stream"] for record in endpoint.log()) == 1, "remembered, too"
    assert done.err.count("when streamed, too") == 1
    assert run(endpoint, rows).summary["requests_sent"] == 0


def test_a_job_that_forbids_streams_gets_none(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 5, max_tokens=500)
    endpoint.knobs(answer=WORDS, unstreamed_cap=40)
    done = run(endpoint, rows, "--set", "endpoint.stream=false")
    assert (done.summary["truncated"], done.summary["requests_sent"]) == (5, 5)
    assert run(endpoint, rows, "--set", "endpoint.stream=false").summary["requests_sent"] == 0


def _answer(content: str | None = "x", reasoning: str | None = None, used: int | None = 1) -> Answer:
    return Answer(content, reasoning, None, "stop", "m", Usage(1, used, None), b"{}", 200, 0.1, None)


@pytest.mark.parametrize(
    ("status", "answer", "limit", "by"),
    [
        ("ok", _answer(used=100), 100, None),
        ("truncated", _answer(used=100), 100, "limit"),
        ("truncated", _answer(used=93), 100, "limit"),
        ("truncated", _answer(used=64), 100, "server"),
        ("truncated", _answer(used=3), 8, "limit"),
        ("truncated", _answer(used=2_048), 8_192, "server"),
        ("truncated", _answer(used=2_048), None, "limit"),
        ("truncated", _answer(used=None), 100, "limit"),
        ("empty", _answer("", "so …", 40), 100, "limit"),
        ("empty", _answer(" \n", None, 100), 100, "limit"),
        ("empty", _answer("", None, 3), 100, None),
        ("invalid", _answer("", "so …", 0), 100, "limit"),
        ("invalid", _answer('{"a": ', None, 100), 100, "limit"),
        ("invalid", _answer("No.", "so …", 40), 100, None),
        ("filtered", _answer(used=100), 100, None),
    ],
)
def test_what_cut_an_answer_off(status: Any, answer: Answer, limit: int | None, by: str | None) -> None:
    assert reask.cut_by(status, answer, limit) == by


def _before(**fields: Any) -> Outcome:
    known = {"key": "k", "slot": "s", "id": "i", "row": 0, "sample": 0, "status": "truncated", "attempts": 1}
    return Outcome(**known | {"started_at": 0, "finished_at": 1, "endpoint": "e", "run_id": "r"} | fields)


@pytest.mark.parametrize(
    ("before", "planned", "asked"),
    [
        ({"cut_by": "limit", "answer_limit": 100}, 100, 200),
        ({"cut_by": "limit", "answer_limit": 700, "reasks": 3}, 100, 1_000),
        ({"cut_by": "limit", "answer_limit": 1_000}, 100, None),
        ({"cut_by": "limit", "completion_tokens": 256}, None, 512),
        ({"cut_by": "limit", "answer_limit": 100, "status": "empty"}, 100, 200),
        ({"cut_by": "server", "answer_limit": 100, "ttft_s": 0.1}, 100, None),
        ({"cut_by": "server", "answer_limit": 400, "reasks": 2}, 100, 400),
        ({"completion_tokens": 100}, 100, 200),  # of an older version
        ({"completion_tokens": 100}, 1_000, None),
        ({"status": "ok"}, 100, None),
    ],
)
def test_the_limit_that_follows(before: dict[str, Any], planned: int | None, asked: int | None) -> None:
    limit = {} if planned is None else {"max_completion_tokens": planned}
    body = json.dumps({"messages": [USER], "model": "m", **limit}).encode()
    request = Request(b"k", b"s", "i", 0, 0, 0, body, planned, None)
    made = reask.further(request, _before(**before), reask.Policy(grow_to=1_000, streams=True), CHAT)
    assert (None if made is None else made.max_tokens) == asked
    if made is not None:
        sent = json.loads(made.body)
        assert sent["messages"] == [USER]
        assert sent["max_tokens" if planned is None else "max_completion_tokens"] == asked
        assert made.key == request.key


def test_a_fallback_that_is_refused_itself_is_not_asked_for_ever() -> None:
    """First the schema is refused, by words about it alone; then json_object, for the model."""
    request, found = _request(FORMAT, USER), quirks.Quirks("json_object")
    sent_as, asked = None, []
    for words in ("Invalid schema for response_format 'a'", "response_format json_object is not supported"):
        fault = http_fault(400, {}, json.dumps({"error": {"message": words}}).encode(), 0.0)
        assert found.is_refusal(request, sent_as, fault)
        found.refused(request, sent_as, fault)
        sent_as = found.adapted(request)[1]
        asked.append(sent_as)
    assert asked == ["json_object", "prompt"]
