"""Answers without text: a status of their own, counted and told, and asked again only when somebody says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from batchflex.config.run_outcomes import is_news
from tests.support.command_line import called, table, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.recorder import Recorder


def options(endpoint: CountingEndpoint, rows: Path, *more: object) -> list[object]:
    asks = ["--base-url", endpoint.base_url, "--model", "m", "--set", "retry.base_s=0.01"]
    return ["run", rows, *asks, "--out", rows.parent / "out", "--json", *more]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 6)


def test_a_row_without_text_is_told_and_asked_again_by_a_retry_alone(endpoint: CountingEndpoint, rows: Path) -> None:
    out = rows.parent / "out"
    endpoint.knobs(poison={"row 2.": "empty_content"}, reasoning="Let me think.")
    ended = called(*options(endpoint, rows))
    assert (ended.code, ended.summary["ok"], ended.summary["empty"], ended.summary["failed"]) == (1, 5, 1, 0)
    assert ended.summary["first_failure"].startswith("r2: the answer has no text, only reasoning")
    assert "5 ok, 1 empty" in ended.err and "status = 'empty'" in ended.err
    (row,) = table(out).filter(pl.col("status") == "empty").to_dicts()
    assert (row["id"], row["content"], row["error_type"]) == ("r2", "", "empty_answer")
    assert row["reasoning"] == "Let me think." and row["completion_tokens"] is not None, "it was paid for"

    endpoint.knobs(poison={})
    again = called(*options(endpoint, rows))
    assert (again.code, again.summary["requests_sent"], again.summary["empty"]) == (1, 0, 1)
    assert again.summary["first_failure"] is None
    retried = called("retry", out, "--where", "status = 'empty'", "--set", "max_tokens=400", "--json")
    assert (retried.code, retried.summary["requests_sent"], retried.summary["ok"], retried.summary["empty"]) == (
        0,
        1,
        6,
        0,
    )
    history = [json.loads(line)["empty"] for line in (out / "history.jsonl").read_text().splitlines()]
    assert history == [1, 1, 0]


def test_a_job_may_take_empty_answers_for_good(endpoint: CountingEndpoint, rows: Path) -> None:
    endpoint.knobs(answer=" \n")
    ended = called(*options(endpoint, rows, "--set", "answer.allow_empty=true"))
    assert (ended.code, ended.summary["ok"], ended.summary["empty"]) == (0, 6, 0)
    assert set(table(rows.parent / "out")["content"]) == {" \n"}


def test_where_json_was_asked_for_it_is_invalid(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 2, response_format={"type": "json_object"})
    endpoint.knobs(answer="")
    ended = called(*options(endpoint, rows, "--set", "answer.allow_empty=true"))
    assert (ended.code, ended.summary["invalid"], ended.summary["empty"]) == (1, 2, 0)


def test_it_is_in_the_report_the_metrics_and_the_history(
    endpoint: CountingEndpoint, rows: Path, tmp_path: Path
) -> None:
    endpoint.knobs(poison={"row 2.": "empty_content"})
    metrics = tmp_path / "job.prom"
    called(*options(endpoint, rows, "--set", f"notify.metrics_file={metrics}"))
    assert 'batchflex_rows{job_name="rows",status="empty"} 1.0' in metrics.read_text()
    told = called("report", tmp_path / "out", "--json")
    assert json.loads(told.out)["statuses"] == {
        "ok": 5,
        "truncated": 0,
        "filtered": 0,
        "empty": 1,
        "invalid": 0,
        "failed": 0,
    }
    assert "st-empty" in (tmp_path / "out" / "report.html").read_text()
    shown = called("history", tmp_path / "out").out
    assert "empty" in shown.splitlines()[1]


@pytest.mark.parametrize(
    ("state", "news"),
    [
        ({"exit_code": 1, "first_failure": "r1: no"}, True),
        ({"exit_code": 1, "first_failure": None}, False),
        ({"exit_code": 0, "first_failure": None}, True),
        ({"exit_code": 3, "first_failure": None}, True),
    ],
)
def test_only_a_run_that_got_a_bad_row_has_something_to_tell(state: dict[str, Any], news: bool) -> None:
    assert is_news(state) is news


def test_somebody_is_told_in_the_run_that_got_it_and_not_again_each_night(
    endpoint: CountingEndpoint, rows: Path
) -> None:
    with Recorder() as told:
        endpoint.knobs(poison={"row 2.": "empty_content"})
        job: dict[str, Any] = {
            "job": {"name": "j", "out": str(rows.parent / "out")},
            "endpoint": {"base_url": endpoint.base_url},
            "input": {"path": str(rows)},
            "params": {"model": "m"},
            "notify": {"webhook": told.url, "ping": f"{told.url}/switch", "on": ["failure", "stopped", "recovered"]},
        }
        for _ in range(3):
            assert batchflex.run(job).exit_code == 1
        write_rows(rows, 12)
        assert batchflex.run({**job, "limits": {"budget_requests": 2}}).exit_code == 3
        assert batchflex.run(job).exit_code == 1, "of the row that was bad before"
        endpoint.knobs(poison={})
        assert batchflex.retry(rows.parent / "out", where="status = 'empty'").exit_code == 0
        assert batchflex.run(job).exit_code == 0
    events = [got.json["event"] for got in told.got if not got.path.startswith("/switch")]
    assert events == ["failure", "stopped", "recovered"]
    ends = [got.path for got in told.got if got.path in ("/switch", "/switch/fail")]
    assert ends == ["/switch/fail", "/switch", "/switch", "/switch/fail", "/switch", "/switch"]
