"""Parts and the table made of them: nothing lost between the two, types kept, memory bounded, replaced whole or not."""

from __future__ import annotations

import datetime
import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.core.errors import FolderError, StorageError
from batchflex.core.types import Outcome
from batchflex.storage import FolderStore, Store, part_files, part_index, results_table, table_files, table_index
from batchflex.storage.output_folder import Folder
from tests.support.outcomes import any_outcomes, assembled, outcome, run_python, small_disk

NO_PLAN = pl.DataFrame(schema={"hi": pl.UInt64, "lo": pl.UInt64, "row": pl.Int64, "point": pl.Int32})
_settings = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def planned(*places: tuple[Outcome, int, int]) -> pl.DataFrame:
    """What ``AnswerIndex.planned`` gives: the answers that belong to the plan, each with its present row and sweep point."""
    keys = [part_index._halves(pa.chunked_array([[o.key]]), "") for o, _, _ in places]
    rows = pl.DataFrame({"row": [p[1] for p in places], "point": [p[2] for p in places]})
    return pl.concat([NO_PLAN, pl.concat(keys).hstack(rows.cast({"point": pl.Int32}))])


# ------------------------------------------------------------------------------------------------------------- parts


@_settings
@given(st.lists(any_outcomes(), min_size=1, max_size=6, unique_by=lambda o: o.key))
def test_a_part_read_by_polars_and_by_pyarrow_has_what_was_sealed(tmp_path: Path, outcomes: list[Outcome]) -> None:
    path = tmp_path / part_files.part_name(1)
    path.unlink(missing_ok=True)  # of the example before
    part_files.write_part(FolderStore(tmp_path), 1, outcomes)
    in_order = sorted(outcomes, key=lambda o: (o.row, o.sample))
    expected = [msgspec.structs.asdict(o) for o in in_order]
    for row in expected:
        for name in ("started_at", "finished_at"):
            row[name] = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(microseconds=row[name])
        row["response"] = None if row["response"] is None else row["response"].decode("utf-8", "replace")
    by_pyarrow = pq.read_table(path)
    assert [{n: row[n] for n in by_pyarrow.column_names} for row in expected] == by_pyarrow.to_pylist()
    assert by_pyarrow.to_pylist() == pl.read_parquet(path).to_dicts()
    assert set(by_pyarrow.column_names) == set(Outcome.__struct_fields__)
    responses = [None if row["response"] is None else row["response"].encode() for row in expected]
    read_back = part_files.outcomes(part_files.read_part(FolderStore(tmp_path), 1))
    assert read_back == [msgspec.structs.replace(o, response=r) for o, r in zip(in_order, responses, strict=True)]


def test_a_part_is_zstd_with_statistics_on_key_and_id(tmp_path: Path) -> None:
    outcomes, store = [outcome(i) for i in range(15_000)], FolderStore(tmp_path)
    part_files.write_part(store, 12, outcomes)
    assert part_files.part_numbers(store) == [12]
    metadata = pq.read_metadata(tmp_path / "000012.parquet")
    assert metadata.num_row_groups == 2
    group = metadata.row_group(0)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    assert chunks["key"].statistics.min == min(o.key for o in outcomes[:10_000])
    assert chunks["key"].statistics.max == max(o.key for o in outcomes[:10_000])
    assert (chunks["id"].statistics.min, chunks["id"].statistics.max) == ("id-0", "id-9999")


def test_rows_of_a_part_are_in_the_order_of_the_input_and_what_is_superseded_comes_first(tmp_path: Path) -> None:
    """A stretch without a gap is a row group by itself; memory is bounded, so a row that is far behind stays so."""
    store = FolderStore(tmp_path)
    held_up = {7: 5_500, 2_400: 2_600, 2_401: 9_000}
    arriving = sorted(range(20, 6_000), key=lambda row: (held_up.get(row, row) + (row * 37) % 200, row))
    rejected = [outcome(row, status="invalid", content="old") for row in (350, 500, 3_000)]
    arriving_ones: list[Outcome] = []
    for row in arriving:
        arriving_ones += [old for old in rejected if old.row == row + 300]
        arriving_ones.append(outcome(row))
    part_files.write_part(store, 1, arriving_ones)
    part = part_files.read_part(store, 1)
    rows = part["row"].to_pylist()
    assert rows == [350, 500, 3_000, *(row for row in range(20, 6_000) if row != 2_401), 2_401]
    assert part["content"].to_pylist()[:4] == ["old", "old", "old", None]
    assert part_files.footer(store, 1).groups == [3, 2_381, 3_598, 1]


