"""A job in shards, each a command of its own: together they ask everything, each request once, whatever it was divided into."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from batchflex.storage.output_folder import Folder
from tests.support.command_line import (
    Ended,
    batchflex,
    begun,
    called,
    ended,
    message,
    state,
    table,
    wait_until,
    write_rows,
)
from tests.support.counting_endpoint import CountingEndpoint


def _arguments(rows: Path, endpoint: CountingEndpoint, out: Path, *more: object) -> list[object]:
    return ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", out, "--concurrency", 8, *more]


def _shard(number: int, of: int) -> list[object]:
    return ["--shards", of, "--shard", number, "--at-once", 2]


def _answered(out: Path, *more: object) -> pl.DataFrame:
    """The table as ``results`` writes it."""
    done = called("results", out, "-o", out.with_suffix(".parquet"), *more)
    assert done.code == 0, done
    return pl.read_parquet(out.with_suffix(".parquet"))


def test_whole_then_eight_then_three_then_whole_asks_nothing_twice(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 400), tmp_path / "out"
    assert called(*_arguments(rows, endpoint, out, "--limit", 50)).code == 0
    for number in range(0, 8, 2):
        assert called(*_arguments(rows, endpoint, out, *_shard(number, 8))).code == 0
    assert 150 < endpoint.stats()["requests"] < 350
    assert _answered(out).height == endpoint.stats()["requests"]
    for number in range(3):
        assert called(*_arguments(rows, endpoint, out, *_shard(number, 3))).code == 0
    assert endpoint.stats()["requests"] == 400
    found = _answered(out)
    assert found["row"].to_list() == list(range(400)) and set(found["status"]) == {"ok"}
    done = called(*_arguments(rows, endpoint, out))
    assert done.code == 0 and endpoint.stats()["requests"] == 400
    assert table(out).height == 400 and not (out / "shards").exists()
    assert len(called("history", out).out.splitlines()) == 2 + 1 + 4 + 3 + 1 + 1, "what the shards did stays known"


def test_equal_rows_sweeps_and_samples_have_the_keys_of_one_run(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = tmp_path / "in.parquet"
    pl.DataFrame({"messages": [message(f"row {n % 7}") for n in range(100)]}).write_parquet(rows, row_group_size=9)
    more = ["--set", "sweep.temperature=[0, 1]", "--set", "sweep.samples=2"]
    assert called(*_arguments(rows, endpoint, tmp_path / "one", *more)).code == 0
    for number in (2, 0, 1):
        assert called(*_arguments(rows, endpoint, tmp_path / "three", *_shard(number, 3), *more)).code == 0
    one, three = table(tmp_path / "one"), _answered(tmp_path / "three")
    assert one.height == 400 and one["key"].to_list() == three["key"].to_list()


def test_one_shard_runs_once_at_a_time_and_not_beside_the_whole(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 2_000), tmp_path / "out"
    endpoint.knobs(latency_s=0.2)
    with begun(*_arguments(rows, endpoint, out, *_shard(0, 2))) as first:
        wait_until(lambda: endpoint.stats()["good"] > 4, "answers")
        same = batchflex(*_arguments(rows, endpoint, out, *_shard(0, 2)))
        assert same.code == 4 and "shards/00000-of-00002" in same.err, same
        other = batchflex(*_arguments(rows, endpoint, out, *_shard(1, 3)))
        assert other.code == 4 and "shards of another division" in other.err, other
        whole = batchflex(*_arguments(rows, endpoint, out))
        assert whole.code == 4 and "another run holds" in whole.err, whole
        assert called("compact", out).code == 4
        shown = called("status", out).out
        assert "0 of 2 finished, 1 at work, 1 not begun" in shown
        endpoint.knobs(latency_s=0.0)
        assert ended(first).code == 0
    assert called(*_arguments(rows, endpoint, out, *_shard(1, 2))).code == 0
    assert endpoint.stats()["requests"] == 2_000 and _answered(out).height == 2_000


def test_what_a_killed_run_left_is_sealed_by_the_first_shard(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 300), tmp_path / "out"
    endpoint.knobs(latency_s=0.02)
    for arguments in (_arguments(rows, endpoint, out), _arguments(rows, endpoint, out, *_shard(1, 4))):
        before = endpoint.stats()["good"]
        with begun(*arguments) as run:
            wait_until(lambda least=before: endpoint.stats()["good"] > least + 20 or run.poll() is not None, "answers")
            run.kill()
            run.wait()
    assert _answered(out).height >= 40, "the journals are read where they are"
    endpoint.knobs(latency_s=0.0)
    for number in range(2):
        assert called(*_arguments(rows, endpoint, out, *_shard(number, 2))).code == 0
    assert _answered(out).height == 300
    assert endpoint.stats()["good"] <= 300 + 2 * 8
    assert not [*Folder(out).journal.glob("*.journal")]


def test_limits_are_divided(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 200), tmp_path / "out"
    endpoint.knobs(latency_s=0.02)
    done = called(*_arguments(rows, endpoint, out, "--shards", 4, "--shard", 1, "--at-once", 2))
    assert done.code == 0, done
    assert endpoint.stats()["max_in_flight"] == 4
    endpoint.anew()
    limits = ["--set", "limits.budget_requests=40"]
    done = called(*_arguments(rows, endpoint, out, "--shards", 4, "--shard", 2, *limits))
    assert done.code == 3 and endpoint.stats()["requests"] == 10, done
    assert "limits.budget_requests = 10" in done.err
    job = (out / "job.toml").read_text()
    assert "budget_requests = 40" in job and "concurrency = 8" in job, "that of the whole job"
    done = called(*_arguments(rows, endpoint, out, "--shards", 20, "--shard", 1))
    assert done.code == 2 and "limits.concurrency is 8, less than one for each of 20 shards" in done.err


def test_scores_and_the_report_are_of_all_shards(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 60), tmp_path / "out"
    job = tmp_path / "job.toml"
    job.write_text(
        f'[input]\npath = "{rows}"\n[endpoint]\nbase_url = "{endpoint.base_url}"\n[params]\nmodel = "m"\n'
        '[[score]]\nname = "brief"\nkind = "length"\nmax = 100\n'
    )
    for number in range(2):
        assert called("run", job, "--out", out, "--shards", 2, "--shard", number).code == 0
    assert not (out / "scores.json").exists()
    done = called("score", out, "--json")
    assert done.code == 0 and done.summary["rows"] == 60, done
    done = called("report", out)
    assert done.code == 0 and "60 of 60 rows" in done.out, done


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4"}, 1),
        ({"JOB_COMPLETION_INDEX": "2"}, 2),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "0"}, 0),
    ],
)
def test_the_number_comes_from_the_scheduler(
    environment: dict[str, str], number: int, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 20), tmp_path / "out"
    done: Ended = called(*_arguments(rows, endpoint, out, "--shards", 4, "--at-once", 1), env=environment)
    assert done.code == 0, done
    assert [*Folder(out).shards()] == [(number, 4)]
    assert state(out / "shards" / f"{number:05d}-of-00004")["status"] == "finished"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--shards", 4], "--shards 4 needs --shard I, from 0 to 3"),
        (["--shards", 4, "--shard", 4], "--shard says shard 4; of --shards 4 there are 0 to 3"),
        (["--shard", 1], "--shard needs --shards N"),
        (["--shards", 2, "--shard", 1, "--at-once", 3], "--at-once 3 is more than --shards 2"),
        (["--shards", 2, "--shard", 1, "--processes", 2], "do not go together"),
        (["--shards", 2, "--shard", -1], "--shard"),
        (["--shards", 2, "--shard", 1, "--set", "job.out=s3://b/x"], "not for a bucket"),
    ],
)
def test_what_cannot_be_is_refused(more: list[object], words: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 1)
    start = ["run", rows, "--base-url", endpoint.base_url, "--model", "m"]
    done = called(*start, *more, env={"XDG_STATE_HOME": str(tmp_path)})
    assert done.code == 2 and words in done.err, done
    assert endpoint.stats()["requests"] == 0
