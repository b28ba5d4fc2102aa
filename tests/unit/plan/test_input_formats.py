"""Every kind of input file: written by the libraries that people use, read alike, and asked once."""

from __future__ import annotations

import datetime
import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import openpyxl
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.errors import InputError, JobError
from batchflex.plan import json_files
from batchflex.plan.formats import Settings
from batchflex.plan.plan import Plan
from batchflex.plan.reading import Every, Fault, Reading
from batchflex.plan.source import Source
from tests.support.young_files import aged

ROWS = [{"id": i, "text": f"Grüße, „{i}“", "score": i + 0.5, "good": i % 2 == 0} for i in range(25)]


def source(path: Path, **settings: Any) -> Source:
    return Source(str(path), Settings(**settings))


def rows(path: Path, **settings: Any) -> list[Any]:
    return [row for block in source(path, **settings).blocks(10) for row in block.rows]


def write_stream(path: Path, table: pa.Table, rows: int = 10) -> None:
    """As ``datasets`` writes its files."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, cells in sheets.items():
        sheet = book.create_sheet(name)
        for row in cells:
            sheet.append(row)
    book.save(path)
    return path


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    """The table as a file of the kind that its name says."""
    frame, arrow = pd.DataFrame(table), pa.Table.from_pylist(table)
    kind = path.name.partition(".")[2]
    if kind == "csv":
        frame.to_csv(path, index=False, sep=";", encoding="cp1252")
    elif kind == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif kind in ("json", "json.gz"):
        frame.to_json(path, orient="records", force_ascii=False)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind in ("xlsx",):
        frame.to_excel(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "feather":
        pyarrow.feather.write_feather(arrow, str(path), chunksize=10)
    elif kind == "ipc":
        pl.DataFrame(table).write_ipc(path, compression="zstd")
    else:
        write_stream(path, arrow)
    return path


TYPED = ["a.json", "a.json.gz", "a.jsonl", "a.xlsx", "a.parquet", "a.feather", "a.ipc", "a.arrow"]


@pytest.mark.parametrize("name", TYPED)
def test_types_are_kept(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert rows(path) == ROWS
    found = source(path)
    has_columns = not name.startswith("a.json")
    assert found.columns() == ([*ROWS[0]] if has_columns else None)
    assert found.count() == (25 if has_columns or name == "a.jsonl" else None)
    assert found.rows_of(0) == 25
    schema = found.arrow_schema()
    assert (schema is not None) == has_columns
    if schema is not None:
        assert schema.names == [*ROWS[0]] and pa.types.is_floating(schema.field("score").type)


def job(path: Path, **sections: Any) -> Job:
    aged(*(each for each in [path, *path.rglob("*")] if each.is_file()))
    tables: dict[str, Any] = {
        "input": {"path": str(path)},
        "prompt": {"user": "{{ text }} ({{ score }})"},
        "params": {"model": "m"},
        "job": {"out": str(path.parent / "out")},
    }
    return build({name: {**tables.get(name, {}), **sections.get(name, {})} for name in {**tables, **sections}})


def keys(path: Path) -> list[str]:
    return [request.key.hex() for block in Plan(job(path)).blocks() for request in block]


def test_the_same_rows_have_the_same_keys_in_every_format(tmp_path: Path) -> None:
    found = {name: keys(write(tmp_path / name, ROWS)) for name in [*TYPED, "a.csv", "a.tsv"]}
    assert len(set(found["a.parquet"])) == 25
    assert {name: each for name, each in found.items() if each != found["a.parquet"]} == {}


@pytest.mark.parametrize("name", [*TYPED, "a.csv", "a.tsv"])
@pytest.mark.parametrize("skip", [b"\1" * 13, bytes([1, 0, 0, 1, 1] * 5), b"\1" * 24, b"\1" * 25, b"\1" * 40])
def test_rows_that_are_passed_over(tmp_path: Path, name: str, skip: bytes) -> None:
    found = source(write(tmp_path / name, ROWS))
    whole = {at: (b.rows[i], b.where(i)) for b in found.blocks(7) for i, at in enumerate(b.at)}
    rest = {at: (b.rows[i], b.where(i)) for b in found.blocks(7, skip) for i, at in enumerate(b.at)}
    assert rest == {at: row for at, row in whole.items() if at >= len(skip) or not skip[at]} and len(whole) == 25


@pytest.mark.parametrize("name", [*TYPED, "a.csv"])
def test_a_limit_and_a_mixed_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / name, ROWS)
    write(tmp_path / "in" / "z.jsonl", ROWS)
    plan = Plan(job(tmp_path / "in", input={"limit": 30}))
    requests = [request for block in plan.blocks() for request in block]
    assert [request.row for request in requests] == list(range(30))
    assert plan.count() in (None, 30)


# -------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, {"a": "]}[{"}]',
        '\ufeff \n[\n{"a": 1},\n{"a": "]}[{"}\n]\n\n',
        '{"data": [{"a": 1}, {"a": "]}[{"}]}',
        '{\n "version": {"data": [3]}, "x": "\\"data\\": [",\n "data": [{"a": 1}, {"a": "]}[{"}],\n "more": 1}',
        '{"a": 1}\n{"a": "]}[{"}\n',
    ],
)
def test_a_json_file_is_a_list_of_objects_or_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert rows(tmp_path / "a.json") == [{"a": 1}, {"a": "]}[{"}]


def test_a_json_file_of_one_row_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": [1, 2], "messages": []}\n')
    assert rows(tmp_path / "a.json") == [{"data": [1, 2], "messages": []}]
    (tmp_path / "a.json").write_text("")
    assert rows(tmp_path / "a.json") == []
    (tmp_path / "a.json").write_text("[]")
    assert rows(tmp_path / "a.json") == []


def test_what_a_long_line_is_is_told_without_the_whole_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reading, "longest_line", 1 << 16)
    path = tmp_path / "a.json"
    for start in ("[", '{"data": ['):
        path.write_text(
            start + ", ".join(json.dumps({"a": "x" * 100}) for _ in range(3_000)) + ("]" if start == "[" else "]}")
        )
        assert len(rows(path)) == 3_000
    path.write_text('[{"a": "' + "x" * 3_000_000 + '"}]')
    with pytest.raises(InputError, match="that is no row, and would fill the memory"):
        rows(path)


def test_a_list_is_read_bit_by_bit_and_its_lines_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    table = [{"id": i, "text": 'a "quoted" \\ [text]} ' * (i % 7), "in": {"x": [[[[[[i]]]]], {}]}} for i in range(60)]
    path.write_text(json.dumps(table, indent=1))
    for size in (1, 2, 3, 7, 64, 1 << 20):
        monkeypatch.setattr(json_files, "_AT_ONCE", size)
        assert rows(path) == table
    lines = path.read_text().splitlines()
    for block in source(path).blocks(10):
        assert all(lines[line - 1] == " {" for line in block.lines or ())
        assert block.where(0) == f"a.json, line {block.lines[0]}" if block.lines else False


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.sampled_from('a"\\[]{},:\n é'), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "a", "]"]), inner, max_size=3),
    max_leaves=8,
)


@given(
    table=st.lists(st.dictionaries(st.sampled_from(["data", "id", "t["]), VALUES, min_size=1, max_size=3), max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    size=st.integers(1, 40),
    beside=st.none() | st.dictionaries(st.sampled_from(["x", "meta"]), VALUES, max_size=2),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_list_is_read_as_json_has_it(
    tmp_path: Path, table: list[Any], indent: int | None, size: int, beside: dict[str, Any] | None
) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(table if beside is None else {**beside, "data": table}, indent=indent, ensure_ascii=size % 2 == 0)
    )
    with mock.patch.object(json_files, "_AT_ONCE", size):
        assert rows(path, format="json") == table


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", r"a\.json, line 1: each element of the list must be an object; found '1, 2'"),
        ('[{"a": 1}\n{"a": 2}]', r"line 2: each element of the list must be an object; found '\{'"),
        ('[{"a": 1},\n "x"]', r"line 2: each element of the list must be an object; found '\"x\"'"),
        ('[{"a": 1}, {"a":', "a.json ends within its list: it is cut off, or is not valid JSON"),
        ('[{"a": "never ended}]', "ends within its list"),
        ("[", "ends within its list"),
        ('{\n"rows": [{"a": 1}]\n}', 'is one JSON object without a list of rows under "data"'),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=told):
        rows(tmp_path / "a.json")


def test_an_element_that_cannot_be_read_is_the_fault_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1},\n{"a": nope},\n[3],\n{"a": 2}]')
    first, second, third, fourth = rows(tmp_path / "a.json")
    assert (first, fourth) == ({"a": 1}, {"a": 2})
    assert isinstance(second, Fault) and isinstance(third, Fault)


def test_a_packed_list_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS * 500).encode())[:2_000])
    with pytest.raises(InputError, match="is damaged"):
        rows(path)


# ------------------------------------------------------------------------------------------------------------- Arrow


def test_arrow_files_that_are_none(tmp_path: Path) -> None:
    for data in (b"", b"no Arrow at all", b"ARROW1\0\0", b"\xff" * 400):
        (tmp_path / "a.arrow").write_bytes(data)
        with pytest.raises(InputError, match=r"a\.arrow is no Arrow file that can be read"):
            source(tmp_path / "a.arrow").columns()
    (tmp_path / "a.feather").write_bytes(b"FEA1" + b"\0" * 40)
    with pytest.raises(InputError, match="in the first version of Feather"):
        source(tmp_path / "a.feather").columns()
    write_stream(tmp_path / "b.arrow", pa.Table.from_pylist(ROWS * 100))
    data = (tmp_path / "b.arrow").read_bytes()
    (tmp_path / "b.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"b\.arrow is damaged somewhere after row \d+"):
        rows(tmp_path / "b.arrow")


def test_batches_are_taken_apart_by_their_size(tmp_path: Path) -> None:
    write_stream(tmp_path / "a.arrow", pa.table({"a": ["x" * 100_000] * 100}), rows=100)
    assert max(len(block.rows) for block in source(tmp_path / "a.arrow").blocks()) <= 50
    assert sum(len(block.rows) for block in source(tmp_path / "a.arrow").blocks()) == 100


# ------------------------------------------------------------------------------------------------------- spreadsheets


def test_cells_of_a_sheet_have_types(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 1, 31)
    head = ["id", "text", "when", "n", "mixed", "", "good"]
    path = workbook(
        tmp_path / "a.xlsx",
        one=[head, [1, "ä", day, 1.5, "x", None, True], [2, None, None, None, 3, None, False], [None] * 7, [None] * 7],
    )
    first, second = rows(path)
    assert first == {"id": 1, "text": "ä", "when": first["when"], "n": 1.5, "mixed": "x", "good": True}
    assert str(first["when"]).startswith("2026-01-31")
    assert second == {"id": 2, "text": None, "when": None, "n": None, "mixed": "3", "good": False}
    assert source(path).notes() == []
    (tmp_path / "~$a.xlsx").write_bytes(b"Excel has it open")
    assert rows(tmp_path) == [first, second]


SPREADSHEET = """<?xml version="1.0" encoding="UTF-8"?>
<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0">
<office:body><office:spreadsheet><table:table table:name="Tickets">{rows}</table:table></office:spreadsheet></office:body>
</office:document-content>"""


def test_a_sheet_of_libreoffice(tmp_path: Path) -> None:
    def cell(value: object) -> str:
        if isinstance(value, str):
            return f'<table:table-cell office:value-type="string"><text:p>{value}</text:p></table:table-cell>'
        return f'<table:table-cell office:value-type="float" office:value="{value}"><text:p>{value}</text:p></table:table-cell>'

    table = [["id", "text"], [1, "Grüße"], [2, "b"]]
    lines = "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in table)
    with zipfile.ZipFile(tmp_path / "a.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr(
            "META-INF/manifest.xml",
            '<m:manifest xmlns:m="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
            '<m:file-entry m:full-path="/"/></m:manifest>',
        )
        archive.writestr("content.xml", SPREADSHEET.format(rows=lines))
    assert rows(tmp_path / "a.ods") == [{"id": 1, "text": "Grüße"}, {"id": 2, "text": "b"}]


def test_a_column_without_values_is_told_nowhere(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", one=[["a", "b"], [1, None], [2, None]])
    program = f"from batchflex.plan.source import Source; print(Source({str(path)!r}).columns())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("['a', 'b']\n", "")


def test_the_first_sheet_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", Tickets=[["t"], ["x"]], Other=[["t"], ["y"]])
    assert rows(path) == [{"t": "x"}]
    assert source(path).notes() == [
        "a.xlsx: the first of 2 sheets is read: 'Tickets', 'Other' (input.sheet says otherwise)"
    ]
    assert rows(path, sheet="Other") == rows(path, sheet=2) == [{"t": "y"}]
    assert source(path, sheet=2).notes() == []
    with pytest.raises(InputError, match=r"no sheet 'Othr', which input.sheet names; there are: 'Tickets', 'Other'"):
        rows(path, sheet="Othr")
    with pytest.raises(InputError, match=r"no sheet 3: input.sheet goes from 1 to 2"):
        rows(path, sheet=3)


def test_sheets_that_cannot_be_read(tmp_path: Path) -> None:
    assert rows(workbook(tmp_path / "a.xlsx", one=[["a", "b"]])) == []
    assert rows(workbook(tmp_path / "b.xlsx", one=[])) == []
    with pytest.raises(InputError, match="two columns have the same name, 'a'"):
        rows(workbook(tmp_path / "c.xlsx", one=[["a", "b", "a"], [1, 2, 3]]))
    (tmp_path / "d.xlsx").write_bytes(b"PK no workbook")
    with pytest.raises(InputError, match=r"d\.xlsx is no workbook that can be read"):
        rows(tmp_path / "d.xlsx")
    (tmp_path / "e.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match=r"e\.xlsx is no workbook that can be read"):
        rows(tmp_path / "e.xlsx")


def test_what_reads_sheets_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "a.xlsx", one=[["a"], [1]])
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(InputError, match=r"install it with: pip install 'batchflex\[excel\]'"):
        rows(path)


def test_a_workbook_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", one=[["a"], [1]])
    found = source(path)
    assert found.count() == 1
    workbook(path, one=[["a"], [1], [2]])
    assert found.count() == 2 == found.rows_of(0)


# --------------------------------------------------------------------------------------------------------- data sets


def data_set(folder: Path, table: list[dict[str, Any]], shards: int = 2) -> Path:
    """As ``save_to_disk`` of ``datasets`` leaves it, with a file that it caches beside."""
    folder.mkdir(parents=True)
    names = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    size = -(-len(table) // shards)
    for shard, name in enumerate(names):
        write_stream(folder / name, pa.Table.from_pylist(table[shard * size : (shard + 1) * size]))
    write_stream(folder / "cache-0123456789abcdef.arrow", pa.Table.from_pylist([{"id": 99, "text": "cached"}]))
    (folder / "dataset_info.json").write_text('{"features": {"id": {"dtype": "int64", "_type": "Value"}}}')
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in names], "_fingerprint": "ab", "_split": "train"})
    )
    return folder


def test_a_data_set_on_disk(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set", ROWS)
    assert rows(folder) == ROWS
    assert source(folder).columns() == [*ROWS[0]]
    assert [path.name for path, _ in source(folder).files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]


def test_a_data_set_with_splits_names_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        data_set(tmp_path / "set" / split, ROWS)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match=r"several splits: train, test\. Name one of them .* such as '.*set/train'"):
        source(tmp_path / "set")
    assert rows(tmp_path / "set" / "test") == ROWS


def test_a_data_set_that_takes_its_rows_by_number_is_refused(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set", ROWS)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_indices_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(InputError, match="save it anew after flatten_indices"):
        source(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"state\.json, which describes the data set, cannot be read"):
        source(folder)


def test_a_snapshot_of_a_hub(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    snapshot = tmp_path / "snapshots" / "abc" / "data"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]):
        pq.write_table(pa.Table.from_pylist(ROWS[number : number + 1]), blobs / str(number))
        (snapshot / f"{name}.parquet").symlink_to(blobs / str(number))
    (snapshot.parent / "README.md").write_text("---\n---\n")
    (snapshot.parent / "dataset_info.json").write_text("{}")
    (snapshot.parent / "dataset_infos.json").write_text("{}")
    found = source(snapshot.parent)
    assert len(found.files) == 3
    assert found.notes() == [
        "the input has files of several splits, which are all read: test, train; a pattern names one, such as "
        "'test-*.parquet'"
    ]
    assert rows(snapshot / "train-*.parquet") == ROWS[:2] and source(snapshot / "train-*.parquet").notes() == []


# ---------------------------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("in/tickts.csv", r"there is no input file .*tickts\.csv; did you mean .*in/tickets\.csv\?"),
        ("in/zzz.parquet", r"there is no input file .*zzz\.parquet; its folder has notes\.txt, tickets\.csv"),
        ("no/such/x.csv", r"there is no input file .*x\.csv: there is no folder .*/no$"),
        ("in/*.parquet", r"no file matches the input path .*\*\.parquet; .*/in has notes\.txt, tickets\.csv$"),
        ("in/notes.txt", r"what .*notes\.txt holds cannot be told from its name\. Known are the endings \.jsonl, "),
        ("texts", r"the folder .*texts has no file that can be read \(\.jsonl, .*\.ods\); it has a\.txt, b/"),
        ("in/a\0b", r"the input .* is no path"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(tmp_path: Path, path: str, told: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tickets.csv").write_text("a\n1\n")
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "texts" / "b").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").touch()
    with pytest.raises(InputError, match=told):
        source(tmp_path / path)


def test_a_column_that_is_not_there_is_said_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    mistakes = job(path, prompt={"user": "{{ txt }}"}, input={"id": "idd", "carry": ["scores"], "path": str(path)})
    with pytest.raises(JobError) as caught:
        Plan(mistakes)
    listed = "the columns are: id, text, score, good"
    assert caught.value.mistakes == [
        f"prompt: the template uses the column 'txt', which is not there (did you mean 'text'?); {listed}",
        f"input.id names the column 'idd', which is not there (did you mean 'id'?); {listed}",
        f"input.carry names the column 'scores', which is not there (did you mean 'score'?); {listed}",
    ]


def test_rows_of_a_text_are_counted_without_reading_them(tmp_path: Path) -> None:
    found = source(write(tmp_path / "a.csv", ROWS))
    assert found.rows_of(0) == 25 and found.count() is None and Every()[0] == 1
