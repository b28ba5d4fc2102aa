"""What people open in a spreadsheet, or read as JSON: workbooks, CSV that is safe there, objects in place of their text."""

from __future__ import annotations

import csv
import datetime
import io
import json
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflex.core.errors import JobError
from batchflex.results import export_formats, spreadsheet
from batchflex.results.query import choose
from batchflex.storage.output_folder import Folder
from tests.support.command_line import called
from tests.support.scored_folders import answer, make

openpyxl = pytest.importorskip("openpyxl")
pytest.importorskip("xlsxwriter", reason="the extra 'excel' is not installed")

FORMULAS = ["=1+1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "=cmd|' /C calc'!A0"]
NOON = datetime.datetime(2024, 7, 1, 12)
HARMLESS = ["-5", "+49", "-1.5e3", "a=1", " =1", "", None, "'=1"]


def made(out: Path, **more: Any) -> Folder:
    """Ids that are called something else in the input, structured answers, carried columns of several kinds."""
    outcomes = [
        answer(
            row, said, parsed='{"label":"a","facts":{"n":[1,2]}}', id=f"r{row}",
            tool_calls='[{"name":"look"}]' if row == 0 else None,
            carry=json.dumps({"note": said, "tags": [row], "mixed": [row] if row % 2 else "text", "stars": row}),
            response=b'{\n  "id": "x",\n  "n": 1e400\n}' if row else b"<html>no</html>",
        )
        for row, said in enumerate([*FORMULAS, *HARMLESS])
    ]  # fmt: skip
    more = {"input": {"path": "gone.parquet", "id": "review_id"}} | more
    return make(out, outcomes, prompt={"user": "{{ note }}"}, **more)


def workbook(path: Path) -> Any:
    return openpyxl.load_workbook(path).active


# ----------------------------------------------------------------------------------------------------------- workbooks


def test_a_workbook_has_the_table_with_numbers_and_times_and_no_formula(tmp_path: Path) -> None:
    made(tmp_path / "out")
    written = called("results", tmp_path / "out", "-o", tmp_path / "x.xlsx")
    assert (written.code, written.out, written.err) == (0, "", f"16 rows in {tmp_path / 'x.xlsx'}\n")
    sheet = workbook(tmp_path / "x.xlsx")
    head, *rows = sheet.iter_rows()
    names = [cell.value for cell in head]
    assert names[0] == "review_id" and "id" not in names and all(cell.font.b for cell in head)
    assert sheet.freeze_panes == "A2" and sheet.auto_filter.ref.startswith("A1:")
    column = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    assert [cell.value for cell in column["note"]] == [*map(as_read, [*FORMULAS, *HARMLESS])]
    assert all(cell.data_type in ("s", "n") for cells in column.values() for cell in cells if cell.value is not None and
               not isinstance(cell.value, datetime.datetime))  # fmt: skip
    assert [cell.value for cell in column["stars"]] == list(range(16)) and column["stars"][0].data_type == "n"
    assert column["started_at"][0].value == datetime.datetime(2023, 11, 14, 22, 13, 20)
    assert json.loads(column["tags"][3].value) == [3], "what is nested is JSON"
    widths = {
        name: sheet.column_dimensions[openpyxl.utils.get_column_letter(at)].width for at, name in enumerate(names, 1)
    }
    assert widths["response"] <= 63 and widths["key"] > widths["note"]


def as_read(text: str | None) -> str | None:
    return text and text.replace("\r", "_x000D_")


def sheet_of(column: pa.Array) -> tuple[list[Any], int]:
    """The cells of a workbook with one column, and how many were cut."""
    stream = io.BytesIO()
    writer = export_formats.writer("xlsx", stream, pa.schema([("c", column.type)]))
    writer.write(pa.RecordBatch.from_arrays([column], ["c"]))
    writer.close()
    return [row[0].value for row in list(workbook(stream).iter_rows())[1:]], writer.cut  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ([1, -(2**53) - 1, None, 10**14], pa.int64(), [1, str(-(2**53) - 1), None, 10**14]),
        ([0.5, float("inf"), 1e300], pa.float64(), [0.5, "inf", 1e300]),
        ([True, None, False], pa.bool_(), [True, None, False]),
        ([D("12.30"), D("12345678901234567.5")], pa.decimal128(20, 2), [12.3, "12345678901234567.50"]),
        ([datetime.date(2024, 2, 29), datetime.date(1899, 1, 1)], pa.date32(), [datetime.datetime(2024, 2, 29), "1899-01-01"]),
        ([NOON.replace(tzinfo=datetime.UTC)], pa.timestamp("us", "Europe/Berlin"), [NOON]),
        ([datetime.time(23, 59, 1)], pa.time64("us"), [datetime.time(23, 59, 1)]),
        ([None, [1, 2]], pa.list_(pa.int64()), [None, "[1,2]"]),
        ([None, b"\xff"], pa.binary(), [None, "/w=="]),
        (["<r>=1</r>", "<r>&", "a\nb", "\u0001 漢 🙂"], pa.string(), ["<r>=1</r> ", "<r>&", "a\nb", "_x0001_ 漢 🙂"]),
    ],
)  # fmt: skip
def test_cells_of_every_type(values: list[Any], kind: pa.DataType, read: list[Any]) -> None:
    found, cut = sheet_of(pa.array(values, kind))
    assert (found, cut) == (read, 0)


