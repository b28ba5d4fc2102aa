"""The command line as somebody at a terminal, or cron, meets it: verbs, options, exit codes, what goes where."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflex.cli import verbs_status
from batchflex.storage.output_folder import Folder
from batchflex.storage.run_state import RunState
from tests.support.command_line import (
    Ended,
    batchflex,
    begun,
    called,
    environment,
    message,
    refused_port,
    sha1_of_key,
    state,
    table,
    wait_until,
    write_rows,
)
from tests.support.counting_endpoint import CountingEndpoint, body_hash
from tests.support.runs import Meanwhile, going, killed_command

COLUMNS = """id, row, sample, key, status, content, reasoning, tool_calls, parsed, finish_reason, model, prompt_tokens,
completion_tokens, total_tokens, cache_read_input_tokens, cache_creation_input_tokens, reasoning_tokens, cost,
latency_s, ttft_s, attempts, started_at, finished_at, http_status, error_type, error_code, error_message, endpoint, run_id,
response, reasks, reask_prompt_tokens, reask_completion_tokens, reask_cost, retried_with, request_id,
requested_model, gateway_cost, gateway_deployment, gateway_fallbacks,
answer_limit, cut_by, format_fallback""".replace("\n", " ").split(", ")


@pytest.fixture
def asks(endpoint: CountingEndpoint) -> list[object]:
    """The options that every run here has: this endpoint, its model, retries that do not wait long."""
    return ["--base-url", endpoint.base_url, "--model", "m", "--set", "retry.base_s=0.01"]


# ------------------------------------------------------------------------------------------------------------ a run


def test_a_run_gives_one_row_a_request_and_a_second_run_sends_nothing(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 2_000), tmp_path / "out"
    script = Path(sys.executable).with_name("batchflex")
    endpoint.knobs(latency_s=0.02)
    command = ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", out, "--concurrency", "64"]

    def installed(*words: object) -> Ended:
        run = subprocess.run(
            [script, *words], capture_output=True, text=True, timeout=120, env=environment(), check=False
        )
        return Ended(run.returncode, run.stdout, run.stderr)

    for run in (installed, called):
        done = run(*command)
        assert (done.code, done.out) == (0, ""), done.err
        assert endpoint.stats()["requests"] == endpoint.stats()["good"] == 2_000
        results = table(out)
        assert results.columns == COLUMNS
        assert results["id"].to_list() == [f"r{i}" for i in range(2_000)]
        assert results["row"].to_list() == list(range(2_000))
        assert results["key"].n_unique() == 2_000
        assert set(results["status"]) == {"ok"}
        assert results["content"][1_999] == "echo: row 1999."
        assert state(out)["status"] == "finished"
    assert "nothing is sent" in done.err
    assert 1 < endpoint.stats()["max_in_flight"] <= 64
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["requests_sent"] for line in history] == [2_000, 0]


def test_json_is_one_line_and_the_same_as_run_json(asks: list[object], tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 5), tmp_path / "out"
    run = called("run", rows, *asks, "--out", out, "--json")
    assert run.code == 0
    assert run.summary == state(out)
    assert run.summary["ok"] == run.summary["planned"] == run.summary["requests_sent"] == 5
    assert "5 of 5" in run.err, "the summary for people is on standard error all the same"


def test_quiet_says_nothing_but_what_went_wrong(endpoint: CountingEndpoint, asks: list[object], tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 5), tmp_path / "out"
    endpoint.knobs(script=["401"])
    stopped = called("run", rows, *asks, "--out", out, "--quiet")
    assert (stopped.code, stopped.out) == (3, "")
    assert "key" in stopped.err and stopped.err.count("\n") == 1
    status = called("status", out)
    assert (status.code, status.err) == (0, "")
    assert "stopped" in status.out and "Incorrect API key provided" in status.out
    finished = called("run", rows, *asks, "--out", out, "--quiet")
    assert finished == (0, "", "")


def test_without_a_terminal_progress_is_plain_timed_lines(asks: list[object], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 5)
    run = called("run", rows, *asks, "--out", tmp_path / "out")
    first, second = run.err.splitlines()[:2]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* info rows \S+ started; output in ", first)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* info rows \S+ asking http", second)
    assert "\r" not in run.err and "\x1b" not in run.err


def test_the_output_folder_is_named_after_the_input_or_the_job(
    asks: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "my rows.v2.jsonl", 2)
    assert called("run", "my rows.v2.jsonl", *asks).code == 0
    assert table(tmp_path / "runs" / "my-rows").height == 2
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "nightly.toml").write_text('[input]\npath = "../my rows.v2.jsonl"\n')
    assert called("run", "jobs/nightly.toml", *asks).code == 0
    assert table(tmp_path / "runs" / "nightly").height == 2


def test_set_takes_request_parameters_and_places_in_the_job(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 4, temperature=1.5, top_p=0.5), tmp_path / "out"
    settings = ["--set", "max_tokens=7", "--set", "temperature=0.5", "--set", "stop=done", "--set", "limits.rpm=60000"]
    run = called("run", rows, *asks, "--out", out, *settings, "--set", 'metadata={a = [1, "b"]}', "--limit", "3")
    assert run.code == 0, run.err
    sent = {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.5,
        "stop": "done",
        "metadata": {"a": [1, "b"]},
    }
    wanted = [body_hash(sent | {"messages": message(f"row {i}.")}) for i in range(3)]
    assert sorted(record["hash"] for record in endpoint.log()) == sorted(wanted), "what is set wins over the rows"
    assert "rpm = 60000" in (out / "job.toml").read_text()


def test_the_model_on_the_command_line_wins_over_rows_and_job(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 2, model="of-the-row")
    job = tmp_path / "job.toml"
    job.write_text(
        f'[input]\npath = "rows.jsonl"\n[endpoint]\nbase_url = "{endpoint.base_url}"\n[params]\nmodel = "of-the-job"\n'
    )
    for model, more in (("of-the-row", ()), ("of-the-command", ("--model", "of-the-command"))):
        out = tmp_path / model
        assert called("run", job, "--out", out, *more).code == 0
        assert set(table(out)["model"]) == {model}


def test_limits_on_the_command_line(endpoint: CountingEndpoint, asks: list[object], tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 40), tmp_path / "out"
    endpoint.knobs(latency_s=0.01)
    limits = ["--concurrency", "3", "--rpm", "60000", "--tpm", "9000000", "--deadline", "23:59"]
    assert called("run", rows, *asks, "--out", out, *limits).code == 0
    assert endpoint.stats()["max_in_flight"] == 3
    kept = (out / "job.toml").read_text()
    for line in ("concurrency = 3", "rpm = 60000", "tpm = 9000000", 'deadline = "23:59"'):
        assert line in kept


def test_a_budget_stops_the_run_before_it_is_exceeded(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 40), tmp_path / "out"
    endpoint.knobs(tokens=100)
    prices = ["--set", "prices.input=0", "--set", "prices.output=1000", "--set", "max_tokens=100"]
    run = called("run", rows, *asks, "--out", out, *prices, "--budget-usd", "1", "--json")
    assert run.code == 3
    assert run.summary["stopped_by"] == "budget"
    assert run.summary["cost"] == pytest.approx(1.0)
    assert endpoint.stats()["requests"] == table(out).height == 10
    assert called("run", rows, *asks, "--out", out, *prices, "--budget-usd", "100", "--json").summary["ok"] == 40
    assert endpoint.stats()["repeats"] == 0


def test_a_deadline_stops_the_run(endpoint: CountingEndpoint, asks: list[object], tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 10_000), tmp_path / "out"
    endpoint.knobs(latency_s=0.05)
    run = called("run", rows, *asks, "--out", out, "--concurrency", "4", "--deadline", "2s", "--json")
    assert (run.code, run.summary["stopped_by"]) == (3, "deadline")
    assert 0 < table(out).height == endpoint.stats()["good"] < 10_000, "what was in flight has been kept"


def test_a_pipe_that_is_closed_early_is_no_fault(asks: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert called("run", write_rows(tmp_path / "rows.jsonl", 500), *asks, "--out", out).code == 0
    with begun("results", out, "-o", "-") as run:
        assert run.stdout is not None and run.stderr is not None
        assert '"r0"' in run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == ""
        assert run.wait(60) == 0


def test_whoever_stops_reading_ends_no_run_and_changes_no_exit_code(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    rows, log = write_rows(tmp_path / "rows.jsonl", 5), tmp_path / "run.log"
    endpoint.knobs(faults={"400_context": 1.0})
    with begun("run", rows, *asks, "--out", tmp_path / "out", "--json", "--log-file", log) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        run.stderr.close()
        assert run.wait(60) == 1
    assert state(tmp_path / "out")["failed"] == 5
    assert "finished after" in log.read_text().splitlines()[-1]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "batchflex", "run", rows, *asks, "--out", tmp_path / "full", "--json"]
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), timeout=60, check=False
        )
    assert ended.returncode == 1
    assert "the summary cannot be printed: No space left on device" in ended.stderr


def test_closed_streams_and_a_terminal_without_unicode(asks: list[object], tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 5, user="漢字"), tmp_path / "out"
    command = [sys.executable, "-m", "batchflex", "run", rows, *asks, "--out", out]
    shut = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *map(str, command)], env=environment(), timeout=60, check=False
    )
    assert shut.returncode == 0
    assert table(out).height == 5
    shown = batchflex("results", out, env={"PYTHONIOENCODING": "ascii"})
    assert shown.code == 0 and "echo: row 4." in shown.out
    plan = batchflex("plan", rows, *asks, "--out", out, "--json", env={"PYTHONIOENCODING": "ascii"})
    assert plan.summary["example"]["user"] == "漢字"


def test_likely_slips_are_warned_of(asks: list[object], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1)
    run = called("run", rows, *asks, "--out", tmp_path / "out", "--set", "temprature=1")
    assert run.code == 0, run.err
    assert "temperature" in run.err


# ------------------------------------------------------------------------------------------------ which key goes where


@pytest.fixture
def keyed_job(tmp_path: Path) -> Path:
    """A job for another server, with a key of its own."""
    write_rows(tmp_path / "rows.jsonl", 2)
    job = tmp_path / "job.toml"
    job.write_text(
        '[input]\npath = "rows.jsonl"\n[params]\nmodel = "m"\n'
        f'[endpoint]\nbase_url = "http://127.0.0.1:{refused_port()}/v1"\napi_key_env = "OTHER_KEY"\n'
    )
    return job


@pytest.mark.parametrize("how", ["--base-url={}", "--set=endpoint.base_url={}"])
def test_another_host_never_gets_the_key_of_the_job_file(
    how: str, keyed_job: Path, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    run = called(
        "run", keyed_job, how.format(endpoint.base_url), "--out", tmp_path / "out", env={"OTHER_KEY": "of-other"}
    )
    assert run.code == 0, run.err
    assert endpoint.stats()["keys"] == []


@pytest.mark.parametrize(
    ("more", "key"),
    [(["--base-url", "URL"], "default"), (["--base-url", "URL", "--api-key-env", "THIRD_KEY"], "third")],
)
def test_a_bare_server_gets_its_own_key(
    more: list[str], key: str, keyed_job: Path, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    keys = {"OTHER_KEY": "other", "BATCHFLEX_API_KEY": "default", "THIRD_KEY": "third", "FLEXAI_API_KEY": "flexai"}
    more = [endpoint.base_url if word == "URL" else word for word in more]
    assert called("run", keyed_job, *more, "--out", tmp_path / "out", env=keys).code == 0
    assert endpoint.stats()["keys"] == [sha1_of_key(key)]


def test_another_endpoint_replaces_a_local_model(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 2)
    job = tmp_path / "job.toml"
    job.write_text(
        '[input]\npath = "rows.jsonl"\n[endpoint]\nname = "local"\nmodel_path = "some.gguf"\ntimeout_s = 9\n'
    )
    run = called("run", job, "--base-url", endpoint.base_url, "--model", "m", "--out", tmp_path / "out")
    assert run.code == 0, run.err
    assert "timeout_s = 9" in (tmp_path / "out" / "job.toml").read_text()


# -------------------------------------------------------------------------------------------------------- what SPEC may be


def _gz(folder: Path) -> Path:
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(write_rows(folder / "plain.txt", 3).read_bytes()))
    return path


def _zst(folder: Path) -> Path:
    path = folder / "rows.jsonl.zst"
    path.write_bytes(pa.compress(write_rows(folder / "plain.txt", 3).read_bytes(), codec="zstd", asbytes=True))
    return path


def _parquet(folder: Path) -> Path:
    pq.write_table(
        pa.table({"id": [f"r{i}" for i in range(3)], "messages": [message(f"row {i}.") for i in range(3)]}),
        folder / "rows.parquet",
    )
    return folder / "rows.parquet"


def _parquet_of_json_strings(folder: Path) -> Path:
    texts = [json.dumps(message(f"row {i}.")) for i in range(3)]
    pq.write_table(pa.table({"custom_id": ["r0", "r1", "r2"], "messages": texts}), folder / "rows.parquet")
    return folder / "rows.parquet"


def _folder(folder: Path) -> Path:
    whole = write_rows(folder / "plain.txt", 3).read_text().splitlines(keepends=True)
    (folder / "inside").mkdir()
    (folder / "inside" / "1.jsonl").write_text(whole[0])
    (folder / "inside" / "2.jsonl").write_text("".join(whole[1:]))
    return folder / "inside"


def _glob(folder: Path) -> Path:
    return _folder(folder) / "*.jsonl"


def _batch_file(folder: Path) -> Path:
    lines = [
        {
            "custom_id": f"r{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": message(f"row {i}.")},
        }
        for i in range(3)
    ]
    path = folder / "batch.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize("make", [_gz, _zst, _parquet, _parquet_of_json_strings, _folder, _glob, _batch_file])
def test_every_shape_of_requests(make: Callable[[Path], Path], asks: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = called("run", make(tmp_path), *asks, "--out", out)
    assert run.code == 0, run.err
    assert table(out).select("id", "content").rows() == [(f"r{i}", f"echo: row {i}.") for i in range(3)]


# ------------------------------------------------------------------------------------------- what is refused, and how

WRONG: dict[str, tuple[dict[str, str], str, list[str]]] = {
    # what there is, what is called, what the sentence names
    "no such file": ({}, "run nothing.jsonl", ["nothing.jsonl"]),
    "no such job": ({}, "run nothing.toml", ["nothing.toml"]),
    "no kind of job": ({"a.docx": ""}, "run a.docx", ["a.docx", ".toml", ".jsonl"]),
    "a table without a prompt": (
        {"a.csv": "text\nhello\n"},
        "run a.csv",
        ["a.csv", "--prompt", "job file", "batchflex init a.csv"],
    ),
    "no SPEC": ({}, "run", ["SPEC"]),
    "no verb": ({}, "", ["VERB"]),
    "an unknown verb": ({}, "rum rows.jsonl", ["rum", "run"]),
    "an unknown option": ({}, "run rows.jsonl --budgetusd 5", ["--budgetusd", "--budget-usd"]),
    "a setting without a value": ({}, "run rows.jsonl --set max_tokens", ["KEY=VALUE", "max_tokens"]),
    "a setting of no place": ({}, "run rows.jsonl --set limits.rmp=5", ["limits.rmp", "rpm"]),
    "a parameter out of range": ({}, "run rows.jsonl --set temperature=3", ["temperature", "0 to 2", "3"]),
    "messages as a setting": ({}, "run rows.jsonl --set messages=[]", ["messages"]),
    "a concurrency of none": ({}, "run rows.jsonl --concurrency 0", ["limits.concurrency", "auto", "0"]),
    "a rate in words": ({}, "run rows.jsonl --rpm many", ["limits.rpm", "'many'"]),
    "a limit of none": ({}, "run rows.jsonl --limit 0", ["input.limit", "0"]),
    "a deadline in words": ({}, "run rows.jsonl --deadline soon", ["limits.deadline", "'soon'", "2h"]),
    "a budget without prices": ({}, "run rows.jsonl --budget-usd 5", ["limits.budget_usd", "[prices]"]),
    "no such on_change": ({}, "run rows.jsonl --on-change perhaps", ["job.on_change", "'stop'", "'perhaps'"]),
    "no such endpoint": ({}, "run rows.jsonl --endpoint flexia", ["flexia", "'flexai'"]),
    "two endpoints": ({}, "run rows.jsonl --endpoint flexai --base-url http://h/v1", ["--endpoint", "--base-url"]),
    "no URL": ({}, "run rows.jsonl --base-url localhost:8000", ["base_url", "http://"]),
    "a key that is not there": ({}, "run rows.jsonl --endpoint flexai", ["FLEXAI_API_KEY"]),
    "another key that is not there": ({}, "run rows.jsonl --base-url URL --api-key-env NO_KEY", ["NO_KEY"]),
    "a key in place of its name": ({}, "run rows.jsonl --base-url URL --api-key-env sk-abc", ["api_key_env"]),
    "no model": ({}, "run rows.jsonl --base-url URL", ["--model", "params.model"]),
    "broken TOML": ({"j.toml": '[job]\nname = "x\n'}, "run j.toml", ["j.toml", "line 2"]),
    "every mistake at once": (
        {"j.toml": '[job]\nnmae = "x"\n[params]\ntop_p = 2\n[limits]\nrpm = "fast"\n[no_such]\na = 1\n'},
        "run j.toml",
        ["j.toml", "4 mistakes", "line 2", "job.nmae", "'name'", "line 4", "top_p", "line 6", "limits.rpm", "no_such"],
    ),
    "no input": ({"j.toml": "[params]\ntop_p = 1\n"}, "run j.toml --base-url URL --model m", ["input.path"]),
    "a column that is not there": (
        {"a.csv": "id,text\n1,hello\n", "j.toml": '[input]\npath = "a.csv"\n[prompt]\nuser = "{{ txet }}"\n'},
        "run j.toml --base-url URL --model m",
        ["'txet'", "text", "prompt"],
    ),
    "a field that one line has not": (
        {
            "a.jsonl": '{"id": 1, "text": "x"}\n\n{"id": 2, "txt": "x"}\n',
            "j.toml": '[input]\npath = "a.jsonl"\n[prompt]\nuser = "{{ text }}"\n',
        },
        "run j.toml --base-url URL --model m",
        ["a.jsonl, line 3", "'text'", "txt", "on_bad_row"],
    ),
    "a broken template": (
        {"a.csv": "id,text\n1,hello\n", "j.toml": '[input]\npath = "a.csv"\n[prompt]\nuser = "{{ text "\n'},
        "run j.toml --base-url URL --model m",
        ["prompt"],
    ),
    "no such carried column": (
        {
            "a.csv": "id,text\n1,hello\n",
            "j.toml": '[input]\npath = "a.csv"\ncarry = ["stars"]\n[prompt]\nuser = "{{ text }}"\n',
        },
        "run j.toml --base-url URL --model m",
        ["input.carry", "'stars'", "text"],
    ),
    "lines that are no JSON": (
        {"a.jsonl": '{"messages": [{"role": "user", "content": "x"}]}\n{"messages": [\n'},
        "run a.jsonl --base-url URL --model m",
        ["a.jsonl, line 2", "JSON"],
    ),
    "a row without messages": (
        {"a.jsonl": '{"text": "x"}\n'},
        "run a.jsonl --base-url URL --model m",
        ["line 1", "'messages'"],
    ),
    "an id of no use": (
        {"a.jsonl": '{"id": [1], "messages": []}\n'},
        "run a.jsonl --base-url URL --model m",
        ["a.jsonl, line 1", "id"],
    ),
    "no Parquet": ({"a.parquet": "hello"}, "run a.parquet --base-url URL --model m", ["a.parquet", "Parquet"]),
    "a cell too many": (
        {"a.csv": "id,text\n1,2,3\n", "j.toml": '[input]\npath = "a.csv"\n[prompt]\nuser = "{{ text }}"\n'},
        "run j.toml --base-url URL --model m",
        ["a.csv, line 2", "3 cells"],
    ),
    "no folder to write to": ({"file": ""}, "run rows.jsonl --base-url URL --model m --out file/out", ["file/out"]),
    "a folder whose name is too long": (
        {},
        f"run rows.jsonl --base-url URL --model m --out {'a' * 300}",
        ["the output folder aaa", "File name too long"],
    ),
    "no run to show": ({}, "status nowhere", ["nowhere"]),
    "no results to show": ({}, "results nowhere", ["nowhere"]),
    "no such format": ({}, "results nowhere --format xml", ["openai-batch", "xml"]),
    "no rows to show": ({}, "results nowhere --rows 0", ["--rows", "'0'"]),
    "a plan of nothing": ({}, "plan nothing.jsonl", ["nothing.jsonl"]),
    "a check of nothing": ({}, "check nothing.toml", ["nothing.toml"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_sent(
    name: str, endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, words, named = WRONG[name]
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 3)
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    refused = called(*(endpoint.base_url if word == "URL" else word for word in words.split()))
    assert (refused.code, refused.out) == (2, "")
    assert [word for word in named if word not in refused.err] == [], refused.err
    assert refused.err.startswith("batchflex") and len(refused.err.splitlines()) <= 7, refused.err
    for slip in ("Traceback", "pydantic", "pyarrow", "jinja2", "Errno", "None"):
        assert slip not in refused.err
    stats = endpoint.stats()
    assert (stats["requests"], stats["elsewhere"]) == (0, [])
    assert not list(tmp_path.glob("runs/*/run.json"))


def test_a_traceback_is_shown_only_when_asked_for(asks: list[object], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n")
    plain = called("run", bad, *asks, "--out", tmp_path / "out")
    assert (plain.code, plain.out) == (2, "")
    assert "bad.jsonl, line 1" in plain.err and "Traceback" not in plain.err
    for deep in (
        called("run", bad, *asks, "--out", tmp_path / "out", "--debug"),
        called("--debug", "run", bad, *asks, "--out", tmp_path / "out"),
    ):
        assert (deep.code, deep.out) == (2, "")
        assert "Traceback" in deep.err and "InputError" in deep.err


@pytest.mark.parametrize("verb", ["", "run", "plan", "status", "results", "check"])
def test_help_can_be_read_without_knowing_anything(verb: str) -> None:
    shown = called(*([verb] if verb else []), "--help")
    assert (shown.code, shown.err) == (0, "")
    assert all(len(line) <= 120 for line in shown.out.splitlines())
    if verb in ("", "run"):
        assert "exit codes:" in shown.out and "another run holds" in shown.out
    if verb == "":
        assert all(name in shown.out for name in ("run", "plan", "status", "results", "check", "same command again"))


# ---------------------------------------------------------------------------------------------------------------- status


def test_status_of_a_run_in_progress_killed_and_finished(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 60), tmp_path / "out"
    endpoint.knobs(fail_after=8, fail_with="hang")
    command = ["run", rows, *asks, "--out", out, "--concurrency", "4"]
    with begun(*command) as run:
        wait_until(lambda: endpoint.stats()["outcomes"].get("hang") == 4, "every slot waits for ever")
        going = called("status", out)
        assert going.code == 0
        assert "running" in going.out and "killed" not in going.out
        run.send_signal(signal.SIGKILL)
        run.wait()
    killed = called("status", out)
    assert killed.code == 0
    assert "killed" in killed.out and "same command again" in killed.out
    assert called("status", out, "--json").summary["status"] == "killed"
    partial = called("results", out, "-o", "-")
    assert partial.code == 0
    answered = endpoint.stats()["good"]
    assert len(partial.out.splitlines()) == answered, "what was answered can be looked at before the run goes on"
    endpoint.knobs(fail_after=None)
    assert called(*command).code == 0
    finished = called("status", out, "--json")
    assert finished.summary == state(out)
    assert finished.summary["status"] == "finished" and finished.summary["ok"] == 60
    assert finished.summary["requests_sent"] == 60 - answered


def test_watch_ends_with_the_run(
    endpoint: CountingEndpoint,
    asks: list[object],
    tmp_path: Path,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verbs_status, "_WATCH_EVERY_S", 0.1)
    rows, out = write_rows(tmp_path / "rows.jsonl", 400), tmp_path / "out"
    endpoint.knobs(latency_s=0.5)
    with going("run", rows, *asks, "--out", out, "--concurrency", "4"):
        wait_until(lambda: endpoint.stats()["requests"] > 0, "the run has begun")
        meanwhile.once(endpoint, lambda seen: seen["requests"] > 4, partial(endpoint.knobs, latency_s=0.0))
        watched = called("status", out, "--watch")
    assert watched.code == 0
    assert "running" in watched.out.splitlines()[0]
    assert "finished" in watched.out and "400 of 400" in watched.out


def test_watching_a_folder_whose_run_has_only_just_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no run.json before the input has been looked at, which can take a while."""
    folder = Folder(tmp_path)
    run_state = RunState("id", "j", str(tmp_path), time.time(), {})
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        folder.write_state(run_state.state(time.time()))
        if len(waits) > 1:
            monkeypatch.setattr(Folder, "is_held", lambda _: False)

    with folder.held():
        monkeypatch.setattr(time, "sleep", sleep)
        watched = called("status", tmp_path, "--watch")
    assert watched.code == 0
    assert watched.out.startswith(f"j in {tmp_path}: running")


