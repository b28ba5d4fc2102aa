"""The report: what it tells of a folder, that no answer can break it, and that a browser shows it without a network."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, strategies as st

from batchflex.cli import main
from batchflex.core.types import Outcome
from batchflex.report import (
    breakdown,
    canvas,
    digest,
    headline,
    page,
    report,
    sample_rows,
    sections,
    timeline,
    vega,
)
from batchflex.storage.output_folder import Folder
from tests.support.paths import ROOT
from tests.support.scored_folders import answer, make, score, tabulate

vl_convert = pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")

NOW = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
HOSTILE = [
    "<script>alert(1)</script>", "</script><script>document.title='broken'</script>", "<!-- <script>", "]]>\"'`${x}",
    "{{ 7 * 7 }}{% raw %}",
    "\0\x1b[31m\x7f", "\u202egnirts desrever", "שלום עולם", "🙂👩‍👩‍👧" * 3, "\u2028\u2029",
    "a" * 50_000, "<img src=x onerror=alert(1)>", "&lt;&amp;",
]  # fmt: skip
GRID = {"temperature": [0.0, 0.7], "prompt": ["bare", "shown"]}
PROMPTS = {name: {"user": "Is it good? {{ text }}"} for name in GRID["prompt"]}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def swept(out: Path, items: int = 12, **more: Any) -> Folder:
    """Two swept variables and two samples, costs, carried labels, some rows that failed, telemetry; scored."""
    outcomes: list[Outcome] = []
    for row in range(items):
        carry = json.dumps({"text": f"text {row}", "label": "good" if row % 2 else "bad"})
        for t in GRID["temperature"]:
            for name in GRID["prompt"]:
                for sample in range(2):
                    right = name == "shown" or (row + sample) % 3 == 0
                    said = ("good" if row % 2 else "bad") if right else ("bad" if row % 2 else "good")
                    outcomes.append(answer(
                        row, said, {"temperature": t, "prompt": name}, sample, carry=carry, cost=0.001 * (1 + (name == "shown")),
                        cache_read_input_tokens=20, ttft_s=0.05 + row / 100,
                    ))  # fmt: skip
    outcomes[-1] = answer(
        items - 1, None, {"temperature": 0.7, "prompt": "shown"}, 1, carry=carry, status="failed", error_type="server_error",
        http_status=500, error_message="<b>worker 17</b> died", latency_s=None, model=None,
    )  # fmt: skip
    folder = make(
        out, outcomes, sweep={**GRID, "samples": 2}, prompts=PROMPTS, input={"path": str(out / "gone.jsonl")}, **more
    )
    score(folder, {"accuracy": (True, right_label), "length": (False, length)}, expected="label")
    for at in range(20):
        folder.add_telemetry({
            "at": f"2026-01-01T00:0{at // 12}:{at % 12 * 5:02}.000+00:00", "run_id": f"run-{at // 10}",
            "binding": "quota" if at % 2 else "endpoint",
            "in_flight": at, "window": 16, "answers_per_s": at / 2, "refused": at % 3, "retries": int(at % 4 == 0),
        })  # fmt: skip
    return folder


def right_label(row: Any) -> float | None:
    return None if row["content"] is None else float(row["content"] == row["label"])


def length(row: Any) -> float:
    return float(len(row["content"] or ""))


def page_of(folder: Folder, rows: int = 50) -> str:
    return page.render(report.read(folder, rows), NOW)


def data_of(text: str) -> Any:
    """What the page's script reads."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def shown_text(text: str) -> str:
    """The page without its scripts and style."""
    return re.sub(r"(?s)<(script|style)\b.*?</\1>", "", text)


# ------------------------------------------------------------------------------------------------------ the verdict


def test_the_highest_point_is_told_with_its_interval_and_its_rivals(tmp_path: Path) -> None:
    told = report.read(swept(tmp_path / "out"))
    said, more = headline.headline(told)
    assert said == "temperature = 0, prompt = shown: accuracy 100.0 %"
    assert "Highest of 4 sweep points, equalled by 1 of them." in more
    assert "95 % interval 86.2 to 100.0 % (Wilson), 24 rows." in more
    assert (
        "overlaps with that of temperature = 0.7, prompt = shown: whether they differ, batchflex compare says" in more
    )
    summary = headline.summary(told)
    assert "1 × failed: 500 server_error: <b>worker 17</b> died" in summary
    assert "temperature = 0.7, prompt = bare" in summary


