"""Input files to rows: every format and packing, and what happens with damaged ones."""

import gzip
import json
import os
import random
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflex.core import TIMINGS
from batchflex.core.errors import InputError
from batchflex.plan.formats import Settings
from batchflex.plan.reading import BLOCK_BYTES, Fault
from batchflex.plan.source import Block, Source, is_young
from tests.support.young_files import aged

NOISE = random.Random(1)
ROWS = [{"id": i, "text": f"Grüße {i}"} for i in range(25)]


def pack(path: Path, raw: bytes) -> None:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(raw)
    else:
        path.write_bytes(raw)


def jsonl(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def csv(rows: list[dict], mark: str = ",") -> bytes:
    lines = [mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]
    return "\n".join(lines).encode() + b"\n"


def rows(*paths: Path, **options) -> list:
    return [row for block in Source([str(p) for p in paths], Settings(**options)).blocks(10) for row in block.rows]


# --------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL"])
def test_jsonl(tmp_path, suffix, packing):
    path = tmp_path / f"in{suffix}{packing}"
    pack(path, jsonl(ROWS))
    assert rows(path) == ROWS
    assert Source(str(path)).columns() is None
    assert Source(str(path)).count() == (None if packing else 25)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_csv(tmp_path, suffix, mark, packing):
    path = tmp_path / f"in{suffix}{packing}"
    pack(path, csv(ROWS, mark))
    assert rows(path) == [{"id": str(row["id"]), "text": row["text"]} for row in ROWS]
    assert Source(str(path)).columns() == ["id", "text"]


def test_parquet_of_polars_and_of_pyarrow(tmp_path):
    pl.DataFrame(ROWS).write_parquet(tmp_path / "polars.parquet", row_group_size=7)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "pyarrow.parquet", row_group_size=7)
    for name in ("polars", "pyarrow"):
        source = Source(str(tmp_path / f"{name}.parquet"))
        assert rows(tmp_path / f"{name}.parquet") == ROWS
        assert (source.columns(), source.count()) == (["id", "text"], 25)
        assert source.arrow_schema().names == ["id", "text"]


def test_a_frame():
    source = Source(None, frame=pl.DataFrame(ROWS))
    blocks = list(source.blocks(10))
    assert [row for block in blocks for row in block.rows] == ROWS
    assert [block.at for block in blocks] == [range(10), range(10, 20), range(20, 25)]
    assert blocks[1].where(2) == "row 13"
    assert (source.columns(), source.count()) == (["id", "text"], 25)


def test_the_format_can_be_given(tmp_path):
    pack(tmp_path / "data.txt", jsonl(ROWS))
    assert rows(tmp_path / "data.txt", format="jsonl") == ROWS
    with pytest.raises(InputError, match=r"Known are the endings \.jsonl, .*\.ods .* or set input\.format"):
        Source(str(tmp_path / "data.txt"))


def test_files_of_several_members(tmp_path):
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS[:9])) + gzip.compress(jsonl(ROWS[9:])))
    assert rows(tmp_path / "in.jsonl.gz") == ROWS
    pack(tmp_path / "a.zst", jsonl(ROWS[:9]))
    pack(tmp_path / "b.zst", jsonl(ROWS[9:]))
    (tmp_path / "in.jsonl.zst").write_bytes((tmp_path / "a.zst").read_bytes() + (tmp_path / "b.zst").read_bytes())
    assert rows(tmp_path / "in.jsonl.zst") == ROWS


def test_times_of_a_table_end_at_microseconds(tmp_path):
    kinds = {"at": pa.timestamp("ns", "UTC"), "took": pa.duration("ns"), "day": pa.time64("ns"), "x": pa.int64()}
    table = pa.table({name: pa.array([1_000_000_001], pa.int64()).cast(kind) for name, kind in kinds.items()})
    pq.write_table(table, tmp_path / "in.parquet")
    (row,) = rows(tmp_path / "in.parquet")
    assert row["at"].timestamp() == 1 and row["took"].total_seconds() == 1 and row["day"].second == 1


# ---------------------------------------------------------------------------------------------------- which files


def test_folders_globs_and_lists(tmp_path):
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / ".hidden").mkdir()
    for name in ("b.jsonl", "a.jsonl.gz", "deep/c.jsonl", "notes.txt", ".x.jsonl", ".hidden/y.jsonl"):
        pack(tmp_path / "d" / name, jsonl([{"from": name}]))
    found = [row["from"] for row in rows(tmp_path / "d")]
    assert found == ["a.jsonl.gz", "b.jsonl", "deep/c.jsonl"]
    assert [row["from"] for row in rows(tmp_path / "d" / "*.jsonl")] == ["b.jsonl"]
    assert [row["from"] for row in rows(tmp_path / "d" / "**" / "[bc].jsonl")] == ["b.jsonl", "deep/c.jsonl"]
    twice = rows(tmp_path / "d" / "b.jsonl", tmp_path / "d" / "a.jsonl.gz", tmp_path / "d")
    assert [row["from"] for row in twice] == ["b.jsonl", "a.jsonl.gz", "deep/c.jsonl"]