# --------------------------------------------------------------------------------------------------------------- results


def test_results_as_a_table_and_as_files(endpoint: CountingEndpoint, asks: list[object], tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 30), tmp_path / "out"
    endpoint.knobs(poison={"row 3.": "422"})
    assert called("run", rows, *asks, "--out", out).code == 1
    shown = called("results", out)
    assert shown.code == 0
    assert "r19" in shown.out and "r20" not in shown.out and "20 of 30" in shown.out
    assert "echo: row 4." in shown.out and "must be at most 1" in shown.out, "answers, and why there is none"
    assert "r29" in called("results", out, "--rows", "30").out
    for name in ("all.parquet", "all.csv", "all.jsonl"):
        written = called("results", out, "-o", tmp_path / name)
        assert (written.code, written.out) == (0, "")
        assert "30 rows" in written.err
    whole = table(out)
    assert pl.read_parquet(tmp_path / "all.parquet").equals(whole)
    assert pl.read_csv(tmp_path / "all.csv")["id"].to_list() == whole["id"].to_list()
    piped = called("results", out, "-o", "-")
    assert piped.out == (tmp_path / "all.jsonl").read_text()
    assert [json.loads(line)["id"] for line in piped.out.splitlines()] == whole["id"].to_list()


def test_results_in_the_shape_of_a_batch_output_file(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    endpoint.knobs(poison={"row 1.": "400_context"})
    assert called("run", _batch_file(tmp_path), *asks, "--out", out).code == 1
    written = called("results", out, "--format", "openai-batch", "-o", tmp_path / "answers.jsonl")
    assert written.code == 0
    good = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in good] == ["r0", "r2"]
    assert all(line["error"] is None and line["response"]["status_code"] == 200 for line in good)
    assert good[0]["response"]["body"]["choices"][0]["message"]["content"] == "echo: row 0."
    (bad,) = [json.loads(line) for line in (tmp_path / "answers_errors.jsonl").read_text().splitlines()]
    assert bad["custom_id"] == "r1"
    assert bad["error"] is None, "the server has answered"
    error = bad["response"]["body"]["error"]
    assert error["code"] == "context_length_exceeded" and "2048" in error["message"]
    assert bad["response"]["status_code"] == 400


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["-o", "a.ods"], ".parquet, .csv, .tsv, .jsonl, .json"),
        (["-o", "nowhere/a.csv"], "nowhere"),
        (["--format", "openai-batch"], "with -o"),
    ],
)
def test_results_that_cannot_be_written_like_that(
    more: list[str], named: str, asks: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert called("run", write_rows(tmp_path / "rows.jsonl", 2), *asks, "--out", "out").code == 0
    refused = called("results", "out", *more)
    assert (refused.code, refused.out) == (2, "")
    assert named in refused.err and "Traceback" not in refused.err


# ----------------------------------------------------------------------------------------------------------------- check


def test_check_asks_once_and_tells_the_limits(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(key="right", rpm=7, answer="ok")
    good = called("check", "--base-url", endpoint.base_url, env={"BATCHFLEX_API_KEY": "right"})
    assert good.code == 0
    for words in (endpoint.base_url, "BATCHFLEX_API_KEY", "m answered 'ok'"):
        assert words in good.out
    assert re.search(r"^limits    7 requests, 6 left, renewed in [\d.]+ s$", good.out, re.MULTILINE)
    assert endpoint.stats()["requests"] == 1
    assert "right" not in good.out.replace("right key", "") and good.err == ""


def test_check_takes_endpoint_and_model_of_a_job(keyed_job: Path, endpoint: CountingEndpoint) -> None:
    dead = called("check", keyed_job, env={"OTHER_KEY": "other"})
    assert dead.code == 3
    assert "cannot connect" in dead.out and "Traceback" not in dead.err
    alive = called("check", keyed_job, "--base-url", endpoint.base_url)
    assert alive.code == 0
    assert "m answered" in alive.out and "no key" in alive.out


def test_check_of_what_does_not_work(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(key="right")
    wrong = called("check", "--base-url", endpoint.base_url, env={"BATCHFLEX_API_KEY": "sk-wrong"})
    assert wrong.code == 3
    assert "Incorrect API key" in wrong.out and "401" in wrong.out
    assert "sk-wrong" not in wrong.out + wrong.err
    endpoint.knobs(script=["404_model"], key=None)
    missing = called("check", "--base-url", endpoint.base_url, "--model", "n")
    assert missing.code == 3
    assert "'n' is not among them" in missing.out and "does not exist" in missing.out
    assert endpoint.stats()["requests"] <= 2


# ------------------------------------------------------------------------------------------------------------------ plan


def test_plan_tells_what_would_be_sent_and_sends_nothing(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("name,text\n1,hello\n2,good bye\n")
    job = tmp_path / "job.toml"
    job.write_text(
        f'[job]\nname = "greet"\n[input]\npath = "a.csv"\n[endpoint]\nbase_url = "{endpoint.base_url}"\napi_key_env = "NO_KEY"\n'
        '[prompt]\nuser = "Greet: {{ text }}"\n[params]\nmodel = "m"\nmax_tokens = 10\n'
        "[sweep]\ntemperature = [0.0, 0.7]\nsamples = 3\n[prices]\ninput = 1\noutput = 1e6\n"
    )
    plan = called("plan", job)
    assert plan.code == 0, plan.err
    assert plan.err == ""
    for words in (
        "greet",
        endpoint.base_url,
        "12",
        "temperature = [0.0, 0.7]",
        "3 samples",
        "Greet: hello",
        "120",
        "$120",
    ):
        assert words in plan.out
    found = called("plan", job, "--json").summary
    assert (found["requests"], found["done"], found["left"], found["changed"]) == (12, 0, 12, 0)
    assert found["completion_tokens_at_most"] == 120
    assert found["example"]["messages"] == message("Greet: hello")
    stats = endpoint.stats()
    assert (stats["requests"], stats["elsewhere"], stats["connections"]) == (0, [], 0)
    assert not (tmp_path / "runs").exists()


def test_plan_tells_the_forms_of_a_sweep(asks: list[object], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 2)
    sweep = [
        "--set", "sweep.seed=[1, 2]",
        "--set", "sweep.zip={ temperature = [0.0, 0.7], top_p = [1.0, 0.9] }",
        "--set", 'sweep.points=[{ model = "a" }, { max_tokens = 9, model = "b" }, {}]',
    ]  # fmt: skip
    plan = called("plan", rows, *asks[:2], "--out", tmp_path / "out", *sweep, "--set", 'params.model="m"')
    assert plan.code == 0, plan.err
    told = plan.out.splitlines()
    at = next(number for number, line in enumerate(told) if line.startswith("  sweep"))
    assert [line.removeprefix("  sweep").strip() for line in told[at : at + 4]] == [
        "3 points: model = 'a'; max_tokens = 9, model = 'b'; (nothing set)",
        "together: temperature = [0.0, 0.7], top_p = [1.0, 0.9]",
        "seed = [1, 2]",
        "12 points in all",
    ]
    assert "24 to send" in plan.out


def test_plan_tells_what_is_done_and_what_has_changed(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 10), tmp_path / "out"
    assert called("run", rows, *asks, "--out", out, "--limit", "6", "--set", "temperature=0.5").code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    def plan(*more: object) -> dict[str, Any]:
        return called("plan", rows, *asks, "--out", out, "--json", *more).summary

    counts = ("requests", "done", "left", "changed")
    assert [plan("--set", "temperature=0.5")[name] for name in counts] == [10, 6, 4, 0]
    changed = plan("--set", "temperature=0.6")
    assert [changed[name] for name in counts] == [10, 0, 10, 6]
    assert changed["changed_tokens"] == table(out)["total_tokens"].sum()
    assert [plan("--set", "temperature=0.6", "--on-change", "keep")[name] for name in counts] == [10, 6, 4, 6]
    text = called("plan", rows, *asks, "--out", out, "--set", "temperature=0.6").out
    assert "changed" in text and "6 answers" in text and "'stop'" in text and "temperature: 0.5 → 0.6" in text
    assert endpoint.stats()["requests"] == 6
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before, "a plan writes nothing"


def test_plan_tells_which_files_count(asks: list[object], tmp_path: Path) -> None:
    os.utime(write_rows(tmp_path / "old.jsonl", 3), (1_700_000_000, 1_700_000_000))
    write_rows(tmp_path / "new.jsonl", 2)
    plan: list[object] = ["plan", tmp_path / "*.jsonl", *asks, "--out", tmp_path / "out"]
    told = called(*plan, "--since", "2024-01-01")
    assert "  files     changed since 2024-01-01 00:00:00" in told.out and ": 1 of 2\n" in told.out
    assert "requests  2: 0 done" in told.out
    assert "  files  " not in called(*plan).out


def test_plan_leaves_alone_what_the_folder_remembers_of_its_input(asks: list[object], tmp_path: Path) -> None:
    """Also where it reads a file further than any run has: a run may be writing there."""
    rows, out = write_rows(tmp_path / "rows.jsonl", 5_000), tmp_path / "out"
    os.utime(rows, (1_700_000_000, 1_700_000_000))
    assert called("run", rows, *asks, "--out", out, "--limit", "6").code == 0
    before = (out / "inputs.jsonl").read_bytes()
    assert called("plan", rows, *asks, "--out", out, "--json").summary["left"] == 4_994
    assert (out / "inputs.jsonl").read_bytes() == before


def test_plan_counts_what_is_in_the_journal_of_a_killed_run(
    endpoint: CountingEndpoint, asks: list[object], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 10), tmp_path / "out"
    endpoint.knobs(poison={"row 0.": "422"})
    killed_command(endpoint, 4, "run", rows, *asks, "--out", out, "--concurrency", "1")
    found = called("plan", rows, *asks, "--out", out, "--json").summary
    assert found["done"] >= 3
    assert found["left"] == 10 - found["done"], "the failed row is asked again"
    elsewhere = called("plan", rows, *asks, "--out", out, "--json", "--set", "temperature=0.5").summary
    assert (elsewhere["done"], elsewhere["changed"]) == (0, found["done"])


def test_plan_tells_of_rows_that_cannot_be_asked(asks: list[object], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "x"}]}\n{"text": "y"}\n')
    plan = called("plan", rows, *asks, "--out", tmp_path / "out")
    assert plan.code == 0
    assert "1 request" in plan.out and "rows.jsonl, line 2" in plan.out


def test_the_summary_of_a_sweep_is_json_that_other_tools_read(asks: list[object], tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "out"
    run = called(
        "run", rows, *asks, "--out", out, "--set", "sweep.temperature=[0.0, 1.0]", "--set", "sweep.samples=2", "--json"
    )
    assert msgspec.json.decode(run.out)["planned"] == 8
    assert table(out).select("id", "temperature", "sample").rows() == [
        (f"r{i}", t, s) for i in range(2) for t in (0.0, 1.0) for s in range(2)
    ]


# --------------------------------------------------------------------------------------------- slips of a first day


def test_the_local_model_does_not_answer_for_another(tmp_path: Path) -> None:
    refused = called("run", write_rows(tmp_path / "rows.jsonl", 1), "--model", "gpt-4o", "--out", tmp_path / "out")
    assert refused.code == 2
    assert "'gpt-4o'" in refused.err and "--base-url" in refused.err


def test_an_empty_input_sends_nothing(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 0)
    ended = called("run", rows, "--base-url", endpoint.base_url, "--out", tmp_path / "out")
    assert ended.code == 0
    assert "no rows" in ended.err
    assert table(tmp_path / "out").height == 0


def test_a_missing_key_is_told_as_such(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(key="sk-something-long")
    options = ["--base-url", endpoint.base_url, "--model", "m"]
    ended = called("run", write_rows(tmp_path / "rows.jsonl", 2), *options, "--out", tmp_path / "out")
    assert ended.code == 3
    assert "wants a key, and none was sent" in ended.err
    checked = called("check", *options)
    assert checked.code == 3
    assert "wants a key, and none was sent" in checked.out


def test_a_run_may_write_into_the_folder_it_reads(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 3)
    for _ in range(2):
        ended = called("run", tmp_path, "--base-url", endpoint.base_url, "--model", "m", "--out", tmp_path / "out")
        assert ended.code == 0, ended.err
    assert table(tmp_path / "out").height == 3


def test_more_connections_than_files_may_be_open(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """The limit of this process is lowered for good: so it is done in one of its own."""
    rows = write_rows(tmp_path / "rows.jsonl", 300)
    endpoint.knobs(latency_s=0.05)
    command = [sys.executable, "-m", "batchflex", "run", str(rows), "--base-url", endpoint.base_url, "--model", "m"]
    command += ["--out", str(tmp_path / "out"), "--concurrency", "2000"]
    ended = subprocess.run(
        ["bash", "-c", 'ulimit -n 128; exec "$@"', "-", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "may open 128 files" in ended.stderr
    assert endpoint.stats()["max_in_flight"] <= 64
