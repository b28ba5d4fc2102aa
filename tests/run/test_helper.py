"""The helper process of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import pytest

import batchflex
from batchflex.storage import results_table
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
        running.extend(helper.is_running for helper in used)
        write_results(*given)

    monkeypatch.setattr(Helper, "seal", sealing)
    monkeypatch.setattr(results_table, "write_results", writing)
    rows = [{"id": f"r{n}", "messages": [{"role": "user", "content": f"text {n}"}]} for n in range(300)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = batchflex.run(
        {
            "job": {"out": str(tmp_path / "out")},
            "endpoint": {"base_url": endpoint.base_url},
            "params": {"model": "m"},
            "input": {"path": str(tmp_path / "in.jsonl")},
            "journal": {"seal_rows": 50},
        }
    )
    assert ended.results().height == 300 and running and not any(running)
