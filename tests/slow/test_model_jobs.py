"""Jobs of jobs/ on the embedded model, executed whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchflex.config.loader import load
from batchflex.storage.output_folder import Folder
from tests.support.command_line import batchflex, called
from tests.support.notebooks import error, kernel, sources
from tests.support.paths import ROOT

JOBS = ROOT / "jobs"
LABELS = ["negative", "positive"]


@pytest.mark.model
def test_label_reviews(tmp_path: Path) -> None:
    assert pl.read_csv(JOBS / "reviews.csv").height >= 60
    ended = batchflex("run", JOBS / "label_reviews.toml", "--out", tmp_path, "--json", "--limit", 40, timeout_s=600)
    assert ended.code == 0, ended.err
    results = pl.read_parquet(tmp_path / "results.parquet")
    reviews = pl.read_csv(JOBS / "reviews.csv").head(40)
    assert results.height == reviews.height
    assert results["id"].to_list() == reviews["id"].to_list()
    assert results["label"].to_list() == reviews["label"].to_list()
    assert set(results["status"]) == {"ok"}
    given = [json.loads(parsed)["label"] for parsed in results["parsed"]]
    assert sorted(set(given)) == LABELS
    right = sum(one == two for one, two in zip(given, results["label"], strict=True))
    assert right / results.height > 0.7, f"only {right} of {results.height} labels are right"
    assert pq.read_table(tmp_path / "results.parquet").num_rows == results.height
    score = json.loads((tmp_path / "scores.json").read_text())["points"][0]["scores"]["accuracy"]
    assert score["mean"] == right / results.height and score["low"] < score["mean"] <= score["high"]
    assert score["labels"]["names"] == LABELS
    assert "accuracy: expected ↓ answered →" in batchflex("score", tmp_path).out
    shown = batchflex("results", tmp_path)
    assert "r001" in shown.out and "positive" in shown.out


@pytest.mark.model
def test_sweep_temperature(tmp_path: Path) -> None:
    path = JOBS / "sweep_temperature.toml"
    job = load(path)
    topics = 3
    ended = batchflex("run", path, "--out", tmp_path, "--limit", topics, timeout_s=600)
    assert ended.code == 0, ended.err
    results = pl.read_parquet(tmp_path / "results.parquet")
    grid = job.sweep.variables
    assert results.height == topics * len(grid["temperature"]) * len(grid["seed"]) * job.sweep.samples
    assert sorted(set(results["temperature"])) == sorted(grid["temperature"])
    assert sorted(set(results["seed"])) == sorted(grid["seed"])
    assert results["key"].n_unique() == results.height
    groups = results.group_by("id", "temperature", "seed").len()
    assert set(groups["len"]) == {job.sweep.samples}
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["points"]) == len(grid["temperature"]) * len(grid["seed"])
    assert all(point["scores"]["brief"]["pass_at"]["2"]["items"] == topics for point in scores["points"])


@pytest.mark.model
def test_nightly(tmp_path: Path) -> None:
    """Two nights, a new file on the second; a start while the first still holds the folder."""
    shutil.copytree(JOBS, tmp_path / "jobs")
    nightly, out = tmp_path / "jobs" / "nightly.toml", tmp_path / "out"
    with Folder(out).held():
        overlapping = called("run", nightly, "--out", out, "--quiet")
    assert overlapping.code == 4
    assert "another run holds" in overlapping.err

    first = batchflex("run", nightly, "--out", out, "--quiet", timeout_s=600)
    assert (first.code, first.out, first.err) == (0, "", "")
    before = pl.read_parquet(out / "results.parquet")
    (tmp_path / "jobs" / "inbox" / "2025-03-03.jsonl").write_text(
        json.dumps({"id": "new", "text": "The lamp arrived in pieces."}) + "\nnot JSON\n"
    )
    second = batchflex("run", nightly, "--out", out, "--json", timeout_s=600)
    assert second.code == 1  # the broken line is a failed row
    state = json.loads(second.out)
    assert state["requests_sent"] == 1
    after = pl.read_parquet(out / "results.parquet")
    assert after.height == before.height + 2
    assert after.filter(pl.col("status") == "failed")["error_type"].to_list() == ["input"]
    past = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["exit_code"] for line in past] == [4, 0, 1]
    assert "batchflex schedule jobs/nightly.toml --at 02:00 " in nightly.read_text()
    assert "\n0 2 * * * " in called("schedule", nightly, "--at", "02:00").out


@pytest.mark.model
def test_the_tutorial(tmp_path: Path) -> None:
    """As somebody opens it: on the small model, every cell one after the other."""
    for name in ("label_tickets.ipynb", "tickets.csv"):
        shutil.copy(JOBS / name, tmp_path)
    with kernel(tmp_path) as notebook:
        for source in sources(tmp_path / "label_tickets.ipynb"):
            assert error(notebook.cell(source)) is None, source
    results = pl.read_parquet(tmp_path / "runs" / "label-tickets" / "results.parquet")
    assert set(results["status"]) == {"ok"}
    assert (results["parsed_team"] == results["team"]).mean() > 0.25, "better than always the same"