def test_points_have_the_figures_of_their_own_rows(tmp_path: Path) -> None:
    told = report.read(swept(tmp_path / "out"))
    assert told.variables == {"temperature": ["0", "0.7"], "prompt": ["bare", "shown"]}
    by_name = {headline.name_of(told, point): point for point in told.points}
    last = by_name["temperature = 0.7, prompt = shown"].figures
    assert (last.rows, last.items, last.status["failed"], last.status["ok"]) == (24, 12, 1, 23)
    assert by_name["temperature = 0, prompt = bare"].figures.cost == pytest.approx(0.024)
    assert told.whole.rows == sum(point.figures.rows for point in told.points) == 96
    assert told.whole.cost == pytest.approx(sum(point.figures.cost or 0 for point in told.points))


def one_row(out: Path) -> Folder:
    return make(out, [answer(0, "yes")])


def no_rows(out: Path) -> Folder:
    folder = make(out, [answer(0, "yes")])
    for part in (folder.path / "parts").glob("*.parquet"):
        part.unlink()
    tabulate(folder, digest.build(folder.read_job() or {}))
    return folder


def all_failed(out: Path) -> Folder:
    fields = {"status": "failed", "error_type": "timeout", "error_message": "no answer for 600 s", "latency_s": None}
    return make(out, [answer(row, None, model=None, **fields) for row in range(4)])


def killed(out: Path) -> Folder:
    folder = make(out, [answer(row, "yes") for row in range(4)], ended=False)
    folder.results.unlink()
    return folder


def no_state(out: Path) -> Folder:
    folder = make(out, [answer(row, "yes") for row in range(4)])
    folder.state.unlink()
    folder.history.unlink()
    return folder


def no_tokens(out: Path) -> Folder:
    nothing = dict.fromkeys(["prompt_tokens", "completion_tokens", "total_tokens", "latency_s", "model"])
    return make(out, [answer(row, "yes", **nothing) for row in range(4)])


def scores_broken(out: Path) -> Folder:
    folder = make(out, [answer(row, "yes") for row in range(4)])
    (folder.path / "scores.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (one_row, ["The row is ok", "Not scored"]),
        (no_rows, ["No answers yet"]),
        (all_failed, ["0 of 4 rows ok", "timeout", "no answer for 600 s", "Finished with rows that failed"]),
        (killed, ["killed", "run the same command again", "All 4 rows ok"]),
        (no_state, ["unknown", "All 4 rows ok"]),
        (no_tokens, ["All 4 rows ok"]),
        (scores_broken, ["scores.json cannot be read"]),
    ],
)
def test_a_folder_that_lacks_something_has_a_report_all_the_same(
    tmp_path: Path, made: Any, words: Sequence[str]
) -> None:
    folder = made(tmp_path / "out")
    told = report.read(folder)
    text = shown_text(page.render(told, NOW))
    for word in words:
        assert word in text
    assert "None" not in text and "nan" not in text.lower().split()
    assert headline.summary(told)
    json.dumps(report.as_json(told, None), allow_nan=False)


def test_scores_of_an_earlier_table_are_told_as_such(tmp_path: Path) -> None:
    folder = swept(tmp_path / "out")
    scores = json.loads((folder.path / "scores.json").read_text())
    (folder.path / "scores.json").write_text(json.dumps({**scores, "results": "0" * 32}))
    assert "The scores are of an earlier table of results" in shown_text(page_of(folder))


# ------------------------------------------------------------------------------------------------------- the charts


def test_every_chart_is_drawn_with_what_it_is_about(tmp_path: Path) -> None:
    told = sections.chapters(report.read(swept(tmp_path / "out")))
    assert [s.key for s in told] == [
        "scores",
        "heat",
        "trade",
        "labels",
        "numbers",
        "failures",
        "speed",
        "time",
        "tokens",
    ]
    drawn = {
        section.key: "".join(
            vl_convert.vegalite_to_svg(dict(f.spec, width=400), config=canvas.config()) for f in section.figures
        )
        for section in told
    }
    for key, words in {
        "scores": ["temperature = 0.7, prompt = shown", "100.0 %"], "heat": ["bare", "33.3 %", "0.7"],
        "trade": ["US dollars for 1,000 rows"], "labels": ["answered", "good"], "speed": ["median", "95 %"],
        "time": ["seconds of running"],
        "tokens": ["prompt read from cache", "tokens a row"],
    }.items():  # fmt: skip
        for word in words:
            assert word in drawn[key], (key, word)
    assert all(
        "NaN" not in svg and "var(--accent)" in svg for key, svg in drawn.items() if key not in ("failures", "tokens")
    )
    assert len(next(s for s in told if s.key == "time").figures) == 4  # refusals and retries are there


