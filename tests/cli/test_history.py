"""history.jsonl tells the whole story, and ``batchflex history`` shows it."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import zoneinfo
from pathlib import Path
from typing import Any

import pytest

import batchflex as api
from batchflex.cli import history, history_text
from batchflex.core.errors import EndpointError, InputError, StorageError
from batchflex.engine import engine
from batchflex.report import timeline
from batchflex.storage import run_history
from batchflex.storage.output_folder import Folder
from batchflex.storage.run_state import RunState
from tests.support.command_line import batchflex, begun, called, state, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint

UTC = datetime.UTC


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def past(out: Path) -> list[tuple[str, int | None]]:
    return [(line["status"], line["exit_code"]) for line in lines(out)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 30)


def asked(rows: Path, endpoint: CountingEndpoint) -> list[object]:
    return ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", rows.parent / "out"]


# --------------------------------------------------------------------------------------------------- the whole story


def test_a_killed_run_is_told_of_by_the_next_once(endpoint: CountingEndpoint, rows: Path) -> None:
    out = rows.parent / "out"
    endpoint.knobs(fail_after=5, fail_with="hang")
    with begun(*asked(rows, endpoint), "--concurrency", "2") as killed:
        wait_until(lambda: (out / "run.json").exists() and state(out)["done"] == 5, "five rows are told of")
        killed.kill()
        killed.wait()
    there = state(out)
    assert not (out / "history.jsonl").exists()
    shown = called("history", out)
    assert "killed" in shown.out and "in all: 1 run, " in shown.out, "it is known before another run tells of it"

    endpoint.knobs(fail_after=None)
    assert called(*asked(rows, endpoint), "--model", "another").code == 2
    assert called(*asked(rows, endpoint)).code == 0
    assert past(out) == [("killed", None), ("refused", 2), ("finished", 0)]
    told = lines(out)[0]
    assert told == there | {"status": "killed", "binding": None, "message": told["message"]}
    assert told["done"] == 5 and told["finished_at"] is None and "killed" in told["message"]
    assert called("history", out, "--json").summary == {"runs": lines(out), "of": 3, "unreadable": {}}


def test_a_run_that_is_refused_leaves_a_line_where_a_folder_is(endpoint: CountingEndpoint, rows: Path) -> None:
    out = rows.parent / "out"
    away = rows.rename(rows.with_name("away.jsonl"))
    assert called(*asked(rows, endpoint)).code == 2
    assert not out.exists(), "a first run that is refused leaves nothing"
    away.rename(rows)
    assert called(*asked(rows, endpoint)).code == 0
    rows.unlink()
    assert called(*asked(rows, endpoint)).code == 2
    assert called(*asked(rows, endpoint), "--set", "nonsense.x=1").code == 2
    assert called("retry", out, "--where", "no condition").code == 2
    found = lines(out)
    assert past(out) == [("finished", 0), *[("refused", 2)] * 3]
    assert "there is no input file" in found[1]["message"] and "nonsense: unknown key" in found[2]["message"]
    assert [line["job"] for line in found] == ["rows", "rows", None, "rows"]
    assert len({line["run_id"] for line in found}) == 4
    assert list(found[1]) == attempts_fields()


def attempts_fields() -> list[str]:
    return [
        "run_id",
        "job",
        "status",
        "stopped_by",
        "message",
        "exit_code",
        "started_at",
        "finished_at",
        "out",
        "version",
        "pid",
    ]


def test_runs_from_python_are_told_of_likewise(endpoint: CountingEndpoint, rows: Path) -> None:
    out = rows.parent / "out"
    job = {
        "job": {"out": str(out)},
        "input": {"path": str(rows)},
        "endpoint": {"base_url": endpoint.base_url},
        "params": {"model": "m"},
    }
    api.run(job)
    rows.unlink()
    with pytest.raises(InputError):
        api.run(job)
    with pytest.raises(InputError):
        api.retry(out, where="row = 0")
    assert past(out) == [("finished", 0), ("refused", 2), ("refused", 2)]


def test_a_run_that_a_fault_ends_after_it_began_is_told_of_once(
    endpoint: CountingEndpoint, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_server(*_: object) -> None:
        raise EndpointError("the server does not start")

    monkeypatch.setattr(engine, "serving", no_server)
    assert called(*asked(rows, endpoint)).code == 2
    assert past(rows.parent / "out") == [("stopped", 2)]


def test_a_line_that_could_not_be_written_is_added_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    ended = RunState("1", "j", str(tmp_path), 0.0, {}).state(1.0, ended=True)
    folder.write_state(ended)
    with folder.held():
        run_history.catch_up(folder)
        run_history.catch_up(folder)
    assert lines(tmp_path) == [ended]

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    folder.write_state(ended | {"run_id": "2"})
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "add_history", full)
        run_history.catch_up(folder)
    folder.state.write_text("{")
    run_history.catch_up(folder)
    assert lines(tmp_path) == [ended], "neither a full disk nor a damaged run.json is a reason to fail"


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from batchflex.storage.output_folder import Folder
folder, name = Folder(Path(sys.argv[1])), sys.argv[2]
print(flush=True)
sys.stdin.readline()
for n in range(150):
    folder.add_history({"run_id": f"{name}-{n}", "status": "busy", "started_at": "2026-01-01T00:00:00Z", "message": name * 9000})
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        writer.communicate(b"\n")
        assert writer.returncode == 0
    (tmp_path / "parts").mkdir()
    found = history.read([str(tmp_path)])
    assert found.unreadable == {}
    assert len({told.entry.run_id for told in found.runs}) == len(found.runs) == 600


# ------------------------------------------------------------------------------------------------------- the readers


def entry(run_id: str, started_at: str, **more: Any) -> dict[str, Any]:
    """A line of a run that was given some fields and has none of a run that began unless ``done`` is among them."""
    return {"run_id": run_id, "status": "finished", "started_at": started_at, "exit_code": 0, **more}


def write(out: Path, *told: dict[str, Any]) -> Path:
    (out / "parts").mkdir(parents=True, exist_ok=True)
    with (out / "history.jsonl").open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in told)
    return out


def test_the_report_counts_only_runs_that_began(tmp_path: Path) -> None:
    ran = entry("1", "2026-01-01T00:00:00Z", done=3, requests_sent=3)
    killed = entry(
        "4", "2026-01-04T00:00:00Z", done=3, status="killed", exit_code=None, updated_at="2026-01-04T00:00:09Z"
    )
    out = write(tmp_path, ran, entry("2", "2026-01-02T00:00:00Z", status="busy"),
                entry("3", "2026-01-03T00:00:00Z", status="refused"), killed)  # fmt: skip
    with (out / "history.jsonl").open("rb") as stream:
        assert [run.run_id for run in timeline.past_runs(stream, 12)] == ["1", "4"]


def test_what_is_no_run_is_left_out_and_said(tmp_path: Path) -> None:
    out = write(tmp_path / "out", entry("1", "2026-01-01T00:00:00Z", done=1))
    with (out / "history.jsonl").open("a") as stream:
        stream.write(
            '\n{"run_id": "torn\n{"foreign": 1}\n[]\n\xff\n{"run_id": 1, "status": "x", "started_at": "now"}\n'
        )
    write(out, entry("2", "2026-01-02T00:00:00Z", done=1))
    shown = called("history", out)
    assert shown.code == 0
    assert f"5 lines of {out}/history.jsonl left out" in shown.err
    assert "in all: 2 runs" in shown.out
    found = called("history", out, "--json", "--last", 1).summary
    assert [run["run_id"] for run in found["runs"]] == ["2"]
    assert (found["of"], found["unreadable"]) == (2, {str(out): 5})


def test_several_folders_are_shown_together_in_order_of_time(tmp_path: Path) -> None:
    nightly = tmp_path / "nightly"
    for day in (2, 1, 3):
        out = write(nightly / f"2026-01-0{day}", entry(f"{day}", f"2026-01-0{day}T02:00:00Z", done=day))
        write(out / "judges" / "j", entry("judge", "2026-01-01T00:00:00Z", done=1))
    for outs in ([nightly], [nightly / "*"], [tmp_path], sorted(nightly.iterdir()), [nightly, nightly / "*-01"]):
        found = history.read([str(out) for out in outs])
        assert [told.entry.run_id for told in found.runs] == ["1", "2", "3"]
    shown = called("history", nightly).out.splitlines()
    assert shown[0].startswith(f"3 folders in {nightly}: times are ")
    assert [line.split()[0] for line in shown[1:-1]] == ["folder", "2026-01-01", "2026-01-02", "2026-01-03"]
    for nothing in (
        tmp_path / "none",
        tmp_path / "no*",
        tmp_path / "nightly" / "2026-01-01" / "judges" / "j" / "parts",
    ):
        refused = called("history", nothing, nightly)
        assert refused.code == 2 and "is not the output folder of a run, and holds none" in refused.err


def test_a_run_that_goes_on_is_shown_as_running(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.held():
        folder.write_state(RunState("1", "j", str(tmp_path), 0.0, {}).state(60.0))
        assert "running" in called("history", tmp_path).out
    assert "killed" in called("history", tmp_path).out
    assert not folder.history.exists(), "looking changes nothing"


def test_a_folder_whose_first_run_has_not_ended_is_no_mistake(tmp_path: Path) -> None:
    with Folder(tmp_path).held():
        pass
    shown = called("history", tmp_path)
    assert (shown.code, shown.out) == (0, f"{tmp_path}: no run has ended here yet\n")


STORY = [
    entry("1", "2026-10-24T00:00:00Z", finished_at="2026-10-24T00:12:04Z", done=1000, ok=1000, requests_sent=1003,
          prompt_tokens=1_200_000, completion_tokens=34_000, cost=1.5),
    entry("2", "2026-10-25T00:30:00Z", finished_at="2026-10-25T00:30:01Z", done=1400, done_before=1000, ok=1398, failed=2,
          requests_sent=402, prompt_tokens=900, cost=0.25, exit_code=1, first_failure="r3: no\nsuch thing"),
    entry("3", "2026-10-25T01:00:00Z", finished_at="2026-10-25T01:00:00Z", status="busy", exit_code=4, message="held"),
    entry("4", "2026-10-25T01:01:00Z", finished_at="2026-10-25T01:01:00Z", status="busy", exit_code=4, message="held"),
    entry("5", "2026-10-26T01:02:00Z", updated_at="2026-10-26T01:02:30Z", status="killed", exit_code=None, done=1410,
          done_before=1400, ok=1408, failed=2, requests_sent=10, message="killed " * 40),
    entry("6", "2026-10-27T01:00:00Z", finished_at="2026-10-27T01:09:00Z", status="stopped", stopped_by="credit", exit_code=3,
          done=1410, done_before=1410, ok=1408, failed=2, message="no credit is left",
          retry={"asked_again": 7, "where": "row < 9"}),
    entry("7", "2026-10-28T01:00:00Z", finished_at="2026-10-28T01:00:00.2Z", status="refused", exit_code=2,
          message="there is no\n  input file"),
]  # fmt: skip

TOLD = """\
{out}: times are CEST and CET
started            took   rows    new     ok  failed  tokens    spend  exit  ended
2026-10-24 02:00  12:04  1,000  1,000  1,000       0    1.2M    $1.50     0  finished
2026-10-25 02:30  1.0 s  1,400    400  1,398       2     900  $0.2500     1  finished
    first failure: r3: no such thing
