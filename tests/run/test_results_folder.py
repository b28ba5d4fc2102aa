"""A table in a folder: a file for each stretch of the rows, of which only what is new is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.errors import StorageError
from batchflex.plan import completion_marker
from batchflex.report import report
from batchflex.results import compact, view
from batchflex.storage import places, results_table, table_files, table_reuse
from batchflex.storage.output_folder import Folder
from batchflex.storage.table_files import ResultsFiles, ScoresFiles
from tests.support.command_line import called
from tests.support.counting_endpoint import CountingEndpoint

STRETCH = 10  # rows


@pytest.fixture(autouse=True)
def stretches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(places, "STRETCH_ROWS", STRETCH)
    yield


def write(path: Path, begin: int, end: int) -> None:
    with path.open("a") as stream:
        for number in range(begin, end):
            row = {"id": f"r{number}", "stars": number % 5, "messages": [{"role": "user", "content": f"text {number}"}]}
            stream.write(json.dumps(row) + "\n")


def job(endpoint: CountingEndpoint, tmp_path: Path, results: str = "folder", **more: Any) -> Job:
    tables: dict[str, Any] = {
        "job": {"out": str(tmp_path / "out"), "results": results, "report": False},
        "endpoint": {"base_url": endpoint.base_url},
        "params": {"model": "m"},
        "input": {"path": str(tmp_path / "in.jsonl"), "carry": ["stars"]},
    }
    return build(tables | more)


def files(tmp_path: Path, table: str = "results") -> dict[str, int]:
    """Each file of a table with its inode: one that was written anew has another."""
    return {path.name: path.stat().st_ino for path in sorted((tmp_path / "out" / table).glob("*.parquet"))}


def test_only_the_stretches_in_which_something_is_new_are_written(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 0, 35)
    run = batchflex.run(job(endpoint, tmp_path))
    first = files(tmp_path)
    assert [pq.read_metadata(path).num_rows for path in ResultsFiles(Folder(run.out)).paths] == [10, 10, 10, 5]
    assert not (run.out / "results.parquet").exists()
    write(tmp_path / "in.jsonl", 35, 42)
    run = batchflex.run(job(endpoint, tmp_path))
    second = files(tmp_path)
    assert len(second) == 5 and [*second.items()][:3] == [*first.items()][:3]
    assert run.results()["id"].to_list() == [f"r{number}" for number in range(42)]
    retried = batchflex.retry(run.out, where="id = 'r12'")
    third = files(tmp_path)
    assert {name for name in second if name not in third} == {[*second][1]}, "one answer is another"
    assert retried.results()["row"].to_list() == list(range(42))
    batchflex.run(job(endpoint, tmp_path))
    assert files(tmp_path) == third and endpoint.stats()["requests"] == 43


SCORES = {"score": [{"name": "brief", "kind": "length", "unit": "words", "max": 2}]}


def test_all_that_reads_a_table_reads_both_kinds_alike(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 0, 25)
    run = batchflex.run(job(endpoint, tmp_path, **SCORES))
    folder, seen = Folder(run.out), []
    for results in ("folder", "file", "folder"):
        run = batchflex.run(job(endpoint, tmp_path, results, **SCORES))
        assert folder.results.exists() == (results == "file")
        assert folder.results_folder.exists() == (results == "folder")
        assert (folder.scores.exists(), folder.scores_folder.exists()) == (results == "file", results == "folder")
        assert (run.out / run.summary["results"]).exists()
        exported = tmp_path / f"{results}.csv"
        assert called("results", run.out, "-o", exported).code == 0
        stored = view.results_of(folder)
        assert isinstance(stored, view.Stored) and view.are_scored(folder)
        page = report.read(folder)
        seen.append(
            (
                run.results().rows(),
                run.scores and run.scores["points"],
                exported.read_bytes(),
                stored.schema,
                stored.scan(["score_brief"]).collect().rows(),
                page.totals,
                page.rows,
            )
        )
        batchflex.retry(run.out, where="stars = 99")
    assert seen[0] == seen[1] == seen[2]
    assert endpoint.stats()["requests"] == 25


def test_only_the_scores_in_which_something_changes_are_written(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 0, 35)
    run = batchflex.run(job(endpoint, tmp_path, **SCORES))
    first = files(tmp_path, "scores")
    write(tmp_path / "in.jsonl", 35, 42)
    run = batchflex.run(job(endpoint, tmp_path, **SCORES))
    second = files(tmp_path, "scores")
    assert len(second) == 5 and [*second.items()][:3] == [*first.items()][:3]
    scores = pl.read_parquet(ScoresFiles(Folder(run.out)).paths)
    assert scores["key"].to_list() == run.results()["key"].to_list() and scores["score_brief"].null_count() == 0
    assert called("score", run.out, "--set", "score.brief.max=50").code == 0
    assert len({*files(tmp_path, "scores")} - {*second}) == 5 and not (run.out / "scores.parquet").exists()
    assert called("compare", run.out, run.out).code == 0
    assert {path.name for path in (run.out / "scores").iterdir()} == {*files(tmp_path, "scores")}
    assert Folder(run.out).scores_manifest.exists()


def test_the_folder_is_read_by_whatever_reads_a_folder_of_parquet_files(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    write(tmp_path / "in.jsonl", 0, 25)
    run = batchflex.run(job(endpoint, tmp_path, **SCORES))
    for table in (tmp_path / "out" / "results", tmp_path / "out" / "scores"):
        assert pl.read_parquet(table).height == pq.read_table(table).num_rows == 25
        assert pl.read_parquet(table)["key"].to_list() == run.results()["key"].to_list()


def test_a_table_of_an_earlier_version_is_read_and_becomes_one_of_this(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """Its list of files lay in the folder."""
    write(tmp_path / "in.jsonl", 0, 25)
    run = batchflex.run(job(endpoint, tmp_path))
    folder, rows, earlier = Folder(run.out), run.results().rows(), tmp_path / "out" / "results" / "table.json"
    folder.results_manifest.rename(earlier)
    assert ResultsFiles(folder).rows == 25 and called("results", run.out).code == 0
    write(tmp_path / "in.jsonl", 25, 31)
    run = batchflex.run(job(endpoint, tmp_path))
    assert run.results().rows()[:25] == rows and run.results().height == 31
    assert folder.results_manifest.exists() and not earlier.exists() and endpoint.stats()["requests"] == 31
    folder.results_manifest.rename(earlier)
    batchflex.run(job(endpoint, tmp_path, "file"))
    assert not folder.results_folder.exists() and pl.read_parquet(folder.results).height == 31


def test_a_table_that_was_not_finished_is_none(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run has written of it is used by the next; until then the one before is read."""
    write(tmp_path / "in.jsonl", 0, 15)
    run = batchflex.run(job(endpoint, tmp_path))
    write(tmp_path / "in.jsonl", 15, 30)
    written: list[Path] = []
    whole = results_table.write_results

    def fails(path: Path, *given: Any) -> None:
        if written:
            raise StorageError("the disk is full")
        written.append(path)
        whole(path, *given)

    monkeypatch.setattr(results_table, "write_results", fails)
    assert batchflex.run(job(endpoint, tmp_path)).stopped_by == "disk"
    monkeypatch.undo()
    monkeypatch.setattr(places, "STRETCH_ROWS", STRETCH)
    assert pl.read_parquet(ResultsFiles(Folder(run.out)).paths).height == 15
    before = files(tmp_path)[written[0].name]
    run = batchflex.run(job(endpoint, tmp_path))
    assert run.results().height == 30 and files(tmp_path)[written[0].name] == before
    assert len(files(tmp_path)) == 3 and endpoint.stats()["requests"] == 30


