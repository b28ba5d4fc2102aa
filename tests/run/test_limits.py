"""Whole runs against limits: credit, budgets, outages, several endpoints, hours; and the word for what binds."""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchflex.core import TIMINGS
from tests.support.command_line import table, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.runs import Meanwhile, run, run_job, telemetry

BINDINGS = {"quota", "endpoint", "concurrency", "input", "client", "budget", "waiting"}


pytestmark = pytest.mark.usefixtures("brisk")


def good(count: int) -> Callable[[dict[str, Any]], bool]:
    """Whether so many whole answers were given."""
    return lambda seen: seen["good"] >= count


def said(outcome: str, count: int = 1) -> Callable[[dict[str, Any]], bool]:
    """Whether it was answered with this fault so often."""
    return lambda seen: seen["outcomes"].get(outcome, 0) >= count


def test_credit_that_ends_stops_the_run_and_a_top_up_lets_it_finish(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1_000)
    endpoint.knobs(latency_s=0.02, jitter_s=0.02, credit=500)
    stopped = run(endpoint, rows, "--concurrency", "64")
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "credit")
    assert (stopped.summary["ok"], stopped.summary["failed"]) == (500, 0)
    assert endpoint.stats()["outcomes"]["402"] <= 64
    endpoint.knobs(credit=10_000)
    finished = run(endpoint, rows, "--concurrency", "64")
    assert (finished.code, finished.summary["ok"], endpoint.stats()["repeats"]) == (0, 1_000, 0)


def test_credit_may_be_waited_for(meanwhile: Meanwhile, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 100)
    endpoint.knobs(credit=50)
    meanwhile.once(endpoint, said("402", 3), partial(endpoint.knobs, credit=10_000))
    ended = run(endpoint, rows, "--set", "limits.on_no_credit=wait")
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (0, 100, 0)
    assert "waiting for a top-up" in ended.err
    assert "there is credit again" in ended.err


@pytest.mark.parametrize("budget", ["tokens", "requests"])
def test_no_budget_is_passed_whatever_fails(budget: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 2_000)
    faults = {"500": 0.03, "503": 0.03, "close_inside": 0.02, "truncated_json": 0.02}
    endpoint.knobs(latency_s=0.01, tokens=100, tokens_spread=0.5, faults=faults)
    most = {"tokens": 100_000, "requests": 700}[budget]
    settings = ["--set", f"limits.budget_{budget}={most}", "--set", "max_tokens=150", "--set", "retry.base_s=0.01"]
    ended = run(endpoint, rows, "--concurrency", "64", *settings)
    assert (ended.code, ended.summary["stopped_by"], ended.summary["failed"]) == (3, "budget", 0)
    used = endpoint.stats()[budget]
    assert 0.97 * most <= used <= most if budget == "tokens" else used == most


@pytest.mark.parametrize("fault", ["503", "reset_before"])
def test_an_outage_fails_no_row_and_costs_few_requests(
    fault: str, meanwhile: Meanwhile, endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TIMINGS, "first_probe_s", 0.6)
    monkeypatch.setattr(TIMINGS, "next_probe_s", 0.6)
    rows = write_rows(tmp_path / "rows.jsonl", 900)
    endpoint.knobs(latency_s=0.06, jitter_s=0.05)
    meanwhile.once(endpoint, good(300), partial(endpoint.knobs, down=fault), 0.4, partial(endpoint.knobs, down=None))
    ended = run(endpoint, rows, "--concurrency", "32", "--set", "retry.base_s=0.5")
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (0, 900, 0)
    assert "does not answer" in ended.err
    assert "answers again" in ended.err
    # Those sent until the first failure was known, some to be certain, a probe or two.
    assert endpoint.stats()["requests"] - 900 <= 32 + 4 + 2


