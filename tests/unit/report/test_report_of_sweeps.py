"""The report of a sweep: short names, comparisons, numbers, charts that leave the page, filters by label."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from batchflex.report import canvas, digest, headline, report, sections
from batchflex.storage.output_folder import Folder
from tests.support.command_line import called
from tests.support.paths import ROOT
from tests.support.scored_folders import answer, make
from tests.unit.report.test_report import CHROMIUM, PROMPTS, data_of, page_of, shown_text, swept

pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")

MODELS = ["org/model-small-it", "org/model-large-it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Two models and prompts, answers in JSON with a label and a number; scored by the command line."""
    tmp_path, outcomes = tmp_path_factory.mktemp("sweep"), []
    for row in range(24):
        carry = json.dumps({"label": "good" if row % 2 else "bad", "passage": row // 4})
        for m, model in enumerate(MODELS):
            for name in PROMPTS:
                right = (row + m) % 5 > 0 or name == "shown"
                said = json.dumps(
                    {"label": "good" if bool(row % 2) == right else "bad", "sure": row / 31, "note": None}
                )
                point = {"model": model, "prompt": name}
                outcomes.append(answer(row, said, point, carry=carry, parsed=said))
    score = [{"name": "right", "kind": "contains", "answer": "parsed.label", "expected": "label", "cluster": "passage"}]
    inside = {"path": str(tmp_path / "gone.jsonl"), "carry": ["label", "passage"]}
    made = make(tmp_path / "out", outcomes, sweep={"model": MODELS, "prompt": list(PROMPTS)}, prompts=PROMPTS, input=inside,
                score=score)  # fmt: skip
    assert called("score", made.path).code == 0
    return made


@pytest.mark.parametrize(
    ("values", "short"),
    [
        (["org/model-small-it", "org/model-large-it"], ["small", "large"]),
        (["gpt-oss-20b", "gpt-oss-120b"], ["20b", "120b"]),
        (["small", "small-instruct"], ["small", "small-instruct"]),
        (["0.25", "0.5"], ["0.25", "0.5"]),
        (["", "a b"], ["(none)", "a b"]),
        (["x" * 80, "y"], ["x" * 27 + "…", "y"]),
        (["x" * 80, "x" * 81], ["x" * 80, "x" * 81]),
    ],
)
def test_values_are_named_by_what_they_do_not_share(values: list[str], short: list[str]) -> None:
    assert list(headline._shortened(values).values()) == short


def test_charts_have_short_names_and_tables_and_tooltips_the_whole(folder: Folder) -> None:
    told = report.read(folder)
    by_key = {section.key: section for section in sections.chapters(told)}
    dots = json.dumps(by_key["scores"].figures[0].spec)
    assert '"short": "small \\u00b7 bare"' in dots and '"name": "model = org/model-small-it, prompt = bare"' in dots
    table = by_key["scores"].tables[0]
    assert table.head[:2] == ["model", "prompt"] and table.rows[0][:2] == ["org/model-small-it", "bare"]


def test_what_differs_from_the_best_is_told_with_corrected_p_values(folder: Folder) -> None:
    told = report.read(folder)
    _, more = headline.headline(told)
    assert "Wilson, clustered" in more and "p corrected for 6 comparisons" in more
    (scores,) = [section for section in sections.chapters(told) if section.key == "scores"]
    assert "Clustered by passage." in scores.lead
    table = scores.tables[1]
    assert table.title == "right, less that of the highest; p corrected for 6 comparisons"
    assert table.head == [
        "model",
        "prompt",
        "difference, points",
        "items",
        "p",
        "p (Holm)",
        "p (Benjamini–Hochberg)",
        "detectable",
    ]
    assert {"pp", "–"} == {row[7].split()[-1] for row in table.rows}
    assert len(table.rows) == 3 and all(row[2].startswith(("-", "+", "0")) for row in table.rows)


def test_points_of_long_names_are_told_apart_in_the_summary_and_the_best_may_be_the_baseline(tmp_path: Path) -> None:
    grid: dict[str, list[Any]] = {
        "model": [f"{name}-and-some-more-of-it" for name in MODELS],
        "temperature": [0.0, 0.7],
    }
    outcomes = []
    for row in range(24):
        for at, (model, t) in enumerate(itertools.product(*grid.values())):
            said = "yes" if at == 0 or row % (at + 1) else "no"
            outcomes.append(answer(row, said, {"model": model, "temperature": t}))
    best = {"model": grid["model"][0], "temperature": 0.0}
    score = [{"name": "right", "kind": "exact", "value": "yes", "baseline": best}]
    made_of = make(tmp_path / "out", outcomes, sweep=grid, score=score)
    assert called("score", made_of.path).code == 0
    told = report.read(made_of)
    lines = headline.summary(told).splitlines()
    assert [line.split("  ")[2] for line in lines if " · " in line] == [
        "small · 0", "small · 0.7", "large · 0", "large · 0.7",
    ]  # fmt: skip
    assert (
        "All others are lower (item by item, p corrected for 3 comparisons: below 0.05)." in headline.headline(told)[1]
    )


def test_numbers_in_answers_are_a_histogram_and_labels_are_not(folder: Folder) -> None:
    told = report.read(folder)
    assert list(told.numbers) == ["sure"]
    assert sum(told.numbers["sure"].counts) == 96 and told.numbers["sure"].largest == pytest.approx(23 / 31)
    (section,) = [s for s in sections.chapters(told) if s.key == "numbers"]
    assert [figure.title for figure in section.figures] == ["sure"]


def test_columns_with_nothing_in_them_are_left_out() -> None:
    table = sections.Table("t", ["a", "b", "c", "d"], [["–", "1", "", "2"], ["–", "3", "–", ""]], (1, 2, 3))
    found = sections.without_empty(table)
    assert (found.head, found.rows, found.numeric) == (["a", "b", "d"], [["–", "1", "2"], ["–", "3", ""]], (1, 2))


def test_no_table_of_a_page_has_an_empty_column(tmp_path: Path) -> None:
    for section in sections.chapters(report.read(swept(tmp_path / "out"))):
        for table in section.tables:
            for at in range(1, len(table.head)):
                assert any(row[at] not in ("", "–") for row in table.rows), table.head[at]


def test_charts_are_written_as_svg_and_png(folder: Folder, tmp_path: Path) -> None:
    ended = called("report", folder.path, "--charts", tmp_path / "charts")
    assert ended.code == 0, ended.err
    names = sorted(path.name for path in (tmp_path / "charts").iterdir())
    assert "scores-right.svg" in names and "scores-right.png" in names and len(names) % 2 == 0
    assert f"charts: {len(names) // 2} in" in ended.out
    for path in (tmp_path / "charts").glob("*.svg"):
        text = path.read_text()
        assert "var(--" not in text and ET.fromstring(text).tag.endswith("svg")
    assert (tmp_path / "charts" / "scores-right.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "small · bare" in (tmp_path / "charts" / "scores-right.svg").read_text()
    (tmp_path / "file").write_text("")
    assert "is a file; name a folder" in called("report", folder.path, "--charts", tmp_path / "file").err
    assert "there is no folder" in called("report", folder.path, "--charts", tmp_path / "no" / "charts").err


def test_colours_of_charts_that_leave_the_page_are_those_of_its_light_mode() -> None:
    css = (ROOT / "batchflex" / "report" / "assets" / "page.css").read_text()
    light = dict(re.findall(r"--([\w-]+): (#\w+);", css.partition("}")[0]))
    assert {name: light[name] for name in canvas.PALETTE} == canvas.PALETTE


def test_every_figure_can_be_saved(folder: Folder) -> None:
    text = shown_text(page_of(folder))
    charts = re.findall(r'data-chart="(\w+)"', text)
    assert charts and re.findall(r'data-save="(\w+)"', text) == charts
    assert data_of(page_of(folder))["palette"] == canvas.PALETTE


def test_a_point_without_a_comparison_and_old_scores_are_read(tmp_path: Path) -> None:
    told = digest.digest(swept(tmp_path / "out"))
    assert all(spec.comparison is None for spec in told.specs)
    assert "overlaps with that of" in headline.headline(told)[1]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_rows_are_filtered_by_their_labels_and_charts_saved(folder: Folder, tmp_path: Path) -> None:
    page = folder.path / "report.html"
    report.write(folder)
    text = page.read_text()
    # A page that saves a chart by itself and says what came of it; its policy allows this script, too.
    script = (
        "addEventListener('load', () => setTimeout(async () => {"
        "const blob = await saved('f1', 'png'); const svg = await (await saved('f1', 'svg')).text();"
        "document.title = ['saved', blob.type, blob.size > 2000, svg.includes('var('), svg.includes('<svg')].join(' ');"
        "}, 1500));"
    )
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    before, end, after = text.replace("script-src ", f"script-src 'sha256-{own}' ", 1).rpartition("</body>")
    page.write_text(f"{before}<script>{script}</script>{end}{after}")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
               "--virtual-time-budget=15000", "--dump-dom", f"file://{page}#is.label=good&is.expected=bad"]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "<title>saved image/png true false true</title>" in dom
    wrong = [
        row for row in data_of(text)["rows"]["rows"] if '"good"' in row["v"]["parsed"] and row["c"]["label"] == "bad"
    ]
    assert wrong and f'aria-live="polite">{len(wrong)} of 96 rows<' in dom
