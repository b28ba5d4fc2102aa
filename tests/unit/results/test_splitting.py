"""A file for each value of a column: their names, their rows, all of them or none."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflex.cli import main
from batchflex.core.errors import JobError
from batchflex.results import export, splitting
from batchflex.storage.output_folder import Folder
from batchflex.storage.part_files import COLUMNS

LABELS = [
    "good",
    "Good",
    "very good",
    "very/good",
    "",
    None,
    "null",
    "../up",
    "x" * 300,
    "漢字",
    "é",
    "e\u0301",
    "a\nb",
    "good-2",
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished run of 60 rows with odd labels, of which only the table is there."""
    return table(tmp_path, [LABELS[row % len(LABELS)] for row in range(60)])


def table(folder: Path, labels: list[Any], **more: pa.Array) -> Path:
    number = len(labels)
    plain: dict[str, list[Any]] = {
        "id": [f"r{row}" for row in range(number)],
        "row": list(range(number)),
        "sample": [0] * number,
        "key": [f"{row:032x}" for row in range(number)],
        "status": ["failed" if row % 7 == 0 else "ok" for row in range(number)],
    }
    columns = {name: pa.array(plain.get(name, [None] * number), kind) for name, kind in COLUMNS.items()}
    (folder / "out" / "parts").mkdir(parents=True)
    pq.write_table(pa.table(columns | {"label": labels} | more), folder / "out" / "results.parquet", row_group_size=9)
    return folder / "out"


def split(out: Path, name: str, *options: str) -> tuple[int, list[Path]]:
    before = set(out.parent.iterdir())
    code = main.main(["results", str(out), "-o", str(out.parent / name), *options])
    return code, sorted(set(out.parent.iterdir()) - before)


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.jsonl.gz"])
def test_each_value_has_its_rows_in_their_order(name: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, files = split(out, name, "--split-by", "label", "--columns", "row,label")
    assert code == 0 and len(files) == len(set(LABELS))
    assert f"60 rows in {len(files)} files\n" in capsys.readouterr().err
    whole = pl.read_parquet(out / "results.parquet")
    readers: dict[str, Any] = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".gz": pl.read_ndjson}
    found = [readers[path.suffix](path) for path in files]
    seen = {}
    for frame in found:
        assert frame.columns == ["row", "label"]
        assert frame["row"].is_sorted() and frame["label"].n_unique() == 1
        seen[tuple(frame["row"])] = frame["label"][0]
    expected = {tuple(rows["row"]): label for (label,), rows in whole.group_by("label", maintain_order=True)}
    assert seen.keys() == expected.keys()
    if not name.endswith("csv"):
        assert seen == expected


def test_how_files_are_called(out: Path) -> None:
    _, files = split(out, "x.csv", "--split-by", "label")
    assert [path.name for path in files] == sorted(f"x-{name}.csv" for name in (
        "empty", "null", "null-2", "Good", "good-2", "good-2-2", "very_good", "very_good-2", ".._up", "x" * 100, "漢字", "é",
        "é-2", "a_b",
    ))  # fmt: skip
    assert pl.read_csv(out.parent / "x-null.csv")["label"].unique().to_list() == ["null"]
    assert pl.read_csv(out.parent / "x-null-2.csv")["label"].unique().to_list() == [None]


def test_names_are_unique_whatever_the_values_are() -> None:
    values = [
        "A",
        "a",
        "a-2",
        "A-2",
        "ß",
        "ss",
        "SS",
        " ",
        "_",
        "\ud7ff",
        "🙂",
        "/",
        "\\",
        "",
        None,
        "empty",
        "漢" * 100,
    ]
    names = splitting.names(values)
    assert list(names) == values
    assert len({name.casefold() for name in names.values()}) == len(values)
    for name in names.values():
        assert len(name.encode()) <= 110 and "/" not in name and "\\" not in name and name


@pytest.mark.parametrize(
    ("by", "values", "names"),
    [
        ("n", pa.array([1, None, 3] * 4), ["1", "3", "null"]),
        ("f", pa.array([0.5, 1.0, None] * 4), ["0.5", "1.0", "null"]),
        ("t", pa.array([True, False, None] * 4), ["false", "null", "true"]),
        ("l", pa.array([["a"], [], None] * 4), ["__", "__a__", "null"]),
        ("d", pa.array([0, 1, None] * 4, pa.date32()), ["1970-01-01", "1970-01-02", "null"]),
        ("at", pa.array([0, 1, None] * 4, pa.timestamp("s", "UTC")), ["1970-01-01T00_00_00Z", "1970-01-01T00_00_01Z", "null"]),
    ],
)  # fmt: skip
def test_columns_of_any_type(by: str, values: pa.Array, names: list[str], tmp_path: Path) -> None:
    out = table(tmp_path, ["x"] * 12, **{by: values})
    code, files = split(out, "x.jsonl", "--split-by", by)
    assert code == 0
    found = [path.name.removeprefix("x-").removesuffix(".jsonl") for path in files]
    assert found == names
    assert sum(pl.read_ndjson(path).height for path in files) == 12


def test_with_a_condition_only_the_values_of_its_rows(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, files = split(out, "x.csv", "--split-by", "status", "--where", "row < 10", "--columns", "id")
    assert [path.name for path in files] == ["x-failed.csv", "x-ok.csv"] and code == 0
    assert [pl.read_csv(path)["id"].to_list() for path in files] == [
        ["r0", "r7"],
        [f"r{n}" for n in range(10) if n % 7],
    ]
    assert "10 of 60 rows in 2 files" in capsys.readouterr().err
    assert split(out, "y.csv", "--split-by", "status", "--where", "row < 0") == (0, [])


def test_a_bound_is_told_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table(tmp_path, ["x"] * 1_001)
    assert split(out, "x.csv", "--split-by", "id") == (2, [])
    assert "more than 1,000 different values" in capsys.readouterr().err
    assert split(out, "x.csv", "--split-by", "lable") == (2, [])
    assert "--split-by: the results have no column 'lable'; did you mean 'label'" in capsys.readouterr().err


def test_many_files_take_more_than_this_process_may_open_at_first(tmp_path: Path) -> None:
    out = table(tmp_path, ["x"] * 150)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        code, files = split(out, "x.jsonl", "--split-by", "id", "--columns", "id")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (code, len(files)) == (0, 150)
    assert (tmp_path / "x-r149.jsonl").read_text() == '{"id":"r149"}\n'


def test_none_of_them_is_there_if_one_fails(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out.parent / "x-good-2.csv").write_text("before")
    written = splitting.parts

    def breaks(batch: pa.RecordBatch, name: str) -> Iterator[Any]:
        yield from written(batch, name)
        if batch["row"][-1].as_py() == 59:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.splitting, "parts", breaks)
    assert split(out, "x.csv", "--split-by", "label") == (3, [])
    assert (out.parent / "x-good-2.csv").read_text() == "before"
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def test_what_the_runs_keep_is_not_hit_by_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table(tmp_path, ["x"] * 3)
    (tmp_path / "out" / "report-x.html").touch()
    assert main.main(["results", str(out), "-o", str(out / "parts" / "a.csv"), "--split-by", "label"]) == 2
    assert "keep; choose another name" in capsys.readouterr().err
    with pytest.raises(JobError, match="--split-by writes several files"):
        export.split(None, "label", export.target(Folder(out), "-"), Folder(out))  # type: ignore[arg-type]
