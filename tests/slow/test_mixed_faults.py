"""Everything that goes wrong in a night, at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl

from tests.support.counting_endpoint import CountingEndpoint

ROWS = 2_000
FAULTS = {
    "429": 0.05,
    "500": 0.01,
    "502_html": 0.01,
    "503": 0.01,
    "reset_before": 0.01,
    "reset_inside": 0.01,
    "close_before": 0.005,
    "close_inside": 0.01,
    "truncated_json": 0.01,
    "html_200": 0.005,
    "bad_chunk": 0.005,
    "hang": 0.005,
}
POISON = {"row 7 ": "400", "row 77 ": "500", "row 777 ": "empty_choices", "row 1777 ": "422"}


def run(rows: Path, out: Path, base_url: str, *more: str) -> int:
    command = [sys.executable, "-m", "batchflex", "run", str(rows), "--base-url", base_url, "--model", "m"]
    command += ["--out", str(out), "--concurrency", "64", "--quiet", "--set", "retry.base_s=0.05"]
    command += ["--set", "endpoint.timeout_s=1.5", *more]
    return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=180, check=False).returncode


def write_rows(path: Path) -> None:
    with path.open("w") as stream:
        for i in range(ROWS):
            stream.write(json.dumps({"id": f"r{i}", "messages": [{"role": "user", "content": f"row {i} "}]}) + "\n")


def test_all_rows_are_answered_and_none_twice(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    write_rows(rows)
    endpoint.knobs(faults=FAULTS, latency_s=0.01, retry_after_s=0.02)
    assert run(rows, out, endpoint.base_url) == 0
    results, seen = pl.read_parquet(out / "results.parquet"), endpoint.stats()
    assert results["id"].to_list() == [f"r{i}" for i in range(ROWS)]
    assert set(results["status"]) == {"ok"}
    assert results["key"].n_unique() == ROWS
    assert seen["answered"] == ROWS
    assert seen["repeats"] == 0
    assert all(seen["outcomes"].get(fault) for fault in FAULTS), "every fault has to have happened"
    assert seen["requests"] == ROWS + sum(n for fault, n in seen["outcomes"].items() if fault != "ok")
    assert results["attempts"].sum() == seen["requests"]
    print("\nmixed faults:", seen)  # noqa: T201  (shown by pytest -s: the figures of the release notes)


def test_poison_rows_fail_with_the_servers_words(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    write_rows(rows)
    endpoint.knobs(faults=FAULTS, poison=POISON, latency_s=0.01, retry_after_s=0.02)
    assert run(rows, out, endpoint.base_url) == 1
    results = pl.read_parquet(out / "results.parquet")
    failed = results.filter(pl.col("status") == "failed")
    assert results.height == ROWS
    assert results.filter(pl.col("status") == "ok").height == ROWS - len(POISON)
    assert dict(failed.select("id", "http_status").iter_rows()) == {"r7": 400, "r77": 500, "r777": 200, "r1777": 422}
    words = dict(failed.select("id", "error_message").iter_rows())
    assert words["r7"] == "the request is malformed"
    assert words["r77"] == "Internal error"
    assert "choices" in words["r777"]
    assert "top_p" in words["r1777"]
    asked = dict(failed.select("id", "attempts").iter_rows())
    assert asked["r77"] == 6
    assert asked["r777"] == 6
    assert endpoint.stats()["repeats"] == 0