def test_columns_of_a_part_are_those_of_the_results_and_what_they_are_made_with(tmp_path: Path) -> None:
    part_files.write_part(FolderStore(tmp_path), 1, [outcome(1)])
    schema = pq.read_schema(tmp_path / part_files.part_name(1))
    assert schema.names == [*part_files.COLUMNS, "slot", "point", "carry", "proof", "file", "position", "grown"]
    assert schema.remove_metadata().equals(part_files.to_table([]).schema)


def test_a_part_that_cannot_be_written_is_not_there(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(StorageError, match=r"the disk is full: .*000001\.parquet could not be written"):
        part_files.write_part(store, 1, [outcome(1)])
    assert list(tmp_path.iterdir()) == [] and store.list() == {}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: str) -> None:
    part_files.write_part(FolderStore(tmp_path), 1, [outcome(i) for i in range(100)])
    path = tmp_path / part_files.part_name(1)
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-20], "flipped": data[:-8] + b"\xff" * 8, "empty": b"", "gone": data}[damage])
    if damage == "gone":
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FolderError, match=r"000001\.parquet (is damaged \(.*\); move it away|cannot be read)"):
        list(part_index.read_keys(FolderStore(tmp_path), ["status"]))
    with pytest.raises(FolderError, match=r"000001\.parquet"):
        results_table.assemble(FolderStore(tmp_path), {}, ["{}"])


def test_a_foreign_file_among_the_parts_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / part_files.part_name(1))
    with pytest.raises(FolderError, match=r"000001\.parquet is no part that batchflex wrote"):
        results_table.assemble(FolderStore(tmp_path), {}, ["{}"])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_last_of_each_keeps_the_last_also_where_keys_share_their_first_half(keys: list[tuple[int, int]]) -> None:
    schema = {"hi": pl.UInt64, "lo": pl.UInt64}
    frame = pl.DataFrame(keys, schema=schema, orient="row").with_row_index("n")
    found = part_index.last_of_each(frame)
    assert found["hi"].is_sorted()
    expected = {key: n for n, key in enumerate(keys)}
    assert {(hi, lo): n for n, hi, lo in found.iter_rows()} == expected
    assert found.height == len(expected)


# ------------------------------------------------------------------------------------------- the table: which answers


def test_a_later_answer_replaces_an_earlier_one(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(0, status="failed"), outcome(1)])
    part_files.write_part(store, 2, [outcome(0, status="failed", content="second")])
    part_files.write_part(store, 3, [outcome(0, content="third")])
    for options in ({}, {"planned": NO_PLAN, "since": 1}):
        found = assembled(store, **options)
        assert found["id"].to_pylist() == ["id-0", "id-1"]
        assert found["status"].to_pylist() == ["ok", "ok"]
        assert found["content"].to_pylist() == ["third", None]


def test_rows_come_in_input_order_then_by_sweep_point_and_sample(store: Store) -> None:
    labels = ['{"t":0.7}', '{"t":0.0}']
    answers = [
        outcome(f"{row}{label}{sample}", row=row, point=label, sample=sample)
        for sample in (1, 0)
        for label in reversed(labels)
        for row in (2, 10, 1)
    ]
    part_files.write_part(store, 1, answers[:5])
    part_files.write_part(store, 2, answers[5:])
    found = assembled(store, variables={"t": [0.7, 0.0]}, labels=labels)
    expected = [(row, t, sample) for row in (1, 2, 10) for t in (0.7, 0.0) for sample in (0, 1)]
    rows = zip(found["row"].to_pylist(), found["t"].to_pylist(), found["sample"].to_pylist(), strict=True)
    assert list(rows) == expected


def test_with_a_plan_older_answers_outside_it_are_left_out_and_the_others_have_its_rows(store: Store) -> None:
    old = [outcome(i, content="old") for i in range(4)]
    part_files.write_part(store, 1, old)
    part_files.write_part(store, 2, [outcome("new", row=1, content="new")])
    plan = planned((old[3], 0, 0), (old[0], 2, 0))
    found = assembled(store, planned=plan, since=2)
    assert found.select(["id", "row", "content"]).to_pylist() == [
        {"id": "id-3", "row": 0, "content": "old"},
        {"id": "id-new", "row": 1, "content": "new"},
        {"id": "id-0", "row": 2, "content": "old"},
    ]


def test_an_answer_of_this_run_replaces_the_older_one_in_the_plan(store: Store) -> None:
    old = outcome(0, row=5, status="failed")
    part_files.write_part(store, 1, [old])
    part_files.write_part(store, 2, [outcome(0, row=7)])
    found = assembled(store, planned=planned((old, 7, 0)), since=2)
    assert found.select(["row", "status"]).to_pylist() == [{"row": 7, "status": "ok"}]


