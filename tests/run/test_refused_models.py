"""A model that is not there, or not for this key, is a fault of that model's rows; one that is still loading is waited for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from tests.support.command_line import called, message, table, write_rows
from tests.support.counting_endpoint import CountingEndpoint

UNKNOWN: dict[str, Any] = {
    "status": 400,
    "body": {
        "error": {
            "message": "/chat/completions: Invalid model name passed in model=gone. Call `/v1/models` to view models.",
            "type": "invalid_request_error",
            "param": None,
            "code": "400",
        }
    },
}
DENIED: dict[str, Any] = {
    "status": 403,
    "body": {"error": {"message": "not for you", "type": "key_model_access_denied", "param": "model", "code": "403"}},
}
LOADING: dict[str, Any] = {
    "status": 503,
    "body": {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
}


pytestmark = pytest.mark.usefixtures("brisk")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCHFLEX_API_KEY", "FLEXAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def job(endpoint: CountingEndpoint, rows: Path, **more: Any) -> dict[str, Any]:
    return {
        "job": {"name": "j", "out": str(rows.parent / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(rows)},
        "retry": {"base_s": 0.001},
        **more,
    }


@pytest.mark.parametrize("said", [UNKNOWN, DENIED], ids=["unknown", "denied"])
@pytest.mark.parametrize("models", [["gone", "m"], ["m", "gone"], ["m", "gone", "other"]])
def test_of_several_swept_models_the_others_go_on(
    models: list[str], said: dict[str, Any], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(said=said, poison={'"gone"': "said"})
    swept = job(endpoint, rows, sweep={"model": models}, limits={"concurrency": 4})
    run = batchflex.run(swept)
    others = 20 * (len(models) - 1)
    assert (run.exit_code, run.stopped_by) == (3, "model")
    assert (run.summary["ok"], run.summary["failed"], run.summary["done"]) == (others, 0, others)
    assert said["body"]["error"]["message"] in run.summary["message"]
    assert "gone" not in set(run.results()["model"])
    refused = endpoint.stats()["outcomes"]["said"]
    assert refused <= 5, "what was in flight, and one request for a token"

    again = batchflex.run(swept)
    assert again.stopped_by == "model" and again.summary["requests_sent"] == 1, "the others are not asked again"
    endpoint.knobs(poison={})
    finished = batchflex.run(swept)
    assert (finished.exit_code, finished.summary["ok"]) == (0, 20 * len(models))
    assert endpoint.stats()["repeats"] == 0


def test_rows_that_bring_a_model_that_is_not_there_stay_unanswered(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as stream:
        for number in range(30):
            model = "gone" if number % 3 == 0 else "m"
            stream.write(json.dumps({"id": f"r{number}", "messages": message(f"row {number}."), "model": model}) + "\n")
    endpoint.knobs(said=UNKNOWN, poison={'"gone"': "said"})
    run = batchflex.run(job(endpoint, rows))
    assert (run.stopped_by, run.summary["ok"], run.summary["failed"]) == ("model", 20, 0)
    endpoint.knobs(poison={})
    assert batchflex.run(job(endpoint, rows)).summary["ok"] == 30


def test_a_row_that_alone_is_refused_for_a_model_that_others_have_is_failed(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(said=UNKNOWN, poison={"row 7.": "said", "row 9.": "said"})
    run = batchflex.run(job(endpoint, rows, params={"model": "m"}))
    assert (run.exit_code, run.summary["ok"], run.summary["failed"]) == (1, 18, 2)
    # A request for one token tells for all that were refused before it was sent.
    assert endpoint.stats()["requests"] in (21, 22)


def test_every_model_refused_is_the_end_at_once(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(said=DENIED, fail_after=0, fail_with="said")
    stopped = called("run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", tmp_path / "out", "--json")
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "model")
    assert endpoint.stats()["requests"] == 1
    assert "does not let this key use the model" in stopped.summary["message"]
    assert "batchflex check" in stopped.summary["message"] and "set a valid key" not in stopped.summary["message"]


# ------------------------------------------------------------------------------------------- an endpoint that is starting


def test_an_endpoint_that_is_loading_is_waited_for_from_the_start(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(said=LOADING, script=["said"] * 5)
    told: list[str] = []

    class Watch:
        def note(self, text: str) -> None:
            told.append(text)

        def tick(self, run_state: Any) -> None:
            pass

    run = batchflex.run(job(endpoint, rows, params={"model": "m"}), observer=Watch())
    assert (run.exit_code, run.summary["ok"]) == (0, 20)
    assert any("is starting (Loading model); waiting for it" in text for text in told), told
    assert any("answers again" in text for text in told)
    assert run.results()["attempts"].max() == 2


def test_but_for_no_longer_than_an_outage_may_last(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(said=LOADING, fail_after=0, fail_with="said")
    run = batchflex.run(job(endpoint, rows, params={"model": "m"}, limits={"max_outage": "1s"}))
    assert (run.exit_code, run.stopped_by, run.summary["failed"]) == (3, "endpoint", 0)
    assert "Loading model" in run.summary["message"] and "max_outage" in run.summary["message"]


# --------------------------------------------------------------------------------------------------- which rule applied


def test_check_says_which_rule_applied(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(said=DENIED, script=["said"])
    told = called("check", "--base-url", endpoint.base_url, "--model", "m")
    assert told.code == 3
    assert "rule      model_denied_code" in told.out
    assert "does not let this key use the model" in told.out


def test_debug_says_which_rules_applied(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 10)
    options = ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--set", "retry.base_s=0.01"]
    endpoint.knobs(poison={"row 3.": "400_context", "row 4.": "400_context"}, script=["500"])
    plain = called(*options, "--out", tmp_path / "one")
    assert "read by the rule" not in plain.err
    endpoint.knobs(script=["500"])
    debugged = called("--debug", *options, "--out", tmp_path / "two")
    assert debugged.err.count("read by the rule too_large_code") == 1, "once for each rule"
    assert "read by the rule status_500: HTTP 500, server_error" in debugged.err


# ---------------------------------------------------------------------------------------------- words of an endpoint's own


def test_a_job_may_say_what_a_finish_reason_means(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 6)
    choice = {"index": 0, "message": {"role": "assistant", "content": "some"}, "finish_reason": "LOOPED-OUT"}
    endpoint.knobs(said={"status": 200, "body": {"choices": [choice]}}, poison={"row 2.": "said"})
    asks = ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--json"]
    assert called(*asks, "--out", tmp_path / "one").summary["ok"] == 6
    own = ["--set", 'endpoint.finish_reasons={looped_out = "truncated"}']
    cut = called(*asks, "--out", tmp_path / "two", *own)
    assert (cut.summary["ok"], cut.summary["truncated"]) == (5, 1)
    keys = [set(table(tmp_path / folder)["key"]) for folder in ("one", "two")]
    assert keys[0] == keys[1], "how answers are read is no part of a request"
    wrong = called(*asks, "--out", tmp_path / "three", "--set", 'endpoint.finish_reasons={odd = "perhaps"}')
    assert wrong.code == 2 and "'ok', 'truncated', 'filtered' or 'again'" in wrong.err


def test_each_of_several_endpoints_has_its_own_words(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 4)
    choice = {"index": 0, "message": {"role": "assistant", "content": "some"}, "finish_reason": "stop"}
    endpoint.knobs(said={"status": 200, "body": {"choices": [choice]}}, fail_after=0, fail_with="said")
    here = {"base_url": endpoint.base_url, "finish_reasons": {"stop": "filtered"}}
    several = job(endpoint, rows, params={"model": "m"}, endpoints=[here])
    del several["endpoint"]
    run = batchflex.run(several)
    assert run.summary["filtered"] == 4
    assert 'stop = "filtered"' in (tmp_path / "out" / "job.toml").read_text()
    assert isinstance(run.results(), pl.DataFrame)


# ------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    "repeat", ['data: {"type": "ping"}\n\n', "event: ping\ndata: {}\n\n", 'data: {"choices": []}\n\n', ": ping\n\n"]
)
def test_a_stream_that_only_pings_is_given_up(repeat: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 3)
    headers = {"content-type": "text/event-stream"}
    endpoint.knobs(said={"status": 200, "headers": headers, "repeat": repeat}, poison={"row 1.": "said"})
    spec = job(endpoint, rows, params={"model": "m"})
    spec["endpoint"] |= {"stream": True, "timeout_s": 0.2}
    spec["retry"]["attempts"] = 2
    run = batchflex.run(spec)
    (failed,) = run.results().filter(pl.col("status") == "failed").to_dicts()
    assert (failed["id"], failed["error_type"], run.summary["ok"]) == ("r1", "timeout", 2)


# ------------------------------------------------------------------------- each model by itself, at each endpoint by itself


@pytest.mark.parametrize("fault", ["500", "503", "close_before"])
@pytest.mark.parametrize("models", [["bad", "m"], ["m", "bad"]])
def test_of_a_model_that_does_not_answer_no_row_is_failed(
    models: list[str], fault: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """Another model's answers prove nothing against its rows; they prove that the endpoint is not down."""
    rows = write_rows(tmp_path / "rows.jsonl", 30)
    endpoint.knobs(poison={'"bad"': fault})
    swept = job(
        endpoint, rows, sweep={"model": models}, limits={"concurrency": 4}, retry={"base_s": 0.001, "attempts": 2}
    )
    run = batchflex.run(swept)
    assert (run.exit_code, run.stopped_by) == (3, "endpoint")
    assert (run.summary["ok"], run.summary["failed"], run.summary["done"]) == (30, 0, 30)
    assert "the model 'bad' is not asked any more: it does not answer, and others do" in run.summary["given_up"][0]
    assert "No row was marked failed for it" in run.summary["message"]
    endpoint.knobs(poison={})
    assert batchflex.run(swept).summary["ok"] == 60


