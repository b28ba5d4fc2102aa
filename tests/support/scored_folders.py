"""Output folders with scores, for tests of the report: as a run and its scoring leave them, made without asking."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.types import Outcome
from batchflex.plan.planner import points
from batchflex.storage import part_files, results_table, sweep_columns
from batchflex.storage.output_folder import Folder
from tests.support.outcomes import digest, outcome

Judge = Callable[[Mapping[str, Any]], float | None]


def make(out: Path, outcomes: Sequence[Outcome], *, ended: bool = True, **sections: Any) -> Folder:
    """A folder with these outcomes, its job having these sections, and a run that has ended (or was killed)."""
    job = build(
        {"job": {"name": "made", "out": str(out)}, "endpoint": {"base_url": "http://127.0.0.1:1/v1"}, **sections}
    )
    folder = Folder(out)
    with folder.held():
        folder.write_job(job.resolved())
        part_files.write_part(folder.parts, 1, outcomes)
        tabulate(folder, job)
        counts = {s: sum(o.status == s for o in outcomes) for s in ("ok", "truncated", "filtered", "invalid", "failed")}
        state = {
            "run_id": "run-1", "job": "made", "status": "finished" if ended else "running", "stopped_by": None, "message": None,
            "exit_code": 0, "started_at": "2026-01-01T00:00:00.000+00:00", "updated_at": "2026-01-01T00:01:00.000+00:00",
            "finished_at": "2026-01-01T00:01:00.000+00:00" if ended else None, "planned": len(outcomes), "done": len(outcomes),
            **counts, "requests_sent": len(outcomes), "retries": 0, "rate_limited": 0, "prompt_tokens": 0, "completion_tokens": 0,
            "cost": None,
        }  # fmt: skip
        folder.write_state(state)
        if ended:
            folder.add_history(state)
    return folder


def tabulate(folder: Folder, job: Job) -> None:
    labels = [point.label for point in points(job)]
    results_table.write_results(folder.results, results_table.assemble(folder.parts, job.sweep.variables, labels))


def answer(
    row: int, said: str | None, point: Mapping[str, Any] | None = None, sample: int = 0, **fields: Any
) -> Outcome:
    """The outcome of a row, sweep point and sample, with tokens and times that differ from row to row."""
    told = json.dumps(point or {}, separators=(",", ":"))
    known: dict[str, Any] = {
        "key": digest("key", row, told, sample).hex(), "slot": digest("slot", row, told, sample).hex(), "sample": sample,
        "content": said, "point": told, "model": "m", "finish_reason": "stop", "prompt_tokens": 50 + row % 7,
        "completion_tokens": 5 + row % 3, "total_tokens": 55 + row % 7 + row % 3, "latency_s": 0.2 + (row * 37 % 100) / 80,
        "started_at": 1_700_000_000_000_000 + row * 40_000, "finished_at": 1_700_000_000_500_000 + row * 40_000,
    }  # fmt: skip
    return outcome(row, **(known | fields))


def score(
    folder: Folder, kinds: Mapping[str, tuple[bool, Judge]], expected: str | None = None, said: str = "content"
) -> None:
    """Write ``scores.parquet`` and ``scores.json``. ``kinds`` says of each score whether it is a share, and what a row gets;
    with ``expected`` shares have labels, by that column and ``said``."""
    results = pl.read_parquet(folder.results)
    rows = list(results.iter_rows(named=True))
    columns = {f"score_{name}": [judge(row) for row in rows] for name, (_, judge) in kinds.items()}
    pl.DataFrame(
        {"key": results["key"], **{n: pl.Series(v, dtype=pl.Float64) for n, v in columns.items()}}
    ).write_parquet(folder.path / "scores.parquet")
    job = build(folder.read_job() or {})
    told = []
    for point in points(job):
        own = [at for at, row in enumerate(rows) if all(row[n] == v for n, v in _columns(point.values).items())]
        told.append({
            "point": point.values, "rows": len(own), "items": len({rows[at]["row"] for at in own}), "status": {"ok": len(own)},
            "prompt_tokens": 0, "completion_tokens": 0, "cache_read_input_tokens": None,
            "cost": None, "latency_s": {"p50": 1, "p95": 2},
            "scores": {
                name: _summary([columns[f"score_{name}"][at] for at in own], is_share,
                               [(rows[at][expected], rows[at][said]) for at in own] if expected and is_share else None)
                for name, (is_share, _) in kinds.items()
            },
        })  # fmt: skip
    stamp = part_files.read_metadata(folder.results)[0][b"batchflex.made_of"].decode()
    (folder.path / "scores.json").write_text(json.dumps({
        "level": 0.95, "results": stamp, "rows": len(rows),
        "scores": [{"name": name, "kind": "exact" if is_share else "length", "is_share": is_share, "expected": expected,
                    "answer": said}
                   for name, (is_share, _) in kinds.items()],
        "points": told,
    }))  # fmt: skip


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    return {out: values[name] for out, name in sweep_columns(values).items()}


def _summary(values: Iterable[float | None], is_share: bool, pairs: Sequence[tuple[Any, Any]] | None) -> dict[str, Any]:
    told = [value for value in values if value is not None]
    n, mean = len(told), sum(told) / len(told) if told else None
    low, high = _wilson(mean, n) if is_share and mean is not None else (mean, mean)
    return {
        "mean": mean, "low": low, "high": high, "n": n, "items": n, "method": "wilson" if is_share else "bootstrap",
        "pass_at": None, "majority": None, "kappa": None, "labels": _labels(pairs) if pairs else None,
    }  # fmt: skip


def _wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def _labels(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    names = sorted({str(value) for value in itertools.chain.from_iterable(pairs)})
    matrix = [[sum((str(e), str(a)) == (one, two) for e, a in pairs) for two in names] for one in names]
    ones: list[float | None] = [1.0] * len(names)
    return {
        "names": names,
        "matrix": matrix,
        "precision": ones,
        "recall": ones,
        "f1": ones,
        "support": list(map(sum, matrix)),
        "macro_f1": 1.0,
    }
