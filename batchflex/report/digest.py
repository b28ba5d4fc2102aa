"""The content of a report, read from an output folder in one pass into a structure of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ..config import Job, build
from ..core import BatchflexError, FolderError
from ..endpoint import default_model, resolve_all
from ..plan import Plan, points
from ..results import view
from ..storage import Folder, HistoryLine, ResultsFiles, ScoresFiles, Substitutes, shard_states, sweep_columns
from . import breakdown, sample_rows, score_section, timeline
from .breakdown import Cause, Distribution, Figures, Flow, Histogram, text
from .sample_rows import Row
from .score_section import Scores, ScoreSpec
from .timeline import Timeline

_RUNS = 12
_FLOW_PARTS = 40
_NUMERIC_SCORES = 3


class PointDigest(NamedTuple):
    """A sweep point: its values as text in the order of the variables, the figures of its rows, and its scores by name."""

    values: tuple[str, ...]
    figures: Figures
    scores: dict[str, score_section.Score]


class Digest(NamedTuple):
    """``state`` is ``run.json`` (empty if there is none), ``variables`` are the swept ones with their values as text.

    ``notes`` are sentences about what is missing or out of date. ``totals`` counts all rows of each kind of which ``rows`` has
    some. ``made_of`` is the result of :func:`made_of`.
    """

    name: str
    out: str
    state: dict[str, Any]
    is_held: bool
    models: list[str]
    endpoint: str
    variables: dict[str, list[str]]
    whole: Figures
    points: list[PointDigest]
    scores: Scores | None
    latency: Histogram | None
    ttft: Histogram | None
    answers: list[Distribution]
    numbers: dict[str, Histogram]
    causes: list[Cause]
    causes_beyond: int
    timeline: Timeline | None
    flow: Flow | None
    runs: list[HistoryLine]
    rows: list[Row]
    totals: dict[str, int]
    notes: list[str]
    job_toml: str
    made_of: str | None

    @property
    def specs(self) -> list[ScoreSpec]:
        return self.scores.scores if self.scores else []


def digest(folder: Folder, rows: int = 200) -> Digest:
    """Read a folder; ``rows`` is the size of the random sample. Writes nothing.

    For a run that is still running or was killed it has the answers so far.

    :raises FolderError: if there is no run in the folder, or it has no job.toml yet.
    """
    folder.require()
    resolved = folder.read_job()
    if resolved is None:
        raise FolderError(f"{folder.path} has no answers yet")
    job = build(resolved)
    state, is_held = shard_states.state_of(folder), folder.is_held()
    notes: list[str] = []
    there = view.results_of(folder)
    with view.keeping(there, there.schema.names) as kept:
        paths = kept.paths
        results = pl.scan_parquet([*paths], glob=False)
        columns = results.collect_schema().names()
        variables = _variables(job)
        swept = [name for name in sweep_columns(variables) if name in columns]
        scores, per_row, names = _scores(folder, paths, notes)
        shares = [s.column for s in (scores.scores if scores else []) if s.is_share and s.column in names]
        marked = sample_rows.choose(results, per_row, swept, shares, rows)
        found = sample_rows.fetch(results, columns, per_row, swept, names, marked)
        prompts = _prompts(job, found)
        if missing := sum(key not in prompts for key, _ in found):
            notes.append(_no_prompts(missing, len(found)))
        if words := _substitutes(results, columns).words():
            notes.append(f"{words}.")
        numeric = [s.column for s in (scores.scores if scores else []) if not s.is_share and s.column in names]
        causes, beyond = breakdown.causes(results)
        over_time = timeline.timeline(_lines(folder.telemetry))
        return Digest(
            name=job.job.name,
            out=str(folder.path),
            state=state,
            is_held=is_held,
            models=_distinct(results, "model"),
            endpoint=", ".join(_distinct(results, "endpoint")),
            variables=variables,
            whole=breakdown.whole(results, columns),
            points=_points(job, list(variables), breakdown.by_point(results, columns, swept), scores),
            scores=scores,
            latency=breakdown.histogram(results, "latency_s"),
            ttft=breakdown.histogram(results, "ttft_s"),
            answers=breakdown.answers(results),
            numbers=breakdown.numbers(results, per_row, numeric[:_NUMERIC_SCORES]),
            causes=causes,
            causes_beyond=beyond,
            timeline=over_time,
            flow=None if over_time else breakdown.flow(results, _run_of_most(results), _FLOW_PARTS),
            runs=timeline.past_runs(_lines(folder.history), _RUNS),
            rows=[row._replace(prompt=prompts.get(key)) for key, row in found],
            totals=marked.totals,
            notes=notes,
            job_toml=folder.job.read_text(encoding="utf-8"),
            made_of=made_of(folder) if ResultsFiles(folder).paths == paths else None,
        )


def made_of(folder: Folder) -> str | None:
    """Stands for a table of results and a summary of its scores; ``None`` if the table does not say what it was made of."""
    stamp = ResultsFiles(folder).made_of.encode()
    if not stamp:
        return None
    with contextlib.suppress(OSError):
        stamp += folder.scores_json.read_bytes()
    return hashlib.blake2b(stamp, digest_size=16).hexdigest()


def _variables(job: Job) -> dict[str, list[str]]:
    """Each swept variable with its distinct values, as text, in the order of the sweep."""
    found: dict[str, dict[str, None]] = {}
    for point in points(job):
        for name, value in point.values.items():
            found.setdefault(name, {})[text(value)] = None
    return {name: list(values) for name, values in found.items()}


def _points(
    job: Job, variables: Sequence[str], figures: dict[tuple[str, ...], Figures], scores: Scores | None
) -> list[PointDigest]:
    """Sweep points that have rows, in the order of the sweep; those that are no longer in the sweep come last."""

    def key(values: dict[str, Any]) -> tuple[str, ...]:
        return tuple(text(values.get(name)) for name in variables)

    by_key = {key(point.point): point.scores for point in scores.points} if scores else {}
    order = dict.fromkeys([*(key(point.values) for point in points(job)), *figures])
    return [PointDigest(k, figures[k], by_key.get(k, {})) for k in order if k in figures]


def _scores(
    folder: Folder, paths: Sequence[Path], notes: list[str]
) -> tuple[Scores | None, pl.LazyFrame | None, list[str]]:
    """The summary, the scores of single rows, and their columns."""
    summary = score_section.read(folder.scores_json)
    if summary is None:
        if folder.scores_json.exists():
            notes.append("scores.json cannot be read; score the folder again.")
        return None, None, []
    there = ResultsFiles(folder)
    stamp = there.made_of if there.paths == paths else ""
    if summary.results is not None and stamp and summary.results != stamp:
        notes.append("The scores are of an earlier table of results; score the folder again.")
    try:
        per_row = pl.scan_parquet(ScoresFiles(folder).paths, glob=False)
        names = per_row.collect_schema().names()
    except (OSError, pl.exceptions.PolarsError):
        return summary, None, []
    return summary, per_row, [s.column for s in summary.scores if s.column in names]


def _prompts(job: Job, rows: Sequence[tuple[bytes, Row]]) -> dict[bytes, list[sample_rows.Message]]:
    if not rows or job.input.path is None:
        return {}
    with contextlib.suppress(BatchflexError):
        model = default_model(resolve_all(job, with_key=False))
        return sample_rows.prompts(Plan(job, model), rows)
    return {}


def _no_prompts(missing: int, of: int) -> str:
    which = "rows shown" if missing == of else f"{missing:,} of the {of:,} rows shown"
    return (
        f"The prompts of the {which} are not known: they are made anew from the input, which is not there any more, has "
        "changed, or has them beyond its first million rows. The columns carried along are shown in their place."
    )


def _distinct(results: pl.LazyFrame, name: str, most: int = 6) -> list[str]:
    return [str(v) for v in results.select(pl.col(name).drop_nulls().unique()).collect().to_series().sort().head(most)]


def _substitutes(results: pl.LazyFrame, columns: Sequence[str]) -> Substitutes:
    """Answers by other models than requested; nothing in tables of an older version."""
    found, names = Substitutes(), ["requested_model", "model", "gateway_fallbacks"]
    if {*names} <= {*columns}:
        counted = results.filter(pl.col("status") != "failed").group_by(names).len().sort(names).collect()
        for requested, answered, fallbacks, rows in counted.iter_rows():
            found.add(requested, answered, fallbacks, rows)
    return found


def _run_of_most(results: pl.LazyFrame) -> str | None:
    counted = results.group_by("run_id").len().sort("len", "run_id", descending=True).head(1).collect()
    return counted["run_id"][0] if counted.height else None


def _lines(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(OSError), path.open("rb") as stream:
        yield from stream
