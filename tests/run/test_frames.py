"""Frames of every kind, answered; labels and typed columns; functions as prompts; settings from Python."""

from __future__ import annotations

import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel, Field

import batchflex
from batchflex.results import answer_columns
from tests.support.command_line import environment, message, state
from tests.support.counting_endpoint import CountingEndpoint, body_hash

FRAME = pl.DataFrame({"name": ["c", "a", "b"], "text": ["third", "first", "second"]})


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCHFLEX_API_KEY", "FLEXAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ask(endpoint: CountingEndpoint) -> Any:
    def ask(frame: Any, *args: Any, **more: Any) -> Any:
        return batchflex.complete(frame, *args, **{"model": "m", "endpoint": endpoint.base_url} | more)

    return ask


# -------------------------------------------------------------------------------------------------------- kinds of frames


def test_pandas_in_pandas_out(ask: Any, endpoint: CountingEndpoint) -> None:
    frame = pd.DataFrame(
        {"text": ["third", None, "second", float("nan")], "stars": [1, 2, 3, 4]}, index=["x", "x", "y", "z"]
    )
    endpoint.knobs(poison={"third": "422"})
    answered = ask(frame, "Say {{ text }}", settings={"input.on_bad_row": "fail"})
    assert isinstance(answered, pd.DataFrame) and answered.index.tolist() == ["x", "x", "y", "z"]
    pd.testing.assert_frame_equal(answered[["text", "stars"]], frame)
    assert answered["status"].tolist() == ["failed", "failed", "ok", "failed"]
    assert answered["content"].dropna().tolist() == ["echo: Say second"]
    assert "row 4: 'text' is null" in answered["error_message"].iloc[3]
    assert str(answered["prompt_tokens"].dtype) == "Int64"
    with pytest.raises(batchflex.InputError, match="row 2: 'text' is null"):
        ask(frame, "Say {{ text }}")
    assert ask(frame, "Say {{ text or 'nothing' }}")["content"].tolist()[1] == "echo: Say nothing"


def test_other_kinds_come_back_as_they_came(ask: Any) -> None:
    for frame, kind in ((FRAME.lazy(), pl.LazyFrame), (FRAME.to_arrow(), pa.Table), (FRAME.to_pandas(), pd.DataFrame)):
        answered = ask(frame, "Say {{ text }}")
        assert isinstance(answered, kind)
        rows = answered.collect() if isinstance(answered, pl.LazyFrame) else pl.DataFrame(answered)
        assert rows["content"].to_list() == [f"echo: Say {text}" for text in FRAME["text"]]
    empty = ask(FRAME.to_pandas().head(0), "Say {{ text }}")
    assert isinstance(empty, pd.DataFrame) and empty.shape == (0, 12)


def test_messages_in_cells_of_pandas(ask: Any, endpoint: CountingEndpoint) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "two"}]}]
    answered = ask(pd.DataFrame({"messages": [message("one"), parts], "seed": pd.array([7, None], dtype="Int64")}))
    assert answered["status"].tolist() == ["ok", "ok"]
    sent = [{"model": "m", "messages": message("one"), "seed": 7}, {"model": "m", "messages": parts}]
    assert {each["hash"] for each in endpoint.log()} == {body_hash(body) for body in sent}


def test_a_folder_goes_on_with_another_kind_of_frame(ask: Any, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ask(FRAME, "Say {{ text }}", out=out)
    for frame in (FRAME.to_pandas(), FRAME.to_arrow(), FRAME.lazy(), FRAME.to_pandas().set_index("name")):
        ask(frame, "Say {{ text }}", out=out)
    assert endpoint.stats()["requests"] == 3


def test_an_index_called_id_tells_rows_apart(ask: Any, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "a"]}, index=pd.Index(["i", "j"], name="id"))
    ask(frame, "Say {{ text }} of {{ id }}", out=tmp_path / "out")
    ask(pl.from_pandas(frame.reset_index()), "Say {{ text }} of {{ id }}", out=tmp_path / "out")
    assert endpoint.stats()["requests"] == 2
    assert pl.read_parquet(tmp_path / "out" / "results.parquet")["id"].to_list() == ["i", "j"]


