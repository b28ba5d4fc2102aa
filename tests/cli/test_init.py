"""A prompt on the command line in place of a job file, and `batchflex init`, which makes a job file of it or of five answers."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, strategies as st

from batchflex.config.commented_job import commented
from batchflex.config.loader import build
from batchflex.plan import sample_of
from tests.support.command_line import called, environment, state, table, write_rows
from tests.support.counting_endpoint import CountingEndpoint

TICKETS = (
    "ticket_id,text,team\na1,My card was charged twice,billing\na2,The page stays blank,bug\na3,Hello there,other\n"
)
PROMPT = ("--prompt", "Which team? {{ text }}", "--choices", "billing,bug,other")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table in it, in which commands are started."""
    (tmp_path / "tickets.csv").write_text(TICKETS)
    (tmp_path / "notes.txt").write_text("no table\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(endpoint: CountingEndpoint) -> tuple[str, ...]:
    endpoint.knobs(answer='{"label": "bug"}')
    return ("--base-url", endpoint.base_url, "--model", "m")


# ------------------------------------------------------------------------------------------------- without a job file


def test_a_table_and_a_prompt_are_a_job(here: Path, endpoint: CountingEndpoint, server: tuple[str, ...]) -> None:
    done = called(
        "run", "tickets.csv", *PROMPT, *server, "--system", "You sort {{ team }}.", "--set", "temperature=0.5"
    )
    assert done.code == 0
    results = table(here / "runs" / "tickets")
    assert results["label"].to_list() == ["bug"] * 3
    assert results.select("ticket_id", "text", "team").equals(pl.read_csv(here / "tickets.csv"))
    planned = called(
        "plan", "tickets.csv", *PROMPT, *server, "--system", "You sort {{ team }}.", "--set", "temperature=0.5"
    )
    assert "3 done already, 0 to send" in planned.out
    body = json.loads(planned.out.partition("example\n")[2])
    assert [each["content"] for each in body["messages"]] == [
        "You sort billing.",
        "Which team? My card was charged twice",
    ]
    label = body["response_format"]["json_schema"]["schema"]["properties"]["label"]
    assert (label["enum"], body["temperature"]) == (["billing", "bug", "other"], 0.5)


def test_the_same_command_goes_on_and_another_prompt_is_a_changed_job(
    here: Path, endpoint: CountingEndpoint, server: tuple[str, ...]
) -> None:
    command = ["run", "tickets.csv", *PROMPT, *server, "--id", "ticket_id", "--carry", "team"]
    assert called(*command).code == 0
    with (here / "tickets.csv").open("a") as stream:
        stream.write("a4,One more,bug\n")
    assert called(*command).code == 0
    assert endpoint.stats()["requests"] == 4
    results = table(here / "runs" / "tickets")
    assert (results["id"].to_list(), "text" in results.columns) == (["a1", "a2", "a3", "a4"], False)
    other = ["Which one? {{ text }}" if word.startswith("Which team") else word for word in command]
    changed = called(*other)
    assert changed.code == 2 and "the job has changed" in changed.err and endpoint.stats()["requests"] == 4
    assert called(*other, "--on-change", "rerun").code == 0
    assert endpoint.stats()["requests"] == 8


def test_an_answer_may_be_any_json_that_fits_a_schema(here: Path, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"amount": 3}')
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
    (here / "invoice.json").write_text(json.dumps(schema))
    (here / "list.json").write_text("[]")
    (here / "torn.json").write_text("{")
    asks = ("run", "tickets.csv", "--prompt", "{{ text }}", "--base-url", endpoint.base_url, "--model", "m")
    assert called(*asks, "--schema", "invoice.json").code == 0
    assert table(here / "runs" / "tickets")["amount"].to_list() == [3] * 3
    whole = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": schema}}
    (here / "format.json").write_text(json.dumps(whole))
    assert called(*asks, "--schema", "format.json").code == 0
    assert endpoint.stats()["requests"] == 3, "it is the same request"
    for file, said in (
        ("invoise.json", "there is no such file; did you mean invoice.json?"),
        ("list.json", "a JSON Schema is an object"),
        ("torn.json", "it is no JSON"),
    ):
        refused = called(*asks, "--schema", file)
        assert refused.code == 2 and said in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tickets.csv"], "needs a prompt made of its columns: --prompt '… {{ name_of_a_column }}'"),
        (["tickts.csv", *PROMPT], "there is no input file tickts.csv; did you mean tickets.csv?"),
        (["tickts.csv"], "there is no input file tickts.csv; did you mean tickets.csv?"),
        (["tickets", *PROMPT], "there is no input file tickets; did you mean tickets.csv?"),
        (["notes.txt", *PROMPT], "is neither a job file (.toml) nor requests"),
        (["tickets.csv", "--prompt", "{{ txt }}"], "did you mean 'text'?"),
        (["tickets.csv", "--prompt", ""], "prompt.user: must be text that is not empty"),
        (["tickets.csv", "--prompt", "{{ text }}", "--choices", "one"], "needs at least two choices"),
        (["tickets.csv", "--prompt", "{{ text }}", "--choices", "a,b", "--schema", "x"], "not allowed with argument"),
        (["tickets.csv", *PROMPT, "--id", "nothing"], "input.id names the column 'nothing', which is not there"),
    ],
)
def test_what_is_wrong_with_it_is_said(words: list[str], said: str, here: Path, server: tuple[str, ...]) -> None:
    refused = called("run", *words, *server)
    assert refused.code == 2 and said in refused.err, refused.err


