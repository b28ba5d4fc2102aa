"""What is told of scores, over frames and over the folder of a run; the answers are never asked again."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from batchflex.config.loader import build, load
from batchflex.core.errors import FolderError, JobError
from batchflex.scoring import stats
from batchflex.storage.output_folder import Folder
from tests.support.command_line import called, state, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.lazily import Lazily

inter_rater = Lazily("statsmodels.stats.inter_rater")

EXACT = {"accuracy": {"kind": "exact", "expected": "label"}}


def only(found: dict[str, Any], name: str = "accuracy") -> dict[str, Any]:
    (point,) = found["points"]
    return dict(point["scores"][name])


# ------------------------------------------------------------------------------------------------------ over frames


def test_one_row_an_item_has_wilsons_interval_and_labels_a_confusion_matrix() -> None:
    frame = pl.DataFrame({
        "id": [f"r{i}" for i in range(10)],
        "content": ["a"] * 4 + ["b"] * 3 + ["c", None, "x" * 100],
        "label": ["a", "a", "a", "b", "b", "b", "a", "b", "a", "b"],
    })  # fmt: skip
    found = only(batchflex.summarise(frame, EXACT))
    assert (found["mean"], found["n"], found["items"], found["method"]) == (0.5, 10, 10, "wilson")
    assert (found["low"], found["high"]) == stats.wilson(5, 10)
    assert found["pass_at"] is found["majority"] is found["kappa"] is None
    labels = found["labels"]
    assert labels["names"] == ["a", "b", "c", "(other)", "(none)"]
    assert labels["matrix"][:2] == [[3, 1, 0, 0, 1], [1, 2, 1, 1, 0]]
    assert labels["support"] == [5, 5, 0, 0, 0]
    assert labels["precision"][:3] == [0.75, 2 / 3, 0]


def test_samples_of_an_item_are_told_as_such() -> None:
    """Three items with four samples each; of c two answers come as often, and the first of them counts."""
    answers = [*"yyyn", *"nnnn", *"nyyn"]
    frame = pl.DataFrame({"id": [i for i in "abc" for _ in range(4)], "content": answers, "label": ["y"] * 12})
    found = only(batchflex.summarise(frame, EXACT))
    assert (found["mean"], found["n"], found["items"], found["method"]) == (5 / 12, 12, 3, "bootstrap")
    assert found["majority"]["mean"] == pytest.approx(1 / 3)
    assert found["majority"]["n"] == 3
    assert {k: v["mean"] for k, v in found["pass_at"].items()} == pytest.approx({
        "1": 5 / 12, "2": (1 + 0 + 5 / 6) / 3, "4": 2 / 3,
    })  # fmt: skip
    assert found["kappa"] == pytest.approx(inter_rater.fleiss_kappa([[3, 1], [0, 4], [2, 2]]))


def test_a_score_without_labels_votes_by_right_and_wrong() -> None:
    frame = pl.DataFrame({"id": [1, 1, 2, 2, 2], "content": ["ab", "c", "xa", "ya", "z"]})
    found = only(batchflex.summarise(frame, {"accuracy": {"kind": "contains", "value": "a"}}))
    assert found["majority"]["mean"] == 0.5
    assert found["labels"] is None
    assert [v["items"] for v in found["pass_at"].values()] == [2, 2, 1]


def test_any_numbers_are_bootstrapped_by_item() -> None:
    frame = pl.DataFrame({"id": ["a", "a", "b", "c"], "score_len": [1.0, 3.0, None, 8.0]})
    found = only(batchflex.summarise(frame), "len")
    assert (found["mean"], found["n"], found["items"]) == (4, 3, 2)
    assert (found["low"], found["high"]) == stats.bootstrap_mean([4, 8], [2, 1])
    assert found["pass_at"] is None
    assert not batchflex.summarise(frame)["scores"][0]["is_share"]


def test_scores_of_0_and_1_are_shares_whatever_gave_them() -> None:
    frame = pl.DataFrame({"score_mine": [1.0, 0.0, None, 1.0]})
    found = batchflex.summarise(frame)
    described = {
        "kind": None,
        "is_share": True,
        "expected": None,
        "answer": None,
        "cluster": None,
        "comparison": None,
        "uncompared": None,
    }
    assert found["scores"] == [{"name": "mine", **described}]
    assert only(found, "mine")["method"] == "wilson"


@pytest.mark.parametrize("frame", [{"score_s": [None, None]}, {"score_s": []}])
def test_nothing_scored_is_told_as_nothing(frame: dict[str, list[None]]) -> None:
    found = batchflex.summarise(pl.DataFrame(frame, schema={"score_s": pl.Float64}))
    for point in found["points"]:
        assert point["scores"]["s"]["mean"] is None
        assert point["scores"]["s"]["n"] == 0


def test_what_is_told_apart_and_how_it_is_measured() -> None:
    frame = pl.DataFrame({
        "model": ["large", "small", "large", "small"], "id": ["a", "a", "b", "b"], "score_s": [1.0, 0.0, 1.0, 1.0],
        "status": ["ok", "failed", "truncated", "ok"], "prompt_tokens": [10, None, 20, 30], "completion_tokens": [1, None, 2, 3],
        "cost": [0.5, None, 0.25, None], "latency_s": [1.0, None, 3.0, 2.0],
    })  # fmt: skip
    found = batchflex.summarise(frame, by=["model"])
    assert [point["point"] for point in found["points"]] == [{"model": "large"}, {"model": "small"}]
    large, small = found["points"]
    assert (large["rows"], large["items"], large["prompt_tokens"], large["completion_tokens"]) == (2, 2, 30, 3)
    assert (large["cost"], small["cost"], large["cache_read_input_tokens"]) == (0.75, None, None)
    assert large["latency_s"] == {"p50": 2.0, "p95": pytest.approx(2.9)}
    assert small["status"] == {"ok": 1, "truncated": 0, "filtered": 0, "empty": 0, "invalid": 0, "failed": 1}


def test_answers_that_are_all_different_are_no_labels() -> None:
    frame = pl.DataFrame({"id": range(40), "content": map(str, range(40)), "label": map(str, range(40))})
    assert only(batchflex.summarise(frame, EXACT))["labels"] is None


def test_labels_that_are_numbers_are_in_their_order() -> None:
    frame = pl.DataFrame({"content": ["10", "9", "it is 10.0", "2"] * 3, "label": [10, 9, 10, 9] * 3})
    found = only(batchflex.summarise(frame, {"accuracy": {"kind": "number", "expected": "label"}}))
    assert found["labels"]["names"] == ["9", "10", "2"]
    assert found["labels"]["matrix"][1] == [0, 6, 0]


def test_what_cannot_be_summarised_is_refused() -> None:
    frame = pl.DataFrame({"content": ["a"]})
    with pytest.raises(JobError, match="there are no scores"):
        batchflex.summarise(frame)
    with pytest.raises(JobError, match="there is no column 'model'"):
        batchflex.summarise(frame, EXACT, by=["model"])
    with pytest.raises(JobError, match="level must be between 0 and 1"):
        batchflex.summarise(frame.with_columns(score_s=1.0), level=95)


# ------------------------------------------------------------------------------------------------------- of a run


def job(endpoint: CountingEndpoint, tmp_path: Path, scores: list[dict[str, Any]], **tables: Any) -> dict[str, Any]:
    """Six rows, each answered by ``echo: `` and its text at each temperature, in two samples."""
    rows = [
        {"id": f"r{i}", "text": text, "label": label}
        for i, (text, label) in enumerate(zip("aabbcc", "abbbca", strict=True))
    ]
    source = tmp_path / "rows.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.utime(source, (1.7e9, 1.7e9))  # a file of this very moment might be changed after it was read
    return {
        "job": {"name": "scored", "out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(source), "id": "id", "carry": ["label"]},
        "prompt": {"user": "{{ text }}"},
        "params": {"model": "m"},
        "sweep": {"temperature": [1.0, 0.5], "samples": 2},
        "prices": {"input": 1.0, "output": 2.0},
        "score": scores,
        **tables,
    }


ECHO = {"name": "accuracy", "kind": "exact", "extract": "echo: (.*)", "expected": "label"}


def test_a_run_ends_with_its_scores(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    run = batchflex.run(job(endpoint, tmp_path, [ECHO, {"name": "short", "kind": "length", "max": 100}]))
    assert run.exit_code == 0
    results, scores = run.results(), pl.read_parquet(run.out / "scores.parquet")
    assert scores.columns == ["key", "score_accuracy", "score_short"]
    assert scores["key"].to_list() == results["key"].to_list()
    right = (results["content"].str.strip_prefix("echo: ") == results["label"]).cast(pl.Float64)
    assert scores["score_accuracy"].to_list() == right.to_list()
    told = json.loads((run.out / "scores.json").read_text())
    assert told == run.scores
    assert [point["point"] for point in told["points"]] == [{"temperature": 1.0}, {"temperature": 0.5}]
    for point in told["points"]:
        found = point["scores"]["accuracy"]
        assert (found["mean"], found["n"], found["items"]) == (pytest.approx(4 / 6), 12, 6)
        assert found["kappa"] == 1
        assert found["labels"]["names"] == ["a", "b", "c"]
    assert sum(point["cost"] for point in told["points"]) == pytest.approx(results["cost"].sum())
    assert sum(point["prompt_tokens"] for point in told["points"]) == results["prompt_tokens"].sum()
    assert all(math.isfinite(v) for point in told["points"] for v in point["latency_s"].values())


def test_another_score_asks_nothing_again_and_is_no_changed_job(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    first = batchflex.run(job(endpoint, tmp_path, []))
    assert first.scores is None and not (first.out / "scores.json").exists()
    asked = endpoint.stats()["requests"]
    scored = batchflex.run(job(endpoint, tmp_path, [ECHO]))
    again = batchflex.run(job(endpoint, tmp_path, [{**ECHO, "ignore_case": True}]))
    assert endpoint.stats()["requests"] == asked
    assert scored.summary["plan"] == first.summary["plan"] == again.summary["plan"]
    assert scored.scores is not None and again.scores is not None
    assert scored.scores["results"] == again.scores["results"]
    assert scored.scores["made_by"] != again.scores["made_by"]


def test_scores_there_are_already_are_not_made_again(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    run = batchflex.run(job(endpoint, tmp_path, [ECHO]))
    made = (run.out / "scores.parquet").stat()
    assert batchflex.run(job(endpoint, tmp_path, [ECHO])).scores == run.scores
    assert (run.out / "scores.parquet").stat().st_ino == made.st_ino
    (run.out / "scores.json").write_text("no JSON")
    assert batchflex.run(job(endpoint, tmp_path, [ECHO])).scores == run.scores


def test_a_run_that_stops_early_is_scored_as_far_as_it_came(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    stopped = job(endpoint, tmp_path, [ECHO], limits={"budget_requests": 5, "concurrency": 1})
    run = batchflex.run(stopped)
    assert (run.stopped_by, run.exit_code) == ("budget", 3)
    assert run.scores is not None
    assert run.scores["rows"] == run.results().height == 5


def test_a_score_that_cannot_be_made_leaves_the_answers_and_says_what_to_do(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    wrong = [{"name": "s", "kind": "exact", "answer": "labl", "value": "a"}]
    ended = called("run", written(tmp_path, job(endpoint, tmp_path, wrong)))
    assert ended.code == 3
    assert "score 's': there is no column 'labl' in the results; did you mean 'label'?" in ended.err
    assert f"batchflex score {tmp_path / 'out'}" in ended.err
    assert Folder(tmp_path / "out").read_state()["exit_code"] == 0


def test_a_function_that_is_not_there_is_told_before_anything_is_sent(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match="there is no module 'nowhere_at_all'"):
        batchflex.run(job(endpoint, tmp_path, [{"name": "s", "kind": "nowhere_at_all:f"}]))
    assert endpoint.stats()["requests"] == 0


def written(tmp_path: Path, tables: dict[str, Any]) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(build(tables).to_toml())
    return path


def test_the_verb_scores_a_folder_again(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    path = written(tmp_path, job(endpoint, tmp_path, [ECHO]))
    ended = called("run", path)
    assert ended.code == 0
    assert "scores of 24 rows, with 95 % intervals" in ended.err
    assert "pass@2" in ended.err and "majority" in ended.err
    asked = endpoint.stats()["requests"]
    shown = called("score", tmp_path / "out", "--set", "score.accuracy.value=b", "--set", "score.accuracy.expected=")
    assert shown.code == 2 and "expected" in shown.err
    (tmp_path / "other.toml").write_text('[[score]]\nname = "has_a"\nkind = "contains"\nvalue = "a"\n')
    other = called("score", tmp_path / "out", tmp_path / "other.toml", "--json")
    assert other.code == 0
    assert [score["name"] for score in other.summary["scores"]] == ["has_a"]
    back = called("score", tmp_path / "out")
    assert back.code == 0 and "accuracy" in back.out
    assert endpoint.stats()["requests"] == asked
    assert called("score", tmp_path / "out", "--set", "limits.rpm=1").code == 2
    assert "there is no score 'acuracy'; did you mean 'accuracy'?" in called(
        "score", tmp_path / "out", "--set", "score.acuracy.ignore_case=true"
    ).err  # fmt: skip


def test_the_verb_says_what_is_not_there(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    assert "is not the output folder of a run" in called("score", tmp_path / "nothing").err
    batchflex.run(job(endpoint, tmp_path, []))
    ended = called("score", tmp_path / "out")
    assert ended.code == 2 and "there is no [[score]]" in ended.err
    (tmp_path / "out" / "results.parquet").unlink()
    batchflex.load_job(written(tmp_path, job(endpoint, tmp_path, [ECHO])))
    with Folder(tmp_path / "out").held():
        assert called("score", tmp_path / "out", tmp_path / "job.toml").code == 4
    missing = called("score", tmp_path / "out", tmp_path / "job.toml")
    assert missing.code == FolderError.exit_code and "there is no table of results" in missing.err


def test_a_function_is_found_beside_its_job_file(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    tables = job(endpoint, tmp_path, [{"name": "mine", "kind": "my_own_scores:length"}])
    (tmp_path / "my_own_scores.py").write_text("def length(block):\n    return block['content'].str.len_chars()\n")
    path = tmp_path / "job.toml"
    path.write_text(build(tables).to_toml())
    assert load(path).score[0].folder == str(tmp_path.resolve())
    ended = called("run", path)
    assert ended.code == 0, ended.err
    assert set(pl.read_parquet(tmp_path / "out" / "scores.parquet")["score_mine"]) == {7.0}
    assert called("score", tmp_path / "out").code == 0


# ----------------------------------------------------------------------------------------------- mistakes in a job


def test_mistakes_in_scores_are_told_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        '[input]\npath = "rows.jsonl"\n[[score]]\nname = "a"\nkind = "exact"\nexpected = "label"\n'
        '[[score]]\nname = "a"\nkind = "judge"\n[score.judge]\nrubric = "x"\n[score.judge.params]\ntemperature = 3\n'
    )
    with pytest.raises(JobError) as raised:
        load(path)
    said = str(raised.value)
    assert (
        "line 6, score.0.expected: the results will have no column 'label'; if the input has it, name it in input.carry"
        in said
    )
    assert "line 8, score.1.name: is the second score called 'a'" in said
    assert "line 13, score.1.judge.params.temperature: must be a number from 0 to 2" in said


def test_scores_under_single_brackets_are_explained() -> None:
    with pytest.raises(JobError, match="write each of them under \\[\\[score\\]\\]"):
        build({"score": {"name": "a", "kind": "exact"}})


# ---------------------------------------------------------------------------------------------------------- so far


def test_scores_so_far_while_a_run_goes_on(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """They hold nothing, write nothing and ask nobody; and they are those that the run ends with, of the rows that there are."""
    rows = tmp_path / "rows.csv"
    rows.write_text("id,text,label\n" + "".join(f"r{n},t{n},{'yes' if n % 4 else 'no'}\n" for n in range(12)))
    endpoint.knobs(answer="yes", fail_after=8, fail_with="hang")
    job = {
        "job": {"name": "j", "out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(rows), "id": "id", "carry": ["label"]},
        "prompt": {"user": "{{ text }}"},
        "params": {"model": "m"},
        "limits": {"concurrency": 1, "grace_s": 0.1},
        "score": [
            {"name": "accuracy", "kind": "exact", "expected": "label"},
            {"name": "graded", "kind": "judge", "judge": {"rubric": "{{ content }}", "scale": [0, 1]}},
        ],
    }
    found: list[Any] = []
    before: list[Any] = []

    def on_row(row: batchflex.ResultRow) -> None:
        if row.row != 7:
            return
        wait_until(lambda: "hang" in endpoint.stats()["outcomes"], "the ninth is asked, and gets no answer")
        wait_until(lambda: state(tmp_path / "out")["planned"] == 12, "run.json is written anew")
        before.append(there(tmp_path / "out"))
        found.append(batchflex.scores_so_far(tmp_path / "out"))
        found.append(
            batchflex.scores_so_far(tmp_path / "out", {"brief": {"kind": "length", "unit": "words", "max": 3}})
        )
        told = called("score", tmp_path / "out", "--so-far", "--json")
        found.append(json.loads(told.out))
        assert told.code == 0, told.err
        found.append(called("score", tmp_path / "out", "--so-far").out)
        found.append(called("status", tmp_path / "out").out)
        before.append(there(tmp_path / "out"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batchflex.run(job, on_row=on_row)
    assert before[0] == before[1], "nothing was written"
    assert endpoint.stats()["requests"] == 9, "nobody was asked"
    own, other, told, words, status = found
    assert own == told
    assert (own["rows"], own["planned"], only(own)["mean"], only(own, "graded")["n"]) == (8, 12, 0.75, 0)
    assert only(other, "brief")["mean"] == 1
    assert words.startswith("scores of 8 of 12 rows so far, with 95 % intervals\n") and "75.0 % (" in words
    assert re.search(r"\n  scores    accuracy 75\.0 % \([\d.]+ to [\d.]+ %\) \(8 rows\)\n", status)

    endpoint.knobs(answer="yes", fail_after=None)
    job["score"] = job["score"][:1]
    run = batchflex.run(job)
    assert run.scores is not None
    whole = batchflex.scores_so_far(tmp_path / "out")
    assert {name: run.scores[name] for name in ("rows", "scores", "points")} == {
        name: whole[name] for name in ("rows", "scores", "points")
    }
    assert "accuracy 75.0 % (" in called("status", tmp_path / "out").out


def there(out: Path) -> dict[str, tuple[int, int]]:
    """The files of a folder but those that a run keeps writing."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("run.json", "telemetry.jsonl")]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_there_are_no_scores_so_far_of_nothing(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is not the output folder of a run"):
        batchflex.scores_so_far(tmp_path)
    job = {
        "job": {"name": "j", "out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(write_rows(tmp_path / "rows.jsonl", 3))},
        "params": {"model": "m"},
    }
    endpoint.knobs(script=["402"])
    batchflex.run(job)
    with pytest.raises(JobError, match=r"no \[\[score\]\]"):
        batchflex.scores_so_far(tmp_path / "out")
    brief = {"brief": {"kind": "length", "unit": "words", "max": 3}}
    with pytest.raises(FolderError, match="nothing is answered"):
        batchflex.scores_so_far(tmp_path / "out", brief)
    ended = called("score", tmp_path / "out", "--so-far")
    assert ended.code == 2 and "no [[score]]" in ended.err
    assert "\n  scores" not in called("status", tmp_path / "out").out
    batchflex.run(job)
    with pytest.raises(JobError, match="no column 'label'"):
        batchflex.scores_so_far(tmp_path / "out", EXACT)
    assert batchflex.scores_so_far(tmp_path / "out", brief)["rows"] == 3