def test_scores_of_pandas() -> None:
    frame = pd.DataFrame({"id": ["q1", "q2"], "content": ["Paris", None], "capital": ["Paris", "Rome"]}, index=[7, 7])
    exact = {"kind": "exact", "expected": "capital"}
    scored = batchflex.score(frame, {"right": exact})
    assert (
        isinstance(scored, pd.DataFrame)
        and scored["score_right"].tolist() == [1, 0]
        and scored.index.tolist() == [7, 7]
    )
    assert batchflex.score(scored, {"right": exact}).columns.tolist() == scored.columns.tolist()
    told = batchflex.summarise(scored)
    assert told["points"][0]["scores"]["right"]["mean"] == 0.5
    both = [batchflex.summarise(each, {"right": exact}) for each in (frame, pl.from_pandas(frame))]
    assert both[0] == both[1]
    found = batchflex.compare(scored, pl.from_pandas(scored).with_columns(score_right=pl.lit(1.0)))
    assert isinstance(found.flips, pd.DataFrame) and found.flips["item"].tolist() == ["q2"]
    with pytest.raises(batchflex.JobError, match=r"^score\(\) takes a data frame.*found a dict"):
        batchflex.score({"content": ["a"]}, {"right": exact})


WITHOUT_PANDAS = """
import sys
import batchflex, polars as pl
frame = pl.DataFrame({"text": ["a"]})
answered = batchflex.complete(frame, "{{ text }}", model="m", endpoint=sys.argv[1])
batchflex.score(answered, {"short": {"kind": "length", "unit": "words", "max": 3}})
print(sorted({"narwhals", "batchflex.core.pandas_frames"} & sys.modules.keys()))
"""