def test_output_folders_in_an_input_folder_are_no_input(tmp_path):
    (tmp_path / "data").mkdir()
    pack(tmp_path / "data" / "a.jsonl", jsonl(ROWS))
    for out in (tmp_path / "data" / "runs" / "2026-01-01", tmp_path / "data" / "runs" / "2026-01-02"):
        (out / "parts").mkdir(parents=True)
        (out / "run.json").write_text("{}")
        pl.DataFrame({"a": [1]}).write_parquet(out / "results.parquet")
        (out / "history.jsonl").write_text("{}\n")
    assert [path.name for path, _ in Source(str(tmp_path / "data")).files] == ["a.jsonl"]
    results = tmp_path / "data" / "runs" / "2026-01-01" / "results.parquet"
    assert [path for path, _ in Source(str(results)).files] == [results]


def test_paths_with_the_characters_of_patterns(tmp_path):
    folder = tmp_path / "run [1]"
    folder.mkdir()
    pack(folder / "a*.jsonl", jsonl(ROWS))
    assert rows(folder / "a*.jsonl") == ROWS
    assert rows(folder / "*.jsonl") == ROWS
    assert rows(folder / ".." / "run [1]" / "?*.jsonl") == ROWS


def test_a_relative_pattern(tmp_path, monkeypatch):
    pack(tmp_path / "a.jsonl", jsonl(ROWS))
    monkeypatch.chdir(tmp_path)
    assert rows(Path("*.jsonl")) == ROWS


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("no.jsonl", "there is no input file .*no.jsonl"),
        ("*.jsonl", r"no file matches the input path .*\*.jsonl"),
        ("empty", "the folder .*empty has no file that can be read .*; it has nothing in it"),
        ("~nobody-of-this-name/x.jsonl", "there is no input file ~nobody"),
    ],
)
def test_nothing_there(tmp_path, path, told):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=told):
        Source(path if path.startswith("~") else str(tmp_path / path))


def test_no_input_and_remote_input():
    for paths in (None, "", []):
        with pytest.raises(InputError, match=r"set input.path to a file, a folder or a pattern"):
            Source(paths)
    with pytest.raises(
        InputError, match=r"hdfs://b/x.parquet is not on this machine.*copy it here .*or use s3://, gs://"
    ):
        Source("hdfs://b/x.parquet")


# ---------------------------------------------------------------------------------------------------- odd contents