def test_the_command_that_keeps_it_as_a_job_file_is_printed_and_asks_nothing_again(
    here: Path, endpoint: CountingEndpoint, server: tuple[str, ...]
) -> None:
    more = ("--rpm", "6000", "--set", "temperature=0", "--log-file", "x.log", "-q", "--wait", "5m")
    assert "to keep this" not in called("run", "tickets.csv", *PROMPT, *server, *more, "--out", "quiet").err
    asks = ("--debug", "run", "--wait", "tickets.csv", *PROMPT, *server, *[word for word in more if word != "-q"])
    done = called(*asks)
    assert "to keep this" not in called(*asks).err, "it was said"
    (printed,) = re.findall(r"to keep this as a job file: batchflex (.*)", done.err)
    words = subprocess.run(["sh", "-c", f'printf "%s\\0" {printed}'], capture_output=True, text=True, check=True).stdout
    assert words.split("\0")[:-1] == [
        "init",
        "tickets.csv",
        *PROMPT,
        *server,
        "--rpm",
        "6000",
        "--set",
        "temperature=0",
    ]
    made = called(*words.split("\0")[:-1])
    assert made.code == 0 and "written: tickets.toml" in made.err
    before = endpoint.stats()["requests"]
    assert called("run", "tickets.toml").code == 0
    assert endpoint.stats()["requests"] == before
    assert state(here / "runs" / "tickets")["planned"] == 3
    assert called(*words.split("\0")[:-1], "-o", "sorted.toml").code == 0
    named = tomllib.loads((here / "sorted.toml").read_text())["job"]
    assert named == {"name": "sorted", "out": "runs/tickets"}, "under another name it goes on there, too"
    rows = write_rows(here / "rows.jsonl", 1)
    assert "to keep this" not in called("run", rows, *server).err, "of requests there is nothing to keep but options"


# --------------------------------------------------------------------------------------------------------- job files

INPUTS = {
    "table": "tickets.csv",
    "folder": "in",
    "pattern": "in/*.csv",
    "absolute": "ABSOLUTE",
    "requests": "rows.jsonl",
}
ANSWERS = {"labels": PROMPT[2:], "schema": ("--schema", "schema.json"), "text": ()}
SERVERS: dict[str, tuple[str, ...]] = {
    "local": (),
    "server": ("--base-url", "http://127.0.0.1:9/v1", "--model", "m"),
    "flexai": ("--endpoint", "flexai", "--model", "gpt-oss-20b"),
}
FILES = {"here": (), "below": ("-o", "jobs/x.toml")}


@pytest.mark.parametrize(
    ("source", "answer", "server_", "file"),
    [(*each, list(FILES)[number % 2]) for number, each in enumerate(itertools.product(INPUTS, ANSWERS, SERVERS))],
)
def test_a_job_file_of_any_options_can_be_planned(
    source: str, answer: str, server_: str, file: str, here: Path
) -> None:
    for folder in ("in", "jobs"):
        (here / folder).mkdir()
    (here / "in" / "one.csv").write_text(TICKETS)
    (here / "schema.json").write_text('{"type": "object", "title": "a \\"b\\" \\\\ c\\nd"}')
    write_rows(here / "rows.jsonl", 3)
    spec = INPUTS[source].replace("ABSOLUTE", str(here / "tickets.csv"))
    prompt = () if source == "requests" else ("--prompt", 'Say "why"\\\n{{ text }}\n')
    swept = ("--set", "sweep.temperature=[0.0, 1.0]", "--set", "max_tokens=9")
    options = (*prompt, *ANSWERS[answer], *SERVERS[server_], *swept, "--rpm", "60", "--deadline", "5h")
    made = called("init", spec, *options, *FILES[file])
    assert made.code == 0, made.err
    (path,) = re.findall(r"written: (.*?);", made.err)
    planned = called("plan", path, "--json")
    assert planned.code == 0, planned.err
    assert planned.summary["requests"] == 6
    data = tomllib.loads(Path(path).read_text())
    assert data["limits"] == {"rpm": 60, "deadline": "5h"}


