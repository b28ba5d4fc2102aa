"""A fault of the run is not a fault of a row, and the other way round: who is blamed for what, and after how many requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.support.command_line import Ended, batchflex, called, refused_port, state, table, write_rows
from tests.support.counting_endpoint import CountingEndpoint


def options(endpoint: CountingEndpoint, rows: Path) -> list[object]:
    """A run into the folder ``out`` beside the rows."""
    asks = ["--base-url", endpoint.base_url, "--model", "m", "--set", "retry.base_s=0.01", "--concurrency", "8"]
    return ["run", rows, *asks, "--out", rows.parent / "out", "--json"]


def run(endpoint: CountingEndpoint, rows: Path, *more: object) -> Ended:
    return called(*options(endpoint, rows), *more)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 40)


# ---------------------------------------------------------------------------------------------------- faults of the run


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("401", "key", "Incorrect API key provided"),
        ("403", "key", "This key has no access"),
        ("402", "credit", "Insufficient credit"),
        ("429_quota", "credit", "You exceeded your current quota"),
        ("404_model", "model", "The model `m` does not exist"),
        ("404_url", "url", "Not Found"),
        ("redirect", "url", "/elsewhere/v1/chat/completions"),
    ],
)
def test_what_would_befall_every_row_stops_the_run_after_one_request(
    fault: str, reason: str, words: str, endpoint: CountingEndpoint, rows: Path
) -> None:
    endpoint.knobs(fail_after=0, fail_with=fault)
    stopped = batchflex(*options(endpoint, rows))
    assert stopped.code == 3
    assert endpoint.stats()["requests"] == 1
    summary = stopped.summary
    assert (summary["stopped_by"], summary["status"]) == (reason, "stopped")
    assert (summary["failed"], summary["done"]) == (0, 0)
    assert words in summary["message"] and words in stopped.err
    assert "same command again" in stopped.err
    assert set(endpoint.stats()["elsewhere"]) <= {"GET /v1/models"}, "no redirect is followed"

    endpoint.knobs(fail_after=None)
    finished = run(endpoint, rows)
    assert (finished.code, finished.summary["ok"]) == (0, 40)
    assert endpoint.stats()["requests"] == 41


@pytest.mark.parametrize(("fault", "reason"), [("402", "credit"), ("401", "key")])
def test_key_or_credit_lost_on_the_way(fault: str, reason: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    endpoint.knobs(fail_after=50, fail_with=fault, latency_s=0.01)
    stopped = run(endpoint, rows)
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, reason)
    assert stopped.summary["failed"] == 0
    stats = endpoint.stats()
    assert table(tmp_path / "out").height == stopped.summary["ok"] == stats["good"] >= 50
    assert stats["requests"] - stats["good"] <= 8, "only those in flight met the fault"

    endpoint.knobs(fail_after=None)
    finished = run(endpoint, rows)
    assert (finished.code, finished.summary["ok"]) == (0, 200)
    assert (endpoint.stats()["good"], endpoint.stats()["repeats"]) == (200, 0)
    assert table(tmp_path / "out")["key"].n_unique() == 200


def test_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    options = ["--base-url", f"http://127.0.0.1:{refused_port()}/v1", "--model", "m", "--set", "retry.base_s=0.01"]
    stopped = batchflex("run", rows, *options, "--out", tmp_path / "out", "--json")
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "endpoint")
    assert stopped.summary["done"] == 0
    assert "cannot connect" in stopped.summary["message"]
    assert stopped.summary["requests_sent"] < 60


@pytest.mark.parametrize("fault", ["500", "502_html", "empty_choices", "close_inside"])
def test_an_endpoint_that_answers_nothing_is_not_blamed_on_the_rows(
    fault: str, endpoint: CountingEndpoint, rows: Path
) -> None:
    endpoint.knobs(fail_after=0, fail_with=fault)
    stopped = run(endpoint, rows)
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "endpoint")
    assert (stopped.summary["failed"], stopped.summary["done"]) == (0, 0)
    assert endpoint.stats()["requests"] < 60


@pytest.mark.parametrize("fault", ["503", "reset_inside"])
def test_an_endpoint_that_dies_on_the_way(fault: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Answers to what was in flight come in while other rows fail already: that is no sign that these are to blame."""
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    endpoint.knobs(fail_after=50, fail_with=fault, latency_s=0.02, jitter_s=0.2)
    stopped = run(endpoint, rows, "--set", "limits.max_outage=1s")
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "endpoint")
    assert (stopped.summary["ok"], stopped.summary["failed"]) == (endpoint.stats()["good"], 0)
    endpoint.knobs(fail_after=None, latency_s=0.0, jitter_s=0.0)
    finished = run(endpoint, rows)
    assert (finished.code, finished.summary["ok"]) == (0, 200)
    assert endpoint.stats()["repeats"] == 0


