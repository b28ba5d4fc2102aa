"""Runs on the embedded model: a real llama.cpp server in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import batchflex, begun, ended, state, table, wait_until, write_rows

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def needs_its_server() -> None:
    pytest.importorskip("xllamacpp")


def command(rows: Path, *more: object) -> list[object]:
    settings = ["endpoint.name=local", "endpoint.stream=true", "endpoint.context=256", "max_tokens=1"]
    return ["run", rows, "--out", rows.parent / "out", *(each for s in settings for each in ("--set", s)), *more]


def server_of(pid: int) -> int | None:
    """The process of the model's server that this run has started."""
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True, check=False)
    of = [line.split()[0] for line in found.stdout.splitlines() if "batchflex.endpoint.local_server" in line]
    return int(of[0]) if of else None


def test_no_attempt_fails_though_connections_close_after_each_stream(tmp_path: Path) -> None:
    """llama.cpp promises to keep them, and closes them."""
    run = batchflex(*command(write_rows(tmp_path / "rows.jsonl", 300)), timeout_s=300)
    kept = state(tmp_path / "out")
    assert (run.code, kept["requests_sent"], kept["retries"]) == (0, 300, 0), run.err
    assert table(tmp_path / "out")["attempts"].to_list() == [1] * 300


def test_a_server_that_is_killed_is_started_again(tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 40), tmp_path / "out"
    with begun(*command(rows)) as run:
        wait_until(lambda: (out / "run.json").exists() and state(out)["done"] >= 4, "it is under way")
        server = server_of(run.pid)
        assert server is not None
        os.kill(server, signal.SIGKILL)
        finished = ended(run, 120)
    assert (finished.code, table(out).height) == (0, 40), finished.err
    assert "server was killed by SIGKILL; it is started again" in finished.err


def test_a_server_that_does_not_live_ends_the_run(tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 4000), tmp_path / "out"
    killed: set[int] = set()

    def kill() -> bool:
        server = server_of(run.pid)
        if server is not None and server not in killed:
            os.kill(server, signal.SIGKILL)
            killed.add(server)
        return run.poll() is not None

    with begun(*command(rows)) as run:
        wait_until(lambda: (out / "run.json").exists() and state(out)["done"] >= 1, "it is under way")
        wait_until(kill, "it has stopped", 120)
        stopped = ended(run)
    assert (stopped.code, state(out)["stopped_by"], state(out)["failed"]) == (3, "endpoint", 0)
    assert "the local model's server was killed by SIGKILL" in state(out)["message"]
    assert len(killed) <= 4
