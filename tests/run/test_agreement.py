"""`run`, `plan`, `retry` and `results` agree on what is left to ask, whatever has happened to a folder and its input.

A seeded walk (``random.Random(seed)``: a failure names its seed and the steps so far) changes a job and its input, runs it whole,
in part or until it is killed, retries, compacts, moves parts away, and compares after each step with the oracle of
``tests/support/oracle.py``:

- ``plan`` tells as many requests, done, left and changed ones;
- a ``run`` sends a request for each that is left and nothing else, each once (and once more for each answer of its own that is
  asked for again), and its outcomes have their keys; a run that is stopped early sends some of them;
- the results have a row for each planned request with an outcome, with its key, status and content, in the order of the input;
- ``retry --dry-run`` chooses, and ``retry`` sends, those rows of the results with the wanted status that the input still has.

The oracle knows the folder by a plain reading of parts and journal, in the order of their numbers, and these rules:

1. A request is known by its key, a hash of id, body and sample; equal ones are numbered in their order. Of a row with columns
   that are not sent, the key that an earlier version made with them counts, if there is an answer under it. Which of equal
   requests has which of their keys is left open: a row that comes to stand before an answered equal one may get the new key.
2. Void failures (of a run that stopped for its own faults, as journal or footer tell) count for nothing.
3. Of several outcomes with one key the last counts. Without any, a request is left. One that ``failed`` is left as long as there
   are no more than ``retry_failed`` failures; one that is ``invalid``, while it was asked again fewer than ``max_reasks`` times;
   one that its limit cut off, while that is below ``grow_max_tokens``; these two as long as there are no more than
   ``1 + retry_failed`` outcomes of the same step. Any other is final.
4. An answer under no planned key, in the slot (id, sweep point, sample) of a request without outcome, is one of a changed job;
   not if rows share the id. With ``stop`` the run is refused, and nothing sent; with ``rerun`` it counts for nothing; with
   ``keep`` the last one stands for that request. ``stop`` also refuses if the job file has changed, something is left, and
   answers belong to no request.
5. Before a run has ended, ``results`` shows the table of the last one that did, if nothing came since; else, of each slot, the
   last answer, as CONTRACT.md says; with ``rerun`` those of the plan.

``BATCHFLEX_AGREEMENT_SEEDS=500`` walks from 500 seeds (24 by default, of which ``make test`` takes 8), ``=17,23`` from these.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

import batchflex
from batchflex.cli import plan_text
from batchflex.engine import retry_rows
from batchflex.plan import completion_marker
from batchflex.storage import places
from tests.support import oracle
from tests.support.agreement_case import Small
from tests.support.agreement_walk import Walk
from tests.support.counting_endpoint import CountingEndpoint, Knobs
from tests.support.runs import killed

# Its endpoints cut answers off, of which a run warns.
pytestmark = pytest.mark.filterwarnings("ignore::batchflex.JobWarning")

STEPS = 7
QUICK = 8  # walks that ``make test`` takes; the others are slow


def _seeds() -> list[Any]:
    wanted = os.environ.get("BATCHFLEX_AGREEMENT_SEEDS", "24")
    if "," in wanted:
        return [int(seed) for seed in wanted.split(",") if seed]
    return [seed if seed < QUICK else pytest.param(seed, marks=pytest.mark.slow) for seed in range(int(wanted))]


@pytest.mark.parametrize("seed", _seeds())
def test_all_agree_with_the_oracle(
    seed: int, tmp_path: Path, endpoint: CountingEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:  # as in folders of 200,000 answers
        monkeypatch.setattr(completion_marker, "WORTH_ROWS", 1)
    monkeypatch.setattr(places, "STRETCH_ROWS", 3)  # of a table that is a folder
    walk = Walk(seed, tmp_path, endpoint)
    try:
        if seed % 3 == 0:
            walk.told.append(f"answer_as_then: {walk.answer_as_then()}")
            walk.check()
        walk.run()
        walk.check()
        for _ in range(STEPS):
            walk.step()
    except BaseException as error:
        error.add_note(f"seed {seed}: {walk.setting}, ids: {walk.named}\n  " + "\n  ".join(walk.told))
        raise


# ---------------------------------------------------------------------------------------------- small walks that disagreed


def test_failures_that_a_killed_run_left_in_the_journal_count_for_the_plan(
    tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    case = Small(tmp_path, endpoint, 4, retry_failed=0)
    endpoint.knobs(poison={"t001.": "422"})
    assert killed(case.job(), endpoint, 2) is None
    assert [answer["status"] for answer in oracle.answers(case.out)] == ["failed", "ok", "ok"]
    assert case.left() == 1
    endpoint.knobs(**vars(Knobs()))
    before = endpoint.stats()["requests"]
    assert batchflex.run(case.job()).exit_code == 1
    assert endpoint.stats()["requests"] - before == 1


def test_answers_to_be_asked_for_again_that_a_killed_run_left_in_the_journal_count_for_the_plan(
    tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    case = Small(tmp_path, endpoint, 3, judges_answers=True, max_reasks=1)
    endpoint.knobs(answer='{"label": "neither"}')
    assert killed(case.job(), endpoint, 1) is None
    assert case.left() == 3
    endpoint.knobs(**vars(Knobs()) | {"answer": '{"label": "good"}'})
    before = endpoint.stats()["requests"]
    assert batchflex.run(case.job()).exit_code == 0
    assert endpoint.stats()["requests"] - before == 3


def test_the_results_of_a_killed_run_have_each_answer_also_after_the_input_was_edited(
    tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    case = Small(tmp_path, endpoint, 3)
    batchflex.run(case.job("rerun", budget_requests=1))
    assert killed(case.job("rerun"), endpoint, endpoint.stats()["good"] + 1) is None
    case.input.files["a.jsonl"] = case.rows[1::-1] + case.rows[2:]
    case.input.write("a.jsonl")
    assert case.results() == {"t001.": "ok", "t002.": "ok"}


def test_what_is_kept_of_rows_with_one_id_is_the_same_on_the_next_run(
    tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    """None of them: whose answer it was cannot be told, also before the others have theirs."""
    case = Small(tmp_path, endpoint, 2)
    for row in case.rows:
        row["id"] = "same"
    case.input.write("a.jsonl")
    batchflex.run(case.job(budget_requests=1))
    case.setting = dataclasses.replace(case.setting, temperature=0.5)
    assert plan_text.forecast(case.job("keep"))["left"] == 2
    assert batchflex.run(case.job("keep")).exit_code == 0
    assert endpoint.stats()["requests"] == 3
    assert plan_text.forecast(case.job("keep"))["left"] == 0


def test_growing_takes_none_of_the_reasks(tmp_path: Path, endpoint: CountingEndpoint) -> None:
    """An answer that was cut off, then came whole and did not fit, when the run was killed: it is asked for once more."""
    case = Small(tmp_path, endpoint, 1, max_tokens=8, judges_answers=True, max_reasks=1, grow=16)
    endpoint.knobs(answer=f'{{"label": "{"neither " * 10}"}}', obey_max_tokens=True)
    assert killed(case.job(), endpoint, 2) is None
    assert [(a["status"], a["reasks"]) for a in oracle.answers(case.out)] == [("truncated", 0), ("invalid", 1)]
    assert case.left() == 1


def test_results_and_retry_know_nothing_of_a_part_that_was_moved_away(
    tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    case = Small(tmp_path, endpoint, 2)
    batchflex.run(case.job())
    (case.out / "parts" / "000001.parquet").rename(tmp_path / "000001.parquet")
    assert case.left() == 2
    assert retry_rows.preview(retry_rows.retry_of(case.out, "TRUE")).facts["rows"] == 0
    assert case.results() == {}


def test_a_retry_of_equal_rows_that_have_moved_shows_each_key_once(tmp_path: Path, endpoint: CountingEndpoint) -> None:
    row = '{"messages": [{"role": "user", "content": "again"}]}\n'
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    (inbox / "b.jsonl").write_text(row)
    job = {
        "job": {"out": str(out)}, "endpoint": {"base_url": endpoint.base_url}, "params": {"model": "m"},
        "input": {"path": str(inbox)},
    }  # fmt: skip
    batchflex.run(job)
    (inbox / "a.jsonl").write_text(row)
    retried = batchflex.retry(out, where="TRUE")
    assert retried.results()["key"].n_unique() == retried.results().height
    whole = batchflex.run(job).results()
    assert (whole.height, whole["key"].n_unique(), endpoint.stats()["requests"]) == (2, 2, 3)
