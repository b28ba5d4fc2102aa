"""Rows as they come, to a callback and to a loop: each is kept before it is handed over, and stopping is resumable."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from batchflex.engine import underway
from batchflex.storage import writer
from batchflex.storage.output_folder import Folder
from tests.support.command_line import state, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint


@pytest.fixture
def job(endpoint: CountingEndpoint, tmp_path: Path) -> dict[str, Any]:
    return {
        "job": {"name": "j", "out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(write_rows(tmp_path / "rows.jsonl", 20, label="x"))},
        "params": {"model": "m"},
        "retry": {"base_s": 0.01},
        "limits": {"concurrency": 4},
    }


def kept(out: Path) -> set[str]:
    return {outcome.id for outcome in writer.unsealed(Folder(out)).outcomes}


# ------------------------------------------------------------------------------------------------------------ on_row


def test_each_row_is_handed_over_once_it_is_kept(
    endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path
) -> None:
    endpoint.knobs(poison={"row 3.": "422"}, latency_s=0.02)
    rows: list[batchflex.ResultRow] = []
    threads = set()

    def on_row(row: batchflex.ResultRow) -> None:
        rows.append(row)
        threads.add(threading.current_thread())
        there = kept(tmp_path / "out")
        assert not there or row.id in there, "in the journal, or sealed by now"

    job["input"]["carry"] = ["label"]
    run = batchflex.run(job, on_row=on_row)
    assert repr(run) == "<Run finished: 20 rows, 1 failed>"
    assert sorted(row.row for row in rows) == list(range(20))
    assert threads == {threading.main_thread()}, "that of whoever calls"
    by_id = {row.id: row for row in rows}
    good, bad = by_id["r0"], by_id["r3"]
    assert (good.ok, good.content, good["label"], good["status"]) == (True, "echo: row 0.", "x", "ok")
    assert good.total_tokens == (good.prompt_tokens or 0) + (good.completion_tokens or 0)
    assert (bad.ok, bad.status, bad.content) == (False, "failed", None) and "must be at most" in (
        bad.error_message or ""
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        good.content = "other"  # type: ignore[misc]
    with pytest.raises(KeyError):
        good["nothing"]
    endpoint.knobs(poison={})
    again: list[batchflex.ResultRow] = []
    batchflex.run(job, on_row=again.append)
    assert [row.id for row in again] == ["r3"], "what was answered before is not handed over again"


def test_a_row_of_a_sweep_has_its_point_and_json_is_a_value(endpoint: CountingEndpoint, job: dict[str, Any]) -> None:
    endpoint.knobs(answer='{"team": "billing", "sure": [1, 2]}')
    schema = {"type": "json_schema", "json_schema": {"name": "t", "schema": {"type": "object"}}}
    job["params"]["response_format"] = schema
    job["sweep"] = {"temperature": [0.0, 0.7], "samples": 2}
    job["input"]["limit"] = 1
    rows: list[batchflex.ResultRow] = []
    batchflex.run(job, on_row=rows.append)
    assert sorted((row["temperature"], row.sample) for row in rows) == [(0.0, 0), (0.0, 1), (0.7, 0), (0.7, 1)]
    assert all(row.parsed == {"team": "billing", "sure": [1, 2]} for row in rows)


def test_complete_says_which_row_of_the_frame_it_is(endpoint: CountingEndpoint) -> None:
    frame = pl.DataFrame({"text": ["a", "b", "c"]})
    rows: list[batchflex.ResultRow] = []
    answered = batchflex.complete(frame, "Say {{ text }}", model="m", endpoint=endpoint.base_url, on_row=rows.append)
    assert {row.row: row.content for row in rows} == dict(enumerate(answered["content"]))


def test_an_error_in_the_callback_stops_the_run_and_is_raised(
    endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.02)
    seen: list[str] = []

    def on_row(row: batchflex.ResultRow) -> None:
        seen.append(row.id)
        if len(seen) == 3:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        batchflex.run(job, on_row=on_row)
    assert len(seen) == 3
    ended = state(tmp_path / "out")
    assert (ended["status"], ended["message"]) == ("interrupted", "ZeroDivisionError in the caller")
    assert 3 <= ended["ok"] < 20 and ended["ok"] == endpoint.stats()["good"], "what was in flight was awaited"
    assert batchflex.run(job).exit_code == 0
    assert (endpoint.stats()["good"], endpoint.stats()["repeats"]) == (20, 0)


def test_a_slow_consumer_slows_the_run_and_loses_nothing(
    endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(underway, "MOST_WAITING", 4)
    job["input"]["path"] = str(write_rows(tmp_path / "many.jsonl", 60))
    taken = 0
    ahead: list[int] = []
    waits: list[list[str]] = []

    class Watch:
        def tick(self, run_state: Any) -> None:
            waits.append([wait["message"] for wait in run_state.waits(quoting=True)])

        def note(self, text: str) -> None:
            pass

    def on_row(row: batchflex.ResultRow) -> None:
        nonlocal taken
        taken += 1
        if taken == 1:
            wait_until(lambda: ["rows come faster than they are taken"] in waits, "the run waits, and says so")
        ahead.append(endpoint.stats()["good"] - taken)

    run = batchflex.run(job, on_row=on_row, observer=Watch())
    assert (run.exit_code, taken, endpoint.stats()["repeats"]) == (0, 60, 0)
    assert max(ahead) <= 4 + 4, "as many as may wait, and what was in flight by then"


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True])
async def test_arun_calls_functions_and_coroutine_functions(
    is_async: bool, endpoint: CountingEndpoint, job: dict[str, Any]
) -> None:
    rows: list[str] = []

    async def on_row(row: batchflex.ResultRow) -> None:
        await asyncio.sleep(0)
        rows.append(row.id)

    run = await batchflex.arun(job, on_row=on_row if is_async else lambda row: rows.append(row.id))
    assert run.exit_code == 0 and sorted(rows) == sorted(f"r{i}" for i in range(20))


# ------------------------------------------------------------------------------------------------------------ stream


@pytest.mark.anyio
async def test_a_stream_yields_each_row_and_then_has_the_run(endpoint: CountingEndpoint, job: dict[str, Any]) -> None:
    stream = batchflex.stream(job)
    assert stream.run is None
    rows = [row async for row in stream]
    assert sorted(row.row for row in rows) == list(range(20))
    assert stream.run is not None and stream.run.results().height == 20
    assert [row async for row in batchflex.stream(job)] == []
    assert endpoint.stats()["good"] == 20


@pytest.mark.anyio
async def test_a_stream_that_stops_early_says_so_after_the_last_row(
    endpoint: CountingEndpoint, job: dict[str, Any]
) -> None:
    endpoint.knobs(fail_after=5, fail_with="402")
    stream, rows = batchflex.stream(job), []
    with pytest.raises(batchflex.RunStopped, match=r"credit.*run it again to go on"):
        async for row in stream:
            rows.append(row)
    assert len(rows) == 5 and stream.run is not None and stream.run.stopped_by == "credit"
    with pytest.raises(batchflex.JobError):
        batchflex.stream({"jbo": {}})
    with pytest.raises(batchflex.InputError):
        async for _ in batchflex.stream(job | {"input": {"path": "nothing.jsonl"}}):
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["break", "closed", "named"])
async def test_leaving_a_stream_early_stops_the_run(
    how: str, endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.05)
    if how == "closed":
        async with batchflex.stream(job) as stream:
            async for _ in stream:
                break
        assert stream.run is not None and stream.run.stopped_by == "signal"
    elif how == "named":
        stream = batchflex.stream(job)
        async for _ in stream:
            break
    else:
        async for _ in batchflex.stream(job):
            break
    while Folder(tmp_path / "out").is_held():  # noqa: ASYNC110  Python closes what nobody uses any more
        await asyncio.sleep(0.01)
    ended = state(tmp_path / "out")
    assert ended["status"] == "interrupted" and 1 <= ended["ok"] == endpoint.stats()["good"] < 20
    run = await batchflex.arun(job)
    assert (run.exit_code, endpoint.stats()["good"], endpoint.stats()["repeats"]) == (0, 20, 0)


@pytest.mark.anyio
async def test_cancelling_whoever_takes_the_rows_cancels_the_run(
    endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path
) -> None:
    endpoint.knobs(fail_after=6, fail_with="hang")
    rows: list[str] = []

    async def take() -> None:
        async for row in batchflex.stream(job):
            rows.append(row.id)

    task = asyncio.create_task(take())
    while endpoint.stats()["outcomes"].get("hang", 0) < 4:
        await asyncio.sleep(0.01)
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(rows) == 6 and state(tmp_path / "out")["status"] == "interrupted"
    endpoint.knobs(fail_after=None)
    assert (await batchflex.arun(job)).exit_code == 0
    assert (endpoint.stats()["good"], endpoint.stats()["repeats"]) == (20, 0)
    gc.collect()


# -------------------------------------------------------------------------------------------------------- interrupts


def interrupting(endpoint: CountingEndpoint, *, after_requests: int, times: int) -> threading.Thread:
    """Ctrl-C, so many times, once so many requests have come."""

    def interrupt() -> None:
        wait_until(lambda: endpoint.stats()["requests"] >= after_requests, "requests have come")
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


def test_the_first_interrupt_awaits_what_is_in_flight(
    endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.3)
    thread = interrupting(endpoint, after_requests=6, times=1)
    with pytest.raises(KeyboardInterrupt, match="what was answered is kept: run it again to go on"):
        batchflex.run(job)
    thread.join()
    ended = state(tmp_path / "out")
    assert (ended["status"], ended["exit_code"]) == ("interrupted", 130)
    assert ended["ok"] == endpoint.stats()["requests"] < 20, "each that was sent has its answer"
    assert batchflex.run(job).exit_code == 0
    assert (endpoint.stats()["good"], endpoint.stats()["requests"]) == (20, 20)


def test_the_second_interrupt_ends_it_at_once(endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path) -> None:
    endpoint.knobs(fail_after=2, fail_with="hang")
    thread = interrupting(endpoint, after_requests=6, times=2)
    with pytest.raises(KeyboardInterrupt):
        batchflex.run(job)
    thread.join()
    assert not Folder(tmp_path / "out").is_held() and state(tmp_path / "out")["ok"] == 2
    endpoint.knobs(fail_after=None)
    with contextlib.suppress(batchflex.RunStopped):
        assert batchflex.run(job).exit_code == 0
    assert endpoint.stats()["repeats"] == 0
