"""A disk that fills up, a folder that another run holds: the run says so, and nothing is corrupted or lost."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchflex.plan import completion_marker
from batchflex.storage import journal, part_files
from batchflex.storage.output_folder import Folder
from tests.support.command_line import Ended, batchflex, begun, called, ended, state, table, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint

ROWS = 240
SLOTS = 8


def write_large_rows(path: Path) -> Path:
    """Text that does not compress, some 16 KB a row: its echo is in an answer twice."""
    letters, draw = string.ascii_letters + string.digits, random.Random(3)
    with path.open("w") as stream:
        for i in range(ROWS):
            text = "".join(draw.choices(letters, k=16_000))
            stream.write(json.dumps({"id": f"r{i}", "messages": [{"role": "user", "content": text}]}) + "\n")
    return path


def command(endpoint: CountingEndpoint, rows: Path, out: Path, *more: object) -> list[object]:
    options = ["--base-url", endpoint.base_url, "--model", "m", "--concurrency", SLOTS, "--out", out]
    return ["run", rows, *options, *more]


def stored(out: Path) -> int:
    """How many different rows are in the journal and in the parts; reading them fails if one is damaged."""
    folder = Folder(out)
    keys = {
        o.key for n in journal.segments(folder.journal) for o in journal.read(journal.segment_path(folder.journal, n))
    }
    for number in part_files.part_numbers(folder.parts):
        keys |= set(pl.read_parquet(folder.path / "parts" / part_files.part_name(number))["key"])
    return len(keys)


def check_stopped(stopped: Ended, out: Path) -> None:
    assert (stopped.code, stopped.out) == (3, "")
    assert "could not be written" in stopped.err or "the disk is full" in stopped.err
    assert "Traceback" not in stopped.err and "Errno" not in stopped.err
    assert "same command again" in stopped.err
    assert not list(out.rglob("*.tmp"))
    for path in out.rglob("*.parquet"):
        pl.read_parquet(path)


def check_finished(finished: Ended, out: Path) -> None:
    assert (finished.code, finished.summary["ok"]) == (0, ROWS)
    results = table(out)
    assert results["id"].to_list() == [f"r{i}" for i in range(ROWS)]
    assert results["key"].n_unique() == ROWS


def test_a_file_that_may_grow_no_further(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_large_rows(tmp_path / "rows.jsonl"), tmp_path / "out"
    endpoint.knobs(latency_s=0.005)

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))

    with begun(*command(endpoint, rows, out), preexec=bounded) as run:
        stopped = ended(run)
    check_stopped(stopped, out)
    assert "the largest file size allowed is reached" in stopped.err
    kept, sent = stored(out), endpoint.stats()["good"]
    assert 0 < kept < ROWS
    assert sent - kept <= SLOTS, "at most what was in flight could not be kept"
    assert (state(out)["stopped_by"], state(out)["failed"]) == ("disk", 0)

    finished = batchflex(*command(endpoint, rows, out, "--json"))
    check_finished(finished, out)
    assert finished.summary["requests_sent"] == ROWS - kept, "what was in the journal is not asked again"


def test_too_little_room_from_the_start(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Not even the reserve fits: nothing is sent that could not be kept."""
    rows, out = write_rows(tmp_path / "rows.jsonl", 5), tmp_path / "out"

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    with begun(*command(endpoint, rows, out), preexec=bounded) as run:
        stopped = ended(run)
    check_stopped(stopped, out)
    assert endpoint.stats()["requests"] == 0
    assert batchflex(*command(endpoint, rows, out)).code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing_that_was_in_flight(
    endpoint: CountingEndpoint, small_disk: Path, tmp_path: Path
) -> None:
    rows, out = write_large_rows(tmp_path / "rows.jsonl"), small_disk / "out"
    endpoint.knobs(latency_s=0.02)
    for settings in (["--set", "journal.seal_rows=40"], []):
        stopped = batchflex(*command(endpoint, rows, out, *settings, "--set", "limits.min_free_disk_mb=0"))
        check_stopped(stopped, out)
        assert "the disk is full" in stopped.err
        kept, stats = stored(out), endpoint.stats()
        assert 0 < kept == stats["good"] < ROWS, "the reserve took what was in flight"
        assert (stats["abandoned"], stats["repeats"]) == (0, 0)
        assert (state(out)["stopped_by"], state(out)["ok"], state(out)["failed"]) == ("disk", kept, 0)

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    finished = batchflex(*command(endpoint, rows, out, "--json"))
    check_finished(finished, out)
    assert (endpoint.stats()["good"], endpoint.stats()["repeats"]) == (ROWS, 0)
    assert journal.segments(Folder(out).journal) == []


