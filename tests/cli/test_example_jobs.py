"""The jobs in jobs/, each executed: on the embedded model where they ask that, else on the counting endpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchflex.config.loader import load
from batchflex.storage.folder import Folder
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT

JOBS = ROOT / "jobs"
LABELS = ["negative", "positive"]


def batchflex(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "batchflex", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, **environ},
    )


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_job_can_be_planned(path: Path, tmp_path: Path) -> None:
    job = load(path)
    assert job.warnings() == []
    ended = batchflex("plan", path, "--out", tmp_path, "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["left"] > 0


@pytest.mark.model
def test_label_reviews(tmp_path: Path) -> None:
    assert pl.read_csv(JOBS / "reviews.csv").height >= 60
    ended = batchflex("run", JOBS / "label_reviews.toml", "--out", tmp_path, "--json", "--limit", 40)
    assert ended.returncode == 0, ended.stderr
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
    assert "accuracy: expected ↓ answered →" in batchflex("score", tmp_path).stdout
    shown = batchflex("results", tmp_path)
    assert "r001" in shown.stdout and "positive" in shown.stdout


@pytest.mark.model
def test_sweep_temperature(tmp_path: Path) -> None:
    path = JOBS / "sweep_temperature.toml"
    job = load(path)
    topics = 3
    ended = batchflex("run", path, "--out", tmp_path, "--limit", topics)
    assert ended.returncode == 0, ended.stderr
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
        overlapping = batchflex("run", nightly, "--out", out, "--quiet")
    assert overlapping.returncode == 4
    assert "another run holds" in overlapping.stderr

    first = batchflex("run", nightly, "--out", out, "--quiet")
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    before = pl.read_parquet(out / "results.parquet")
    (tmp_path / "jobs" / "inbox" / "2025-03-03.jsonl").write_text(
        json.dumps({"id": "new", "text": "The lamp arrived in pieces."}) + "\nnot JSON\n"
    )
    second = batchflex("run", nightly, "--out", out, "--json")
    assert second.returncode == 1  # the broken line is a failed row
    state = json.loads(second.stdout)
    assert state["requests_sent"] == 1
    after = pl.read_parquet(out / "results.parquet")
    assert after.height == before.height + 2
    assert after.filter(pl.col("status") == "failed")["error_type"].to_list() == ["input"]
    past = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["exit_code"] for line in past] == [4, 0, 1]
    assert "batchflex schedule jobs/nightly.toml --at 02:00 " in nightly.read_text()
    assert "\n0 2 * * * " in batchflex("schedule", nightly, "--at", "02:00").stdout


def test_label_reviews_hosted(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Against a server that speaks like the hosted API; its own address is never asked here."""
    path = JOBS / "label_reviews_hosted.toml"
    refused = batchflex("run", path, "--out", tmp_path / "no-key", FLEXAI_API_KEY="")
    assert refused.returncode == 2
    assert "FLEXAI_API_KEY" in refused.stderr
    endpoint.knobs(answer='{"label": "positive"}')
    options = ["--out", tmp_path / "out", "--base-url", endpoint.base_url, "--limit", 12, "--rpm", 6000]
    ended = batchflex("run", path, *options, FLEXAI_API_KEY="sk-not-for-this-host")
    assert ended.returncode == 0, ended.stderr
    assert endpoint.stats()["keys"] == []
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert results.height == 12
    assert results["cost"].null_count() == 0


def test_sweep_prompts(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    path = JOBS / "sweep_prompts.toml"
    job = load(path)
    endpoint.knobs(answer='{"label": "positive"}')
    ended = batchflex("run", path, "--out", tmp_path, "--base-url", endpoint.base_url, "--model", "m")
    assert ended.returncode == 0, ended.stderr
    results = pl.read_parquet(tmp_path / "results.parquet")
    assert sorted(set(results["prompt"])) == sorted(job.sweep.variables["prompt"])
    assert results.height == endpoint.stats()["bodies"]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [[*point["point"]] for point in scores["points"]] == [["prompt", "temperature"]] * 9
    share = (results["label"] == "positive").mean()
    assert {point["scores"]["accuracy"]["mean"] for point in scores["points"]} == {share}
    compared = batchflex("compare", f"{tmp_path}@prompt=bare,temperature=0", f"{tmp_path}@prompt=shown,temperature=0.7")
    assert compared.returncode == 0 and "nothing flipped" in compared.stdout, compared.stderr
