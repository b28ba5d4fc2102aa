"""docs/compare-prompts-and-models.md, done as a reader would: its files are written, its commands run, its code executed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.support.command_line import called
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "compare-prompts-and-models.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return [text for name, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE) if name == kind]


def test_the_page_from_its_beginning_to_its_end(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")
    monkeypatch.chdir(tmp_path)
    (questions,), (job,), (code,) = blocks("text"), blocks("toml"), blocks("python")
    Path("questions.csv").write_text(questions)
    assert "http://127.0.0.1:8000/v1" in job
    Path("reading.toml").write_text(job.replace("http://127.0.0.1:8000/v1", endpoint.base_url))
    said = {}
    for line in "".join(blocks("")).splitlines():
        verb, *words = shlex.split(line)
        assert verb == "batchflex", line
        ended = called(*words)
        assert ended.code == 0, f"{line}: {ended.err}"
        said[line] = ended.out + ended.err
    assert len(said) == 11
    # The endpoint repeats what it is asked, so that the open prompt has six of eight answers in it, and the closed one none.
    assert (
        "the 8 rows of this job with 2 samples each"
        in said["batchflex plan reading.toml --detect 0.05 --like runs/reading"]
    )
    assert "p corrected for 3 comparisons" in said["batchflex score runs/reading"]
    assert (
        "baseline: model = large, prompt = closed"
        in said["batchflex score runs/reading --baseline model=large,prompt=closed"]
    )
    assert "nothing flipped" in next(text for line, text in said.items() if "prompt=open runs" in line)
    assert "content   64" in next(text for line, text in said.items() if "--on content" in line)
    assert "clustered by passage (4 clusters)" in Path("scores.tex").read_text()
    assert pl.read_csv("scores.csv").height == 4
    assert Path("charts/scores-accuracy.svg").exists()
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["found"]["difference"] == 0
    means = {
        (p["point"]["sweep_model"], p["point"]["prompt"]): p["scores"]["accuracy"]["mean"]
        for p in names["told"]["points"]
    }
    assert means == {
        (model, prompt): share for model in ("small", "large") for prompt, share in (("closed", 0), ("open", 0.75))
    }
    assert "'p_holm'" in capsys.readouterr().out