def test_a_job_without_sweep_shows_its_scores_and_labels(tmp_path: Path) -> None:
    carry = [json.dumps({"label": "yes" if row % 3 else "no"}) for row in range(30)]
    folder = make(tmp_path / "out", [answer(row, "yes", carry=carry[row]) for row in range(30)])
    score(folder, {"accuracy": (True, right_label)}, expected="label")
    told = report.read(folder)
    assert headline.headline(told)[0] == "accuracy 66.7 %"
    keys = {section.key: section for section in sections.chapters(told)}
    assert "heat" not in keys and "trade" not in keys
    labels = vl_convert.vegalite_to_svg(dict(keys["labels"].figures[0].spec, width=300), config=canvas.config())
    assert ">20<" in labels and ">10<" in labels
    assert told.timeline is None and "time" in keys  # by the times of the rows


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_a_histogram_counts_every_row(values: list[float]) -> None:
    found = breakdown.histogram(pl.LazyFrame({"latency_s": values}), "latency_s")
    assert found is not None
    assert sum(found.counts) == len(values)
    assert found.edges == sorted(found.edges) and len(found.edges) == len(found.counts) + 1
    assert min(values) <= found.p50 <= found.p95 <= found.largest == max(values)


def test_messages_that_differ_in_numbers_are_one_cause(tmp_path: Path) -> None:
    outcomes = [
        answer(
            row,
            None,
            status="failed",
            http_status=400,
            error_type="bad",
            error_message=f"row {row} has {row * 7} tokens",
        )
        for row in range(9)
    ] + [answer(9, "cut", status="truncated", finish_reason="length")]
    told = report.read(make(tmp_path / "out", outcomes))
    assert [(c.status, c.what, c.rows) for c in told.causes] == [("failed", "400 bad", 9), ("truncated", "length", 1)]
    assert told.causes[0].message is not None and told.causes[0].message.startswith("row ")


def test_answers_that_are_few_are_counted(tmp_path: Path) -> None:
    outcomes = [
        answer(
            row, None, parsed=json.dumps({"label": "abc"[row % 3], "why": f"reason {row}" * 9, "sure": row % 2 == 0})
        )
        for row in range(60)
    ]
    found = {
        d.what: dict(zip(d.names, d.counts, strict=True)) for d in report.read(make(tmp_path / "out", outcomes)).answers
    }
    assert found == {"label": {"a": 20, "b": 20, "c": 20}, "sure": {"true": 30, "false": 30}}


def test_telemetry_of_any_length_is_thinned_and_torn_lines_are_passed_over() -> None:
    lines = [
        json.dumps({"at": (NOW + datetime.timedelta(seconds=5 * at)).isoformat(), "run_id": "a" if at < 4_000 else "b",
                    "binding": "quota", "in_flight": 3, "window": 4, "answers_per_s": 2.0, "refused": 1, "retries": 0}).encode()
        for at in range(10_000)
    ]  # fmt: skip
    found = timeline.timeline([*lines[:5], b'{"at":"20', b"", *lines[5:]])
    assert found is not None
    assert len(found.steps) <= 170
    assert sum(step.refused for step in found.steps) == 10_000
    assert {round(step.answers_per_s, 6) for step in found.steps} == {2.0}
    assert len(found.begins_s) == 2 and found.bound_by == {"quota": 1.0}
    assert timeline.timeline(lines[:1]) is None


# --------------------------------------------------------------------------------------------------------- the rows


def test_the_sample_is_the_same_each_time_and_what_went_wrong_is_beside_it(tmp_path: Path) -> None:
    folder = swept(tmp_path / "out", items=40)
    once, again = report.read(folder, 10), report.read(folder, 10)
    assert once.rows == again.rows
    kinds = {kind: sum(kind in row.kinds for row in once.rows) for kind in sample_rows.KINDS}
    assert (kinds["sample"], kinds["failed"]) == (10, 1)
    assert kinds["wrong"] == kinds["flipped"] == kinds["differs"] == 40
    assert once.totals["wrong"] == sum(r["mean"] == 0 for r in _scores(folder))
    assert all(row.scores["score_accuracy"] == 0 for row in once.rows if "wrong" in row.kinds)


