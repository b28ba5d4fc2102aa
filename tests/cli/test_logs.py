"""The logs of runs: what lines say and what they never say, how few there are, and who may write to one file."""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import batchflex
from batchflex.cli import log_format
from batchflex.cli.log_filter import LogFilter
from batchflex.cli.log_rotation import SharedFileHandler
from batchflex.cli.logs import Logs
from batchflex.config.sections import LogSection
from batchflex.core import events
from batchflex.core.errors import Interrupted, JobError
from batchflex.core.events import Event
from batchflex.storage.output_folder import Folder
from tests.support.command_line import Ended, called, environment, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.unit.cli.test_progress import run_state, terminal

KEY = "sk-Sesam-oeffne-dich-4711"
SECRET = "Mrs. Whitfield-Okonkwo has been unwell"  # what a prompt says
ENDS = {"ended", "refused", "busy", "error", "interrupted"}


@pytest.fixture
def asks(endpoint: CountingEndpoint) -> list[object]:
    return ["--base-url", endpoint.base_url, "--model", "m", "--concurrency", 4, "--set", "retry.base_s=0.01"]


def lines_of(path: Path | str) -> list[dict[str, Any]]:
    """The objects of a log; every one of them has what all lines have."""
    text = path.read_text(encoding="utf-8") if isinstance(path, Path) else path
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        assert list(line)[:6] == ["time", "level", "job", "run_id", "event", "message"]
        assert datetime.datetime.fromisoformat(line["time"]).utcoffset() is not None
        assert line["level"] in ("info", "warning", "error") and line["message"]
    return found


def record(event: Event) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": event})


def timeless(path: Path | str) -> list[dict[str, Any]]:
    return [line | {"time": ""} for line in lines_of(path)]