def test_rows_that_fail_for_good_are_failed_although_their_model_had_answered_nothing_yet(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(poison={"row 0.": "500", "row 1.": "500"})
    swept = job(endpoint, rows, sweep={"model": ["a", "b"]}, retry={"base_s": 0.001, "attempts": 2})
    run = batchflex.run(swept)
    assert (run.exit_code, run.summary["ok"], run.summary["failed"]) == (1, 36, 4)


def two(one: CountingEndpoint, other: CountingEndpoint, rows: Path, **more: Any) -> dict[str, Any]:
    several = job(one, rows, sweep={"model": ["a", "b"]}, **more)
    several["endpoints"] = [
        {"name": n, **several["endpoint"], "base_url": e.base_url} for n, e in (("one", one), ("two", other))
    ]
    del several["endpoint"]
    return several


@pytest.mark.parametrize("fault", ["said", "400_hold", "503"])
def test_a_model_that_one_endpoint_lacks_is_asked_at_the_other(
    fault: str, endpoint: CountingEndpoint, other: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 60)
    endpoint.knobs(said=UNKNOWN, poison={'"b"': fault}, latency_s=0.005)
    other.knobs(latency_s=0.005)
    run = batchflex.run(two(endpoint, other, rows, retry={"base_s": 0.001, "attempts": 2}))
    assert (run.exit_code, run.summary["ok"], run.summary["failed"]) == (0, 120, 0), run.summary["message"]
    answered = run.results().group_by("endpoint", "model").len().sort("endpoint", "model").rows()
    assert [each[:2] for each in answered] == [("one", "a"), ("two", "a"), ("two", "b")]
    if fault != "503":  # that may as well be a row's; where another endpoint is there the rows go there
        assert run.summary["given_up"][0].startswith("the model 'b' is not asked any more at one: ")


def test_a_model_that_no_endpoint_has_is_set_aside_also_when_the_one_that_had_it_is_gone(
    endpoint: CountingEndpoint, other: CountingEndpoint, tmp_path: Path
) -> None:
    """One lacks the model, the other's key is refused after a while."""
    rows = write_rows(tmp_path / "rows.jsonl", 60)
    endpoint.knobs(said=UNKNOWN, poison={'"b"': "said"}, latency_s=0.005)
    other.knobs(latency_s=0.005, fail_after=20, fail_with="401")
    run = batchflex.run(two(endpoint, other, rows))
    assert (run.exit_code, run.stopped_by, run.summary["failed"]) == (3, "model", 0)
    answered = run.results().group_by("model").len()
    assert dict(answered.rows())["a"] == 60, "the others go on to the end"
    endpoint.knobs(poison={})
    assert batchflex.run(two(endpoint, other, rows)).summary["ok"] == 120
    assert endpoint.stats()["repeats"] == 0


def test_a_limit_that_lets_nothing_of_one_model_through_ends_for_that_model(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """Its rows are not too large for the limit: none of them was let through."""
    rows = write_rows(tmp_path / "rows.jsonl", 30)
    endpoint.knobs(poison={'"slow"': "429"}, retry_after_s=0.001)
    swept = job(endpoint, rows, sweep={"model": ["slow", "m"]}, limits={"concurrency": 4, "max_wait": "3s"})
    run = batchflex.run(swept)
    assert (run.exit_code, run.stopped_by, run.summary["failed"], run.summary["ok"]) == (3, "quota", 0, 30)
    assert "the model 'slow' is not asked any more: the endpoint has let nothing through" in run.summary["given_up"][0]
    endpoint.knobs(poison={})
    assert batchflex.run(swept).summary["ok"] == 60


def test_a_limit_that_lets_no_request_of_the_run_s_own_through_ends_too(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """Rows have failed, and whose fault that is would be found out by a request for one token: which is refused for ever."""
    rows = write_rows(tmp_path / "rows.jsonl", 10)
    endpoint.knobs(poison={'"content":"ok"': "429", '"slow"': "500"}, retry_after_s=0.05)
    limits, retry = {"concurrency": 4, "max_wait": "2s"}, {"base_s": 0.001, "attempts": 1}
    run = batchflex.run(job(endpoint, rows, sweep={"model": ["slow", "m"]}, limits=limits, retry=retry))
    assert (run.exit_code, run.stopped_by, run.summary["failed"], run.summary["ok"]) == (3, "quota", 0, 10)


def test_where_credit_is_waited_for_a_refused_model_is_no_reason_to_wait_longer(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(said=UNKNOWN, script=["402"], fail_after=0, fail_with="said")
    run = batchflex.run(job(endpoint, rows, params={"model": "m"}, limits={"on_no_credit": "wait"}))
    assert (run.exit_code, run.stopped_by, run.summary["failed"]) == (3, "model", 0)
    assert endpoint.stats()["requests"] <= 4


@pytest.mark.usefixtures("brisk")
def test_a_key_that_is_refused_where_alone_the_model_is_left_ends_the_run_by_that(
    endpoint: CountingEndpoint, other: CountingEndpoint, tmp_path: Path
) -> None:
    """One endpoint does not have the model; then the other refuses the key, long before the input has been gone through."""
    rows = write_rows(tmp_path / "rows.jsonl", 3_000)
    endpoint.knobs(said=UNKNOWN, fail_after=0, fail_with="said")
    other.knobs(fail_after=30, fail_with="401", latency_s=0.02)
    run = batchflex.run(two(endpoint, other, rows, params={"model": "gone"}, limits={"concurrency": 4}))
    assert (run.exit_code, run.stopped_by, run.summary["failed"]) == (3, "key", 0)
    assert run.summary["ok"] == other.stats()["good"] > 0
