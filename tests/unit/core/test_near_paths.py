"""What is meant by a path that is not there: read from what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchflex.core.near_paths import did_you_mean, near_path
from tests.support.command_line import called


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for run in ("runs/label-reviews", "runs/nightly/2026-01-01"):
        (tmp_path / run / "parts").mkdir(parents=True)
    (tmp_path / "runs" / "label-revues").mkdir()
    for name in ("tickets.csv", "tickets.toml", ".tickets.toml.tmp"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "of_run", "near"),
    [
        ("tickts.toml", False, "tickets.toml"),
        ("tickts.csv", False, "tickets.csv"),
        ("./tickets.tml", False, "tickets.toml"),
        ("runs/lable-reviews", True, "runs/label-reviews"),
        ("run/label-reviews", True, "runs/label-reviews"),
        ("label-reviews", True, "runs/label-reviews"),
        ("runs/label-revue", True, "runs/label-reviews"),  # the folder that is more like it has no run
        ("runs/nightly/2026-01-02", True, "runs/nightly/2026-01-01"),
        ("runs/nothing-alike", True, None),
        ("tickets.csv", False, None),
        ("tickets.csv/x", False, None),
        ("a\0b", False, None),
        ("x" * 5000, False, None),
        ("", False, None),
    ],
)
def test_the_nearest(path: str, of_run: bool, near: str | None, here: Path) -> None:
    assert near_path(Path(path), of_run=of_run) == (None if near is None else Path(near))
    assert did_you_mean(path, of_run=of_run) == ("" if near is None else f"; did you mean {near}?")


def test_an_absolute_path_stays_one(here: Path) -> None:
    assert near_path(here / "run" / "label-review", of_run=True) == here / "runs" / "label-reviews"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "there is no verb 'rnu'; did you mean run?"),
        (["tickets.toml"], "'tickets.toml' is no verb; did you mean: batchflex run tickets.toml?"),
        (["init", "--join"], "there is no option --join; see"),
        (["init", "--promt", "x"], "there is no option --promt; did you mean --prompt?"),
        (["doctor", "tickts.tml"], "found 'tickts.tml'; did you mean tickets.toml?"),
        (["zzz"], "there is no verb 'zzz'; there are: run, plan, "),
        (["run", "tickts.toml"], "there is no job file tickts.toml; did you mean tickets.toml?"),
        (["run", "tickts.csv", "--prompt", "x"], "there is no input file tickts.csv; did you mean tickets.csv?"),
        (["results", "runs/lable-reviews"], "is not the output folder of a run; did you mean runs/label-reviews?"),
        (["status", "label-reviews"], "did you mean runs/label-reviews?"),
        (["history", "runs/lable-reviews"], "and holds none; did you mean runs/label-reviews?"),
        (["compare", "runs/lable-reviews", "x"], "did you mean runs/label-reviews?"),
        (["compact", "runs/lable-reviews"], "did you mean runs/label-reviews?"),
        (["score", "runs/lable-reviews"], "did you mean runs/label-reviews?"),
        (["report", "runs/lable-reviews"], "did you mean runs/label-reviews?"),
        (["retry", "runs/lable-reviews", "--where", "row = 0"], "did you mean runs/label-reviews?"),
        (["schedule", "tickts.toml", "--at", "02:00"], "did you mean tickets.toml?"),
        (["notify", "tickts.toml"], "did you mean tickets.toml?"),
        (["check", "tickts.toml"], "did you mean tickets.toml?"),
        (["results", "runs/label-reviews", "--format", "parket"], "there is no 'parket'; did you mean parquet?"),
        (["run", "tickets.toml", "--log-format", "jsn"], "there is no 'jsn'; did you mean json?"),
        (["notify", "tickets.toml", "--event", "faliure"], "did you mean failure?"),
        (["run", "tickets.toml", "--endpoint", "flexia"], "did you mean 'flexai'?"),
        (["run", "tickets.toml", "--on-change", "keeep"], "found 'keeep'; did you mean 'keep'?"),
    ],
)
def test_commands_name_what_is_meant(words: list[str], said: str, here: Path) -> None:
    refused = called(*words)
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err, refused.err