@pytest.mark.parametrize(
    ("rows_left", "concurrency", "attempts"),
    [(1, 1, 1), (1, 1, 6), (2, 1, 6), (2, 2, 1), (5, 1, 6), (5, 2, 2), (8, 3, 6)],
)
def test_an_outage_is_noticed_though_few_rows_are_left(
    rows_left: int, concurrency: int, attempts: int, meanwhile: Meanwhile, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """Too few to tell by their failures that it is not them, and their attempts are used up at once."""
    answered = 4
    rows = write_rows(tmp_path / "rows.jsonl", answered + rows_left)
    endpoint.knobs(latency_s=0.02, fail_after=answered, fail_with="503")
    meanwhile.once(endpoint, said("503", rows_left * attempts + 3), partial(endpoint.knobs, fail_after=None))
    settings = ["--set", "retry.base_s=0.001", "--set", f"retry.attempts={attempts}"]
    ended = run(endpoint, rows, "--concurrency", str(concurrency), *settings)
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (0, answered + rows_left, 0)
    assert "answers again" in ended.err


def test_a_short_outage_and_then_a_refused_key_fail_no_row(
    meanwhile: Meanwhile, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 2_000)
    endpoint.knobs(latency_s=0.02)
    meanwhile.once(endpoint, good(300), partial(endpoint.knobs, down="503"), 0.4, partial(endpoint.knobs, down="401"))
    ended = run(endpoint, rows, "--set", "retry.attempts=1")
    assert (ended.code, ended.summary["stopped_by"], ended.summary["failed"]) == (3, "key", 0)


def test_requests_that_hung_once_are_asked_again(
    meanwhile: Meanwhile, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """A row that was waited for as long as ``retry.max_s`` has had one attempt only."""
    rows = write_rows(tmp_path / "rows.jsonl", 400)
    endpoint.knobs(latency_s=0.05)
    meanwhile.once(endpoint, good(100), partial(endpoint.knobs, down="hang"), 0.4, partial(endpoint.knobs, down=None))
    settings = ["--set", "retry.max_s=1", "--set", "endpoint.timeout_s=1"]
    ended = run(endpoint, rows, "--concurrency", "16", *settings)
    assert (ended.code, ended.summary["ok"]) == (0, 400)
    assert ended.summary["retries"] >= 16


def test_a_rate_limit_that_lets_nothing_pass_fails_no_row(
    meanwhile: Meanwhile, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 60)
    endpoint.knobs(fail_after=20, fail_with="429_ms", retry_after_s=0.02)
    meanwhile.once(endpoint, lambda seen: seen["refused"] > 50, partial(endpoint.knobs, fail_after=None))
    ended = run(endpoint, rows)
    assert ended.summary["rate_limited"] > 50
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (0, 60, 0)


def test_probes_keep_to_the_limits(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 12)
    endpoint.knobs(fail_after=3, fail_with="503")
    settings = [
        "--set",
        "retry.attempts=2",
        "--set",
        "retry.base_s=0.001",
        "--deadline",
        "2s",
        "--set",
        "limits.rpm=120",
    ]
    ended = run(endpoint, rows, "--concurrency", "1", *settings)
    assert (ended.code, ended.summary["failed"]) == (3, 0)
    stats = endpoint.stats()
    assert stats["max_in_flight"] == 1
    sent = [record["at"] for record in endpoint.log()]
    assert all(later - sooner >= 0.2 for sooner, later in itertools.pairwise(sent)), "0.5 s, less what may be caught up"


def test_rows_that_fail_on_their_own_cost_few_probes(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 300)
    endpoint.knobs(latency_s=0.02, poison={f"row {i}.": "500" for i in range(10, 300, 8)})
    ended = run(endpoint, rows, "--concurrency", "32", "--set", "retry.attempts=2")
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 263, 37)
    stats = endpoint.stats()
    assert stats["max_in_flight"] <= 32
    assert stats["requests"] - 263 - 2 * 37 <= 10, "probes"


def test_an_endpoint_that_dies_while_its_credit_is_waited_for(
    meanwhile: Meanwhile, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 100)
    endpoint.knobs(latency_s=0.02, credit=30)
    meanwhile.once(endpoint, said("402", 3), partial(endpoint.knobs, down="reset_before"))
    ended = run(endpoint, rows, "--set", "limits.on_no_credit=wait", "--set", "limits.max_outage=1s")
    assert (ended.code, ended.summary["stopped_by"], ended.summary["failed"]) == (3, "endpoint", 0)


@pytest.mark.parametrize("attempts", [1, 2])
def test_what_one_endpoint_waits_for_the_other_answers(
    attempts: int, endpoint: CountingEndpoint, other: CountingEndpoint, tmp_path: Path
) -> None:
    """Rows that were given up at an endpoint without credit do not wait for its top-up."""
    rows = write_rows(tmp_path / "rows.jsonl", 100)
    endpoint.knobs(latency_s=0.02, script=["ok"] * 10 + ["500"] * 2 + ["402"] * 1_000)
    other.knobs(latency_s=0.02)
    entries = (f'[[endpoints]]\nname = "{n}"\nbase_url = "{e.base_url}"\n' for n, e in (("a", endpoint), ("b", other)))
    head = f'[job]\nout = "{tmp_path / "out"}"\n[input]\npath = "{rows}"\n[params]\nmodel = "m"\n'
    limits = f'[limits]\nconcurrency = 2\non_no_credit = "wait"\n[retry]\nattempts = {attempts}\nbase_s = 0.3\n'
    ended = run_job(tmp_path / "job.toml", head + limits + "".join(entries))
    assert (ended["code"], ended["ok"]) == (0, 100)


def test_an_endpoint_under_a_long_rate_limit_holds_up_no_other(
    endpoint: CountingEndpoint, other: CountingEndpoint, tmp_path: Path
) -> None:
    """Rows were given up at it, and it cannot be asked whether they were to blame."""
    rows = write_rows(tmp_path / "rows.jsonl", 150)
    poison = {f"row {i}.": "500" for i in range(30, 150, 10)}
    endpoint.knobs(latency_s=0.02, script=["ok"] * 10 + ["500"] * 2 + ["429"] * 1_000, retry_after_s=40)
    other.knobs(latency_s=0.02, poison=poison)
    entries = (f'[[endpoints]]\nname = "{n}"\nbase_url = "{e.base_url}"\n' for n, e in (("a", endpoint), ("b", other)))
    head = f'[job]\nout = "{tmp_path / "out"}"\n[input]\npath = "{rows}"\n[params]\nmodel = "m"\n'
    limits = "[limits]\nconcurrency = 2\n[retry]\nattempts = 1\n"
    ended = run_job(tmp_path / "job.toml", head + limits + "".join(entries))
    assert (ended["code"], ended["ok"], ended["failed"]) == (1, 150 - len(poison), len(poison))
    assert endpoint.stats()["requests"] <= 12 + 2, "it was asked nothing once it had asked to wait"


@pytest.mark.parametrize("attempts", [1, 3])
def test_poison_on_two_endpoints_of_which_one_dies(
    attempts: int, endpoint: CountingEndpoint, mortal: CountingEndpoint, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    """Whom to blame is asked of both at once, and one of them never answers that."""
    rows = write_rows(tmp_path / "rows.jsonl", 600)
    poison = {f"row {i}.": "500" for i in range(50, 600, 30)}
    for each in (endpoint, mortal):
        each.knobs(latency_s=0.02, poison=poison)
    meanwhile.once(mortal, good(100), mortal.kill)
    entries = (f'[[endpoints]]\nname = "{n}"\nbase_url = "{e.base_url}"\n' for n, e in (("a", endpoint), ("b", mortal)))
    head = f'[job]\nout = "{tmp_path / "out"}"\n[input]\npath = "{rows}"\n[params]\nmodel = "m"\n'
    limits = f"[limits]\nconcurrency = 4\n[retry]\nattempts = {attempts}\nbase_s = 0.05\n"
    ended = run_job(tmp_path / "job.toml", head + limits + "".join(entries))
    assert (ended["code"], ended["ok"], ended["failed"]) == (1, 600 - len(poison), len(poison))
    assert "does not answer" in ended["err"]


def test_an_outage_that_lasts_stops_the_run(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    endpoint.knobs(latency_s=0.01, fail_after=50, fail_with="503")
    ended = run(endpoint, rows, "--set", "limits.max_outage=1s")
    assert (ended.code, ended.summary["stopped_by"], ended.summary["failed"]) == (3, "endpoint", 0)
    assert "limits.max_outage" in ended.summary["message"]


def test_too_many_failures_end_a_run(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1_000)
    endpoint.knobs(faults={"400": 0.3}, seed=3)
    ended = run(endpoint, rows, "--set", "limits.max_failures=20")
    assert (ended.code, ended.summary["stopped_by"]) == (3, "failures")
    assert (ended.summary["failed"], ended.summary["done"]) == (0, ended.summary["ok"])
    assert "21 of " in ended.summary["message"] and "No row was marked failed for it" in ended.summary["message"]
    assert ended.summary["message"].count("the request is malformed") == 1


@pytest.mark.parametrize("dies", [False, True])
def test_two_endpoints_share_the_rows(
    dies: bool, endpoint: CountingEndpoint, mortal: CountingEndpoint, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 600)
    endpoint.knobs(rpm=100, window_s=1.0, latency_s=0.05)
    mortal.knobs(rpm=500, window_s=1.0, latency_s=0.05)
    if dies:
        meanwhile.once(mortal, good(300), mortal.kill)
    ended = run_job(
        tmp_path / "job.toml",
        f"""
        [job]
        out = "{tmp_path / "out"}"
        [input]
        path = "{rows}"
        [params]
        model = "m"
        [[endpoints]]
        name = "small"
        base_url = "{endpoint.base_url}"
        model = "m-small"
        [[endpoints]]
        name = "large"
        base_url = "{mortal.base_url}"
        """,
    )
    assert (ended["code"], ended["ok"], ended["failed"]) == (0, 600, 0)
    by = dict(table(tmp_path / "out")["endpoint"].value_counts().iter_rows())
    assert by.keys() == {"small", "large"}
    assert by["small"] == endpoint.stats()["good"]
    if not dies:
        assert by["large"] > by["small"]


def test_endpoints_with_one_key_share_its_quota(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with a key for two models: what one of them uses of the quota is not there for the other.

    A few are refused: what a busy machine holds up over the end of a window counts in the next one.
    """
    monkeypatch.setenv("SHARED_KEY", "sk-shared")
    monkeypatch.setattr(TIMINGS, "telemetry_every_s", 0.5)
    rows = write_rows(tmp_path / "rows.jsonl", 130)
    endpoint.knobs(rpm=50, window_s=2.0, latency_s=0.05, limit_headers=True)
    entries = "".join(
        f'[[endpoints]]\nname = "{n}"\nbase_url = "{endpoint.base_url}"\napi_key_env = "SHARED_KEY"\nmodel = "{n}"\n'
        for n in ("one", "two")
    )
    head = f'[job]\nout = "{tmp_path / "out"}"\n[input]\npath = "{rows}"\n[params]\nmodel = "m"\n'
    ended = run_job(tmp_path / "job.toml", head + entries)
    assert (ended["code"], ended["ok"]) == (0, 130)
    assert set(table(tmp_path / "out")["endpoint"]) == {"one", "two"}
    assert ended["rate_limited"] <= 6
    rates = [[each["requests_per_minute"] for each in line["endpoints"]] for line in telemetry(tmp_path / "out")]
    assert rates and all(one == two for one, two in rates)


def test_a_key_that_one_endpoint_refuses_leaves_the_other(
    endpoint: CountingEndpoint, other: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 100)
    endpoint.knobs(key="another")
    one, two = (f'[[endpoints]]\nname = "{n}"\nbase_url = "{e.base_url}"\n' for n, e in (("a", endpoint), ("b", other)))
    head = f'[job]\nout = "{tmp_path / "out"}"\n[input]\npath = "{rows}"\n[params]\nmodel = "m"\n'
    ended = run_job(tmp_path / "job.toml", head + one + two)
    assert (ended["code"], ended["ok"]) == (0, 100)
    assert endpoint.stats()["requests"] == 1
    assert "a is not used any more" in ended["err"]


def test_nothing_is_sent_outside_of_the_hours(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 10)
    soon = datetime.datetime.now() + datetime.timedelta(hours=2)
    hours = f"{soon:%H:%M}-{soon + datetime.timedelta(hours=1):%H:%M}"
    ended = run(endpoint, rows, "--set", f"limits.active_hours={hours}", "--deadline", "1s")
    assert (ended.code, ended.summary["stopped_by"]) == (3, "deadline")
    assert endpoint.stats()["requests"] == 0
    assert "active_hours" in ended.err


def test_a_deadline_lets_what_is_in_flight_end(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 2_000)
    endpoint.knobs(latency_s=0.7)
    began = time.time()
    ended = run(endpoint, rows, "--deadline", "2s", "--set", "limits.grace_s=0.1", "--concurrency", "16")
    assert (ended.code, ended.summary["stopped_by"]) == (3, "deadline")
    assert endpoint.stats()["abandoned"] == 0
    assert max(record["at"] for record in endpoint.log()) < began + 20
    assert ended.summary["ok"] == endpoint.stats()["good"]


def test_telemetry_says_what_binds(endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TIMINGS, "telemetry_every_s", 1.0)
    rows = write_rows(tmp_path / "rows.jsonl", 60)
    endpoint.knobs(rpm=20, window_s=1.0)
    ended = run(endpoint, rows)
    assert ended.code == 0
    lines = telemetry(rows.parent / "out")
    assert lines
    assert {line["binding"] for line in lines} <= BINDINGS
    assert lines[-1]["binding"] == "quota"
    assert lines[-1]["endpoints"][0]["requests_per_minute"] == pytest.approx(1_200, rel=0.05)
    assert pl.DataFrame(lines)["run_id"].n_unique() == 1


def test_the_queue_that_a_server_shows_bounds_what_it_gets(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Its answers come as fast as ever, so by them there would be no bound. By simulation: test_concurrency_limit.py."""
    rows = write_rows(tmp_path / "rows.jsonl", 400)
    endpoint.knobs(latency_s=0.02, metrics="vllm", queued=100)
    ended = run(endpoint, rows, "--concurrency", "auto")
    seen = endpoint.stats()
    assert (ended.code, seen["good"]) == (0, 400)
    assert "GET /metrics" in seen["elsewhere"]
    assert seen["max_in_flight"] <= 32