def _scores(folder: Folder) -> list[dict[str, Any]]:
    frame = pl.read_parquet(folder.path / "scores.parquet")
    return [{"mean": value} for value in frame["score_accuracy"]]


def asked(tmp_path: Path) -> Path:
    """A finished job, planned from a real file; the file."""
    source = tmp_path / "rows.jsonl"
    rows = [{"id": f"r{at}", "messages": [{"role": "user", "content": f"Say {at}"}]} for at in range(50)]
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    script = ROOT / "benchmarks" / "folders.py"
    subprocess.run(
        [sys.executable, str(script), "finish", str(source), "http://127.0.0.1:1/v1", str(tmp_path / "out")],
        check=True,
        timeout=60,
    )
    return source


def test_prompts_are_made_anew_from_the_input_where_it_is_as_it_was(tmp_path: Path) -> None:
    source = asked(tmp_path)
    folder = Folder(tmp_path / "out")
    told = report.read(folder, 5)
    assert len(told.rows) == 5 and not told.notes
    assert [row.prompt for row in told.rows] == [
        [sample_rows.Message("user", f"Say {row.values['row']}")] for row in told.rows
    ]
    source.write_text(source.read_text().replace("Say", "Tell"))
    told = report.read(folder, 5)
    assert [row.prompt for row in told.rows] == [None] * 5
    assert "The prompts of the rows shown are not known" in told.notes[0]


def test_nothing_in_an_answer_or_its_surroundings_becomes_markup(tmp_path: Path) -> None:
    outcomes = [
        answer(
            row,
            text,
            carry=json.dumps({"<i>": text}),
            status="failed",
            error_type=text[:40],
            error_message=text,
            model=text[:60],
        )
        for row, text in enumerate(HOSTILE)
    ]
    folder = make(tmp_path / "out", outcomes)
    text = page_of(folder)
    assert text.count("<script") == text.count("</script>")
    assert set(re.findall(r"<script[^>]*>", shown_text(text))) == set()
    assert not re.search(r"<(img|i>|b>worker)", shown_text(text))
    assert "\0" not in text and "\x1b" not in text and "\u202e" not in text
    rows = {row["v"]["row"]: row for row in data_of(text)["rows"]["rows"]}
    assert rows[0]["v"]["content"] == HOSTILE[0] and rows[4]["v"]["content"] == HOSTILE[4]
    assert rows[7]["c"]["<i>"] == HOSTILE[7]
    assert "characters left out" in rows[10]["v"]["content"] and len(rows[10]["v"]["content"]) < 2_100


def test_the_policy_of_the_page_forbids_the_network_and_foreign_scripts(tmp_path: Path) -> None:
    text = page_of(one_row(tmp_path / "out"))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe-eval" not in policy[1] and "http" not in policy[1]
    assert not re.findall(r'(?:src|href)="(?!#|data:)', shown_text(text))


def test_the_script_that_draws_is_kept_and_made_again_if_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled: list[str] = []  # which takes some seconds; pages of other tests have the real one
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda *asked: bundled.append("made") or f"{asked} ü")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = vega.libraries.__wrapped__()
    (kept,) = (tmp_path / "batchflex").iterdir()
    assert vega._read(kept) == made == vega.libraries.__wrapped__() and len(bundled) == 1
    kept.write_text(kept.read_text()[:-1])
    assert vega._read(kept) is None
    assert vega.libraries.__wrapped__() == made == vega._read(kept) and len(bundled) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert vega.libraries.__wrapped__() == made and len(bundled) == 3


def test_wide_rows_and_long_cells_leave_the_page_small(tmp_path: Path) -> None:
    carry = json.dumps({f"column {at}": "ü" * 3_000 for at in range(30)})
    folder = make(tmp_path / "out", [answer(row, "x" * 9_000, carry=carry) for row in range(100)])
    text = page_of(folder, rows=100)
    assert len(text.encode()) < 5_000_000
    assert data_of(text)["rows"]["rows"]


def test_messages_that_all_rows_of_a_prompt_begin_with_are_folded() -> None:
    one, two = ([sample_rows.Message("system", "s"), sample_rows.Message("user", text)] for text in "ab")
    assert page._common([one, two]) == 1
    assert page._common([one]) == 0
    assert page._common([two[1:], two[1:]]) == 0


