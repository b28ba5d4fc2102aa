"""What docs/python.md shows of frames, labels, functions and settings is tried: one block after the other, as a reader would."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import polars as pl
import pytest

import batchflex
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def blocks(title: str) -> list[str]:
    """The code of a chapter, of its own sections too."""
    level = re.match("#+ ", title)
    assert level and f"\n{title}\n" in TEXT, title
    chapter = re.split(rf"(?m)^#{{1,{len(level[0]) - 1}}} ", TEXT.partition(f"\n{title}\n")[2])[0]
    return re.findall(r"(?ms)^```python\n(.*?)^```", chapter)


@pytest.fixture
def names(endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Those that the documents use: the library, but for the endpoint that it asks."""
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCHFLEX_API_KEY", raising=False)

    def run(job: str, settings: dict[str, Any] | None = None, **more: Any) -> batchflex.Run:
        own = {"endpoint.base_url": endpoint.base_url, "params.model": "m", "job.report": False}
        return batchflex.run(job, settings={**(settings or {}), **own}, **more)

    complete = partial(batchflex.complete, model="m", endpoint=endpoint.base_url)
    return {"batchflex": SimpleNamespace(complete=complete, run=run), "pl": pl}


def test_answers_beside_the_rows_of_a_frame(names: dict[str, Any], endpoint: CountingEndpoint) -> None:
    answers = {"billing, bug": '{"label": "bug"}', "Rate this": '{"stars": 4, "why": "hot"}'}
    for block in blocks("## Answers beside the rows of a frame"):
        endpoint.knobs(answer=next((said for words, said in answers.items() if words in block), None))
        exec(block, names)
    assert names["labelled"]["label"].to_list() == ["bug"] * 3
    assert names["rated"].schema["stars"] == pl.Int64
    assert isinstance(names["table"], pd.DataFrame)
    assert names["answered"]["content"].to_list() == ["echo: In one word: Good soup.", "echo: In one word: Cold soup."]
    assert names["shouted"]["content"].to_list() == ["echo: GOOD SOUP.", "echo: COLD SOUP."]


def test_settings(names: dict[str, Any], endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"label": "positive"}')
    for block in blocks("### Settings"):
        exec(block, names)
    assert (names["trial"].summary["ok"], names["trial"].out) == (5, Path("runs/trial"))
    assert (names["framed"].summary["ok"], names["framed"].out) == (5, Path("runs/framed"))
    assert names["framed"].scores is not None


def test_arguments_of_complete_are_documented() -> None:
    import inspect

    table = TEXT.partition("| argument | meaning |")[2].partition("\n\n")[0]
    shown = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:])))
    assert shown == set(inspect.signature(batchflex.complete).parameters) - {"frame", "params"}
