"""A proxy and an endpoint for each process that runs tests; nothing is collected where there is no LiteLLM to run."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import batchflex
from tests.gateway.proxy import LITELLM, proxy
from tests.support.counting_endpoint import CountingEndpoint, Knobs

collect_ignore_glob = [] if LITELLM.is_file() else ["test_*.py"]
_numbers = itertools.count(1)


class Gateway(NamedTuple):
    """The proxy's address, the endpoint behind it, and where runs keep what they get."""

    base_url: str
    upstream: CountingEndpoint
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def run(self, rows: int, key: str, name: str = "run", **tables: Any) -> batchflex.Run:
        """Ask so many rows with a key that says what it may (see keys.py). Each has a limiter of its own."""
        path = self.folder / f"{name}.jsonl"
        lines = ({"id": f"r{n}", "messages": [{"role": "user", "content": f"row {n} "}]} for n in range(rows))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.monkeypatch.setenv("BATCHFLEX_API_KEY", f"sk.{key}.{os.getpid()}n{next(_numbers)}")
        job = {
            "job": {"name": name, "out": str(self.folder / name)},
            "endpoint": {"base_url": self.base_url},
            "input": {"path": str(path)},
            "params": {"model": "m", "max_tokens": 50},
        }
        for table, values in tables.items():
            job[table] = job.get(table, {}) | values
        return batchflex.run(job)


@pytest.fixture(scope="session")
def _behind() -> Iterator[tuple[str, CountingEndpoint]]:
    with CountingEndpoint() as upstream, proxy(upstream.base_url) as base_url:
        yield base_url, upstream


@pytest.fixture
def gateway(_behind: tuple[str, CountingEndpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    base_url, upstream = _behind
    upstream.knobs(**vars(Knobs()))
    upstream.reset()
    return Gateway(base_url, upstream, tmp_path, monkeypatch)
