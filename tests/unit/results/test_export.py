"""The results in other formats: the same rows, whatever they hold, and never half a file."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex.cli import main
from batchflex.core.errors import FolderError, JobError
from batchflex.results import export
from batchflex.results.live_table import job_of
from batchflex.results.query import Selected, selected
from batchflex.storage.output_folder import Folder
from tests.support.counting_endpoint import CountingEndpoint, Knobs

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


@pytest.fixture(scope="module")
def finished(_endpoint_process: CountingEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over a table with columns of every kind, one row of which failed."""
    folder = tmp_path_factory.mktemp("finished")
    columns = {name: pa.array(values, kind) for name, (kind, values) in CARRIED.items()}
    texts = [ODD, "second", "third"]
    pq.write_table(pa.table({"custom_id": ["r0", "r1", "r2"], "text": texts, **columns}), folder / "rows.parquet")
    _endpoint_process.knobs(**vars(Knobs()) | {"poison": {"third": "422"}})
    job = {
        "job": {"out": str(folder / "out")},
        "endpoint": {"base_url": _endpoint_process.base_url},
        "input": {"path": str(folder / "rows.parquet"), "id": "custom_id", "carry": list(CARRIED)},
        "prompt": {"user": "{{ text }}"},
        "params": {"model": "m"},
    }
    assert batchflex.run(job).exit_code == 1
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def written(out: Path, name: str, kind: str | None = None, *, plain: bool = True, excel: bool = False) -> Path:
    path = out.parent / name
    with selected(Folder(out), plain=plain) as rows:
        export.write(rows, export.target(Folder(out), str(path), kind, excel=excel), Folder(out), io.BytesIO())
    assert not list(out.parent.glob(".*"))
    return path


def streamed(out: Path, kind: str | None = None) -> bytes:
    stream = io.BytesIO()
    with selected(Folder(out), plain=True) as rows:
        export.write(rows, export.target(Folder(out), "-", kind), Folder(out), stream)
    return stream.getvalue()


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
    assert streamed(out) == (out.parent / "all.jsonl").read_bytes()


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


