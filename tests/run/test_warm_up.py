"""How many requests go before an endpoint has answered a row: one, unless its list of models vouches for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchflex.core import TIMINGS
from tests.support.command_line import write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.runs import run

ROWS = 40


def early(endpoint: CountingEndpoint, tmp_path: Path, *options: object, latency_s: float = 1.5, **knobs: Any) -> int:
    """How many requests came before the first answer, of a run with room for all its rows."""
    endpoint.knobs(latency_s=latency_s, **knobs)
    rows = write_rows(tmp_path / "in.jsonl", ROWS)
    ended = run(endpoint, rows, "--concurrency", ROWS, *options)
    assert ended.summary["ok"] == ROWS
    log = endpoint.log()
    answered = min(record["answered_at"] for record in log if record["status"] == 200)
    return sum(record["at"] < answered for record in log)


def test_a_server_that_lists_the_model_is_opened_before_it_has_answered(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    assert early(endpoint, tmp_path) == ROWS


@pytest.mark.parametrize(
    "knobs",
    [{"models": []}, {"models": ["other"]}, {"rpm": 1_000}],
    ids=["lists nothing", "lists other models", "tells of rate limits"],
)
def test_others_get_the_first_request_alone(endpoint: CountingEndpoint, tmp_path: Path, knobs: dict[str, Any]) -> None:
    assert early(endpoint, tmp_path, latency_s=0.3, **knobs) == 1


@pytest.mark.parametrize("fault", ["401", "402", "404_model", "429_quota", "403"])
def test_a_refusal_that_comes_at_once_is_met_once(endpoint: CountingEndpoint, tmp_path: Path, fault: str) -> None:
    endpoint.knobs(down=fault)
    ended = run(endpoint, write_rows(tmp_path / "in.jsonl", ROWS), "--concurrency", ROWS)
    assert (ended.code, endpoint.stats()["requests"], ended.summary["failed"]) == (3, 1, 0)


def test_a_first_row_that_is_turned_away_is_tried_again_before_others_go(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(script=["429_ms", "429_ms"], retry_after_s=0.3)
    assert early(endpoint, tmp_path, latency_s=0.4) < ROWS
    assert endpoint.stats()["outcomes"]["429_ms"] == 2


@pytest.mark.parametrize("models", [["m"], []], ids=["lists the model", "lists nothing"])
def test_a_first_row_that_hangs_does_not_keep_the_others_waiting(
    endpoint: CountingEndpoint, tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TIMINGS, "alone_s", 0.3)
    endpoint.knobs(poison={"row 0.": "hang"}, models=models)
    ended = run(
        endpoint, write_rows(tmp_path / "in.jsonl", ROWS), "--set", "endpoint.timeout_s=2", "--set", "retry.attempts=1"
    )
    assert (ended.summary["ok"], ended.summary["failed"]) == (ROWS - 1, 1)
    log = endpoint.log()
    assert log[ROWS - 1]["at"] < log[0]["at"] + 2, "all were sent while the first one hung; then a probe"
