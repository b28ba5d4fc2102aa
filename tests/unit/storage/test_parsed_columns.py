"""Columns made of structured answers: their names, types and values, read back by polars and by pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflex.storage import FolderStore, parsed_columns, part_files, results_table
from tests.support.outcomes import outcome


def results(
    folder: Path, answers: list[Any], declared: dict[str, list[str]] | None = None, **more: Any
) -> pl.DataFrame:
    texts = [None if answer is None else msgspec.json.encode(answer).decode() for answer in answers]
    part_files.write_part(FolderStore(folder), 1, [outcome(n, parsed=text, **more) for n, text in enumerate(texts)])
    made = results_table.assemble(FolderStore(folder), {}, ["{}"], declared=declared)
    results_table.write_results(folder / "results.parquet", made)
    assert pq.read_table(folder / "results.parquet").schema.equals(made.schema)
    return pl.read_parquet(folder / "results.parquet")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, None], pl.Int64),
        ([1, 2.5], pl.Float64),
        ([True, False], pl.Boolean),
        (["a", "ä"], pl.String),
        ([["a"], [], None], pl.List(pl.String)),
        ([[1], [2, 3]], pl.List(pl.Int64)),
        ([[1], [2.5, None]], pl.List(pl.Float64)),
    ],
)
def test_a_field_has_the_type_that_holds_its_values(tmp_path: Path, values: list[Any], kind: Any) -> None:
    frame = results(tmp_path, [{"x": value} for value in values])
    assert frame.schema["x"] == kind
    assert frame["x"].to_list() == values


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["a", 1], ["a", "1"]),
        ([{"b": 1}, None], ['{"b":1}', None]),
        ([["a"], [1]], ['["a"]', "[1]"]),
        ([["a"], "b"], ['["a"]', "b"]),
        ([2**70], [str(2**70)]),
    ],
)
def test_what_has_no_type_in_common_is_text(tmp_path: Path, values: list[Any], texts: list[Any]) -> None:
    assert results(tmp_path, [{"x": value} for value in values])["x"].to_list() == texts


def test_answers_that_are_no_objects_or_are_not_there_have_no_fields(tmp_path: Path) -> None:
    frame = results(tmp_path, [{"x": 1}, None, [1], "x", 3, {}])
    assert frame["x"].to_list() == [1, None, None, None, None, None]


def test_a_name_that_is_taken_gets_a_prefix(tmp_path: Path) -> None:
    frame = results(tmp_path, [{"label": "a", "model": "b"}], carry='{"label":"c"}')
    assert frame.columns[len(part_files.COLUMNS) :] == ["label", "parsed_label", "parsed_model"]
    assert frame.row(0, named=True)["label"] == "c"
    assert frame.row(0, named=True)["parsed_label"] == "a"


def test_fields_of_the_schema_are_there_without_an_answer_and_in_its_order(tmp_path: Path) -> None:
    properties = {
        "why": {"type": "string"},
        "grade": {"type": ["number", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "label": {"enum": ["a", "b"]},
        "more": {"type": "object"},
        "yes": {"type": "boolean"},
    }
    frame = results(tmp_path, [{"extra": 1, "grade": 3}], parsed_columns.declared([{"properties": properties}]))
    assert dict(list(frame.schema.items())[len(part_files.COLUMNS) :]) == {
        "why": pl.String, "grade": pl.Float64, "tags": pl.List(pl.String), "label": pl.String, "more": pl.String,
        "yes": pl.Boolean, "extra": pl.Int64,
    }  # fmt: skip


def test_an_object_keyed_by_anything_does_not_make_endless_columns(tmp_path: Path) -> None:
    frame = results(tmp_path, [{f"key{n}": n} for n in range(200)])
    assert len(frame.columns) == len(part_files.COLUMNS) + parsed_columns.MOST_FIELDS


def test_a_part_of_an_older_version_has_its_fields_too(tmp_path: Path) -> None:
    part_files.write_part(FolderStore(tmp_path), 1, [outcome(1, parsed='{"x":1}')])
    path = tmp_path / part_files.part_name(1)
    old = pq.read_table(path)
    late = ["reasks", "reask_prompt_tokens", "reask_completion_tokens", "reask_cost", "retried_with", "request_id"]
    late += ["answer_limit", "cut_by", "format_fallback"]
    told = {name: value for name, value in old.schema.metadata.items() if name != b"batchflex.parsed_kinds"}
    pq.write_table(old.drop_columns(late).replace_schema_metadata(told), path)
    part_files.write_part(FolderStore(tmp_path), 2, [outcome(2, parsed='{"x":2.5}')])
    made = pa.concat_tables(results_table.assemble(FolderStore(tmp_path), {}, ["{}"]).batches)
    assert made["x"].to_pylist() == [1.0, 2.5]
    assert made["reasks"].to_pylist() == [0, 0]


def test_outcomes_come_back_from_a_part_as_they_went_in(tmp_path: Path) -> None:
    made = [outcome(n, reasks=n, reask_cost=0.5, retried_with='{"a":1}', request_id="req-1") for n in range(3)]
    part_files.write_part(FolderStore(tmp_path), 1, made)
    assert part_files.outcomes(part_files.read_part(FolderStore(tmp_path), 1)) == made


def test_what_is_no_json_has_no_fields() -> None:
    assert parsed_columns.kinds(["{", None, "[1]", '{"a": 1}']) == {"a": ["int"]}