def test_what_is_not_said_is_found_in_the_input_and_said(here: Path, server: tuple[str, ...]) -> None:
    made = called("init", "tickets.csv", *server)
    assert made.code == 0
    assert "the answers are labels, those of the column 'team': billing, bug, other" in made.err
    assert "the prompt is a guess, over the column 'text'" in made.err
    job = tomllib.loads((here / "tickets.toml").read_text())
    assert job["input"] == {"path": "tickets.csv", "id": "ticket_id", "carry": "*"}
    assert job["score"] == [{"name": "accuracy", "kind": "exact", "answer": "parsed.label", "expected": "team"}]
    assert called("run", "tickets.toml", "-q", "--set", "job.report=false").code == 0
    scores = json.loads((here / "runs" / "tickets" / "scores.json").read_text())
    assert scores["points"][0]["scores"]["accuracy"]["mean"] == pytest.approx(1 / 3)


def test_how_a_table_is_read_is_kept_in_the_job_file(here: Path, server: tuple[str, ...]) -> None:
    lines = [f"{number};Grüße aus Köln, Nummer {number}\n" for number in range(9)]
    (here / "post.csv").write_bytes("".join(["id;text\n", *lines]).encode("windows-1252"))

    def kept(*more: str) -> dict[str, Any]:
        assert called("init", "post.csv", *PROMPT, *server, *more, "--force").code == 0
        found: dict[str, Any] = tomllib.loads((here / "post.toml").read_text())["input"]
        return found

    usual = {"path": "post.csv", "carry": "*"}
    assert kept() == usual | {"separator": ";", "encoding": "cp1252"}
    assert kept("--set", "input.encoding=latin-1") == usual | {"separator": ";", "encoding": "latin-1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "init needs an input"),
        (["tickets.csv", "--base-url", "http://127.0.0.1:9/v1"], "which model to ask is not said: --model M"),
        (["tickets.csv", "--prompt", "{{ txt }}"], "did you mean 'text'?"),
        (["tickets.csv", "-o", "job.txt"], "the name of a job file ends in .toml"),
        (["job.toml"], "is a job file already"),
        (["tickts.csv"], "did you mean tickets.csv?"),
        (["numbers.csv"], "has no column of texts to ask about"),
        (["tickets.csv", "-o", "no/such/folder.toml"], "cannot be written: No such file or directory"),
        (["tickets.csv", "--set", "limits.rmp=1"], "did you mean 'rpm'?"),
    ],
)
def test_a_job_file_with_a_mistake_is_not_written(words: list[str], said: str, here: Path) -> None:
    (here / "numbers.csv").write_text("a\n\n")
    refused = called("init", *words)
    assert refused.code == 2 and said in refused.err, refused.err
    assert list(here.rglob("*.toml")) == []


def answered(*answers: str, command: tuple[str, ...] = ()) -> tuple[int, str]:
    """What init says on a terminal, to somebody who waits for each question."""
    terminal, inside = pty.openpty()
    init = [sys.executable, "-m", "batchflex", "init", *command]
    process = subprocess.Popen(
        init, stdin=inside, stdout=inside, stderr=inside, env=environment(), start_new_session=True
    )
    os.close(inside)
    said, left = "", list(answers)
    while select.select([terminal], [], [], 60)[0]:
        try:
            said += os.read(terminal, 4096).decode()
        except OSError:  # it has ended
            break
        if left and said.endswith(": "):
            os.write(terminal, f"{left.pop(0)}\n".encode())
    else:
        process.kill()
    os.close(terminal)
    assert left == [], said
    return process.wait(), said.replace("\r\n", "\n")


