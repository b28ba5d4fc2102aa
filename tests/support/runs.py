"""Whole runs in this process against the counting endpoint, and what is done to it while they go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.command_line import Ended, called
from tests.support.counting_endpoint import CountingEndpoint


def options(endpoint: CountingEndpoint, rows: Path) -> list[object]:
    """A run into the folder ``out`` beside the rows."""
    asks = ["--base-url", endpoint.base_url, "--model", "m", "--set", "retry.base_s=0.01", "--concurrency", "8"]
    return ["run", rows, *asks, "--out", rows.parent / "out", "--json"]


def run(endpoint: CountingEndpoint, rows: Path, *more: object) -> Ended:
    return called(*options(endpoint, rows), *more)


def run_job(path: Path, text: str) -> dict[str, Any]:
    """What ``--json`` printed for a job file of this text, with ``code`` and ``err``."""
    path.write_text(text)
    ended = called("run", path, "--json")
    return ended.summary | {"code": ended.code, "err": ended.err}


def telemetry(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]


class Meanwhile:
    """What happens to an endpoint while a run goes on, one thing after the other, in a thread of its own."""

    _LOOKS_EVERY_S = 0.01

    def __init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def once(
        self, endpoint: CountingEndpoint, holds: Callable[[dict[str, Any]], bool], *then: Callable[[], object] | float
    ) -> None:
        """As soon as the counts of ``endpoint`` fit, do ``then``; a number is a pause of so many seconds."""

        def watch() -> None:
            while not holds(endpoint.stats()):
                if self._over.wait(self._LOOKS_EVERY_S):
                    return
            for step in then:
                if callable(step):
                    step()
                elif self._over.wait(step):
                    return

        thread = threading.Thread(target=watch, daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
