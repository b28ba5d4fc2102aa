"""Clusters, comparisons in sweeps, agreement, plans and tables for papers: over frames and folders, and from a terminal."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import batchflex
from batchflex.config.loader import build
from batchflex.core.errors import JobError
from batchflex.report import headline, report
from batchflex.scoring import clusters, many_tests, paper_tables, planning, power, score_text, stats
from batchflex.storage.output_folder import Folder
from tests.support.command_line import called
from tests.support.lazily import Lazily
from tests.support.scored_folders import answer, make

api, inter_rater = Lazily("statsmodels.api"), Lazily("statsmodels.stats.inter_rater")
RIGHT = {"right": {"kind": "exact", "expected": "label", "cluster": "passage"}}


def rows(items: int = 60, points: int = 3, samples: int = 1, seed: int = 1) -> pl.DataFrame:
    """Questions of passages of five, whose difficulty they share; each point is better than the one before."""
    dice = random.Random(seed)
    hard = [dice.gauss(0, 1) for _ in range(items)]
    found = []
    for point in range(points):
        for item in range(items):
            for _ in range(samples):
                is_right = hard[item // 5] + 0.6 * point + dice.gauss(0, 1) > 0
                found.append({"id": f"q{item}", "passage": f"p{item // 5}", "prompt": f"v{point}", "label": "y",
                              "content": "y" if is_right else dice.choice("nm")})  # fmt: skip
    return pl.DataFrame(found)


def points_of(frame: pl.DataFrame, scores: Any = RIGHT, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    told = batchflex.summarise(frame, scores, by=["prompt"], **more)
    (spec,) = told["scores"]
    return spec, [point["scores"][spec["name"]] for point in told["points"]]


# --------------------------------------------------------------------------------------------------------- clusters


def test_scores_have_the_clustered_standard_errors_of_statsmodels() -> None:
    frame = rows()
    spec, points = points_of(frame)
    assert spec["cluster"] == "passage"
    for point, part in zip(points, frame.partition_by("prompt", maintain_order=True), strict=True):
        values = (part["content"] == "y").cast(pl.Float64).to_numpy()
        groups = part["passage"].rank("dense").to_numpy()
        fit = api.OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
        assert (point["mean"], point["se"], point["df"]) == pytest.approx((values.mean(), fit.bse[0], 11))
        assert (point["clusters"], point["method"]) == (12, "cluster-wilson")
        assert point["high"] - point["low"] > np.ptp(stats.wilson(values.sum(), 60))


def test_samples_are_within_items_and_these_within_clusters() -> None:
    """As many samples as one likes of the same items say no more of the clusters."""
    frame = rows(points=1)
    _, (once,) = points_of(frame)
    _, (ten_times,) = points_of(pl.concat([frame] * 10))
    assert (ten_times["n"], ten_times["items"], ten_times["clusters"]) == (600, 60, 12)
    assert (once["se"], once["low"], once["high"]) == pytest.approx(
        (ten_times["se"], ten_times["low"], ten_times["high"])
    )
    assert ten_times["pass_at"]["10"]["low"] == pytest.approx(ten_times["pass_at"]["1"]["low"])
    assert ten_times["agreement"] == {
        "share": 1, "low": pytest.approx(12 / (12 + 2.20099**2), abs=1e-5), "high": 1,
        "alpha": 1, "alpha_low": None, "alpha_high": None,
    }  # fmt: skip


def test_what_has_no_cluster_is_one_by_itself() -> None:
    frame = rows(points=1).with_columns(
        passage=pl.when(pl.col("passage").is_in(["p0", "p1"])).then(None).otherwise("passage")
    )
    _, (found,) = points_of(frame)
    assert found["clusters"] == 10 + 10


@pytest.mark.parametrize("passages", [["p"] * 4, [1.0] * 4])
def test_one_cluster_has_a_mean_and_no_interval(passages: list[Any]) -> None:
    frame = pl.DataFrame({"id": [1, 2, 3, 4], "passage": passages, "content": ["y", "y", "n", "y"], "label": ["y"] * 4})
    (point,) = batchflex.summarise(frame, RIGHT)["points"]
    found = point["scores"]["right"]
    assert (found["mean"], found["low"], found["high"], found["method"]) == (0.75, None, None, None)
    assert (found["se"], found["df"], found["clusters"]) == (None, None, 1)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_samples_that_are_all_alike_have_an_interval_as_wide_as_that_of_their_items(right: float) -> None:
    frame = pl.DataFrame({"id": [row // 3 for row in range(60)], "score_s": [right] * 60})
    (point,) = batchflex.summarise(frame)["points"]
    found = point["scores"]["s"]
    assert (found["mean"], found["method"]) == (right, "wilson")
    assert (found["low"], found["high"]) == stats.wilson(20 * right, 20)


def test_a_score_that_no_row_has_is_told() -> None:
    frame = pl.DataFrame({"id": [1, 2], "content": ["a", "b"], "right": [{"text": "a"}, {"text": "b"}]})
    score = {"name": "right", "kind": "exact", "expected": "right.txt"}
    shown = score_text.text(batchflex.summarise(frame, score))
    assert "  right is the score of no row: 'right.txt' is null in every row, or all failed" in shown
    assert "of no row" not in score_text.text(batchflex.summarise(frame, score | {"expected": "right.text"}))


def test_numbers_in_clusters_have_ts_interval() -> None:
    frame = pl.DataFrame({"id": range(6), "passage": [0, 0, 1, 1, 2, 2], "score_s": [1.0, 2, 4, 5, 6, 9]})
    (point,) = batchflex.summarise(frame, cluster="passage")["points"]
    found = point["scores"]["s"]
    expected = clusters.t_interval(clusters.mean_of([3, 9, 15], [2, 2, 2]), 0.95)
    assert found["method"] == "cluster-t" and (found["low"], found["high"]) == pytest.approx(expected)


def test_a_cluster_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no column 'passag' to cluster by"):
        batchflex.summarise(rows(), RIGHT, cluster="passag")
    with pytest.raises(JobError, match="no column 'passage' in the results"):
        batchflex.score(rows().drop("passage"), RIGHT)
    with pytest.raises(JobError, match="no row has a value in 'passage', by which scores are to be clustered"):
        points_of(rows().with_columns(passage=pl.lit(None, pl.String)))
    with pytest.raises(
        JobError,
        match=r"score\.0\.cluster: the results will have no column 'passage'; if the input has it, name it in input\.carry",
    ):
        build({"input": {"path": "x.csv", "carry": ["label"]}, "prompt": {"user": "{{ x }}"}, "params": {"model": "m"},
               "score": [{"name": "right", **RIGHT["right"]}]})  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- sweeps


def test_points_are_compared_with_the_best_for_all_pairs() -> None:
    frame = rows()
    spec, points = points_of(frame)
    assert spec["comparison"] == {"with": "best", "point": 2, "family": 3}
    assert points[2]["versus"] is None
    parts = batchflex.score(frame, RIGHT).partition_by("prompt", maintain_order=True)
    for point, part in zip(points[:2], parts[:2], strict=True):
        (alone,) = batchflex.compare(parts[2], part, cluster="passage").told["scores"]
        versus = point["versus"]
        assert versus["method"] == "cluster-t"
        assert {name: versus[name] for name in ("difference", "low", "high", "p_value", "detectable")} == pytest.approx(
            {name: alone[name] for name in ("difference", "low", "high", "p_value", "detectable")}
        )
    p_values = [point["versus"]["p_value"] for point in points[:2]]
    assert [point["versus"]["p_holm"] for point in points[:2]] == many_tests.holm(p_values, 3)
    assert [point["versus"]["p_bh"] for point in points[:2]] == many_tests.benjamini_hochberg(p_values, 3)


def test_a_baseline_is_what_the_others_are_compared_with() -> None:
    spec, points = points_of(rows(), baseline={"prompt": "v0"})
    assert spec["comparison"] == {"with": "baseline", "point": 0, "family": 2}
    assert points[0]["versus"] is None and points[2]["versus"]["difference"] > 0
    with pytest.raises(JobError, match="no row has the values of the baseline"):
        points_of(rows(), baseline={"prompt": "v9"})


def test_without_clusters_right_and_wrong_are_mcnemars_and_samples_a_paired_t_test() -> None:
    plain = {"right": {"kind": "exact", "expected": "label"}}
    assert {p["versus"]["method"] for p in points_of(rows(), plain)[1] if p["versus"]} <= {"mcnemar-exact"}
    assert {p["versus"]["method"] for p in points_of(rows(samples=2), plain)[1] if p["versus"]} == {"paired-t"}


def test_points_without_items_in_common_or_a_score_have_no_test() -> None:
    frame = rows(points=2).with_columns(id=pl.col("id") + pl.col("prompt"))
    _, points = points_of(frame)
    versus = points[0]["versus"]
    assert (versus["items"], versus["p_value"], versus["p_holm"], versus["method"]) == (0, None, None, None)
    nothing = rows(points=2).with_columns(label=pl.lit(None, pl.String))
    spec, points = points_of(nothing)
    assert spec["comparison"] is None and [point["versus"] for point in points] == [None, None]


# -------------------------------------------------------------------------------------------------------- agreement


def test_two_runs_agree_as_statsmodels_has_it() -> None:
    one, two = rows(points=1, seed=1), rows(points=1, seed=2)
    sides = [frame.with_columns(answered_right=pl.col("content")) for frame in (one, two)]
    scored = [batchflex.score(side, RIGHT) for side in sides]
    (found,) = batchflex.compare(*scored).told["scores"]
    table = np.zeros((3, 3))
    np.add.at(
        table, tuple(frame["content"].replace_strict({"y": 0, "n": 1, "m": 2}).to_numpy() for frame in (one, two)), 1
    )
    assert found["agreement"]["on"] == "answer"
    assert found["agreement"]["kappa"] == pytest.approx(inter_rater.cohens_kappa(table).kappa)
    (plain,) = batchflex.compare(*(side.drop("answered_right") for side in scored)).told["scores"]
    assert plain["agreement"]["on"] == "score"
    assert plain["agreement"]["share"] == plain["ties"] / plain["items"]


# ------------------------------------------------------------------------------------------- folders, from a terminal


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with names alike, two prompts, two samples of thirty questions in ten passages; scored."""
    folder = tmp_path_factory.mktemp("sweep") / "sweep_1"
    dice, sweep = random.Random(3), {"model": ["org/a_b-20%", "org/a_b-120%"], "prompt": ["bare", "shown|x"]}
    outcomes = []
    for row in range(30):
        carried = json.dumps({"label": "yes" if row % 2 else "no", "passage": row // 3})
        for m, model in enumerate(sweep["model"]):
            for p, prompt in enumerate(sweep["prompt"]):
                for sample in range(2):
                    said = ("yes" if row % 2 else "no") if dice.random() < 0.5 + 0.2 * m + 0.2 * p else "maybe"
                    outcomes.append(
                        answer(row, said, {"model": model, "prompt": prompt}, sample, carry=carried, cost=0.01)
                    )
    score = [{"name": "accuracy", "kind": "exact", "expected": "label", "cluster": "passage"},
             {"name": "brief", "kind": "length", "max": 30}]  # fmt: skip
    prompts = {name: {"user": "{{ text }}"} for name in sweep["prompt"]}
    inside = {"path": str(folder / "gone.jsonl"), "carry": ["label", "passage"]}
    make(folder, outcomes, sweep={**sweep, "samples": 2}, prompts=prompts, input=inside, score=score)
    ended = called("score", folder)
    assert ended.code == 0, ended.err
    assert "accuracy is clustered by passage: 10 clusters; so few say little" in ended.out
    assert "accuracy less that of the best" in ended.out and "p corrected for 6 comparisons, all pairs" in ended.out
    return folder


def test_a_table_for_latex(out: Path, tmp_path: Path) -> None:
    ended = called("score", out, "-o", tmp_path / "scores.tex", "-q")
    assert ended.code == 0 and "wrote" in ended.err
    text = (tmp_path / "scores.tex").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert lines[:2] == [r"\begin{tabular}{llrrrrrr}", r"\toprule"] and lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[2].startswith(r"model & prompt & accuracy (\%) & $\Delta$ accuracy & p (Holm) &")
    assert any(r"org/a\_b-20\% & shown\textbar{}x & " in line for line in lines)
    assert not re.search(r"(?<!\\)[%_#]", "\n".join(lines))
    body = [line for line in lines if line.endswith(r"\\")]
    assert len(body) == 5 and {line.count("&") for line in body} == {7}
    mean = json.loads((out / "scores.json").read_text())["points"][0]["scores"]["accuracy"]["mean"]
    assert f"{100 * mean:.1f} [" in body[1]
    assert sum(line.count(r"\textbf{") for line in body) >= 1
    assert "% accuracy: Wilson with clustered standard errors, clustered by passage (10 clusters)" in text


def test_a_table_for_a_readme(out: Path, tmp_path: Path) -> None:
    assert called("score", out, "-o", tmp_path / "scores.md", "-q").code == 0
    head, rule, *body = (tmp_path / "scores.md").read_text().split("\n\n")[0].splitlines()
    assert head.startswith("| model | prompt | accuracy (%) |") and rule.startswith("| --- | --- | ---: |")
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in [head, *body]]
    assert {len(line) for line in cells} == {8} and cells[2][1].strip() == r"shown\|x"
    assert r"org/a\_b-120%" in cells[3][0]


def test_every_figure_for_further_work(out: Path, tmp_path: Path) -> None:
    assert called("score", out, "-o", tmp_path / "scores.csv", "-q").code == 0
    frame = pl.read_csv(tmp_path / "scores.csv")
    assert frame.height == 8 and frame.columns[:4] == ["model", "prompt", "score", "mean"]
    told = json.loads((out / "scores.json").read_text())
    for line in frame.iter_rows(named=True):
        (point,) = [p for p in told["points"] if p["point"] == {n: line[n] for n in ("model", "prompt")}]
        found = point["scores"][line["score"]]
        versus = found["versus"] or {}
        assert (line["mean"], line["se"], line["p_holm"]) == pytest.approx(
            (found["mean"], found["se"], versus.get("p_holm"))
        )
        assert line["is_reference"] == (found["versus"] is None)


def test_tables_of_scores_that_an_older_version_made(out: Path) -> None:
    told = json.loads((out / "scores.json").read_text())
    for spec in told["scores"]:
        del spec["cluster"], spec["comparison"]
    for point in told["points"]:
        for score in point["scores"].values():
            for name in ("se", "df", "clusters", "versus", "agreement"):
                del score[name]
    assert paper_tables.frame(told)["p_value"].null_count() == 8
    assert paper_tables.scores(told, "md").startswith("| model | prompt | accuracy (%) | brief (%) |")


def test_a_baseline_and_clusters_from_the_command_line(out: Path, tmp_path: Path) -> None:
    ended = called("score", out, "--baseline", "prompt=bare,model=org/a_b-20%", "--cluster", "label", "--json")
    (accuracy, _) = ended.summary["scores"]
    assert accuracy["comparison"] == {"with": "baseline", "point": 0, "family": 3} and accuracy["cluster"] == "label"
    assert "has to be one sweep point, and is 2" in called("score", out, "--baseline", "prompt=bare").err
    assert "'promt' is not swept; did you mean 'prompt'?" in called("score", out, "--baseline", "promt=bare").err
    assert "takes a sweep point" in called("score", out, "--baseline", "bare").err
    assert "should end in .md" in called("score", out, "-o", tmp_path / "scores.doc").err
    assert "is a file that the runs of" in called("score", out, "-o", out / "results.parquet").err
    assert called("score", out, "-q").code == 0


def test_compare_clusters_as_the_scores_do_and_writes_a_table(out: Path, tmp_path: Path) -> None:
    one, two = (f"{out}@model={model},prompt=bare" for model in ("org/a_b-20%", "org/a_b-120%"))
    told = called("compare", one, two, "--json", "-o", tmp_path / "two.tex").summary
    assert told["cluster"] == "passage"
    accuracy = told["scores"][0]
    assert (accuracy["method"], accuracy["clusters"], accuracy["agreement"]["on"]) == ("cluster-t", 10, "answer")
    assert accuracy["agreement"]["rows"] == 60 and accuracy["p_holm"] >= accuracy["p_value"]
    text = (tmp_path / "two.tex").read_text()
    assert r"accuracy (\%) & 30 & " in text and "% clustered by passage (10 clusters)" in text
    shown = called("compare", one, two).out
    assert "clustered by passage" in shown and "the answer" in shown and "p (Holm)" in shown
    other = called("compare", one, two, "--cluster", "label", "--json").summary
    assert (other["cluster"], other["scores"][0]["clusters"]) == ("label", 2)
    assert "no column 'nothing' to cluster by" in called("compare", one, two, "--cluster", "nothing").err


def test_agreement_in_a_column_needs_no_scores(out: Path) -> None:
    one, two = (f"{out}@model=org/a_b-20%,prompt={prompt}" for prompt in ("bare", "shown|x"))
    (found,) = called("compare", one, two, "--on", "content", "--json").summary["agreement"]
    assert (found["on"], found["rows"]) == ("content", 60) and 0 < found["share"] < 1
    (same,) = called("compare", one, one, "--on", "content", "--json").summary["agreement"]
    assert (same["share"], same["kappa"]) == (1, 1)
    assert "content   60" in called("compare", one, two, "--on", "content").out
    assert "name both" in called("compare", one, "--on", "content").err
    assert "did you mean 'content'" in called("compare", one, two, "--on", "contnt").err


# ------------------------------------------------------------------------------------------------------------ plans


def test_a_plan_by_a_stated_accuracy() -> None:
    found = planning.detect(0.02, 1_000, 1, expect=0.8)
    assert found["needed"] == [{"samples": 1, "items": power.needed(0.32, 0.02)}]
    assert found["detectable"] == pytest.approx(2.8016 * (0.32 / 1_000) ** 0.5, rel=1e-3)
    assert planning.detect(0.02, 0, 1)["detectable"] is None


def test_a_plan_by_an_earlier_run(out: Path) -> None:
    found = planning.detect(0.05, 500, 2, like=str(out))
    assert found["score"] == "accuracy" and "4 sweep points" in found["basis"]
    assert [each["samples"] for each in found["needed"]] == [1, 2, 4, 8]
    needed = [each["items"] for each in found["needed"]]
    assert needed == sorted(needed, reverse=True) and needed[-1] < needed[0] and found["within"] > 0
    one = planning.detect(0.05, 500, 1, like=f"{out}@prompt=bare,model=org/a_b-20%")
    frame = pl.read_parquet(out / "scores.parquet")
    assert one["variance"] > 0 and "as if both sides were independent" in one["basis"] and frame.height == 240
    with pytest.raises(JobError, match="has no score 'nothing'"):
        planning.detect(0.05, 500, 1, like=str(out), score="nothing")
    with pytest.raises(JobError, match="exclude each other"):
        planning.detect(0.05, 500, 1, like=str(out), expect=0.5)
    with pytest.raises(JobError, match="do not vary"):
        planning.detect(0.05, 500, 1, like=str(out), score="brief")


def test_the_verb_plans(out: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": n, "text": f"t{n}"}) + "\n" for n in range(40)))
    (tmp_path / "job.toml").write_text(
        '[job]\nname = "j"\n[endpoint]\nbase_url = "http://127.0.0.1:1/v1"\n[input]\npath = "in.jsonl"\n'
        '[prompt]\nuser = "{{ text }}"\n[params]\nmodel = "m"\nmax_tokens = 5\n[sweep]\ntemperature = [0, 1]\nsamples = 2\n'
    )
    job = tmp_path / "job.toml"
    shown = called("plan", job, "--detect", "0.1", "--like", out).out
    assert "a difference of 0.1 (80 % power" in shown and "the 40 rows of this job with 2 samples each show" in shown
    told = called("plan", job, "--detect", "0.1", "--expect", "0.9", "--power", "0.9", "--json").summary["detect"]
    assert (told["items"], told["samples"], told["power"]) == (40, 2, 0.9)
    assert "detect" not in called("plan", job, "--json").summary
    assert "--like goes with --detect" in called("plan", job, "--like", out).err
    assert "must be a number above 0" in called("plan", job, "--detect", "nan").err
    refused = called("plan", job, "--detect", "2")
    assert refused.code == 2 and "below 1; found 2; did you mean 0.02, 2 percentage points?" in refused.err
    assert "did you mean 0.02" in called("plan", job, "--detect", "2", "--like", out).err
    assert "the job's score names none" in called("plan", job, "--detect", "0.1", "--icc", "0.1").err
    assert "--icc and --like exclude" in called("plan", job, "--detect", "0.1", "--icc", "0.1", "--like", out).err


def clustered_job(folder: Path, baseline: str = "") -> Path:
    rows = [{"id": n, "text": f"t{n}", "label": "y", "passage": n // 4 if n < 36 else None} for n in range(40)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = folder / "job.toml"
    job.write_text(
        '[job]\nname = "j"\nout = "made"\n[endpoint]\nbase_url = "http://127.0.0.1:1/v1"\n[input]\npath = "in.jsonl"\n'
        'carry = ["label", "passage"]\n[prompt]\nuser = "{{ text }}"\n[params]\nmodel = "m"\nmax_tokens = 5\n'
        "[sweep]\ntemperature = [0, 1]\nsamples = 2\n"
        f'[[score]]\nname = "right"\nkind = "exact"\nexpected = "label"\ncluster = "passage"\n{baseline}\n'
    )
    return job


def test_a_plan_counts_the_clusters_of_the_job(out: Path, tmp_path: Path) -> None:
    job = clustered_job(tmp_path)
    told = called("plan", job, "--detect", "0.1", "--json").summary["detect"]
    sees = (9 * 16 + 4) / 40  # the mean size of the cluster that a row is in: 9 clusters of 4, 4 rows of their own
    assert (told["cluster"], told["clusters"], told["design_effect"]) == ("passage", 13, 1)
    assert told["most_alike"] == pytest.approx(sees)
    alike = called("plan", job, "--detect", "0.1", "--icc", "0.5", "--json").summary["detect"]
    assert alike["design_effect"] == pytest.approx(1 + (sees - 1) / 2) and alike["most_alike"] is None
    assert alike["needed"][0]["items"] == pytest.approx(told["needed"][0]["items"] * alike["design_effect"], rel=1e-2)
    shown = called("plan", job, "--detect", "0.1").out
    assert (
        "the rows are in 13 clusters by passage, taken as independent" in shown and "up to 3.7 times as many" in shown
    )
    of_run = called("plan", job, "--detect", "0.1", "--like", out, "--score", "right")
    assert "has no score 'right'" in of_run.err


def test_an_earlier_run_that_was_not_scored_by_clusters_tells_what_they_do(out: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(out, tmp_path / "unclustered"))
    (tmp_path / "plain.toml").write_text(
        '[job]\nname = "s"\n[[score]]\nname = "accuracy"\nkind = "exact"\nexpected = "label"\n'
    )
    assert called("score", out, tmp_path / "plain.toml", "-q").code == 0
    plain = planning.detect(0.05, 500, 1, like=str(out))
    assert plain["design_effect"] == 1 and plain["cluster"] is None
    by = planning.detect(0.05, 500, 1, like=str(out), clusters=planning.Clusters("passage"))
    assert by["cluster"] == "passage" and by["design_effect"] > 1 and by["most_alike"] is None
    assert planning.detect(0.05, 500, 1, like=str(out), clusters=planning.Clusters("nowhere"))["most_alike"] == 1


def test_a_baseline_that_is_no_sweep_point_is_refused_before_a_row_is_asked(tmp_path: Path) -> None:
    job = clustered_job(tmp_path, "baseline = { temperature = 0.7 }")
    for verb in ("plan", "run"):
        ended = called(verb, job)
        assert ended.code == 2
        assert "score 'right': the baseline (temperature = 0.7) has to be one sweep point, and is none" in ended.err
        assert "there are: temperature=0; temperature=1" in ended.err
    assert not (tmp_path / "made" / "parts").exists()


def test_scores_of_answers_whose_baseline_is_no_sweep_point_have_their_means(out: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(out, tmp_path / "copied"))
    (tmp_path / "scores.toml").write_text(
        '[job]\nname = "s"\n[[score]]\nname = "right"\nkind = "exact"\nexpected = "label"\nbaseline = { prompt = "v9" }\n'
    )
    told = called("score", out, tmp_path / "scores.toml", "--json")
    (spec,) = told.summary["scores"]
    assert told.code == 0 and spec["comparison"] is None and "prompt = v9) has to be one" in spec["uncompared"]
    assert all(point["scores"]["right"]["mean"] is not None for point in told.summary["points"])
    assert "right is not compared: the baseline (prompt = v9)" in called("score", out, tmp_path / "scores.toml").out
    assert "Not compared with its baseline: the baseline (prompt = v9)" in headline.summary(report.read(Folder(out), 5))
    (tmp_path / "unswept.toml").write_text((tmp_path / "scores.toml").read_text().replace("prompt =", "promt ="))
    (spec,) = called("score", out, tmp_path / "unswept.toml", "--json").summary["scores"]
    assert "did you mean 'prompt'?" in spec["uncompared"]