def test_five_questions_make_a_job_file(here: Path, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(answer='{"label": "bug"}')
    code, said = answered("", "txt", "", "labels", "", endpoint.base_url, "m", "wrong.txt", "mine.toml")
    assert code == 0, said
    assert "[tickets.csv]" in said and "did you mean 'text'?" in said and "[billing,bug,other]" in said
    assert "ends in .toml" in said and "written: mine.toml" in said
    assert called("run", "mine.toml", "-q", "--set", "job.report=false").code == 0
    assert table(here / "runs" / "mine")["label"].to_list() == ["bug"] * 3


def test_a_prompt_that_cannot_be_asked_is_told_when_it_is_given(here: Path) -> None:
    prompts = ("{{ txt }}?", "Which team? {{ text }", "{{ text }}?")
    code, said = answered(*prompts, "text", "local", "mine.toml", command=("tickets.csv",))
    assert code == 0, said
    assert "did you mean 'text'?" in said and said.count("the whole prompt") == 3
    assert tomllib.loads((here / "mine.toml").read_text())["prompt"] == {"user": "{{ text }}?"}


def test_labels_with_commas_stand_in_quotes(here: Path) -> None:
    rows = [f'a long text {n},"bug, or ""not"""\nanother long text {n},it\'s fine\n' for n in range(9)]
    (here / "tickets.csv").write_text("text,team\n" + "".join(rows))
    labels = ['bug, or "not"', "it's fine"]

    def written(file: str) -> list[str]:
        params = tomllib.loads((here / file).read_text())["params"]
        found: list[str] = params["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
        return found

    given = ("--prompt", "{{ text }}", "--model", "m")
    assert called("init", "tickets.csv", *given, "--choices", '"bug, or ""not""", it\'s fine').code == 0
    assert written("tickets.toml") == labels
    code, said = answered("", "labels", '"bug', "", "local", "mine.toml", command=("tickets.csv",))
    assert code == 0 and '["bug, or ""not""",it\'s fine]' in said and "a label in quotes ends with one" in said, said
    assert sorted(written("mine.toml")) == sorted(labels)
    for wrong, why in (('"a"b,c', "a label in quotes ends with one"), (",,", "must be labels, with commas")):
        refused = called("init", "tickets.csv", *given, "--choices", wrong)
        assert refused.code == 2 and why in refused.err and "columns" not in refused.err


def test_a_job_file_that_is_there_is_replaced_with_force_alone(here: Path) -> None:
    (here / "tickets.toml").write_text("mine")
    refused = called("init", "tickets.csv", *PROMPT)
    assert refused.code == 2 and "tickets.toml is there already" in refused.err
    assert (here / "tickets.toml").read_text() == "mine"
    assert called("init", "tickets.csv", *PROMPT, "--force").code == 0
    assert tomllib.loads((here / "tickets.toml").read_text())["prompt"] == {"user": PROMPT[1]}


def test_questions_that_are_not_answered_to_the_end_write_nothing(here: Path) -> None:
    code, said = answered("text", "\x04", command=("tickets.csv",))
    assert code == 2 and "not answered to the end; nothing was written" in said
    assert list(here.glob("*.toml")) == []


# --------------------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("id,body_text,label\n1,a long text here,x\n2,another long text,y\n", ("body_text", None, "label")),
        ("ticket_id,note\n1,hello\n1,hello\n", ("note", None, None)),
        ("a,b\n,\n", (None, None, None)),
        ("key,text,category\nk1,some words,\nk2,other words,only\n", ("text", "key", None)),
    ],
)
def test_what_columns_are(text: str, found: tuple[str | None, ...], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    sample = sample_of(str(tmp_path / "x.csv"))
    assert (sample.text_column, sample.id_column, sample.label_column) == found


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(user=TEXTS, model=TEXTS, labels=st.lists(TEXTS, max_size=3))
def test_a_commented_job_reads_as_it_was(user: str, model: str, labels: list[str]) -> None:
    asked_for = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": labels}}}
    job: dict[str, Any] = {
        "job": {"name": "x"}, "input": {"path": "x.csv"}, "prompt": {"user": user},
        "params": {"model": model, "response_format": asked_for},
        "sweep": {"points": [{"temperature": 0.5}]}, "score": [{"name": "s", "kind": "exact"}],
    }  # fmt: skip
    read = tomllib.loads(commented(job, "x.toml"))
    assert {name: value for name, value in read.items() if value != {}} == job
    assert [name for name, value in read.items() if value == {}] == ["answer", "limits"]


def test_every_suggestion_in_a_job_file_is_right() -> None:
    asked_for = {"response_format": {"type": "json_object"}}
    text = commented({"job": {"name": "x"}, "prompt": {"user": "{{ a }}"}, "params": asked_for}, "x.toml")
    lines = [re.sub(r"^# (?=\[|\w+ = )", "", line) for line in text.splitlines()]
    job = build(tomllib.loads("\n".join(lines)) | {"prices": {"input": 1, "output": 1}})
    assert (job.limits.rpm, job.params["max_tokens"], job.answer.max_reasks) == (300, 64, 2)
    assert job.endpoint.base_url == "http://127.0.0.1:8000/v1"