def test_what_cells_look_like(out: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Null and empty text differ, line breaks stay in their quotes, and nothing is put before what a spreadsheet computes."""
    columns = "words,number,small,truth,day,moment,clock,price,tags,facts"
    assert main.main(["results", str(out), "-o", "-", "--format", "csv", "--columns", columns]) == 0
    odd = ODD.replace('"', '""')
    tags = json.dumps(["a", ODD], ensure_ascii=False, separators=(",", ":")).replace('"', '""')
    assert capfdbinary.readouterr().out.decode() == (
        '"words","number","small","truth","day","moment","clock","price","tags","facts"\n'
        f'"{odd}",1,0.5,true,2024-02-29,2024-01-02 03:04:05.000006Z,23:59:59.000000,12.30,"{tags}",'
        '"{""n"":1,""deep"":[0.5]}"\n'
        ",,,,,,,,,\n"
        '"",3,-1.25,false,1969-12-31,,,-0.01,"[]","{""n"":null,""deep"":null}"\n'
    )


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


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "json", "openai-batch"])
def test_standard_output_gets_what_a_file_gets(kind: str, out: Path) -> None:
    name = "all.jsonl" if kind == "openai-batch" else f"all.{kind}"
    whole = written(out, name, kind).read_bytes()
    if kind == "openai-batch":  # failures among the answers, in the order of the rows; here the last failed
        whole += (out.parent / "all_errors.jsonl").read_bytes()
    if kind == "parquet":
        assert pq.read_table(io.BytesIO(streamed(out, kind))).equals(pq.read_table(out / "results.parquet"))
    else:
        assert streamed(out, kind) == whole


@pytest.mark.parametrize("name", ["all.csv", "all.tsv", "all.json", "all.jsonl"])
def test_compressed_files_hold_the_same(name: str, out: Path) -> None:
    plain = written(out, name).read_bytes()
    assert gzip.decompress(written(out, f"{name}.gz").read_bytes()) == plain
    with pa.input_stream(written(out, f"{name}.ZST"), compression="zstd") as stream:
        assert stream.read() == plain


@pytest.mark.parametrize("name", ["all.parquet", "all.csv", "all.json", "all.xlsx", "all.csv.gz", "all.jsonl.zst"])
def test_a_file_is_replaced_whole_or_not_at_all(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = out.parent / name
    path.write_text("what was there before")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="half-way"):
        patch.setattr(Selected, "batches", breaks(Selected.batches))
        written(out, name)
    assert path.read_text() == "what was there before"
    assert not list(out.parent.glob(".*"))
    written(out, name)
    assert path.read_bytes()[:20] != b"what was there before"[:20]


def breaks(batches: Any) -> Any:
    def broken(*given: Any) -> Iterator[pa.RecordBatch]:
        yield from batches(*given)
        raise RuntimeError("half-way")

    return broken


def test_neither_of_two_files_is_replaced_when_one_fails(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = out.parent / "a.jsonl", out.parent / "a_errors.jsonl"
    good.write_text("good before")
    bad.write_text("bad before")
    monkeypatch.setattr(Selected, "batches", breaks(Selected.batches))
    with pytest.raises(RuntimeError, match="half-way"):
        written(out, "a.jsonl", "openai-batch")
    assert (good.read_text(), bad.read_text()) == ("good before", "bad before")
    assert not list(out.parent.glob(".*"))


@pytest.mark.parametrize(
    "name",
    ["results.parquet", "history.jsonl", "telemetry.jsonl", "scores.parquet", "parts/000001.parquet", "journal/x.csv"],
)
def test_what_the_runs_of_a_folder_keep_is_not_written_over(name: str, out: Path) -> None:
    before = (out / name).read_bytes() if (out / name).exists() else None
    with pytest.raises(FolderError, match="keep; choose another name"):
        written(out, f"out/{name}")
    assert ((out / name).read_bytes() if (out / name).exists() else None) == before
    written(out, "out/mine.parquet")


def test_the_input_is_not_written_over(out: Path) -> None:
    rows, link = out.parent / "rows.parquet", out.parent / "link.parquet"
    shutil.copy(Path(str(job_of(Folder(out)).input.path)), rows)
    link.symlink_to(rows)
    lines = (out / "job.toml").read_text().splitlines()
    own = [f"path = {json.dumps(str(rows))}" if line.startswith("path = ") else line for line in lines]
    (out / "job.toml").write_text("\n".join(own))
    before = rows.read_bytes()
    for name in ("rows.parquet", "link.parquet"):
        with pytest.raises(FolderError, match=r"is the input of .*; choose another name"):
            written(out, name)
    assert rows.read_bytes() == before
    with selected(Folder(out)) as found:
        export.split(found, "status", export.target(Folder(out), str(rows)), Folder(out))
    assert rows.read_bytes() == before and (out.parent / "rows-ok.parquet").exists()
    (out.parent / "rows-ok.parquet").rename(rows)
    (out.parent / "rows-ok.parquet").symlink_to(rows)
    with selected(Folder(out)) as found, pytest.raises(FolderError, match="is the input"):
        export.split(found, "status", export.target(Folder(out), str(rows)), Folder(out))


def test_a_link_stays_one_and_a_pipe_is_written_to(out: Path) -> None:
    (out.parent / "real").mkdir()
    (out.parent / "link.csv").symlink_to(out.parent / "real" / "there.csv")
    whole = written(out, "all.csv").read_bytes()
    assert written(out, "link.csv").read_bytes() == whole
    assert (out.parent / "link.csv").is_symlink() and (out.parent / "real" / "there.csv").read_bytes() == whole
    os.mkfifo(out.parent / "pipe.csv")
    with subprocess.Popen(["cat", str(out.parent / "pipe.csv")], stdout=subprocess.PIPE) as reader:
        written(out, "pipe.csv")
        assert reader.communicate()[0] == whole
    assert (out.parent / "pipe.csv").is_fifo()


def test_nothing_is_left_by_an_export_that_is_terminated(out: Path) -> None:
    script = (
        "import os, signal, sys\nfrom batchflex.cli import main\n"
        "from batchflex.protocol import openai_batch\n"
        "openai_batch.lines = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"sys.exit(main.main(['results', {str(out)!r}, '-o', {str(out.parent / 'x.jsonl')!r}, '--format', 'openai-batch']))"
    )
    before = sorted(out.parent.iterdir())
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 143
    assert sorted(out.parent.iterdir()) == before


def test_a_full_disk_is_told(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("parquet", "csv", "tsv", "jsonl", "json", "xlsx", "openai-batch"):
        assert main.main(["results", str(out), "-o", "/dev/full", "--format", kind]) == 3
        assert "the disk is full: /dev/full could not be written" in capsys.readouterr().err


def test_whoever_reads_no_further_ends_it_quietly(out: Path) -> None:
    command = f"{sys.executable} -m batchflex results {out} -o - --format csv"
    done = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_suffix_in_capitals_and_one_that_is_none(out: Path) -> None:
    assert pl.read_csv(written(out, "ALL.CSV"))["id"].to_list() == ["r0", "r1", "r2"]
    assert pl.read_csv(written(out, "answers.txt", "csv"))["id"].to_list() == ["r0", "r1", "r2"]
    for name in ("all", "all.ods", "all.gz", "all.txt.gz"):
        with pytest.raises(FolderError, match=r"\.parquet, \.csv, \.tsv, \.jsonl, \.json"):
            written(out, name)
    with pytest.raises(FolderError, match="no folder"):
        written(out, "nowhere/all.csv")
    with pytest.raises(FolderError, match="is a folder; name a file in it"):
        written(out, ".")
    with pytest.raises(FolderError, match=r"leave out \.gz"):
        written(out, "all.parquet.gz")
    with pytest.raises(FolderError, match=r"an Excel workbook is compressed in itself; leave out \.zst"):
        written(out, "all.xlsx.zst")
    with pytest.raises(JobError, match=r"--format csv does not go with the name all\.jsonl"):
        written(out, "all.jsonl", "csv")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--format", "csv"], "--format needs a file: name one with -o, or - for standard output"),
        (["--split-by", "id"], "--split-by needs a file: name one with -o"),
        (["--split-by", "id", "-o", "-"], "--split-by writes several files: name them with -o FILE"),
        (
            ["--columns", "id", "--format", "openai-batch", "-o", "-"],
            "--columns does not go with --format openai-batch",
        ),
        (
            ["--split-by", "id", "--format", "openai-batch", "-o", "-"],
            "--split-by does not go with --format openai-batch",
        ),
        (["--columns", " , "], "must be names of columns, with commas between them"),
    ],
)
def test_options_that_do_not_go_together(
    given: list[str], words: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(["results", str(out), *given]) == 2
    told = capsys.readouterr()
    assert words in told.err and not told.out


def code(words: list[str]) -> int:
    try:
        return main.main(words)
    except SystemExit as ended:
        return int(ended.code or 0)


def test_the_table_that_is_missing_is_made_of_the_parts(out: Path) -> None:
    """As after a kill: the table is derived, and can be made again at any time."""
    whole = pl.read_parquet(out / "results.parquet")
    (out / "results.parquet").unlink()
    assert pl.read_parquet(written(out, "all.parquet")).equals(whole)
    for rows, found in ((2, 2), (20, 3)):
        with selected(Folder(out)) as some:
            assert some.head(rows).num_rows == found


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
    with selected(Folder(tmp_path / "out")) as rows:
        assert rows.head(5).num_rows == 0


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="not the output folder of a run"):
        written(tmp_path, "all.csv")
