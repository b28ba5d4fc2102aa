"""A judge's grades: asked once, journaled and resumed like any answers, and the first model is never asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from batchflex.core.errors import JobError
from batchflex.plan.plan import Plan
from tests.run.test_scores import ECHO, job, written
from tests.support.command_line import called
from tests.support.counting_endpoint import CountingEndpoint

RUBRIC = "Is this right? Expected {{ label }}, answered {{ content }}"
PROMPTS = [f"echo: {text}" for text in "aabbcc"]


def judged(server: CountingEndpoint, tmp_path: Path, **judge: Any) -> dict[str, Any]:
    score = {"name": "good", "kind": "judge", "judge": {"rubric": RUBRIC, **judge}}
    return job(server, tmp_path, [ECHO, score], sweep={})


@pytest.fixture
def answered(endpoint: CountingEndpoint, tmp_path: Path) -> CountingEndpoint:
    """The six rows are answered already; from now on each answer is a grade."""
    batchflex.run(judged(endpoint, tmp_path) | {"score": []})
    endpoint.knobs(answer='{"reason": "it is so", "grade": 4}')
    endpoint.reset()
    return endpoint


def bodies(out: Path) -> list[dict[str, Any]]:
    """What the judge of a folder is asked."""
    plan = Plan(batchflex.load_job(out / "judges" / "good" / "job.toml"))
    return [json.loads(request.body) for block in plan.blocks() for request in block]


def test_each_answer_is_graded_once_and_the_first_model_is_not_asked_again(
    answered: CountingEndpoint, tmp_path: Path
) -> None:
    run = batchflex.run(judged(answered, tmp_path))
    assert (run.exit_code, run.unscored) == (0, None), run.scores["judges"][0]["message"]
    asked = [body["messages"][-1]["content"] for body in bodies(run.out)]
    assert len(asked) == 6 and all(text.startswith("Is this right? Expected ") for text in asked)
    assert {text.partition("answered ")[2].partition("\n")[0] for text in asked} == set(PROMPTS)
    scores = pl.read_parquet(run.out / "scores.parquet")
    assert scores["score_good"].to_list() == [0.75] * 6
    assert run.scores is not None
    (judge,) = run.scores["judges"]
    results = pl.read_parquet(run.out / "judges" / "good" / "results.parquet")
    assert (judge["asked"], judge["graded"], judge["unreadable"], judge["stopped_by"]) == (6, 6, 0, None)
    assert judge["prompt_tokens"] == results["prompt_tokens"].sum() > 0
    assert judge["cost"] == pytest.approx(results["cost"].sum())
    assert results["id"].to_list() == scores["key"].to_list()
    again = called("score", run.out, "--json")
    assert again.code == 0
    assert again.summary["judges"] == run.scores["judges"]
    assert answered.stats()["requests"] == 6


def test_another_rubric_grades_all_again_and_another_score_none(answered: CountingEndpoint, tmp_path: Path) -> None:
    batchflex.run(judged(answered, tmp_path))
    more = judged(answered, tmp_path)
    more["score"].append({"name": "short", "kind": "length", "max": 9})
    assert batchflex.run(more).exit_code == 0
    assert answered.stats()["requests"] == 6
    other = judged(answered, tmp_path)
    other["score"][1]["judge"]["rubric"] = "Another way: {{ content }}"
    assert batchflex.run(other).exit_code == 0
    assert answered.stats()["requests"] == 12


def test_a_judge_that_is_stopped_leaves_the_other_scores_and_goes_on_where_it_was(
    answered: CountingEndpoint, tmp_path: Path
) -> None:
    path = written(tmp_path, judged(answered, tmp_path, limits={"budget_requests": 2, "concurrency": 1}))
    ended = called("run", path)
    assert ended.code == 3
    assert "judge of good: 2 of 6 answers graded" in ended.err
    assert "was stopped by budget, and 4 grades are missing" in ended.err
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores["score_good"].count() == 2
    assert scores["score_accuracy"].count() == 6
    rest = called("score", tmp_path / "out", "--set", "score.good.judge.limits.budget_requests=100")
    assert rest.code == 0, rest.err
    assert pl.read_parquet(tmp_path / "out" / "scores.parquet")["score_good"].count() == 6
    assert answered.stats()["requests"] == 6


def test_grades_that_cannot_be_read_are_none_and_counted(answered: CountingEndpoint, tmp_path: Path) -> None:
    answered.knobs(answer='{"reason": "too good", "grade": 9}')
    run = batchflex.run(judged(answered, tmp_path))
    assert run.scores is not None
    assert run.scores["points"][0]["scores"]["good"]["n"] == 0
    assert (run.scores["judges"][0]["graded"], run.scores["judges"][0]["unreadable"]) == (0, 6)


def test_a_refused_judge_is_told_and_the_answers_stay(answered: CountingEndpoint, tmp_path: Path) -> None:
    answered.knobs(down="401")
    run = batchflex.run(judged(answered, tmp_path))
    assert run.exit_code == 3 and run.unscored is not None and "stopped by key" in run.unscored
    assert run.summary["exit_code"] == 0
    assert run.scores is not None and run.scores["points"][0]["scores"]["accuracy"]["n"] == 6


def test_a_judge_has_an_endpoint_a_model_a_scale_and_a_system_message_of_its_own(
    answered: CountingEndpoint, tmp_path: Path
) -> None:
    answered.knobs(answer='{"reason": "so", "grade": 7.5}')
    own = judged(
        answered, tmp_path, endpoint={"base_url": answered.base_url}, params={"model": "m", "seed": 5}, scale=[0, 10.0],
        system="You grade.",
    )  # fmt: skip
    run = batchflex.run(own)
    assert run.scores is not None and run.scores["points"][0]["scores"]["good"]["mean"] == 0.75
    asked = bodies(run.out)
    assert {body["seed"] for body in asked} == {5}
    assert {body["messages"][0]["content"] for body in asked} == {"You grade."}
    schema = asked[0]["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["reason", "grade"]
    assert run.scores["judges"][0]["cost"] is None


def test_a_run_that_stopped_early_asks_no_judge(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    run = batchflex.run(judged(endpoint, tmp_path) | {"limits": {"budget_requests": 3, "concurrency": 1}})
    assert run.exit_code == 3 and run.scores is not None
    assert endpoint.stats()["requests"] == 3
    assert run.scores["judges"][0]["stopped_by"] == "run"


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"rubric": "{{ content"}, "the template is not valid"),
        ({"params": {"n": 2}}, "score.1.judge.params.n"),
        (
            {"limits": {"budget_usd": 1.0}, "endpoint": {"base_url": "http://127.0.0.1:9/v1"}},
            "its judge: .*budget_usd: needs",
        ),
        ({"params": {"response_format": {"type": "text"}}}, "is set by batchflex"),
    ],
)
def test_a_judge_that_cannot_be_is_refused_before_anything_is_sent(
    endpoint: CountingEndpoint, tmp_path: Path, judge: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError, match=words):
        batchflex.run(judged(endpoint, tmp_path, **judge))
    assert endpoint.stats()["requests"] == 0


def test_of_several_models_the_judges_has_to_be_named(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="asks several models"):
        batchflex.run(judged(endpoint, tmp_path) | {"sweep": {"model": ["m", "n"]}})


def test_a_rubric_with_a_column_that_is_not_there_is_told(answered: CountingEndpoint, tmp_path: Path) -> None:
    run = batchflex.run(judged(answered, tmp_path, rubric="{{ labl }} {{ content }}"))
    assert run.unscored is not None and "did you mean 'label'" in run.unscored
    assert answered.stats()["requests"] == 0
    assert json.loads((run.out / "run.json").read_text())["exit_code"] == 0
