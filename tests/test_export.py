"""The results in other formats: the same rows, whatever they hold, and never half a file."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex import export
from batchflex.errors import FolderError
from batchflex.folder import Folder
from tests.counting_endpoint import CountingEndpoint

ODD = 'a "quoted", line\nand\r\nanother; \t ü 漢字 🙂 \\n =1+1'
CARRIED: dict[str, tuple[pa.DataType, list[Any]]] = {
    "number": (pa.int64(), [1, None, 3]),
    "small": (pa.float32(), [0.5, None, -1.25]),
    "truth": (pa.bool_(), [True, None, False]),
    "words": (pa.large_string(), [ODD, None, ""]),
    "day": (pa.date32(), [datetime.date(2024, 2, 29), None, datetime.date(1969, 12, 31)]),
    "moment": (pa.timestamp("us", "UTC"), [datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.UTC), None, None]),
    "clock": (pa.time64("us"), [datetime.time(23, 59, 59), None, None]),
    "price": (pa.decimal128(9, 2), [decimal.Decimal("12.30"), None, decimal.Decimal("-0.01")]),
    "tags": (pa.list_(pa.string()), [["a", ODD], None, []]),
    "facts": (pa.struct({"n": pa.int64(), "deep": pa.list_(pa.float64())}), [{"n": 1, "deep": [0.5]}, None, {"n": None}]),
}  # fmt: skip


@pytest.fixture
def out(endpoint: CountingEndpoint, tmp_path: Path) -> Path:
    """A finished run over a table with columns of every kind, one row of which failed."""
    columns = {name: pa.array(values, kind) for name, (kind, values) in CARRIED.items()}
    texts = [ODD, "second", "third"]
    pq.write_table(pa.table({"custom_id": ["r0", "r1", "r2"], "text": texts, **columns}), tmp_path / "rows.parquet")
    endpoint.knobs(poison={"third": "422"})
    job = {
        "job": {"out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(tmp_path / "rows.parquet"), "id": "custom_id", "carry": list(CARRIED)},
        "prompt": {"user": "{{ text }}"},
        "params": {"model": "m"},
    }
    assert batchflex.run(job).exit_code == 1
    return tmp_path / "out"


def written(out: Path, name: str) -> Path:
    export.write(export.Results(Folder(out)), out.parent / name)
    assert not list(out.parent.glob(".*"))
    return out.parent / name


def plain(value: Any) -> Any:
    """As a JSON reader gets it."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value


def test_parquet_is_the_table(out: Path) -> None:
    whole = pq.read_table(out / "results.parquet")
    assert pq.read_table(written(out, "all.parquet")).equals(whole)
    for name, (kind, values) in CARRIED.items():
        if name != "facts":  # objects are JSON in a column of strings
            assert whole[name].to_pylist() == values, name
            assert whole[name].type == kind, name
    assert whole["content"][0].as_py() == f"echo: {ODD}"
    assert pl.read_parquet(out / "results.parquet").height == 3, "polars reads it, too"