def test_a_run_stops_before_the_disk_is_full(endpoint: CountingEndpoint, small_disk: Path, tmp_path: Path) -> None:
    rows, out = write_large_rows(tmp_path / "rows.jsonl"), small_disk / "out"
    endpoint.knobs(latency_s=0.4)
    options = ["--json", "--set", "max_tokens=100000"]
    stopped = batchflex(*command(endpoint, rows, out, *options, "--set", "limits.min_free_disk_mb=2.5"))
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "disk")
    assert "left, and the last 2.5 MB are left alone (limits.min_free_disk_mb)" in stopped.summary["message"]
    assert "the disk may fill up: what is left takes up to about" in stopped.err
    kept = stored(out)
    assert 0 < kept == table(out).height == endpoint.stats()["good"] < ROWS
    again = batchflex(*command(endpoint, rows, out, *options, "--set", "limits.min_free_disk_mb=5.9"))
    assert (again.code, endpoint.stats()["requests"]) == (3, kept), (
        "nothing is sent when there is too little from the start"
    )
    assert table(out).height == kept


# -------------------------------------------------------------------------------------------------- one run at a time


def test_what_only_spares_the_next_run_time_stops_none(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion_marker, "WORTH_ROWS", 1)
    out = Folder(tmp_path / "out")
    (out.snapshot / "in its place").mkdir(parents=True)
    rows = write_rows(tmp_path / "rows.jsonl", 3)
    run = called("run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", out.path)
    assert (run.code, state(out.path)["stopped_by"], table(out.path).height) == (0, None, 3)
    assert "the next run will look longer for what is done" in run.err


def test_a_second_run_on_the_same_folder_leaves_the_first_alone(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 400), tmp_path / "out"
    endpoint.knobs(latency_s=0.5)
    with begun(*command(endpoint, rows, out, "--json")) as first:
        wait_until(lambda: endpoint.stats()["good"] > 0, "the first is under way")
        second = batchflex(*command(endpoint, rows, out))
        assert (second.code, second.out) == (4, "")
        assert f"process {first.pid}" in second.err and "another run holds" in second.err
        assert "Traceback" not in second.err
        endpoint.knobs(latency_s=0.0)
        assert ended(first).code == 0
    assert (endpoint.stats()["requests"], endpoint.stats()["repeats"]) == (400, 0)
    assert table(out).height == 400
    past = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [(line["status"], line["exit_code"]) for line in past] == [("busy", 4), ("finished", 0)]


def test_a_killed_run_leaves_no_lock(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 40), tmp_path / "out"
    endpoint.knobs(fail_after=8, fail_with="hang")
    with begun(*command(endpoint, rows, out)) as first:
        wait_until(lambda: endpoint.stats()["outcomes"].get("hang") == SLOTS, "it is under way")
        assert Folder(out).is_held()
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert not Folder(out).is_held()
    endpoint.knobs(fail_after=None)
    assert batchflex(*command(endpoint, rows, out)).code == 0
    assert table(out).height == 40
    assert endpoint.stats()["repeats"] == 0


# ---------------------------------------------------------------------------------------- what cannot be read back


@pytest.mark.parametrize("heals", [False, True], ids=["for good", "for a moment"])
def test_a_journal_that_cannot_be_read_back_costs_nothing(
    heals: bool, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """As it is sealed: what is in flight is waited for and kept, and so is the segment."""
    rows, out = write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "out"
    endpoint.knobs(latency_s=0.3)
    segment = journal.segment_path(Folder(out).journal, 1)
    aside = tmp_path / "aside"
    with begun(*command(endpoint, rows, out, "--set", "journal.seal_rows=60", "--json")) as run:
        wait_until(lambda: endpoint.stats()["good"] >= SLOTS, "it is well under way")
        segment.rename(aside)
        segment.mkdir()
        if heals:  # before what is in flight then has ended
            wait_until(lambda: endpoint.stats()["good"] >= 60 - SLOTS, "the segment is nearly full")
            endpoint.knobs(latency_s=2.0)
        wait_until(lambda: out.joinpath("run.json").exists() and state(out)["stopped_by"] is not None, "it is noticed")
        if heals:
            segment.rmdir()
            aside.rename(segment)
        stopped = ended(run)
    stats = endpoint.stats()
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "disk")
    assert f"no part could be made of {segment}" in stopped.summary["message"]
    assert "Traceback" not in stopped.err
    assert (stats["abandoned"], stopped.summary["ok"], stats["requests"]) == (0, stats["good"], stats["good"])
    if not heals:
        segment.rmdir()
        aside.rename(segment)
    assert stored(out) == stats["good"] < ROWS
    assert not heals or table(out).height == stats["good"], stopped.err
    endpoint.knobs(latency_s=0.0)
    check_finished(batchflex(*command(endpoint, rows, out, "--json")), out)
    assert (endpoint.stats()["requests"], endpoint.stats()["repeats"]) == (ROWS, 0)
