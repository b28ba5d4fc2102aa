"""Row groups that the table takes from parts as they are: with the same values as if they were read and written anew."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.core.errors import FolderError
from batchflex.storage import CarriedUpdates, FolderStore, UpdatesWriter, part_files, part_index, results_table, thrift
from batchflex.storage.places import WholeGroup
from batchflex.storage.row_groups import Source, TableWriter
from tests.support.outcomes import outcome

CARRIED = pa.schema([("c", pa.int8()), ("d", pa.list_(pa.int64()))])
LABELS = ['{"t":0}', '{"t":1.5}']


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_files, "WHOLE_ROWS", 2)
    monkeypatch.setattr(part_files, "GROUP_ROWS", 3)


def assembled(parts: FolderStore, **more: Any) -> results_table.Assembled:
    return results_table.assemble(parts, {"t": [0, 1.5]}, LABELS, **more)


def written(path: Path, made: Callable[[], results_table.Assembled]) -> tuple[pa.Table, int]:
    """The table as it is written, and how many of its rows were copied; it is what is made without copying."""
    copied = 0
    pieces = []
    for piece in made().pieces:
        copied += piece.made.num_rows if isinstance(piece, WholeGroup) else 0
        pieces.append(piece)
    results_table.write_results(path, made())
    table = pq.read_table(path, page_checksum_verification=True)
    expected = made()
    assert table.schema.equals(expected.schema)
    assert table.schema.metadata == expected.metadata
    assert table.equals(pa.concat_tables([expected.schema.empty_table(), *expected.batches]))
    by_polars = pl.read_parquet(path)
    assert all(by_polars[name].equals(pl.Series(name, table[name]), null_equal=True) for name in table.column_names)
    metadata = pq.read_metadata(path)
    assert metadata.num_rows == sum(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups))
    assert metadata.num_row_groups == len(pieces)
    return table, copied


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_table_of_any_runs_is_what_it_would_be_without_copying(tmp_path: Path, data: st.DataObject) -> None:
    """Sweeps, samples, answers of several kinds, asked again, in several parts, nearly in order."""
    parts = FolderStore(tmp_path / "parts")
    parts.prepare()
    parts.delete(parts.list())
    places = [(row, sample, point) for row in range(8) for sample in range(2) for point in range(2)]
    number = 0
    for run in range(data.draw(st.integers(1, 3))):
        some = data.draw(st.lists(st.sampled_from(places), max_size=len(places)))
        some = sorted(some) if data.draw(st.booleans()) else some
        for begin in range(0, len(some), 20):
            number += 1
            answers = []
            for row, sample, point in some[begin : begin + 20]:
                status = data.draw(st.sampled_from(["ok", "ok", "ok", "invalid", "failed"]))
                answers.append(
                    outcome(
                        (row, sample, point), row=row + (run if row > 6 else 0), sample=sample, point=LABELS[point],
                        status=status,
                        content=f"{run} é", carry=data.draw(st.sampled_from([None, '{"c":1}', '{"c":"x"}', '{"d":[1]}'])),
                        parsed=data.draw(st.sampled_from([None, '{"label":1}', '{"label":2.5,"more":null}', "[1]"])),
                    )
                )  # fmt: skip
            void = ["run-1"] if data.draw(st.integers(0, 9)) == 9 else []
            part_files.write_part(parts, number, answers, data.draw(st.sampled_from([None, CARRIED])), void=void)
    written(tmp_path / "results.parquet", lambda: assembled(parts))


def test_whole_row_groups_are_copied_and_what_is_between_them_is_written(tmp_path: Path) -> None:
    parts = FolderStore(tmp_path / "parts")
    parts.prepare()
    arrived = [*range(10), 11, 13, 10, 12, *range(14, 30)]
    for number, begin in enumerate(range(0, 30, 12), 1):
        rows = [
            outcome(row, point=LABELS[0], status="failed" if row == 20 else "ok") for row in arrived[begin : begin + 12]
        ]
        part_files.write_part(parts, number, rows)
    table, copied = written(tmp_path / "results.parquet", lambda: assembled(parts))
    assert table["row"].to_pylist() == list(range(30))
    assert copied >= 24
    path = tmp_path / "carried.parquet"
    with UpdatesWriter(path) as writer:
        keys = part_index.head(pa.table({"key": [outcome(row).key for row in (3, 25)]}))
        writer.add(keys, ['{"c":"new"}', '{"c":"newer"}'], None)
        writer.keep("")
    table, copied = written(tmp_path / "results.parquet", lambda: assembled(parts, updates=CarriedUpdates(path)))
    assert [row for row, c in enumerate(table["c"].to_pylist()) if c] == [3, 25]
    assert copied >= 24
    groups = pq.read_metadata(tmp_path / "results.parquet")
    for at in range(groups.num_row_groups):
        columns = {(c := groups.row_group(at).column(n)).path_in_schema: c for n in range(groups.num_columns)}
        assert all(columns[name].statistics.has_min_max for name in ("id", "row", "key", "status"))
        assert {column.compression for column in columns.values()} == {"ZSTD"}


@pytest.mark.parametrize("older", ["no checksums", "without a column", "other types", "as one row group"])
def test_what_an_older_version_wrote_is_read(tmp_path: Path, older: str) -> None:
    parts = FolderStore(tmp_path)
    part_files.write_part(parts, 1, [outcome(row, point=LABELS[0]) for row in range(10)])
    path = tmp_path / part_files.part_name(1)
    part = pq.read_table(path)
    if older == "without a column":
        part = part.drop_columns(["cut_by", "reasks"])
    if older == "other types":
        part = part.set_column(part.column_names.index("http_status"), "http_status", part["http_status"].cast("int64"))
    pq.write_table(part, path, compression="zstd", write_page_checksum=older != "no checksums")
    _, copied = written(tmp_path / "results", lambda: assembled(parts))
    assert copied == 10


def test_a_damaged_page_is_not_copied(tmp_path: Path) -> None:
    parts = FolderStore(tmp_path)
    part_files.write_part(parts, 1, [outcome(row, point=LABELS[0], response=f"{row} {'x' * row}") for row in range(40)])
    path = tmp_path / part_files.part_name(1)
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(part_files.PART_SCHEMA.get_field_index("response"))
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(FolderError, match=r"000001\.parquet is damaged"):
        results_table.write_results(tmp_path / "results", assembled(parts))
    assert not (tmp_path / "results").exists()


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    parts = FolderStore(tmp_path)
    part_files.write_part(parts, 1, [outcome(row, point=LABELS[0]) for row in range(40)])
    made = assembled(parts)
    (tmp_path / part_files.part_name(1)).unlink()
    with pytest.raises(FolderError, match=r"000001\.parquet cannot be read"):
        results_table.write_results(tmp_path / "results", made)


@pytest.fixture(scope="module")
def part() -> bytes:
    """40 rows, one row group."""
    out = io.BytesIO()
    part_files.fill(out, [outcome(row, content=f"{row % 3}", response=f"{row} {'x' * row}") for row in range(40)])
    return out.getvalue()


@settings(max_examples=100)
@given(st.data())
def test_whatever_byte_of_a_part_is_changed_no_other_rows_are_copied(part: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(part) - 1))
    changed = part[:at] + bytes([part[at] ^ data.draw(st.integers(1, 255))]) + part[at + 1 :]
    out = io.BytesIO()
    writer = TableWriter(out, part_files.PART_SCHEMA)
    try:
        writer.copy(Source(lambda: pa.BufferReader(changed)), 0, pa.table({"row": pa.array(range(40))}))
        writer.close()
        copied = pq.read_table(out)
    except (thrift.Damaged, OSError, pa.ArrowException):
        return
    assert copied.equals(pq.read_table(pa.BufferReader(part)))


def test_no_rows_make_a_table_with_all_columns() -> None:
    out = io.BytesIO()
    schema = pa.schema([("a", pa.int64()), ("b", pa.list_(pa.field("element", pa.string())))], {b"k": b"v"})
    writer = TableWriter(out, schema)
    writer.close()
    assert pq.read_table(out).schema.equals(schema, check_metadata=True)
    assert json.loads(pl.read_parquet(io.BytesIO(out.getvalue())).write_json()) == []