def test_frames_of_polars_wait_for_no_other_library(endpoint: CountingEndpoint) -> None:
    """pyarrow itself imports pandas where it is installed; nothing here does."""
    command = [sys.executable, "-c", WITHOUT_PANDAS, endpoint.base_url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


# ----------------------------------------------------------------------------------------------- labels and typed columns


class Inner(BaseModel):
    name: str
    share: float


class Review(BaseModel):
    stars: int = Field(ge=1, le=5)
    share: float
    good: bool
    team: Literal["billing", "bug"] | None
    tags: list[str]
    inner: list[Inner]
    anything: dict[str, int]


ANSWER = (
    '{"stars": 4, "share": 1, "good": true, "team": null, "tags": ["a"], "inner": [{"name": "x", "share": 2}], '
    '"anything": {"k": 1}}'
)


def test_a_schema_makes_typed_columns(ask: Any, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer=ANSWER, poison={"first": "422"})
    answered = ask(FRAME, "Rate {{ text }}", schema=Review)
    assert answered.columns[:9] == [*FRAME.columns, *Review.model_fields][:9]
    inner = pl.List(pl.Struct({"name": pl.String, "share": pl.Float64}))
    kinds = [pl.Int64, pl.Float64, pl.Boolean, pl.String, pl.List(pl.String), inner, pl.String]
    assert [answered.schema[name] for name in Review.model_fields] == kinds
    assert answered.select(list(Review.model_fields)).row(0) == (
        4,
        1.0,
        True,
        None,
        ["a"],
        [{"name": "x", "share": 2.0}],
        '{"k":1}',
    )
    assert answered.select(list(Review.model_fields)).row(1) == (None,) * 7
    assert answered["status"].to_list() == ["ok", "failed", "ok"]
    of_pandas = ask(FRAME.to_pandas(), "Rate {{ text }}", schema=Review)
    kinds_of_pandas = [str(of_pandas[name].dtype) for name in ("stars", "share", "good", "tags")]
    assert kinds_of_pandas == ["Int64", "float64", "boolean", "object"]
    assert of_pandas["inner"].tolist() == [[{"name": "x", "share": 2.0}], None, [{"name": "x", "share": 2.0}]]


def test_an_answer_that_does_not_fit_leaves_its_columns_null(ask: Any, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer=ANSWER.replace('"stars": 4', '"stars": 6'))
    answered = ask(FRAME.head(1), "Rate {{ text }}", schema=Review)
    assert answered.select("stars", "status").row(0) == (None, "invalid")
    assert answered.schema["stars"] == pl.Int64
    assert ask(FRAME.clear(), "Rate {{ text }}", schema=Review).schema["stars"] == pl.Int64


def test_a_schema_may_be_a_dict(ask: Any, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"n": 3, "why": "so"}')
    schema = {
        "title": "An answer",
        "type": "object",
        "properties": {
            "n": {"type": ["integer", "null"]},
            "why": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["n"],
    }
    answered = ask(FRAME.head(1), "Rate {{ text }}", schema=schema)
    assert answered.select("n", "why").row(0) == (3, "so")
    asked = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": schema | {"properties": {"n": {"type": "integer"}}}},
    }
    assert ask(FRAME.head(1), "Rate {{ text }}", schema=asked)["n"].to_list() == [3]


def test_numbers_that_a_column_cannot_hold_are_kept_as_text(ask: Any, endpoint: CountingEndpoint) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    endpoint.knobs(answer='{"n": 123456789012345678901234567890}')
    answered = ask(FRAME.head(1), "{{ text }}", schema=schema)
    assert answered["status"].to_list() == ["ok"]
    assert "12345678901234567890" in str(answered["n"][0]) or "1.2345678901234568e29" in str(answered["n"][0]).lower()


def test_choices_are_the_short_way_to_a_label(ask: Any, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"label": "bug"}', poison={"first": "422"})
    answered = ask(FRAME, "billing or bug? {{ text }}", choices=("billing", "bug"))
    assert answered.columns[:4] == ["name", "text", "label", "status"]
    assert answered["label"].to_list() == ["bug", None, "bug"]
    for unique in (
        pd.Series(["billing", "bug"]).unique(),
        pl.Series(["billing", "bug"]),
        {"bug", "billing"},
        {"label": ["billing", "bug"]},
    ):
        assert ask(FRAME.head(1), "billing or bug? {{ text }}", choices=unique)["label"].to_list() == ["bug"]
    assert len({each["hash"] for each in endpoint.log() if each["outcome"] == "ok"}) == 2, "the same requests"
    team = Enum("team", {"BILLING": "billing", "BUG": "bug"})
    texts = Enum("texts", {"BILLING": "billing", "BUG": "bug"}, type=str)
    for made in (team, texts, list(texts), Literal["billing", "bug"], {"label": team}):
        assert ask(FRAME.head(1), "billing or bug? {{ text }}", choices=made)["label"].to_list() == ["bug"]
    assert len({each["hash"] for each in endpoint.log() if each["outcome"] == "ok"}) == 2, "the same requests again"
    with pytest.raises(batchflex.JobError, match="each choice must be text that is not empty; found 1"):
        ask(FRAME.head(1), "{{ text }}", choices=Enum("numbers", {"ONE": 1, "TWO": 2}))
    endpoint.knobs(answer='{"label": "neither"}')
    assert ask(FRAME.head(1), "{{ text }}", choices=["billing", "bug"]).select("label", "status").row(0) == (
        None,
        "invalid",
    )
    endpoint.knobs(answer='{"team": "x", "urgent": "yes"}')
    two = ask(FRAME.head(1), "{{ text }}", choices={"team": ["x", "y"], "urgent": ["yes", "no"]})
    assert two.select("team", "urgent").row(0) == ("x", "yes")


def test_answers_about_answers_have_names_that_can_be_told_before(ask: Any, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"label": "bug"}')
    once = ask(FRAME.head(1), "{{ text }}", choices=["billing", "bug"])
    with pytest.warns(batchflex.JobWarning, match="in the column 'answer_label'"):
        twice = ask(once, "{{ text }}", choices=["billing", "bug"])
    with pytest.warns(batchflex.JobWarning, match="in the column 'answer_label_2'"):
        thrice = ask(twice, "{{ text }}", choices=["billing", "bug"])
    names = ["label", *answer_columns.FIXED]
    assert thrice.columns[2:] == [*names, *(f"answer_{n}" for n in names), *(f"answer_{n}_2" for n in names)]


def test_paths_in_a_frame_are_texts(ask: Any, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("what it says")
    paths = [tmp_path / "note.txt", None]
    for frame in (pl.DataFrame({"path": pl.Series(paths, dtype=pl.Object)}), pd.DataFrame({"path": paths})):
        answered = ask(frame, "read: {{ path | file_text }}", settings={"input.files": str(tmp_path)})
        assert list(answered["content"]) == ["echo: read: what it says", "echo: read: "]
        assert answered["path"][0] == paths[0], "the frame's own column stays as it is"


def test_a_column_of_the_frame_that_is_called_like_a_field_stays(ask: Any, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"label": "bug", "status": "open"}')
    gold = FRAME.with_columns(label=pl.lit("billing"))
    schema = {"type": "object", "properties": {"label": {"type": "string"}, "status": {"type": "string"}}}
    with pytest.warns(batchflex.JobWarning) as told:
        answered = ask(gold, "{{ text }}", schema=schema)
    assert answered.columns[2:6] == ["label", "answer_label", "answer_status", "status"]
    assert answered.select("label", "answer_label", "answer_status", "status").row(0) == (
        "billing",
        "bug",
        "open",
        "ok",
    )
    assert [str(each.message) for each in told] == [
        "the field 'label' is in the column 'answer_label', as the frame has one of that name",
        "the field 'status' is in the column 'answer_status', as every row has one of that name",
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"choices": ["a", "b"], "schema": Review}, "schema= or choices="),
        ({"choices": ["a", "b"], "response_format": {"type": "json_object"}}, "choices= or response_format="),
        ({"choices": ["a"]}, "at least two"),
        ({"choices": ["a", "b"], "settings": {"response_format": {"type": "text"}}}, "override.response_format says"),
        ({"schema": Review, "settings": {"answer": {"choices": ["c", "d"]}}}, "answer.choices says"),
        ({"choices": "billing,bug"}, "must be a list of texts"),
        ({"choices": ["a", None]}, "found None"),
        ({"choices": ["a", "a"]}, "'a' comes twice"),
        ({"choices": {}}, "is empty"),
        ({"choices": {"team": "ab"}}, "the choices of 'team' must be a list"),
        ({"schema": list[int]}, "must be a pydantic model, or a JSON Schema"),
        ({"schema": {"type": "array", "items": {}}}, "an object with named fields"),
        ({"schema": {"type": "object", "properties": {"a": {"type": "nonsense"}}}}, "cannot be validated"),
    ],
)
def test_what_cannot_be_an_answer_is_refused(
    more: dict[str, Any], words: str, ask: Any, endpoint: CountingEndpoint
) -> None:
    with pytest.raises(batchflex.JobError, match=words):
        ask(FRAME, "{{ text }}", **more)
    assert endpoint.stats()["requests"] == 0