def test_sweep_values_are_those_the_plan_gives_an_answer_now(store: Store) -> None:
    """The same body may have been sent by a job that set the value as a parameter."""
    old = outcome(0, point="{}")
    part_files.write_part(store, 1, [old])
    labels = ['{"t":0.7}', '{"t":0.0}']
    part_files.write_part(store, 2, [outcome("other", row=0, point=labels[0])])
    found = assembled(store, variables={"t": [0.7, 0.0]}, labels=labels, planned=planned((old, 0, 1)), since=2)
    assert found.select(["id", "t"]).to_pylist() == [{"id": "id-other", "t": 0.7}, {"id": "id-0", "t": 0.0}]


def test_without_a_plan_a_changed_answer_takes_the_place_of_the_older_one(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(i, 1, content="old") for i in range(30)])
    part_files.write_part(store, 2, [outcome(i, 2, content="new") for i in range(20)])
    assert assembled(store)["content"].to_pylist() == ["new"] * 20 + ["old"] * 10


def test_the_same_answer_moved_by_a_reordered_input_is_one_row(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(0, row=5, status="failed")])
    part_files.write_part(store, 2, [outcome(0, row=6)])
    assert assembled(store)["row"].to_pylist() == [6]


def test_what_is_not_sealed_yet_is_there_once(tmp_path: Path, store: Store) -> None:
    part_files.write_part(store, 3, [outcome(0, status="failed"), outcome(1)])
    pending = [outcome(1), outcome(0), outcome(2)]
    for options in ({}, {"planned": NO_PLAN, "since": 3}):
        found = assembled(store, pending=pending, **options)
        assert found["id"].to_pylist() == ["id-0", "id-1", "id-2"]
        assert found["status"].to_pylist() == ["ok"] * 3
    assert assembled(FolderStore(tmp_path / "none"), pending=pending)["id"].to_pylist() == ["id-0", "id-1", "id-2"]


def test_no_answers_give_an_empty_table_with_all_columns(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "results.parquet"
    for plan in (None, NO_PLAN):
        results_table.write_results(
            path, results_table.assemble(store, {"t": [1, 2]}, ['{"t":1}', '{"t":2}'], planned=plan)
        )
        for schema in (pq.read_schema(path), pq.ParquetFile(path).schema_arrow):
            assert schema.remove_metadata().equals(pa.schema([*part_files.COLUMNS.items(), ("t", pa.int64())]))
        assert pl.read_parquet(path).height == 0


@_settings
@given(st.data())
def test_whatever_the_windows_one_row_a_key_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    parts = FolderStore(tmp_path / "parts")
    parts.prepare()
    parts.delete(parts.list())
    names = st.integers(0, 30)
    sealed = data.draw(st.lists(st.lists(names, min_size=1, max_size=12), max_size=6))
    last: dict[int, str] = {}
    for number, part in enumerate(sealed, 1):
        answers: list[Outcome] = []
        for name in part:
            last[name] = f"{number}.{len(answers)}"
            answers.append(outcome(name, content=last[name], response=b"r" * 1000))
        part_files.write_part(parts, number, answers)
    monkeypatch.setattr(results_table, "_WINDOW_ROWS", data.draw(st.integers(1, 12)))
    monkeypatch.setattr(results_table, "_WINDOW_BYTES", data.draw(st.sampled_from([1, 3_000, 1 << 20])))
    monkeypatch.setattr(table_index, "_CACHE_BYTES", data.draw(st.sampled_from([1, 20_000])))
    found = assembled(parts)
    assert dict(zip(found["row"].to_pylist(), found["content"].to_pylist(), strict=True)) == last
    assert found["row"].to_pylist() == sorted(last)


# ------------------------------------------------------------------------------------------------- writing the table


def test_results_are_read_alike_by_polars_and_pyarrow(tmp_path: Path, store: Store) -> None:
    rows = [outcome(i, cost=0.1 * i, content="é\0\n", carry='{"when":"2024-02-29T12:30:15.25"}') for i in range(50)]
    part_files.write_part(store, 1, rows, pa.schema([("when", pa.timestamp("us"))]))
    path = tmp_path / "out" / "results.parquet"
    path.parent.mkdir()
    results_table.write_results(path, results_table.assemble(store, {}, ["{}"]))
    assert pq.read_table(path).to_pylist() == pl.read_parquet(path).to_dicts()
    assert pq.read_table(path)["when"].to_pylist() == [datetime.datetime(2024, 2, 29, 12, 30, 15, 250_000)] * 50
    group = pq.read_metadata(path).row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_a_failure_in_the_middle_leaves_the_older_results(tmp_path: Path) -> None:
    parts = FolderStore(tmp_path / "parts")
    parts.prepare()
    part_files.write_part(parts, 1, [outcome(i) for i in range(10)])
    path = tmp_path / "results.parquet"
    results_table.write_results(path, results_table.assemble(parts, {}, ["{}"]))
    before = path.read_bytes()
    made = results_table.assemble(parts, {}, ["{}"])

    def broken(error: Exception) -> Any:
        yield from made.batches
        raise error

    with pytest.raises(StorageError, match=r"the disk is full: .*results\.parquet could not be written"):
        results_table.write_results(
            path, made._replace(pieces=broken(OSError(errno.ENOSPC, "No space left on device")))
        )
    with pytest.raises(RuntimeError):
        results_table.write_results(path, made._replace(pieces=broken(RuntimeError())))
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "results.parquet"]


