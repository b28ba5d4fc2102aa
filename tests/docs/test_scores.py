"""What docs/scores.md and docs/python.md say of scores is tried: the code runs, the tables are jobs."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import polars as pl
import pytest

from batchflex.config.loader import build
from batchflex.config.score_sections import KINDS
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
SCORES = (DOCS / "scores.md").read_text(encoding="utf-8")
PYTHON = (DOCS / "python.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"(?ms)^```toml\n(.*?)^```", SCORES))
def test_every_example_is_a_job_with_scores(text: str) -> None:
    job = build(tomllib.loads(text))
    assert job.score and job.warnings() == []


def test_every_kind_is_described() -> None:
    listed = re.findall(r"(?m)^\| `\"?([\w:]+)\"?` \|", SCORES.partition("## Kinds")[2].partition("\n## ")[0])
    assert listed == [*(kind for kind in KINDS if kind != "judge"), "module:function", "judge"]


def test_the_code_runs() -> None:
    """One block after the other, as a reader would try them."""
    section = PYTHON.partition("## Scores\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", section)
    names: dict[str, Any] = {"batchflex": __import__("batchflex"), "pl": pl}
    for block in blocks:
        exec(block, names)
    assert len(blocks) >= 2
    assert names["scored"]["score_right"].to_list() == [1, 0, 1, 1]
    assert [point["scores"]["right"]["mean"] for point in names["told"]["points"]] == [0.5, 1]


def test_the_function_of_ones_own_works() -> None:
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```", SCORES)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["politeness"](pl.DataFrame({"content": ["thank you", "no"]})).to_list() == [1, 0]