# ------------------------------------------------------------------------------------------------------------- functions


def test_a_function_makes_the_prompt(ask: Any, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []

    def user(row: dict[str, Any]) -> str:
        rows.append(row)
        return f"Say {row['text']}"

    by_template = ask(FRAME, "Say {{ text }}", system="You are {{ name }}", out=tmp_path / "out")
    more = {"out": tmp_path / "out"}
    assert ask(FRAME, user, system="You are {{ name }}", **more).equals(by_template)
    assert ask(FRAME, "Say {{ text }}", system=lambda row: f"You are {row['name']}", **more).equals(by_template)

    def messages(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "system", "content": f"You are {row['name']}"}, *message(user(row))]

    assert ask(FRAME.to_pandas(), messages=messages, **more)["content"].tolist() == by_template["content"].to_list()
    assert endpoint.stats()["requests"] == 3, "the same messages are the same requests"
    assert rows[:3] == FRAME.to_dicts() and len(rows) == 6
    assert ask(FRAME, user, system=lambda row: None)["status"].to_list() == ["ok"] * 3
    assert endpoint.log()[-1]["hash"] in {
        body_hash({"model": "m", "messages": message(f"Say {text}")}) for text in FRAME["text"]
    }


def test_a_function_that_says_something_else_is_a_changed_job(
    ask: Any, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    ask(FRAME, lambda row: row["text"], out=tmp_path / "out")
    with pytest.raises(batchflex.JobChanged, match="1 of 3"):
        ask(FRAME, lambda row: row["text"].replace("first", "1st"), out=tmp_path / "out")
    rerun = {"job.on_change": "rerun"}
    ask(FRAME, lambda row: row["text"].replace("first", "1st"), out=tmp_path / "out", settings=rerun)
    assert endpoint.stats()["requests"] == 4


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"user": lambda row: row["txt"]}, "user= raised KeyError: 'txt'; the columns are: name, text"),
        ({"user": lambda row: row.text}, "'dict' object has no attribute 'text'; a row is a dict: row['text']"),
        ({"user": lambda row: 1 / 0}, "user= raised ZeroDivisionError: division by zero"),
        ({"user": lambda row: None}, "user= must return text; it returned None"),
        ({"user": lambda row: "\ud800"}, "what user= returned holds half a character"),
        ({"user": lambda row: "a", "system": "{{ 1 // 0 }}"}, "the template fails: ZeroDivisionError"),
        ({"messages": lambda row: "hi"}, "messages= must return a list of messages"),
        ({"messages": lambda row: [{"role": "user", "content": {1, 2}}]}, "what messages= returned holds a set"),
        ({"messages": lambda row: [{"content": "a"}]}, "each message must be an object with a 'role'"),
    ],
)  # fmt: skip
def test_a_function_that_fails_names_the_row(
    prompt: dict[str, Any], words: str, ask: Any, endpoint: CountingEndpoint
) -> None:
    with pytest.raises(batchflex.InputError) as raised:
        ask(FRAME, **prompt)
    assert "row 1: " in str(raised.value) and words in str(raised.value)
    assert endpoint.stats()["requests"] == 0