def test_merged_parts_and_a_table_that_is_gone_leave_the_same_rows(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 0, 12)
    batchflex.run(job(endpoint, tmp_path))
    write(tmp_path / "in.jsonl", 12, 24)
    run = batchflex.run(job(endpoint, tmp_path))
    rows, folder = run.results().rows(), Folder(run.out)
    with folder.held():
        compact.carry_out(compact.preview(folder, None, None))
    assert batchflex.run(job(endpoint, tmp_path)).results().rows() == rows
    folder.results_manifest.unlink()
    assert not ResultsFiles(folder).exists
    assert batchflex.run(job(endpoint, tmp_path)).results().rows() == rows
    assert table_files.ResultsFiles(folder).is_folder and endpoint.stats()["requests"] == 24


def test_what_others_keep_in_a_folder_of_that_name_stays(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 0, 12)
    mine = tmp_path / "out" / "results" / "mine.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    for results in ("file", "folder", "file"):
        batchflex.run(job(endpoint, tmp_path, results))
        assert mine.read_bytes() == b"mine"
    assert [path.name for path in mine.parent.iterdir()] == ["mine.parquet"]


def test_a_table_of_the_other_kind_that_a_crash_left_is_removed(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", 0, 12)
    run = batchflex.run(job(endpoint, tmp_path))
    folder = Folder(run.out)
    folder.results.write_bytes(b"of before")
    (folder.results_folder / f".000000-{'0' * 16}.parquet.999999999-0.tmp").write_bytes(b"half")
    assert batchflex.run(job(endpoint, tmp_path)).results().height == 12
    assert not folder.results.exists() and endpoint.stats()["requests"] == 12
    write(tmp_path / "in.jsonl", 12, 13)
    batchflex.run(job(endpoint, tmp_path))
    assert not list(folder.results_folder.glob(".*"))


def test_rows_that_move_on_into_a_stretch_of_their_own_stay_in_the_table(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    of_folder = {"input": {"path": str(inbox), "carry": ["stars"]}}
    rows = 0
    for name, more in (("d", 20), ("a", 3), ("b", 10), ("c", 9)):
        write(inbox / f"{name}.jsonl", rows, rows + more)
        rows += more
        run = batchflex.run(job(endpoint, tmp_path, **of_folder))
        assert run.results()["row"].to_list() == list(range(rows))
        files_there = sorted(inbox.iterdir())
        wanted = [json.loads(line)["id"] for path in files_there for line in path.read_text().splitlines()]
        assert run.results()["id"].to_list() == wanted
    assert endpoint.stats()["requests"] == rows


def test_a_part_that_has_taken_the_number_of_one_that_was_moved_away_is_another(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it is just as large."""
    sizes = table_reuse.part_sizes
    monkeypatch.setattr(table_reuse, "part_sizes", lambda store: dict.fromkeys(sizes(store), 1))
    for rows in (12, 24):
        write(tmp_path / "in.jsonl", rows - 12, rows)
        run = batchflex.run(job(endpoint, tmp_path))
    (run.out / "parts" / "000002.parquet").rename(tmp_path / "moved.parquet")
    endpoint.knobs(answer="another")
    with monkeypatch.context() as patched:
        patched.setattr(completion_marker, "make", lambda *_, **__: None)
        batchflex.run(job(endpoint, tmp_path))
    write(tmp_path / "in.jsonl", 24, 25)
    run = batchflex.run(job(endpoint, tmp_path))
    assert run.results()["content"].to_list()[12:] == ["another"] * 13
