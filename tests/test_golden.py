"""What was paid for stays paid for: keys and folders that commit eae3bc5 made are found again, whatever has changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex.job import load
from tests.counting_endpoint import CountingEndpoint
from tests.golden.cases import CASES, pinned, planned

GOLDEN = Path(__file__).parent / "golden"
STATUSES = {
    "labels": {"ok": 13, "truncated": 2, "failed": 2, "invalid": 1},
    "requests": {"ok": 10, "truncated": 1, "failed": 2},
}
KEYS = json.loads((GOLDEN / "keys.json").read_text(encoding="utf-8"))


def test_each_case_is_pinned() -> None:
    assert set(CASES) == set(KEYS)


# Rows of these have columns that were sent then and are not now.
WITH_OTHER_COLUMNS = {"other columns beside messages", "other columns, carried", "all carried"}


@pytest.mark.parametrize("name", CASES)
def test_requests_are_known_by_the_keys_they_had(name: str, tmp_path: Path) -> None:
    """Whatever answers there are; where a row has other columns, if there is an answer under the key it had."""
    known = {bytes.fromhex(row[4]) for row in KEYS[name]}
    assert list(pinned(planned(CASES[name], tmp_path, lambda keys: [key in known for key in keys]))) == KEYS[name]
    fresh = list(pinned(planned(CASES[name], tmp_path)))
    assert (fresh != KEYS[name]) is (name in WITH_OTHER_COLUMNS)
    assert [row[5] for row in fresh] == [row[5] for row in KEYS[name]]  # what a request is for stays


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


def test_the_folders_have_what_makes_them_worth_keeping() -> None:
    """Parts, and a journal that is not sealed."""
    for name in ("labels", "requests"):
        out = GOLDEN / name / "out"
        assert pl.read_parquet(out / "parts" / "*.parquet").height > 0
        assert sum(len(path.read_bytes()) for path in (out / "journal").glob("*.journal")) > 0