# ------------------------------------------------------------------------------------------------------ faults of a row

POISON = {
    # where, what comes: the row's http_status, error_code, words of the server
    "row 0.": ("400_context", 400, "context_length_exceeded", "maximum context length is 2048"),
    "row 9.": ("422", 422, None, "must be at most 1"),
    "row 19.": ("500", 500, None, "Internal error"),
    "row 29.": ("413", 413, None, "Request Entity Too Large"),
    "row 38.": ("empty_choices", 200, None, "no choices"),
    "row 39.": ("error_200", 200, None, "upstream failed"),
}


def test_poison_rows_fail_with_the_words_of_the_server_and_stop_no_other(
    endpoint: CountingEndpoint, rows: Path
) -> None:
    endpoint.knobs(poison={row: fault for row, (fault, *_) in POISON.items()})
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["status"]) == (1, "finished")
    assert (ended.summary["ok"], ended.summary["failed"]) == (34, 6)
    results = table(rows.parent / "out")
    assert results["id"].to_list() == [f"r{i}" for i in range(40)]
    for row, (_, status, code, words) in POISON.items():
        (failed,) = results.filter(pl.col("id") == f"r{row[4:-1]}").to_dicts()
        assert (failed["status"], failed["http_status"], failed["error_code"]) == ("failed", status, code)
        assert words in failed["error_message"]
        assert failed["content"] is None and failed["error_type"]
        assert words in failed["response"] if row != "row 38." else "choices" in failed["response"]
    assert results.filter(pl.col("status") == "ok").height == 34
    asked = {r["id"]: r["attempts"] for r in results.filter(pl.col("status") == "failed").to_dicts()}
    assert asked == {"r0": 1, "r9": 1, "r29": 1, "r19": 6, "r38": 6, "r39": 6}
    assert "first failure" in ended.err


def test_a_failed_row_is_asked_again_on_the_next_three_runs(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 5)
    endpoint.knobs(poison={"row 3.": "422"})
    requests = []
    for _ in range(5):
        ended = run(endpoint, rows)
        assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 4, 1)
        assert table(tmp_path / "out").height == 5
        requests.append(ended.summary["requests_sent"])
    assert requests == [5, 1, 1, 1, 0]
    assert "nothing is sent" in ended.err

    endpoint.knobs(poison={})
    assert run(endpoint, rows, "--set", "job.retry_failed=4").code == 0, "allowed one more time"
    assert set(table(tmp_path / "out")["status"]) == {"ok"}


def test_many_permanent_failures_use_up_their_chances(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """When only they are left, a probe of one token tells that it is them and not the endpoint."""
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(poison={f"row {i}.": "500" for i in range(12, 20)})
    codes = []
    for _ in range(5):
        ended = run(endpoint, rows)
        codes.append(ended.code)
        assert (ended.summary["ok"], ended.summary["failed"]) == (12, 8)
    assert codes == [1] * 5
    assert ended.summary["requests_sent"] == 0


@pytest.mark.parametrize("fault", ["403", "404_model", "404_url"])
def test_a_refusal_that_only_one_row_gets_is_of_that_row(
    fault: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 30)
    endpoint.knobs(poison={"row 7.": fault})
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 29, 1)


def test_a_key_that_is_forbidden_on_the_way_stops_the_run(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 100)
    endpoint.knobs(fail_after=50, fail_with="403")
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["stopped_by"], ended.summary["failed"]) == (3, "key", 0)
    assert endpoint.stats()["requests"] < 50 + 8 + 10


def test_a_row_that_no_rate_limit_lets_pass_ends(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 400)
    endpoint.knobs(poison={"row 7.": "429"}, retry_after_s=0.005)
    ended = run(endpoint, rows, "--rpm", "12000")
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 399, 1)
    (failed,) = table(tmp_path / "out").filter(pl.col("status") == "failed").to_dicts()
    assert (failed["id"], failed["http_status"]) == ("r7", 429)