def test_the_exception_of_a_function_is_the_cause_and_other_rows_can_be_asked(ask: Any) -> None:
    def user(row: dict[str, Any]) -> str:
        if row["text"] == "first":
            raise ValueError("no first, please")
        return str(row["text"])

    with pytest.raises(batchflex.InputError, match="row 2: user= raised ValueError: no first, please") as raised:
        ask(FRAME, user)
    assert isinstance(raised.value.__cause__, ValueError)
    answered = ask(FRAME, user, settings={"input": {"on_bad_row": "fail"}})
    assert answered["status"].to_list() == ["ok", "failed", "ok"]
    assert answered["error_message"][1] == "row 2: user= raised ValueError: no first, please"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"user": lambda row: "a", "system": "{{ nmae }}"}, "did you mean 'name'"),
        ({"user": lambda row: "a", "messages": lambda row: []}, "not both"),
        ({"user": lambda row: "a", "messages": [{"role": "user", "content": "x"}]}, "not both"),
    ],
)
def test_functions_and_templates_that_do_not_go_together(prompt: dict[str, Any], words: str, ask: Any) -> None:
    with pytest.raises(batchflex.JobError, match=words):
        ask(FRAME, **prompt)


# -------------------------------------------------------------------------------------------------------------- settings


@pytest.fixture
def job(endpoint: CountingEndpoint, tmp_path: Path) -> dict[str, Any]:
    return {
        "job": {"name": "j", "out": str(tmp_path / "elsewhere")},
        "endpoint": {"base_url": endpoint.base_url},
        "prompt": {"user": "Say {{ text }}"},
        "params": {"model": "m"},
        "input": {"id": "name", "carry": ["text"]},
    }


def test_a_job_runs_over_a_frame(endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path) -> None:
    job["input"]["path"] = "not-there.csv"
    run = batchflex.run(job, frame=FRAME.to_pandas(), out=tmp_path / "out", settings={"temperature": 0})
    assert "not-there" not in (tmp_path / "out" / "job.toml").read_text()
    assert run.out == tmp_path / "out"
    assert run.results().select("id", "text", "content").rows() == [
        (name, text, f"echo: Say {text}") for name, text in FRAME.rows()
    ]
    assert endpoint.log()[0]["hash"] == body_hash({"model": "m", "messages": message("Say third"), "temperature": 0})
    FRAME.write_parquet(tmp_path / "in.parquet")
    batchflex.run(job, settings={"input.path": tmp_path / "in.parquet", "temperature": 0}, out=tmp_path / "out")
    assert endpoint.stats()["requests"] == 3, "the same rows are the same requests"
    again = batchflex.retry(tmp_path / "out", where="id = 'a'", settings={"limits": {"concurrency": 1}})
    assert (again.summary["ok"], endpoint.stats()["requests"]) == (3, 4)
    with pytest.raises(batchflex.JobError, match=r"^run\(\) takes a data frame"):
        batchflex.run(job, frame=[{"text": "a"}])


def test_a_frame_that_was_run_over_is_retried(endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "messages": [message("one"), message("two")], "top_k": [5, 6]})
    own = {name: value for name, value in job.items() if name not in ("prompt", "input")}
    batchflex.run(own, frame=frame)
    assert body_hash({"model": "m", "messages": message("one"), "top_k": 5}) in {
        each["hash"] for each in endpoint.log()
    }
    again = batchflex.retry(tmp_path / "elsewhere", where="id = 'b'", frame=frame)
    assert (endpoint.stats()["requests"], again.summary["ok"]) == (3, 2)


