"""Outputs in a bucket of a real S3 server: the same promises as in a folder, on one machine after the other."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.support.command_line import Ended, batchflex, begun, called, ended, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.object_server import Bucket, Unreliable, machine

_OFTEN = ["--set", "storage.lease_s=2", "--set", "journal.upload_s=0.2", "--set", "journal.seal_rows=50"]


def _arguments(rows: Path, endpoint: CountingEndpoint, bucket: Bucket, *more: object) -> list[object]:
    out = f"s3://{bucket.name}/runs/a"
    return [
        "run",
        rows,
        "--base-url",
        endpoint.base_url,
        "--model",
        "m",
        "--out",
        out,
        "--concurrency",
        8,
        *_OFTEN,
        *more,
    ]


def _table(bucket: Bucket, prefix: str = "runs/a") -> pl.DataFrame:
    """The table as anybody reads it: the files that the manifest names."""
    manifest = bucket.json(f"{prefix}/results-table.json")
    files = [bucket.read(f"{prefix}/results/{each['name']}") for each in manifest["files"]]
    return pl.concat([pl.read_parquet(io.BytesIO(each)) for each in files])


def _copy(home: Path) -> Path:
    (found,) = (home / "batchflex" / "outputs").iterdir()
    return found


def _lost_with_its_disk(endpoint: CountingEndpoint, bucket: Bucket, home: Path) -> tuple[int, int]:
    """The disk of a machine whose run was killed is gone. How many answers the endpoint had given, and how many were uploaded."""
    wait_until(lambda: endpoint.stats()["in_flight"] == 0, "the endpoint has ended, too")
    shutil.rmtree(home)
    return endpoint.stats()["good"], bucket.answers("runs/a")


def test_every_verb_works_on_it_from_another_machine(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 120)
    url = f"s3://{bucket.name}/runs/a"
    here, there = (machine(tmp_path / name, bucket.server.url) for name in ("one", "two"))
    job = tmp_path / "job.toml"
    job.write_text(
        f'[job]\nname = "a"\nout = "{url}"\n[input]\npath = "{rows}"\n[endpoint]\nbase_url = "{endpoint.base_url}"\n'
        '[params]\nmodel = "m"\n[storage]\nregion = "us-east-1"\n[[score]]\nname = "long"\nkind = "length"\nmin = 1\n'
    )
    done = called("run", job, env=here)
    assert done.code == 0, done
    assert f"results: {url}/results/" in done.err
    names = set(bucket.objects("runs/a/"))
    assert {"runs/a/run.json", "runs/a/job.toml", "runs/a/report.html", "runs/a/scores.json"} <= names
    assert "testing-secret" not in "".join(
        bucket.read(name).decode("utf-8", "replace") for name in names if not name.endswith(".parquet")
    )
    assert _table(bucket).height == 120

    assert "120 of 120" in called("status", url, env=there).out
    assert "finished" in called("history", url, env=there).out
    assert called("results", url, "-o", tmp_path / "answers.jsonl", env=there).code == 0
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 120
    assert called("plan", job, "--json", env=there).code == 0
    assert called("score", url, "--json", env=there).code == 0
    assert called("report", url, env=there).code == 0
    done = called("compare", url, url, "--on", "content", env=there)
    assert done.code == 0, done
    done = called("retry", url, "--where", "id = 'r7'", "--set", "temperature=1", "-y", env=there)
    assert done.code == 0, done
    assert endpoint.stats()["requests"] == 121
    done = called("compact", url, "--json", env=there)
    assert done.code == 0, done
    assert len(bucket.objects("runs/a/parts/")) == 1
    assert bucket.json("runs/a/run.json")["out"] == url

    done = called("run", job, env=here)  # the first machine sees what the other one did
    assert done.code == 0, done
    assert endpoint.stats()["requests"] == 121 and _table(bucket).height == 120
    assert len(called("history", url, env=here).out.splitlines()) == 6
    parts = sorted(path.name for path in (_copy(tmp_path / "one") / "parts").iterdir() if path.name[0] != ".")
    assert [f"runs/a/parts/{name}" for name in parts] == [*bucket.objects("runs/a/parts/")]


def test_a_killed_run_goes_on_from_its_copy(endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path) -> None:
    rows, here = write_rows(tmp_path / "in.jsonl", 600), machine(tmp_path / "one", bucket.server.url)
    endpoint.knobs(latency_s=0.02)
    moments = random.Random(3)
    for _ in range(4):
        with begun(*_arguments(rows, endpoint, bucket), env=here) as run:
            before = endpoint.stats()["good"]
            wait_until(lambda least=before: endpoint.stats()["good"] > least + 20 or run.poll() is not None, "answers")
            time.sleep(moments.uniform(0, 0.5))
            run.kill()
            run.wait()
    endpoint.knobs(latency_s=0.0)
    done = batchflex(*_arguments(rows, endpoint, bucket), env=here)
    assert done.code == 0, done
    assert endpoint.asked_again() == []
    assert sorted(_table(bucket)["row"]) == list(range(600))
    assert not bucket.objects("runs/a/journal/")


def test_another_machine_goes_on_with_what_was_uploaded(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    """The first machine is lost with its disk: what that costs are the answers since the last upload."""
    rows = write_rows(tmp_path / "in.jsonl", 800)
    here, there = (machine(tmp_path / name, bucket.server.url) for name in ("one", "two"))
    endpoint.knobs(latency_s=0.02)
    with begun(*_arguments(rows, endpoint, bucket), env=here) as run:
        wait_until(lambda: endpoint.stats()["good"] > 300, "answers")
        wait_until(lambda: bucket.answers("runs/a") > 100, "some are uploaded")
        run.kill()
        run.wait()
    answered, uploaded = _lost_with_its_disk(endpoint, bucket, tmp_path / "one")
    done = batchflex(*_arguments(rows, endpoint, bucket), env=there)
    assert done.code == 0, done
    assert "holds s3://" in done.err, "that it waits is said"
    assert endpoint.stats()["good"] - answered == 800 - uploaded, "all that was uploaded counts"
    assert sorted(_table(bucket)["row"]) == list(range(800))
    assert bucket.json("runs/a/run.json")["done_before"] == uploaded


def test_of_two_machines_the_second_is_told_that_the_first_is_at_work(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 400)
    here, there = (machine(tmp_path / name, bucket.server.url) for name in ("one", "two"))
    endpoint.knobs(latency_s=0.1)
    long = ["--set", "storage.lease_s=30"]
    with begun(*_arguments(rows, endpoint, bucket, *long), env=here) as run:
        wait_until(lambda: endpoint.stats()["good"] > 10, "answers")
        done = batchflex(*_arguments(rows, endpoint, bucket, *long), env=there)
        assert done.code == 4, done
        assert f"another run holds s3://{bucket.name}/runs/a (" in done.err
        status = batchflex("status", f"s3://{bucket.name}/runs/a", env=there)
        assert status.code == 0 and "of 400" in status.out, status
        assert f"running on {socket.gethostname()}, as it was uploaded last" in status.out
        done = batchflex("compact", f"s3://{bucket.name}/runs/a", env=there)
        assert done.code == 4, done
        endpoint.knobs(latency_s=0.0)
        assert ended(run).code == 0
    assert endpoint.stats()["requests"] == 400


def test_a_machine_that_comes_back_adds_what_it_had(endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path) -> None:
    """Stopped beyond its lease, it is succeeded by another; then it wakes up, stops, and gives what only it has."""
    rows = write_rows(tmp_path / "in.jsonl", 500)
    here, there = (machine(tmp_path / name, bucket.server.url) for name in ("one", "two"))
    endpoint.knobs(latency_s=0.05)
    rare = ["--set", "journal.upload_s=0.9", "--set", "journal.seal_rows=10000"]
    with begun(*_arguments(rows, endpoint, bucket, *rare), env=here) as run:
        wait_until(lambda: len(bucket.objects("runs/a/journal/")) > 0, "something is uploaded")
        time.sleep(0.5)
        os.kill(run.pid, signal.SIGSTOP)
        answered = endpoint.stats()["good"]
        second = batchflex(*_arguments(rows, endpoint, bucket, "--limit", 300), env=there)
        assert second.code == 0, second
        os.kill(run.pid, signal.SIGCONT)
        first = ended(run)
        assert first.code == 3, first
        assert "another machine has taken over" in first.err
    endpoint.knobs(latency_s=0.0)
    own = endpoint.stats()["good"]
    done = batchflex(*_arguments(rows, endpoint, bucket), env=here)
    assert done.code == 0, done
    assert sorted(_table(bucket)["row"]) == list(range(500)) and answered < own
    assert _table(bucket)["key"].n_unique() == 500
    state = bucket.json("runs/a/run.json")
    assert state["ok"] == state["done"] == 500
    done = batchflex(*_arguments(rows, endpoint, bucket), env=there)
    assert done.code == 0 and bucket.json("runs/a/run.json")["requests_sent"] == 0, done


def test_nothing_torn_is_ever_in_the_bucket_while_the_store_fails(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 500)
    endpoint.knobs(latency_s=0.02)
    chance = random.Random(5)
    with Unreliable(bucket.server) as proxy:
        proxy.fault = lambda method, path: chance.choice([None, None, None, 500, 503, "lost", 0.05])
        here, over = machine(tmp_path / "one", proxy.url), threading.Event()
        read = 0
        with begun(*_arguments(rows, endpoint, bucket), env=here) as run:
            while run.poll() is None:
                for name in bucket.objects("runs/a/"):
                    try:
                        content = bucket.read(name)
                    except Exception:  # it was deleted meanwhile
                        continue
                    read += 1
                    if name.endswith(".parquet"):
                        pq.read_table(io.BytesIO(content))
                    elif name.endswith((".json", ".toml")):
                        assert content.strip().endswith((b"}", b"]", b'"', b"e")) or content[-1:] == b"\n", name
            over.set()
            done = ended(run)
        assert done.code == 0, done
        assert read > 20
    assert sorted(_table(bucket)["row"]) == list(range(500))
    assert endpoint.stats()["requests"] == 500


def test_a_run_that_is_refused_gives_the_lease_back(endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 10)
    here, there = (machine(tmp_path / name, bucket.server.url) for name in ("one", "two"))
    assert called(*_arguments(rows, endpoint, bucket), env=here).code == 0
    write_rows(rows, 10, max_tokens=5)
    long = ["--set", "storage.lease_s=600"]
    done = called(*_arguments(rows, endpoint, bucket), *long, env=here)
    assert done.code == 2 and "the job has changed" in done.err, done
    done = called(*_arguments(rows, endpoint, bucket), "--on-change", "rerun", *long, env=there)
    assert done.code == 0 and "holds s3://" not in done.err, done
    assert endpoint.stats()["requests"] == 20


def test_while_the_store_is_away_answers_are_kept_and_it_is_said(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 300)
    with Unreliable(bucket.server) as proxy:
        here = machine(tmp_path / "one", proxy.url)
        endpoint.knobs(latency_s=0.05)
        with begun(*_arguments(rows, endpoint, bucket), env=here) as run:
            wait_until(lambda: endpoint.stats()["good"] > 30, "answers")
            proxy.fault = lambda method, path: 403
            wait_until(lambda: endpoint.stats()["good"] == 300, "all answers")
            done = ended(run)
        assert done.code == 3, done
        assert done.err.count("Answers are kept in") == 1 and "access is denied" in done.err
        proxy.fault = lambda method, path: None
        done = batchflex(*_arguments(rows, endpoint, bucket), env=here)
        assert done.code == 0, done
    assert endpoint.stats()["requests"] == 300 and _table(bucket).height == 300


def test_credentials_may_be_in_the_file_of_variables(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    rows, secrets = write_rows(tmp_path / "in.jsonl", 20), machine(tmp_path / "one", bucket.server.url)
    outside = {name: secrets.pop(name) for name in ("XDG_STATE_HOME", "AWS_EC2_METADATA_DISABLED")}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    (tmp_path / ".env").chmod(0o600)
    job = tmp_path / "job.toml"
    job.write_text(
        f'[job]\nout = "s3://{bucket.name}/runs/a"\nreport = true\n[input]\npath = "{rows}"\n'
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\n[params]\nmodel = "m"\n'
    )
    nowhere = {name: str(tmp_path / "none") for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")}
    done = called("run", job, env=outside | nowhere)
    assert done.code == 0 and "not uploaded" not in done.err, done
    assert "runs/a/report.html" in bucket.objects("runs/a/") and _table(bucket).height == 20
    assert called("plan", job, env=outside | nowhere).code == 0
    kept = "".join(path.read_text("utf-8", "replace") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert secrets["AWS_SECRET_ACCESS_KEY"] not in kept


@pytest.mark.parametrize(
    ("out", "more", "words"),
    [
        ("s3://bucket", [], "name a folder in the bucket, such as s3://bucket/runs/reviews"),
        ("s3:///x", [], "is written s3://BUCKET/PATH"),
        ("s3://b/../x", [], "is written s3://BUCKET/PATH"),
        ("s3://b/x", ["--keep-runs", 3], "job.keep_runs"),
        ("s3://b/x", ["--set", "storage.endpoint=nowhere"], "storage.endpoint: must be the address of an object store"),
        ("s3://b/x", ["--set", "storage.options.secret_access_key=abcdefgh"], "storage.options.secret_access_key"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(out: str, more: list[object], words: str, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 1)
    done: Ended = called("run", rows, "--out", out, *more, env=machine(tmp_path, "http://127.0.0.1:9"))
    assert done.code == 2, done
    assert words in done.err and "abcdefgh" not in done.err


def test_a_folder_is_copied_into_a_bucket_and_out_of_it(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    rows, url = write_rows(tmp_path / "in.jsonl", 50), f"s3://{bucket.name}/runs/a"
    env = machine(tmp_path / "one", bucket.server.url)
    asked = ["run", rows, "--base-url", endpoint.base_url, "--model", "m"]
    assert called(*asked, "--out", tmp_path / "out", env=env).code == 0
    for _ in range(2):  # the second time nothing is left to do
        done = called("copy", tmp_path / "out", url, "--json", env=env)
        assert done.code == 0, done
    assert done.summary["files"] == len(bucket.objects("runs/a/")) - 1, "the lease besides"
    there = machine(tmp_path / "two", bucket.server.url)
    assert called(*asked, "--out", url, env=there).code == 0
    assert endpoint.stats()["requests"] == 50
    done = called("copy", url, tmp_path / "back", env=there)
    assert done.code == 0, done
    assert called(*asked, "--out", tmp_path / "back").code == 0
    assert endpoint.stats()["requests"] == 50
    (tmp_path / "back" / "run.json").write_text("{}")
    done = called("copy", tmp_path / "out", tmp_path / "back")
    assert done.code == 2 and "has something else already, such as" in done.err


def test_what_worker_processes_keep_is_uploaded_as_well(
    endpoint: CountingEndpoint, bucket: Bucket, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", 800)
    here, there = (machine(tmp_path / name, bucket.server.url) for name in ("one", "two"))
    endpoint.knobs(latency_s=0.02)
    two = ["--processes", 2, "--set", "journal.seal_rows=100000"]
    with begun(*_arguments(rows, endpoint, bucket, *two), env=here) as run:
        wait_until(lambda: endpoint.stats()["good"] > 200, "answers")
        wait_until(lambda: len(bucket.objects("runs/a/journal/")) >= 2, "both journals are uploaded")
        wait_until(lambda: bucket.answers("runs/a") > 100, "and have answers")
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    answered, uploaded = _lost_with_its_disk(endpoint, bucket, tmp_path / "one")
    done = batchflex(*_arguments(rows, endpoint, bucket), env=there)
    assert done.code == 0, done
    assert sorted(_table(bucket)["row"]) == list(range(800))
    assert endpoint.stats()["good"] - answered == 800 - uploaded
    assert not [name for name in bucket.objects("runs/a/") if "workers" in name or "journal/" in name]
