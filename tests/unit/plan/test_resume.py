"""What is done and what is still to be asked: nothing twice, nothing mixed, one row for each planned request."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.core.types import Outcome, Request
from batchflex.plan.answer_index import AnswerIndex
from batchflex.plan.planner import PlanDiff
from batchflex.protocol import Policy
from batchflex.storage import FolderStore, Store, journal, part_files, part_index, results_table
from tests.support.outcomes import digest, outcome, request


def surveyed(
    parts: Store, plan: Sequence[Request], retry_failed: int = 3, block: int = 3
) -> tuple[AnswerIndex, list[Request]]:
    """A whole pass over the plan, by the block; and what it left to be asked."""
    done = AnswerIndex(parts, retry_failed)
    return done, passed(done, plan, block, survey=True)


def passed(done: AnswerIndex, plan: Sequence[Request], block: int = 3, **options: Any) -> list[Request]:
    return [r for i in range(0, len(plan), block) for r in done.sort_out(plan[i : i + block], **options)]


def names(requests: Sequence[Request]) -> list[str]:
    return [r.id.removeprefix("id-") for r in requests]


def results(parts: Store, done: AnswerIndex, since: int) -> list[dict[str, Any]]:
    made = results_table.assemble(parts, {}, ["{}"], planned=done.planned(), since=since)
    rows: list[dict[str, Any]] = pa.concat_tables([made.schema.empty_table(), *made.batches]).to_pylist()
    return rows


# ---------------------------------------------------------------------------------------------------- nothing changed


def test_in_an_empty_folder_everything_is_to_be_asked(store: Store) -> None:
    plan = [request(i) for i in range(5)]
    done, asked = surveyed(store, plan)
    assert (len(done), asked) == (0, plan)
    assert done.diff() == PlanDiff(5, 0, 0, 0, 0, None, 0)
    assert done.diff().left == 5
    assert done.statuses() == {}
    assert done.planned().schema == {"hi": pl.UInt64, "lo": pl.UInt64, "row": pl.Int64, "point": pl.Int32}
    done.keep_changed()
    assert passed(done, plan) == plan
    assert done.sort_out([]) == []


def test_what_is_done_is_not_asked_again_whatever_its_status(store: Store) -> None:
    statuses = ["ok", "truncated", "filtered", "invalid"]
    part_files.write_part(store, 1, [outcome(i, status=s) for i, s in enumerate(statuses)])
    done, asked = surveyed(store, [request(i) for i in range(6)])
    assert names(asked) == ["4", "5"]
    assert done.diff() == PlanDiff(6, 4, 0, 0, 0, None, 0)
    assert done.statuses() == dict.fromkeys(statuses, 1)
    assert sorted(done.planned()["row"]) == [0, 1, 2, 3]


def test_a_failed_row_is_asked_again_on_each_further_run_up_to_its_limit(tmp_path: Path) -> None:
    plan = [request(0)]
    for limit in (0, 1, 3):
        parts = FolderStore(tmp_path / str(limit))
        parts.prepare()
        for run in range(1, 7):
            done, asked = surveyed(parts, plan, retry_failed=limit)
            assert len(asked) == (run <= limit + 1)
            if run > 1:
                again = len(asked)
                assert done.diff() == PlanDiff(1, 1 - again, again, 0, 0, None, 0)
                assert done.statuses() == ({} if again else {"failed": 1})
                assert done.planned().height == 1, "the failure is shown until there is something else"
            if asked:
                part_files.write_part(parts, run, [outcome(0, status="failed")])


def test_an_answer_after_failures_is_final(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(0, status="failed"), outcome(1, status="failed")])
    part_files.write_part(store, 2, [outcome(0), outcome(1, status="failed")])
    done, asked = surveyed(store, [request(0), request(1)])
    assert names(asked) == ["1"]
    assert done.statuses() == {"ok": 1}


def test_rows_and_sweep_points_are_those_of_the_plan_now(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(i) for i in range(4)])
    moved = [request("new"), *(request(i, row=9 - i, point=i) for i in range(4))]
    done, asked = surveyed(store, moved)
    assert names(asked) == ["new"]
    keys = {part_index._halves(pa.chunked_array([[outcome(i).key]]), "").row(0): i for i in range(4)}
    places = {keys[hi, lo]: (row, point) for hi, lo, row, point in done.planned().iter_rows()}
    assert places == {i: (9 - i, i) for i in range(4)}
    assert [(r["id"], r["row"]) for r in results(store, done, since=2)] == [(f"id-{i}", 9 - i) for i in (3, 2, 1, 0)]


def test_a_row_that_left_the_input_leaves_the_results_and_is_no_change(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(i) for i in range(4)])
    done, asked = surveyed(store, [request(2, row=0)])
    assert asked == []
    assert done.diff() == PlanDiff(1, 1, 0, 0, 0, None, 3)
    assert [(r["id"], r["row"]) for r in results(store, done, since=2)] == [("id-2", 0)]


def test_a_run_that_stops_early_shows_also_the_done_rows_it_did_not_come_to(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(i) for i in range(5, 10)])
    done, asked = surveyed(store, [request(i) for i in range(10)])
    part_files.write_part(store, 2, [outcome(int(names(asked)[0]))])
    assert [r["row"] for r in results(store, done, since=2)] == [0, 5, 6, 7, 8, 9]


def test_a_crashed_run_is_sealed_and_counts_as_done(tmp_path: Path) -> None:
    parts, segments = FolderStore(tmp_path / "parts"), tmp_path / "journal"
    parts.prepare()
    segments.mkdir()
    crashed = journal.Journal(segments, 1)
    for i in range(3):
        crashed.append(outcome(i))
    crashed.sync()
    part_files.write_part(parts, 1, list(journal.read(journal.segment_path(segments, 1))))
    crashed.close()
    done, asked = surveyed(parts, [request(i) for i in range(5)])
    assert names(asked) == ["3", "4"]
    part_files.write_part(parts, 2, [outcome(3), outcome(4)])
    assert [r["row"] for r in results(parts, done, since=2)] == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------------ a changed job


def test_a_changed_job_is_counted_and_rerun_shows_none_of_the_old_answers(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(i, 1, total_tokens=10, cost=0.5, content="old") for i in range(4)])
    plan = [request(0, 1), *(request(i, 2) for i in range(1, 6))]
    done, asked = surveyed(store, plan)
    assert names(asked) == ["1", "2", "3", "4", "5"]
    diff = done.diff()
    assert diff == PlanDiff(
        planned=6, done=1, failed_again=0, changed=3, changed_tokens=30, changed_cost=1.5, orphans=3
    )
    assert (diff.left, diff.keeping().left, diff.keeping().changed) == (5, 2, 0)
    part_files.write_part(store, 2, [outcome(i, 2, content="new") for i in (1, 2)])
    assert [(r["row"], r["content"]) for r in results(store, done, since=2)] == [(0, "old"), (1, "new"), (2, "new")]


def test_keep_fills_the_slots_with_the_old_answers_at_their_new_rows(store: Store) -> None:
    old = [outcome(i, 1, total_tokens=None, content="old") for i in range(3)]
    part_files.write_part(store, 1, [*old, outcome(3, 1, status="failed")])
    plan = [request(i, 2, row=10 - i, point=i % 2) for i in range(5)]
    done, _ = surveyed(store, plan)
    diff = done.diff()
    assert diff == PlanDiff(
        planned=5, done=0, failed_again=0, changed=3, changed_tokens=0, changed_cost=None, orphans=3
    )
    done.keep_changed()
    shown = [("id-2", 8), ("id-1", 9), ("id-0", 10)]
    assert [(r["id"], r["row"]) for r in results(store, done, since=2)] == shown, "also before the second pass"
    assert sorted(done.planned().select("row", "point").iter_rows()) == [(8, 0), (9, 1), (10, 0)]
    assert names(passed(done, plan)) == ["3", "4"]
    assert names(passed(done, plan)) == ["3", "4"], "going through the plan again changes nothing"
    assert done.statuses() == {"ok": 3}
    assert [(r["id"], r["row"]) for r in results(store, done, since=2)] == shown
    part_files.write_part(store, 2, [outcome(i, 2, row=10 - i, content="new") for i in (3, 4)])
    found = results(store, done, since=2)
    assert [r["row"] for r in found] == [6, 7, 8, 9, 10]
    assert [r["content"] for r in found] == ["new", "new", "old", "old", "old"]


def test_keep_takes_the_last_answer_of_a_slot_and_none_that_failed_in_the_end(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(0, 1), outcome(1, 1), outcome(2, 1)])
    part_files.write_part(store, 2, [outcome(0, 2), outcome(1, 2, status="failed"), outcome(2, 1, status="failed")])
    plan = [request(i, 3) for i in range(3)]
    done, _ = surveyed(store, plan)
    assert done.diff().changed == 2
    done.keep_changed()
    assert names(passed(done, plan)) == ["2"]
    keys = {r["row"]: r["key"] for r in results(store, done, since=3)}
    assert keys == {0: outcome(0, 2).key, 1: outcome(1, 1).key}


def test_what_is_kept_counts_as_done_also_if_it_does_not_fit(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(0, 1, status="invalid")])
    done, plan = AnswerIndex(store, 3, reasks=Policy(1)), [request(0, 2)]
    assert passed(done, plan, survey=True) == plan and done.diff().changed == 1
    done.keep_changed()
    assert passed(done, plan) == []
    assert done.statuses() == {"invalid": 1}


def test_keep_gives_no_answer_to_rows_that_share_an_id(store: Store) -> None:
    """Which of them it was the answer to cannot be told any more."""
    slot = digest("shared")
    part_files.write_part(store, 1, [outcome(i, 1, slot=slot.hex(), id="same") for i in range(2)])
    plan = [Request(digest("key", i, 2), slot, "same", i, 0, 0, b"{}", None, None) for i in range(2)]
    done, _ = surveyed(store, plan, block=1)
    assert done.diff().changed == 0
    done.keep_changed()
    assert passed(done, plan) == plan
    assert results(store, done, since=2) == []


def test_new_rows_are_no_change(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(i) for i in range(3)])
    done, asked = surveyed(store, [request(i) for i in range(6)])
    assert names(asked) == ["3", "4", "5"]
    assert done.diff().changed == 0


def test_without_a_survey_the_same_requests_are_left(store: Store) -> None:
    rows = random.Random(1)
    part_files.write_part(store, 1, [outcome(i) for i in range(0, 300, 2)])
    part_files.write_part(store, 2, [outcome(i, status="failed") for i in range(0, 300, 5)])
    plan = [request(i) for i in rows.sample(range(400), 400)]
    _, asked = surveyed(store, plan, block=64)
    assert passed(AnswerIndex(store, 3), plan, block=7) == asked
    assert names(asked) == [
        name for name in names(plan) if not (int(name) < 300 and int(name) % 2 == 0 and int(name) % 5)
    ]


# -------------------------------------------------------------------------------------------------- whatever happens


class Step(NamedTuple):
    """One run: what the job sends, which items in which order, how it takes a change, how the answers end, and whether it stops
    for its rows' sake, before or after its failures are sealed."""

    version: int
    items: list[int]
    keep: bool
    statuses: list[str]
    parts: int
    void: str


