"""In a real notebook: progress, what a run looks like, an interrupt, and the tutorial."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from tests.support.command_line import wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.notebooks import Kernel, data, error, kernel, sources, text
from tests.support.paths import ROOT

WIDGET = "application/vnd.jupyter.widget-view+json"
TUTORIAL = ROOT / "jobs" / "label_tickets.ipynb"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for all: it takes a second to start."""
    with kernel(tmp_path_factory.mktemp("notebook"), "import batchflex\nimport polars as pl") as made:
        yield made


def a_job(endpoint: CountingEndpoint, folder: Path, rows: int = 30) -> str:
    job = {
        "job": {"name": "labels", "out": str(folder / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(write_rows(folder / "rows.jsonl", rows))},
        "params": {"model": "m"},
        "retry": {"base_s": 0.01, "attempts": 2},
        "limits": {"concurrency": 5},
    }
    return f"job = {job!r}"


def test_a_run_shows_a_widget_and_then_itself(endpoint: CountingEndpoint, shared: Kernel, tmp_path: Path) -> None:
    endpoint.knobs(latency_s=0.1, poison={"row 7.": "422"})
    shared.cell(a_job(endpoint, tmp_path))
    outputs = shared.cell("run = batchflex.run(job)\nrun")
    assert error(outputs) is None and text(outputs, "stderr") == ""
    assert len(data(outputs, WIDGET)) == 1, "one bar, which stays"
    assert data(outputs, "text/plain")[-1] == "<Run finished: 30 rows, 1 failed>"
    (page,) = data(outputs, "text/html")
    assert "Finished: 30 rows, 1 failed" in page and "29 ok" in page and "must be at most 1" in page
    bar = [each for each in shared.widgets if each.get("_model_name") == "FloatProgressModel"][-1]
    assert (bar["value"], bar["max"]) == (30, 30)
    told = [each["value"] for each in shared.widgets if each.get("_model_name") == "HTMLModel"][-1]
    assert "30/30" in told and "1\u200b\u2007failed" in told
    assert error(shared.cell("assert run.results().height == 30")) is None


def interrupted(cell: str, shared: Kernel, endpoint: CountingEndpoint) -> list[Any]:
    """What a cell shows that is interrupted once some requests have come."""

    def interrupt() -> None:
        wait_until(lambda: endpoint.stats()["requests"] >= 8, "requests have come")
        shared.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    outputs = shared.cell(cell)
    thread.join()
    return outputs


def test_an_interrupted_cell_keeps_what_is_in_flight_and_the_next_goes_on(
    endpoint: CountingEndpoint, shared: Kernel, tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.2)
    shared.cell(a_job(endpoint, tmp_path))
    outputs = interrupted("run = batchflex.run(job)", shared, endpoint)
    assert error(outputs) == ("KeyboardInterrupt", "interrupted; what was answered is kept: run it again to go on")
    assert "may finish within 30 s; interrupt again to end at once" in text(outputs)
    sent = endpoint.stats()["requests"]
    assert 8 <= sent == endpoint.stats()["good"] < 30
    outputs = shared.cell("run = batchflex.run(job)\nrun")
    assert f"resuming: {sent} of 30 are done, {30 - sent} to ask" in text(outputs)
    assert data(outputs, "text/plain")[-1] == "<Run finished: 30 rows>"
    assert (endpoint.stats()["requests"], endpoint.stats()["repeats"]) == (30, 0)


@pytest.mark.parametrize(
    "cell", ["run = await batchflex.arun(job)", "rows = [row async for row in batchflex.stream(job)]"]
)
def test_an_interrupted_await_keeps_what_is_in_flight_too(
    cell: str, endpoint: CountingEndpoint, shared: Kernel, tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.3)
    shared.cell(a_job(endpoint, tmp_path))
    outputs = interrupted(cell, shared, endpoint)
    assert error(outputs) == ("CancelledError", "interrupted; what was answered is kept: run it again to go on")
    assert "may finish within 30 s; interrupt again to end at once" in text(outputs)
    sent = endpoint.stats()["requests"]
    assert 8 <= sent == endpoint.stats()["good"] < 30
    outputs = shared.cell("run = await batchflex.arun(job)\nrun")
    assert f"resuming: {sent} of 30 are done, {30 - sent} to ask" in text(outputs)
    assert (endpoint.stats()["requests"], endpoint.stats()["repeats"]) == (30, 0)


def test_a_second_interrupt_of_an_await_ends_it_at_once(
    endpoint: CountingEndpoint, shared: Kernel, tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=60)
    shared.cell(a_job(endpoint, tmp_path))

    def interrupt() -> None:
        wait_until(lambda: endpoint.stats()["requests"] >= 5, "requests have come")
        shared.interrupt()
        wait_until(
            lambda: json.loads((tmp_path / "out" / "run.json").read_text())["stopped_by"] == "signal", "it stops"
        )
        shared.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    outputs = shared.cell("run = await batchflex.arun(job)")
    thread.join()
    assert error(outputs) == ("CancelledError", "interrupted; what was answered is kept: run it again to go on")
    assert endpoint.stats()["requests"] == 5
    assert (
        error(shared.cell("import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"))
        is None
    )


def test_a_wait_and_a_warning_are_shown_and_awaiting_works_too(
    endpoint: CountingEndpoint, shared: Kernel, tmp_path: Path
) -> None:
    endpoint.knobs(fail_after=3, fail_with="429", retry_after_s=86_400)
    shared.cell(a_job(endpoint, tmp_path))
    shared.cell("job['limits']['max_wait'] = '1h'")
    outputs = shared.cell("run = await batchflex.arun(job)\nrun")
    (page,) = data(outputs, "text/html")
    assert "Stopped by quota: 3 of 30 rows" in page and "Rate limit reached" in page and "run this again after" in page
    endpoint.knobs(fail_after=None)
    shared.cell("job['params']['temprature'] = 0; job['job']['on_change'] = 'keep'")
    outputs = shared.cell("rows = [row async for row in batchflex.stream(job)]\nlen(rows)")
    assert data(outputs, "text/plain")[-1] == "27"
    assert "JobWarning: params.temprature is not a documented parameter; did you mean 'temperature'?" in text(
        outputs, "stderr"
    )


WITHOUT_WIDGETS = """
import sys
before = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in ("tqdm", "ipywidgets")}
sys.modules["ipywidgets"] = None
"""


def test_without_ipywidgets_a_bar_of_text_and_no_warning(
    endpoint: CountingEndpoint, shared: Kernel, tmp_path: Path
) -> None:
    shared.cell(a_job(endpoint, tmp_path, 3))
    shared.cell(WITHOUT_WIDGETS)
    outputs = shared.cell("run = batchflex.run(job)")
    quiet = shared.cell("batchflex.run(job, progress=False)")
    shared.cell("sys.modules.update(before)")
    assert error(outputs) is None and text(outputs, "stderr") == ""
    assert data(outputs, WIDGET) == [] and "labels: 100%" in text(outputs) and "3/3" in text(outputs)
    assert text(quiet) == "" and data(quiet, WIDGET) == []


def test_the_tutorial_runs_as_it_is(endpoint: CountingEndpoint, shared: Kernel, tmp_path: Path) -> None:
    """But for where it asks: here every answer is the same."""
    endpoint.knobs(answer='{"team": "billing"}')
    shutil.copy(ROOT / "jobs" / "tickets.csv", tmp_path)
    shared.cell(f"import os; os.chdir({str(tmp_path)!r})")
    for source in sources(TUTORIAL):
        source = source.replace('ENDPOINT = "local"', f"ENDPOINT = {endpoint.base_url!r}").replace(
            "MODEL = None", 'MODEL = "m"'
        )
        outputs = shared.cell(source)
        assert error(outputs) is None, source
        assert text(outputs, "stderr") == "", source
        if source.endswith("\nrun"):
            (page,) = data(outputs, "text/html")
            assert "accuracy" in page and "25.0 %" in page
    results = pl.read_parquet(tmp_path / "runs" / "label-tickets" / "results.parquet")
    assert results.height == 40 and set(results["status"]) == {"ok"}


def test_the_page_on_notebooks_runs_as_it_is(endpoint: CountingEndpoint, shared: Kernel, tmp_path: Path) -> None:
    endpoint.knobs(answer='{"team": "billing"}')
    shutil.copy(ROOT / "jobs" / "tickets.csv", tmp_path)
    shared.cell(f"import os; os.chdir({str(tmp_path)!r})")
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", page)
    for block in blocks:
        outputs = shared.cell(block.replace("http://127.0.0.1:8000/v1", endpoint.base_url))
        assert error(outputs) is None, block
        assert text(outputs, "stderr") == "", block
        if "scores_so_far" in block:
            assert data(outputs, "text/plain") == ["(40, 40, 0.25)"]
    assert len(blocks) == 8
    assert data(outputs, "text/plain")[-1] == "<Run finished: 40 rows>"
    assert data(shared.cell("wrong.height, len(moods), urgent"), "text/plain") == ["(30, 40, [])"]
    page_table = page.partition("it has\n")[2].partition("`row[")[0]
    fields = {field.name for field in dataclasses.fields(batchflex.ResultRow)} - {"prompt_tokens", "completion_tokens"}
    assert fields - {"total_tokens"} <= {*re.findall(r"`(\w+)`", page_table)}


def test_the_tutorial_is_kept_without_outputs_and_its_table_is_labelled() -> None:
    notebook = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        for link in [part.partition(")")[0] for part in "".join(cell["source"]).split("](")[1:]]:
            assert (TUTORIAL.parent / link).exists(), link
    tickets = pl.read_csv(TUTORIAL.parent / "tickets.csv")
    assert tickets.height == 40 and tickets["id"].n_unique() == 40
    assert dict(tickets["team"].value_counts().iter_rows()) == dict.fromkeys(
        ("billing", "technical", "account", "shipping"), 10
    )
