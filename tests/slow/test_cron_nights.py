"""Five nights of a job under a real cron daemon, a minute each: ``make test-cron``, as root, where a cron is installed.

In the first a row is refused. The second takes too long, so that the third finds it at work, and is then killed. The fourth goes
on and is well again, the fifth is as it should be. New rows come before each.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchflex.storage.output_folder import Folder
from tests.cli.test_logs import lines_of
from tests.run.test_secrets import everything_in
from tests.slow.test_kill import check
from tests.support.command_line import called, message, sha1_of_key, state, wait_until
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.cron_daemon import cron_keeps, needs_cron, printed
from tests.support.recorder import Recorder

pytestmark = needs_cron

KEY = "sk-VerySecret0123456789"
HOOK, PING = "/hook/T0PSECRET", "/ping/T0PSECRET"
SECRETS = ("VerySecret", "T0PSECRET")
CONCURRENCY = 4
NIGHT_S = 90  # a minute, and time to start
JOB = """
[job]
name = "nightly"
[endpoint]
base_url = "{base_url}"
[input]
path = "in/*.jsonl"
[params]
model = "m"
[limits]
concurrency = {concurrency}
[journal]
seal_rows = 100
[prices]
input = 1.0
output = 2.0
[notify]
webhook_env = "HOOK_URL"
ping_env = "PING_URL"
command = 'cat >> told.jsonl && echo >> told.jsonl'
metrics_file = "nightly.prom"
[log]
file = "logs/nightly.log"
format = "json"
"""


class Nights:
    """The folder of the job, in which rows arrive."""

    def __init__(self, folder: Path, base_url: str, told_at: str) -> None:
        self.folder, self.out = folder, folder / "runs/nightly"
        self.rows = self._files = 0
        (folder / "in").mkdir(parents=True)
        (folder / "the job.toml").write_text(JOB.format(base_url=base_url, concurrency=CONCURRENCY))
        (folder / ".env").write_text(f"BATCHFLEX_API_KEY={KEY}\nHOOK_URL={told_at}{HOOK}\nPING_URL={told_at}{PING}\n")
        (folder / ".env").chmod(0o600)

    def arrive(self, rows: int) -> None:
        """So many at the end of the file that grows, and as many in a new file, whose name puts it before or after that."""
        with (self.folder / "in/m.jsonl").open("a") as file:
            file.writelines(self._lines(rows))
        self._files += 1
        new = self.folder / f"in/{'az'[self._files % 2]}{self._files}.jsonl"
        new.with_suffix(".tmp").write_text("".join(self._lines(rows)))
        new.with_suffix(".tmp").rename(new)

    def arrive_by_half(self) -> str:
        """A row at the end of the file that grows, of which the end is still to be written: that is returned."""
        (line,) = self._lines(1)
        with (self.folder / "in/m.jsonl").open("a") as file:
            file.write(line[:20])
        return line[20:]

    def arrive_the_rest(self, rest: str) -> None:
        with (self.folder / "in/m.jsonl").open("a") as file:
            file.write(rest)

    def _lines(self, rows: int) -> Iterator[str]:
        for _ in range(rows):
            yield json.dumps({"id": f"r{self.rows}", "messages": message(f"row {self.rows}.")}) + "\n"
            self.rows += 1

    def history(self) -> list[dict[str, Any]]:
        """What has been told so far, in the order in which it was."""
        try:
            return [json.loads(line) for line in (self.out / "history.jsonl").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def log(self) -> list[dict[str, Any]]:
        return lines_of(self.folder / "logs/nightly.log")

    def metrics(self) -> dict[str, float]:
        """By name, and for those that have another label than the job's by ``name.value of that label``."""
        families = text_string_to_metric_families((self.folder / "nightly.prom").read_text())
        found = {}
        for sample in itertools.chain.from_iterable(family.samples for family in families):
            labels = dict(sample.labels)
            assert labels.pop("job_name") == "nightly"
            found[".".join([sample.name, *labels.values()])] = sample.value
        return found

    def ends(self) -> list[tuple[str, int | None]]:
        return [(line["status"], line["exit_code"]) for line in self.history()]


def events(recorder: Recorder) -> list[str]:
    return [got.json["event"] for got in recorder.got if got.path == HOOK]


