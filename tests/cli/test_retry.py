"""``batchflex retry``: rows that a condition chooses are asked again; nothing else is, and no answer is lost."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from batchflex.core.errors import FolderBusy, InputError, JobError
from batchflex.storage import FolderStore, part_files
from batchflex.storage.output_folder import Folder
from tests.support.command_line import Ended, called, state, table
from tests.support.counting_endpoint import CountingEndpoint

CUT = "status = 'truncated'"


def write_rows(folder: Path, texts: Sequence[str], ids: Sequence[str] | None = None) -> Path:
    path = folder / "rows.jsonl"
    names = ids or [f"r{number}" for number in range(len(texts))]
    path.write_text(
        "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in zip(names, texts, strict=True))
    )
    return path


class Case:
    """A finished job of 6 rows, of which those of several words are cut off at 3 words."""

    texts = ("one", "two", "a long text of six words", "four", "another text of six words here", "six")

    def __init__(self, endpoint: CountingEndpoint, folder: Path) -> None:
        self.endpoint, self.folder, self.out = endpoint, folder, folder / "out"
        endpoint.knobs(obey_max_tokens=True)
        write_rows(folder, self.texts)

    def job(self, **tables: dict[str, Any]) -> Path:
        import tomli_w

        base: dict[str, Any] = {
            "job": {"name": "j"},
            "endpoint": {"base_url": self.endpoint.base_url},
            "input": {"path": "rows.jsonl"},
            "prompt": {"user": "{{ text }}"},
            "params": {"model": "m", "max_tokens": 3},
            "retry": {"base_s": 0.01},
        }
        whole = {name: {**base.get(name, {}), **tables.get(name, {})} for name in base | tables}
        (self.folder / "job.toml").write_text(tomli_w.dumps(whole))
        return self.folder / "job.toml"

    def run(self, *options: object, **tables: dict[str, Any]) -> Ended:
        return called("run", self.job(**tables), "--out", self.out, "--json", *options)

    def retry(self, where: str = CUT, *options: object) -> Ended:
        self.endpoint.reset()
        return called("retry", self.out, "--where", where, "--json", *options)

    def sent(self) -> list[dict[str, Any]]:
        return self.endpoint.log()

    def statuses(self) -> list[str]:
        return table(self.out)["status"].to_list()

    def assert_done(self, **tables: dict[str, Any]) -> None:
        """A plain run knows at once that nothing is left, and changes nothing."""
        before = table(self.out)
        self.endpoint.reset()
        ended = self.run(**tables)
        assert (ended.code, self.endpoint.stats()["requests"]) == (0, 0), ended.err
        assert table(self.out).equals(before)


@pytest.fixture
def case(endpoint: CountingEndpoint, tmp_path: Path) -> Case:
    return Case(endpoint, tmp_path)


def test_truncated_rows_are_asked_again_with_more_tokens(case: Case) -> None:
    first = case.run()
    assert (first.code, first.summary["truncated"]) == (0, 2)
    assert f"batchflex retry {case.out} --where \"status = 'truncated'\" --set max_tokens=…" in first.err
    before, job = table(case.out), (case.out / "job.toml").read_bytes()
    again = case.retry(CUT, "--set", "max_tokens=50")
    assert again.code == 0, again.err
    assert case.endpoint.stats()["requests"] == 2
    found = table(case.out)
    assert found["status"].to_list() == ["ok"] * 6
    assert found["content"].to_list() == [f"echo: {text}" for text in case.texts]
    assert found["retried_with"].to_list() == [None, None, '{"max_tokens":50}', None, '{"max_tokens":50}', None]
    assert found.select("key", "id", "row").equals(before.select("key", "id", "row"))
    assert (case.out / "job.toml").read_bytes() == job
    said = again.summary
    assert (said["planned"], said["done"], said["done_before"], said["ok"], said["truncated"]) == (6, 6, 4, 6, 0)
    assert said["retry"] == {
        "where": CUT, "set": {"max_tokens": 50}, "rows": 2, "asked_again": 2, "stayed": 0, "gone": 0
    }  # fmt: skip
    for words in ("2 of 6 rows fit", "r2, r4", "max_tokens = 50", "at most 100 of completion", "asked again: 2 of 2"):
        assert words in again.err
    parts = [
        part_files.read_part(FolderStore(case.out / "parts"), number)
        for number in part_files.part_numbers(FolderStore(case.out / "parts"))
    ]
    assert sum(part.num_rows for part in parts) == 8, "the old answers are still there"
    assert len((case.out / "history.jsonl").read_text().splitlines()) == 2
    case.assert_done()
    nothing = case.retry()
    assert (nothing.code, case.endpoint.stats()["requests"]) == (0, 0)
    assert "no row of 6 fits" in nothing.err
    assert table(case.out).equals(found)
    case.assert_done()


def test_a_dry_run_only_shows(case: Case) -> None:
    case.run(prices={"input": 1.0, "output": 1e6})
    files = {path: path.read_bytes() for path in case.out.rglob("*") if path.is_file() and path.name != ".lock"}
    shown = case.retry(CUT, "--set", "max_tokens=50", "--dry-run")
    assert shown.code == 0
    told = json.loads(shown.out)
    assert (told["rows"], told["asked"], told["gone"], told["of"]) == (2, 2, 0, 6)
    assert (told["set"], told["examples"]) == ({"max_tokens": 50}, ["r2", "r4"])
    assert told["completion_tokens_at_most"] == 100
    assert told["cost_at_most"] == pytest.approx(100, abs=0.01)
    text = called("retry", case.out, "--where", CUT, "--dry-run").out
    assert "2 of 6 rows fit" in text and "cost" in text and "asked as before" in text
    assert case.endpoint.stats()["requests"] == 0
    assert {path: path.read_bytes() for path in files} == files


def test_any_row_may_be_asked_again_and_without_a_setting_as_before(case: Case) -> None:
    case.run()
    case.endpoint.knobs(answer="new")
    assert case.retry("id IN ('r0', 'r2')").code == 0
    found = table(case.out)
    assert found["content"].to_list() == ["new", "echo: two", "new", "echo: four", found["content"][4], "echo: six"]
    assert found["retried_with"].to_list() == ["{}", None, "{}", None, None, None]
    case.assert_done()


def test_a_row_that_cannot_be_asked_keeps_its_answer(case: Case) -> None:
    case.endpoint.knobs(poison={"two": "400"})
    first = case.run()
    assert (first.code, case.statuses()) == (1, ["ok", "failed", "truncated", "ok", "truncated", "ok"])
    case.endpoint.knobs(poison={"two": "400", "another": "400"})
    again = case.retry("status IN ('truncated', 'failed')", "--set", "max_tokens=50")
    assert again.code == 1
    assert case.statuses() == ["ok", "failed", "ok", "ok", "truncated", "ok"]
    assert again.summary["retry"] | {"where": "", "set": {}} == {
        "where": "", "set": {}, "rows": 3, "asked_again": 2, "stayed": 1, "gone": 0
    }  # fmt: skip
    assert (again.summary["done"], again.summary["truncated"], again.summary["failed"]) == (6, 1, 1)
    assert "1 could not be asked again" in again.err
    failures = [
        row["id"]
        for number in part_files.part_numbers(FolderStore(case.out / "parts"))
        for row in part_files.read_part(FolderStore(case.out / "parts"), number, ["id", "status"]).to_pylist()
        if row["status"] == "failed"
    ]
    assert failures == ["r1", "r1"], "the row that had failed counts for retry_failed; the other has no failure"
    case.endpoint.knobs(poison={})
    assert case.run().code == 0
    assert case.statuses() == ["ok", "ok", "ok", "ok", "truncated", "ok"]


def test_a_sweep_with_samples_keeps_points_and_seeds(case: Case) -> None:
    tables: dict[str, dict[str, Any]] = {"sweep": {"temperature": [0.0, 1.0], "samples": 2}}
    case.run(**tables)
    assert case.statuses().count("truncated") == 8
    again = case.retry(f"{CUT} AND temperature = 1.0", "--set", "max_tokens=50", "--set", "seed=7")
    assert again.code == 0, again.err
    assert len(case.sent()) == 4
    found = table(case.out).filter(pl.col("retried_with").is_not_null())
    assert set(found["temperature"]) == {1.0} and set(found["status"]) == {"ok"}
    assert found.select("sample", "retried_with").rows() == [
        (0, '{"max_tokens":50,"seed":7}'), (1, '{"max_tokens":50,"seed":8}')
    ] * 2  # fmt: skip
    assert table(case.out).height == 24
    case.assert_done(**tables)
    assert case.retry(CUT, "--set", "max_tokens=50").code == 0
    assert set(case.statuses()) == {"ok"}
    case.assert_done(**tables)


@pytest.mark.parametrize("dedupe", [False, True])
def test_rows_that_are_alike(case: Case, dedupe: bool) -> None:
    long = "a text of many words"
    write_rows(case.folder, [long, long, "short", long, "other", long], ["a", "a", "b", "c", "a", "a"])
    tables: dict[str, dict[str, Any]] = {"input": {"path": "rows.jsonl", "dedupe": dedupe}}
    case.run(**tables)
    rows = table(case.out)
    cut = rows.filter(pl.col("status") == "truncated").height
    assert cut == (1 if dedupe else 4)
    assert case.retry(CUT, "--set", "max_tokens=50").code == 0
    assert len(case.sent()) == cut
    found = table(case.out)
    assert set(found["status"]) == {"ok"}
    assert found.select("key", "id", "row").equals(rows.select("key", "id", "row"))
    case.assert_done(**tables)


def test_only_one_of_several_alike(case: Case) -> None:
    long = "a text of many words"
    write_rows(case.folder, [long] * 5, ["a"] * 5)
    case.run()
    keys = table(case.out)["key"]
    assert case.retry("row = 3", "--set", "max_tokens=50").code == 0
    assert case.statuses() == ["truncated"] * 3 + ["ok", "truncated"]
    assert table(case.out)["key"].equals(keys)
    case.assert_done()


def test_an_input_that_has_grown_and_lost_rows(case: Case) -> None:
    case.run()
    write_rows(case.folder, [*case.texts[:4], "something else of many words", "six", "new"])
    shown = json.loads(case.retry(CUT, "--dry-run").out)
    assert (shown["rows"], shown["asked"], shown["gone"]) == (2, 1, 1)
    again = case.retry(CUT, "--set", "max_tokens=50")
    assert (again.code, len(case.sent())) == (0, 1), again.err
    assert "1 of them: the input does not have them any more" in again.err
    assert (again.summary["planned"], again.summary["done"]) == (7, 6)
    assert case.statuses() == ["ok", "ok", "ok", "ok", "truncated", "ok"], "what nobody gave up is still in the results"
    case.endpoint.reset()
    stopped = case.run()
    assert stopped.code == 2 and "1 of 7 requests" in stopped.err
    assert case.run("--on-change", "rerun").code == 0
    assert len(case.sent()) == 2
    assert table(case.out).height == 7


def test_kept_answers_are_asked_again_as_the_job_is_now(case: Case) -> None:
    case.run()
    kept: dict[str, dict[str, Any]] = {"job": {"name": "j", "on_change": "keep"}, "params": {"temperature": 0.5}}
    assert case.run(**kept).summary["requests_sent"] == 0
    again = case.retry(CUT, "--set", "max_tokens=50")
    assert (again.code, len(case.sent())) == (0, 2), again.err
    assert case.statuses() == ["ok"] * 6
    case.assert_done(**kept)


def test_an_interrupted_job_can_be_retried(case: Case) -> None:
    stopped = case.run("--set", "limits.budget_requests=3", "--concurrency", "1")
    assert stopped.code == 3
    assert case.statuses() == ["ok", "ok", "truncated"]
    again = case.retry(CUT, "--set", "max_tokens=50", "--set", "limits.concurrency=1")
    assert (again.code, len(case.sent())) == (0, 1), again.err
    assert (again.summary["planned"], again.summary["done"]) == (6, 3)
    case.endpoint.reset()
    assert case.run().code == 0
    assert case.endpoint.stats()["requests"] == 3
    assert case.statuses() == ["ok", "ok", "ok", "ok", "truncated", "ok"]


def test_a_budget_stops_it_and_the_same_command_goes_on(case: Case) -> None:
    case.run()
    stopped = case.retry(CUT, "--set", "max_tokens=50", "--set", "limits.budget_requests=1")
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "budget")
    assert (stopped.summary["done"], stopped.summary["truncated"], stopped.summary["ok"]) == (6, 1, 5)
    case.assert_done()
    assert case.retry(CUT, "--set", "max_tokens=50", "--set", "limits.budget_requests=1").code == 0
    assert case.endpoint.stats()["requests"] == 1
    assert case.statuses() == ["ok"] * 6


def test_answers_that_do_not_fit_are_asked_again_anew(case: Case) -> None:
    tables: dict[str, dict[str, Any]] = {
        "params": {"max_tokens": 100, "response_format": {"type": "json_object"}}, "answer": {"max_reasks": 1}
    }  # fmt: skip
    case.endpoint.knobs(answer="no JSON")
    first = case.run(**tables)
    assert (first.code, first.summary["invalid"], first.summary["reasks"]) == (1, 6, 6)
    again = case.retry("status = 'invalid' AND row < 2", "--set", "answer.max_reasks=2")
    assert (again.code, len(case.sent())) == (1, 6)
    assert table(case.out)["reasks"].to_list() == [2, 2, 1, 1, 1, 1]
    assert (again.summary["done"], again.summary["invalid"]) == (6, 6)
    case.endpoint.knobs(answer='{"a": 1}')
    again = case.retry("status = 'invalid'", "--set", "temperature=0.1")
    assert (again.code, again.summary["ok"], len(case.sent())) == (0, 6, 6)
    assert table(case.out)["a"].to_list() == [1] * 6
    case.assert_done(**tables)


def test_scores_are_columns_and_made_anew(case: Case) -> None:
    path = case.job(params={"max_tokens": 50})
    path.write_text(
        path.read_text()
        + "\n"
        + "\n".join(["[[score]]", 'name = "long"', 'kind = "length"', 'unit = "words"', "min = 4"])
    )
    assert called("run", path, "--out", case.out).code == 0
    case.endpoint.knobs(answer="one two three four five")
    again = case.retry("score_long < 1")
    assert again.code == 0, again.err
    assert len(case.sent()) == 4
    assert set(pl.read_parquet(case.out / "scores.parquet")["score_long"]) == {1.0}
    (case.out / "scores.json").unlink()
    missing = case.retry("score_long < 1")
    assert missing.code == 2 and "batchflex score" in missing.err


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("state = 'ok'", "no column 'state'; did you mean 'status'? There are: id, row"),
        ('status = "ok"', "single quotes: 'ok'"),
        ("status = 'ok", "is no SQL condition"),
        ("status = 'ok'; DROP TABLE results", "is no SQL condition"),
        ("status = 'ok' ORDER BY id", "is no SQL condition"),
        ("completion_tokens", "is no condition: it gives a number"),
        ("status", "is no condition: it gives text"),
        ("status > 3", "cannot be held against the results"),
        ("id IN (SELECT id FROM read_csv('secret.csv'))", "another table"),
        ("id IN (FROM read_csv('secret.csv'))", "another table"),
        ("id IN (VALUES ('a'))", "another table"),
        ("read_csv('secret.csv')", "another table"),
        ("EXISTS (SELECT 1)", "another table"),
        ("", "is no SQL condition"),
    ],
)
def test_what_is_no_condition_over_the_results_is_told(where: str, words: str, retried: Case) -> None:
    (retried.folder / "secret.csv").write_text("id\nr0\n")
    wrong = retried.retry(where)
    assert (wrong.code, wrong.summary["status"], retried.endpoint.stats()["requests"]) == (2, "refused", 0)
    assert words in wrong.err and words in wrong.summary["message"]
    assert "Traceback" not in wrong.err and len(wrong.err.splitlines()) == 1


@pytest.mark.parametrize(
    "where",
    [
        "completion_tokens > (1 + 1) AND completion_tokens >= AVG(completion_tokens)",
        "content LIKE 'echo: a%' -- select nothing",
        "status <> 'ok' AND content <> 'select'",
        "EXTRACT(YEAR FROM started_at) > 2020 AND status = 'truncated'",
    ],
)
def test_conditions(where: str, retried: Case) -> None:
    told = json.loads(retried.retry(where, "--dry-run").out)
    assert told["examples"] == ["r2", "r4"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("input.limit=3", "the plan stays as it is"),
        ("job.on_change=keep", "the plan stays as it is"),
        ("prompt.user=x", "the plan stays as it is"),
        ("sweep.samples=3", "the plan stays as it is"),
        ("params.max_tokens=9", "--set max_tokens=…"),
        ("temperature=0.3", "temperature is swept"),
        ("max_tokens=-1", "override.max_tokens"),
        ("messages=x", "messages come from the input"),
        ("rpm=3", "limits.rpm"),
        ("limits.rpn=3", "did you mean 'rpm'"),
    ],
)
def test_settings_that_a_retry_refuses(setting: str, words: str, swept: Case) -> None:
    wrong = swept.retry(CUT, "--set", setting)
    assert (wrong.code, swept.endpoint.stats()["requests"]) == (2, 0)
    assert words in wrong.err


@pytest.fixture(scope="module")
def _module_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retried")


@pytest.fixture
def retried(endpoint: CountingEndpoint, _module_folder: Path) -> Case:
    """A finished job that the test leaves as it is."""
    case = Case(endpoint, _module_folder)
    if not case.out.exists():
        assert case.run().code == 0
    return case


@pytest.fixture(scope="module")
def _swept_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("swept")


@pytest.fixture
def swept(endpoint: CountingEndpoint, _swept_folder: Path) -> Case:
    case = Case(endpoint, _swept_folder)
    if not case.out.exists():
        assert case.run(sweep={"temperature": [0.1, 0.2]}).code == 0
    return case


def test_from_python_and_what_it_needs(case: Case) -> None:
    case.run()
    run = batchflex.retry(case.out, where=CUT, settings={"max_tokens": 50, "limits.concurrency": 1})
    assert run.exit_code == 0 and run.results()["status"].to_list() == ["ok"] * 6
    with pytest.raises(JobError, match="no column"):
        batchflex.retry(case.out, where="x = 1")
    with Folder(case.out).held(), pytest.raises(FolderBusy):
        batchflex.retry(case.out, where=CUT)
    (case.folder / "rows.jsonl").unlink()
    with pytest.raises(InputError, match=r"needs the input of the job.*there is no input file"):
        batchflex.retry(case.out, where="row = 0")
    nowhere = called("retry", case.folder / "nowhere", "--where", CUT)
    assert nowhere.code == 2 and "not the output folder of a run" in nowhere.err
    assert not (case.folder / "nowhere").exists()


def test_rows_of_a_frame(case: Case) -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "text": ["one", "many words in this one"]})
    settings = {"endpoint.base_url": case.endpoint.base_url}
    batchflex.complete(frame, user="{{ text }}", model="m", max_tokens=3, out=case.out, settings=settings)
    assert case.statuses() == ["ok", "truncated"]
    with pytest.raises(InputError, match="came from a frame"):
        batchflex.retry(case.out, where=CUT)
    batchflex.retry(case.out, where=CUT, settings={"max_tokens": 50}, frame=frame)
    assert case.statuses() == ["ok", "ok"]


@pytest.mark.slow
def test_killed_half_way(case: Case) -> None:
    """What came before the kill is kept; the same command asks the rest, each row once."""
    rows = 160
    write_rows(case.folder, [f"row {number} has many words" for number in range(rows)])
    case.run()
    assert case.statuses() == ["truncated"] * rows
    case.endpoint.reset()
    case.endpoint.knobs(latency_s=0.05)
    command = [sys.executable, "-m", "batchflex", "retry", str(case.out), "--where", CUT, "--quiet"]
    command += ["--set", "max_tokens=50", "--set", "limits.concurrency=8", "--set", "journal.seal_rows=40"]
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while case.endpoint.stats()["good"] < 90 and running.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    case.endpoint.knobs(latency_s=0.0)
    last = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60)
    assert last.returncode == 0
    found = table(case.out)
    assert found["status"].to_list() == ["ok"] * rows
    assert found["row"].to_list() == list(range(rows))
    assert set(found["retried_with"]) == {'{"max_tokens":50}'}
    log = case.sent()
    received = {record["hash"]: record["seq"] for record in log if record["later"]}
    assert [record for record in log if record["seq"] > received.get(record["hash"], record["seq"])] == []
    assert len(log) <= rows + 8
    assert state(case.out)["done"] == rows
    case.assert_done()


def test_a_kill_between_two_reasks_goes_on_with_what_was_set(case: Case) -> None:
    """An answer that did not fit is in the journal: the plain run that follows asks again with the parameters of the retry."""
    tables: dict[str, dict[str, Any]] = {
        "params": {"max_tokens": 100, "response_format": {"type": "json_object"}}, "answer": {"max_reasks": 3}
    }  # fmt: skip
    write_rows(case.folder, ["one"])
    case.endpoint.knobs(answer='{"a": 1}')
    assert case.run(**tables).code == 0
    case.endpoint.knobs(answer="no JSON")
    case.endpoint.reset()
    stopped = case.retry("row = 0", "--set", "max_tokens=77", "--set", "limits.budget_requests=2")
    assert stopped.code == 3 and stopped.summary["ok"] == 0
    assert case.statuses() == ["invalid"]
    case.endpoint.knobs(answer='{"a": 2}')
    case.endpoint.reset()
    assert case.run(**tables).code == 0
    found = table(case.out)
    assert found.select("status", "a", "reasks", "retried_with").rows() == [("ok", 2, 2, '{"max_tokens":77}')]
    case.assert_done(**tables)


@pytest.mark.parametrize(
    ("said", "requests", "last"), [("n\n", 0, "nothing was sent"), ("y\n", 2, "asked again: 2 of 2")]
)
def test_on_a_terminal_it_asks_first(case: Case, said: str, requests: int, last: str) -> None:
    case.run()
    case.endpoint.reset()
    command = [sys.executable, "-m", "batchflex", "retry", str(case.out), "--where", CUT, "--set", "max_tokens=50"]
    ours, theirs = pty.openpty()
    running = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while got := os.read(ours, 4096):
            if b"[y/N]" not in seen and b"[y/N]" in seen + got:
                assert b"2 of 6 rows fit" in seen + got and case.endpoint.stats()["requests"] == 0
                os.write(ours, said.encode())
            seen += got
    os.close(ours)
    assert running.wait() == 0
    assert last in seen.decode()
    assert case.endpoint.stats()["requests"] == requests
