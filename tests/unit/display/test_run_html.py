"""A run in a notebook: everything that went wrong is there, nothing that came from elsewhere is markup."""

from __future__ import annotations

import html.parser
from typing import Any

import pytest

from batchflex.core.message import Message
from batchflex.display import run_html, run_text
from batchflex.scoring import score_text
from tests.unit.cli.test_progress import ended, row, run_state


class Page(html.parser.HTMLParser):
    """Its text, its tags, and whether each is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", [], []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def scored(**more: Any) -> dict[str, Any]:
    one = {"mean": 0.9634, "low": 0.951, "high": 0.9712, "n": 2_940}
    none = {"mean": None, "low": None, "high": None, "n": 0}
    points = [
        {"point": {"prompt": "shown"}, "cost": 1.2, "scores": {"accuracy": one}},
        {"point": {"prompt": "<i>bare"}, "cost": None, "scores": {"accuracy": none}},
    ]
    return {
        "level": 0.95,
        "rows": 3_000,
        "scores": [{"name": "accuracy", "is_share": True}],
        "points": points,
        "judges": [],
        **more,
    }


def bad_run() -> dict[str, Any]:
    made = run_state(planned=3_000, ok=2_940, failed=3)
    for status, rows in (("invalid", 45), ("truncated", 9), ("empty", 3)):
        for _ in range(rows):
            made.add(row(status))
    made.cost = 1.25
    return ended(made)


def test_a_run_with_bad_rows_says_how_many_of_each_and_what_to_do() -> None:
    state = bad_run()
    assert run_text.outcome(state) == "finished: 3,000 rows, 9 truncated, 3 empty, 45 invalid, 3 failed"
    assert "45 answers do not fit; ask them again: batchflex retry" in run_text.summary(state)
    page = Page(run_html.page(state, scored(), None, "runs/x/report.html"))
    for words in (
        "Finished: 3,000 rows, 9 truncated, 3 empty, 45 invalid, 3 failed", "label-reviews · 1:05", "2,940 ok", "45 invalid",
        "294,000 prompt + 58,800 completion tokens, $1.25", "96.3 %", "95.1 to 97.1 %", "2,940", "<i>bare", "$1.20",
        "r0: HTTP 500: no", 'pl.col("status").is_in(["empty", "invalid", "failed"])',
        """batchflex.retry('runs/label-reviews', where="status = 'truncated'", settings={"max_tokens": …})""",
        "runs/label-reviews/results.parquet",
    ):  # fmt: skip
        assert words in page.text, words
    assert ("href", "runs/x/report.html") in page.attributes
    assert "script" not in page.tags and "style" not in page.tags and "i" not in page.tags


def test_nothing_that_came_from_elsewhere_is_markup() -> None:
    evil = "<script>alert(1)</script>\x1b[31m\u202e\"'&"
    made = run_state(ok=1, failed=0)
    made.job, made.out = evil, evil
    made.add(row("failed", evil, evil))
    made.stopped_by, made.message = "credit", Message.of(evil)
    state = {**ended(made), "given_up": [f"{evil} 2"]}
    scores = scored(scores=[{"name": evil, "is_share": False}], points=[{"point": {evil: evil}, "cost": None, "scores": {evil: {
        "mean": 1.0, "low": None, "high": None, "n": 1}}}])  # fmt: skip
    text = run_html.page(state, scores, evil, evil)
    page = Page(text)
    assert {*page.tags} <= {"div", "span", "b", "code", "a", "ul", "li", "table", "tr", "th", "td"}
    assert "<script" not in text and "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize("stopped_by", ["credit", "signal", "quota"])
def test_a_run_that_was_stopped_says_how_to_go_on(stopped_by: Any) -> None:
    made = run_state()
    made.stopped_by, made.message = stopped_by, Message.of("because of this")
    state = ended(made)
    word = "interrupted" if stopped_by == "signal" else f"stopped by {stopped_by}"
    assert run_text.outcome(state) == f"{word}: 502 of 2,000 rows, 2 failed"
    page = Page(run_html.page(state))
    assert "1,498 not answered yet" in page.text
    assert ("because of this" in page.text) == (stopped_by != "signal")
    fix = "fix that first, then " if stopped_by == "credit" else ""
    assert f"What was answered is kept; {fix}run this again to go on" in page.text


def test_colours_are_readable_on_light_and_dark_pages() -> None:
    """What is no accent is the page's own colour."""
    page = run_html.page(bad_run(), scored(), "unscored", "report.html")
    for word in ("color:#000", "color:black", "color:#fff", "color:white", "background:#fff", "background:white"):
        assert word not in page


def test_scores_so_far_say_of_how_many_rows() -> None:
    assert score_text.brief(scored()) == "accuracy 96.3 % to 96.3 % at 2 sweep points (3,000 rows)"
    one = scored(points=scored()["points"][:1])
    assert score_text.brief(one) == "accuracy 96.3 % (95.1 to 97.1 %) (3,000 rows)"
