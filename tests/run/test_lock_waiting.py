"""A run that finds another at work: refused, waiting for its turn, or skipped."""

from __future__ import annotations

import datetime
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchflex.cli import options, wait
from batchflex.config.loader import build
from batchflex.core.errors import FolderBusy
from batchflex.engine import job_run
from batchflex.storage.output_folder import Folder
from batchflex.storage.run_history import Attempt
from tests.support.command_line import begun, called, ended, state, table, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint


def asked(rows: Path, endpoint: CountingEndpoint) -> list[object]:
    return ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", rows.parent / "out"]


def past(out: Path) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [(line["status"], line["exit_code"]) for line in lines]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 6)


def test_a_run_that_waits_goes_on_after_the_other_and_takes_what_came_meanwhile(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    write_rows(inbox / "1.jsonl", 40)
    command: list[object] = ["run", inbox, "--model", "m", "--concurrency", "4", "--out", tmp_path / "out", "--json"]
    endpoint.knobs(latency_s=0.5)
    command += ["--base-url", endpoint.base_url]
    with begun(*command) as first:
        wait_until(lambda: endpoint.stats()["good"] > 0, "the first is under way")
        with begun(*command, "--wait", "1h") as second:
            assert second.stderr is not None
            said = second.stderr.readline()
            assert "waiting for the run that holds" in said and f"process {first.pid} on" in said
            assert "for 1:00:00 at most" in said and "of 40 rows are done" in said
            new = write_rows(tmp_path / "2.jsonl", 50).read_text().splitlines(keepends=True)[40:]
            (inbox / "2.jsonl").write_text("".join(new))
            endpoint.knobs(latency_s=0.0)
            waited = ended(second)
        assert ended(first).code == 0
    assert waited.code == 0
    assert (waited.summary["planned"], waited.summary["done_before"], waited.summary["requests_sent"]) == (
        50,
        40,
        10,
    )
    assert (endpoint.stats()["requests"], endpoint.stats()["repeats"]) == (50, 0)
    assert table(tmp_path / "out").height == 50
    assert past(tmp_path / "out") == [("finished", 0), ("finished", 0)]


def test_when_the_time_is_up_the_exit_code_says_busy(endpoint: CountingEndpoint, rows: Path) -> None:
    out = rows.parent / "out"
    with Folder(out).held():
        late = called(*asked(rows, endpoint), "--wait", "0.2s")
        by_deadline = called(*asked(rows, endpoint), "--wait", "--deadline", "0.2s")
        quiet = called(*asked(rows, endpoint), "--wait", "0.2s", "--quiet")
    assert (late.code, late.out) == (4, "")
    assert "waiting for the run that holds" in late.err and "for 0.2 s at most" in late.err
    assert "another run still holds" in late.err and "waited for 0.2 s; nothing was sent" in late.err
    assert by_deadline.code == 4 and "the deadline has come; nothing was sent" in by_deadline.err
    assert quiet.code == 4 and len(quiet.err.splitlines()) == 1
    assert past(out) == [("busy", 4)] * 3
    assert endpoint.stats()["requests"] == 0


def test_what_is_skipped_is_said_in_a_line_and_is_no_failure(endpoint: CountingEndpoint, rows: Path) -> None:
    out, log = rows.parent / "out", rows.parent / "log"
    with Folder(out).held():
        skipped = called(*asked(rows, endpoint), "--skip", "--json")
        quiet = called(*asked(rows, endpoint), "--skip", "--quiet", "--log-file", log, "--log-format", "json")
    assert skipped.code == 0
    line = json.loads(log.read_text())
    assert (line["event"], line["job"], line["exit_code"]) == ("skipped", "rows", 0), "a last line has an exit code"
    assert len(skipped.err.splitlines()) == 1 and "skipped: another run holds" in skipped.err
    told = skipped.summary
    assert (told["status"], told["exit_code"], told["out"]) == ("skipped", 0, str(out))
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert json.loads((out / "history.jsonl").read_text().splitlines()[0]) == told
    free = called(*asked(rows, endpoint), "--skip")
    assert free.code == 0 and endpoint.stats()["requests"] == 6, "with nobody there it is a run like any other"
    assert past(out) == [("skipped", 0), ("skipped", 0), ("finished", 0)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_waiting_at_once(
    number: signal.Signals, code: int, endpoint: CountingEndpoint, rows: Path
) -> None:
    out = rows.parent / "out"
    with Folder(out).held(), begun(*asked(rows, endpoint), "--wait") as waiting:
        assert waiting.stderr is not None
        assert "waiting for the run that holds" in waiting.stderr.readline()
        waiting.send_signal(number)
        interrupted = ended(waiting, 20)
    assert (interrupted.code, interrupted.out) == (code, "")
    assert f"interrupted by {number.name} while it waited" in interrupted.err and "Traceback" not in interrupted.err
    assert past(out) == [("interrupted", code)]
    assert endpoint.stats()["requests"] == 0


def test_a_retry_waits_and_skips_likewise(endpoint: CountingEndpoint, rows: Path) -> None:
    out = rows.parent / "out"
    assert called(*asked(rows, endpoint)).code == 0
    again: list[object] = ["retry", out, "--where", "row < 2"]
    with Folder(out).held():
        assert called(*again, "--skip").code == 0
        assert called(*again, "--wait", "0.2s", "--dry-run").code == 4
    assert called(*again, "--wait").code == 0
    assert past(out) == [("finished", 0), ("skipped", 0), ("busy", 4), ("finished", 0)]
    assert endpoint.stats()["repeats"] == 2


def test_a_retry_takes_the_job_as_it_is_after_the_waiting(
    endpoint: CountingEndpoint, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever held the folder may have changed it."""
    out = rows.parent / "out"
    assert called(*asked(rows, endpoint)).code == 0
    before = wait.patiently

    def patiently(work: Callable[[], Any], folder: Folder, *rest: Any, **more: Any) -> Any:
        assert called(*asked(rows, endpoint), "--set", "temperature=0.5", "--on-change", "rerun").code == 0
        return before(work, folder, *rest, **more)

    monkeypatch.setattr(wait, "patiently", patiently)
    asking = called("retry", out, "--where", "row = 0", "--wait", "--json")
    assert (asking.code, asking.summary["requests_sent"]) == (0, 1), "by the job before, no row would have this answer"
    assert table(out)["retried_with"].to_list() == ["{}", *[None] * 5]


class Held:
    """A folder that others hold as often as told."""

    path = Path("out")

    def __init__(self, *answers: bool) -> None:
        self._answers = [*answers]

    def is_held(self) -> bool:
        return self._answers.pop(0) if self._answers else False

    def holder(self) -> str:
        return " (process 1 on there)"

    def read_state(self) -> dict[str, Any]:
        return {"status": "running", "planned": None, "done": 1200}


def test_whoever_finds_another_quicker_waits_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, said = [], []

    def work() -> str:
        tried.append(1)
        if len(tried) == 1:
            raise FolderBusy("held again")
        return "done"

    monkeypatch.setattr(time, "sleep", lambda _: None)
    folder: Any = Held(True, True, False, True, False)
    assert wait.patiently(work, folder, float("inf"), said.append) == "done"
    assert said == [
        "waiting for the run that holds out (process 1 on there) to end; 1,200 rows are done",
    ]
    tried.clear()
    with pytest.raises(FolderBusy, match="held again"):
        wait.patiently(work, folder, 0.0, said.append)


def test_a_long_wait_is_told_of_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    said: list[str] = []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    folder: Any = Held(*[True] * 100_000)
    with pytest.raises(FolderBusy, match="waited for 45:00"):
        wait.patiently(lambda: None, folder, 45 * 60.0, said.append)
    assert [words.split(" for")[0] for words in said] == [
        "waiting", "still waiting after 10:00", "still waiting after 20:00", "still waiting after 30:00",
        "still waiting after 40:00",
    ]  # fmt: skip


def test_a_deadline_counts_from_the_start_of_the_command() -> None:
    """What was waited is part of it."""
    attempt = Attempt()
    attempt.monotonic_s -= 50
    attempt.moment -= datetime.timedelta(seconds=50)
    left = wait.left_s("1m", attempt)
    assert left is not None and 0 < left <= 10
    assert wait.left_s(None, attempt) is None
    end = job_run._deadline(build({"limits": {"deadline": "1m"}}), attempt)
    assert end is not None and end.due - time.monotonic() <= 10


def _job(rows: Path, endpoint: CountingEndpoint) -> Path:
    path = rows.parent / "job.toml"
    path.write_text(f'[input]\npath = "{rows}"\n[endpoint]\nbase_url = "{endpoint.base_url}"\n[params]\nmodel = "m"\n')
    return path


@pytest.mark.parametrize(
    ("words", "spec", "wait_s"),
    [
        (["--wait", "30m", "job.toml"], "job.toml", 1800),
        (["job.toml", "--wait", "1h30m"], "job.toml", 5400),
        (["job.toml", "--wait=90"], "job.toml", 90),
        (["--wait", "job.toml"], "job.toml", float("inf")),
        (["--wait", "2026.jsonl", "--quiet"], "2026.jsonl", float("inf")),
        (["job.toml", "--wait"], "job.toml", float("inf")),
        (["job.toml", "--wait", "--quiet"], "job.toml", float("inf")),
        (["job.toml"], "job.toml", None),
    ],
)
def test_wait_may_stand_anywhere_and_alone(words: list[str], spec: str, wait_s: float | None) -> None:
    parsed = options.parser().parse_args(["run", *words])
    assert (parsed.spec, parsed.wait) == (spec, wait_s)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--wait", "30min"], "'30min' is no duration"),
        (["--wait", "0s"], "must be more than 0"),
        (["--wait", "5m", "--skip"], "not allowed with argument"),
    ],
)
def test_a_wrong_wait_is_refused(words: list[str], said: str) -> None:
    refused = called("run", "job.toml", *words)
    assert refused.code == 2 and said in refused.err


def test_run_and_scores_are_one_turn(endpoint: CountingEndpoint, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that waits would come in between."""
    took = []
    locked = Folder._locked
    monkeypatch.setattr(Folder, "_locked", lambda self, how: took.append(1) or locked(self, how))
    path = _job(rows, endpoint)
    path.write_text(path.read_text() + '[[score]]\nname = "brief"\nkind = "length"\nmax = 100\n')
    done = called("run", path, "--out", rows.parent / "out")
    assert done.code == 0 and "brief" in done.err
    assert len(took) == 1
    assert state(rows.parent / "out")["status"] == "finished"
