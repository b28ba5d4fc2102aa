"""Functions of one's own are found and imported as Python would import them."""

from __future__ import annotations

import polars as pl

import batchflex


def test_a_module_of_ones_own_may_define_dataclasses_whose_annotations_are_text(tmp_path, monkeypatch):
    (tmp_path / "graders_of_ours.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Grade:\n"
        "    value: float\n"
        "def grade(rows):\n"
        "    return [Grade(0.5).value for _ in rows]\n"
    )
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame({"content": ["a"]})
    scored = batchflex.score(frame, {"name": "own", "kind": "graders_of_ours:grade"})
    assert scored["score_own"].to_list() == [0.5]
