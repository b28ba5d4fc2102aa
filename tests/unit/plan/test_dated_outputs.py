"""An output folder per date: its name, what is said of an unfinished one, and which old ones go."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from batchflex.config.dated_path import dated, escaped
from batchflex.config.loader import build, load
from batchflex.core.errors import FolderBusy, JobError
from batchflex.plan import retention
from batchflex.plan.retention import Output, choose
from batchflex.storage.output_folder import Folder
from tests.support.command_line import Ended, called, state, write_rows
from tests.support.counting_endpoint import CountingEndpoint

MOMENT = datetime.datetime(2026, 11, 25, 2, 3, 4)


# --------------------------------------------------------------------------------------------------- names, alone


@pytest.mark.parametrize(
    ("text", "path", "is_dated"),
    [
        ("runs", "runs", False),
        ("runs/{name}", "runs/n", False),
        ("runs/{name}/{date}", "runs/n/2026-11-25", True),
        ("{date}", "2026-11-25", True),
        ("/{date}/{time}/{name}", "/2026-11-25/02-03-04/n", True),
        ("a-{date}T{time}-{date}", "a-2026-11-25T02-03-04-2026-11-25", True),
        ("a{{date}}", "a{date}", False),
        ("{{{date}}}", "{2026-11-25}", True),
    ],
)
def test_placeholders(text: str, path: str, is_dated: bool) -> None:
    made = dated(text, "n")
    assert (made.at(MOMENT), made.has_date) == (path, is_dated)
    assert (made.moment_of(path) or "").startswith("2026-11-25") is is_dated


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{day}", "there are {name}, {date}, {time}, and {{ and }} for braces themselves; found '{day}'"),
        ("{}", "found '{}'"),
        ("a}", "found '}'"),
        ("{date", "found '{'"),
        ("{date:%Y}", "found '{date:%Y}'"),
        ("{time}", "{time} alone comes round each day; write {date} before it"),
    ],
)
def test_placeholders_that_are_none(text: str, told: str) -> None:
    with pytest.raises(JobError) as caught:
        build({"job": {"out": text}})
    assert "job.out: " in str(caught.value) and told in str(caught.value)


@pytest.mark.parametrize("text", ["{", "}", "{date}", "{{name}}", "}{"])
def test_an_escaped_name_stands_for_itself(text: str) -> None:
    assert dated(escaped(text), "n").at(MOMENT) == text


def test_what_is_of_a_pattern() -> None:
    pattern = dated("runs/{name}/{date}_x/{date}", "n.1")
    assert pattern.root == "runs/n.1"
    assert pattern.moment_of("runs/n.1/2026-11-25_x/2026-11-25") == "2026-11-25"
    for other in (
        "runs/nn1/2026-11-25_x/2026-11-25",
        "runs/n.1/2026-11-25_x/2026-11-26",
        "runs/n.1/2026-11-2_x/2026-11-2",
    ):
        assert pattern.moment_of(other) is None


def test_the_name_is_made_once() -> None:
    """A run across midnight keeps its folder, and so does what is made of its job."""
    job = build({"job": {"name": "n", "out": "runs/{name}/{date}"}}, moment=MOMENT)
    assert job.out == Path("runs/n/2026-11-25")
    again = build(job.resolved(), moment=MOMENT + datetime.timedelta(days=1))
    assert again == job and again.dated is None


def test_what_runs_to_keep_need(tmp_path: Path) -> None:
    (tmp_path / "j.toml").write_text('[job]\nname = "n"\nkeep_runs = 3\n')
    with pytest.raises(
        JobError, match=r"line 3, job.keep_runs: there is but one output folder; .*batchflex compact OUT"
    ):
        load(tmp_path / "j.toml")
    assert load(tmp_path / "j.toml", [("job.out", "runs/{date}")]).dated is not None
    old = load(tmp_path / "j.toml", [("job.out", "runs/2026-11-25")])  # to finish one of another date
    assert (old.dated, old.out) == (None, Path("runs/2026-11-25"))
    with pytest.raises(JobError, match="there is but one output folder"):
        load(tmp_path / "j.toml", [("job.out", "runs/2026-11-25"), ("job.keep_runs", 2)])


def output(day: int, status: str = "finished") -> Output:
    return Output(Path(f"runs/{day}"), f"2026-11-{day:02}", status)


def test_which_go() -> None:
    found = [output(9, "running"), output(8), output(7, "stopped"), output(6), output(5, "running"), output(4)]
    assert choose(found, 2, Path("runs/9")) == ([output(6), output(4)], [output(7, "stopped"), output(5, "running")])
    assert choose(found, 6, Path("runs/9")) == ([], [])
    assert choose(found, 1, Path("runs/6")).go == [output(8), output(4)], "never the present one"


# -------------------------------------------------------------------------------------------------- on the disk


class Nightly:
    """A job with a folder for each date, in the present folder."""

    def __init__(self, folder: Path, endpoint: CountingEndpoint) -> None:
        self.folder, self.endpoint = folder, endpoint
        self.spec = folder / "nightly.toml"
        self.spec.write_text(
            f'[job]\nout = "{folder}/runs/{{name}}/{{date}}"\n[endpoint]\nbase_url = "{endpoint.base_url}"\n'
            '[input]\npath = "rows.jsonl"\n[params]\nmodel = "m"\n[retry]\nattempts = 1\n'
        )
        write_rows(folder / "rows.jsonl", 2)

    def out(self, date: str) -> Path:
        return self.folder / "runs" / "nightly" / date

    def run(self, *more: object) -> Ended:
        return called("run", self.spec, *more)

    def on(self, date: str, *more: object) -> Ended:
        return self.run("--out", self.out(date), *more)

    def dates(self) -> set[str]:
        return {path.name for path in self.out("").iterdir()}


@pytest.fixture
def nightly(tmp_path: Path, endpoint: CountingEndpoint) -> Nightly:
    return Nightly(tmp_path, endpoint)


def test_the_same_date_goes_on_with_its_folder_and_another_begins_one(nightly: Nightly) -> None:
    for _ in range(2):
        assert nightly.run("--out", f"{nightly.folder}/runs/{{name}}/2026-01-01").code == 0
    assert nightly.endpoint.stats()["good"] == 2
    ended = nightly.run("--json")
    assert ended.code == 0 and Path(ended.summary["out"]).parent == nightly.out("")
    assert nightly.endpoint.stats()["good"] == 4
    assert "did not finish" not in ended.err and len(nightly.dates()) == 2


def test_an_unfinished_date_is_told_with_the_command_that_finishes_it(nightly: Nightly) -> None:
    nightly.on("2026-01-01")
    nightly.endpoint.knobs(script=["402"])
    assert nightly.on("2026-01-02").code == 3
    told = f"To finish that one, too: batchflex run {nightly.spec} --out {nightly.out('2026-01-02')}"
    begun_anew = nightly.run()
    assert begun_anew.code == 0 and told in begun_anew.err
    command = told.partition("batchflex ")[2].split()
    assert called(*command).code == 0
    assert state(nightly.out("2026-01-02"))["status"] == "finished"
    assert "did not finish" not in nightly.run().err


def test_a_date_still_going_on_is_told(nightly: Nightly) -> None:
    made(nightly, "2026-01-01", status="running")
    job, other = load(nightly.spec), nightly.out("2026-01-01")
    with Folder(other).held():
        assert f"the run in {other} is still going on" in str(retention.left_behind(job))
    assert f"the last run in {other} did not finish" in str(retention.left_behind(job)), "killed"


def made(nightly: Nightly, *dates: str, status: str = "finished", job: str = "nightly") -> None:
    for date in dates:
        folder = nightly.out(date)
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "000001.parquet").write_bytes(b"answers")
        (folder / "run.json").write_text(json.dumps({"job": job, "status": status}))


def test_old_folders_go_when_a_run_has_finished(nightly: Nightly) -> None:
    made(nightly, "2026-01-01", "2026-01-02", "2026-01-05", "2026-01-06")
    made(nightly, "2026-01-03", status="stopped")
    made(nightly, "2026-01-04", job="another")
    made(nightly, "latest", "2026-1-1")
    (nightly.out("2026-01-00") / "of the user").mkdir(parents=True)
    (nightly.out("2026-01-07")).symlink_to(nightly.out("latest"))
    ended = nightly.run("--keep-runs", 2)
    kept = {"2026-01-00", "2026-01-03", "2026-01-04", "2026-01-06", "2026-01-07", "2026-1-1", "latest"}
    assert nightly.dates() - kept == {nightly.run("--json").summary["out"].rpartition("/")[2]}
    gone = ", ".join(str(nightly.out(f"2026-01-{day}")) for day in ("05", "02", "01"))
    assert f"removed, for the 2 newest are kept (job.keep_runs): {gone}" in ended.err
    stays = f"older than job.keep_runs, but kept, for the last run there did not finish: {nightly.out('2026-01-03')}"
    assert stays in ended.err


def test_a_run_that_did_not_finish_removes_nothing(nightly: Nightly) -> None:
    made(nightly, "2026-01-01")
    nightly.endpoint.knobs(script=["402"])
    assert nightly.run("--keep-runs", 1).code == 3
    assert "2026-01-01" in nightly.dates()


def test_a_folder_that_somebody_holds_stays(nightly: Nightly) -> None:
    made(nightly, "2026-01-01", "2026-01-02")
    with (nightly.out("2026-01-01") / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        nightly.run("--keep-runs", 1)
        assert "2026-01-01" in nightly.dates() and "2026-01-02" not in nightly.dates()


def test_a_removal_that_was_cut_off_is_brought_to_its_end(nightly: Nightly, monkeypatch: pytest.MonkeyPatch) -> None:
    made(nightly, "2026-01-01", "2026-01-02")
    job = load(nightly.spec, [("job.keep_runs", 1)])

    def killed(path: Path) -> None:
        (path / "run.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(retention.shutil, "rmtree", killed)
        retention.remove_old(job, pytest.fail)
    assert "2026-01-01" not in nightly.dates() and ".2026-01-01.going" in nightly.dates(), "nothing looks whole"
    assert called("status", nightly.out("2026-01-01")).code == 2
    retention.remove_old(job, pytest.fail)
    assert nightly.dates() == {"2026-01-02"}


def test_folders_above_that_are_left_empty_go_too(tmp_path: Path) -> None:
    for date in ("2026-01-01", "2026-01-02"):
        (tmp_path / date / "n").mkdir(parents=True)
        (tmp_path / date / "n" / "run.json").write_text('{"job": "n", "status": "finished"}')
    (tmp_path / "2026-01-03" / "other").mkdir(parents=True)
    job = build({"job": {"name": "n", "out": f"{tmp_path}/{{date}}/{{name}}", "keep_runs": 1}})
    said: list[str] = []
    retention.remove_old(job, said.append)
    assert {p.name for p in tmp_path.iterdir()} == {"2026-01-02", "2026-01-03"} and len(said) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_a_folder_that_cannot_be_removed_is_told(nightly: Nightly) -> None:
    made(nightly, "2026-01-01", "2026-01-02")
    nightly.out("").chmod(0o500)
    said: list[str] = []
    retention.remove_old(load(nightly.spec, [("job.keep_runs", 1)]), said.append)
    nightly.out("").chmod(0o700)
    assert "cannot be removed: Permission denied" in said[0]


def test_a_folder_that_is_removed_while_its_lock_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path / "out")
    lock = Folder._lock_now

    def too_late(self: Folder, descriptor: int, how: int) -> None:
        shutil.rmtree(self.path)
        lock(self, descriptor, how)

    monkeypatch.setattr(Folder, "_lock_now", too_late)
    with pytest.raises(FolderBusy, match="was removed just now"), folder.held():
        pass
    assert not folder.path.exists()