def test_what_functions_made_is_retried_with_messages(ask: Any, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    ask(FRAME, lambda row: row["text"], out=tmp_path / "out")
    with pytest.raises(batchflex.InputError, match="the frame needs a column 'messages'"):
        batchflex.retry(tmp_path / "out", where="true", frame=FRAME)
    made = FRAME.to_pandas().assign(messages=[message(text) for text in FRAME["text"]])
    again = batchflex.retry(tmp_path / "out", where="content = 'echo: first'", frame=made)
    assert (endpoint.stats()["requests"], again.summary["ok"]) == (4, 3)


@pytest.mark.anyio
async def test_settings_under_a_loop(endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path) -> None:
    run = await batchflex.arun(job, frame=FRAME.lazy(), out=tmp_path / "out", settings={"max_tokens": 7})
    assert run.results()["content"].len() == 3 and run.out == tmp_path / "out"


def test_settings_go_with_files_mappings_and_jobs(
    endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path
) -> None:
    import tomli_w

    FRAME.write_parquet(tmp_path / "in.parquet")
    (tmp_path / "j.toml").write_text(
        tomli_w.dumps(job | {"input": {"path": "in.parquet"}, "notify": {"metrics_file": "m.prom"}})
    )
    loaded = batchflex.load_job(tmp_path / "j.toml", {"limits": {"rpm": 6000}, "temperature": 0.5})
    assert (loaded.limits.rpm, loaded.override) == (6000, {"temperature": 0.5})
    for number, spec in enumerate((tmp_path / "j.toml", loaded)):
        out = tmp_path / f"out{number}"
        batchflex.run(
            spec, settings={"limits.concurrency": 2, "temperature": 0.5, "params": {"max_tokens": 9}}, out=out
        )
        kept = batchflex.load_job(out / "job.toml")
        assert (kept.limits.concurrency, kept.override, kept.params) == (
            2,
            {"temperature": 0.5},
            {"model": "m", "max_tokens": 9},
        )
        assert (state(out)["ok"], kept.notify.metrics_file) == (3, loaded.notify.metrics_file)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limits.rmp": 60}, "did you mean 'rpm'"),
        ({"limits": {"rmp": 60}}, "did you mean 'rpm'"),
        ({"limit.rpm": 60}, "did you mean 'limits'"),
        ({"rpm": 60}, "did you mean 'limits.rpm'"),
        ({"concurency": 4}, "did you mean 'limits.concurrency'"),
        ({"temprature": 0}, "did you mean 'temperature'"),
        ({"limits.rpm": "many"}, "must be a number"),
        ({3: 4}, "a place is text"),
        ("limits.rpm=60", "must be a dict"),
    ],
)
def test_settings_that_there_are_not_are_refused(
    settings: dict[Any, Any], words: str, job: dict[str, Any], ask: Any, endpoint: CountingEndpoint
) -> None:
    with pytest.raises(batchflex.JobError, match=words):
        batchflex.run(job, frame=FRAME, settings=settings)
    with pytest.raises(batchflex.JobError, match=words):
        ask(FRAME, "{{ text }}", settings=settings)
    assert endpoint.stats()["requests"] == 0


def test_a_cell_that_is_no_unicode_is_a_fault_of_its_row_if_it_is_asked(ask: Any) -> None:
    table = pd.DataFrame({"text": ["a", "b"], "note": pd.Series(["fine", "caf\udce9"], dtype=object)})
    assert ask(table, "{{ text }}")["status"].tolist() == ["ok", "ok"]
    answered = ask(table, "{{ note }}", settings={"input.on_bad_row": "fail"})
    assert answered["status"].tolist() == ["ok", "failed"] and "lone surrogate" in answered["error_message"][1]


def test_a_frame_is_no_job() -> None:
    with pytest.raises(batchflex.JobError, match=r"found a DataFrame\. A data frame goes into frame="):
        batchflex.run(FRAME)  # type: ignore[arg-type]


def test_a_parameter_that_nobody_knows_is_sent(endpoint: CountingEndpoint, ask: Any) -> None:
    ask(FRAME.head(1), "{{ text }}", settings={"my_servers_own": 1})
    assert endpoint.log()[0]["hash"] == body_hash({"model": "m", "messages": message("third"), "my_servers_own": 1})


def test_another_server_gets_no_headers_of_the_jobs_own(endpoint: CountingEndpoint, job: dict[str, Any]) -> None:
    own = job | {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "headers": {"x-team": "secret"}}}
    run = batchflex.run(own, frame=FRAME, settings={"endpoint": {"base_url": endpoint.base_url}})
    assert run.exit_code == 0 and "secret" not in (run.out / "job.toml").read_text()
