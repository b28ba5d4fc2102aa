"""What was paid for stays paid for: keys and folders that commit eae3bc5 made are found again, whatever has changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex.config.loader import load
from batchflex.plan.plan import Plan
from tests.golden.cases import CASES, pinned, planned
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import GOLDEN

STATUSES = {
    "labels": {"ok": 13, "truncated": 2, "failed": 2, "invalid": 1},
    "requests": {"ok": 10, "truncated": 1, "failed": 2},
}
KEYS = json.loads((GOLDEN / "keys.json").read_text(encoding="utf-8"))


def test_each_case_is_pinned() -> None:
    assert set(CASES) == set(KEYS)


# Rows of these have columns that were sent then and are not now.
WITH_OTHER_COLUMNS = {"other columns beside messages", "other columns, carried", "all carried"} | {
    f"equal but for other columns{how}" for how in ("", ", asked once", ", samples and a sweep")
}


@pytest.mark.parametrize("name", CASES)
def test_requests_are_known_by_the_keys_they_had(name: str, tmp_path: Path) -> None:
    """Whatever answers there are; where a row has other columns, if there is an answer under the key it had."""
    known = {bytes.fromhex(row[4]) for row in KEYS[name]}
    assert list(pinned(planned(CASES[name], tmp_path, lambda keys: [key in known for key in keys]))) == KEYS[name]
    fresh = list(pinned(planned(CASES[name], tmp_path)))
    assert (fresh != KEYS[name]) is (name in WITH_OTHER_COLUMNS)
    slots = {row[5] for row in fresh}  # what a request is for stays; rows that are equal now may be asked once
    assert [row[5] for row in fresh] == [row[5] for row in KEYS[name] if row[5] in slots]
    assert len(fresh) == len(KEYS[name]) or CASES[name].job["input"]["dedupe"]


@pytest.mark.parametrize("on_change", ["stop", "rerun", "keep"])
@pytest.mark.parametrize(("name", "rows"), [("labels", 18), ("requests", 13)])
def test_a_killed_run_s_folder_is_gone_on_with_and_nothing_asked(
    name: str, rows: int, on_change: str, tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    settings = {"job.out": str(folder / "out"), "job.on_change": on_change, "endpoint.base_url": endpoint.base_url}
    run = batchflex.run(load(folder / "job.toml", list(settings.items())))
    assert endpoint.stats()["requests"] == 0
    assert run.stopped_by is None and run.summary["done"] == rows
    table = run.results()
    assert table.height == rows == table["key"].n_unique()
    assert dict(table["status"].value_counts().iter_rows()) == STATUSES[name]
    assert pq.read_table(run.out / "results.parquet").num_rows == rows
    again = batchflex.run(load(folder / "job.toml", list(settings.items())))
    assert endpoint.stats()["requests"] == 0 and again.summary["done"] == rows
    more = {"labels": "20,more,1\n", "requests": '{"messages": [{"role": "user", "content": "fine"}], "label": "f"}\n'}
    with next(folder.glob("in.*")).open("a") as stream:
        stream.write(more[name])
    endpoint.knobs(answer='{"label": "good"}')
    grown = batchflex.run(load(folder / "job.toml", list(settings.items())))
    asked = grown.summary["planned"] - rows
    assert endpoint.stats()["requests"] == asked > 0 and grown.summary["done"] == rows + asked


@pytest.mark.parametrize("on_change", ["stop", "rerun", "keep"])
def test_a_folder_half_of_which_was_answered_with_all_columns_is_asked_the_other_half(
    on_change: str, tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    folder = tmp_path / "beside"
    shutil.copytree(GOLDEN / "beside", folder)
    settings = {"job.out": str(folder / "out"), "job.on_change": on_change, "endpoint.base_url": endpoint.base_url}
    then = set(pl.read_parquet(folder / "out" / "parts" / "*.parquet")["key"])
    run = batchflex.run(load(folder / "job.toml", list(settings.items())))
    assert endpoint.stats()["requests"] == 7 and run.summary["done"] == run.summary["planned"] == 14
    assert then < set(run.results()["key"]) and run.results()["key"].n_unique() == 14
    with (folder / "in.jsonl").open("a") as stream:
        stream.write('{"messages": [{"role": "user", "content": "a"}], "label": "x"}\n')
    grown = batchflex.run(load(folder / "job.toml", list(settings.items())))
    assert endpoint.stats()["requests"] == 9 and grown.summary["done"] == 16


@pytest.mark.parametrize("name", ["labels", "requests", "beside"])
def test_a_plan_has_the_shape_it_had(name: str) -> None:
    """So the rows of parts are still known by their numbers."""
    lines = [json.loads(line) for line in (GOLDEN / name / "out" / "inputs.jsonl").read_text().splitlines()]
    job = load(GOLDEN / name / "job.toml")
    assert [Plan(job)._shape()] == [line["shape"] for line in lines if line["kind"] == "plan"]


def test_the_folders_have_what_makes_them_worth_keeping() -> None:
    """Parts, and a journal that is not sealed."""
    for name in ("labels", "requests"):
        out = GOLDEN / name / "out"
        assert pl.read_parquet(out / "parts" / "*.parquet").height > 0
        assert sum(len(path.read_bytes()) for path in (out / "journal").glob("*.journal")) > 0
