"""Rows and columns that are chosen of the results, whether a table is there or made of the parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex.cli import main
from batchflex.core.errors import FolderError, JobError
from batchflex.results import query, view
from batchflex.results.columns import Columns
from batchflex.results.query import selected
from batchflex.storage.output_folder import Folder
from tests.support.counting_endpoint import CountingEndpoint, Knobs

ROWS = 30


@pytest.fixture(scope="module")
def scored(_endpoint_process: CountingEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a score."""
    folder = tmp_path_factory.mktemp("scored")
    texts = ["word " * (1 + number % 5) for number in range(ROWS)]
    label = ["a" if number % 3 else None for number in range(ROWS)]
    frame = pl.DataFrame({"id": [f"r{n}" for n in range(ROWS)], "text": texts, "label": label})
    frame.with_columns(pl.lit(1).alias("a,b"), pl.lit(2).alias("text.length")).write_parquet(folder / "rows.parquet")
    job = {
        "job": {"out": str(folder / "out")},
        "endpoint": {"base_url": _endpoint_process.base_url},
        "input": {"path": str(folder / "rows.parquet"), "id": "id", "carry": ["text", "label", "a,b", "text.length"]},
        "prompt": {"user": "{{ text }}"},
        "params": {"model": "m"},
        "score": [{"name": "long", "kind": "length", "unit": "words", "min": 4}],
    }
    _endpoint_process.knobs(**vars(Knobs()))
    assert batchflex.run(job).exit_code == 0
    return folder / "out"


@pytest.fixture(params=["there", "killed", "running"])
def out(request: pytest.FixtureRequest, scored: Path, tmp_path: Path) -> Any:
    """The folder of that run, of one that was killed before its table was made, and of one that goes on."""
    shutil.copytree(scored, tmp_path / "out")
    if request.param == "killed":
        (tmp_path / "out" / "results.parquet").unlink()
    if request.param == "running":
        with Folder(tmp_path / "out").held():
            yield tmp_path / "out"
    else:
        yield tmp_path / "out"


def chosen(out: Path, where: str | None = None, columns: list[str] | None = None) -> pl.DataFrame:
    with selected(Folder(out), where, columns) as rows:
        table = rows.head(10**9)
        assert table.num_rows == rows.rows
        return pl.DataFrame(table)


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ("row < 7", lambda frame: frame["row"] < 7),
        ("label IS NULL", lambda frame: frame["label"].is_null()),
        ("label = 'a' AND row % 2 = 1", lambda frame: (frame["label"] == "a") & (frame["row"] % 2 == 1)),
        (
            "completion_tokens > AVG(completion_tokens)",
            lambda f: f["completion_tokens"] > f["completion_tokens"].mean(),
        ),
        ("row = MAX(row) OVER (PARTITION BY text)", lambda frame: frame["row"] >= ROWS - 5),
        ("TRUE", lambda frame: frame["row"] >= 0),
        ("COUNT(*) > 100", lambda frame: frame["row"] < 0),
        ("content LIKE '%word%' AND \"text.length\" = 2", lambda frame: frame["row"] >= 0),
    ],
)
def test_the_rows_are_those_that_fit_in_their_order(where: str, fits: Any, out: Path, scored: Path) -> None:
    whole = pl.read_parquet(scored / "results.parquet")
    assert chosen(out, where).equals(whole.filter(fits(whole)))


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["status", "id"], ["status", "id"]),
        (["*_tokens", "id"], ["prompt_tokens", "completion_tokens", "total_tokens", "cache_read_input_tokens",
                              "cache_creation_input_tokens", "reasoning_tokens", "reask_prompt_tokens",
                              "reask_completion_tokens", "id"]),
        (["id", "id", "i?", "[!a-z]d"], None),
        (["text"], ["text"]),
        (["text.length", "text"], ["text.length", "text"]),
        (["a?b"], ["a,b"]),
    ],
)  # fmt: skip
def test_columns_come_in_the_order_that_is_asked_for(
    columns: list[str], names: list[str] | None, out: Path, scored: Path
) -> None:
    if names is None:
        with pytest.raises(JobError, match=r"--columns: the results have no column '\[!a-z\]d'"):
            chosen(out, None, columns)
        return
    whole = pl.read_parquet(scored / "results.parquet")
    for where, number in ((None, ROWS), ("row > 4", ROWS - 5)):
        found = chosen(out, where, columns)
        assert found.columns == names
        assert found.equals(whole.tail(number).select(names))


def test_a_file_for_each_value(out: Path, scored: Path) -> None:
    assert (
        main.main(
            ["results", str(out), "-o", str(out.parent / "x.parquet"), "--split-by", "label", "--where", "row > 3"]
        )
        == 0
    )
    whole = pl.read_parquet(scored / "results.parquet").filter(pl.col("row") > 3)
    assert pl.read_parquet(out.parent / "x-a.parquet").equals(whole.filter(pl.col("label") == "a"))
    assert pl.read_parquet(out.parent / "x-null.parquet").equals(whole.filter(pl.col("label").is_null()))


