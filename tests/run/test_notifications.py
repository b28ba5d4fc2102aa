"""Who is told of a run, by whatever means, once; and that the run is none the worse for it."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import batchflex
from batchflex.config.loader import build, load
from batchflex.core.errors import FolderBusy, InputError, JobChanged
from batchflex.notify.notifier import Notifier
from batchflex.storage.output_folder import Folder
from batchflex.storage.run_state import RunState
from tests.support.command_line import begun, called, ended, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT
from tests.support.recorder import Recorder

SECRET = "T0PSECRET"
ALL = ["success", "failure", "stopped", "recovered", "busy"]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("BATCHFLEX_API_KEY", "FLEXAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with Recorder() as made:
        yield made


@pytest.fixture
def job(endpoint: CountingEndpoint, recorder: Recorder, tmp_path: Path) -> dict[str, Any]:
    return {
        "job": {"name": "nightly", "out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(write_rows(tmp_path / "rows.jsonl", 5))},
        "params": {"model": "m"},
        "retry": {"base_s": 0.01, "attempts": 1},
        "notify": {"webhook": f"{recorder.url}/{SECRET}", "timeout_s": 5.0},
    }


def with_notify(job: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {**job, "notify": {**job["notify"], **keys}}


def job_file(path: Path, job: dict[str, Any]) -> Path:
    import tomli_w

    path.write_text(tomli_w.dumps(job))
    return path


def events(recorder: Recorder) -> list[str]:
    """Those told since this was last asked."""
    told = [got.json["event"] for got in recorder.got]
    recorder.got.clear()
    return told


# ------------------------------------------------------------------------------------------------------- events


def test_each_end_is_told_once_and_only_what_matters(
    job: dict[str, Any], recorder: Recorder, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    assert batchflex.run(job).exit_code == 0
    assert events(recorder) == []  # a success is nothing to tell, unless it is asked for

    rows = Path(job["input"]["path"])
    sound = rows.read_text()
    rows.write_text(sound + '{"id": "bad", "messages": [{"role": "user", "content": "POISON"}]}\n')
    endpoint.knobs(poison={"POISON": "400"})
    assert batchflex.run(job).exit_code == 1
    (got,) = recorder.got
    assert got.json["text"] == "nightly finished with failures: 6 of 6 rows, 5 ok, 1 failed."
    told = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert {name: got.json[name] for name in told} == told  # the summary, and something more
    assert events(recorder) == ["failure"]

    with pytest.raises(JobChanged):
        batchflex.run({**job, "params": {"model": "other"}})
    with pytest.raises(InputError):
        batchflex.run({**job, "input": {"path": str(tmp_path / "none.jsonl")}})
    assert [got.json["exit_code"] for got in recorder.got] == [2, 2]
    assert events(recorder) == ["failure", "failure"]
    assert batchflex.run({**job, "input": {**job["input"], "limit": 5}}).exit_code == 0
    assert events(recorder) == ["recovered"]  # also from having been refused

    endpoint.knobs(key="wanted", poison={})
    assert batchflex.run(job).exit_code == 3
    assert recorder.got[0].json["stopped_by"] == "key"
    assert events(recorder) == ["stopped"]

    endpoint.knobs(key=None)
    assert asyncio.run(batchflex.arun(with_notify(job, on=ALL))).exit_code == 0
    assert events(recorder) == ["recovered"]
    assert batchflex.run(with_notify(job, on=ALL)).exit_code == 0
    assert events(recorder) == ["success"]


def test_a_killed_run_is_told_of_by_the_recovery_of_the_next(
    job: dict[str, Any], recorder: Recorder, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=30)
    file = job_file(tmp_path / "job.toml", with_notify(job, on=ALL, ping=f"{recorder.url}/{SECRET}"))
    with begun("run", file, "-q"):
        wait_until(lambda: len(recorder.got) > 0, "the switch is told of the start")
        held = called("run", file, "-q")
        assert held.code == 4
        assert called("run", file, "-q", "--skip").code == 0  # that is nothing to tell
        with pytest.raises(FolderBusy):
            batchflex.run(job)  # by default nobody is told
    assert recorder.paths() == [f"/{SECRET}/start", f"/{SECRET}"]  # the switch belongs to the run that goes on
    assert recorder.got[1].json["event"] == "busy"
    recorder.got.clear()
    endpoint.knobs(latency_s=0)
    assert batchflex.run(job).exit_code == 0
    assert events(recorder) == ["recovered"]


def test_the_run_before_may_have_been_in_the_folder_of_another_date(
    job: dict[str, Any], recorder: Recorder, tmp_path: Path
) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / ".env").write_text(f"HOOK_URL={recorder.url}/{SECRET}\n")
    (tmp_path / "job" / ".env").chmod(0o600)
    job["job"]["out"] = f"{tmp_path}/out/{{date}}"
    job["notify"] = {"webhook_env": "HOOK_URL", "metrics_file": str(tmp_path / "nightly.prom")}
    file = job_file(tmp_path / "job" / "job.toml", job)
    day = datetime.datetime(2026, 3, 1, 2)
    days = iter(day + datetime.timedelta(days=n) for n in range(4))
    assert batchflex.run(load(file, moment=next(days))).exit_code == 0
    first = samples(tmp_path / "nightly.prom")
    assert batchflex.run(load(file, [("limits.budget_requests", 1)], moment=next(days))).exit_code == 3
    assert events(recorder) == ["stopped"]
    name = "batchflex_last_success_timestamp_seconds"
    assert samples(tmp_path / "nightly.prom")[name] == first[name]
    assert batchflex.run(load(file, moment=next(days))).exit_code == 0
    assert events(recorder) == ["recovered"]
    assert batchflex.run(load(file, moment=next(days))).exit_code == 0
    assert events(recorder) == []
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize(("number", "told"), [(signal.SIGTERM, ["stopped"]), (signal.SIGINT, [])])
def test_who_is_told_of_a_signal(
    job: dict[str, Any], recorder: Recorder, endpoint: CountingEndpoint, tmp_path: Path, number: int, told: list[str]
) -> None:
    endpoint.knobs(latency_s=30)
    file = job_file(tmp_path / "job.toml", with_notify(job, on=ALL))
    with begun("run", file, "-q", "--set", "limits.grace_s=0") as process:
        wait_until(lambda: endpoint.stats()["requests"] > 0, "something was asked")
        process.send_signal(number)
        assert ended(process).code == 128 + number
    assert events(recorder) == told


def test_a_wrong_job_file_is_told_of_as_far_as_it_can_be_read(
    job: dict[str, Any], recorder: Recorder, tmp_path: Path
) -> None:
    job["limits"] = {"rpm": -1}
    wrong = called("run", job_file(tmp_path / "job.toml", job))
    assert wrong.code == 2 and "limits.rpm" in recorder.got[0].json["text"]
    assert events(recorder) == ["failure"]
    called("run", job_file(tmp_path / "job.toml", with_notify(job, on="failure")))
    called("run", tmp_path / "none.toml")
    assert events(recorder) == []


def test_a_retry_tells_too_where_the_address_is_in_a_variable(
    job: dict[str, Any], recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOOK_URL", f"{recorder.url}/{SECRET}")
    job["notify"] = {"webhook_env": "HOOK_URL", "on": ALL}
    assert batchflex.run(job).exit_code == 0
    assert batchflex.retry(tmp_path / "out", where="row = 1").exit_code == 0
    metrics = tmp_path / "m.prom"
    retried = called("retry", tmp_path / "out", "--where", "row = 2", "-q", "--metrics-file", metrics,
                     env={"HOOK_URL": f"{recorder.url}/{SECRET}", "NO_PROXY": "127.0.0.1"})  # fmt: skip
    assert retried.code == 0 and metrics.exists()
    assert [got.json["retry"] and got.json["retry"]["where"] for got in recorder.got] == [None, "row = 1", "row = 2"]
    monkeypatch.delenv("HOOK_URL")
    assert batchflex.run(job).untold == [
        "not notified by the webhook: the environment variable HOOK_URL, which notify.webhook_env names, is not set"
    ]
    spec = tmp_path / "hooked.toml"
    spec.write_text(f"""
