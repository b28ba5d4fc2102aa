"""How a key's limits at a real LiteLLM proxy are used: ``make bench-gateway``. Some four minutes.

Two runs with ``concurrency = "auto"``: a key that may have 10 requests in flight, with answers that take 0.5 s, beside what 10 in
flight deliver through the same proxy without a limit; and a key with 120 requests a minute, window by window.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import batchflex
from tests.gateway.proxy import proxy
from tests.support.counting_endpoint import CountingEndpoint, Knobs

_WARM_S, _WINDOW_S = 15, 60


def main() -> None:
    with CountingEndpoint() as upstream, proxy(upstream.base_url) as base_url, tempfile.TemporaryDirectory() as folder:
        told = {}
        for name, key, rows, latency_s, concurrency in (
            ("10 in flight, no limit", "free", 800, 0.5, 10),
            ("max_parallel_requests=10", "max_parallel_requests=10", 800, 0.5, "auto"),
            ("rpm_limit=120", "rpm_limit=120", 400, 0.05, "auto"),
        ):
            upstream.knobs(**vars(Knobs()) | {"latency_s": latency_s})
            upstream.reset()
            run = _run(base_url, Path(folder), name, key, rows, concurrency)
            told[name] = run.summary, upstream.stats()["by_second"]
        free, held = (_rate(told[name][1]) for name in ("10 in flight, no limit", "max_parallel_requests=10"))
        summary, _ = told["max_parallel_requests=10"]
        print(
            f"max_parallel_requests=10: {held:.2f} answers/s from the {_WARM_S}th second, {held / free:.1%} of {free:.2f}"
        )
        print(
            f"  refused {summary['rate_limited']} of {summary['requests_sent']} ({_share(summary):.2%}); ok {summary['ok']}"
        )
        summary, seconds = told["rpm_limit=120"]
        print(f"rpm_limit=120: answered in each window of 60 s from the first request: {_windows(seconds)}")
        print(
            f"  refused {summary['rate_limited']} of {summary['requests_sent']} ({_share(summary):.2%}); ok {summary['ok']}"
        )


def _run(base_url: str, folder: Path, name: str, key: str, rows: int, concurrency: int | str) -> Any:
    path = folder / f"{rows}.jsonl"
    lines = ({"id": f"r{n}", "messages": [{"role": "user", "content": f"row {n}"}]} for n in range(rows))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.environ["BATCHFLEX_API_KEY"] = f"sk.{key}.{os.getpid()}"
    return batchflex.run({
        "job": {"name": "gateway", "out": str(folder / name.replace(" ", "-"))},
        "endpoint": {"base_url": base_url},
        "input": {"path": str(path)},
        "params": {"model": "m", "max_tokens": 50},
        "limits": {"concurrency": concurrency},
    })  # fmt: skip


def _rate(seconds: list[list[int]]) -> float:
    """Answers a second, from the 15th second to the last but one."""
    counted = [row[2] for row in seconds if _WARM_S <= row[0] < seconds[-1][0] - 1]
    return sum(counted) / max(1, len(counted))


def _windows(seconds: list[list[int]]) -> list[int]:
    found = [0] * (seconds[-1][0] // _WINDOW_S + 1)
    for row in seconds:
        found[row[0] // _WINDOW_S] += row[2]
    return found


def _share(summary: dict[str, Any]) -> float:
    return float(summary["rate_limited"] / max(1, summary["requests_sent"]))


if __name__ == "__main__":
    sys.exit(main())