def test_scores_are_columns_as_long_as_they_are_of_this_table(scored: Path, tmp_path: Path) -> None:
    found = chosen(scored, "score_long = 0", ["id", "score_*", "text"])
    assert found.columns == ["id", "score_long", "text"]
    assert found["id"].to_list() == [f"r{number}" for number in range(ROWS) if number % 5 < 2]
    assert set(found["score_long"]) == {0.0}
    assert chosen(scored, None, ["score_long"]).height == ROWS
    assert "score_long" not in chosen(scored).columns, "they come when they are named"
    shutil.copytree(scored, tmp_path / "out")
    (tmp_path / "out" / "results.parquet").unlink()
    for where, columns in ((None, ["score_long"]), ("score_long = 0", None)):
        with pytest.raises(JobError, match=r"no column 'score_long'.*batchflex score .* makes them"):
            chosen(tmp_path / "out", where, columns)


@pytest.mark.parametrize(
    ("where", "columns", "words"),
    [
        ("staus = 'ok'", None, "the results have no column 'staus'; did you mean 'status'"),
        ("status", None, "is no condition: it gives text, not true or false"),
        ("row + 1", None, "gives a number, not true or false"),
        ("row <", None, "is no SQL condition"),
        ("id IN (SELECT id FROM self)", None, "reaches for another table"),
        ("status = 1", None, "cannot be held against the results"),
        (None, ["id", "conten"], "--columns: the results have no column 'conten'; did you mean 'content'"),
        (None, ["parsed_*"], "no column 'parsed_*'"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    where: str | None, columns: list[str] | None, words: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out.parent / "x.csv"
    given = [*(["--where", where] if where else []), *(["--columns", ",".join(columns)] if columns else [])]
    assert main.main(["results", str(out), "-o", str(path), *given]) == 2
    assert words in capsys.readouterr().err
    assert not path.exists()


def test_large_tables_come_piece_by_piece_with_their_scores_in_step(tmp_path: Path) -> None:
    number = 25_000
    whole = pa.table({"id": [f"r{n}" for n in range(number)], "row": range(number), "key": ["k"] * number})
    pq.write_table(whole, tmp_path / "results.parquet", row_group_size=9_000)
    pq.write_table(
        pa.table({"key": ["k"] * number, "score_x": range(number)}), tmp_path / "scores.parquet", row_group_size=7_000
    )
    stored = view.Stored([tmp_path / "results.parquet"], [tmp_path / "scores.parquet"])
    assert stored.schema.names == ["id", "row", "key", "score_x"]
    batches = list(stored.batches(["score_x", "row"]))
    assert max(map(len, batches)) <= 10_000
    for columns in (["score_x", "row"], ["score_x"], ["row"]):
        for wanted in (None, whole["row"].to_numpy() % 9_001 == 9_000, whole["row"].to_numpy() < 0):
            rows = pa.Table.from_batches(
                stored.batches(columns, wanted), pa.schema([stored.schema.field(name) for name in columns])
            )
            expected = list(range(number)) if wanted is None else [n for n in range(number) if wanted[n]]
            assert rows.column_names == columns
            assert all(rows[name].to_pylist() == expected for name in columns)


def test_a_table_that_is_replaced_meanwhile_is_not_mixed_with_the_old_one(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "out")
    stored = view.results_of(Folder(tmp_path / "out"))
    assert isinstance(stored, view.Stored)
    about = Columns(Folder(tmp_path / "out"), stored)
    shutil.copy(scored / "results.parquet", tmp_path / "another")
    (tmp_path / "another").replace(tmp_path / "out" / "results.parquet")
    with pytest.raises(FolderError, match="was replaced while it was read"):
        query._wanted(stored, query.sql_filter.read("row = 1"), about, Folder(tmp_path / "out"))


def test_the_terminal_shows_what_is_chosen(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "results",
        str(scored),
        "--where",
        "label IS NULL",
        "--columns",
        "id,label,score_long,http_status",
        "--rows",
        "3",
    ]
    assert main.main(words) == 0
    told = capsys.readouterr()
    assert [cell.strip() for cell in told.out.splitlines()[1].strip("│").split("┆")] == [
        "id",
        "label",
        "score_long",
        "http_status",
    ]
    assert "3 of 10 rows" in told.out and "10 of 30 rows fit label IS NULL" in told.err
    assert main.main(["results", str(scored), "-o", "-", "--where", "row = 3", "--columns", "row,id"]) == 0
    assert json.loads(capsys.readouterr().out) == {"row": 3, "id": "r3"}
