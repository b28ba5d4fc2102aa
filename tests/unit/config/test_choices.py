"""Labels in a job: what ``answer.choices`` asks for, and what it does not go with; jobs with other values in some places."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from batchflex.config import changed, label_schema
from batchflex.config.loader import build, load, parse_setting
from batchflex.core import JobError

# The keys of requests depend on it: it never changes.
LABEL = (
    '{"type": "json_schema", "json_schema": {"name": "label", "strict": true, "schema": {"type": "object", "properties": '
    '{"label": {"type": "string", "enum": ["billing", "bug"]}}, "required": ["label"], "additionalProperties": false}}}'
)


def test_a_label_is_one_field_of_an_object() -> None:
    import json

    assert json.dumps(label_schema(["billing", "bug"])) == LABEL
    assert label_schema({"label": ("billing", "bug")}) == label_schema(["billing", "bug"])
    named = label_schema(["a", "b"], "which team?")
    assert named["json_schema"]["name"] == "which_team" and named["json_schema"]["schema"]["required"] == [
        "which team?"
    ]
    assert label_schema(["a", "b"], "équipe ☕")["json_schema"]["name"] == "quipe"
    assert label_schema(["a", "b"], "☕")["json_schema"]["name"] == "label"
    assert len(label_schema({"x" * 99: ["a", "b"]})["json_schema"]["name"]) == 64
    with pytest.raises(JobError, match="choices: 'label' needs at least two choices"):
        label_schema(["a"])


def test_choices_of_a_job_are_its_response_format() -> None:
    import json

    job = build({"answer": {"choices": ["billing", "bug"]}, "params": {"model": "m"}})
    assert job.params == {"model": "m", "response_format": json.loads(LABEL)}
    assert job.schemas == [json.loads(LABEL)["json_schema"]["schema"]]
    assert "choices" not in job.resolved()["answer"]
    assert build(job.resolved()).params == job.params
    assert build({}, [parse_setting('answer.choices=["billing", "bug"]')]).params["response_format"] == json.loads(
        LABEL
    )
    several = build({"answer": {"choices": {"team": ["a", "b"], "urgent": ["yes", "no"]}}})
    assert list(several.params["response_format"]["json_schema"]["schema"]["properties"]) == ["team", "urgent"]
    assert (
        build({"answer": {"choices": ["billing", "bug"]}, "params": {"response_format": json.loads(LABEL)}}) is not None
    )


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"answer": {"choices": "a,b"}}, "answer.choices: must be a list of texts, or a table"),
        ({"answer": {"choices": [1, 2]}}, "answer.choices: must be a list of texts, or a table"),
        ({"answer": {"choices": ["a", ""]}}, "answer.choices: each choice must be text that is not empty"),
        ({"answer": {"choices": {"x": ["a"]}}}, "answer.choices: 'x' needs at least two"),
        ({"answer": {"choices": []}}, "at least two"),
        ({"answer": {"choices": ["a", "b"]}, "params": {"response_format": {"type": "json_object"}}}, "params.response_format"),
        ({"answer": {"choices": ["a", "b"]}, "override": {"response_format": {"type": "text"}}}, "override.response_format"),
        ({"answer": {"choices": ["a", "b"], "json_schema": {"type": "object"}}}, "answer.json_schema says already"),
        ({"answer": {"choices": ["a", "b"]}, "params": 3}, "params: must be a table"),
        ({"answer": 3}, "answer: must be a table"),
    ],
)  # fmt: skip
def test_what_choices_cannot_be_or_go_with(tables: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError) as raised:
        build(tables)
    assert words in str(raised.value)


class Label(BaseModel):
    label: str


def test_a_job_with_other_values_keeps_what_is_not_in_its_tables(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MY_VARIABLE=here\n")
    (tmp_path / "j.toml").write_text(
        '[job]\nout = "runs/{date}"\nkeep_runs = 3\n[notify]\nwebhook = "https://example.org/hook"\n'
        '[answer]\nchoices = ["a", "b"]\n'
        '[[score]]\nname = "right"\nkind = "exact"\nanswer = "parsed.label"\nexpected = "label"\n[input]\npath = "in.csv"\n'
        'carry = ["label"]\n[prompt]\nuser = "{{ text }}"\n'
    )
    job = load(tmp_path / "j.toml", moment=datetime.datetime(2026, 1, 31))
    other = changed(job, [("limits.rpm", 60.0)])
    assert other.limits.rpm == 60 and other.environment["MY_VARIABLE"] == "here" and other.spec == job.spec
    assert (other.dated, other.job.keep_runs, other.out) == (job.dated, 3, job.out)
    assert (other.notify, other.score, other.params) == (job.notify, job.score, job.params)
    elsewhere = changed(job, [("job.out", str(tmp_path / "out"))])
    assert (elsewhere.dated, elsewhere.job.keep_runs, elsewhere.out) == (None, None, tmp_path / "out")
    relabelled = changed(job, [("answer.choices", ["a", "c"])])
    assert relabelled.params["response_format"] == label_schema(["a", "c"])
    of_model = build({"params": {"response_format": Label}})
    assert list(changed(of_model, [("limits.rpm", 60.0)]).models_by_format.values()) == [Label]
    with pytest.raises(JobError, match=r"limits\.rmp.*did you mean 'rpm'"):
        changed(job, [("limits.rmp", 60)])