@pytest.mark.parametrize("fault", ["400", "500"])
def test_one_row_alone_that_fails_is_that_row(fault: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(poison={"row": fault})
    ended = run(endpoint, write_rows(tmp_path / "rows.jsonl", 1))
    assert (ended.code, ended.summary["failed"]) == (1, 1)


def test_what_an_answer_came_to(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 6), tmp_path / "out"
    endpoint.knobs(poison={"row 1.": "finish_length", "row 2.": "finish_content_filter"})
    ended = run(endpoint, rows)
    assert ended.code == 0, "cut off and filtered are answers"
    assert (ended.summary["ok"], ended.summary["truncated"], ended.summary["filtered"]) == (4, 1, 1)
    results = table(out)
    assert results["status"].to_list() == ["ok", "truncated", "filtered", "ok", "ok", "ok"]
    assert results["finish_reason"].to_list()[:3] == ["stop", "length", "content_filter"]
    assert results["content"][1] == "echo: row 1.", "what there is of it is kept"
    assert "cut off by max_tokens" in ended.err
    assert run(endpoint, rows).summary["requests_sent"] == 0, "and final"


def test_an_answer_that_is_not_the_json_asked_for_is_invalid(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 3, response_format={"type": "json_object"}), tmp_path / "out"
    endpoint.knobs(answer='{"label": ')
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["invalid"]) == (1, 3)
    results = table(out)
    assert set(results["status"]) == {"invalid"}
    assert results["content"][0] == '{"label": ' and results["parsed"].null_count() == 3
    assert "not JSON" in results["error_message"][0]
    endpoint.knobs(answer='{"label": 1}')
    assert run(endpoint, rows).summary["requests_sent"] == 0, "asked again only when told to"
    assert run(endpoint, rows, "--out", tmp_path / "other").code == 0
    assert set(table(tmp_path / "other")["parsed"]) == {'{"label":1}'}


@pytest.mark.parametrize("fault", ["500", "503", "empty_choices", "truncated_json", "hang"])
def test_a_first_row_that_fails_for_ever_does_not_stop_the_others(
    fault: str, endpoint: CountingEndpoint, rows: Path
) -> None:
    endpoint.knobs(poison={"row 0.": fault})
    ended = run(endpoint, rows, "--set", "endpoint.timeout_s=0.5", "--set", "retry.attempts=3")
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 39, 1)
    assert table(rows.parent / "out")["status"][0] == "failed"


@pytest.mark.parametrize("fault", ["hang_inside", "drip"])
def test_a_row_that_hangs_does_not_hold_up_the_others(fault: str, endpoint: CountingEndpoint, rows: Path) -> None:
    endpoint.knobs(poison={"row 5.": fault})
    ended = run(endpoint, rows, "--set", "endpoint.timeout_s=0.3", "--set", "retry.attempts=2")
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 39, 1)
    (failed,) = table(rows.parent / "out").filter(pl.col("status") == "failed").to_dicts()
    assert (failed["id"], failed["attempts"], failed["error_type"]) == ("r5", 2, "timeout")
    assert "0.3 s" in failed["error_message"]


def test_a_row_that_cannot_be_asked_may_fail_alone(endpoint: CountingEndpoint, rows: Path) -> None:
    with rows.open("a") as stream:
        stream.write('{"id": "odd", "messages": "hello"}\n{not JSON\n')
    refused = run(endpoint, rows)
    assert (refused.code, endpoint.stats()["requests"]) == (2, 0)
    assert "rows.jsonl, line 41" in refused.err and "rows.jsonl, line 42" in refused.err
    ended = run(endpoint, rows, "--set", "input.on_bad_row=fail")
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 40, 2)
    assert endpoint.stats()["requests"] == 40
    bad = table(rows.parent / "out").filter(pl.col("status") == "failed")
    assert bad["row"].to_list() == [40, 41]
    assert set(bad["error_type"]) == {"input"} and set(bad["attempts"]) == {0}
    assert "line 41" in bad["error_message"][0] and "line 42" in bad["error_message"][1]


def test_history_tells_of_every_run(endpoint: CountingEndpoint, rows: Path) -> None:
    endpoint.knobs(script=["402"])
    run(endpoint, rows)
    run(endpoint, rows)
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (rows.parent / "out" / "history.jsonl").read_text().splitlines()
    ]
    assert [(line["status"], line["stopped_by"], line["exit_code"]) for line in lines] == [
        ("stopped", "credit", 3),
        ("finished", None, 0),
    ]
    assert lines[-1] == state(rows.parent / "out")
    assert len({line["run_id"] for line in lines}) == 2
