"""What a finished or half-finished job costs when it is run again, and the making of its table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from figures import Figure
from processes import Refused, Spent, environment, measure
from targets import Running, own
from workshop import Workshop

_MILLION = 1_000_000
_HALF_WITHIN_S = 900.0


def resume(shop: Workshop) -> list[Figure]:
    """A finished job of a million rows, until the process exits."""
    rows = shop.size(_MILLION)
    with own() as target:
        again = _again(shop, target, shop.rows(rows), rows, usual=3)
        return [
            Figure(f"finished, {rows:,} rows: until the exit", "s", [each.wall_s for each in again], 2, 1),
            Figure("peak", "MB of RSS", [each.peak_mb for each in again]),
        ]


def resume_large(shop: Workshop) -> list[Figure]:
    """Ten million rows, finished and half-done; takes half an hour and 5 GB."""
    rows = shop.size(10 * _MILLION)
    with own() as target:
        source = shop.rows(rows, short=True)
        whole = finished(shop, target, source)
        begun = []
        for _ in shop.runs(2):
            half = shop.fresh("half")
            _script("halve", whole, half)
            command = shop.command(source, half, target.base_url, 256)
            begun.append(shop.first_request(target, command, _HALF_WITHIN_S))
        again = _again(shop, target, source, rows, usual=2)
        note = "rows of 250 bytes"
        return [
            Figure(f"finished, {rows:,} rows: until the exit", "s", [e.wall_s for e in again], 15, 5, note=note),
            Figure("peak", "MB of RSS", [each.peak_mb for each in again], 1024, note=note),
            Figure(f"half-done, {rows:,} rows: first request after start", "s", [each.seconds for each in begun], 5, 2,
                   note=note, target=target.name),
            Figure("peak until then", "MB of RSS", [each.peak_mb for each in begun], note=note),
        ]  # fmt: skip


def results(shop: Workshop) -> list[Figure]:
    """The table of a finished job, made from its parts by ``batchflex results``."""
    rows = shop.size(_MILLION)
    with own() as target:
        out = finished(shop, target, shop.rows(rows))
    table, spent = shop.folder / "table.parquet", []
    for _ in shop.runs(3):
        (out / "results.parquet").unlink(missing_ok=True)
        spent.append(measure([sys.executable, "-m", "batchflex", "results", str(out), "-o", str(table)]))
        if (written := pq.read_metadata(table).num_rows) != rows:
            raise Refused(f"of {rows:,} rows {written:,} are in the table")
    return [
        Figure(f"table of {rows:,} rows", "s", [each.wall_s for each in spent], 8),
        Figure("peak", "MB of RSS", [each.peak_mb for each in spent], 500),
    ]


_SCORES = """
[[score]]
name = "positive"
kind = "contains"
value = "positive"
[[score]]
name = "plain"
kind = "regex"
pattern = "in plain \\\\w+"
[[score]]
name = "brief"
kind = "length"
unit = "words"
max = 200
"""


def scores(shop: Workshop) -> list[Figure]:
    """Three scores of each row of a finished job, by ``batchflex score``."""
    rows = shop.size(_MILLION)
    with own() as target:
        source = shop.rows(rows)
        out = finished(shop, target, source)
        measure(shop.command(source, out, target.base_url, 256))  # makes the table
    job, spent = shop.folder / "scores.toml", []
    job.write_text(_SCORES)
    for _ in shop.runs(3):
        (out / "scores.json").unlink(missing_ok=True)
        spent.append(measure([sys.executable, "-m", "batchflex", "score", str(out), str(job), "--json"]))
        if (written := pq.read_metadata(out / "scores.parquet").num_rows) != rows:
            raise Refused(f"of {rows:,} rows {written:,} are scored")
    return [
        Figure(f"three scores of {rows:,} rows", "s", [each.wall_s for each in spent], 10),
        Figure("peak", "MB of RSS", [each.peak_mb for each in spent], 1024),
    ]


def report(shop: Workshop) -> list[Figure]:
    """The report of a finished job of a million rows, its table being there."""
    rows = shop.size(_MILLION)
    with own() as target:
        source = shop.rows(rows)
        out = finished(shop, target, source)
        measure(shop.command(source, out, target.base_url, 256))  # makes the table
    batchflex, page, spent = [sys.executable, "-m", "batchflex"], out / "report.html", []
    for _ in shop.runs(3):
        page.unlink(missing_ok=True)
        spent.append(measure([*batchflex, "report", str(out)]))
        if f"of {rows:,}" not in page.read_text(encoding="utf-8"):
            raise Refused(f"the page does not speak of {rows:,} rows")
    return [
        Figure(f"report of {rows:,} rows", "s", [each.wall_s for each in spent], 20),
        Figure("peak", "MB of RSS", [each.peak_mb for each in spent], 1024),
        Figure("its page", "MB", [page.stat().st_size / 1e6], 5),
    ]


def _again(shop: Workshop, target: Running, source: Path, rows: int, *, usual: int) -> list[Spent]:
    """Runs of a finished job, after one that makes its table."""
    out = finished(shop, target, source)
    command = shop.command(source, out, target.base_url, 256)
    spent = []
    for _ in range(1 + len(shop.runs(usual))):
        target.reset()
        spent.append(measure(command))
        shop.check(target, out, rows, asked=0)
    return spent[1:]


def finished(shop: Workshop, target: Running, source: Path) -> Path:
    """The folder of a finished job, made once."""
    out = shop.folder / f"{source.stem}-finished"
    if not (out / "job.toml").exists():  # which is written last
        _script("finish", source, target.base_url, shop.fresh(out.name))
    return out


def _script(*words: object) -> None:
    """:raises Refused: if ``folders.py`` fails, whose last words then say why."""
    command = [sys.executable, str(Path(__file__).with_name("folders.py")), *map(str, words)]
    ended = subprocess.run(command, env=environment(), stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise Refused(f"no folder could be made: {ended.stderr.strip().splitlines()[-1]}")