def test_byte_order_mark_blank_lines_and_line_ends(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf\r\n{"a": 1}\r\n\n  \t\n{"a": 2}\n\n{"a": 3}')
    (block,) = Source(str(path)).blocks()
    assert block.rows == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert block.lines == [2, 5, 7]
    assert block.where(1) == "in.jsonl, line 5"
    path.write_bytes(b'{"a": 1}\n\n \r\n{"a": 3}')
    assert Source(str(path)).count() == 2
    path.write_bytes(b"\xef\xbb\xbf")
    assert list(Source(str(path)).blocks()) == []


def test_csv_with_a_mark_blank_lines_and_cells_of_several_lines(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes('\ufefftext,"n"\r\n"two\nlines, ""quoted""",1\r\n\r\nx,2\r\ntoo,many,cells\r\n,\r\n'.encode())
    (block,) = Source(str(path)).blocks()
    assert block.rows == [
        {"text": 'two\nlines, "quoted"', "n": "1"},
        {"text": "x", "n": "2"},
        Fault("has 3 cells, the header 2"),
        {"text": "", "n": ""},
    ]
    assert block.lines == [2, 5, 6, 7]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"a": 1', "not valid JSON: Input data was truncated"),
        (b'{"a": NaN}', "not valid JSON: JSON is malformed"),
        (b'{"a": "\xe9"}', "not valid UTF-8"),
        (b'\xff\xfe{\0"\0', "not valid UTF-8"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b"[1, 2]", "each line must be a JSON object; found '[1, 2]'"),
        (b"null", "each line must be a JSON object; found 'null'"),
        (b"[" * 100_000, "not valid JSON: maximum recursion depth"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_bad_line_is_the_fault_of_that_line(tmp_path, line, told):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    (block,) = Source(str(path)).blocks()
    assert (block.rows[0], block.rows[2]) == ({"a": 1}, {"a": 2})
    assert isinstance(block.rows[1], Fault) and block.rows[1].text.startswith(told)
    assert block.where(1) == "in.jsonl, line 2"


def test_a_csv_row_that_is_not_utf8_is_the_fault_of_that_row(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes(b"text,n\nok,1\n" + "für,2\n".encode("latin-1") + "für,3\n".encode())
    first, second, third = rows(path)
    assert (first, third) == ({"text": "ok", "n": "1"}, {"text": "für", "n": "3"})
    assert second == Fault(
        "not valid UTF-8: the byte 0xfc after 'f'; save the file as UTF-8, or name its encoding, such as "
        'input.encoding = "windows-1252"'
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has no header"),
        (b"\n", "has no header"),
        ("für\n".encode("latin-1") + "für\n".encode(), "line 1: not valid UTF-8: the byte 0xfc after 'f'; save"),
        (b"a,b,a\n1,2,3\n", "two columns have the same name, 'a'"),
        (b'a,b\n1,"x" y\n', "line 2: ',' expected after '\"'"),
        (b'a,b\n1,2\n1,"x\n', "line 3: unexpected end of data"),
    ],
)
def test_a_csv_file_that_cannot_be_read(tmp_path, content, told):
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(InputError, match=told):
        rows(tmp_path / "in.csv")


def test_huge_lines_and_cells(tmp_path):
    long = "x" * (BLOCK_BYTES + 1)
    pack(tmp_path / "in.jsonl", jsonl([{"a": long}, {"a": "b"}, {"a": long}]))
    pack(tmp_path / "in.csv", csv([{"a": long}, {"a": "b"}, {"a": long}]))
    for name in ("in.jsonl", "in.csv"):
        blocks = list(Source(str(tmp_path / name)).blocks())
        assert [len(block.rows) for block in blocks] == [1, 2]  # a block ends when it is large
        assert [block.at[0] for block in blocks] == [0, 1]
    pl.DataFrame({"a": [NOISE.randbytes(50_000).hex() for _ in range(200)]}).write_parquet(tmp_path / "in.parquet")
    assert max(len(block.rows) for block in Source(str(tmp_path / "in.parquet")).blocks()) <= 50


def test_rows_are_numbered_in_their_file_and_placed_in_the_whole(tmp_path):
    for name in ("a", "b"):
        pl.DataFrame(ROWS).write_parquet(tmp_path / f"{name}.parquet")
    blocks = list(Source(str(tmp_path)).blocks(10))
    assert [block.at[0] for block in blocks] == [0, 10, 20, 25, 35, 45]
    assert blocks[4].where(1) == "b.parquet, row 12"
    assert Source(str(tmp_path)).count() == 50


def test_where():
    assert Block("a.jsonl", [{}], [10], [3]).where(0) == "a.jsonl, line 3"
    assert Block("a.parquet", [{}], [10], None, 6).where(0) == "a.parquet, row 5"
    assert Block("", [{}], [10], None).where(0) == "row 11"


SKIPS = {
    "none": b"",
    "some": bytes([1, 0, 1, 1, 0] * 8),
    "the beginning": b"\1" * 23,
    "whole row groups and files": b"\0" * 3 + b"\1" * 25 + b"\0" * 3,
    "all but the last": b"\1" * 74,
    "all": b"\1" * 75,
    "more than there are": b"\1" * 100,
}


@pytest.mark.parametrize("skip", SKIPS.values(), ids=SKIPS)
@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.csv.gz", "in.parquet", "frame"])
def test_rows_that_are_passed_over(tmp_path, name, skip):
    frame = pl.DataFrame([{"id": i, "text": f"Grüße {i}"} for i in range(75)])
    if name != "frame":
        for number in range(3):
            part, path = frame.slice(25 * number, 25), tmp_path / f"{number}-{name}"
            if name.endswith(".parquet"):
                part.write_parquet(path, row_group_size=7)
            else:
                pack(path, csv(part.to_dicts()) if ".csv" in name else b"\n".join(jsonl([r]) for r in part.to_dicts()))
    source = Source(None, frame=frame) if name == "frame" else Source(str(tmp_path))
    whole = [
        (at, row, b.where(i)) for b in source.blocks(10) for i, (at, row) in enumerate(zip(b.at, b.rows, strict=True))
    ]
    found = [
        (at, row, b.where(i))
        for b in source.blocks(10, skip)
        for i, (at, row) in enumerate(zip(b.at, b.rows, strict=True))
    ]
    assert len(whole) == 75
    assert found == [told for told in whole if told[0] >= len(skip) or not skip[told[0]]]
    assert all(b.rows for b in source.blocks(10, skip))


def test_types_that_arrow_cannot_pick_rows_of_are_passed_over_too(tmp_path):
    kinds = [pa.string_view(), pa.binary_view(), pa.list_(pa.string_view()), pa.struct([("a", pa.string_view())])]
    values = ["x", b"x", ["x"], {"a": "x"}]
    table = pa.table({f"c{i}": pa.array([v] * 20, k) for i, (k, v) in enumerate(zip(kinds, values, strict=True))})
    pq.write_table(table, tmp_path / "in.parquet")
    source = Source(str(tmp_path / "in.parquet"))
    (whole,), (rest,) = source.blocks(), source.blocks(skip=b"\1" * 13)
    assert rest.rows == whole.rows[13:] and list(rest.at) == list(range(13, 20))


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "in.jsonl"
    pack(path, jsonl(ROWS))
    aged(path)
    source = Source(str(path))
    told: list[Path] = []
    blocks = source.blocks(10, signed=source.seen(), on_change=told.append)
    next(blocks)
    assert told == []
    path.touch()
    next(blocks)
    assert told == [path]


def test_a_file_that_goes_away_while_it_is_read_is_read_to_its_end(tmp_path):
    path = tmp_path / "in.jsonl"
    pack(path, jsonl(ROWS))
    aged(path)
    source = Source(str(path))
    told: list[Path] = []
    blocks = source.blocks(10, signed=source.seen(), on_change=told.append)
    found = list(next(blocks).rows)
    path.unlink()
    for block in blocks:
        found += block.rows
    assert found == ROWS and told == [path, path]


def test_a_signature_tells_whether_files_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(TIMINGS, "young_file_s", 0.1)

    def is_sure(source: Source) -> bool:
        return not any(is_young(each, time.time_ns()) for each in source.seen())

    path = tmp_path / "in.jsonl"
    pack(path, jsonl(ROWS))
    assert not is_sure(Source(str(path))), "it may be written to again without getting another time"
    aged(path)
    source = Source(str(path))
    before = source.seen()
    assert is_sure(source) and before == Source(str(path)).seen()
    stat = path.stat()
    pack(path, jsonl(ROWS).replace(b"3", b"4"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    aged(path)
    source = Source(str(path))
    assert is_sure(source) and source.seen() != before, "same size and time of change, other content"
    assert Source(None, frame=pl.DataFrame(ROWS)).seen() is None
    path.unlink()
    with pytest.raises(InputError, match=r"in\.jsonl cannot be read: No such file"):
        source.seen()


# --------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.csv.gz", "in.jsonl.zst", "in.csv.zst"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_packed_file_cut_short(tmp_path, name, share):
    table = [{"id": i, "text": NOISE.randbytes(40).hex()} for i in range(3_000)]
    path = tmp_path / name
    pack(path, jsonl(table) if "jsonl" in name else csv(table))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(InputError, match=f"{name}(: the header cannot be read| is damaged somewhere after row )"):
        rows(path)


def test_a_packed_file_with_wrong_bytes(tmp_path):
    path = tmp_path / "in.jsonl.gz"
    pack(path, jsonl([{"id": i, "text": NOISE.randbytes(40).hex()} for i in range(3_000)]))
    raw = bytearray(path.read_bytes())
    raw[5_000:5_040] = b"\0" * 40
    path.write_bytes(raw)
    with pytest.raises(InputError, match="is damaged somewhere after row"):
        rows(path)
    path.write_bytes(b"this is no gzip")
    with pytest.raises(InputError, match="is damaged somewhere after row 0"):
        rows(path)


def test_a_damaged_parquet_file(tmp_path):
    path = tmp_path / "in.parquet"
    pl.DataFrame({"a": [NOISE.randbytes(40).hex() for _ in range(5_000)]}).write_parquet(path, compression="zstd")
    raw = path.read_bytes()
    path.write_bytes(raw[:-20])
    for what in (lambda: Source(str(path)).columns(), lambda: Source(str(path)).count(), lambda: rows(path)):
        with pytest.raises(InputError, match=r"in.parquet is (no Parquet file that can be read|damaged)"):
            what()
    path.write_bytes(raw[:4] + b"\xff" * 400 + raw[404:])
    with pytest.raises(InputError, match=r"in.parquet is damaged somewhere after row"):
        rows(path)


def test_a_file_that_vanishes(tmp_path):
    pack(tmp_path / "in.jsonl", jsonl(ROWS))
    source = Source(str(tmp_path / "in.jsonl"))
    (tmp_path / "in.jsonl").unlink()
    with pytest.raises(InputError, match=r"in.jsonl"):
        list(source.blocks())
    with pytest.raises(InputError, match=r"in.jsonl cannot be read"):
        source.count()


def test_reading_a_csv_file_leaves_the_csv_module_as_it_is(tmp_path):
    import csv as module

    limit = module.field_size_limit()
    path = tmp_path / "in.csv"
    path.write_text(f"id,text\n1,{'x' * 2 * limit}\n")
    (block,) = Source(str(path)).blocks()
    assert len(block.rows[0]["text"]) == 2 * limit
    assert module.field_size_limit() == limit
