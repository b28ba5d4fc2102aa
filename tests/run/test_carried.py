"""Carried columns are those of the input as it is now, joined by key, whoever reads the results; nothing is asked again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex import api
from batchflex.config.loader import build
from batchflex.plan import Plan, prepare
from batchflex.plan.source import Source
from batchflex.results import compact, refresh, view
from batchflex.storage import carried_updates, part_files, places, results_table
from batchflex.storage.output_folder import Folder
from batchflex.storage.table_files import ResultsFiles
from tests.support.command_line import Ended, called, table
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.young_files import aged

Row = dict[str, Any]
SCORE = [{"name": "accuracy", "kind": "exact", "expected": "label"}]


def rows(labels: Sequence[Any], *, named: bool = True) -> list[Row]:
    return [
        ({"id": f"r{number}"} if named else {}) | {"text": f"text {number}", "label": label, "note": f"n{number}"}
        for number, label in enumerate(labels)
    ]


def write(path: Path, given: Sequence[Row]) -> None:
    if path.suffix == ".parquet":
        pl.DataFrame(given).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
    aged(path)


class Desk:
    """A job over ``in.jsonl`` with its output folder. ``asked`` counts the requests of the endpoint."""

    def __init__(self, endpoint: CountingEndpoint, path: Path, results: str = "file") -> None:
        self.endpoint, self.path, self.results_kind = endpoint, path, results
        self.input, self.out = path / "in.jsonl", path / "out"

    def job(self, carry: Any = ("label",), **more: Any) -> dict[str, Any]:
        tables: dict[str, Any] = {
            "job": {"out": str(self.out), "results": self.results_kind, "report": False, "name": "j"},
            "endpoint": {"base_url": self.endpoint.base_url},
            "prompt": {"user": "{{ text }}"},
            "params": {"model": "m"},
            "input": {"path": str(self.input), "carry": carry if isinstance(carry, str) else [*carry]},
            "retry": {"base_s": 0.01},
        }
        for name, given in more.items():
            tables[name] = tables.get(name, {}) | given if isinstance(given, dict) else given
        return tables

    def run(self, *options: object, carry: Any = ("label",), **more: Any) -> Ended:
        import tomli_w

        (self.path / "job.toml").write_text(tomli_w.dumps(self.job(carry, **more)))
        return called("run", self.path / "job.toml", "--json", *options)

    @property
    def asked(self) -> int:
        return int(self.endpoint.stats()["requests"])

    def column(self, name: str = "label") -> list[Any]:
        return table_of(self.out)[name].to_list()


def table_of(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in ResultsFiles(Folder(out)).paths])


@pytest.fixture(params=["file", "folder"])
def desk(
    request: pytest.FixtureRequest, endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Desk:
    monkeypatch.setattr(places, "STRETCH_ROWS", 4)
    return Desk(endpoint, tmp_path, request.param)


@pytest.fixture
def one(endpoint: CountingEndpoint, tmp_path: Path) -> Desk:
    return Desk(endpoint, tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each pass over an input has read."""
    passes: list[int] = []
    blocks = Source.blocks

    def counted(self: Source, *given: Any, **named: Any) -> Iterator[Any]:
        passes.append(0)
        at = len(passes) - 1
        for block in blocks(self, *given, **named):
            passes[at] += len(block.rows)
            yield block

    monkeypatch.setattr(Source, "blocks", counted)
    yield passes


LABELS = ["a", "b", "a", "b", "a", "b", "a", "b", "a", "b"]


# ------------------------------------------------------------------------------------------------- a label corrected


def test_a_corrected_label_is_what_the_next_run_has(desk: Desk, read: list[int]) -> None:
    write(desk.input, rows(LABELS))
    assert desk.run(score=SCORE).code == 0
    before = {path.name for path in ResultsFiles(Folder(desk.out)).paths}
    write(desk.input, rows([*LABELS[:8], "text", *LABELS[9:]]))
    read.clear()
    ended = desk.run(score=SCORE)
    assert (ended.code, ended.summary["requests_sent"]) == (0, 0)
    assert "carried columns are not what they were in one row" in ended.err
    assert desk.column() == [*LABELS[:8], "text", *LABELS[9:]]
    assert read == [10], "one pass"
    if desk.results_kind == "folder":
        assert len(before & {path.name for path in ResultsFiles(Folder(desk.out)).paths}) == 2, "of three stretches"
    read.clear()
    again = desk.run(score=SCORE)
    assert read == [] and again.summary["requests_sent"] == 0 and "not what they were" not in again.err
    assert desk.asked == 10


