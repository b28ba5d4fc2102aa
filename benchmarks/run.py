"""Measures what batchflex costs, each case against its goal: medians of several runs with their spread.

    make bench                                     all cases but the large ones and the comparison; some 20 minutes
    python benchmarks/run.py --only cpu tls        just these
    python benchmarks/run.py --quick               few rows, one run: whether the cases work; no measure
    python benchmarks/run.py --list                the cases

Cases are whole processes of the command line where nothing else is said, everything included: interpreter start, imports,
planning, journal, Parquet parts, results. 1 KB requests, 1.2 KB answers over loopback; clients on the first core, the target
on the second. For each run the rows written and the requests served are held against the rows asked; where they differ the
case has no figures. ``results.json`` keeps the figures by case.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import asking
import comparison
import exports
import figures
import finished
import nightly
import prefixes
import scaling
import starting
import storing
from figures import Figure
from processes import Refused, open_many_files
from workshop import Workshop

_RESULTS = Path(__file__).with_name("results.json")

CASES: dict[str, Callable[[Workshop], list[Figure]]] = {
    "cpu": asking.cpu,
    "limited": asking.limited,
    "ideal": asking.ideal,
    "memory": asking.memory,
    "first": starting.first,
    "help": starting.help_text,
    "tls": asking.tls,
    "processes": scaling.processes,
    "bucket": scaling.bucket,
    "stall": asking.stall,
    "journal": storing.journal,
    "results": finished.results,
    "scores": finished.scores,
    "report": finished.report,
    "exports": exports.exports,
    "resume": finished.resume,
    "prefixes": prefixes.cached,
    "resume10m": finished.resume_large,
    "exports10m": exports.exports_large,
    "nightly10m": nightly.nightly,
    "bare": comparison.bare,
    "peers": comparison.peers,
}
# These take long, or need more than batchflex: only when named.
APART = {"resume10m", "exports10m", "nightly10m", "bare", "peers", "prefixes"}


def measure_case(name: str, shop: Workshop, kept: Path | None) -> bool:
    """Print a case's figures, or why there are none; false then."""
    began, machine = time.monotonic(), figures.machine()
    try:
        measured: list[Figure] | str = CASES[name](shop)
    except Refused as reason:
        measured = str(reason)
    if isinstance(measured, str):
        print(f"| {name} | aborted: {measured} | | | | | |", flush=True)
    else:
        for figure in measured:
            print(figures.line(name, figure), flush=True)
    if kept is not None:
        figures.keep(kept, name, measured, machine, quick=shop.quick)
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return not isinstance(measured, str)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help="just these cases")
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each case, in place of its own number")
    parser.add_argument("--quick", action="store_true", help="few rows, one run, nothing kept: whether the cases work")
    parser.add_argument("--work", type=Path, metavar="DIR", help="a folder for inputs and outputs, kept afterwards")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures (benchmarks/results.json)")
    parser.add_argument("--list", action="store_true", help="list the cases")
    options = parser.parse_args()
    if options.list:
        for name, case in CASES.items():
            print(f"{name:<10} {(case.__doc__ or '').splitlines()[0]}{' Only when named.' if name in APART else ''}")
        return
    open_many_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing that was started goes on
    kept = options.json or (None if options.quick else _RESULTS)
    print(figures.HEADER, flush=True)
    with tempfile.TemporaryDirectory(prefix="batchflex-bench-") as name:
        folder = options.work or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        shop = Workshop(folder.resolve(), options.runs, quick=options.quick)
        wanted = options.only or [name for name in CASES if name not in APART]
        whole = [measure_case(each, shop, kept) for each in wanted]
    sys.exit(0 if all(whole) else 1)


if __name__ == "__main__":
    main()