FILL = """
import random, sys
from pathlib import Path
from batchflex.core.errors import StorageError
from batchflex.storage import FolderStore, part_files, results_table
from tests.support.outcomes import outcome
folder = Path(sys.argv[1])
parts = FolderStore(Path(sys.argv[2]))
noise = random.Random(0).randbytes(400_000).hex().encode()


def outcomes():
    return [outcome(i, response=noise[i : i + 3_000]) for i in range(0, 700_000, 3_000)]


results_table.write_results(folder / "results.parquet", results_table.assemble(parts, {}, ["{}"]))
for write in (
    lambda: part_files.write_part(FolderStore(folder), 1, outcomes()),
    lambda: results_table.write_results(
        folder / "results.parquet",
        results_table.assemble(parts, {}, ["{}"], pending=outcomes()),
    ),
):
    try:
        write()
    except StorageError as error:
        print(error)
"""


def test_a_full_disk_leaves_no_part_and_the_older_results(tmp_path: Path) -> None:
    parts = FolderStore(tmp_path / "parts")
    parts.prepare()
    part_files.write_part(parts, 1, [outcome(i) for i in range(10)])
    with small_disk(tmp_path / "disk", 131_072) as (folder, limit):
        lines = run_python(FILL, folder, parts, file_size=limit).splitlines()
        assert len(lines) == 2
        assert "000001.parquet could not be written. Nothing stored before is damaged" in lines[0]
        assert "results.parquet could not be written. Nothing stored before is damaged" in lines[1]
        assert [p.name for p in folder.iterdir()] == ["results.parquet"]
        assert pl.read_parquet(folder / "results.parquet").height == 10


def test_whether_results_are_current(tmp_path: Path) -> None:
    parts = FolderStore(tmp_path / "parts")
    parts.prepare()
    path = tmp_path / "results.parquet"
    rows = [outcome(i) for i in range(5)]

    def write(plan: pl.DataFrame, since: int, labels: Sequence[str] = ("{}",)) -> None:
        results_table.write_results(path, results_table.assemble(parts, {}, labels, planned=plan, since=since))

    def current(plan: pl.DataFrame, since: int, labels: Sequence[str] = ("{}",)) -> bool:
        return table_files.is_current(Folder(tmp_path), results_table.assemble(parts, {}, labels, plan, since))

    whole = planned(*((o, o.row, 0) for o in rows))
    part_files.write_part(parts, 1, rows)
    assert not current(whole, 2), "there is none yet"
    write(NO_PLAN, since=1)
    assert current(whole, 2), "the next run finds what the first one wrote"
    assert current(whole.reverse(), 2)
    assert current(NO_PLAN, 1), "the part has the row numbers of the plan"
    assert not current(whole.head(4), 2), "a row has left the plan"
    assert not current(whole.with_columns(row=pl.col("row").reverse()), 2), "rows have moved"
    assert not current(whole.with_columns(point=pl.lit(1)), 2), "its sweep point is another one now"
    assert not current(whole, 2, labels=["{ }"])
    assert not current(whole, 2, labels=["{}", "{ }"])
    part_files.write_part(parts, 2, [outcome(0, content="again")])
    assert not current(whole, 3), "another run sealed a part and was killed before it wrote the results"
    write(whole, since=3)
    assert current(whole, 3)
    path.write_bytes(b"PAR1")
    assert not current(whole, 3)
    results_table.write_results(path, results_table.assemble(parts, {}, ["{}"]))
    assert current(whole, 3), "made without a plan, and the same"


def test_memory_stays_bounded_while_the_table_is_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    each, parts, size = 50, 40, 40_000
    for number in range(1, parts + 1):
        rows = [outcome(number * each + i, response=b"%05d" % (number * each + i) * (size // 5)) for i in range(each)]
        part_files.write_part(store, number, rows)
    whole = each * parts * size
    monkeypatch.setattr(table_index, "_CACHE_BYTES", whole // 20)
    monkeypatch.setattr(results_table, "_WINDOW_BYTES", whole // 80)
    before = pa.total_allocated_bytes()
    most, rows_seen = 0, 0
    for batch in results_table.assemble(store, {}, ["{}"]).batches:
        assert batch.nbytes < 2 * whole // 80
        rows_seen += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows_seen == each * parts
    assert most < whole // 5, f"{most / 1e6:.0f} MB for {whole / 1e6:.0f} MB of answers"
