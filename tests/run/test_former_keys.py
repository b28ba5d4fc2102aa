"""Folders that commit eae3bc5 began, which sent every column: what it answered counts, and nothing is asked twice."""

from __future__ import annotations

import datetime
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import batchflex
from batchflex.cli import plan_text
from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.types import Outcome, Request
from batchflex.plan.plan import Plan
from batchflex.results import compact
from batchflex.storage import part_files
from batchflex.storage.output_folder import Folder
from tests.support.counting_endpoint import CountingEndpoint, body_hash

Rows = list[dict[str, Any]]


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


# Equal but for the other columns, equal in all, and with nothing beside.
UNNAMED = [
    ask("a", label="x"), ask("a", label="y"), ask("a", label="x"), ask("a"), ask("b", label="x"), ask("a", label="y"),
    ask("a"), ask("b", label="x"), ask("c", label="z", temperature=0.5),
]  # fmt: skip
NAMED = [row | {"id": f"r{number}"} for number, row in enumerate(UNNAMED)]
SHARED = [row | {"id": f"r{number % 3}"} for number, row in enumerate(UNNAMED)]
INPUTS = {"without ids": UNNAMED, "with ids": NAMED, "ids that come twice": SHARED}
NEW = [ask("a", label="y", id="new"), ask("a", label="x"), ask("b"), ask("b", label="x"), ask("a")]
JOBS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dedupe": {"input": {"dedupe": True}},
    "samples": {"sweep": {"samples": 2}},
    "sweep": {"sweep": {"temperature": [0, 1]}},
}


class Case:
    """A job over rows in a folder."""

    def __init__(self, folder: Path, endpoint: CountingEndpoint, job: dict[str, Any], on_change: str = "stop") -> None:
        self.path, self.out = folder / "in.jsonl", folder / "out"
        self.endpoint = endpoint
        self.data = {
            "job": {"out": str(self.out), "on_change": on_change, "retry_failed": 0},
            "endpoint": {"base_url": endpoint.base_url},
            "params": {"model": "m"},
            **job,
            "input": {"path": str(self.path), **job.get("input", {})},
        }

    def write(self, rows: Rows) -> None:
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def job(self, **limits: Any) -> Job:
        return build(self.data | {"limits": {"concurrency": 1, **limits}})

    def plan(self, *, former: bool) -> Plan:
        """It plans the requests as they are now, or as they were; test_golden holds the latter against what was pinned."""
        plan = Plan(self.job())
        plan.answered = (lambda keys: [True] * len(keys)) if former else None
        return plan

    def answer_as_then(self, some: Sequence[int], *, knows_rows: bool) -> int:
        """A part with answers to these of the requests. Commit eae3bc5 left such without where their rows are; a later
        version has found that by the keys, and may have merged the parts."""
        plan, folder = self.plan(former=True), Folder(self.out)
        with folder.held():
            if knows_rows:
                plan.know(folder)
                plan.begin()
            requests = everything(plan)
            outcomes = [_answer(requests[at], plan.labels[requests[at].point]) for at in some if at < len(requests)]
            part_files.write_part(folder.parts, 1, outcomes)
        return len(outcomes)

    def run(self, **limits: Any) -> batchflex.Run:
        return batchflex.run(self.job(**limits))

    def notes(self) -> list[str]:
        """What ``batchflex plan`` says of the rows."""
        return list(plan_text.forecast(self.job())["notes"])

    def asked(self) -> int:
        return int(self.endpoint.stats()["requests"])


def everything(plan: Plan) -> list[Request]:
    return [request for block in plan.blocks() for request in block]


def _answer(request: Request, point: str) -> Outcome:
    return Outcome(
        key=request.key.hex(), slot=request.slot.hex(), id=request.id, row=request.row, sample=request.sample, status="ok",
        attempts=1, started_at=1, finished_at=2, endpoint="then", run_id="then", content="then", response=b"{}", point=point,
        file=request.file, position=request.position,
    )  # fmt: skip