# ------------------------------------------------------------------------------------------------- the command line


def test_the_command_writes_the_page_and_tells_the_verdict(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = swept(tmp_path / "out")
    assert main.main(["report", str(folder.path), "--rows", "5"]) == 0
    out = capfd.readouterr().out
    assert "accuracy 100.0 %" in out and f"report: {folder.report} (" in out
    assert len([row for row in data_of(folder.report.read_text())["rows"]["rows"] if "sample" in row["k"]]) == 5
    other = tmp_path / "other.html"
    assert main.main(["report", str(folder.path), "-o", str(other), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["report"], told["bytes"], told["rows"]) == (str(other), other.stat().st_size, 96)
    assert {point["point"]["prompt"] for point in told["points"]} == {"bare", "shown"}


def test_a_folder_of_no_run_and_a_place_that_is_not_there_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["report", str(tmp_path)]) == 2
    assert "is not the output folder of a run" in capfd.readouterr().err
    folder = one_row(tmp_path / "out")
    assert main.main(["report", str(folder.path), "-o", str(tmp_path / "no" / "x.html")]) == 2
    assert "there is no folder" in capfd.readouterr().err


def test_without_the_extra_the_summary_is_told_and_what_to_install(tmp_path: Path) -> None:
    folder = one_row(tmp_path / "out")
    program = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'altair' else find(name, *a)\n"
        "from batchflex.cli import main\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "report", str(folder.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "1 of 1 rows: 1 ok" in ended.stdout
    assert "pip install 'batchflex[report]'" in ended.stderr
    assert not folder.report.exists()


def test_a_page_is_current_by_what_it_was_made_of_and_not_by_the_times_of_files(tmp_path: Path) -> None:
    folder = swept(tmp_path / "out")
    assert not report.is_current(folder)
    report.write(folder)
    os.utime(folder.report, (0, 0))
    assert report.is_current(folder)
    summary = json.loads(folder.scores_json.read_text())
    folder.scores_json.write_text(json.dumps(summary | {"level": 0.9}))
    os.utime(folder.scores_json, (0, 0))
    assert not report.is_current(folder)
    report.write(folder)
    assert report.is_current(folder)
    folder.report.write_text("<html>")
    assert not report.is_current(folder)


# ------------------------------------------------------------------------------------------------------- in a browser


def browsed(path: Path, fragment: str, profile: Path) -> tuple[str, str]:
    """The page as the browser has it in the end, and what it said of it."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--virtual-time-budget=20000", "--enable-logging=stderr", "--dump-dom",
    ]  # fmt: skip
    ended = subprocess.run(
        [str(CHROMIUM), *flags, f"--user-data-dir={profile}", f"{path.as_uri()}#{fragment}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return ended.stdout, "\n".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_browser_draws_every_chart_and_filters_rows_by_the_address(tmp_path: Path) -> None:
    folder = swept(tmp_path / "out")
    report.write(folder, report.read(folder, 10))
    wanted = len(data_of(folder.report.read_text())["charts"])
    dom, said = browsed(folder.report, "status=failed&theme=dark", tmp_path / "profile")
    assert said == ""
    assert f'data-drawn="{wanted}"' in dom and wanted >= 12
    assert dom.count('class="marks"') >= wanted  # vega's own groups in each svg
    assert 'data-theme="dark"' in dom
    assert dom.count('<details class="row"') == 1
    assert "<b>worker 17</b>" not in dom and "&lt;b&gt;worker 17&lt;/b&gt; died" in dom
    every, said = browsed(folder.report, "q=nothing+has+this&status=lost&colour=red", tmp_path / "profile")
    assert said == "" and every.count('<details class="row"') == 0
    assert "there is no such filter, so it is not applied: status = lost, colour = red" in every


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_hostile_answers_do_nothing_in_a_browser(tmp_path: Path) -> None:
    carry = json.dumps({"text": HOSTILE[1]})
    folder = make(
        tmp_path / "out", [answer(row, text, carry=carry, model=HOSTILE[0]) for row, text in enumerate(HOSTILE)]
    )
    report.write(folder)
    dom, said = browsed(folder.report, "q=alert(1)", tmp_path / "profile")
    assert said == ""
    assert "<title>broken" not in dom
    assert dom.count('<details class="row"') == 2