def secret_rows(folder: Path, number: int = 6) -> Path:
    path = folder / "rows.jsonl"
    rows = [{"id": f"r{n}", "messages": [{"role": "user", "content": f"{SECRET}, {n}."}]} for n in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------- whole runs


def test_a_run_in_json_from_start_to_end(endpoint: CountingEndpoint, asks: list[object], tmp_path: Path) -> None:
    endpoint.knobs(request_ids="x-request-id", script=["ok", "500", "400"])
    rows, log = write_rows(tmp_path / "rows.jsonl", 5), tmp_path / "new" / "run.log"
    run = called(
        "run",
        rows,
        *asks,
        "--out",
        tmp_path / "out",
        "--log-file",
        log,
        "--log-format",
        "json",
        "--json",
        "--concurrency",
        1,
    )
    found = lines_of(log)
    assert [(line["event"], line["level"]) for line in found] == [
        ("started", "info"), ("note", "info"), ("retrying", "warning"), ("row_failed", "warning"), ("ended", "warning"),
    ]  # fmt: skip
    assert {(line["job"], line["run_id"]) for line in found} == {("rows", run.summary["run_id"])}
    start, _, again, failed, end = found
    assert (start["done"], start["endpoints"], start["out"]) == (0, [endpoint.base_url], str(tmp_path / "out"))
    assert (again["http_status"], again["error_type"], again["attempts"]) == (500, "server_error", 1)
    assert (failed["http_status"], failed["error_type"], failed["status"]) == (400, "invalid_request_error", "failed")
    sent = {record["seq"]: record["outcome"] for record in endpoint.log()}
    assert [sent[int(line["request_id"].removeprefix("req-"))] for line in (again, failed)] == ["500", "400"]
    counts = {name: end[name] for name in ("exit_code", "planned", "done", "ok", "failed", "requests_sent")}
    assert counts == {"exit_code": 1, "planned": 5, "done": 5, "ok": 4, "failed": 1, "requests_sent": 6}
    assert (
        end["message"].startswith("finished after ")
        and ", exit code 1: 5 of 5 rows done: 4 ok, 1 failed" in end["message"]
    )
    assert timeless(run.err) == timeless(log)  # standard error, which is no terminal, has nothing else


def test_as_text_the_summary_follows_and_quiet_silences_all_but_the_file(asks: list[object], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 3)
    run = called("run", rows, *asks, "--out", tmp_path / "out", "--log-file", tmp_path / "a.log")
    quiet = called("run", rows, *asks, "--out", tmp_path / "out2", "--log-file", tmp_path / "b.log", "--quiet")
    a, b = ((tmp_path / name).read_text().splitlines() for name in ("a.log", "b.log"))
    head = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (info|warning|error) rows \d{8}T\d{6}Z-[0-9a-f]{6} "
    assert all(re.match(head, line) for line in [*a, *b])
    assert run.err.splitlines()[: len(a) - 1] == a[:-1]
    assert "rows: 3 of 3 rows done: 3 ok; finished after " in run.err
    assert (quiet.code, quiet.err, len(b)) == (0, "", len(a))
    assert re.search(r"finished after [\d.]+ s, exit code 0: 3 of 3 rows done: 3 ok; 3 requests sent", b[-1])


def test_on_a_terminal_the_bar_stays(tmp_path: Path) -> None:
    settings = LogSection(file=str(tmp_path / "a.log"), format="json")
    with terminal() as (stream, shown):
        book = Logs(settings, "nightly", quiet=False, stream=stream)
        assert not book.stderr_is_log
        book.warn("something")
        book.tick(run_state())
        book.event(Event("row_failed", "row r1 failed", shown=False))
        book.close()
    assert "502/2000" in "".join(shown) and "warning: something" in "".join(shown)
    assert "row r1" not in "".join(shown)
    assert [line["event"] for line in lines_of(tmp_path / "a.log")] == ["note", "row_failed"]


@pytest.mark.parametrize("how", ["file", "broken", "option"])
def test_a_job_that_is_refused_is_in_the_log(how: str, tmp_path: Path) -> None:
    job, log = tmp_path / "nightly.toml", tmp_path / "n.log"
    own = '[log]\nfile = "n.log"\nformat = "json"\n'
    wrong = f'[prompt]\nuser = ["{SECRET}"]\n[limits]\nrmp = 3\n'
    job.write_text({"file": own + wrong, "broken": own + "max_mb = 'x'\n" + wrong, "option": wrong + "[["}[how])
    options = [] if how == "file" else ["--log-file", log, "--log-format", "json"]
    ended = called("run", job, *options)
    [line] = lines_of(log)
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", line["run_id"])
    assert (ended.code, line["event"], line["level"], line["exit_code"]) == (
        2,
        "refused",
        "error",
        2,
    )
    assert line["job"] == "nightly" and line["message"].startswith("refused, exit code 2: ")
    assert ("rmp" in line["message"]) == (how != "option")
    assert SECRET not in log.read_text() and timeless(ended.err) == timeless(log)


def test_a_path_of_the_log_has_variables_also_when_the_job_is_refused(asks: list[object], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PLACE=here\n")
    write_rows(tmp_path / "rows.jsonl", 1)
    head = f'[job]\nout = "{tmp_path}/out"\n[input]\npath = "rows.jsonl"\n[log]\nfile = "${{PLACE}}/a.log"\nformat = "json"\n'
    (tmp_path / "a.toml").write_text(head)
    (tmp_path / "b.toml").write_text(head + "[limits]\nrmp = 3\n")
    assert [called("run", tmp_path / name, *asks).code for name in ("a.toml", "b.toml")] == [0, 2]
    ends = [line["event"] for line in lines_of(tmp_path / "here" / "a.log") if "exit_code" in line]
    assert ends == ["ended", "refused"]
    (tmp_path / "c.toml").write_text(head.replace("PLACE", "NOWHERE"))
    assert called("run", tmp_path / "c.toml", *asks).code == 2
    assert not (tmp_path / "${NOWHERE}").exists()


def test_rows_that_cannot_be_asked_are_not_quoted(asks: list[object], tmp_path: Path) -> None:
    rows, log = tmp_path / "rows.jsonl", tmp_path / "a.log"
    rows.write_text(json.dumps({"messages": [{"content": SECRET}]}) + "\n" + json.dumps({"messages": [SECRET]}) + "\n")
    ended = called("run", rows, *asks, "--out", tmp_path / "out", "--log-file", log)
    assert (ended.code, SECRET in ended.err, SECRET in log.read_text()) == (2, True, False)
    assert "each message must be an object with a 'role'" in log.read_text()


def test_a_changed_job_is_told_without_its_prompts(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\na,b\n")
    for number, prompt in enumerate(["one", SECRET]):
        job = f'[job]\nout = "{tmp_path}/out"\n[input]\npath = "in.csv"\nid = "id"\n[prompt]\nuser = "{prompt} {{{{ text }}}}"\n'
        job += f'[params]\nmodel = "m"\n[endpoint]\nbase_url = "{endpoint.base_url}"\n[log]\nfile = "a.log"\nformat = "json"\n'
        (tmp_path / "job.toml").write_text(job)
        ended = called("run", tmp_path / "job.toml")
        assert ended.code == 2 * number, ended.err
    last = lines_of(tmp_path / "a.log")[-1]
    assert (last["event"], last["error"]) == ("refused", "JobChanged")
    assert "prompt.user" in last["message"] and SECRET not in (tmp_path / "a.log").read_text()


def test_a_retry_takes_the_log_of_its_job_and_its_options_win(asks: list[object], tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 3), tmp_path / "out"
    called("run", rows, *asks, "--out", out, "--log-file", tmp_path / "a.log", "--log-format", "json")
    before = len(lines_of(tmp_path / "a.log"))
    assert called("retry", out, "--where", "row = 1").code == 0
    assert [line["event"] for line in lines_of(tmp_path / "a.log")[before:]][-1] == "ended"
    assert called("retry", out, "--where", "row = 1", "--log-file", tmp_path / "b.log").code == 0
    assert called("retry", out, "--where", "nothing = 1", "--log-file", tmp_path / "b.log").code == 2
    assert [line["event"] for line in lines_of(tmp_path / "b.log") if "exit_code" in line] == ["ended", "refused"]


def test_a_log_that_cannot_be_written_is_a_mistake_at_the_start_and_none_later(
    asks: list[object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 3)
    refused = called("run", rows, *asks, "--out", tmp_path / "out", "--log-file", tmp_path)
    assert refused.code == 2 and f"the log file {tmp_path} cannot be written: Is a directory" in refused.err
    assert not (tmp_path / "out").exists()
    run = called("run", rows, *asks, "--out", tmp_path / "out", "--log-file", "/dev/full")
    assert (
        run.code == 0 and run.err.count("cannot be written: No space left on device; the run goes on without it") == 1
    )


def test_an_interrupt_is_a_line_and_so_is_the_end(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.2)
    rows, log = write_rows(tmp_path / "rows.jsonl", 500), tmp_path / "a.log"
    command = [sys.executable, "-m", "batchflex", "run", rows, *asks, "--out", tmp_path / "out", "--log-file", log]
    command += ["--log-format", "json", "--quiet"]
    with subprocess.Popen([*map(str, command)], env=environment(), stderr=subprocess.DEVNULL) as process:
        while endpoint.stats()["good"] < 4:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    found = lines_of(log)
    assert process.returncode == 143
    assert [(line["event"], line["level"]) for line in found[-2:]] == [("stopped", "warning"), ("ended", "warning")]
    assert (found[-2]["stopped_by"], found[-1]["exit_code"], found[-1]["status"]) == ("signal", 143, "interrupted")


# ---------------------------------------------------------------------------------------------------------- secrets


def logs_of(folder: Path, run: Ended) -> str:
    return "".join(path.read_text() for path in folder.glob("*.log")) + run.err


@pytest.mark.parametrize("form", [[], ["--log-format", "json"]])
@pytest.mark.parametrize(
    ("script", "knobs", "code"),
    [
        (["ok", "400", "400_context", "500"], {}, 1),
        (["401"], {}, 3),
        (["402"], {}, 3),
        (["404_model"], {}, 3),
        (["ok"], {"fail_after": 1, "fail_with": "503"}, 3),
        ([], {"faults": {"400": 1.0}}, 3),
    ],
)
def test_no_key_and_no_prompt_though_the_server_repeats_both(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path, form: list[str],
    script: list[str], knobs: dict[str, Any], code: int,
) -> None:  # fmt: skip
    endpoint.knobs(echo=True, script=script, **knobs)
    rows, out = secret_rows(tmp_path, 30), tmp_path / "out"
    options = ["--set", "limits.max_outage=1s", "--set", "retry.attempts=2", "--log-file", tmp_path / "a.log", *form]
    run = called("run", rows, *asks, "--out", out, *options, env={"BATCHFLEX_API_KEY": KEY})
    assert run.code == code, run.err
    told = logs_of(tmp_path, run)
    assert "HTTP 4" in told or "HTTP 5" in told
    assert SECRET not in told and "you sent" not in told and "Whitfield" not in told
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in run.err + run.out
    assert "you sent Bearer ***" in (out / "run.json").read_text()  # the full words are there


@pytest.mark.parametrize("form", ["text", "json"])
def test_with_log_prompts_there_are_prompts_and_words_but_no_key(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path, form: str
) -> None:
    endpoint.knobs(echo=True, script=["ok", "400"])
    log = tmp_path / "a.log"
    options = ["--log-file", log, "--log-format", form, "--log-prompts"]
    run = called("run", secret_rows(tmp_path), *asks, "--out", tmp_path / "o", *options, env={"BATCHFLEX_API_KEY": KEY})
    assert run.code == 1
    assert "you sent Bearer ***" in log.read_text() and KEY not in log.read_text() + run.err
    if form == "json":
        [line] = [line for line in lines_of(log) if line["event"] == "row_failed"]
        assert line["messages"] == [{"role": "user", "content": f"{SECRET}, {line['row']}."}]


def test_an_answer_that_does_not_fit_is_not_quoted(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    endpoint.knobs(answer=SECRET)
    rows, log = write_rows(tmp_path / "rows.jsonl", 2, response_format={"type": "json_object"}), tmp_path / "a.log"
    run = called("run", rows, *asks, "--out", tmp_path / "out", "--log-file", log, "--log-format", "json")
    assert run.code == 1
    found = [line for line in lines_of(log) if line["event"] == "row_failed"]
    assert [(line["status"], line["http_status"]) for line in found] == [("invalid", 200)] * 2
    assert "Whitfield" not in log.read_text() + run.err


def test_prompts_are_shortened() -> None:
    messages = [{"role": "user", "content": f"{n}" * 2_000} for n in range(10)]
    shown = log_format.prompt(json.dumps({"messages": messages}).encode())
    assert [m["content"][0] for m in shown["messages"]] == list("23456789") and shown["earlier_messages"] == 2
    assert all(len(m["content"]) == 501 for m in shown["messages"])
    assert log_format.prompt(None) == {}


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ((400, "bad_request", "too_long", "words"), "HTTP 400, bad_request, too_long"),
        ((502, "http_502", None, "words"), "HTTP 502"),
        ((400, f"said: {SECRET}", SECRET, "words"), "HTTP 400"),
        ((400, "a" * 65, None, "words"), "HTTP 400"),
        ((429, "x", "x", "words"), "HTTP 429, x"),
        ((None, "connect", None, "cannot connect: refused"), "cannot connect: refused"),
        ((None, "input", None, f"the template fails on {SECRET}"), "input"),
        ((None, None, None, None), "it failed"),
        ((200, "invalid_answer", None, f"is not JSON: {SECRET}"), "the answer does not fit"),
    ],
)  # fmt: skip
def test_a_failure_in_brief(known: tuple[Any, ...], told: str) -> None:
    assert events.brief(*known) == told


# ------------------------------------------------------------------------------------------------------ how few lines


def test_a_throttle_counts_what_it_holds_back() -> None:
    now = 0.0
    throttle = LogFilter(lambda: now, most={"a": 2})

    def admits(name: str, at: float) -> bool:
        nonlocal now
        now = at
        return throttle.filter(record(Event(name, name)))

    def held_back(at: float) -> list[tuple[str, int]]:
        return [(event.name, event.facts["more"]) for event in throttle.held_back(until=at)]

    assert [admits("a", at) for at in (0.0, 1.0, 2.0, 3.0)] == [True, True, False, False]
    assert all(admits("b", 3.0) for _ in range(100))
    assert held_back(59.9) == []
    assert held_back(60.0) == [("a", 2)]
    assert admits("a", 60.0) and held_back(1e9) == []


def told_over(minutes: int, each_tick: Any) -> list[dict[str, Any]]:
    """The lines of a run that takes so long, by a clock that the test turns; ``each_tick`` is called twice a second."""
    stream, now = io.StringIO(), [1_000.0]
    log = Logs(LogSection(format="json"), None, quiet=False, stream=stream, clock=lambda: now[0])
    for _ in range(minutes * 120):
        now[0] += 0.5
        each_tick(log)
    log.close()
    return lines_of(stream.getvalue())


def test_while_nothing_is_wrong_there_is_a_line_a_minute() -> None:
    made = run_state()
    found = told_over(30, lambda log: log.tick(made))
    assert [line["event"] for line in found] == ["progress"] * 30
    line = found[0]
    assert {
        "done": 502,
        "planned": 2000,
        "ok": 500,
        "failed": 2,
        "in_flight": 64,
        "rows_per_s": 8.367,
    }.items() <= line.items()
    assert (line["prompt_tokens"], line["binding"], line["cost"]) == (50_000, None, None)


def test_a_long_outage_with_thousands_of_failures_gives_few_lines() -> None:
    made = run_state()

    def tick(log: Logs) -> None:
        log.tick(made)
        for name in ("retrying", "row_failed", "paused", "resumed"):
            for _ in range(50):
                log.event(Event(name, name, run_id="run-1", job="j"))

    found = told_over(10, tick)
    counted = Counter(line["event"] for line in found)
    assert counted["progress"] == 10 and sum(counted.values()) < 10 * (5 + 3 * 3 + 4 + 1) + 20
    for name in ("retrying", "row_failed", "paused", "resumed"):
        said = sum(line.get("more", 1) for line in found if line["event"] == name)
        assert said == 10 * 120 * 50, name


def test_an_outage_of_a_real_endpoint(endpoint: CountingEndpoint, asks: list[object], tmp_path: Path) -> None:
    endpoint.knobs(fail_after=40, fail_with="503", latency_s=0.01)
    rows, log = write_rows(tmp_path / "rows.jsonl", 400), tmp_path / "a.log"
    options = ["--set", "limits.max_outage=1s", "--log-file", log, "--log-format", "json", "--concurrency", 16]
    run = called("run", rows, *asks, *options, "--out", tmp_path / "out", "--quiet")
    found = lines_of(log)
    assert run.code == 3 and endpoint.stats()["requests"] > 50
    assert [line["event"] for line in found if line["event"] not in ("retrying", "note")] == [
        "started",
        "paused",
        "stopped",
        "ended",
    ]
    assert len(found) < 12
    paused = next(line for line in found if line["event"] == "paused")
    assert (paused["reason"], paused["http_status"], paused["error_type"]) == ("outage", 503, "server_error")


def test_an_observer_without_events_is_told_as_before(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    class Watch:
        def __init__(self) -> None:
            self.notes: list[str] = []

        def tick(self, run_state: object) -> None:
            pass

        def note(self, text: str) -> None:
            self.notes.append(text)

    class Listens(Watch):
        def __init__(self) -> None:
            super().__init__()
            self.events: list[Event] = []

        def event(self, event: Event) -> None:
            self.events.append(event)

    endpoint.knobs(script=["ok", "500", "500", "400"])
    job = {
        "input": {"path": str(write_rows(tmp_path / "rows.jsonl", 5))}, "params": {"model": "m"},
        "endpoint": {"base_url": endpoint.base_url}, "retry": {"base_s": 0.01}, "limits": {"concurrency": 1},
    }  # fmt: skip
    plain, listens = Watch(), Listens()
    batchflex.run(job | {"job": {"out": str(tmp_path / "a")}}, observer=plain)
    assert [note.split(" ")[0] for note in plain.notes] == ["asking", "trying"]
    endpoint.knobs(script=["ok", "500", "500", "400"])
    batchflex.run(job | {"job": {"out": str(tmp_path / "b")}}, observer=listens)
    assert listens.notes == []
    assert [event.name for event in listens.events] == ["started", "note", "retrying", "retrying", "row_failed"]
    assert len({event.run_id for event in listens.events}) == 1


# --------------------------------------------------------------------------------------------------------- rotation


def write(handler: SharedFileHandler, line: str) -> None:
    handler.handle(logging.makeLogRecord({"msg": line}))


def write_many(path: Path, name: str, number: int, max_bytes: int, keep: int) -> None:
    handler = SharedFileHandler(path, max_bytes, keep)
    for n in range(number):
        write(handler, f"{name} {n:05d} {'x' * 40}")


def files_of(path: Path) -> list[Path]:
    """Oldest first."""
    old = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: -int(p.suffix[1:]))
    return [*old, path]


def test_a_file_is_rotated_by_size_and_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    write_many(path, "a", 100, 1_000, 3)
    files = files_of(path)
    assert [file.name for file in files] == ["a.log.3", "a.log.2", "a.log.1", "a.log"]
    assert all(file.stat().st_size <= 1_000 for file in files)
    numbers = [int(line.split()[1]) for file in files for line in file.read_text().splitlines()]
    assert numbers == list(range(numbers[0], 100))


def test_processes_that_share_a_file_lose_no_line_and_tear_none(tmp_path: Path) -> None:
    path, number, names = tmp_path / "a.log", 400, ["a", "b", "c"]
    program = (
        "import logging, sys; from pathlib import Path; from batchflex.cli.log_rotation import SharedFileHandler\n"
        "handler = SharedFileHandler(Path(sys.argv[1]), 3_000, 1_000)\n"
        f"lines = (f'{{sys.argv[2]}} {{n:05d}} {'x' * 40}' for n in range({number}))\n"
        "for line in lines: handler.handle(logging.makeLogRecord({'msg': line}))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in names]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = [line.split() for file in files_of(path) for line in file.read_text().splitlines()]
    assert len(files_of(path)) > 15
    for name in names:
        assert [int(n) for who, n, _ in found if who == name] == list(range(number))
    assert all(rest == "x" * 40 for _, _, rest in found)


def test_a_file_that_was_moved_away_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    handler = SharedFileHandler(path, 10_000, 2)
    write(handler, "one")
    path.rename(tmp_path / "elsewhere")
    write(handler, "two")
    path.unlink()
    write(handler, "three")
    assert (path.read_text(), (tmp_path / "elsewhere").read_text()) == ("three\n", "one\n")


def test_a_process_that_stopped_with_the_lock_holds_nobody_up_for_long(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    one, other = (SharedFileHandler(path, 10, 2) for _ in range(2))
    write(one, "a line of more than ten bytes")
    with one._locked():
        write(other, "two")
    assert path.read_text() == "a line of more than ten bytes\ntwo\n"  # not rotated meanwhile
    write(other, "three")
    assert path.read_text() == "three\n"


def test_a_run_rotates_its_log(asks: list[object], tmp_path: Path) -> None:
    rows, log = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "a.log"
    options = [
        "--log-file",
        log,
        "--log-format",
        "json",
        "--set",
        "log.max_mb=0.0005",
        "--set",
        "log.keep=2",
        "--quiet",
    ]
    for number in range(3):
        assert called("run", rows, *asks, "--out", tmp_path / f"out{number}", *options).code == 0
    assert [file.name for file in files_of(log)] == ["a.log.2", "a.log.1", "a.log"]
    assert lines_of(log)[-1]["event"] == "ended"


def test_a_run_that_finds_another_says_so_in_the_same_file(asks: list[object], tmp_path: Path) -> None:
    rows, log = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "a.log"
    options = ["--out", tmp_path / "out", "--log-file", log, "--log-format", "json", "--quiet"]
    with Folder(tmp_path / "out").held():
        busy = called("run", rows, *asks, *options)
    assert (busy.code, called("run", rows, *asks, *options).code) == (4, 0)
    ends = [line for line in lines_of(log) if line["event"] in ENDS]
    assert [(line["event"], line["exit_code"], line["level"]) for line in ends] == [
        ("busy", 4, "warning"),
        ("ended", 0, "info"),
    ]
    assert f"process {os.getpid()}" in ends[0]["message"]


def test_half_a_surrogate_pair_is_no_reason_to_fail() -> None:
    event = Event("note", "x\ud800y", facts={"id": "\udc00", "list": ["\ud800"]})
    line = log_format.JsonFormatter().format(record(event))
    assert json.loads(line)["list"] == ["�"]


def test_a_log_file_of_settings_that_cannot_be_is_a_job_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="cannot be written: Not a directory"):
        Logs(LogSection(file=str(tmp_path / "file" / "a.log")), "j", quiet=True)


def test_an_exception_that_a_signal_raises_within_a_line_goes_through(tmp_path: Path) -> None:
    """logging would take it for a fault of the handler, and go on."""

    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            raise Interrupted("by SIGTERM", signal.SIGTERM)

    class InterruptingFormatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            raise Interrupted("by SIGTERM", signal.SIGTERM)

    with pytest.raises(Interrupted):
        Logs(LogSection(), None, quiet=False, stream=Interrupting()).note("something")
    handler = SharedFileHandler(tmp_path / "a.log", 100, 1, on_error=lambda error: None)
    handler.setFormatter(InterruptingFormatter())
    with pytest.raises(Interrupted):
        write(handler, "something")


def test_also_how_many_more_there_were_has_the_id_of_the_command() -> None:
    stream = io.StringIO()
    log = Logs(LogSection(format="json"), None, quiet=False, stream=stream, attempt="20260101T000000Z-abcdef")
    for number in range(40):
        log.event(Event("note", f"warning {number}", job="j"))
    log.close()
    lines = lines_of(stream.getvalue())
    assert {line["run_id"] for line in lines} == {"20260101T000000Z-abcdef"}
    assert lines[-1]["message"] == "and 10 more notes"