def test_a_corrected_label_is_what_score_uses_alone(desk: Desk, read: list[int]) -> None:
    write(desk.input, rows(["x"] * 4))
    assert desk.run(score=SCORE).code == 0
    assert json.loads((desk.out / "scores.json").read_text())["points"][0]["scores"]["accuracy"]["mean"] == 0
    write(desk.input, rows(["x", "echo: text 1", "x", "x"]))
    read.clear()
    ended = called("score", desk.out, "--json")
    assert ended.code == 0 and "in one row" in ended.err and "warning" not in ended.err
    assert ended.summary["points"][0]["scores"]["accuracy"]["mean"] == 0.25
    assert read == [4]
    read.clear()
    assert called("score", desk.out, "--json").summary == ended.summary
    finished = desk.run(score=SCORE)
    assert (finished.code, finished.summary["requests_sent"], read) == (0, 0, []), "what score has read, run knows"
    assert desk.column() == ["x", "echo: text 1", "x", "x"]


@pytest.fixture
def uncharted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are read and summarised, not written: the libraries of charts take seconds to import."""
    monkeypatch.setattr("batchflex.report.report._NEEDED", ("charts_that_are_not_there",))


@pytest.mark.usefixtures("uncharted")
def test_results_report_and_retry_have_it_too(one: Desk) -> None:
    write(one.input, rows(LABELS))
    assert one.run(score=SCORE).code == 0
    write(one.input, rows(["z", *LABELS[1:]]))
    shown = called("results", one.out, "-o", "-", "--where", "label = 'z'")
    assert [json.loads(line)["id"] for line in shown.out.splitlines()] == ["r0"]
    assert f"the scores are older: batchflex score {one.out}" in shown.err
    compared = called("compare", one.out, one.out)
    assert compared.code == 0 and f"the scores in {one.out} were older than its results: made anew" in compared.err
    assert "made anew" not in called("compare", one.out, one.out).err
    write(one.input, rows(["y", *LABELS[1:]]))
    retried = called("retry", one.out, "--where", "label = 'y'", "--json", "--yes")
    assert (retried.code, retried.summary["requests_sent"]) == (0, 1), retried.err
    assert one.column()[:2] == ["y", "b"]
    write(one.input, rows(["w", *LABELS[1:]]))
    assert "in one row" in called("report", one.out).err
    assert one.column()[0] == "w"
    assert one.asked == 11


def test_compare_makes_scores_anew_as_they_were_made_or_says_what_to_run(one: Desk) -> None:
    write(one.input, rows(["x", "echo: text 1", "x", "x"]))
    (one.path / "other.toml").write_text('[job]\nname = "o"\n[[score]]\nname = "brief"\nkind = "length"\nmax = 3\n')
    assert one.run(score=SCORE).code == 0
    assert called("score", one.out, "--cluster", "label", "-q").code == 0
    write(one.input, rows(["echo: text 0", "echo: text 1", "x", "x"]))
    compared = called("compare", one.out, one.out, "--json")
    assert compared.code == 0, compared.err
    assert (compared.summary["scores"][0]["a"], compared.summary["cluster"]) == (0.5, "label")
    assert called("score", one.out, one.path / "other.toml", "-q").code == 0
    write(one.input, rows(["x"] * 4))
    refused = called("compare", one.out, one.out)
    assert (
        refused.code == 2
        and f"make them anew: batchflex score {one.out} (with the job file that named them" in refused.err
    )
    assert one.asked == 4


def test_results_in_python_have_the_input_as_it_is_now(one: Desk) -> None:
    write(one.input, rows(LABELS))
    run = batchflex.run(one.job(score=SCORE), progress=False)
    write(one.input, rows(["z", *LABELS[1:]]))
    with pytest.warns(batchflex.JobWarning, match="in one row: .*; the scores are older: batchflex score"):
        assert run.results()["label"].to_list() == ["z", *LABELS[1:]]
    assert run.results()["label"][0] == "z", "and nothing more to say"
    one.input.unlink()
    with pytest.warns(batchflex.JobWarning, match="carried columns are as they were"):
        assert run.results()["label"].to_list() == ["z", *LABELS[1:]]
    assert one.asked == 10


def test_back_and_forth(one: Desk) -> None:
    """What was carried with the answer may be right again; then there is nothing to update."""
    for labels in (LABELS, ["z", *LABELS[1:]], ["z", "z", *LABELS[2:]], LABELS):
        write(one.input, rows(labels))
        assert one.run().code == 0
        assert one.column() == labels
    assert not carried_updates.CarriedUpdates(one.out / "carried.parquet").id
    assert one.asked == 10


@pytest.mark.parametrize("named", [True, False])
def test_rows_that_occur_twice_and_rows_without_id_have_each_their_own(named: bool, desk: Desk) -> None:
    given = [*rows(LABELS[:3], named=named), *rows(LABELS[:3], named=named)]
    write(desk.input, given)
    assert desk.run().code == 0
    for number, row in enumerate(given):
        row["label"] = f"l{number}"
    write(desk.input, given)
    assert desk.run().summary["requests_sent"] == 0
    assert desk.column() == [f"l{number}" for number in range(6)]
    assert desk.asked == 6


def test_sweep_points_and_samples_of_a_row_have_the_same(desk: Desk) -> None:
    write(desk.input, rows(["a", "b"]))
    swept = {"temperature": [0.0, 1.0], "samples": 3}
    assert desk.run(sweep=swept).code == 0
    write(desk.input, rows(["a", "z"]))
    assert "in 6 rows" in desk.run(sweep=swept).err
    assert desk.column() == ["a"] * 6 + ["z"] * 6
    assert desk.asked == 12


def test_rows_that_come_go_and_move_keep_what_is_theirs(desk: Desk) -> None:
    write(desk.input, rows(LABELS))
    assert desk.run().code == 0
    given = rows(LABELS)
    given[3]["label"], given[7]["label"] = "three", "seven"
    new = {"id": "new", "text": "new", "label": "new", "note": ""}
    write(desk.input, [new, *given[:2:-1]])
    assert desk.run().summary["requests_sent"] == 1
    assert desk.column() == ["new", "b", "a", "seven", "a", "b", "a", "three"]
    write(desk.input, given)
    assert desk.run().summary["requests_sent"] == 0
    assert desk.column() == [row["label"] for row in given]


def test_a_file_that_grows_is_not_read_again_where_it_has_not_changed(one: Desk, read: list[int]) -> None:
    write(one.input, rows(LABELS))
    assert one.run().code == 0
    write(one.input, rows([*LABELS, "c", "c"]))
    read.clear()
    assert called("results", one.out, "-o", "-").code == 0 and read == []
    ended = one.run()
    assert (ended.summary["requests_sent"], sum(read)) == (2, 2)
    assert one.column() == [*LABELS, "c", "c"]
    write(one.input, rows(["z", *LABELS[1:], "c", "c"]))
    assert one.run().summary["requests_sent"] == 0
    assert one.column()[0] == "z"
    write(one.input, rows(["z", *LABELS[1:], "c", "c", "d"]))
    assert one.run().summary["requests_sent"] == 1
    assert one.column() == ["z", *LABELS[1:], "c", "c", "d"]


def test_of_several_files_only_the_changed_one_is_gone_through(one: Desk, read: list[int]) -> None:
    (one.path / "in").mkdir()
    one.input = one.path / "in"
    for number in range(3):
        write(one.input / f"{number}.jsonl", [row | {"id": f"{number}-{row['id']}"} for row in rows(LABELS)])
    assert one.run().code == 0
    for number in (2, 1):  # what the first change has brought stays when there is a second
        write(
            one.input / f"{number}.jsonl", [row | {"id": f"{number}-{row['id']}"} for row in rows(["z", *LABELS[1:]])]
        )
        read.clear()
        assert one.run().summary["requests_sent"] == 0
        assert read == [10]
    assert one.column() == [*LABELS, "z", *LABELS[1:], "z", *LABELS[1:]]


# --------------------------------------------------------------------------------------------- other columns and types


def test_a_column_that_is_carried_later_is_there_for_rows_answered_before(desk: Desk) -> None:
    write(desk.input, rows(LABELS))
    assert desk.run().code == 0
    ended = desk.run(carry=("note", "label"))
    assert ended.summary["requests_sent"] == 0 and "in 10 rows" in ended.err
    assert desk.column("note") == [f"n{number}" for number in range(10)] and desk.column() == LABELS
    assert table_of(desk.out).columns[-2:] == ["note", "label"]
    assert desk.run(carry=["note"]).code == 0
    assert table_of(desk.out).columns[-1] == "note" and "label" not in table_of(desk.out).columns
    assert desk.run(carry=[]).code == 0
    assert "note" not in table_of(desk.out).columns
    assert desk.asked == 10


def test_a_column_that_rows_carried_which_are_gone_leaves_the_table_too(one: Desk) -> None:
    """What `carried.parquet` has of rows that are not in the input any more tells nothing of the columns of the others."""
    write(one.input, rows(["a", "b", "c", "d"]))
    assert one.run(carry=["label"]).code == 0
    assert one.run(carry=["label", "note"]).code == 0
    write(one.input, rows(["a", "b", "x"]))
    assert one.run(carry=["label"]).code == 0
    write(one.input, rows(["z", "b", "x"]))
    assert one.run(carry=["label"]).code == 0
    assert "label" in table_of(one.out).columns and "note" not in table_of(one.out).columns


def test_the_type_of_a_column_is_that_of_the_input_now(desk: Desk) -> None:
    for labels, kind in (
        ([1, 2, None, 4], pl.Int64),
        (["1", "2", None, "4"], pl.String),
        ([1, 2, None, 4.5], pl.Float64),
        ([1, 2, "three", 4], pl.String),
        ([1, 2, 3, 4], pl.Int64),
    ):
        write(desk.input, rows(labels))
        assert desk.run().code == 0
        assert table_of(desk.out)["label"].dtype == kind
        wanted = [None if v is None else str(v) if kind == pl.String else v for v in labels]
        assert desk.column() == wanted
    assert desk.asked == 4


def test_a_mixed_column_is_of_one_type_once_its_odd_value_is_mended(one: Desk) -> None:
    """The answers with the odd value and without lie in one part, whose footer knows of both kinds."""
    write(one.input, rows([1, 2, "n/a", 4]))
    assert one.run().code == 0
    assert table_of(one.out)["label"].dtype == pl.String
    write(one.input, rows([1, 2, 3, 4]))
    assert one.run().code == 0
    assert (table_of(one.out)["label"].dtype, one.column()) == (pl.Int64, [1, 2, 3, 4])


def test_types_of_a_parquet_input_are_kept(one: Desk) -> None:
    one.input = one.path / "in.parquet"
    frame = pl.DataFrame(rows(LABELS[:4])).with_columns(at=pl.date(2026, 1, pl.int_range(1, 5)))
    frame.write_parquet(one.input)
    aged(one.input)
    assert one.run(carry=["at"]).code == 0
    later = frame.with_columns(pl.col("at") + pl.duration(days=1), grade=pl.Series([1, 2, 3, 4], dtype=pl.Int16))
    later.write_parquet(one.input)
    aged(one.input)
    assert one.run(carry=["at", "grade"]).summary["requests_sent"] == 0
    assert table_of(one.out).select("at", "grade").equals(later.select("at", "grade"))


def test_all_columns_are_carried_also_those_named_as_a_request(one: Desk) -> None:
    given = [row | {"body": f"body {n}", "messages": [n]} for n, row in enumerate(rows(LABELS[:2]))]
    write(one.input, given)
    assert one.run(carry="*").code == 0
    found = table_of(one.out)
    assert found["body"].to_list() == ["body 0", "body 1"] and found["messages"].to_list() == ["[0]", "[1]"]
    assert found["input_id"].to_list() == ["r0", "r1"]
    one.input = one.path / "in.parquet"
    write(one.input, [row | {"messages": "m"} for row in given])
    assert one.run("--out", one.path / "typed", carry="*").code == 0
    assert table_of(one.path / "typed")["messages"].to_list() == ["m", "m"]


def test_rows_with_requests_of_their_own_carry_all_but_these(one: Desk) -> None:
    write(one.input, [{"id": "r", "messages": [{"role": "user", "content": "hi"}], "label": "a"}])
    job = one.job("*")
    del job["prompt"]
    assert batchflex.run(job).exit_code == 0
    assert "messages" not in table_of(one.out).columns and one.column() == ["a"]


# ------------------------------------------------------------------------------------------- how the rows are found


def test_a_frame_has_what_it_has_now(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    settings = {"job.out": str(tmp_path / "out"), "input.carry": ["label"], "endpoint.base_url": endpoint.base_url}
    for labels in (["a", "b"], ["a", "z"], ["a", 5]):
        frame = pl.DataFrame(rows(labels), strict=False, schema_overrides={"label": pl.String})
        job = build({"prompt": {"user": "{{ text }}"}, "params": {"model": "m"}}, [*settings.items()])
        assert api.execute(job, frame=frame).exit_code == 0
        assert table(tmp_path / "out")["label"].to_list() == frame["label"].to_list()
    assert endpoint.stats()["requests"] == 2
    assert refresh(Folder(tmp_path / "out")) == (None, None), "a frame is nowhere to be found again"


def test_answers_that_are_kept_have_what_their_rows_carry_now(desk: Desk) -> None:
    write(desk.input, rows(LABELS))
    assert desk.run().code == 0
    write(desk.input, rows(["z", *LABELS[1:]]))
    for _ in range(2):
        kept = desk.run("--on-change", "keep", prompt={"user": "Tag: {{ text }}"})
        assert (kept.code, kept.summary["requests_sent"]) == (0, 0)
        assert desk.column() == ["z", *LABELS[1:]]
    rerun = desk.run("--on-change", "rerun", prompt={"user": "Tag: {{ text }}"})
    assert (rerun.summary["requests_sent"], desk.column()) == (10, ["z", *LABELS[1:]])
    write(desk.input, rows(["y", *LABELS[1:]]))
    assert "in one row" in desk.run("--on-change", "rerun", prompt={"user": "Tag: {{ text }}"}).err
    assert desk.column()[0] == "y"


def test_a_changed_job_that_is_refused_changes_no_column(one: Desk) -> None:
    write(one.input, rows(LABELS))
    assert one.run().code == 0
    write(one.input, rows(["z", *LABELS[1:]]))
    assert one.run(prompt={"user": "Tag: {{ text }}"}).code == 2
    assert one.column() == LABELS and not (one.out / "carried.parquet").exists()


def test_a_run_that_is_killed_before_its_table_has_compared_for_the_others(one: Desk, read: list[int]) -> None:
    write(one.input, rows(LABELS))
    assert one.run(score=SCORE).code == 0
    write(one.input, rows(["z", *LABELS[1:]]))
    job, folder = build(one.job(score=SCORE)), Folder(one.out)
    with folder.held():
        assert prepare(job, Plan(job), folder).recarried == 1
    assert one.column() == LABELS
    (shown,) = view.results_of(folder).batches(["label"])
    assert shown.column(0).to_pylist() == ["z", *LABELS[1:]], "what is shown is made of what is known"
    read.clear()
    assert called("score", one.out).code == 0
    assert one.column()[0] == "z" and sum(read) == 0


def test_score_leaves_the_rows_to_the_next_run(one: Desk) -> None:
    """A row that says something else now would be asked anew, one that is gone would drop out: when a run is told to."""
    write(one.input, rows(LABELS))
    assert one.run(score=SCORE).code == 0
    given = rows(["z", *LABELS[1:]])
    given[4]["text"] = "another"
    write(one.input, [*given[:7], {"id": "new", "text": "new", "label": "n", "note": ""}])
    assert called("score", one.out, "--json").code == 0
    assert one.column() == ["z", *LABELS[1:]] and one.column("id") == [f"r{n}" for n in range(10)]
    assert one.run(score=SCORE).code == 2, "of the row that says something else"
    ended = one.run("--on-change", "rerun", score=SCORE)
    assert ended.summary["requests_sent"] == 2
    assert one.column() == ["z", *LABELS[1:7], "n"]


def test_merged_parts_and_a_new_answer_go_with_it(desk: Desk) -> None:
    write(desk.input, rows(LABELS[:5]))
    assert desk.run().code == 0
    write(desk.input, rows(LABELS))
    assert desk.run().code == 0
    write(desk.input, rows(["z", "y", *LABELS[2:]]))
    assert desk.run().code == 0
    folder = Folder(desk.out)
    with folder.held():
        compact.carry_out(compact.preview(folder, None, None))
    assert len(part_files.part_numbers(folder.parts)) == 1
    assert desk.run().code == 0 and desk.column() == ["z", "y", *LABELS[2:]]
    assert called("retry", desk.out, "--where", "id = 'r0'", "--yes").code == 0
    assert desk.column() == ["z", "y", *LABELS[2:]]
    write(desk.input, rows(["a", "y", *LABELS[2:]]))
    assert desk.run().code == 0 and desk.column() == ["a", "y", *LABELS[2:]]


def test_folders_by_date_have_each_their_own(one: Desk) -> None:
    write(one.input, rows(LABELS))
    dated = {"job": {"out": str(one.path / "runs" / "{date}")}, "input": {"since": "30d"}}
    assert one.run(**dated).code == 0
    (one.out,) = (one.path / "runs").iterdir()
    write(one.input, rows(["z", *LABELS[1:]]))
    assert one.run(**dated).summary["requests_sent"] == 0
    assert one.column()[0] == "z"
    write(one.input, rows(["y", *LABELS[1:]]))
    assert called("results", one.out, "-o", "-").err.count("in one row") == 1
    assert one.column()[0] == "y"


# ------------------------------------------------------------------------------------------------ where it cannot be


@pytest.mark.usefixtures("uncharted")
def test_where_the_input_is_gone_what_was_carried_is_used_and_said_once(one: Desk) -> None:
    write(one.input, rows(LABELS))
    assert one.run(score=SCORE).code == 0
    write(one.input, rows(["z", *LABELS[1:]]))
    assert one.run(score=SCORE).code == 0
    one.input.unlink()
    for verb in ("results", "score", "report"):
        ended = called(verb, one.out)
        assert ended.code == (2 if verb == "report" else 0)
        assert (
            ended.err.count("warning: carried columns are as they were") == 1 and "there is no input file" in ended.err
        )
    shutil.rmtree(one.out / "results", ignore_errors=True)
    assert json.loads(called("results", one.out, "-o", "-").out.splitlines()[0])["label"] == "z"


def test_jobs_without_carried_columns_do_not_look_for_their_input(one: Desk) -> None:
    write(one.input, rows(LABELS))
    assert one.run(carry=[]).code == 0
    one.input.unlink()
    assert "warning" not in called("results", one.out).err


def test_an_input_of_the_same_name_elsewhere_is_another(one: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write(one.input, rows(LABELS))
    monkeypatch.chdir(one.path)
    assert one.run(input={"path": "in.jsonl", "carry": ["label"]}).code == 0
    there = one.path / "there"
    there.mkdir()
    write(there / "in.jsonl", rows(["z"] * 10))
    job = (one.out / "job.toml").read_text()
    (one.out / "job.toml").write_text(job.replace(str(one.input), "in.jsonl"))
    monkeypatch.chdir(there)
    assert "is not the input of the last run" in called("results", one.out).err
    assert one.column() == LABELS


def test_a_folder_that_a_run_holds_is_left_alone(one: Desk) -> None:
    write(one.input, rows(LABELS))
    assert one.run().code == 0
    write(one.input, rows(["z", *LABELS[1:]]))
    with Folder(one.out).held():
        assert refresh(Folder(one.out)) == (None, None)
    assert one.column() == LABELS


def test_a_folder_that_cannot_be_written_is_read_as_it_is(one: Desk) -> None:
    write(one.input, rows(LABELS))
    assert one.run().code == 0
    write(one.input, rows(["z", *LABELS[1:]]))
    (one.out / ".lock").unlink()
    (one.out / ".lock").symlink_to(one.path / "elsewhere")
    shown = called("results", one.out, "-o", "-")
    assert shown.code == 0 and "warning: carried columns are as they were" in shown.err and ".lock" in shown.err
    assert json.loads(shown.out.splitlines()[0])["label"] == "a"


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_the_file_may_be_damaged_or_deleted(damage: bytes | None, one: Desk) -> None:
    write(one.input, rows(LABELS))
    assert one.run().code == 0
    write(one.input, rows(["z", *LABELS[1:]]))
    assert one.run().code == 0
    path = one.out / "carried.parquet"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    assert one.run().summary["requests_sent"] == 0
    assert one.column() == ["z", *LABELS[1:]]
    assert pq.read_table(path).num_rows == 1


def test_a_folder_of_a_version_that_did_not_look_is_looked_at_once(one: Desk, read: list[int]) -> None:
    """It wrote down where it had found answers, and left what was carried with them as it was."""
    write(one.input, rows(LABELS))
    assert one.run().code == 0
    write(one.input, rows(["z", *LABELS[1:]]))
    assert one.run().code == 0
    (one.out / "carried.parquet").unlink()
    made = results_table.assemble(Folder(one.out).parts, {}, ["{}"])
    old = pq.read_metadata(one.out / "results.parquet").metadata
    metadata = {
        name: value for name, value in old.items() if name.startswith(b"batchflex.") and name != b"batchflex.carried"
    }
    results_table.write_results(one.out / "results.parquet", made._replace(metadata=metadata))
    assert one.column() == LABELS
    read.clear()
    assert one.run().summary["requests_sent"] == 0 and one.column()[0] == "z"
    assert one.run().summary["requests_sent"] == 0 and read == [10]