steps = st.builds(
    Step,
    version=st.integers(0, 2),
    items=st.lists(st.integers(0, 7), unique=True, max_size=8),
    keep=st.booleans(),
    statuses=st.lists(st.sampled_from(["ok", "ok", "failed", "truncated"]), max_size=8),
    parts=st.integers(1, 3),
    void=st.sampled_from(["no", "no", "at once", "later"]),
)


class Book:
    """What the folder ought to know: every answer in the order it came."""

    def __init__(self) -> None:
        self.answers: list[Outcome] = []

    def last(self, key: str) -> Outcome | None:
        return next((o for o in reversed(self.answers) if o.key == key), None)

    def kept(self, slot: str, planned_keys: set[str]) -> Outcome | None:
        """The last answer of the slot that is the answer to no request of the plan."""
        for answer in reversed(self.answers):
            last = self.last(answer.key)
            if answer.slot == slot and answer.key not in planned_keys and last is not None and last.status != "failed":
                return last
        return None


any_runs = given(runs=st.lists(steps, min_size=1, max_size=5))
_settings = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@any_runs
@settings(_settings, max_examples=25)
def test_after_any_runs_one_row_a_planned_request_and_the_last_answer_wins(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Step]
) -> None:
    the_last_answer_wins(tmp_path_factory.mktemp("parts"), runs)


