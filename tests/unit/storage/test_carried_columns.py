"""Columns beside the fixed ones: carried and swept values come back as they were, under a name of their own."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex.core.types import Outcome
from batchflex.plan.arrow_files import without_ns
from batchflex.report import report
from batchflex.storage import FolderStore, Store, part_files, results_table, table_files
from batchflex.storage.output_folder import Folder
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.outcomes import assembled, outcome


def carrying(*rows: dict[str, Any], first: int = 0) -> list[Outcome]:
    return [outcome(first + i, carry=msgspec.json.encode(row).decode()) for i, row in enumerate(rows)]


def columns_of(parts: Store, **options: Any) -> dict[str, tuple[pa.DataType, list[Any]]]:
    found = assembled(parts, **options)
    return {
        n: (found.schema.field(n).type, found[n].to_pylist()) for n in found.column_names[len(part_files.COLUMNS) :]
    }


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, -5, None], pa.int64(), [1, -5, None]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([2**53 + 1, 0.5], pa.float64(), [float(2**53), 0.5]),
        ([True, None, False], pa.bool_(), [True, None, False]),
        ([True, 1], pa.string(), ["true", "1"]),
        (["a", ""], pa.string(), ["a", ""]),
        (["a", 1, 2.5, None, False], pa.string(), ["a", "1", "2.5", None, "false"]),
        ([2**64, 1], pa.string(), ["18446744073709551616", "1"]),
        ([[1, 2], None], pa.string(), ["[1,2]", None]),
        ([{"a": [None, "é"]}, "text"], pa.string(), ['{"a":[null,"é"]}', "text"]),
        ([None, None], pa.string(), [None, None]),
    ],
)
def test_carried_values_without_types_get_the_narrowest_that_holds_them(
    tmp_path: Path, store: Store, values: list[Any], kind: pa.DataType, expected: list[Any]
) -> None:
    rows = carrying(*({"c": value} for value in values))
    for i, row in enumerate(rows, 1):
        part_files.write_part(store, i, [row])
    assert columns_of(store) == {"c": (kind, expected)}
    assert columns_of(FolderStore(tmp_path / "none"), pending=rows) == {"c": (kind, expected)}


MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 250_000)
TYPED: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [1, None, -128]),
    (pa.uint64(), [2**64 - 1, 0]),
    (pa.float32(), [0.1, None, 1e30]),
    (pa.float16(), [0.5, 65504.0]),
    (pa.float64(), [0.1, 3.0]),
    (pa.bool_(), [True, None]),
    (pa.large_string(), ["a", None, "\0é"]),
    (pa.timestamp("us"), [MOMENT, None]),
    (pa.timestamp("ns"), [MOMENT]),
    (pa.timestamp("s", tz="UTC"), [MOMENT.replace(microsecond=0, tzinfo=datetime.UTC), None]),
    (pa.date32(), [MOMENT.date(), None]),
    (pa.date64(), [MOMENT.date()]),
    (pa.time64("us"), [MOMENT.time(), None]),
    (pa.decimal128(10, 3), [decimal.Decimal("-1.250"), None]),
    (pa.binary(), [b"\0\xff", None]),
    (pa.large_binary(), [b""]),
    (pa.binary(2), [b"ab"]),
    (pa.list_(pa.int32()), [[1, None], [], None]),
    (pa.large_list(pa.string()), [["a", "b"], None]),
]


@pytest.mark.parametrize(("kind", "values"), TYPED, ids=[str(kind) for kind, _ in TYPED])
def test_carried_columns_of_a_typed_input_keep_type_and_values(
    tmp_path: Path, store: Store, kind: pa.DataType, values: list[Any]
) -> None:
    before = pa.array(values, kind)
    rows = carrying(*({"c": value} for value in before.cast(without_ns(kind)).to_pylist()))
    part_files.write_part(store, 1, rows, pa.schema([("c", kind), ("not carried", pa.int8())]))
    found = assembled(store)
    assert found["c"].combine_chunks().equals(before)
    assert columns_of(store, pending=rows)["c"][0] == kind
    # through a file too, as the other reader sees it
    results_table.write_results(tmp_path / "r.parquet", results_table.assemble(store, {}, ["{}"]))
    assert pl.read_parquet(tmp_path / "r.parquet")["c"].null_count() == before.null_count


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.duration("s"), datetime.timedelta(seconds=90), "PT90S"),
        (pa.struct([("a", pa.int8())]), {"a": 1}, '{"a":1}'),
        (pa.list_(pa.list_(pa.int8())), [[1]], "[[1]]"),
        (pa.list_(pa.date32()), [datetime.date(2024, 1, 1)], '["2024-01-01"]'),
        (pa.dictionary(pa.int8(), pa.string()), "a", "a"),
    ],
)
def test_carried_columns_of_nested_and_odd_types_become_text(
    store: Store, kind: pa.DataType, value: Any, expected: str
) -> None:
    part_files.write_part(store, 1, carrying({"c": value}), pa.schema([("c", kind)]))
    assert columns_of(store) == {"c": (pa.string(), [expected])}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int32(), 2.5),
        (pa.int8(), 1000),
        (pa.float32(), 0.1),
        (pa.bool_(), 1),
        (pa.timestamp("s"), MOMENT),
        (pa.timestamp("us"), "yesterday"),
        (pa.date32(), "2024-01-01T10:00:00"),
        (pa.binary(), "!"),
        (pa.decimal128(4, 2), "1.555"),
        (pa.list_(pa.int8()), [1.5]),
        (pa.string(), 5),
    ],
)
def test_a_type_that_does_not_hold_a_value_is_not_forced_on_it(store: Store, kind: pa.DataType, value: Any) -> None:
    """The types are those of the first input file; a later one may have others."""
    rows = carrying({"c": value})
    part_files.write_part(store, 1, rows, pa.schema([("c", kind)]))
    part_files.write_part(store, 2, carrying({"c": None}, first=1), pa.schema([("c", kind)]))
    found, values = columns_of(store)["c"]
    kept = msgspec.json.decode(rows[0].carry or "")["c"]
    assert found != kind or kind == pa.string()
    assert values in ([kept, None], [msgspec.json.encode(kept).decode(), None])


WIDE = pa.decimal256(76, 2)


@pytest.mark.parametrize(
    ("value", "kind"),
    [("-1.50", pa.decimal128(38, 2)), (f"{'7' * 60}.25", pa.string())],
)
def test_decimals_of_256_bits_come_back_as_what_all_readers_know(
    tmp_path: Path, store: Store, value: str, kind: pa.DataType
) -> None:
    part_files.write_part(store, 1, carrying({"c": decimal.Decimal(value)}, {"c": None}), pa.schema([("c", WIDE)]))
    wanted = decimal.Decimal(value) if kind != pa.string() else value
    assert columns_of(store) == {"c": (kind, [wanted, None])}
    results_table.write_results(tmp_path / "r.parquet", results_table.assemble(store, {}, ["{}"]))
    assert pl.read_parquet(tmp_path / "r.parquet")["c"].to_list() == [wanted, None]


def test_a_folder_of_a_version_that_kept_256_bits_is_read_and_its_table_made_anew(tmp_path: Path) -> None:
    rows = carrying({"c": decimal.Decimal("1.50")})
    part_files.write_part(FolderStore(tmp_path), 1, rows, pa.schema([("c", pa.decimal128(38, 2))]))
    part = tmp_path / part_files.part_name(1)
    footer = part_files.footer(FolderStore(tmp_path), 1)._replace(types=pa.schema([("c", WIDE)]))
    pq.write_table(pq.read_table(part).replace_schema_metadata(part_files.metadata(footer)), part)
    made = results_table.assemble(FolderStore(tmp_path), {}, ["{}"])
    results_table.write_results(tmp_path / "results.parquet", made)
    assert pl.read_parquet(tmp_path / "results.parquet")["c"].to_list() == ["1.50"]
    assert table_files.is_current(Folder(tmp_path), made)
    old = pa.table({"c": pa.array([decimal.Decimal("1.50")], WIDE)}).replace_schema_metadata(
        {part_files.MADE_OF: made.metadata[part_files.MADE_OF]}
    )
    pq.write_table(old, tmp_path / "results.parquet")
    assert not table_files.is_current(Folder(tmp_path), made)


ODD = pa.table(
    {
        "text": ["a", "b"],
        "wide": pa.array([decimal.Decimal("1.50"), None], WIDE),
        "wider": pa.array([decimal.Decimal("1" * 50), decimal.Decimal(2)], WIDE),
        "narrow": pa.array([decimal.Decimal("1.5"), None], pa.decimal128(5, 1)),
        "took": pa.array([1, None], pa.duration("ms")),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "raw": pa.array([b"\xff", None], pa.large_binary()),
        "nested": pa.array([{"a": [{"b": 1}]}, None]),
        "prices": pa.array([[decimal.Decimal("1.5")], None], pa.list_(pa.decimal256(60, 1))),
    }
)


def test_a_run_carries_columns_of_every_kind_and_every_reader_reads_them(
    tmp_path: Path, endpoint: CountingEndpoint
) -> None:
    pq.write_table(ODD, tmp_path / "in.parquet")
    names = [name for name in ODD.column_names if name != "text"]
    job: dict[str, Any] = {
        "job": {"out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "params": {"model": "m"},
        "prompt": {"user": "{{ text }}"},
        "input": {"path": str(tmp_path / "in.parquet"), "carry": names},
    }
    expected = {
        "wide": [decimal.Decimal("1.50"), None], "wider": ["1" * 50 + ".00", "2.00"], "narrow": [decimal.Decimal("1.5"), None],
        "took": ["PT0.001S", None], "kind": ["x", "y"], "raw": [b"\xff", None], "nested": ['{"a":[{"b":1}]}', None],
        "prices": ['["1.5"]', None],
    }  # fmt: skip
    assert batchflex.run(job).results().select(names).to_dict(as_series=False) == expected
    assert pq.read_table(tmp_path / "out" / "results.parquet").select(names).to_pydict() == expected
    assert report.write(Folder(tmp_path / "out")).path.exists()


@pytest.mark.parametrize(
    ("one", "two", "kind", "expected"),
    [
        ((pa.int32(), 1), (pa.int64(), 2**40), pa.int64(), [1, 2**40]),
        ((pa.int32(), 1), (pa.float32(), 2.5), pa.float64(), [1.0, 2.5]),
        ((pa.int32(), 1), (None, "x"), pa.string(), ["1", "x"]),
        ((pa.int32(), 1), (None, 2), pa.int64(), [1, 2]),
        ((pa.int32(), 1), (None, None), pa.int32(), [1, None]),
        ((pa.int32(), None), (pa.string(), "x"), pa.string(), [None, "x"]),
        ((pa.int32(), None), (pa.int32(), None), pa.int32(), [None, None]),
        ((pa.timestamp("us"), MOMENT), (pa.int32(), 5), pa.string(), [MOMENT.isoformat(), "5"]),
    ],
)
def test_parts_that_disagree_get_a_type_that_holds_both(
    store: Store, one: tuple[Any, Any], two: tuple[Any, Any], kind: pa.DataType, expected: list[Any]
) -> None:
    for number, (told, value) in enumerate((one, two), 1):
        schema = None if told is None else pa.schema([("c", told)])
        part_files.write_part(store, number, carrying({"c": value}, first=number), schema)
    assert columns_of(store) == {"c": (kind, expected)}


def test_not_sealed_values_can_widen_a_type_too(store: Store) -> None:
    part_files.write_part(store, 1, carrying({"c": 1}), pa.schema([("c", pa.int32())]))
    found = columns_of(store, pending=carrying({"c": 2.5, "d": "x"}, first=1))
    assert found == {"c": (pa.float64(), [1.0, 2.5]), "d": (pa.string(), [None, "x"])}


def test_rows_that_carry_different_columns_have_null_where_they_lack_one(store: Store) -> None:
    part_files.write_part(store, 1, [*carrying({"a": 1, "b": "x"}), outcome(1)])
    part_files.write_part(store, 2, carrying({"b": "y", "c": True}, first=2))
    assert columns_of(store) == {
        "a": (pa.int64(), [1, None, None]),
        "b": (pa.string(), ["x", None, "y"]),
        "c": (pa.bool_(), [None, None, True]),
    }


def test_names_that_are_taken_get_a_prefix_and_none_is_lost(store: Store) -> None:
    carry = {"id": 1, "input_id": 2, "model": 3, "temperature": 4, "sweep_model": 5, "free": 6}
    label = '{"model":"m","temperature":0.5,"sweep_sweep_model":7}'
    part_files.write_part(store, 1, [outcome(0, carry=msgspec.json.encode(carry).decode(), point=label)])
    grid = {"model": ["m"], "temperature": [0.5], "sweep_sweep_model": [7]}
    found = {name: values for name, (_, [values]) in columns_of(store, variables=grid, labels=[label]).items()}
    assert found == {
        "sweep_model": "m",
        "temperature": 0.5,
        "sweep_sweep_model": 7,
        "input_input_id": 1,
        "input_id": 2,
        "input_model": 3,
        "input_temperature": 4,
        "input_sweep_model": 5,
        "free": 6,
    }


def test_a_name_made_with_a_prefix_can_be_taken_itself(store: Store) -> None:
    carry, label = '{"id":1,"input_id":2}', '{"input_id":3}'
    part_files.write_part(store, 1, [outcome(0, carry=carry, point=label)])
    found = columns_of(store, variables={"input_id": [3]}, labels=[label])
    assert {name: values for name, (_, [values]) in found.items()} == {
        "input_id": 3,
        "input_input_id": 1,
        "input_input_input_id": 2,
    }


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 1], pa.int64(), [0, 1]),
        ([0, 0.5], pa.float64(), [0.0, 0.5]),
        (["a", "b"], pa.string(), ["a", "b"]),
        ([0.5, "auto", None, True], pa.string(), ["0.5", "auto", None, "true"]),
        ([{"type": "text"}, ["x"]], pa.string(), ['{"type":"text"}', '["x"]']),
        ([None, None], pa.string(), [None, None]),
    ],
)
def test_sweep_variables_of_mixed_types(
    store: Store, values: list[Any], kind: pa.DataType, expected: list[Any]
) -> None:
    labels = [msgspec.json.encode({"v": value}).decode() + " " * i for i, value in enumerate(values)]
    part_files.write_part(store, 1, [outcome(i, row=0, point=label) for i, label in enumerate(labels)])
    assert columns_of(store, variables={"v": values}, labels=labels) == {"v": (kind, expected)}


def test_without_a_plan_points_of_an_earlier_sweep_come_last_and_fit(store: Store) -> None:
    part_files.write_part(store, 1, [outcome("old", row=0, point='{"t":"auto"}'), outcome("older", row=1, point="{}")])
    part_files.write_part(store, 2, [outcome("new", row=0, point='{"t":0.5}')])
    found = assembled(store, variables={"t": [0.5]}, labels=['{"t":0.5}'])
    assert found["id"].to_pylist() == ["id-new", "id-old", "id-older"]
    assert found["t"].to_pylist() == ["0.5", "auto", None]
