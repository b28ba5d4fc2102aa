"""kill -9 at any moment: no answer that the client had received is asked for again, and every row is there once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from batchflex.storage import journal, part_files
from batchflex.storage.output_folder import Folder
from tests.support.command_line import write_rows
from tests.support.counting_endpoint import CountingEndpoint

KILLS = 50
ROWS = 6_000


def start(rows: Path, out: Path, base_url: str, *more: str) -> subprocess.Popen[bytes]:
    """A run that seals often, so that kills fall into sealing, too."""
    command = [sys.executable, "-m", "batchflex", "run", str(rows), "--base-url", base_url, "--model", "m"]
    command += ["--out", str(out), "--concurrency", "16", "--quiet"]
    command += ["--set", "journal.seal_rows=40", "--set", "journal.sync_s=0.02"]
    return subprocess.Popen([*command, *more], stdin=subprocess.DEVNULL)


def wait_for_answers(endpoint: CountingEndpoint, run: subprocess.Popen[bytes], more_than: int) -> None:
    """Until the run has got its first answers, or has ended."""
    give_up = time.monotonic() + 60
    while endpoint.stats()["good"] <= more_than and run.poll() is None and time.monotonic() < give_up:
        time.sleep(0.005)


def check(log: list[dict[str, Any]], results: pl.DataFrame, rows: int) -> dict[str, int]:
    """The promises, as seen by the endpoint and in the table; returns figures.

    Another request on the same connection is the proof that the client had read the answer before it. Of the last answer on
    a connection when the run was killed nobody knows: it may be paid again.
    """
    answered = [record for record in log if record["outcome"] == "ok" and record["answered_at"] is not None]
    received = {record["hash"]: record["seq"] for record in answered if record["later"]}
    asked_again = [r for r in log if r["hash"] in received and r["seq"] > received[r["hash"]]]
    assert asked_again == []
    assert results.height == rows
    assert results["key"].n_unique() == rows
    assert results["id"].n_unique() == rows
    assert results["row"].to_list() == list(range(rows))
    assert set(results["status"]) == {"ok"}
    return {
        "requests": len(log),
        "rows": results.height,
        "received answers asked again": len(asked_again),
        "unread answers asked again": len(answered) - len({record["hash"] for record in answered}),
        "lost rows": rows - results.height,
    }


def test_fifty_kills(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text(
        "".join(
            json.dumps({"id": f"r{i}", "messages": [{"role": "user", "content": f"row {i}"}]}) + "\n"
            for i in range(ROWS)
        )
    )
    endpoint.knobs(latency_s=0.02, jitter_s=0.02)
    moments = random.Random(2)
    seen: Counter[str] = Counter()
    for _ in range(KILLS):
        before = endpoint.stats()["good"]
        run = start(rows, out, endpoint.base_url)
        try:
            if moments.random() < 0.2:
                time.sleep(moments.uniform(0.0, 0.6))  # while it starts: recovery, planning
            else:
                wait_for_answers(endpoint, run, before)
                time.sleep(moments.uniform(0.0, 0.3))
        finally:
            run.kill()
            ended = run.wait()
        seen["killed" if ended == -signal.SIGKILL else "ended by itself"] += 1
        folder = Folder(out)
        seen["left a journal"] += bool(journal.segments(folder.journal))
        seen["left parts"] += bool(part_files.part_numbers(folder.parts))
        assert not folder.is_held()
    assert seen["killed"] == KILLS, f"the job is too short for {KILLS} kills: {seen}"
    assert seen["left a journal"] > KILLS // 2
    assert seen["left parts"] > KILLS // 2

    last = start(rows, out, endpoint.base_url)
    assert last.wait(timeout=120) == 0
    figures = check(endpoint.log(), pl.read_parquet(out / "results.parquet"), ROWS)
    print("\nkills:", dict(seen), figures)  # noqa: T201  (shown by pytest -s: the figures of the release notes)
    assert figures["unread answers asked again"] <= 16 * KILLS

    before = endpoint.stats()["requests"]
    assert start(rows, out, endpoint.base_url).wait(timeout=60) == 0
    assert endpoint.stats()["requests"] == before


def test_killed_between_part_and_journal(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Between sealing and removing the segment both are there; half a part is there under another name only."""
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text(
        "".join(
            json.dumps({"id": f"r{i}", "messages": [{"role": "user", "content": f"row {i}"}]}) + "\n" for i in range(90)
        )
    )
    endpoint.knobs(latency_s=0.05)
    run = start(rows, out, endpoint.base_url)
    wait_for_answers(endpoint, run, 20)
    run.kill()
    run.wait()
    folder = Folder(out)
    numbers = journal.segments(folder.journal)
    assert numbers
    for number in numbers:
        outcomes = list(journal.read(journal.segment_path(folder.journal, number)))
        if outcomes:
            part_files.write_part(folder.parts, number, outcomes)
    (folder.path / "parts" / ".000099.parquet.1.tmp").write_bytes(b"PAR1 half of a part")
    assert start(rows, out, endpoint.base_url).wait(timeout=60) == 0
    check(endpoint.log(), pl.read_parquet(out / "results.parquet"), 90)
    assert list((folder.path / "parts").glob(".*")) == []
    assert journal.segments(folder.journal) == []


def test_kills_of_a_run_on_two_processes(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Now the process of the run, now one of its workers, now both at once."""
    rows, out = write_rows(tmp_path / "rows.jsonl", 3_000), tmp_path / "out"
    endpoint.knobs(latency_s=0.02, jitter_s=0.02)
    moments = random.Random(3)
    for _ in range(20):
        before = endpoint.stats()["good"]
        run = start(rows, out, endpoint.base_url, "--processes", "2", "--wait", "60s")
        try:
            wait_for_answers(endpoint, run, before)
            time.sleep(moments.uniform(0.0, 0.5))
            workers = [int(words[1]) for each in Folder(out).workers() if len(words := each.holder().split()) > 1]
            victims = moments.choice(([run.pid], workers[:1], workers, [run.pid, *workers]))
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if run.pid not in victims:
                time.sleep(moments.uniform(0.0, 0.5))
        finally:
            run.kill()
            run.wait()
    last = start(rows, out, endpoint.base_url, "--processes", "2", "--wait", "60s")
    assert last.wait(120) == 0
    check(endpoint.log(), pl.read_parquet(out / "results.parquet"), 3_000)
    assert not Folder(out).workers()
