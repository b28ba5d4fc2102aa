"""Frames of every kind become polars frames with the same values, and the caller's kind comes back."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import narwhals
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchflex.core import JobError, frame_of, frames

ASKED = [{"role": "user", "content": "hi"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
BERLIN = "Europe/Berlin"
ADDED = pl.DataFrame(
    {
        "status": ["ok", "failed", None],
        "n": [1, None, 3],
        "cost": [0.5, None, None],
        "fits": [True, None, False],
        "tags": [["a"], None, []],
        "inner": [{"x": 1}, None, {"x": 2}],
    }
)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (["a", None, float("nan")], ["a", None, None]),
        (pd.Series(["a", np.nan, pd.NA], dtype=object), ["a", None, None]),
        (pd.Series(["a", None, ""], dtype="string"), ["a", None, ""]),
        (pd.array(["a", None, "c"], dtype="string[pyarrow]"), ["a", None, "c"]),
        (pd.Categorical(["x", None, "y"]), ["x", None, "y"]),
        (pd.Categorical([3, None, 1], ordered=True), [3, None, 1]),
        (
            pd.Series(pd.period_range("2024-01", periods=3, freq="M")).astype("category"),
            ["2024-01", "2024-02", "2024-03"],
        ),
        (pd.array([1, None, 3], dtype="Int64"), [1, None, 3]),
        (pd.array([True, None, False], dtype="boolean"), [True, None, False]),
        ([1.0, np.nan, np.inf], [1.0, None, np.inf]),
        (pd.arrays.SparseArray([1.0, np.nan, 2.0]), [1.0, None, 2.0]),
        (pd.Series([[1], [2, 3], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))), [[1], [2, 3], None]),
        ([decimal.Decimal("1.50"), None, decimal.Decimal("NaN")], [decimal.Decimal("1.50"), None, None]),
        ([datetime.date(2024, 1, 1), None, None], [datetime.date(2024, 1, 1), None, None]),
        (pd.PeriodIndex(["2024-01", None, "2024-03"], freq="M"), ["2024-01", None, "2024-03"]),
        (pd.arrays.IntervalArray.from_tuples([(0, 1), None, (1, 2)]), ["(0.0, 1.0]", None, "(1.0, 2.0]"]),
        ([uuid.UUID(int=1), None, uuid.UUID(int=2)], [str(uuid.UUID(int=1)), None, str(uuid.UUID(int=2))]),
        ([ASKED, None, ASKED * 2], [ASKED, None, ASKED * 2]),
        ([np.array([1, 2]), None, np.array([3])], [[1, 2], None, [3]]),
        ([{"a": 1}, {"b": np.float64("nan")}, None], [{"a": 1, "b": None}, {"a": None, "b": None}, None]),
        # What no type holds stays as it is.
        (pd.Series([1, "a", None], dtype=object), [1, "a", None]),
        (pd.Series([np.int64(3), np.str_("s"), np.bool_(True)], dtype=object), [3, "s", True]),
        ([ASKED, PARTS, None], [ASKED, PARTS, None]),
        ([2**70, None, 1], [2**70, None, 1]),
        (pd.Series(["\ud800", "b", None], dtype=object), ["\ud800", "b", None]),
    ],
)
def test_columns_of_pandas_have_their_values_and_nulls(column: Any, values: list[Any]) -> None:
    rows = frame_of(pd.DataFrame({"x": column}), "here").rows
    assert rows["x"].to_list() == values
    assert [row["x"] for row in rows.to_dicts()] == values


@pytest.mark.parametrize("zone", [None, BERLIN, "+05:30", "UTC"])
def test_times_of_pandas_keep_their_zones(zone: str | None) -> None:
    times = pd.Series(pd.to_datetime(["2024-01-01 10:00", None])).dt.tz_localize(zone)
    (first, second) = frame_of(pd.DataFrame({"at": times}), "here").rows["at"].to_list()
    assert str(first) == str(times[0]) and second is None


def test_what_comes_back_of_pandas_is_the_frame_with_columns_added() -> None:
    frame = pd.DataFrame(
        {
            "text": pd.Categorical(["a", None, "b"]),
            0: [1, 2, 3],
            "at": pd.to_datetime(["2024-01-01", None, "2024-02-01"]).tz_localize(BERLIN),
            "n": pd.array([5, 6, 7], dtype="Int64"),
        },
    )
    frame.index = pd.Index(["r", "r", "s"])
    before = frame.copy()
    found = frame_of(frame, "here").beside(ADDED)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(found[["text", 0, "at"]], before[["text", 0, "at"]])
    assert [str(found[name].dtype) for name in ("n", "cost", "fits", "tags")] == [
        "Int64",
        "float64",
        "boolean",
        "object",
    ]
    assert found["n"].tolist() == [1, pd.NA, 3], "a column of that name is replaced"
    assert found["status"].isna().tolist() == [False, False, True]
    assert found["tags"].tolist() == [["a"], None, []]
    assert found.index.tolist() == ["r", "r", "s"]


def test_names_of_pandas_that_are_no_text() -> None:
    frame = pd.DataFrame([[1, 2, 3]], columns=[0, None, pd.Timestamp("2024-01-01")])
    assert frame_of(frame, "here").rows.columns == ["0", "None", "2024-01-01 00:00:00"]
    levels = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("text", "de"), ("id", "")]))
    taken = frame_of(levels, "here")
    assert taken.rows.columns == ["text_de", "id"]
    found = taken.beside(pl.DataFrame({"status": ["ok"], "id": [7]}))
    assert found.columns.tolist() == [("text", "de"), ("id", ""), ("status", "")]
    assert found[("id", "")].tolist() == [7]


def test_an_index_with_a_name_counts_as_a_column() -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "id": [5, 6]}, index=pd.Index(["x", "y"], name="ticket"))
    assert frame_of(frame, "here").rows.to_dict(as_series=False) == {
        "ticket": ["x", "y"],
        "text": ["a", "b"],
        "id": [5, 6],
    }
    levels = frame.set_index("id", append=True)
    assert frame_of(levels, "here").rows.columns == ["ticket", "id", "text"]
    assert frame_of(frame.rename_axis("id"), "here").rows["id"].to_list() == [5, 6], "a column comes first"
    alone = frame_of(frame[[]], "here")
    assert alone.rows.columns == ["ticket"] and alone.beside(alone.rows.rename({"ticket": "x"})).columns.tolist() == [
        "x"
    ]
    assert frame_of(frame.rename_axis(None), "here").rows.columns == ["text", "id"]


def test_columns_of_arrow_have_their_values_and_the_table_keeps_its_types() -> None:
    table = pa.table(
        {
            "text": pa.array(["a", None, "c"], pa.string_view()),
            "who": pa.array([uuid.UUID(int=1).bytes, None, None], pa.binary(16)).cast(pa.uuid()),
            "wide": pa.array([decimal.Decimal("1.5"), None, None], pa.decimal256(60, 1)),
            "code": pa.array([3, None, 1], pa.int64()).dictionary_encode(),
        }
    )
    taken = frame_of(table, "here")
    assert taken.rows.to_dict(as_series=False) == {
        "text": ["a", None, "c"], "who": [str(uuid.UUID(int=1)), None, None],
        "wide": [decimal.Decimal("1.5"), None, None], "code": [3, None, 1],
    }  # fmt: skip
    found = taken.beside(ADDED)
    assert found.select(table.column_names).equals(table) and found.schema.names[4:] == ADDED.columns
    assert pl.DataFrame(found.select(ADDED.columns)).equals(ADDED)


class Columns:
    """An object that gives its columns by a protocol alone."""

    def __init__(self, table: Any, name: str) -> None:
        setattr(type(self), name, lambda self, *args, **more: getattr(table, name)(*args, **more))


def test_the_same_kind_comes_back() -> None:
    plain = pl.DataFrame({"text": ["a", "b", "c"]})
    wrapped = narwhals.from_native(plain)
    of_pandas = narwhals.from_native(plain.to_pandas())
    for frame, kind in [
        (plain, pl.DataFrame), (plain.lazy(), pl.LazyFrame), (plain.to_pandas(), pd.DataFrame), (plain.to_arrow(), pa.Table),
        (plain.to_arrow().to_batches()[0], pa.Table), (wrapped, narwhals.DataFrame), (wrapped.lazy(), narwhals.LazyFrame),
        (type("Stream", (Columns,), {})(plain.to_arrow(), "__arrow_c_stream__"), pl.DataFrame),
        (type("Exchange", (Columns,), {})(plain.to_arrow(), "__dataframe__"), pl.DataFrame),
    ]:  # fmt: skip
        taken = frame_of(frame, "here")
        assert taken.rows.equals(plain)
        for made in (taken.beside(ADDED), taken.alike(ADDED)):
            assert isinstance(made, kind), kind
    found = frame_of(of_pandas, "here").beside(ADDED)
    assert isinstance(found.to_native(), pd.DataFrame)


@pytest.mark.parametrize(
    "frame", [pd.DataFrame({"n": [4, 5, 6]}), pa.table({"n": [4, 5, 6]}), pl.DataFrame({"n": [4, 5, 6]})]
)
def test_a_library_that_only_narwhals_knows(frame: Any) -> None:
    taken = frames._by_narwhals(frame, "here")
    assert taken is not None and taken.rows["n"].to_list() == [4, 5, 6]
    plain = ADDED.select("status", "n")
    for made in (taken.beside(plain), taken.alike(plain)):
        assert type(made) is type(frame)
        assert pl.DataFrame(made).select("n", "status").rows() == [(1, "ok"), (None, "failed"), (3, None)]
    lazy = frames._by_narwhals(pl.LazyFrame({"n": [4, 5, 6]}), "here")
    assert lazy is not None and isinstance(lazy.beside(plain), pl.DataFrame)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ([{"text": "a"}], "found a list; make a frame of it first"),
        ("rows.csv", "found a str"),
        (None, "found a NoneType"),
        (pd.Series(["a"]), "found a Series; call its to_frame"),
        (pl.Series(["a"]), "found a Series; call its to_frame"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns of the frame are called 'a'"),
        (pd.DataFrame([[1, 2]], columns=["0", 0]), "two columns of the frame are called '0'"),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), "two columns of the frame are called 'a'"),
        (pd.DataFrame(index=[1, 2]), "has rows, but no columns"),
    ],
)  # fmt: skip
def test_what_is_no_frame_is_refused(frame: Any, words: str) -> None:
    with pytest.raises(JobError, match=f"^complete\\(\\).*{words}"):
        frame_of(frame, "complete()")
