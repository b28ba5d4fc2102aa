"""Whole runs of the command line against an endpoint on loopback: wall time, CPU time, peak memory.

    make bench                                  the table of README.md
    python benchmarks/run.py --rows 10000 --concurrency 64 256 --latency 0.0

Everything is counted that a user would wait or pay for: interpreter start, imports, planning, journal, Parquet parts,
results. The endpoint is the tests' own, in a process of its own that takes the other core; each figure is of one run, so
on a busy machine repeat it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.counting_endpoint import CountingEndpoint

_PROMPT = "Is this review positive or negative? " + "The kettle boils quickly and is quiet. " * 20


class Figures(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_mb: float


def write_rows(path: Path, rows: int) -> None:
    """Requests of about 1 KB."""
    with path.open("w") as stream:
        for i in range(rows):
            messages = [{"role": "user", "content": f"{i}: {_PROMPT}"}]
            stream.write(json.dumps({"id": f"r{i}", "messages": messages}) + "\n")


def measure(command: list[str]) -> Figures:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"the run ended with {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return Figures(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def bench(endpoint: CountingEndpoint, rows: int, concurrency: int, folder: Path) -> tuple[Figures, Figures]:
    """The figures of a run, and of running the same command again when nothing is left to ask."""
    source, out = folder / f"{rows}.jsonl", folder / f"{rows}-{concurrency}"
    if not source.exists():
        write_rows(source, rows)
    endpoint.reset()
    command = [sys.executable, "-m", "batchflex.cli", "run", str(source), "--base-url", endpoint.base_url]
    command += ["--model", "m", "--out", str(out), "--concurrency", str(concurrency), "--quiet"]
    first = measure(command)
    asked = endpoint.stats()["requests"]
    again = measure(command)
    written = pq.read_metadata(out / "results.parquet").num_rows
    if (asked, written, endpoint.stats()["requests"]) != (rows, rows, rows):
        raise SystemExit(f"{rows} rows took {asked} requests and gave {written} rows: the figures mean nothing")
    return first, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 200_000])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--latency", type=float, default=0.0, help="seconds until the endpoint answers")
    options = parser.parse_args()
    print("| rows | connections | wall s | CPU s | CPU µs a row | peak MB | run again: wall s | peak MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name, CountingEndpoint(latency_s=options.latency, keep_log=False) as endpoint:
        for rows in options.rows:
            for concurrency in options.concurrency:
                first, again = bench(endpoint, rows, concurrency, Path(name))
                print(
                    f"| {rows:,} | {concurrency} | {first.wall_s:.1f} | {first.cpu_s:.1f} | {1e6 * first.cpu_s / rows:.0f} "
                    f"| {first.peak_mb:.0f} | {again.wall_s:.1f} | {again.peak_mb:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
