"""The jobs in jobs/, each planned, and executed on the counting endpoint; on the embedded model: slow/test_model_jobs.py."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from batchflex.config.loader import load
from tests.support.command_line import called
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT

JOBS = ROOT / "jobs"


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_job_can_be_planned(path: Path, tmp_path: Path) -> None:
    job = load(path)
    assert job.warnings() == []
    ended = called("plan", path, "--out", tmp_path, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["left"] > 0


def test_label_reviews_hosted(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Against a server that speaks like the hosted API; its own address is never asked here."""
    path = JOBS / "label_reviews_hosted.toml"
    refused = called("run", path, "--out", tmp_path / "no-key", env={"FLEXAI_API_KEY": ""})
    assert refused.code == 2
    assert "FLEXAI_API_KEY" in refused.err
    endpoint.knobs(answer='{"label": "positive"}')
    options = ["--out", tmp_path / "out", "--base-url", endpoint.base_url, "--limit", 12, "--rpm", 6000]
    ended = called("run", path, *options, env={"FLEXAI_API_KEY": "sk-not-for-this-host"})
    assert ended.code == 0, ended.err
    assert endpoint.stats()["keys"] == []
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert results.height == 12
    assert results["cost"].null_count() == 0


def test_sweep_prompts(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    path = JOBS / "sweep_prompts.toml"
    job = load(path)
    endpoint.knobs(answer='{"label": "positive"}')
    ended = called("run", path, "--out", tmp_path, "--base-url", endpoint.base_url, "--model", "m")
    assert ended.code == 0, ended.err
    results = pl.read_parquet(tmp_path / "results.parquet")
    assert sorted(set(results["prompt"])) == sorted(job.sweep.variables["prompt"])
    assert results.height == endpoint.stats()["bodies"]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [[*point["point"]] for point in scores["points"]] == [["prompt", "temperature"]] * 9
    share = (results["label"] == "positive").mean()
    assert {point["scores"]["accuracy"]["mean"] for point in scores["points"]} == {share}
    compared = called("compare", f"{tmp_path}@prompt=bare,temperature=0", f"{tmp_path}@prompt=shown,temperature=0.7")
    assert compared.code == 0 and "nothing flipped" in compared.out, compared.err
