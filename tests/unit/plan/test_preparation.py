"""What earlier runs left is found without going through the plan where it is the same, and then just as with a pass."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.config.diff import SHAPING
from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.errors import InputError, JobChanged
from batchflex.core.request_keys import KeySet
from batchflex.core.types import Outcome, Request
from batchflex.plan.answer_index import AnswerIndex
from batchflex.plan.plan import Plan
from batchflex.plan.planner import Passed
from batchflex.plan.preparation import Prepared, prepare, survey
from batchflex.storage import FolderStore, Layout, journal, part_files, writer
from batchflex.storage.output_folder import Folder
from batchflex.storage.part_index import Positions
from tests.support.command_line import called, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.young_files import aged


def job_of(folder: Path, rows: Sequence[dict[str, Any]], **sections: Any) -> Job:
    path = folder / "in.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    aged(path)
    tables = {"params": {"model": "m"}, "job": {"out": str(folder / "out")}, **sections}
    tables["input"] = {"path": str(path), **sections.get("input", {})}
    return build(tables)


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def answer(plan: Plan, request: Request, status: str = "ok") -> Outcome:
    return Outcome(
        key=request.key.hex(), slot=request.slot.hex(), id=request.id, row=request.row, sample=request.sample,
        status=status, attempts=1, started_at=1, finished_at=2, endpoint="e", run_id="r",
        point=plan.labels[request.point], file=request.file, position=request.position,
    )  # type: ignore[arg-type]  # fmt: skip


def everything(plan: Plan) -> list[Request]:
    return [request for block in plan.blocks() for request in block]


def seal(job: Job, number: int, some: slice, **changes: Any) -> None:
    """A part with the answers to these requests, as a run leaves it."""
    folder = Folder(job.out)
    with folder.held():
        plan = Plan(job)
        plan.know(folder)
        plan.begin()
        outcomes = [msgspec.structs.replace(answer(plan, r), **changes) for r in everything(plan)[some]]
        part_files.write_part(folder.parts, number, outcomes)
        folder.write_job(job.resolved())


ROW = st.builds(
    lambda text, id: asked(text) | ({} if id is None else {"id": id}),
    st.sampled_from(["a", "b", "c", "d"]),
    st.none() | st.sampled_from(["x", "y", "z"]),
)


any_rows = given(
    rows=st.lists(ROW, min_size=1, max_size=25),
    sweep=st.sampled_from([{}, {"samples": 2}, {"temperature": [0.0, 1.0]}, {"seed": [1, 2], "samples": 2}]),
    dedupe=st.booleans(),
    limit=st.none() | st.integers(1, 30),
    seed=st.integers(0, 1_000),
    share=st.sampled_from([0.2, 0.7, 0.95, 1.0]),
)
_settings = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@any_rows
@settings(_settings, max_examples=50)
def test_what_is_left_is_the_same_with_and_without_a_pass(
    tmp_path_factory: pytest.TempPathFactory, **given: Any
) -> None:
    what_is_left_is_the_same(tmp_path_factory.mktemp("places"), **given)


@pytest.mark.slow
@any_rows
@settings(_settings, max_examples=250)
def test_what_is_left_is_the_same_of_many_more_rows_too(tmp_path_factory: pytest.TempPathFactory, **given: Any) -> None:
    what_is_left_is_the_same(tmp_path_factory.mktemp("places"), **given)


def what_is_left_is_the_same(
    folder: Path,
    rows: list[dict[str, Any]],
    sweep: dict[str, Any],
    dedupe: bool,
    limit: int | None,
    seed: int,
    share: float,
) -> None:
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = {"params": {"model": "m"}, "sweep": sweep, "input": {"path": str(folder / "in.jsonl"), "dedupe": dedupe}}
    if limit is not None:
        tables["input"]["limit"] = limit
    job = build(tables)
    plan = Plan(job)
    plan.know(Folder(folder / "out"), remember=False)
    chance = random.Random(seed)
    answers = [
        answer(plan, request, chance.choice(["ok", "ok", "ok", "truncated", "failed"]))
        for request in everything(plan)
        if chance.random() < share
    ]
    parts = FolderStore(folder / "parts")
    parts.prepare()
    for number in range(0, len(answers), 7):
        part_files.write_part(parts, number, answers[number : number + 7])
    whole = AnswerIndex(parts, 1)
    surveyed, placed = (
        AnswerIndex(parts, 1, plan.labels, positions=Positions(layout)) for layout in (Layout(), plan.layout())
    )
    left = [request for block in plan.blocks() for request in whole.sort_out(block)]
    diff, _ = survey(job, plan, surveyed)
    after = surveyed.passed(surveyed.finished(plan.per_item), plan.per_item)
    again = list(plan.blocks(after))
    assert [request for block in again for request in surveyed.sort_out(block)] == left
    assert after.requests + sum(map(len, again)) == diff.planned == len(everything(plan))
    passed = placed.passed(placed.finished(plan.per_item), plan.per_item)
    read = list(plan.blocks(passed))
    assert [request for block in read for request in placed.sort_out(block)] == left
    assert passed.requests + sum(map(len, read)) == diff.planned
    assert placed.statuses() == surveyed.statuses()
    assert placed.planned().sort("row", "point", "hi").equals(surveyed.planned().sort("row", "point", "hi"))
    one, other = placed.diff(), surveyed.diff()
    assert (one.done, one.failed_again) == (other.done, other.failed_again)
    finished = {row for row in range(len(rows)) if passed.rows[row : row + 1] == b"\1"}
    assert not finished & {request.row for block in read for request in block}
    if share == 1.0 and not dedupe and not any(answer.status == "failed" for answer in answers):
        assert read == []


# ----------------------------------------------------------------------------------- which way it is found, and when


def prepared(job: Job) -> Prepared:
    return prepare(job, Plan(job), Folder(job.out))


def left(found: Prepared) -> list[str]:
    sort_out = found.done.sort_out if found.done is not None else list
    return [request.id for block in found.blocks for request in sort_out(block)]


@pytest.fixture
def half(tmp_path: Path) -> Job:
    """A job of ten rows of which five are answered, as their parts tell."""
    job = job_of(tmp_path, [asked(str(i), id=f"r{i}") for i in range(10)])
    seal(job, 1, slice(5))
    return job


def test_answers_to_the_same_plan_are_found_by_their_positions(half: Job) -> None:
    found = prepared(half)
    assert found.diff is not None
    assert (found.diff.done, found.passed, found.segment) == (5, 5, 2)
    assert left(found) == ["r5", "r6", "r7", "r8", "r9"]


@pytest.mark.parametrize("limit", [3, 5, 7])
def test_a_limit_is_no_other_plan(half: Job, limit: int) -> None:
    job = half.model_copy(update={"input": half.input.model_copy(update={"limit": limit})})
    if limit < 5:
        job = job.model_copy(update={"job": job.job.model_copy(update={"on_change": "rerun"})})
    found = prepared(job)
    assert found.diff is not None and found.diff.orphans == max(0, 5 - limit), (
        "answers beyond the limit belong to no row"
    )
    assert left(found) == [f"r{i}" for i in range(5, limit)]


def test_a_job_that_sends_otherwise_is_noticed_still(half: Job) -> None:
    job = half.model_copy(update={"params": {**half.params, "temperature": 0.5}})
    with pytest.raises(JobChanged, match="5 of 10 requests would now be sent differently"):
        prepared(job)


def test_an_input_that_was_written_to_is_gone_through(half: Job, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace('"9"', '"8"').replace('"r2"', '"s2"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    aged(path)
    found = prepared(half)
    assert found.diff is not None and found.diff.planned == 10 and left(found) == ["s2", "r5", "r6", "r7", "r8", "r9"]


def test_a_bad_row_beyond_what_was_answered_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    rows = [asked(str(i), id=f"r{i}") for i in range(6)]
    job = job_of(tmp_path, [*rows[:5], {"id": "bad"}])
    seal(job, 1, slice(5))
    with pytest.raises(InputError, match=r"in\.jsonl, line 6: has neither 'messages' nor 'body'"):
        prepared(job)


def test_when_all_is_answered_and_there_is_no_table_nothing_is_asked(half: Job) -> None:
    seal(half, 2, slice(5, None))
    found = prepared(half)
    assert found.finished and not found.complete and left(found) == []


def test_requests_that_are_too_large_to_be_held_are_planned_again_alike(
    half: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [msgspec.structs.asdict(request) for block in prepared(half).blocks for request in block]
    monkeypatch.setattr("batchflex.plan.preparation._HELD_BYTES", 0)
    assert [msgspec.structs.asdict(request) for block in prepared(half).blocks for request in block] == whole != []


def test_a_state_that_cannot_be_read_is_no_reason_to_stop(half: Job) -> None:
    Folder(half.out).state.write_text('{"plan"')
    assert left(prepared(half)) == ["r5", "r6", "r7", "r8", "r9"]


def test_an_answer_of_a_sweep_point_that_the_job_does_not_have_belongs_to_no_row(half: Job) -> None:
    seal(half, 2, slice(5, 6), point='{"seed":1}', key="ff" * 16)
    found = prepared(half.model_copy(update={"job": half.job.model_copy(update={"on_change": "rerun"})}))
    assert found.diff is not None and found.diff.orphans == 1
    assert left(found) == ["r5", "r6", "r7", "r8", "r9"]


def test_every_section_of_a_job_shapes_the_requests_or_does_not() -> None:
    others = {
        "answer",
        "job",
        "endpoint",
        "endpoints",
        "prices",
        "limits",
        "retry",
        "journal",
        "storage",
        "score",
        "log",
        "notify",
    }
    assert set(Job.model_fields) == {*SHAPING, *others}


@pytest.mark.parametrize("knows", [True, False])
def test_answers_in_a_journal_of_a_killed_run_are_found_by_their_positions(half: Job, knows: bool) -> None:
    folder, plan = Folder(half.out), Plan(half)
    plan.know(folder, remember=False)
    segment = journal.Journal(folder.journal, 2)
    made = answer(plan, everything(plan)[5])
    segment.append(made if knows else msgspec.structs.replace(made, file=None, position=None))
    segment.close()
    found = prepared(half)
    assert found.diff is not None and found.diff.planned == (None if knows else 10)
    assert left(found) == ["r6", "r7", "r8", "r9"]


def test_a_plan_has_no_identity_once_the_input_has_changed(tmp_path: Path) -> None:
    job = job_of(tmp_path, [asked("a", id="a")])
    plan = Plan(job)
    identity = plan.identity()
    assert identity is not None and identity == Plan(job).identity()
    (tmp_path / "in.jsonl").write_text("")
    assert plan.identity() is None
    aged(tmp_path / "in.jsonl")
    assert plan.identity() is None
    assert Plan(job).identity() not in (None, identity)


@pytest.mark.parametrize(
    ("section", "value", "same"),
    [
        ("params", {"model": "other"}, False),
        ("sweep", {"seed": [1, 2]}, False),
        ("limits", {"rpm": 7}, True),
        ("retry", {"attempts": 2}, True),
        ("endpoint", {"base_url": "http://127.0.0.1:1/v1"}, True),
    ],
)
def test_what_makes_another_plan(tmp_path: Path, section: str, value: dict[str, Any], same: bool) -> None:
    job = job_of(tmp_path, [asked("a")])
    other = job_of(tmp_path, [asked("a")], **{section: value})
    assert (Plan(job).identity() == Plan(other).identity()) is same


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture
def run(endpoint: CountingEndpoint, tmp_path: Path) -> Any:
    rows = write_rows(tmp_path / "in.jsonl", 40)
    aged(rows)

    def call(*more: object) -> dict[str, Any]:
        options = ("--base-url", endpoint.base_url, "--model", "m", "--out", tmp_path / "out", "--json", *more)
        summary = json.loads(called("run", rows, *options).out)
        assert isinstance(summary, dict)
        return summary

    return call


def test_a_finished_job_is_known_by_the_foot_of_its_table(
    run: Any, endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run()["ok"] == 40
    results = tmp_path / "out" / "results.parquet"
    made = results.stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(part_files, "read_part", lambda *given: pytest.fail("a part was read"))
        again = run()
    assert (again["planned"], again["done"], again["ok"], again["requests_sent"]) == (40, 40, 40, 0)
    assert results.stat().st_mtime_ns == made and endpoint.stats()["requests"] == 40

    before = results.read_bytes()
    (tmp_path / "out" / "parts" / part_files.part_name(1)).unlink()
    again = run()
    assert again["requests_sent"] == 40, "its answers are gone, whatever the table says"
    assert results.read_bytes() != before
    assert set(pl.read_parquet(results)["run_id"]) == {again["run_id"]}


def test_an_input_that_was_touched_is_known_by_its_bytes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    (tmp_path / "in.jsonl").touch()
    passes = []
    monkeypatch.setattr("batchflex.plan.preparation.survey", lambda *given: passes.append(given) or survey(*given))
    for _ in range(3):
        assert run()["requests_sent"] == 0
    assert not passes


def inserted(path: Path) -> None:
    """Another row becomes the first of a file."""
    path.write_text(json.dumps(asked("new", id="new")) + "\n" + path.read_text())


def test_rows_are_not_passed_over_in_a_file_that_has_changed_since(half: Job, tmp_path: Path) -> None:
    plan = Plan(half)
    inserted(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match=r"in\.jsonl was changed while it was being asked"):
        list(plan.blocks(Passed(b"\1" * 5, KeySet())))


def test_answers_to_a_file_that_was_another_for_a_while_name_no_plan(tmp_path: Path) -> None:
    link = tmp_path / "in.jsonl"
    for name in ("v1", "v2"):
        write_rows(tmp_path / name, 1_000)
        aged(tmp_path / name)
    link.symlink_to(tmp_path / "v1")
    plan = Plan(build({"params": {"model": "m"}, "input": {"path": str(link)}}))
    identity = plan.identity()
    blocks = plan.blocks()
    next(blocks)
    assert plan.identity() == identity is not None
    link.unlink()
    link.symlink_to(tmp_path / "v2")
    next(blocks)
    link.unlink()
    link.symlink_to(tmp_path / "v1")
    assert plan.identity() is None, "though its file is now the one that it was made of"


def test_an_input_that_goes_away_while_it_is_asked_does_no_harm(
    run: Any, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.5)
    path = tmp_path / "in.jsonl"

    def move_once_asked() -> None:
        for _ in range(500):
            if endpoint.stats()["requests"]:
                path.rename(tmp_path / "done.jsonl")
                return
            time.sleep(0.02)

    mover = threading.Thread(target=move_once_asked)
    mover.start()
    ended = run("--concurrency", 40)
    mover.join()
    assert not path.exists()
    assert (ended["exit_code"], ended["ok"]) == (0, 40)
    assert pl.read_parquet(tmp_path / "out" / "results.parquet").height == 40


def test_a_finished_job_whose_rows_failed_is_tried_again(run: Any, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(script=["ok"] * 10 + ["400"] * 3)
    assert (run()["failed"], endpoint.stats()["requests"]) == (3, 40)
    again = run()
    assert (again["requests_sent"], again["ok"], again["failed"]) == (3, 40, 0)
    assert run()["requests_sent"] == 0


def test_what_was_asked_within_a_limit_is_passed_over_without_it(run: Any, tmp_path: Path) -> None:
    assert (run("--limit", 15)["requests_sent"], run("--limit", 15)["requests_sent"]) == (15, 0)
    whole = run()
    assert (whole["requests_sent"], whole["done"], whole["planned"]) == (25, 40, 40)
    assert run()["requests_sent"] == 0
    told = msgspec.json.decode(
        part_files.pq.read_schema(tmp_path / "out" / "results.parquet").metadata[b"batchflex.settled"]
    )
    assert (told["planned"], told["limit"], told["rows"]["ok"]) == (40, None, 40)


def test_recovered_answers_are_no_other_plan(run: Any, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    run("--limit", 20)
    folder = Folder(tmp_path / "out")
    outcomes = part_files.outcomes(part_files.read_part(folder.parts, 1))
    (folder.path / "parts" / part_files.part_name(1)).unlink()
    folder.results.unlink()
    segment = journal.Journal(folder.journal, 1)
    for outcome in outcomes:
        segment.append(outcome)
    segment.close()
    assert len(writer.unsealed(folder).outcomes) == 20
    endpoint.reset()
    assert (run()["requests_sent"], endpoint.stats()["requests"]) == (20, 20)
    parts = [part_files.read_part(folder.parts, number) for number in part_files.part_numbers(folder.parts)]
    assert len({file for part in parts for file in part["file"].to_pylist()}) == 1
    assert sorted(at for part in parts for at in part["position"].to_pylist()) == list(range(40))