2026-10-25 02:00                                                          4  busy 2 times, until 02:01
2026-10-26 02:02   30 s  1,410     10  1,408       2       0        –     –  killed
    killed killed killed killed killed killed killed killed killed killed killed killed killed kill…
2026-10-27 02:00   9:00  1,410      7  1,408       2       0        –     3  stopped: credit, a retry
    no credit is left
2026-10-28 02:00                                                          2  refused
    there is no input file
in all: 4 runs, 1,415 requests sent, 1,234,900 tokens, $1.75; 2 busy; 1 refused"""


def test_the_table(tmp_path: Path) -> None:
    out = write(tmp_path, *STORY)
    found = history.read([str(out)])
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    text = history_text.text(found, last=20, width=100, zone=zone)
    assert text == TOLD.format(out=out)
    few = history_text.text(found, last=2, width=100, zone=zone).splitlines()
    assert few[0] == f"{out}: the last 2 of 6 lines; times are CET"
    assert len(few) == 7 and few[-1] == text.splitlines()[-1], "the sum is of all"
    narrow = history_text.text(found, last=20, width=80, zone=zone).splitlines()
    assert max(len(line) for line in narrow[1:4]) <= 80
    assert "failed  tokens" not in narrow[1] and "failed tokens" in narrow[1]


def test_columns_without_anything_are_left_out(tmp_path: Path) -> None:
    out = write(tmp_path, entry("1", "2026-01-01T00:00:00Z", done=3, ok=2, truncated=1))
    head = history_text.text(history.read([str(out)]), last=20, width=100, zone=UTC).splitlines()[1].split()
    assert head == ["started", "took", "rows", "new", "ok", "truncated", "failed", "tokens", "exit", "ended"]


def test_history_comes_quickly(tmp_path: Path) -> None:
    """Nothing heavy is loaded for it."""
    write(tmp_path, entry("1", "2026-01-01T00:00:00Z", done=3))
    program = "import sys; from batchflex.cli import main as cli; cli.main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "history", tmp_path], capture_output=True, text=True, check=True
    )
    assert not {"polars", "httpx", "anyio", "pydantic"} & {*done.stdout.split()}


def test_the_real_command(tmp_path: Path) -> None:
    out = write(tmp_path, *STORY)
    shown = batchflex("history", out, "--last", 3, env={"TZ": "UTC"})
    assert shown.code == 0 and shown.err == ""
    assert shown.out.splitlines()[0] == f"{out}: the last 3 of 6 lines; times are UTC"
