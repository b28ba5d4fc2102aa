"""A final verdict on a row needs proof that it is the row's: what a run that stops for its rows' sake leaves behind, night by
night, and what later runs, retries, tables and compacting make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchflex.core.types import Outcome
from batchflex.plan.answer_index import AnswerIndex
from batchflex.protocol.reask import Policy
from batchflex.storage import Store, journal, part_files, results_table, writer
from batchflex.storage.output_folder import Folder
from tests.support.command_line import called, table as results_of, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.outcomes import outcome, request
from tests.support.runs import killed_command, options, run

HALF = {f"row {tens}{ones}.": "400_hold" for tens in ("", *"123456789") for ones in "024678"}


def failed_in(out: Path) -> int:
    return results_of(out).filter(pl.col("status") == "failed").height


# --------------------------------------------------------------------------------------------- words that nobody knows


def test_nights_of_a_refusal_that_nobody_knows_and_then_all_rows_are_answered(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    endpoint.knobs(down="400_hold")
    for night in range(1, 6):
        ended = run(endpoint, rows, "--concurrency", "2")
        assert (ended.code, ended.summary["stopped_by"]) == (3, "failures")
        assert (ended.summary["done"], ended.summary["failed"], ended.summary["first_failure"]) == (0, 0, None)
        assert "This account is on hold" in ended.summary["message"]
        assert "No row was marked failed for it" in ended.summary["message"]
        assert endpoint.stats()["requests"] <= 7 * night, "five rows, a request for one token, and one on its way"
    endpoint.knobs(down=None)
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["ok"]) == (0, 40)


def test_a_key_that_expires_on_the_way_leaves_no_row_behind(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 100)
    endpoint.knobs(fail_after=72, fail_with="400_hold", latency_s=0.005)
    for _ in range(5):
        ended = run(endpoint, rows)
        good = endpoint.stats()["good"]
        assert (ended.code, ended.summary["stopped_by"]) == (3, "failures")
        assert (ended.summary["ok"], ended.summary["done"], ended.summary["failed"]) == (good, good, 0)
        assert results_of(tmp_path / "out")["status"].to_list() == ["ok"] * good
    endpoint.knobs(fail_after=None)
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["ok"], endpoint.stats()["repeats"]) == (0, 100, 0)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_few_rows_that_all_fail_are_to_blame_only_if_another_request_is_answered(
    count: int, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", count)
    endpoint.knobs(down="400_hold")
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["stopped_by"], ended.summary["failed"]) == (3, "failures", 0)
    assert results_of(tmp_path / "out").height == 0
    endpoint.knobs(down=None, poison={"row ": "400_hold"})
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["failed"]) == (1, count)
    assert set(results_of(tmp_path / "out")["error_message"]) == {"This account is on hold since 3 May"}


def test_an_answer_proves_it_as_well_as_a_probe(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 30)
    endpoint.knobs(poison={"row 0.": "400_hold", "row 7.": "400_hold"})
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 28, 2)
    assert endpoint.stats()["requests"] == 30, "nothing but the rows was sent"


def test_one_of_two_models_that_is_refused_whatever_it_is_asked(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 30)
    endpoint.knobs(poison={'"model":"bad"': "400_hold"})
    sweep = ["run", rows, "--base-url", endpoint.base_url, "--set", 'sweep.model=["bad","m"]']
    sweep += ["--concurrency", "8", "--out", tmp_path / "out", "--json"]
    stopped = called(*sweep)
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "failures")
    assert (stopped.summary["ok"], stopped.summary["failed"]) == (30, 0)
    assert "the model bad" in stopped.summary["message"]
    assert endpoint.stats()["requests"] <= 30 + 6 + 2 * 8, "some to tell by, and what was on its way"
    endpoint.knobs(poison={})
    assert called(*sweep).summary["ok"] == 60


# ------------------------------------------------------------------------------------------- no row stops the others


def others_sent_by(log: list[dict[str, Any]], nth: int) -> int:
    """How many bodies had been sent, beside that of the first request, when this was sent for the nth time."""
    first = log[0]["hash"]
    before = [record["seq"] for record in log if record["hash"] == first][nth - 1]
    return len({record["hash"] for record in log if record["seq"] < before} - {first})


@pytest.mark.parametrize("fault", ["503", "502_html", "close_before"])
def test_a_first_row_that_the_endpoint_seems_down_for_waits_beside_the_others(
    fault: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    endpoint.knobs(poison={"row 0.": fault})
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 39, 1)
    assert others_sent_by(endpoint.log(), 3) > 0, "one that failed twice lets others go"


def test_rows_that_are_refused_one_after_the_other_hold_up_none(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    endpoint.knobs(poison={f"row {name}.": "400_hold" for name in range(20, 80)})
    ended = run(endpoint, rows, "--set", "limits.max_failures=1.0")
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (1, 140, 60)
    assert endpoint.stats()["requests"] <= 200 + 4, "a probe for twenty in a row"


# ---------------------------------------------------------------------------------------------------------- void runs


@pytest.mark.parametrize("between", ["nothing", "compact", "derived files deleted", "killed"])
def test_failures_of_runs_that_stop_for_them_use_up_no_retry(
    between: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """Each failure is proven by an answer to another row, and yet there are too many of them."""
    rows, out = write_rows(tmp_path / "rows.jsonl", 100), tmp_path / "out"
    for _ in range(5):
        endpoint.knobs(poison=HALF)
        ended = run(endpoint, rows, "--concurrency", "4", "--set", "journal.seal_rows=7")
        assert (ended.code, ended.summary["stopped_by"]) == (3, "failures")
        assert "limits.max_failures" in ended.summary["message"]
        assert "No row was marked failed for it" in ended.summary["message"]
        assert (ended.summary["failed"], ended.summary["done"]) == (0, ended.summary["ok"])
        assert set(results_of(out)["status"]) == {"ok"} and results_of(out).height == ended.summary["ok"]
        if between == "compact":
            assert called("compact", out).code == 0
        elif between == "derived files deleted":
            for name in ("run.json", "history.jsonl", "results.parquet", "inputs.jsonl"):
                (out / name).unlink()
        elif between == "killed":
            endpoint.knobs(poison={})
            killed_command(endpoint, 1, *options(endpoint, rows), "--concurrency", "1")
    endpoint.knobs(poison={})
    finished = run(endpoint, rows)
    assert (finished.code, finished.summary["ok"]) == (0, 100)
    assert set(results_of(out)["status"]) == {"ok"}


@pytest.mark.parametrize(("fault", "reason"), [("402", "credit"), ("401", "key"), ("404_model", "model")])
def test_what_failed_before_a_run_stopped_for_its_own_fault_is_void(
    fault: str, reason: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 40), tmp_path / "out"
    endpoint.knobs(poison={"row 1.": "422"}, fail_after=20, fail_with=fault)
    for _ in range(5):
        stopped = run(endpoint, rows, "--concurrency", "1")
        assert (stopped.code, stopped.summary["stopped_by"], stopped.summary["failed"]) == (3, reason, 0)
        assert failed_in(out) == 0
    endpoint.knobs(fail_after=None)
    codes = [run(endpoint, rows).summary["requests_sent"] for _ in range(5)]
    assert codes == [20, 1, 1, 1, 0], "its own failures count from now on"
    assert failed_in(out) == 1


def test_a_row_that_had_failed_before_is_shown_as_it_was(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 5), tmp_path / "out"
    endpoint.knobs(poison={"row 3.": "422"})
    assert run(endpoint, rows).code == 1
    endpoint.knobs(down="402")
    stopped = called("retry", out, "--where", "status = 'failed'", "--json", "--yes")
    assert (stopped.code, stopped.summary["stopped_by"], stopped.summary["failed"]) == (3, "credit", 1)
    assert failed_in(out) == 1
    stopped = run(endpoint, rows)
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "credit")
    assert failed_in(out) == 1
    endpoint.knobs(down=None, poison={})
    assert run(endpoint, rows).summary["ok"] == 5


def test_a_retry_that_stops_for_its_rows_leaves_the_old_ones_as_they_were(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 4), tmp_path / "out"
    endpoint.knobs(poison={"row ": "400_hold"})
    assert run(endpoint, rows).summary["failed"] == 4
    endpoint.knobs(poison={}, down="400_hold")
    stopped = called("retry", out, "--where", "status = 'failed'", "--json", "--yes")
    assert (stopped.code, stopped.summary["stopped_by"], stopped.summary["failed"]) == (3, "failures", 4)
    assert (stopped.summary["retry"]["asked_again"], failed_in(out)) == (0, 4)


# ------------------------------------------------------------------------------------------------- the parts as truth


def failing(name: int, run_id: str = "run-1", **more: Any) -> Outcome:
    fields = {"status": "failed", "http_status": 400, "error_type": "account_error", "proof": "answers"}
    return outcome(name, run_id=run_id, **(fields | more))


def left(parts: Store, *names: int, **options: Any) -> list[str]:
    return [each.id for each in AnswerIndex(parts, 0, **options).sort_out([request(name) for name in names])]


def shown(parts: Store, **options: Any) -> list[tuple[str, str]]:
    made = results_table.assemble(parts, {}, ["{}"], **options)
    return [(row["id"], row["status"]) for each in made.batches for row in each.to_pylist()]


def test_a_note_in_a_later_part_is_about_all_failures_of_its_run(store: Store) -> None:
    part_files.write_part(store, 1, [failing(1), outcome(2), failing(3, "run-0"), failing(4, proof="input")])
    assert left(store, 1, 2, 3, 4) == []
    part_files.write_part(store, 2, [], void=["run-1"])
    assert part_files.footer(store, 2).void == ["run-1"]
    assert left(store, 1, 2, 3, 4) == ["id-1"]
    assert shown(store) == [("id-2", "ok"), ("id-3", "failed"), ("id-4", "failed")]
    assert len(AnswerIndex(store, 0, ["{}"])) == 3


def test_an_answer_that_did_not_fit_stays_when_asking_again_failed_in_a_void_run(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(1, status="invalid", content="old")])
    part_files.write_part(store, 2, [outcome(1, status="invalid", content="old", proof="answers", run_id="run-2")] * 9)
    assert left(store, 1, reasks=Policy(most=1)) == [], "it was tried too often"
    part_files.write_part(store, 3, [], void=["run-2"])
    assert left(store, 1, reasks=Policy(most=1)) == ["id-1"]
    assert shown(store) == [("id-1", "invalid")]


@pytest.mark.parametrize("torn", [b"", b'12345678!{"void":"run-2"', b'00000000!{"void":"run-2"}\n'])
def test_a_note_that_is_not_sealed_counts_also_for_what_is(torn: bytes, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.held():
        part_files.write_part(folder.parts, 1, [failing(1), failing(2, "run-2")])
        kept = journal.Journal(folder.journal, 2)
        kept.append(failing(3))
        kept.append(failing(4, "run-2"))
        kept.void("run-1")
        kept.sync()
        with journal.segment_path(folder.journal, 2).open("ab") as segment:
            segment.write(torn)
        unsealed = writer.unsealed(folder)
        assert ([each.id for each in unsealed.outcomes], unsealed.void) == (["id-4"], ["run-1"])
        assert left(folder.parts, 1, 2, void=unsealed.void) == ["id-1"]
        there = shown(folder.parts, pending=unsealed.outcomes, void=unsealed.void)
        assert there == [("id-2", "failed"), ("id-4", "failed")]
        kept.close()
        assert writer.recover(folder) == 3
        assert writer.unsealed(folder) == writer.Unsealed([], [])
        assert left(folder.parts, 1, 2, 3, 4) == ["id-1", "id-3"]
        assert shown(folder.parts) == there


def test_a_segment_with_nothing_but_a_note_is_sealed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.held():
        part_files.write_part(folder.parts, 1, [failing(1)])
        kept = journal.Journal(folder.journal, 2)
        kept.void("run-1")
        kept.close()
        assert writer.recover(folder) == 3
        assert journal.segments(folder.journal) == []
        assert left(folder.parts, 1) == ["id-1"] and shown(folder.parts) == []


# ---------------------------------------------------------------------------------------- failures of earlier versions


def old(name: int, status: int | None, kind: str | None = None, message: str = "no", **more: Any) -> Outcome:
    fields = {"http_status": status, "error_type": kind, "error_message": message, "proof": None}
    return failing(name, **(fields | more))


def test_old_failures_that_are_read_as_the_runs_today_are_asked_again_whatever_retry_failed_says(
    store: Store,
) -> None:
    quota = b'{"error": {"message": "spent", "type": "x", "code": "insufficient_quota"}}'
    rows = [
        old(0, 400, "insufficient_quota"),
        old(1, 400, response=quota),
        old(2, 429),
        old(3, 503),
        old(4, 200, response=quota),
        old(5, 401),
        # These stay.
        old(6, 400, "invalid_request_error"),
        old(7, 500),
        old(8, None, "timeout"),
        old(9, 401, proof="answers"),
        old(10, None, "input", attempts=0),
    ]
    part_files.write_part(store, 1, [each for each in rows for _ in range(5)])
    assert left(store, *range(11)) == [f"id-{name}" for name in range(6)]
    assert [name for name, _ in shown(store)] == [f"id-{name}" for name in range(6, 11)]
    part_files.write_part(store, 2, [failing(5)])
    assert left(store, *range(6)) == [f"id-{name}" for name in range(5)], "what came since counts"


def test_of_parts_without_a_failure_only_the_status_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    part_files.write_part(store, 1, [outcome(name) for name in range(10)])
    part_files.write_part(store, 2, [], void=["run-1"])
    read: list[object] = []
    monkeypatch.setattr(part_files, "read_rows", lambda *given: read.append(given))
    assert left(store, 0, 11) == ["id-11"] and read == []