def pings(recorder: Recorder) -> list[str]:
    return [path.removeprefix(PING) for path in recorder.paths() if path.startswith(PING)]


def test_five_nights(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    with Recorder() as recorder:
        nights = Nights(tmp_path / "a b%c$d 'e' ü", endpoint.base_url, recorder.url)
        endpoint.knobs(key=KEY, echo_key=True, poison={"row 3.": "400"})
        nights.arrive(6)
        with cron_keeps(printed(nights.folder, "the job.toml", "--cron", "* * * * *")):
            killed = _five(nights, endpoint, recorder)
        wait_until(lambda: not Folder(nights.out).is_held(), "the last run is over")
        told = [got for got in recorder.got if got.path == HOOK]
        assert [(got.json["event"], got.json["exit_code"]) for got in told] == [("failure", 1), ("recovered", 0)]
        assert pings(recorder) == ["/start", "/fail", "/start", "/start", "", "/start", ""]
        assert len(recorder.got) == len(told) + len(pings(recorder))
        by_command = [json.loads(line) for line in (nights.folder / "told.jsonl").read_text().splitlines()]
        assert by_command == [got.json for got in told]
        figures = _table(nights, endpoint)
        figures |= {"notices": len(told), "pings": len(pings(recorder)), "runs": len(nights.history())}
        _story(nights, killed)
        _metrics(nights)
        _log(nights, killed)
        _secrets(nights, endpoint, recorder)
    print("\n", figures, "\n", called("history", nights.out).out, sep="")  # noqa: T201  (shown by pytest -s)


def _five(nights: Nights, endpoint: CountingEndpoint, recorder: Recorder) -> str:
    """Return the id of the run that was killed."""
    wait_until(lambda: nights.ends() == [("finished", 1)], "the first night has ended, with a failure", NIGHT_S)
    wait_until(lambda: events(recorder) == ["failure"] and pings(recorder)[1:] == ["/fail"], "that has been told")
    wait_until(lambda: not Folder(nights.out).is_held(), "the first run is over")

    endpoint.knobs(poison={}, latency_s=1.0)
    nights.arrive(200)  # at least 100 s
    wait_until(lambda: state(nights.out)["status"] == "running", "the second night has begun", NIGHT_S)
    wait_until(lambda: len(pings(recorder)) == 3, "its start has been told")
    nights.arrive(5)
    wait_until(lambda: nights.ends()[1:] == [("busy", 4)], "the third night has found it at work", NIGHT_S)
    wait_until(lambda: any(line["event"] == "progress" for line in nights.log()), "the second has told how far it is")
    second = state(nights.out)
    assert second["status"] == "running" and second["run_id"] != nights.history()[0]["run_id"]
    os.kill(second["pid"], signal.SIGKILL)
    wait_until(lambda: not Folder(nights.out).is_held(), "it is dead")
    endpoint.knobs(latency_s=0.02)
    left = everything_in(nights.out)
    assert list((nights.out / "parts").iterdir()) and list((nights.out / "journal").iterdir())
    assert not any(word in left for word in SECRETS)
    assert nights.metrics()["batchflex_running"] == 1
    assert events(recorder) == ["failure"] and len(pings(recorder)) == 3
    nights.arrive(5)
    rest = nights.arrive_by_half()

    wait_until(lambda: nights.ends()[2:] == [("killed", None), ("finished", 0)], "the fourth night went on", NIGHT_S)
    wait_until(lambda: len(events(recorder)) == 2 and len(pings(recorder)) == 5, "its end has been told")
    wait_until(lambda: not Folder(nights.out).is_held(), "it is over")
    assert pl.read_parquet(nights.out / "results.parquet").height == nights.rows - 1
    assert any("m.jsonl ends within a line" in line["message"] for line in nights.log())
    nights.arrive_the_rest(rest)
    nights.arrive(5)
    wait_until(lambda: nights.ends()[4:] == [("finished", 0)], "the fifth night has ended", NIGHT_S)
    wait_until(lambda: len(pings(recorder)) == 7, "its end has been told")
    return str(second["run_id"])


def _table(nights: Nights, endpoint: CountingEndpoint) -> dict[str, Any]:
    """Every row is there once, and asked once but for what was in flight when a run was killed and for the one that failed."""
    path, stats = nights.out / "results.parquet", endpoint.stats()
    figures = check(endpoint.log(), pl.read_parquet(path), nights.rows)
    assert sorted(pq.read_table(path)["id"].to_pylist()) == sorted(f"r{row}" for row in range(nights.rows))
    assert stats["answered"] == nights.rows
    assert figures["unread answers asked again"] <= CONCURRENCY
    assert stats["good"] == nights.rows + figures["unread answers asked again"]
    assert stats["requests"] <= nights.rows + 1 + CONCURRENCY
    assert stats["max_in_flight"] <= CONCURRENCY
    return figures


def _story(nights: Nights, killed: str) -> None:
    """What ``history`` says."""
    assert [line["run_id"] for line in nights.history() if line["status"] == "killed"] == [killed]
    shown = called("history", nights.out)
    assert (shown.code, shown.err) == (0, "")
    found = re.findall(r"^20\d\d-\d\d-\d\d \d\d:\d\d (.*)$", shown.out, re.M)
    assert [tuple(re.split(r" {2,}", line.strip())[-2:]) for line in found] == [
        ("1", "finished"), ("–", "killed"), ("4", "busy"), ("0", "finished"), ("0", "finished"),
    ]  # fmt: skip
    assert "first failure: r3: " in shown.out
    assert "in all: 4 runs, " in shown.out and "; 1 busy" in shown.out
    last = nights.history()[-1]
    assert (last["planned"], last["ok"], last["done_before"]) == (nights.rows, nights.rows, nights.rows - 11)


def _metrics(nights: Nights) -> None:
    found, history = nights.metrics(), nights.history()
    ends = {"success": 2, "failure": 1, "killed": 1, "busy": 1, "stopped": 0, "interrupted": 0, "skipped": 0}
    assert {end: found[f"batchflex_runs_total.{end}"] for end in ends} == ends
    assert found["batchflex_running"] == found["batchflex_last_run_exit_code"] == found["batchflex_rows.failed"] == 0
    assert found["batchflex_rows.ok"] == found["batchflex_rows_planned"] == nights.rows
    assert found["batchflex_requests_total"] == sum(line.get("requests_sent", 0) for line in history)
    assert found["batchflex_cost_dollars_total"] == pytest.approx(sum(line.get("cost") or 0 for line in history))
    assert found["batchflex_cost_dollars_total"] > 0


def _log(nights: Nights, killed: str) -> None:
    """What each run says, and how often."""
    lines = nights.log()
    assert {line["job"] for line in lines} == {"nightly"}
    by_run = {line["run_id"]: [each for each in lines if each["run_id"] == line["run_id"]] for line in lines}
    assert list(by_run) == [line["run_id"] for line in sorted(nights.history(), key=lambda line: line["started_at"])]
    first, second, third, fourth, fifth = by_run.values()
    assert [line["event"] for line in third] == ["busy"]
    for of_run, wanted in ((first, ["row_failed", "ended"]), (fourth, ["ended"]), (fifth, ["ended"])):
        assert [line["event"] for line in of_run if line["event"] not in ("started", "note")] == wanted
        assert len(of_run) <= 4 + len(wanted)
    began, *further = (datetime.datetime.fromisoformat(line["time"]) for line in second)
    assert (
        len([at for at in further if (at - began).total_seconds() > 5]) * 60
        <= (further[-1] - began).total_seconds() + 1
    )
    assert [line["event"] for line in second][-1] == "progress" and second[0]["run_id"] == killed


def _secrets(nights: Nights, endpoint: CountingEndpoint, recorder: Recorder) -> None:
    """The key, and where somebody is told, are where they were put and nowhere else."""
    assert endpoint.stats()["keys"] == [sha1_of_key(KEY)]
    (nights.folder / ".env").unlink()
    everything = everything_in(nights.folder)
    assert '"nightly"' in everything and "echo: row 3." in everything
    sent = "\n".join(f"{got.headers}{got.body!r}" for got in recorder.got)
    for text in (everything, sent, called("history", nights.out, "--json").out):
        for word in SECRETS:
            assert word not in text, text[max(0, text.find(word) - 300) :][:600]