def test_text_that_is_too_long_for_a_cell_is_cut_and_that_is_said(tmp_path: Path) -> None:
    longest = spreadsheet._MOST_CHARS
    found, cut = sheet_of(pa.array(["a" * longest, "b" * (longest + 1), "🙂" * longest, "é"]))
    assert [len(text.encode("utf-16-le")) // 2 for text in found] == [longest, longest, longest - 1, 1] and cut == 2
    make(tmp_path / "out", [answer(0, "x" * 40_000, response=None)], prompt={"user": "x"})
    written = called("results", tmp_path / "out", "-o", tmp_path / "x.xlsx")
    assert written.err.endswith("1 text was cut to 32,767 characters, which is all that a cell of Excel holds\n")


def test_more_rows_than_a_sheet_has_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobError, match=r"room for 1,048,575 rows, and these are 1,048,576: choose some with --where"):
        spreadsheet.require_room(1_048_576, 3)
    spreadsheet.require_room(1_048_575, 16_384)
    with pytest.raises(JobError, match="name some with --columns"):
        spreadsheet.require_room(1, 16_385)
    made(tmp_path / "out")
    monkeypatch.setattr(spreadsheet, "MOST_ROWS", 9)
    refused = called("results", tmp_path / "out", "-o", tmp_path / "x.xlsx")
    assert refused.code == 2 and "these are 16" in refused.err and not (tmp_path / "x.xlsx").exists()
    assert called("results", tmp_path / "out", "-o", tmp_path / "x.xlsx", "--where", "row < 9").code == 0
    split = called("results", tmp_path / "out", "-o", tmp_path / "s.xlsx", "--split-by", "status")
    assert split.code == 2 and not list(tmp_path.glob("s-*")) and not list(tmp_path.glob(".*"))


def test_a_workbook_for_each_value_and_one_on_standard_output(tmp_path: Path) -> None:
    made(tmp_path / "out")
    assert called("results", tmp_path / "out", "-o", tmp_path / "s.xlsx", "--split-by", "review_id").code == 0
    assert len(list(tmp_path.glob("s-r*.xlsx"))) == 16
    assert [cell.value for cell in next(iter(workbook(tmp_path / "s-r3.xlsx")["A2:A2"]))] == ["r3"]


def test_without_the_package_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "out")
    monkeypatch.setattr(spreadsheet.importlib.util, "find_spec", lambda name: None)
    refused = called("results", tmp_path / "out", "-o", tmp_path / "x.xlsx")
    assert refused.code == 2 and "pip install 'batchflex[excel]'" in refused.err


# ------------------------------------------------------------------------------------------------------ CSV for Excel


def read_csv(data: bytes, separator: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=separator))


@pytest.mark.parametrize(("name", "separator"), [("x.csv", ","), ("x.tsv", "\t")])
def test_nothing_in_csv_for_a_spreadsheet_is_a_formula(name: str, separator: str, tmp_path: Path) -> None:
    made(tmp_path / "out")
    columns = ["--columns", "id,note,content,stars,started_at"]
    written = called("results", tmp_path / "out", "-o", tmp_path / name, "--excel", *columns)
    assert written.code == 0 and f"{2 * len(FORMULAS)} cells begin as a formula would" in written.err
    data = (tmp_path / name).read_bytes()
    assert data.startswith(b'\xef\xbb\xbf"review_id"')
    rows = read_csv(data, separator)
    assert [row["note"] for row in rows] == [*(f"'{text}" for text in FORMULAS), *(text or "" for text in HARMLESS)]
    assert rows[0]["started_at"] == "2023-11-14 22:13:20", "which Excel takes for a date"
    plain = called("results", tmp_path / "out", "-o", tmp_path / name, *columns)
    assert "formula" not in plain.err
    rows = read_csv((tmp_path / name).read_bytes(), separator)
    assert [row["note"] for row in rows] == [text or "" for text in [*FORMULAS, *HARMLESS]]


