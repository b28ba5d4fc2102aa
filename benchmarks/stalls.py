"""A run of batchflex that watches its own event loop: how late it calls back what is due 5 ms later, time after time.

    python benchmarks/stalls.py REQUESTS.jsonl BASE_URL OUT CONCURRENCY

Prints one line of JSON: for the time while rows are asked (``asking``) and after (``table``) the longest lateness in ms, the
longest time that the loop's thread itself computed in such a gap, and the 99.9th percentile of lateness; and how long the run
went on after the last answer (``ending_s``).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array
from typing import Any

import batchflex

_SLEEP_S = 0.005


class Watch:
    """Observes a run as the progress bar does, and so is called on its event loop."""

    def __init__(self) -> None:
        self.phase, self.asked = "asking", time.perf_counter()
        self.late = {"asking": array("d"), "table": array("d")}
        self.computed = {"asking": array("d"), "table": array("d")}
        self._loop: asyncio.AbstractEventLoop | None = None

    def note(self, text: str) -> None:
        self._begin()

    def tick(self, tally: Any) -> None:
        self._begin()
        if self.phase == "asking" and tally.planned is not None and tally.done >= tally.planned:
            self.phase, self.asked = "table", time.perf_counter()

    def _begin(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._watch()

    def _watch(self) -> None:
        assert self._loop is not None
        self._loop.call_later(_SLEEP_S, self._look, self.phase, time.perf_counter(), time.thread_time())

    def _look(self, phase: str, began: float, before: float) -> None:
        self.computed[phase].append(time.thread_time() - before)
        self.late[phase].append(time.perf_counter() - began - _SLEEP_S)
        self._watch()

    def report(self) -> dict[str, dict[str, float]]:
        return {phase: self._of(phase) for phase in self.late}

    def _of(self, phase: str) -> dict[str, float]:
        late = sorted(self.late[phase]) or [0.0]
        return {
            "longest_ms": 1000 * late[-1],
            "longest_cpu_ms": 1000 * max(self.computed[phase], default=0.0),
            "p999_ms": 1000 * late[int(0.999 * (len(late) - 1))],
            "looks": len(self.late[phase]),
        }


def main() -> None:
    source, base_url, out, concurrency = sys.argv[1:]
    job = {
        "job": {"out": out},
        "input": {"path": source},
        "endpoint": {"base_url": base_url},
        "params": {"model": "m"},
        "limits": {"concurrency": int(concurrency)},
    }
    watch = Watch()
    ended = batchflex.run(job, observer=watch)
    print(json.dumps(watch.report() | {"ending_s": time.perf_counter() - watch.asked}))
    sys.exit(ended.exit_code)


if __name__ == "__main__":
    main()
