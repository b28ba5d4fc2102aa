"""What the cases share: inputs, whole runs of the command line whose counts are checked, and how often to repeat."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from processes import Refused, Spent, measure, start
from targets import Running

_PROMPT = "Is this review positive or negative? " + "The kettle boils quickly and is quiet. " * 20
_SHORT_PROMPT = "Is this review positive or negative? " + "The kettle boils quickly and is quiet. " * 3
_WRITTEN_AT_ONCE = 10_000
_LOOK_EVERY_S = 0.05


class Begun(NamedTuple):
    """Seconds from the start of a client to its first request, and the most memory it had until then."""

    seconds: float
    peak_mb: float


class Workshop:
    """A folder to work in. With ``quick`` cases take fewer rows, to see that they work: their figures are no measure."""

    def __init__(self, folder: Path, runs: int | None, *, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self._runs = runs

    def runs(self, usual: int) -> range:
        """How often a case repeats itself."""
        return range(1 if self.quick and self._runs is None else self._runs or usual)

    def size(self, rows: int) -> int:
        return max(2_000, rows // 20) if self.quick and rows > 2_000 else rows

    def rows(self, rows: int, *, short: bool = False) -> Path:
        """A file of requests of about 1 KB each, or 250 bytes."""
        path = self.folder / f"{rows}{'-short' if short else ''}.jsonl"
        if not path.exists():
            prompt = _SHORT_PROMPT if short else _PROMPT
            with path.open("w") as stream:
                for begin in range(0, rows, _WRITTEN_AT_ONCE):
                    stream.writelines(
                        f'{{"id": "r{i}", "messages": [{{"role": "user", "content": "{i}: {prompt}"}}]}}\n'
                        for i in range(begin, min(rows, begin + _WRITTEN_AT_ONCE))
                    )
        return path

    def fresh(self, name: str) -> Path:
        """The path of a folder that is not there, whatever an aborted case left."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def command(self, source: Path, out: Path, base_url: str, concurrency: int | str) -> list[str]:
        start = [sys.executable, "-m", "batchflex", "run", str(source), "--base-url", base_url, "--model", "m"]
        return [*start, "--out", str(out), "--concurrency", str(concurrency), "--quiet"]

    def ask(
        self,
        target: Running,
        rows: int,
        concurrency: int | str,
        env: Mapping[str, str] | None = None,
        more: Sequence[str] = (),
    ) -> Spent:
        """A whole run from an empty folder, with ``more`` options.

        :raises Refused: if the target did not serve just these rows, or the results do not hold just them.
        """
        source, out = self.rows(rows), self.fresh("out")
        target.reset()
        spent = measure([*self.command(source, out, target.base_url, concurrency), *more], env)
        self.check(target, out, rows)
        shutil.rmtree(out)
        return spent

    def check(self, target: Running, out: Path, rows: int, asked: int | None = None) -> None:
        """:raises Refused: if ``rows`` are not in the results, or not so many (``asked``, else all) were asked."""
        written = pq.read_metadata(out / "results.parquet").num_rows
        agree(rows, rows if asked is None else asked, target, written)

    def first_request(self, target: Running, command: Sequence[str], within_s: float) -> Begun:
        """Start a client, and kill it when its first request has come.

        :raises Refused: if none came within ``within_s`` seconds.
        """
        target.reset()
        began = time.monotonic()
        process: subprocess.Popen[bytes] = start(command)
        try:
            while (first := target.stats().first_request_at) is None:
                if process.poll() is not None or time.monotonic() > began + within_s:
                    raise Refused(f"no request came within {time.monotonic() - began:.0f} s of the start")
                time.sleep(_LOOK_EVERY_S)
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        finally:
            process.kill()
            process.wait()
        return Begun(first - began, peak / 1024)


def agree(rows: int, asked: int, target: Running, written: int) -> None:
    """:raises Refused: if the requests served or the rows written are not as many as they should be."""
    served = target.stats().requests
    if (served, written) != (asked, rows):
        raise Refused(
            f"{rows:,} rows should have taken {asked:,} requests; {served:,} were served and {written:,} rows written"
        )