def test_json_lines_hold_the_same(out: Path) -> None:
    rows = pq.read_table(out / "results.parquet").to_pylist()
    lines = written(out, "all.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [plain(row) for row in rows]
    stream = io.BytesIO()
    export.stream_jsonl(export.Results(Folder(out)), stream)
    assert stream.getvalue() == (out.parent / "all.jsonl").read_bytes()


def test_csv_holds_the_same_and_what_is_nested_as_json(out: Path) -> None:
    rows = pq.read_table(out / "results.parquet").to_pylist()
    with written(out, "all.csv").open(newline="", encoding="utf-8") as stream:
        cells = list(csv.DictReader(stream))
    assert len(cells) == 3
    assert list(cells[0]) == list(rows[0])
    for row, cell in zip(rows, cells, strict=True):
        for name in ("id", "content", "status", "error_message", "response", "words"):
            assert cell[name] == (row[name] or ""), name
        assert (json.loads(cell["tags"]) if cell["tags"] else None) == row["tags"]
        assert cell["facts"] == (row["facts"] or "")
        assert cell["number"] == ("" if row["number"] is None else str(row["number"]))
        assert cell["day"] == ("" if row["day"] is None else row["day"].isoformat())
        assert cell["price"] == ("" if row["price"] is None else str(row["price"]))
        assert cell["truth"] == ("" if row["truth"] is None else str(row["truth"]).lower())


def test_bytes_and_nanoseconds(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """No text, so in base64, as in JSON."""
    moment = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))
    table = pa.table({"text": ["a"], "raw": pa.array([b"\xff\x00"], pa.binary()), "at": moment})
    pq.write_table(table, tmp_path / "rows.parquet")
    job = {
        "job": {"out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(tmp_path / "rows.parquet"), "carry": ["raw", "at"]},
        "prompt": {"user": "{{ text }}"},
        "params": {"model": "m"},
    }
    assert batchflex.run(job).exit_code == 0
    assert pl.read_csv(written(tmp_path / "out", "all.csv"))["raw"].to_list() == ["/wA="]
    line = json.loads(written(tmp_path / "out", "all.jsonl").read_text())
    assert (line["raw"], line["at"]) == ("/wA=", "2023-11-14T22:13:20.123456")


def test_the_shape_of_a_batch_output_file(out: Path) -> None:
    path = out.parent / "answers.jsonl"
    assert export.write_openai_batch(export.Results(Folder(out)), path) == (2, 1)
    good = [json.loads(line) for line in path.read_text().splitlines()]
    (bad,) = [json.loads(line) for line in path.with_name("answers_errors.jsonl").read_text().splitlines()]
    results = pl.read_parquet(out / "results.parquet")
    for line, row in zip([*good, bad], results.to_dicts(), strict=True):
        assert list(line) == ["id", "custom_id", "response", "error"]
        assert line["custom_id"] == row["id"]
        assert row["key"] in line["id"]
        assert list(line["response"]) == ["status_code", "request_id", "body"]
        assert line["response"]["status_code"] == row["http_status"]
        assert line["response"]["body"] == json.loads(row["response"])
        assert line["response"]["request_id"] == json.loads(row["response"]).get("id")
    assert [line["error"] for line in good] == [None, None]
    assert bad["error"] == {"code": "http_422", "message": results["error_message"][2]}


@pytest.mark.parametrize("name", ["all.parquet", "all.csv", "all.jsonl"])
def test_a_file_is_replaced_whole_or_not_at_all(name: str, out: Path) -> None:
    class Breaks(export.Results):
        def batches(self) -> Iterator[pa.RecordBatch]:
            yield from super().batches()
            raise RuntimeError("half-way")

    path = out.parent / name
    path.write_text("what was there before")
    with pytest.raises(RuntimeError, match="half-way"):
        export.write(Breaks(Folder(out)), path)
    assert path.read_text() == "what was there before"
    assert not list(out.parent.glob(".*"))
    written(out, name)
    assert path.read_bytes()[:20] != b"what was there before"[:20]


def test_neither_of_two_files_is_replaced_when_one_fails(out: Path) -> None:
    class Breaks(export.Results):
        def batches(self) -> Iterator[pa.RecordBatch]:
            yield from super().batches()
            raise RuntimeError("half-way")

    good, bad = out.parent / "a.jsonl", out.parent / "a_errors.jsonl"
    good.write_text("good before")
    bad.write_text("bad before")
    with pytest.raises(RuntimeError, match="half-way"):
        export.write_openai_batch(Breaks(Folder(out)), good)
    assert (good.read_text(), bad.read_text()) == ("good before", "bad before")
    assert not list(out.parent.glob(".*"))


def test_the_results_may_replace_themselves(out: Path) -> None:
    before = pl.read_parquet(out / "results.parquet")
    export.write(export.Results(Folder(out)), out / "results.parquet")
    assert pl.read_parquet(out / "results.parquet").equals(before)


def test_a_suffix_in_capitals_and_one_that_is_none(out: Path) -> None:
    assert pl.read_csv(written(out, "ALL.CSV"))["id"].to_list() == ["r0", "r1", "r2"]
    for name in ("all", "all.xlsx", "all.json"):
        with pytest.raises(FolderError, match=r"\.parquet, \.csv, \.jsonl"):
            written(out, name)
    with pytest.raises(FolderError, match="no folder"):
        written(out, "nowhere/all.csv")


def test_the_table_that_is_missing_is_made_of_the_parts(out: Path) -> None:
    """As after a kill: the table is derived, and can be made again at any time."""
    whole = pl.read_parquet(out / "results.parquet")
    (out / "results.parquet").unlink()
    assert pl.read_parquet(written(out, "all.parquet")).equals(whole)
    assert export.Results(Folder(out)).head(2).num_rows == 2
    assert export.Results(Folder(out)).head(20).num_rows == 3


def test_a_run_without_answers_has_an_empty_table(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    job = {
        "job": {"out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(tmp_path / "rows.jsonl")},
        "params": {"model": "m"},
    }
    run = batchflex.run(job)
    assert (run.exit_code, run.results().height) == (0, 0)
    for name in ("all.parquet", "all.csv", "all.jsonl"):
        written(tmp_path / "out", name)
    assert pl.read_parquet(tmp_path / "all.parquet").is_empty()
    assert (tmp_path / "all.csv").read_text().startswith('"id","row"')
    assert (tmp_path / "all.jsonl").read_text() == ""
    assert export.Results(Folder(tmp_path / "out")).head(5).num_rows == 0


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="not the output folder of a run"):
        export.Results(Folder(tmp_path))
