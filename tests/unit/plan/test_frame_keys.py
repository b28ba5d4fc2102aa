"""The same rows are the same requests, whatever kind of frame or file they come in."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from batchflex.config.loader import build
from batchflex.core import frame_of
from batchflex.plan.plan import Plan
from tests.golden.cases import CASES, pinned
from tests.support.paths import ROOT

GOLDEN = json.loads((ROOT / "tests" / "golden" / "keys.json").read_text())
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é", "name": "n"}]
MESSAGES = {
    "id": ["a", None, "c", "d"],
    "messages": [TURNS, [{"role": "user", "content": "b", "name": None}], TURNS[:1], TURNS],
    "max_tokens": [5, None, 7, 8],
    "temperature": [0.5, None, 1.0, 0.0],
}
TABLE = {
    "text": ["one", None, "three", "one"],
    "day": [datetime.date(2026, 1, 31), None, datetime.date(2026, 2, 1), None],
    "at": [datetime.datetime(2026, 1, 31, 12, 30, tzinfo=datetime.UTC), None, None, None],
    "share": [0.1, 2.0, None, None],
    "count": [1, None, 3, 3],
    "tags": [["a", "b"], [], None, ["c"]],
    "who": [{"name": "x", "n": 1}, {"name": None, "n": 2}, None, None],
}
PROMPT = (
    "{{ text or '-' }} {{ day or '' }} {{ at or '' }} {{ share or '' }} {{ count or '' }} {{ [tags, who] | tojson }}"
)
JOBS: dict[str, tuple[dict[str, list[Any]], dict[str, Any]]] = {
    "messages": (MESSAGES, {}),
    "a prompt": (TABLE, {"prompt": {"user": PROMPT}}),
    "a prompt, with an id": (TABLE, {"prompt": {"user": "{{ text or '-' }}"}, "input": {"id": "share", "carry": "*"}}),
}


def of_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """As somebody makes it who has only pandas: objects in cells, and types for what may be missing."""
    columns = {}
    for name, kind in frame.schema.items():
        values = frame[name].to_list()
        typed = {pl.Int64: "Int64", pl.Datetime("us", "UTC"): "datetime64[us, UTC]", pl.Float64: "float64"}.get(
            kind, object
        )
        columns[name] = pd.Series(values, dtype=typed)
    return pd.DataFrame(columns)


def keys(job: dict[str, Any], frame: Any = None) -> list[Any]:
    plan = Plan(
        build({"params": {"model": "m"}, **job}), frame=None if frame is None else frame_of(frame, "run()").rows
    )
    requests = [request for block in plan.blocks() for request in block]
    assert [request.fault for request in requests] == [None] * len(requests)
    return list(pinned(requests))


@pytest.mark.parametrize("name", JOBS)
def test_the_same_rows_have_the_same_keys(name: str, tmp_path: Path) -> None:
    table, job = JOBS[name]
    frame = pl.DataFrame(table)
    frame.write_parquet(tmp_path / "in.parquet")
    of_pandas(frame).to_parquet(tmp_path / "pandas.parquet")
    paths = [
        {"input": {"path": str(tmp_path / file)} | job.get("input", {})} for file in ("in.parquet", "pandas.parquet")
    ]
    expected = keys(job | paths[0])
    assert len({key for *_, key, _ in expected}) == frame.height
    assert keys(job | paths[1]) == expected
    kinds = [frame, frame.lazy(), frame.to_arrow(), frame.to_arrow().combine_chunks().to_batches()[0], of_pandas(frame)]
    kinds.append(frame.to_pandas(use_pyarrow_extension_array=True))
    kinds.append(pd.read_parquet(tmp_path / "in.parquet", dtype_backend="pyarrow"))
    for each in kinds:
        assert keys(job, each) == expected, type(each)


@pytest.mark.parametrize("name", ["Parquet of messages", "Parquet with types that JSON does not have"])
def test_frames_of_polars_keep_the_keys_that_they_have(name: str) -> None:
    case = CASES[name]
    (rows,) = case.files.values()
    assert isinstance(rows, list)
    assert keys(case.job, pl.DataFrame(rows)) == GOLDEN[name]
