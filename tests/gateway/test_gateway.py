"""What a real LiteLLM proxy says is understood: its limits are kept and used, its faults are the run's and not the rows'."""

from __future__ import annotations

import threading
import time
from typing import Any

import polars as pl
import pytest

import batchflex
from tests.gateway.conftest import Gateway

SHORT = {"max_tokens": 50}


def assert_all_answered(run: Any, rows: int) -> pl.DataFrame:
    assert run.stopped_by is None, run.summary["message"]
    assert (run.summary["done"], run.summary["ok"], run.summary["failed"]) == (rows, rows, 0)
    table = run.results()
    assert table["id"].to_list() == [f"r{n}" for n in range(rows)]
    return table


def assert_stopped(run: Any, reason: str, requests: int = 1) -> None:
    """By this reason, after so few requests, and no row marked failed for it."""
    assert run.stopped_by == reason and run.exit_code == 3, run.summary["message"]
    assert run.summary["failed"] == 0
    assert run.summary["requests_sent"] <= requests


# ------------------------------------------------------------------------------------------------------- answers


def test_answers_are_kept_with_what_the_proxy_says_of_them(gateway: Gateway) -> None:
    table = assert_all_answered(gateway.run(300, "free"), 300)
    assert table["content"].to_list() == [f"echo: row {n} " for n in range(300)]
    assert table["total_tokens"].null_count() == 0
    assert table["request_id"].n_unique() == 300  # x-litellm-call-id
    assert gateway.upstream.stats()["repeats"] == 0


def test_streamed_answers_are_whole_and_have_their_usage(gateway: Gateway) -> None:
    table = assert_all_answered(gateway.run(300, "free", endpoint={"stream": True}), 300)
    assert table["content"].to_list() == [f"echo: row {n} " for n in range(300)]
    assert table["completion_tokens"].null_count() == 0
    assert set(table["finish_reason"]) == {"stop"}
    assert table["attempts"].sum() == 300


def test_tool_calls_come_through_streamed(gateway: Gateway) -> None:
    gateway.upstream.knobs(tool_calls=[{"id": "c", "name": "f", "arguments": '{"a": 1}'}])
    table = assert_all_answered(gateway.run(20, "free", endpoint={"stream": True}), 20)
    assert table["tool_calls"].null_count() == 0


# -------------------------------------------------------------------------------------------------------- limits


def test_a_key_s_parallel_requests_are_a_ceiling_on_what_is_in_flight(gateway: Gateway) -> None:
    """A refusal asks for 60 s, and a slot is free as soon as any request ends."""
    gateway.upstream.knobs(latency_s=0.5)
    run = gateway.run(400, "max_parallel_requests=10")
    assert_all_answered(run, 400)
    assert run.summary["rate_limited"] <= 8  # 2 %
    assert gateway.upstream.stats()["max_in_flight"] <= 10


def test_three_slots_with_quick_answers(gateway: Gateway) -> None:
    gateway.upstream.knobs(latency_s=0.05)
    run = gateway.run(300, "max_parallel_requests=3")
    assert_all_answered(run, 300)
    assert run.summary["rate_limited"] <= 15


def test_parallel_requests_with_streams(gateway: Gateway) -> None:
    gateway.upstream.knobs(latency_s=0.2)
    run = gateway.run(300, "max_parallel_requests=20", endpoint={"stream": True})
    assert_all_answered(run, 300)


def test_requests_a_minute_of_a_key(gateway: Gateway) -> None:
    run = gateway.run(300, "rpm_limit=120")
    assert_all_answered(run, 300)
    assert run.summary["rate_limited"] <= 15


def test_tokens_a_minute_of_a_key(gateway: Gateway) -> None:
    gateway.upstream.knobs(tokens=20)
    run = gateway.run(300, "tpm_limit=4000")
    assert_all_answered(run, 300)


def test_both_limits_of_a_key(gateway: Gateway) -> None:
    gateway.upstream.knobs(latency_s=0.2)
    run = gateway.run(300, "rpm_limit=200.max_parallel_requests=5")
    assert_all_answered(run, 300)


def test_deployments_with_limits_of_their_own(gateway: Gateway) -> None:
    """Two deployments of one model, 100 and 200 requests a minute: which one answers changes."""
    run = gateway.run(400, "free", params={"model": "limited"})
    assert_all_answered(run, 400)


