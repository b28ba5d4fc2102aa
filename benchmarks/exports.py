"""What it costs to get results out of a folder, in each format."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from figures import Figure
from processes import Refused, Spent, environment, measure
from workshop import Workshop

_MILLION = 1_000_000
_CHOSEN = ["--where", "status = 'ok' AND content LIKE '%plain%'", "--columns", "id,content,label"]
_WAYS: Mapping[str, Sequence[str]] = {
    "Parquet": ["-o", "x.parquet"],
    "CSV": ["-o", "x.csv"],
    "JSON lines": ["-o", "x.jsonl"],
    "JSON lines, zstd": ["-o", "x.jsonl.zst"],
    "openai-batch": ["-o", "x.jsonl", "--format", "openai-batch"],
    "nine tenths of the rows, three columns, CSV": ["-o", "x.csv", *_CHOSEN],
    "Parquet, split into 3": ["-o", "x.parquet", "--split-by", "label"],
    "Parquet, split into 200": ["-o", "x.parquet", "--split-by", "completion_tokens"],
}
_LARGE: Mapping[str, Sequence[str]] = {  # what is large as text is not kept
    "Parquet": ["-o", "x.parquet"],
    "CSV": ["-o", "-", "--format", "csv"],
    "JSON lines": ["-o", "-"],
    "openai-batch": ["-o", "-", "--format", "openai-batch"],
    "nine tenths of the rows, three columns, CSV": ["-o", "-", "--format", "csv", *_CHOSEN],
    "Parquet, split into 200": ["-o", "x.parquet", "--split-by", "completion_tokens"],
}


def exports(shop: Workshop) -> list[Figure]:
    """Seconds and peak memory of exports of a table of a million rows."""
    return _measured(shop, shop.size(_MILLION), _WAYS, usual=3)


def exports_large(shop: Workshop) -> list[Figure]:
    """The same of ten million rows; takes an hour."""
    return _measured(shop, shop.size(10 * _MILLION), _LARGE, usual=1)


def _measured(shop: Workshop, rows: int, ways: Mapping[str, Sequence[str]], usual: int) -> list[Figure]:
    out, found = _table(shop, rows), []
    for name, options in ways.items():
        spent = [_export(shop, out, options) for _ in shop.runs(usual)]
        found += [
            Figure(f"{rows:,} rows, {name}", "s", [each.wall_s for each in spent]),
            Figure(f"{name}: CPU", "µs a row", [each.cpu_s / rows * 1e6 for each in spent]),
            Figure(f"{name}: peak", "MB of RSS", [each.peak_mb for each in spent], 500),
        ]
    return found


def _export(shop: Workshop, out: Path, options: Sequence[str]) -> Spent:
    """:raises Refused: if it fails, or no file comes of it."""
    into = shop.fresh("exported")
    into.mkdir()
    named = [str(into / word) if word.startswith("x.") else word for word in options]
    spent = measure([sys.executable, "-m", "batchflex", "results", str(out), *named])
    if "-" not in options and not any(path.stat().st_size for path in into.iterdir()):
        raise Refused(f"nothing was written by {' '.join(options)}")
    shutil.rmtree(into)
    return spent


def _table(shop: Workshop, rows: int) -> Path:
    """A folder with a table of so many rows, made once."""
    out = shop.folder / f"{rows}-table"
    table = out / "results.parquet"
    if not table.exists() or pq.read_metadata(table).num_rows != rows:
        command = [sys.executable, str(Path(__file__).with_name("folders.py")), "table", str(rows), str(out)]
        subprocess.run(command, env=environment(), check=True)
    return out
