"""The helper process of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import pytest

import batchflex
from batchflex.storage import helper, results_table
from batchflex.storage.helper import Helper
from tests.support.counting_endpoint import CountingEndpoint


def test_it_has_ended_when_the_table_is_made(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both at once would take the most memory of a run."""
    used: list[Helper] = []
    running: list[bool] = []
    seal, write_results = Helper.seal, results_table.write_results

    def sealing(self: Helper, segment: Path, stream: IO[bytes], carry_schema: Any) -> bool:
        used.append(self)
        return seal(self, segment, stream, carry_schema)

    def writing(*given: Any) -> None:
        running.extend(each.is_running for each in used)
        write_results(*given)

    monkeypatch.setattr(Helper, "seal", sealing)
    monkeypatch.setattr(results_table, "write_results", writing)
    assert _run(endpoint, tmp_path, 300, seal_rows=50).results().height == 300
    assert running and not any(running)


@pytest.mark.parametrize(("rows", "is_started"), [(99, False), (100, False), (300, True)])
def test_two_segments_are_sealed_without_it(
    rows: int, is_started: bool, endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    start = helper._started

    def starting() -> Any:
        started.append(True)
        return start()

    monkeypatch.setattr(helper, "_started", starting)
    assert _run(endpoint, tmp_path, rows, seal_rows=50).results().height == rows
    assert len(list((tmp_path / "out" / "parts").iterdir())) >= (2 if is_started else 1)
    assert bool(started) == is_started


def _run(endpoint: CountingEndpoint, folder: Path, rows: int, seal_rows: int) -> batchflex.Run:
    made = [{"id": f"r{n}", "messages": [{"role": "user", "content": f"text {n}"}]} for n in range(rows)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return batchflex.run(
        {
            "job": {"out": str(folder / "out")},
            "endpoint": {"base_url": endpoint.base_url},
            "params": {"model": "m"},
            "input": {"path": str(folder / "in.jsonl")},
            "journal": {"seal_rows": seal_rows},
        }
    )