# -------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", ["500", "429", "502_html"])
def test_deployments_that_cool_down_are_waited_for(fault: str, gateway: Gateway) -> None:
    gateway.upstream.knobs(latency_s=0.02, faults={fault: 0.05}, fault_attempts=1, retry_after_s=1.0)
    assert_all_answered(gateway.run(300, "free"), 300)


def test_an_upstream_outage_is_waited_for(gateway: Gateway) -> None:
    gateway.upstream.knobs(latency_s=0.05)

    def fail_for_a_while() -> None:
        time.sleep(2)
        gateway.upstream.knobs(down="503")
        time.sleep(8)
        gateway.upstream.knobs(down=None)

    thread = threading.Thread(target=fail_for_a_while)
    thread.start()
    try:
        assert_all_answered(gateway.run(600, "free", limits={"concurrency": 8}), 600)
    finally:
        thread.join()


def test_a_stream_that_breaks_behind_the_proxy_is_asked_again(gateway: Gateway) -> None:
    # One that its upstream ends early, but in order, cannot be told: the proxy itself ends it with `stop`.
    gateway.upstream.knobs(faults={"reset_inside": 0.05, "stream_error": 0.05}, fault_attempts=1)
    table = assert_all_answered(gateway.run(300, "free", endpoint={"stream": True}), 300)
    assert table["content"].to_list() == [f"echo: row {n} " for n in range(300)]


def test_rows_that_are_refused_by_the_upstream_are_the_only_ones_to_fail(gateway: Gateway) -> None:
    gateway.upstream.knobs(poison={"row 7 ": "400_context", "row 77 ": "422"})
    run = gateway.run(300, "free")
    assert run.exit_code == 1 and run.stopped_by is None
    failed = run.results().filter(pl.col("status") == "failed")
    assert failed["id"].to_list() == ["r7", "r77"]


# ------------------------------------------------------------------------------------------- faults of the whole run


def test_a_spent_budget_stops_the_run_and_marks_no_row(gateway: Gateway) -> None:
    stopped = gateway.run(300, "budget=spent")
    assert_stopped(stopped, "credit")
    assert gateway.upstream.stats()["requests"] == 0
    assert_all_answered(gateway.run(300, "free"), 300)


def test_an_upstream_without_money_stops_the_run(gateway: Gateway) -> None:
    gateway.upstream.knobs(fail_after=50, fail_with="429_quota", latency_s=0.02)
    stopped = gateway.run(300, "free", limits={"concurrency": 4})
    assert_stopped(stopped, "credit", requests=60)
    gateway.upstream.knobs(fail_after=None)
    time.sleep(5)  # the proxy keeps the deployment cool
    assert_all_answered(gateway.run(300, "free"), 300)


def test_a_wrong_model_stops_the_run(gateway: Gateway) -> None:
    assert_stopped(gateway.run(300, "free", params={"model": "nope"}), "model")
    assert_all_answered(gateway.run(300, "free", job={"on_change": "rerun"}), 300)


def test_of_several_models_the_others_go_on(gateway: Gateway) -> None:
    run = gateway.run(150, "free", sweep={"model": ["m", "nope", "other"]})
    assert run.stopped_by == "model" and run.exit_code == 3
    assert "nope" in run.summary["message"]
    table = run.results()
    assert dict(table.group_by("model").len().iter_rows()) == {"m": 150, "other": 150}
    assert set(table["status"]) == {"ok"}


def test_a_model_that_the_key_may_not_use_stops_the_run(gateway: Gateway) -> None:
    stopped = gateway.run(300, "models=other")
    assert_stopped(stopped, "model")
    assert_all_answered(gateway.run(300, "models=m"), 300)


@pytest.mark.parametrize("key", ["unknown", "expired"])
def test_a_wrong_key_stops_the_run(key: str, gateway: Gateway) -> None:
    assert_stopped(gateway.run(300, key), "key")
    assert_all_answered(gateway.run(300, "free"), 300)


def test_a_fallback_is_not_mixed_in_unseen(gateway: Gateway) -> None:
    with pytest.warns(batchflex.JobWarning, match="20 by 'other' in place of 'broken'"):
        run = gateway.run(20, "free", params={"model": "broken"})
    assert_all_answered(run, 20)
    assert set(run.results()["model"]) == {"other"}
