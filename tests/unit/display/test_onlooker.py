"""What a caller in Python sees of a run: a bar where somebody looks, and warnings that point at its own line."""

from __future__ import annotations

import inspect
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import batchflex
from batchflex.core.events import Event
from batchflex.display import Bar, Caller, Onlooker, bar_for, progress
from tests.support.command_line import called, state, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.unit.cli.test_progress import run_state, terminal


class Watch:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def tick(self, run_state: Any) -> None:
        self.heard.append(run_state)

    def note(self, text: str) -> None:
        self.heard.append(text)


@pytest.fixture
def job(endpoint: CountingEndpoint, tmp_path: Path) -> dict[str, Any]:
    return {
        "job": {"name": "labels", "out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(write_rows(tmp_path / "rows.jsonl", 5))},
        "params": {"model": "m"},
    }


# --------------------------------------------------------------------------------------------------------------- bars


def test_there_is_a_bar_where_somebody_looks(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bar_for(None) is None and isinstance(bar_for(True), Bar) and bar_for(False) is None
    batchflex.run(job)
    assert capfd.readouterr() == ("", "")
    with terminal() as (screen, shown):
        monkeypatch.setattr(sys, "stderr", screen)
        batchflex.run(job | {"job": {"name": "quiet", "out": f"{job['job']['out']}2"}}, progress=False)
        batchflex.run(job | {"job": {"name": "heard", "out": f"{job['job']['out']}3"}}, observer=Watch())
        batchflex.run(job)
        monkeypatch.undo()
    text = "".join(shown)
    assert "labels" in text and "5/5" in text and "0 in flight" in text
    assert "quiet" not in text and "heard" not in text, "whoever observes shows what it likes"
    assert capfd.readouterr() == ("", "")


def test_wanted_it_is_shown_anywhere(job: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    batchflex.run(job, progress=True, observer=Watch())
    out, err = capfd.readouterr()
    assert out == "" and "5/5" in err


def test_a_bar_that_cannot_be_shown_ends_no_run(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no widgets today")

    monkeypatch.setattr(progress.Bar, "tick", broken)
    with pytest.warns(batchflex.JobWarning, match="cannot be shown any more: RuntimeError: no widgets today"):
        assert batchflex.run(job, progress=True).exit_code == 0


def test_what_comes_from_another_thread_is_shown_when_it_is_attended_to() -> None:
    stream = io.StringIO()
    watch = Watch()
    onlooker = Onlooker(Caller(), Bar(stream), watch, at_once=False)
    made = run_state()
    onlooker.event(Event("paused", "until 10:31", level="warning"))
    onlooker.event(Event("row_failed", "row r1 failed", level="warning", shown=False))
    onlooker.tick(made)
    assert stream.getvalue() == "" and watch.heard == ["until 10:31", made], "an observer hears at once"
    onlooker.attend()
    assert stream.getvalue().startswith("until 10:31\n") and "502/2000" in stream.getvalue()
    assert "r1" not in stream.getvalue()
    onlooker.close()
    onlooker.require_no_warning()


# ----------------------------------------------------------------------------------------------------------- warnings


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


def test_a_warning_points_at_whoever_calls_and_is_given_once_a_line(
    job: dict[str, Any], endpoint: CountingEndpoint
) -> None:
    import polars as pl

    slip = job | {"params": {"model": "m", "temprature": 0}}
    frame = pl.DataFrame({"text": ["a"]})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        for _ in range(2):
            batchflex.run(slip)
        here = line() - 1
        batchflex.complete(frame, "{{ text }}", model="m", endpoint=endpoint.base_url, temprature=0)
        there = line() - 1
    assert [(each.filename, each.lineno) for each in warned] == [(__file__, here), (__file__, there)]
    assert all(each.category is batchflex.JobWarning for each in warned)
    assert {str(each.message) for each in warned} == {
        "params.temprature is not a documented parameter; did you mean 'temperature'? It is sent as it is"
    }


@pytest.mark.anyio
async def test_a_coroutine_that_is_awaited_is_who_calls(job: dict[str, Any]) -> None:
    with pytest.warns(batchflex.JobWarning) as warned:
        await batchflex.arun(job | {"params": {"model": "m", "temprature": 0}})
    assert [each.filename for each in warned] == [__file__]


def test_one_that_is_an_error_stops_a_job_before_it_begins(job: dict[str, Any], endpoint: CountingEndpoint) -> None:
    with pytest.raises(batchflex.JobWarning, match="temprature"):
        batchflex.run(job | {"params": {"model": "m", "temprature": 0}})
    assert endpoint.stats()["requests"] == 0


def test_one_that_is_an_error_is_raised_when_the_run_has_ended(
    job: dict[str, Any], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(refuse_formats=["json_schema"], answer='{"a": 1}')
    job["params"]["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object"}},
    }
    job["answer"] = {"fallback": "json_object"}
    with pytest.raises(batchflex.JobWarning, match="refuses the response_format"):
        batchflex.run(job)
    assert state(tmp_path / "out")["status"] == "finished" and state(tmp_path / "out")["ok"] == 5
    write_rows(tmp_path / "rows.jsonl", 6)
    with pytest.warns(batchflex.JobWarning, match="refuses the response_format") as warned:
        assert batchflex.run(job).summary["ok"] == 6
    assert [each.filename for each in warned] == [__file__]
    assert endpoint.stats()["good"] == 6


def test_a_misspelt_parameter_of_a_row_is_a_warning(job: dict[str, Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 5, other=1)
    batchflex.run(job)  # a column that is not sent is none
    body = {"body": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temprature": 0}}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(body | {"custom_id": f"b{n}"}) + "\n" for n in range(3)))
    job["job"]["out"] += "2"
    with pytest.warns(
        batchflex.JobWarning, match=r"a row's body has 'temprature'.*did you mean 'temperature'"
    ) as warned:
        assert batchflex.run(job).summary["ok"] == 3
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("concurency", "concurrency"),
        ("endpont", "endpoint"),
        ("usr", "user"),
        ("progres", "progress"),
        ("modell", "model"),
    ],
)
def test_a_misspelt_argument_of_complete_is_refused(name: str, near: str, endpoint: CountingEndpoint) -> None:
    import polars as pl

    frame = pl.DataFrame({"text": ["a"]})
    with pytest.raises(batchflex.JobError, match=f"has no argument '{name}'; did you mean '{near}'"):
        batchflex.complete(frame, "{{ text }}", **{"model": "m", "endpoint": endpoint.base_url, name: "x"})
    assert endpoint.stats()["requests"] == 0


# -------------------------------------------------------------------------------------------- the command line's words


def test_the_last_line_of_a_run_says_what_has_no_usable_answer(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(poison={"row 3.": "422"})
    rows = write_rows(tmp_path / "rows.jsonl", 5)
    asks = ["--base-url", endpoint.base_url, "--model", "m", "--out", tmp_path / "out"]
    ended = called("run", rows, *asks)
    assert (ended.code, ended.err.splitlines()[-1]) == (1, "batchflex: finished: 5 rows, 1 failed")
    endpoint.knobs(poison={})
    good = called("run", rows, *asks)
    assert good.code == 0 and "batchflex: finished" not in good.err