@pytest.mark.slow
@any_runs
@settings(_settings, max_examples=150)
def test_after_many_more_runs_too(tmp_path_factory: pytest.TempPathFactory, runs: list[Step]) -> None:
    the_last_answer_wins(tmp_path_factory.mktemp("parts"), runs)


def the_last_answer_wins(folder: Path, runs: list[Step]) -> None:
    parts = FolderStore(folder)
    book, number = Book(), 1
    for step in runs:
        plan = [request(item, step.version, row=row) for row, item in enumerate(step.items)]
        keys = {r.key.hex() for r in plan}
        done, asked = surveyed(parts, plan, retry_failed=100, block=4)
        kept: dict[str, Outcome] = {}
        if step.keep:
            candidates = ((r, book.kept(r.slot.hex(), keys)) for r in plan if book.last(r.key.hex()) is None)
            kept = {r.key.hex(): answer for r, answer in candidates if answer is not None}
            assert done.diff().changed == len(kept)
            done.keep_changed()
            asked = passed(done, plan, block=4)
        known = {r.key.hex(): book.last(r.key.hex()) for r in plan}
        open_keys = [k for k, o in known.items() if k not in kept and (o is None or o.status == "failed")]
        assert [r.key.hex() for r in asked] == open_keys, "asked exactly what has no final answer"

        since, answers = number, []
        for r, status in zip(asked, step.statuses, strict=False):  # the run may stop before the others are answered
            fields = {
                "key": r.key.hex(),
                "slot": r.slot.hex(),
                "row": r.row,
                "status": status,
                "run_id": f"run-{since}",
            }
            fields["proof"] = "answers" if status == "failed" else None
            answers.append(outcome(r.id, content=f"answer {len(book.answers)}", **fields))
            if step.void == "no" or status != "failed":
                book.answers.append(answers[-1])
        for i in range(step.parts):
            if mine := answers[i :: step.parts]:
                part_files.write_part(parts, number, mine, void=[f"run-{since}"] if step.void == "at once" else [])
                number += 1
        if step.void == "later":
            part_files.write_part(parts, number, [], void=[f"run-{since}"])
            number += 1

        expected = []
        for r in plan:
            shown = kept.get(r.key.hex()) or book.last(r.key.hex())
            if shown is not None:
                expected.append((r.row, shown.key, shown.status, shown.content))
        found = [(r["row"], r["key"], r["status"], r["content"]) for r in results(parts, done, since)]
        assert found == expected