def test_a_name_of_a_column_is_no_formula_either(tmp_path: Path) -> None:
    make(tmp_path / "out", [answer(0, "x", carry='{"=evil()":1}')], prompt={"user": "x"})
    assert called("results", tmp_path / "out", "-o", tmp_path / "x.csv", "--excel").code == 0
    assert '"\'=evil()"' in (tmp_path / "x.csv").read_text().splitlines()[0]


# -------------------------------------------------------------------------------------------------- objects in JSON


def test_json_has_objects_where_columns_are_structured_and_text_with_plain(tmp_path: Path) -> None:
    made(tmp_path / "out")
    rows = [json.loads(line) for line in called("results", tmp_path / "out", "-o", "-").out.splitlines()]
    assert rows[1]["parsed"] == {"label": "a", "facts": {"n": [1, 2]}} and rows[1]["facts"] == {"n": [1, 2]}
    assert rows[0]["tool_calls"] == [{"name": "look"}] and rows[1]["tool_calls"] is None
    assert rows[0]["response"] == "<html>no</html>", "what is no JSON stays text"
    assert rows[1]["response"] == {"id": "x", "n": float("inf")}, "as it came, on one line"
    assert [row["tags"] for row in rows] == [[row] for row in range(16)]
    assert rows[1]["mixed"] == "[1]" and rows[2]["mixed"] == "text", "some are text, so all stay it"
    array = json.loads(called("results", tmp_path / "out", "-o", "-", "--format", "json").out)
    assert array == rows
    plain = [json.loads(line) for line in called("results", tmp_path / "out", "-o", "-", "--plain").out.splitlines()]
    assert plain[1]["parsed"] == '{"label":"a","facts":{"n":[1,2]}}' and plain[1]["tags"] == "[1]"
    assert [row["id"] for row in plain] == [row["review_id"] for row in rows]
    none = called("results", tmp_path / "out", "-o", "-", "--format", "json", "--where", "row < 0")
    assert json.loads(none.out) == []


def test_a_table_of_an_earlier_version_has_them_too(tmp_path: Path) -> None:
    """Its footer does not say where its columns come from; those of the parts do."""
    folder = made(tmp_path / "out")
    new = called("results", tmp_path / "out", "-o", "-").out
    table = pq.read_table(folder.results)
    kept = {name: value for name, value in table.schema.metadata.items() if name != b"batchflex.columns"}
    pq.write_table(table.replace_schema_metadata(kept), folder.results)
    assert called("results", tmp_path / "out", "-o", "-").out == new
    folder.results.unlink()
    assert called("results", tmp_path / "out", "-o", "-").out == new, "nor is one needed"


# -------------------------------------------------------------------------------------------------- what ids are called


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.jsonl"])
def test_ids_are_called_what_they_are_called_in_the_input(name: str, tmp_path: Path) -> None:
    made(tmp_path / "out")
    read: Any = {"x.parquet": pl.read_parquet, "x.csv": pl.read_csv, "x.jsonl": pl.read_ndjson}[name]
    for more, first in (([], "review_id"), (["--plain"], "id")):
        options = ["--columns", "id,status", *more]
        assert called("results", tmp_path / "out", "-o", tmp_path / name, *options).code == 0
        frame = read(tmp_path / name)
        assert frame.columns == [first, "status"] and frame[first][3] == "r3"


def test_either_name_of_the_ids_can_be_said(tmp_path: Path) -> None:
    made(tmp_path / "out")
    for given in (["--columns", "review_id"], ["--columns", "id"], ["--columns", "review_*,id"]):
        chosen = called("results", tmp_path / "out", "-o", "-", *given, "--where", "review_id = 'r3' OR id = 'r4'")
        assert chosen.out == '{"review_id":"r3"}\n{"review_id":"r4"}\n'
    assert choose(Folder(tmp_path / "out"), "review_id = 'r3'").examples == ["r3"], "and to ask again"


def test_a_column_of_that_name_keeps_it_and_the_ids_theirs(tmp_path: Path) -> None:
    outcomes = [answer(row, "x", id=f"r{row}", carry=json.dumps({"review_id": row})) for row in range(2)]
    make(tmp_path / "out", outcomes, prompt={"user": "x"}, input={"path": "gone.csv", "id": "review_id", "carry": "*"})
    shown = called("results", tmp_path / "out", "-o", "-", "--columns", "id,review_id")
    assert shown.out == '{"id":"r0","review_id":0}\n{"id":"r1","review_id":1}\n'