@pytest.mark.parametrize("knows_rows", [True, False])
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("rows", INPUTS)
def test_what_was_answered_then_is_not_asked_again(
    rows: str, job: str, knows_rows: bool, tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    """Half of the answers are of then, and a run that is stopped and gone on with asks each of the others once."""
    seed = random.Random(f"{rows} {job} {knows_rows}")
    case = Case(tmp_path, endpoint, JOBS[job], seed.choice(["stop", "rerun", "keep"]))
    case.write(INPUTS[rows])
    of_then = len(everything(case.plan(former=True)))
    there = case.answer_as_then(sorted(seed.sample(range(of_then), seed.randint(1, of_then))), knows_rows=knows_rows)
    if seed.random() < 0.5:
        case.run(budget_requests=seed.randint(1, 4))
    grown = list(INPUTS[rows])
    for row in NEW[: seed.randint(0, len(NEW))]:
        grown.insert(seed.choice([seed.randint(0, len(grown)), len(grown)]), row)
    case.write(grown)
    case.run(budget_requests=seed.randint(1, 4))
    whole = case.run()
    assert whole.stopped_by is None
    table = whole.results()
    assert table.height == whole.summary["planned"] == table["key"].n_unique()
    assert Counter(table["content"].to_list())["then"] == there, "an answer of then is not used"
    assert case.asked() == table.height - there, "something was asked twice"
    again = case.run()
    assert case.asked() == table.height - there and again.summary["done"] == table.height


def test_a_retry_asks_under_the_key_of_then_and_compacting_changes_nothing(
    tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    case = Case(tmp_path, endpoint, {})
    case.write(NAMED)
    assert case.answer_as_then([0, 1, 4], knows_rows=True) == 3
    keys = {row["id"]: row["key"] for row in case.run().results().iter_rows(named=True)}
    retried = batchflex.retry(case.out, where="id = 'r1'", settings={"override.max_tokens": 7})
    assert retried.summary["retry"]["asked_again"] == 1
    assert endpoint.log()[-1]["hash"] == body_hash({"model": "m", "max_tokens": 7, **ask("a")})
    table = retried.results()
    assert {row["id"]: row["key"] for row in table.iter_rows(named=True)} == keys
    assert sorted(table.filter(table["content"] == "then")["id"]) == ["r0", "r4"]
    folder = Folder(case.out)
    for before in (None, datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)):
        compact.carry_out(compact.preview(folder, None if before is None else "1d", before))
        asked = case.asked()
        assert case.run().results().equals(table) and case.asked() == asked


def test_only_parameters_are_sent_and_the_others_are_told_of_once(tmp_path: Path, endpoint: CountingEndpoint) -> None:
    case = Case(tmp_path, endpoint, {"input": {"params": ["odd"], "carry": ["kept"]}})
    rows = [
        ask("a", id="1", label="good", meta={"page": 1}, odd=1, kept=2, top_k=5, seed=3, metadata={"k": "v"}),
        ask("b", id="2", label=None, meta=None, metadata={"gold": 1}, prediction="good", store="Berlin", temprature=1),
    ]
    case.write(rows)
    heard: list[str] = []

    class Hearing:
        def tick(self, run_state: object) -> None: ...

        def note(self, text: str) -> None:
            heard.append(text)

    batchflex.run(case.job(), observer=Hearing())
    one = {"model": "m", **ask("a"), "odd": 1, "top_k": 5, "seed": 3, "metadata": {"k": "v"}}
    assert {entry["hash"] for entry in endpoint.log()} == {body_hash(one), body_hash({"model": "m", **ask("b")})}
    told = [note for note in heard if "beside 'messages'" in note]
    left_out = (
        "not sent, as no request parameters: the columns 'label', 'meta', 'metadata', 'prediction', 'store', 'temprature' "
        "beside 'messages'; did you mean 'temperature' by 'temprature'? "
        "(input.params names columns to send, input.carry those to carry into the results)"
    )
    sent = (
        "sent as request parameters, by their names: the column 'metadata' beside 'messages' "
        "(what is meant for something else stays here if input.carry names it)"
    )
    assert told == case.notes() == [left_out, sent]


def test_an_id_that_comes_twice_is_told_once_with_both_rows(tmp_path: Path, endpoint: CountingEndpoint) -> None:
    case = Case(tmp_path, endpoint, {})
    case.write([ask(str(number), id=f"r{number % 700}") for number in range(1_500)])
    told = "ids come more than once in the input: 'r0' in rows 0 and 700 (counted from 0, as in the results). "
    assert case.notes() == [told + "Each row has its own answer, but by their ids alone they cannot be told apart"]
    case.write([ask(str(number), id=f"r{number}") for number in range(700)])
    assert case.notes() == []
