"""The same number is the same text, whatever shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.command_line import called
from tests.support.scored_folders import answer, make, score

pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")


def test_a_score_is_shown_alike_wherever_it_is_shown(tmp_path: Path) -> None:
    """77 of 80: half a tenth of a percent, which Python, its formats and JavaScript round in different ways."""
    sides = []
    for name, wrong in (("a", 3), ("b", 7)):
        outcomes = [
            answer(row, "no" if row < wrong else "yes", carry='{"label":"yes"}', cost=0.00125) for row in range(80)
        ]
        folder = make(tmp_path / name, outcomes, prompt={"user": "x"})
        score(folder, {"accuracy": (True, lambda row: float(row["content"] == row["label"]))}, expected="label")
        sides.append(folder.path)
    job = tmp_path / "score.toml"
    job.write_text('[[score]]\nname = "accuracy"\nkind = "exact"\nexpected = "label"\n')
    scored = called("score", sides[0], job)
    reported = called("report", sides[0])
    compared = called("compare", *sides)
    page = (sides[0] / "report.html").read_text()
    shown = "96.3 % (89.5 to 98.7 %)"
    assert shown in scored.out and shown in reported.out and shown in page, (scored, reported)
    assert "accuracy 96.3 %" in reported.out and "accuracy 96.3 %" in page
    assert re.split("  +", compared.out.splitlines()[4])[3:6] == ["96.3 %", "91.3 %", "-5.0 pp"], compared
    for text in (scored.out, reported.out, compared.out, page):
        assert not any(other in text for other in ("96.2 %", "0.963 ", "96.25", "0.9625 "))
    assert "$0.1000" in scored.out and "$0.1000" in reported.out and "$0.1000" in page
    assert '["cost","$0.0013"]' in page, "the page's script shows what it is given"
    narrow = called("score", sides[0], job, env={"COLUMNS": "50"}).out.splitlines()
    assert len(narrow[2]) <= 50 < len(scored.out.splitlines()[2]), "closer together where there is less room"
