"""kill -9 of runs into a bucket, on two machines in turn: every row is there once, and what was uploaded is not lost."""

from __future__ import annotations

import io
import random
import shutil
import time
from pathlib import Path

import polars as pl

from tests.support.command_line import batchflex, begun, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.object_server import Bucket, Unreliable, machine

KILLS, ROWS, AT_ONCE, LATENCY_S, UPLOAD_S = 20, 3_000, 16, 0.02, 0.3


def _arguments(rows: Path, endpoint: CountingEndpoint, bucket: Bucket) -> list[object]:
    often = ("storage.lease_s=1", f"journal.upload_s={UPLOAD_S}", "journal.seal_rows=40", "journal.sync_s=0.02")
    more = [word for each in often for word in ("--set", each)]
    out = f"s3://{bucket.name}/runs/a"
    asked = ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", out]
    return [*asked, "--concurrency", AT_ONCE, "--quiet", *more]


def _table(bucket: Bucket) -> pl.DataFrame:
    files = bucket.json("runs/a/results-table.json")["files"]
    return pl.concat([pl.read_parquet(io.BytesIO(bucket.read(f"runs/a/results/{each['name']}"))) for each in files])


def _killed(arguments: list[object], env: dict[str, str], endpoint: CountingEndpoint, after_s: float) -> None:
    before = endpoint.stats()["good"]
    with begun(*arguments, env=env) as run:
        wait_until(lambda: endpoint.stats()["good"] > before or run.poll() is not None, "the first answers")
        time.sleep(after_s)
        run.kill()
        run.wait()


def test_twenty_kills_on_two_machines_through_a_store_that_fails(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    """What a machine has answered and not uploaded is asked by the other one, and given once."""
    rows, chance = write_rows(tmp_path / "in.jsonl", ROWS), random.Random(7)
    endpoint.knobs(latency_s=LATENCY_S)
    with Unreliable(bucket.server) as proxy:
        proxy.fault = lambda method, path: chance.choice([None] * 12 + [500, 503, "lost", 0.02])
        machines = [machine(tmp_path / name, proxy.url) for name in ("one", "two")]
        for number in range(KILLS):
            _killed(_arguments(rows, endpoint, bucket), machines[number % 2], endpoint, chance.uniform(0.0, 0.8))
        done = batchflex(*_arguments(rows, endpoint, bucket), env=machines[0])
        assert done.code == 0, done
        done = batchflex(*_arguments(rows, endpoint, bucket), env=machines[1])
        assert done.code == 0, done
    found = _table(bucket)
    assert sorted(found["row"]) == list(range(ROWS)) and found["key"].n_unique() == ROWS
    assert set(found["status"]) == {"ok"}


def test_machines_that_are_lost_with_their_disks(endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path) -> None:
    rows, chance = write_rows(tmp_path / "in.jsonl", ROWS), random.Random(11)
    endpoint.knobs(latency_s=LATENCY_S)
    for number in range(5):
        home = tmp_path / str(number)
        _killed(
            _arguments(rows, endpoint, bucket), machine(home, bucket.server.url), endpoint, chance.uniform(0.3, 1.0)
        )
        shutil.rmtree(home)
        wait_until(lambda: endpoint.stats()["in_flight"] == 0, "the endpoint has ended, too")
    answered, uploaded = endpoint.stats()["good"], bucket.answers("runs/a")
    done = batchflex(*_arguments(rows, endpoint, bucket), env=machine(tmp_path / "last", bucket.server.url))
    assert done.code == 0, done
    found = _table(bucket)
    assert sorted(found["row"]) == list(range(ROWS)) and found["key"].n_unique() == ROWS
    assert endpoint.stats()["good"] - answered == ROWS - uploaded, "all that was uploaded counts"