[endpoint]
base_url = "{job["endpoint"]["base_url"]}"
[input]
path = "{job["input"]["path"]}"
[params]
model = "m"
[notify]
webhook_env = "HOOK_URL"
""")
    for verb in ("plan", "check"):
        assert (
            "warning: a run could not notify by the webhook: the environment variable HOOK_URL"
            in called(verb, spec).err
        )


def test_a_retry_that_finds_another_run_is_told_of_as_a_run_is(
    job: dict[str, Any], recorder: Recorder, tmp_path: Path
) -> None:
    env = {"HOOK_URL": f"{recorder.url}/{SECRET}", "NO_PROXY": "127.0.0.1"}
    job["notify"] = {"webhook_env": "HOOK_URL", "on": ["busy", "failure"]}
    file = job_file(tmp_path / "job.toml", job)
    assert called("run", file, env=env).code == 0
    with Folder(tmp_path / "out").held():
        for command in (["run", file], ["retry", tmp_path / "out", "--where", "row = 1"]):
            assert called(*command, "--skip", env=env).code == 0
            assert events(recorder) == [], "it is not wanted then"
            assert called(*command, env=env).code == called(*command, "--wait", "0.1s", env=env).code == 4
            assert events(recorder) == ["busy", "busy"]


# -------------------------------------------------------------------------------- the run is none the worse for it


def test_what_fails_is_one_line_each_and_changes_nothing_else(
    job: dict[str, Any], recorder: Recorder, tmp_path: Path
) -> None:
    recorder.script = [0] * 9
    ways = {
        "on": ALL,
        "timeout_s": 0.5,
        "ping": f"{recorder.url}/{SECRET}",
        "metrics_file": str(tmp_path / "no" / "m.prom"),
    }
    file = job_file(tmp_path / "job.toml", with_notify(job, **ways, command="echo noise; echo hot >&2; exit 5"))
    told = called("run", file, "--quiet", "--json", env={"NO_PROXY": "127.0.0.1"})
    assert told.code == 0 and told.summary["exit_code"] == 0
    assert [re.sub(r"0\.\d+ s", "T", line) for line in sorted(told.err.splitlines())] == [
        "batchflex: not notified by the command: it exited with 5: hot",
        f"batchflex: not notified by the metrics file: {tmp_path}/no/m.prom cannot be written: No such file or directory",
        "batchflex: not notified by the ping at 127.0.0.1: no answer within T",
        "batchflex: not notified by the webhook at 127.0.0.1: no answer within T",
    ]
    refused = called("run", file, "--model", "other", "-q", env={"NO_PROXY": "127.0.0.1"})
    assert refused.code == 2 and refused.err.count("\nbatchflex: not notified by ") == 4


def test_no_file_and_no_message_has_the_address(job: dict[str, Any], recorder: Recorder, tmp_path: Path) -> None:
    recorder.script, recorder.echo = [403] * 9, f"no {SECRET} here".encode()
    command = f"cat > {tmp_path}/told; echo {recorder.url}/{SECRET} > {tmp_path}/own"
    file = job_file(tmp_path / "job.toml", with_notify(job, on=ALL, command=command, ping=f"{recorder.url}/{SECRET}"))
    told = called("run", file, "--debug", env={"NO_PROXY": "127.0.0.1"})
    assert told.code == 0 and "HTTP 403 (no *** here)" in told.err
    assert json.loads((tmp_path / "told").read_bytes())["event"] == "success"
    called("run", file, "--set", "limits.rpm=0", "--set", f"notify.webhook=ftp://{SECRET}")
    plan = called("plan", file, "--json")
    for text in (told.out, told.err, plan.out, plan.err, *(got.body.decode() for got in recorder.got)):
        assert SECRET not in text
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert called("score", tmp_path / "out").code == 2  # no [[score]]; the job.toml is read without complaint


# -------------------------------------------------------------------------------------------------- the switch


def test_a_switch_is_told_of_start_and_end_and_holds_nothing_up(
    job: dict[str, Any], recorder: Recorder, endpoint: CountingEndpoint
) -> None:
    endpoint.knobs(latency_s=0.6)  # so that the run goes on when its start is told
    seen: list[int] = []

    def until_asked(got: Any) -> None:
        wait_until(lambda: endpoint.stats()["good"] == 5, "all is answered, while the start is still being told")
        seen.append(endpoint.stats()["good"])

    recorder.before = until_asked
    job["notify"] = {"ping": f"{recorder.url}/{SECRET}"}
    assert batchflex.run(job).untold == []
    assert recorder.paths() == [f"/{SECRET}/start", f"/{SECRET}"] and seen == [5, 5]
    assert recorder.got[1].body.decode().startswith("nightly succeeded: 5 of 5 rows, 5 ok.\nRows: 5 of 5")
    recorder.got.clear()
    with pytest.raises(JobChanged):
        batchflex.run({**job, "params": {"model": "other"}})
    assert recorder.paths() == [f"/{SECRET}/fail"] and "Exit code: 2" in recorder.got[0].body.decode()


def test_a_switch_of_another_kind_has_words_of_its_own(job: dict[str, Any], recorder: Recorder) -> None:
    job["notify"] = {"ping": f"{recorder.url}/push?status={{|up|down}}"}
    batchflex.run(job)
    with pytest.raises(JobChanged):
        batchflex.run({**job, "params": {"model": "other"}})
    assert [(got.method, got.path) for got in recorder.got] == [
        ("GET", "/push?status=up"),
        ("GET", "/push?status=down"),
    ]


# -------------------------------------------------------------------------------------------- the metrics file


def samples(path: Path) -> dict[str, float]:
    """Each sample that a scraper sees, by name and labels without the job's."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation and not family.name.endswith("_total")
        for sample in family.samples:
            assert sample.labels["job_name"] == "nightly"
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "job_name")
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def test_the_metrics_file_has_the_last_run_and_the_totals(
    job: dict[str, Any], recorder: Recorder, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    file = tmp_path / "nightly.prom"
    job["notify"] = {"metrics_file": str(file)}
    job["prices"] = {"input": 1.0, "output": 2.0}
    batchflex.run(job)
    first = samples(file)
    write_rows(Path(job["input"]["path"]), 8)
    ran = batchflex.run(job)
    found = samples(file)
    assert found["batchflex_rows{status=ok}"] == found["batchflex_rows_planned"] == 8
    assert (first["batchflex_last_run_requests"], found["batchflex_last_run_requests"]) == (5, 3)
    assert (first["batchflex_requests_total"], found["batchflex_requests_total"]) == (5, 8)
    both = [first["batchflex_last_run_tokens{kind=prompt}"], found["batchflex_last_run_tokens{kind=prompt}"]]
    assert found["batchflex_tokens_total{kind=prompt}"] == sum(both) > 0
    assert found["batchflex_last_run_cost_dollars"] == ran.summary["cost"]
    assert found["batchflex_cost_dollars_total"] == pytest.approx(
        first["batchflex_last_run_cost_dollars"] + ran.summary["cost"]
    )
    assert found["batchflex_runs_total{result=success}"] == 2 and found["batchflex_last_run_exit_code"] == 0
    assert found["batchflex_last_run_info{status=finished,stopped_by=}"] == 1 and found["batchflex_running"] == 0
    assert found["batchflex_last_success_timestamp_seconds"] == found["batchflex_last_run_end_timestamp_seconds"]

    with pytest.raises(JobChanged):
        batchflex.run({**job, "params": {"model": "other"}})
    with (tmp_path / "out" / "history.jsonl").open("ab") as history:  # what is no line of a run does not matter
        history.write(
            b'\x00torn\n[]\n{"status": "skipped", "run_id": 5, "cost": "y", "finished_at": "z", "started_at": []}\n'
        )
    with pytest.raises(JobChanged):
        batchflex.run({**job, "params": {"model": "other"}})
    refused = samples(file)
    assert refused["batchflex_last_run_exit_code"] == 2 and refused["batchflex_runs_total{result=failure}"] == 2
    assert refused["batchflex_rows{status=ok}"] == 8  # those of the folder, as before
    same = ("batchflex_last_success_timestamp_seconds", "batchflex_requests_total")
    assert [refused[name] for name in same] == [found[name] for name in same]


def test_the_metrics_file_is_there_while_a_run_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "nightly.prom"
    out = tmp_path / "out"
    notifier = Notifier(build({"job": {"name": "nightly", "out": str(out)}, "notify": {"metrics_file": str(file)}}))
    observer = notifier.watching(None)
    assert observer is not None
    run_state = RunState("r", "nightly", str(out), 1_800_000_000.0, {"ok": 3})
    run_state.requests_sent = 7
    observer.tick(run_state)
    wait_until(file.exists, "the file is written")
    found = samples(file)
    assert found["batchflex_running"] == 1 and found["batchflex_requests_total"] == 7
    assert "batchflex_last_run_exit_code" not in found and sum(found[n] for n in found if "runs_total" in n) == 0
    assert notifier.ended(batchflex.Run(out, run_state.state(1_800_000_060.0, ended=True))) == []
    found = samples(file)
    assert found["batchflex_running"] == 0 and found["batchflex_last_run_duration_seconds"] == 60
    assert [path.name for path in tmp_path.iterdir()] == ["nightly.prom"]


def test_every_metric_is_documented(job: dict[str, Any], recorder: Recorder, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "unattended.md").read_text()
    named = {line.split("`")[1].partition("{")[0] for line in text.splitlines() if line.startswith("| `batchflex_")}
    job["notify"] = {"metrics_file": str(tmp_path / "nightly.prom")}
    job["prices"] = {"input": 1.0, "output": 2.0}
    batchflex.run(job)
    assert named == {name.partition("{")[0] for name in samples(tmp_path / "nightly.prom")}


# --------------------------------------------------------------------------------------------------- trying it out


def test_notify_sends_a_test_message(job: dict[str, Any], recorder: Recorder, tmp_path: Path) -> None:
    ways = {"command": f"cat > {tmp_path}/told", "ping": f"{recorder.url}/ping", "format": "slack"}
    file = job_file(tmp_path / "job.toml", with_notify(job, **ways))
    env = {"NO_PROXY": "127.0.0.1"}
    tried = called("notify", file, "--event", "stopped", env=env)
    assert (tried.code, tried.out) == (0, "notified by the webhook at 127.0.0.1\nnotified by the command\n")
    assert recorder.paths() == [f"/{SECRET}"]  # the switch is left alone
    assert "this is only a test" in recorder.got[0].json["text"]
    told = json.loads((tmp_path / "told").read_bytes())
    assert told["event"] == "stopped" and told["test"] is True
    recorder.script = [404]
    failed = called("notify", file, "--set", "notify.command=exit 1", env=env)
    assert (failed.code, failed.out) == (
        3,
        "not notified by the webhook at 127.0.0.1: it answered HTTP 404 (ok)\nnot notified by the command: it exited with 1\n",
    )
    nobody = called("notify", job_file(tmp_path / "job.toml", {**job, "notify": {"ping": f"{recorder.url}/ping"}}))
    assert nobody.code == 2 and "nobody to notify" in nobody.err
    assert not Folder(tmp_path / "out").exists()
