"""A run on several worker processes: the same rows, the same limits, one account and one end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchflex.storage.output_folder import Folder
from tests.support.command_line import (
    Ended,
    batchflex,
    begun,
    ended,
    message,
    state,
    table,
    wait_until,
    write_rows,
)
from tests.support.counting_endpoint import CountingEndpoint


def _arguments(rows: Path, endpoint: CountingEndpoint, out: Path, *more: object) -> list[object]:
    return ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", out, "--processes", 2, *more]


def _asked(endpoint: CountingEndpoint) -> int:
    return int(endpoint.stats()["requests"])


def _workers(out: Path) -> list[int]:
    """The ids of the worker processes at work."""
    found = []
    for worker in Folder(out).workers():
        words = worker.holder().split()
        if words and Path(f"/proc/{words[1]}").exists():
            found.append(int(words[1]))
    return found


def _set(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


def test_each_row_is_asked_once_and_the_table_is_that_of_one_process(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 600)
    endpoint.knobs(latency_s=0.01)
    done = batchflex(*_arguments(rows, endpoint, tmp_path / "two", "--concurrency", 8, *_set(journal__seal_rows=50)))
    assert done.code == 0, done
    assert _asked(endpoint) == 600
    alone = batchflex(*_arguments(rows, endpoint, tmp_path / "one", "--concurrency", 8)[:-2])
    assert alone.code == 0
    columns = ["key", "slot", "id", "row", "status", "content", "prompt_tokens", "file", "position"]
    two, one = (table(tmp_path / name) for name in ("two", "one"))
    same = [name for name in columns if name in one.columns and name not in ("file",)]
    assert two.select(same).equals(one.select(same))
    summary = state(tmp_path / "two")
    assert (summary["ok"], summary["done"], summary["requests_sent"], summary["in_flight"]) == (600, 600, 600, 0)
    assert summary["completion_tokens"] == state(tmp_path / "one")["completion_tokens"]
    assert not (tmp_path / "two" / "workers").exists()
    again = batchflex(*_arguments(rows, endpoint, tmp_path / "two"))
    assert again.code == 0 and _asked(endpoint) == 1_200
    assert batchflex(*_arguments(rows, endpoint, tmp_path / "two")[:-2]).code == 0
    assert _asked(endpoint) == 1_200


def test_equal_rows_sweeps_and_samples_have_the_keys_of_one_process(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = tmp_path / "in.parquet"
    pl.DataFrame({"messages": [message(f"row {n % 7}") for n in range(100)]}).write_parquet(rows, row_group_size=9)
    more = ["--concurrency", 8, *_set(sweep__temperature="[0, 1]", sweep__samples=2)]
    for name, cut in (("two", None), ("one", -2 - len(more))):
        arguments = _arguments(rows, endpoint, tmp_path / name, *more)
        if cut is not None:
            arguments = [*arguments[:cut], *more]
        assert batchflex(*arguments).code == 0
    two, one = (table(tmp_path / name) for name in ("two", "one"))
    assert one.height == 400
    assert two["key"].to_list() == one["key"].to_list()


def test_a_worker_that_is_killed_loses_nothing(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 1_500), tmp_path / "out"
    endpoint.knobs(latency_s=0.02)
    with begun(*_arguments(rows, endpoint, out, "--concurrency", 16, *_set(journal__seal_rows=100))) as run:
        for answers in (200, 500, 800):
            wait_until(lambda least=answers: endpoint.stats()["good"] > least or run.poll() is not None, "answers")
            if pids := _workers(out):
                os.kill(pids[-1], signal.SIGKILL)
        done = ended(run)
    assert done.code == 0, done
    assert "a worker process has ended (signal 9)" in done.err
    assert endpoint.asked_again() == []
    found = table(out)
    assert found["row"].to_list() == list(range(1_500)) and set(found["status"]) == {"ok"}
    summary = state(out)
    assert summary["ok"] == summary["done"] == 1_500


def test_workers_end_with_the_process_of_the_run(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 2_000), tmp_path / "out"
    endpoint.knobs(latency_s=0.05)
    # Segments are so small that a worker asks for the number of another all the time.
    with begun(*_arguments(rows, endpoint, out, "--concurrency", 8, *_set(journal__seal_rows=2))) as run:
        wait_until(lambda: endpoint.stats()["good"] > 50 and len(_workers(out)) == 2, "both workers ask")
        pids = _workers(out)
        run.kill()
        run.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "they have ended")
    before = endpoint.stats()["good"]
    assert before < 2_000
    endpoint.knobs(latency_s=0.0)
    done = batchflex(*_arguments(rows, endpoint, out, "--concurrency", 8))
    assert done.code == 0, done
    assert endpoint.stats()["good"] == 2_000, "what was in flight was waited for, and is kept"
    assert table(out).height == 2_000


def test_a_signal_stops_all_and_what_is_in_flight_is_kept(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 5_000), tmp_path / "out"
    endpoint.knobs(latency_s=0.1)
    with begun(*_arguments(rows, endpoint, out, "--concurrency", 8)) as run:
        wait_until(lambda: endpoint.stats()["good"] > 40, "answers")
        run.send_signal(signal.SIGINT)
        done = ended(run)
    assert done.code == 130, done
    assert state(out)["ok"] == table(out).height == endpoint.stats()["good"]
    assert state(out)["stopped_by"] == "signal" and not _workers(out)


def test_what_is_in_flight_is_waited_for_no_longer_than_the_grace(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 100), tmp_path / "out"
    endpoint.knobs(latency_s=0.02)
    with begun(*_arguments(rows, endpoint, out, "--concurrency", 4, *_set(limits__grace_s=0.5))) as run:
        wait_until(lambda: endpoint.stats()["good"] >= 20, "some answers")
        endpoint.knobs(latency_s=60.0)
        wait_until(lambda: endpoint.stats()["in_flight"] == 4, "all are slow", 20)
        run.send_signal(signal.SIGINT)
        done = ended(run, timeout_s=30)
    assert done.code == 130, done
    assert state(out)["ok"] == table(out).height >= 20


def test_the_second_signal_ends_at_once_and_the_next_run_has_every_answer(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 100), tmp_path / "out"
    endpoint.knobs(latency_s=0.02)
    with begun(*_arguments(rows, endpoint, out, "--concurrency", 4)) as run:
        wait_until(lambda: endpoint.stats()["good"] >= 20, "some answers")
        endpoint.knobs(latency_s=30.0)
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        done = ended(run, timeout_s=20)
    assert done.code == 130, done
    good = endpoint.stats()["good"]
    endpoint.knobs(latency_s=0.0)
    done = batchflex(*_arguments(rows, endpoint, out))
    assert done.code == 0, done
    assert state(out)["done_before"] >= 20 and good < 100
    assert table(out).height == 100


@pytest.mark.parametrize("limit", ["budget_requests", "budget_tokens"])
def test_a_budget_holds_for_all_together(limit: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 600, max_tokens=30), tmp_path / "out"
    endpoint.knobs(latency_s=0.01, tokens=20)
    ceiling = 150 if limit == "budget_requests" else 8_000
    done = batchflex(*_arguments(rows, endpoint, out, "--concurrency", 8, *_set(**{f"limits__{limit}": ceiling})))
    assert done.code == 3, done
    assert state(out)["stopped_by"] == "budget"
    used = _asked(endpoint) if limit == "budget_requests" else endpoint.stats()["tokens"]
    assert 0.8 * ceiling < used <= ceiling
    if limit == "budget_requests":
        assert used == ceiling


def test_requests_a_minute_hold_for_all_together(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """40 a second."""
    rows, out = write_rows(tmp_path / "in.jsonl", 120), tmp_path / "out"
    done = batchflex(*_arguments(rows, endpoint, out, "--concurrency", 8, "--rpm", 2_400))
    assert done.code == 0, done
    at = sorted(record["at"] for record in endpoint.log())
    assert len(at) == 120 and at[-1] - at[0] > 2.5


def test_concurrency_is_divided(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 200), tmp_path / "out"
    endpoint.knobs(latency_s=0.05)
    assert batchflex(*_arguments(rows, endpoint, out, "--concurrency", 5)).code == 0
    assert 4 <= endpoint.stats()["max_in_flight"] <= 5


def test_a_key_that_is_refused_is_asked_with_once(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 200), tmp_path / "out"
    endpoint.knobs(key="good")
    done = batchflex(*_arguments(rows, endpoint, out), env={"BATCHFLEX_API_KEY": "bad"})
    assert done.code == 3, done
    assert state(out)["stopped_by"] == "key" and state(out)["failed"] == 0
    assert _asked(endpoint) == 1


def test_failures_are_counted_together(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 500), tmp_path / "out"
    endpoint.knobs(latency_s=0.01, poison={f"row {n}.": "400" for n in range(30, 430)})
    done = batchflex(*_arguments(rows, endpoint, out, "--concurrency", 8, *_set(limits__max_failures=20)))
    assert done.code == 3, done
    summary = state(out)
    assert summary["stopped_by"] == "failures" and "rows failed" in summary["message"]
    assert 21 <= endpoint.stats()["outcomes"]["400"] < 200


def _refused(*arguments: object) -> Ended:
    done = batchflex(*arguments)
    assert done.code == 2, done
    return done


def test_what_cannot_be_run_so_is_refused(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 10)
    done = _refused(*_arguments(rows, endpoint, tmp_path / "out", "--concurrency", 1))
    assert "--processes 2 is more than the 1 request that may be in flight at a time (limits.concurrency)" in done.err
    done = _refused(*_arguments(rows, endpoint, tmp_path / "out", *_set(limits__max_concurrency=1)))
    assert "limits.max_concurrency" in done.err
    assert "--processes" in _refused("run", rows, "--endpoint", "local", "--out", tmp_path / "o", "--processes", 2).err
    assert not (tmp_path / "out").exists() and _asked(endpoint) == 0


def test_a_retry_and_reasks_on_processes(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 60), tmp_path / "out"
    endpoint.knobs(obey_max_tokens=True, answer="one two three four five six")
    more: list[Any] = ["--concurrency", 4, *_set(params__max_tokens=3)]
    assert batchflex(*_arguments(rows, endpoint, out, *more)).code == 0
    assert state(out)["truncated"] == 60
    done = batchflex(
        "retry", out, "--where", "finish_reason = 'length'", "--set", "max_tokens=50", "--yes", "--processes", 2
    )
    assert done.code == 0, done
    assert state(out)["ok"] == 60 and set(table(out)["status"]) == {"ok"}
    assert state(out)["retry"]["asked_again"] == 60
