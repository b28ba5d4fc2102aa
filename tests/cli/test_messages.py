"""What a run, ``status`` and ``check`` say, read as somebody does who has not read the code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import batchflex
from batchflex.config.dated_path import local
from batchflex.config.loader import build
from batchflex.display import run_text
from batchflex.storage.run_state import sent
from tests.support.command_line import Ended, called, message, write_rows
from tests.support.counting_endpoint import CountingEndpoint, body_hash

QUICK = ("--set", "retry.attempts=2", "--set", "retry.base_s=0.001")
BROKEN: dict[str, Any] = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "half an"}, "finish_reason": "error"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
NO_MODEL: dict[str, Any] = {
    "error": {"message": "The model `gone` does not exist", "type": "invalid_request_error", "code": "model_not_found"}
}


def asked(
    endpoint: CountingEndpoint, folder: Path, *options: object, rows: int = 6, env: Mapping[str, str] | None = None
) -> tuple[Ended, dict[str, Any], str]:
    """A run, its ``run.json``, and what ``status`` says of it."""
    path, out = write_rows(folder / "rows.jsonl", rows, max_tokens=16), folder / "out"
    model = () if "sweep.model" in str(options) else ("--model", "m")
    ended = called("run", path, "--base-url", endpoint.base_url, "--out", out, *model, *QUICK, *options, env=env)
    return ended, json.loads((out / "run.json").read_text()), called("status", out).out


# --------------------------------------------------------------------------------------------------- what was sent


@pytest.mark.parametrize(
    ("requests", "probes", "told"),
    [
        (12, 1, "12 requests sent, 1 of them a probe"),
        (1_200, 3, "1,200 requests sent, 3 of them probes"),
        (1, 1, "1 request sent, 1 a probe"),
        (1, 0, "1 request sent"),
    ],
)
def test_words_for_what_was_sent(requests: int, probes: int, told: str) -> None:
    assert sent({"requests_sent": requests, "probes": probes}) == told


def test_probes_are_told_wherever_requests_are(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(poison={"row 3.": "500"})
    log = tmp_path / "run.log"
    ended, state, status = asked(endpoint, tmp_path, "--log-file", log)
    probe = body_hash({"model": "m", "max_tokens": 1, "messages": message("ok")})
    probes = sum(record["hash"] == probe for record in endpoint.log())
    assert (state["probes"], state["requests_sent"]) == (probes, endpoint.stats()["requests"])
    assert probes > 0
    told = (
        f"{state['requests_sent']} requests sent, {'1 of them a probe' if probes == 1 else f'{probes} of them probes'}"
    )
    last = log.read_text().splitlines()[-1]
    for words in (ended.err, status, last, called("history", tmp_path / "out").out):
        assert told in words


def test_what_could_not_be_sent_is_not_counted(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    ended, state, status = asked(endpoint, tmp_path, "--set", 'endpoint.api_key_command="false"')
    assert (state["stopped_by"], state["requests_sent"], endpoint.stats()["requests"]) == ("key", 0, 0)
    assert "request sent" not in ended.err and "0 requests sent, 0 retries" in status


def test_a_server_that_is_not_there_was_sent_nothing(tmp_path: Path) -> None:
    with CountingEndpoint() as gone:
        pass
    ended, state, _ = asked(gone, tmp_path, "--set", "limits.budget_requests=3")
    assert (state["stopped_by"], state["requests_sent"], state["retries"], state["probes"]) == ("endpoint", 0, 0, 0)
    assert "the endpoint does not answer: cannot connect" in ended.err
    assert "No row was marked failed for it" in ended.err and "batchflex check" in ended.err


# ------------------------------------------------------------------------------------------- answers that break off


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_that_gets_half_answers_alone_says_so(streamed: bool, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    said: dict[str, Any] = {"status": 200, "body": BROKEN}
    if streamed:
        chunk = BROKEN | {"choices": [{"index": 0, "delta": {"content": "half an"}, "finish_reason": "error"}]}
        said = {
            "status": 200,
            "headers": {"content-type": "text/event-stream"},
            "raw": f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n",
        }
    endpoint.knobs(said=said, down="said")
    prices = ("--set", "prices.input=1", "--set", "prices.output=2")
    ended, state, _ = asked(endpoint, tmp_path, *prices, "--set", f"endpoint.stream={str(streamed).lower()}")
    assert (ended.code, state["stopped_by"], state["failed"]) == (3, "endpoint", 0)
    assert "the endpoint gives no whole answer: the answer broke off" in state["message"]
    assert "does not answer" not in ended.err
    assert "No row was marked failed for it" in state["message"]
    assert "batchflex check" in state["message"], "what to do"
    requests = endpoint.stats()["requests"]
    assert (state["prompt_tokens"], state["completion_tokens"]) == (5 * requests, 2 * requests)
    assert state["cost"] == pytest.approx(requests * (5 * 1 + 2 * 2) / 1e6)


def test_tokens_of_a_broken_answer_count_against_a_budget(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(said={"status": 200, "body": BROKEN}, script=["said"], answer="ok")
    _, state, _ = asked(endpoint, tmp_path, "--set", "limits.budget_tokens=100000", rows=1)
    assert (state["ok"], state["requests_sent"], state["retries"]) == (1, 2, 1)
    prompt = next(record["prompt_tokens"] for record in endpoint.log() if record["outcome"] == "ok")
    assert (state["prompt_tokens"], state["completion_tokens"]) == (5 + prompt, 2 + 1)


# -------------------------------------------------------------------------------------------------- whom to turn to


@pytest.mark.parametrize(
    ("options", "env", "told"),
    [
        ((), {"BATCHFLEX_API_KEY": "wrong-key-0123"}, "the key came from BATCHFLEX_API_KEY: set a valid key there"),
        (("--api-key-env", "MY_KEY"), {"MY_KEY": "wrong-key-0123"}, "the key came from MY_KEY: set"),
        (
            ("--set", 'endpoint.api_key_command="echo wrong-key-0123"'),
            {},
            "the key came from endpoint.api_key_command: see that it prints a valid key",
        ),
        (
            ("--set", 'endpoint.headers={x-token = "${TOKEN}"}', "--set", "endpoint.auth=none"),
            {"TOKEN": "wrong-key-0123"},
            "the key came from TOKEN: set",
        ),
    ],
)
def test_a_refused_key_is_named_by_where_it_came_from(
    options: tuple[str, ...], env: dict[str, str], told: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(key="right")
    ended, state, _ = asked(endpoint, tmp_path, *options, env=env)
    assert (ended.code, state["stopped_by"], endpoint.stats()["requests"]) == (3, "key", 1)
    assert told in state["message"] and told in ended.err
    assert "wrong-key" not in ended.err + ended.out + json.dumps(state)
    assert "fix that first, then run the same command again" in ended.err, "which would be refused again till then"


def test_a_key_of_a_file_is_named_with_the_file(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(key="right")
    file = tmp_path / "keys.env"
    file.write_text("BATCHFLEX_API_KEY=wrong-key-0123\n")
    file.chmod(0o600)
    told = f"the key came from BATCHFLEX_API_KEY in {file}: set a valid key there"
    _, state, _ = asked(endpoint, tmp_path, "--set", f"job.env_file={file}")
    assert told in state["message"]
    (tmp_path / "job.toml").write_text(
        f'[job]\nenv_file = "keys.env"\n[endpoint]\nbase_url = "{endpoint.base_url}"\n[input]\npath = "rows.jsonl"\n'
    )
    assert told in called("check", tmp_path / "job.toml").out


# ------------------------------------------------------------------------------------------ a model that is not there


@pytest.mark.parametrize("swept", [False, True])
def test_a_refused_model_is_told_once(swept: bool, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(said={"status": 404, "body": NO_MODEL}, poison={'"gone"': "said"})
    options = ("--set", "sweep.model=['m', 'gone']") if swept else ("--set", "params.model=gone", "--model", "gone")
    ended, state, status = asked(endpoint, tmp_path, *options, "--quiet", rows=3)
    summary = run_text.summary(state)
    assert (ended.code, state["stopped_by"], state["ok"]) == (3, "model", 3 if swept else 0)
    for shown in (summary, status):
        assert shown.count("does not exist") == 1 and shown.count("correct params.model") == 1
    if swept:
        assert "the model 'gone' is not asked any more: " in state["message"], "which of them"
    assert "what was answered is kept; correct the model first, then run the same command again to go on" in summary


def test_one_refusal_of_a_model_is_enough_to_ask_it_for_one_token_and_nothing_more(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """Of a server that takes its time to say so. What was in flight by then was in flight."""
    said = {"status": 200, "body": {"error": NO_MODEL["error"] | {"type": "model_not_found", "code": "404"}}}
    endpoint.knobs(said=said, poison={'"gone"': "said"}, latency_s=0.03)
    _, state, _ = asked(endpoint, tmp_path, "--set", "sweep.model=['m', 'gone']", rows=150)
    assert (state["stopped_by"], state["ok"]) == ("model", 150)
    probe = body_hash({"model": "gone", "max_tokens": 1, "messages": message("ok")})
    refused = [record["hash"] for record in endpoint.log() if record["outcome"] == "said"]
    assert refused.count(probe) == 1
    assert refused[-1] == probe, "no row was sent after the request for one token"


# ------------------------------------------------------------------------------------------------------------- check


def test_check_tells_of_an_answer_without_text(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer="")
    told = called("check", "--base-url", endpoint.base_url)
    assert told.code == 1
    assert "but the answer has no text; a row would be 'empty'" in told.out
    assert endpoint.stats()["requests"] == 1
    endpoint.knobs(answer="ok")
    assert called("check", "--base-url", endpoint.base_url).code == 0


def test_check_lets_a_model_reason_for_as_long_as_the_job_does(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    def job(limit: str) -> Path:
        path = tmp_path / "job.toml"
        base = f'[endpoint]\nbase_url = "{endpoint.base_url}"\n[input]\npath = "rows.jsonl"\n[params]\nmodel = "m"\n'
        path.write_text(base + limit)
        return path

    endpoint.knobs(answer="ok", think=64)
    assert called("check", job("")).code == 0
    told = called("check", job("max_tokens = 64"))
    assert told.code == 1 and "only reasoning" in told.out and "a row would be 'empty'" in told.out
    allowed = called("check", job("max_tokens = 64\n[answer]\nallow_empty = true"))
    assert allowed.code == 0


@pytest.mark.parametrize("fault", ["429", "429_ms", "429_date", "503_retry_after"])
def test_check_tells_how_long_it_is_asked_to_wait(fault: str, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(down=fault, retry_after_s=7_200)
    told = called("check", "--base-url", endpoint.base_url)
    found = re.search(r"it asks to wait 7,(199|200) s, until (\S+ \S+), which is longer than limits.max_wait", told.out)
    assert told.code == 3 and found is not None, told.out
    endpoint.knobs(retry_after_s=60)
    told = called("check", "--base-url", endpoint.base_url)
    assert "it asks to wait" in told.out and "max_wait" not in told.out


# ------------------------------------------------------------------------------------------------------------- moments


MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"


def test_every_moment_of_status_has_one_form(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(down="429", retry_after_s=86_400)
    ended, state, status = asked(endpoint, tmp_path)
    assert state["stopped_by"] == "quota"
    for words in (status, ended.err.partition("rows done")[2]):
        dates = re.findall(r"\d{4}-\d\d-\d\d\S* ?\S*", words)
        assert dates and all(re.match(MOMENT, date) for date in dates), dates
    assert f"started   {local(state['started_at'])}" in status
    assert f"run the same command again after {local(state['resume_at'])} to go on" in ended.err


@pytest.mark.parametrize("moment", [0.0, "1970-01-01T00:00:00.000+00:00", "1970-01-01T02:00:00+02:00"])
def test_a_moment_is_the_same_however_it_was_written(moment: float | str) -> None:
    assert re.fullmatch(MOMENT, local(moment)) and local(moment) == local(0.0)


# ------------------------------------------------------------------------------------------------- rows that are not there


def test_a_filter_that_leaves_no_rows_is_named(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    told = "no row is left: input.since = '2199-01-01' leaves out the one file of the input"
    ended, state, _ = asked(endpoint, tmp_path, "--since", "2199-01-01")
    assert (ended.code, state["requests_sent"]) == (0, 0)
    assert f"{told}: nothing is sent" in ended.err and "has no rows" not in ended.err
    path = tmp_path / "rows.jsonl"
    plan = called("plan", path, "--base-url", endpoint.base_url, "--since", "2199-01-01", "--out", tmp_path / "other")
    assert told in plan.out
    path.write_text("")
    empty = called("run", path, "--base-url", endpoint.base_url, "--out", tmp_path / "empty", "--json")
    assert "the input has no rows: nothing is sent" in empty.err and json.loads(empty.out)["planned"] == 0
    assert "the input has no rows" in called("plan", path, "--base-url", endpoint.base_url).out


def test_a_condition_that_no_row_fits_is_named(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    asked(endpoint, tmp_path)
    out, where = tmp_path / "out", "status = 'failed'"
    again = called("retry", out, "--where", where)
    assert f"no row of 6 fits {where}: nothing is sent" in again.err
    assert f"no row fits {where}, so none was asked again" in again.err and "0 of 0" not in again.err
    for more in ((), ("-o", tmp_path / "x.csv")):
        assert f"no row of 6 fits {where}" in called("results", out, "--where", where, *more).err


def test_rows_that_are_not_written_out_one_by_one_are_told_by_status(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(answer="")
    log = tmp_path / "run.log"
    ended, _, _ = asked(endpoint, tmp_path, "--log-file", log, "--log-format", "json", rows=12)
    (more,) = (line for line in map(json.loads, log.read_text().splitlines()) if "more" in line)
    assert (more["message"], more["more"], more["empty"]) == ("and 7 more rows: 7 empty", 7, 7)
    assert "failed or did not fit" not in ended.err


# ------------------------------------------------------------------------------------------------------------ misspelt


@pytest.mark.parametrize(
    ("name", "near"),
    [("max_token", "max_tokens"), ("temprature", "temperature"), ("reasoning_efort", "reasoning_effort")],
)
def test_a_misspelt_parameter_is_sent_with_a_warning(
    name: str, near: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    ended, state, _ = asked(endpoint, tmp_path, "--set", f"params.{name}=5")
    assert (ended.code, state["ok"]) == (0, 6)
    told = f"params.{name} is not a documented parameter; did you mean '{near}'? It is sent as it is"
    assert told in ended.err
    notes: list[str] = []

    class Watch:
        def note(self, text: str) -> None:
            notes.append(text)

        def tick(self, run_state: Any) -> None:
            pass

    job = {
        "job": {"out": str(tmp_path / "python")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(tmp_path / "rows.jsonl")},
        "params": {"model": "m", name: 5},
    }
    with pytest.warns(batchflex.JobWarning, match=re.escape(told)) as warned:
        batchflex.run(job, observer=Watch())
    assert f"warning: {told}" in notes
    assert [each.filename for each in warned] == [__file__], "it points at whoever calls"


def test_so_is_one_in_the_body_of_a_row_or_for_a_judge(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    body = {"model": "m", "messages": message("row 1."), "max_token": 5, "top_k": 3, "my_own": 1}
    path.write_text(json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    ended = called("run", path, "--base-url", endpoint.base_url, "--out", tmp_path / "out")
    told = "a row's body has 'max_token', which is not a documented parameter; did you mean 'max_tokens'?"
    assert ended.code == 0 and ended.err.count(told) == 1 and "my_own" not in ended.err
    judged = {"name": "good", "kind": "judge", "judge": {"rubric": "Is it good?", "params": {"temprature": 0}}}
    (warning,) = build({"score": [judged]}).warnings()
    assert warning.startswith(
        "score.0.judge.params.temprature is not a documented parameter; did you mean 'temperature'?"
    )
