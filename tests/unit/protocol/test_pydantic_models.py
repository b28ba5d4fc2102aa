"""Pydantic models as formats of answers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

import batchflex
from batchflex.config.loader import build
from batchflex.protocol import pydantic_models
from batchflex.protocol.json_answers import Shape, unusable
from tests.support.counting_endpoint import CountingEndpoint


class Tone(StrEnum):
    WARM = "warm"
    COLD = "cold"


class Part(BaseModel):
    default: int  # a field with the name of a word of JSON Schema
    properties: str


class Review(BaseModel):
    tone: Tone
    stars: int = Field(ge=1, le=5)
    parts: list[Part]


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    why: str | None = None


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


class Maybe(BaseModel):
    label: Literal["good", None]
    kind: Literal[None] = None
    note: str = Field("", examples=[None, "none"])


class Careless(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _is_known(cls, value: int) -> int:
        return {4: 4}[value]


def test_the_format_of_a_model_is_one_that_openai_takes() -> None:
    made = pydantic_models.response_format(Review)
    assert (made["type"], made["json_schema"]["name"], made["json_schema"]["strict"]) == ("json_schema", "Review", True)
    schema = made["json_schema"]["schema"]
    assert unusable(schema) is None
    assert schema["additionalProperties"] is False and schema["$defs"]["Part"]["additionalProperties"] is False
    assert set(schema["$defs"]["Part"]["properties"]) == {"default", "properties"}


def test_a_model_that_leaves_something_open_is_not_strict() -> None:
    made = pydantic_models.response_format(Loose)["json_schema"]
    assert made["strict"] is False
    assert made["schema"]["additionalProperties"] is True
    assert "default" not in made["schema"]["properties"]["why"]


@pytest.mark.parametrize("model", [Review, Loose, Even, Maybe])
def test_a_job_with_a_model_is_a_job_file(model: type[BaseModel], tmp_path: Path) -> None:
    job = build({"params": {"model": "m", "response_format": model}, "answer": {"json_schema": model}})
    (tmp_path / "job.toml").write_text(job.to_toml())
    assert batchflex.load_job(tmp_path / "job.toml").params == job.params
    assert job.answer.json_schema == pydantic_models.schema(model)


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ({"label": None}, True),
        ({"label": "good", "kind": None}, True),
        ({"label": "bad"}, False),
        ({"label": "good", "kind": 1}, False),
    ],
)
def test_a_null_among_the_values_of_a_field_is_a_type(answer: dict[str, Any], fits: bool) -> None:
    """A job file has no null, and the job of a folder is one."""
    schema = pydantic_models.schema(Maybe)
    assert "None" not in str(schema)
    assert (Shape(schema).complaint(answer) is None) is fits


def settings(endpoint: CountingEndpoint, **more: Any) -> dict[str, Any]:
    return {"endpoint": endpoint.base_url, "model": "m", "user": "A number for {{ x }}, please."} | more


def test_an_answer_must_satisfy_the_model_itself(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"number": 4}', unfit=0.4, unfit_answer='{"number": 3}')
    frame = pl.DataFrame({"x": range(30)})
    asked = settings(endpoint, response_format=Even)
    once = batchflex.complete(frame, **asked)
    wrong = once.filter(pl.col("status") == "invalid")
    assert 3 < wrong.height < 27
    assert set(wrong["error_message"]) == {"the answer does not fit Even: number: Value error, must be even"}
    again = batchflex.complete(frame, **asked, settings={"answer.max_reasks": 9})
    assert set(again["parsed"]) == {'{"number":4}'}


def test_a_model_may_hold_for_answers_without_asking_the_server_for_it(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"number": 3}')
    done = batchflex.complete(pl.DataFrame({"x": [1]}), **settings(endpoint, settings={"answer.json_schema": Even}))
    assert done["status"].to_list() == ["invalid"]


def test_a_validator_that_fails_in_its_own_way_ends_no_run(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"number": 4}', unfit=0.4, unfit_answer='{"number": 3}')
    done = batchflex.complete(pl.DataFrame({"x": range(10)}), **settings(endpoint, response_format=Careless))
    assert set(done["status"]) == {"ok", "invalid"}
    assert done["error_message"].drop_nulls().unique().to_list() == [
        "the answer does not fit Careless: a validator raised KeyError: 3"
    ]
