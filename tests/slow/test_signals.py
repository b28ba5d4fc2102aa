"""Ctrl-C, SIGTERM and a closed terminal, once and twice: what was received is kept, and what was kept is not asked again."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Ended, batchflex, begun, ended, state, table, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint

ROWS = 120


@pytest.fixture
def slow() -> Iterator[CountingEndpoint]:
    """An endpoint of the test's own: a run that is cut off leaves requests behind, which no other test should count."""
    with CountingEndpoint(latency_s=0.4) as endpoint:
        yield endpoint


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def command(endpoint: CountingEndpoint, rows: Path, *more: object) -> list[object]:
    options = ["--base-url", endpoint.base_url, "--model", "m", "--concurrency", "8", "--out", rows.parent / "out"]
    return ["run", rows, *options, *more]


def finish(endpoint: CountingEndpoint, rows: Path) -> Ended:
    """The same command again, with a quick endpoint: every row is there, once."""
    endpoint.knobs(latency_s=0.0, fail_after=None)
    finished = batchflex(*command(endpoint, rows, "--json"))
    assert (finished.code, finished.summary["ok"]) == (0, ROWS)
    results = table(rows.parent / "out")
    assert results["id"].to_list() == [f"r{i}" for i in range(ROWS)]
    assert results["key"].n_unique() == ROWS
    return finished


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_lets_what_is_in_flight_finish(
    number: signal.Signals, code: int, slow: CountingEndpoint, rows: Path
) -> None:
    out = rows.parent / "out"
    with begun(*command(slow, rows)) as run:
        wait_until(lambda: slow.stats()["good"] >= 8 and slow.stats()["in_flight"] == 8, "it is well under way")
        run.send_signal(number)
        interrupted = ended(run)
    stats = slow.stats()
    assert (interrupted.code, interrupted.out) == (code, "")
    assert stats["abandoned"] == 0, "every request that was sent was waited for"
    assert 16 <= stats["good"] == stats["requests"] < ROWS
    assert table(out).height == stats["good"]
    kept: dict[str, Any] = state(out)
    assert (kept["status"], kept["stopped_by"], kept["exit_code"]) == ("interrupted", "signal", code)
    assert (kept["ok"], kept["in_flight"], kept["planned"]) == (stats["good"], 0, ROWS)
    assert number.name in interrupted.err and "same command again" in interrupted.err
    assert "Traceback" not in interrupted.err

    finished = finish(slow, rows)
    assert "resuming" in finished.err
    assert (slow.stats()["requests"], slow.stats()["repeats"]) == (ROWS, 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_the_run_at_once(
    number: signal.Signals, code: int, slow: CountingEndpoint, rows: Path
) -> None:
    out = rows.parent / "out"
    slow.knobs(latency_s=0.0, fail_after=20, fail_with="hang")
    with begun(*command(slow, rows)) as run:
        wait_until(lambda: slow.stats()["outcomes"].get("hang") == 8, "every slot waits for ever")
        run.send_signal(number)
        assert run.stderr is not None
        while "interrupt again to end at once" not in run.stderr.readline():
            assert run.poll() is None
        run.send_signal(number)
        interrupted = ended(run, 20)
    assert interrupted.code == code
    assert "Traceback" not in interrupted.err
    good = slow.stats()["good"]
    assert (state(out)["status"], state(out)["ok"]) == ("interrupted", good)
    shown = batchflex("results", out, "-o", "-")
    assert len(shown.out.splitlines()) == good, "what was received can be looked at without going on"
    finished = finish(slow, rows)
    assert finished.summary["requests_sent"] == ROWS - good
    assert slow.stats()["repeats"] == 0, "nothing that was received is asked again"


def test_what_is_in_flight_gets_no_more_than_the_grace(slow: CountingEndpoint, rows: Path) -> None:
    slow.knobs(latency_s=0.0, fail_after=20, fail_with="hang")
    with begun(*command(slow, rows, "--set", "limits.grace_s=0.5")) as run:
        wait_until(lambda: slow.stats()["outcomes"].get("hang") == 8, "every slot waits for ever")
        run.send_signal(signal.SIGINT)
        interrupted = ended(run, 30)
    assert interrupted.code == 130
    assert "0.5 s" in interrupted.err
    good = slow.stats()["good"]
    assert table(rows.parent / "out").height == good == state(rows.parent / "out")["ok"]
    assert finish(slow, rows).summary["requests_sent"] == ROWS - good


def test_a_signal_while_rows_wait_for_another_attempt(slow: CountingEndpoint, rows: Path) -> None:
    """Waiting is cut short, and no row is marked failed for it."""
    slow.knobs(latency_s=0.0, fail_after=10, fail_with="503")
    with begun(*command(slow, rows, "--set", "retry.base_s=600", "--set", "retry.max_wait_s=600")) as run:
        wait_until(lambda: slow.stats()["outcomes"].get("503", 0) >= 8, "rows wait for another attempt")
        run.send_signal(signal.SIGINT)
        interrupted = ended(run, 20)
    assert interrupted.code == 130
    kept = state(rows.parent / "out")
    assert (kept["ok"], kept["failed"]) == (10, 0)
    finish(slow, rows)


def test_a_signal_while_the_quota_is_waited_for(slow: CountingEndpoint, rows: Path) -> None:
    slow.knobs(latency_s=0.0)
    with begun(*command(slow, rows, "--rpm", "30")) as run:
        wait_until(lambda: slow.stats()["good"] >= 2, "something was answered")
        run.send_signal(signal.SIGTERM)
        assert ended(run, 20).code == 143
    assert slow.stats()["good"] < 20
    finish(slow, rows)
    assert slow.stats()["repeats"] == 0


def test_a_closed_terminal_ends_the_run_in_order(slow: CountingEndpoint, rows: Path) -> None:
    """It sends SIGHUP, its shell does so too, and it takes nothing that is still written to it."""
    out, (terminal, inside) = rows.parent / "out", os.openpty()

    def in_terminal() -> None:
        fcntl.ioctl(inside, termios.TIOCSCTTY, 0)  # the session's own, so that the kernel tells when it is gone
        for number in (0, 1, 2):
            os.dup2(inside, number)

    with begun(*command(slow, rows), preexec=in_terminal) as run:
        os.close(inside)
        wait_until(lambda: slow.stats()["good"] >= 8 and slow.stats()["in_flight"] == 8, "it is well under way")
        os.close(terminal)
        wait_until(lambda: (out / "run.json").exists() and state(out)["stopped_by"] is not None, "it has heard of it")
        run.send_signal(signal.SIGHUP)
        assert run.wait(30) == 129
    stats, kept = slow.stats(), state(out)
    assert (stats["abandoned"], kept["status"], kept["ok"]) == (0, "interrupted", stats["good"])
    assert "SIGHUP" in kept["message"]
    assert table(out).height == stats["good"] == stats["requests"] < ROWS
    finish(slow, rows)


def test_under_nohup_a_closed_terminal_ends_nothing(slow: CountingEndpoint, rows: Path) -> None:
    slow.knobs(latency_s=0.02)
    with begun(*command(slow, rows), preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as run:
        wait_until(lambda: slow.stats()["good"] >= 8, "it is well under way")
        run.send_signal(signal.SIGHUP)
        assert ended(run).code == 0
    assert state(rows.parent / "out")["ok"] == ROWS


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_run_that_was_stopped_for_long_finds_its_answers(stream: str, slow: CountingEndpoint, rows: Path) -> None:
    """Ctrl-Z, a paused container: longer than any time-out, while whole answers lie in the sockets."""
    slow.knobs(latency_s=0.4)
    limits = ["endpoint.timeout_s=0.8", "endpoint.idle_timeout_s=0.8", f"endpoint.stream={stream}", "retry.attempts=1"]
    with begun(*command(slow, rows, *(each for limit in limits for each in ("--set", limit)))) as run:
        wait_until(lambda: slow.stats()["good"] >= 8 and slow.stats()["in_flight"] == 8, "it is well under way")
        run.send_signal(signal.SIGSTOP)
        wait_until(lambda: slow.stats()["in_flight"] == 0, "what was in flight was answered")
        time.sleep(2.5)
        slow.knobs(latency_s=0.0)
        run.send_signal(signal.SIGCONT)
        finished = ended(run)
    stats = slow.stats()
    assert (finished.code, stats["requests"], stats["repeats"]) == (0, ROWS, 0), finished.err
    assert state(rows.parent / "out")["retries"] == 0


# The command line, with a disk that takes nothing of the table until a file is there.
SLOW_TABLE = """
import sys, time
from pathlib import Path
from batchflex.cli.main import main
from batchflex.storage.row_groups import TableWriter

begun, allowed = map(Path, sys.argv[1:3])
copy = TableWriter.copy

def slow(self, *how):
    begun.touch()
    while not allowed.exists():
        time.sleep(0.01)
    copy(self, *how)

TableWriter.copy = slow
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(("signals", "code"), [([signal.SIGINT], 130), ([signal.SIGINT, signal.SIGINT], 130),
    ([signal.SIGTERM, signal.SIGINT], 143), ([signal.SIGINT] * 3, 130)])  # fmt: skip
def test_signals_while_the_table_is_made(
    signals: list[signal.Signals], code: int, slow: CountingEndpoint, rows: Path
) -> None:
    """The first says so, the second ends it: the old table stays, and the next run makes the new one without asking."""
    slow.knobs(latency_s=0.0)
    out, begun_, allowed = rows.parent / "out", rows.parent / "begun", rows.parent / "allowed"
    assert batchflex(*command(slow, rows, "--limit", 20, "--json")).code == 0
    before = (out / "results.parquet").read_bytes()
    arguments = [sys.executable, "-c", SLOW_TABLE, begun_, allowed, *command(slow, rows)]
    said = rows.parent / "said"
    with said.open("w") as stream:
        process = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, stderr=stream)
    try:
        wait_until(begun_.exists, "the table is being made")
        process.send_signal(signals[0])
        wait_until(lambda: "the table of results is being made" in said.read_text(), "it says so")
        for number in signals[1:]:
            process.send_signal(number)
            time.sleep(0.2)  # two of the same kind at once are one
        allowed.touch()
        ended_with = process.wait(30)
    finally:
        process.kill()
        process.communicate()
    kept = state(out)
    assert (ended_with, kept["exit_code"], kept["status"], kept["stopped_by"]) == (
        code, code, "interrupted", "signal",
    )  # fmt: skip
    assert (kept["ok"], slow.stats()["requests"]) == (ROWS, ROWS), "every answer is kept"
    assert "Traceback" not in said.read_text()
    if len(signals) > 1:
        assert (out / "results.parquet").read_bytes() == before
        assert "not in the table of results yet" in kept["message"]
        assert len(batchflex("results", out, "-o", "-").out.splitlines()) == ROWS
    else:
        assert table(out).height == ROWS
    assert [path.name for path in out.iterdir() if path.name.startswith(".results")] == []
    assert finish(slow, rows).summary["requests_sent"] == 0
