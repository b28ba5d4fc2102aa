"""Scores of data frames, without a run: a frame with scores in it, and a summary of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import polars as pl

from ..config import ScoreLike, ScoreSection, specs_of
from ..core import JobError, frame_of
from . import functions, scorers, stats, summary, sweep_comparison
from .ledger import Ledger, Score
from .readable import ScoreSummary

Scores = Sequence[ScoreLike] | Mapping[str, Mapping[str, Any]] | ScoreLike
F = TypeVar("F")
_PREFIX = "score_"


def score(frame: F, scores: Scores) -> F:
    """The frame, of any kind that :func:`~batchflex.complete` takes, with a column ``score_NAME`` (a number, or null where a row
    cannot be scored) for each of ``scores``.

    ``scores`` are tables as in a job file's ``[[score]]``: a list of them, one alone, or by name
    (``{"accuracy": {"kind": "exact", "expected": "label"}}``). docs/scores.md describes the kinds. A column of that name is
    replaced. The frame may be the results of a run, or any other; if it has no column ``content``, name the column to score
    as ``answer``. Modules with scoring functions are looked for in the current folder.

    :raises JobError: if a score is invalid, or the frame lacks a column that it needs.
    """
    specs, given = specs_of(scores), frame_of(frame, "score()")
    found = _evaluated(given.rows, specs)
    return cast(F, given.beside(pl.DataFrame([found[spec.name].score.alias(spec.column) for spec in specs])))


def _evaluated(frame: pl.DataFrame, specs: Sequence[ScoreSection]) -> dict[str, scorers.Scored]:
    if judges := [spec.name for spec in specs if spec.kind == "judge"]:
        raise JobError(
            f"score '{judges[0]}': a judge needs a run: put it into a job's [[score]], then `batchflex score OUT`"
        )
    known = functions.load(specs)
    return {spec.name: scorers.evaluate(frame, spec, known.get(spec.name)) for spec in specs}


def summarise(
    frame: Any,
    scores: Scores | None = None,
    *,
    by: Sequence[str] = (),
    item: str | None = "id",
    level: float = stats.LEVEL,
    cluster: str | None = None,
    baseline: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A summary of the scores of a frame of any kind: the fields ``level``, ``rows``, ``scores`` and ``points`` of
    ``scores.json`` (CONTRACT.md), a dict that is printed as tables.

    With ``scores`` the frame is scored first; without, its columns ``score_NAME`` are used, and there are no labels, which only
    the definition of a score can find. ``by`` are the columns to group by (sweep points, models), ``item`` is the column that
    the samples of one item have in common; with ``None``, or a column that does not exist, each row is an item. ``level`` is
    that of the intervals.

    ``cluster`` is a column whose values rows have in common that are not independent of each other (the questions of one
    passage), ``baseline`` the values of ``by`` of the point that the others are compared with (the one that scores highest); both
    for those scores that do not say so themselves.

    :raises JobError: as :func:`score`, and if there is nothing to summarise.
    """
    frame = frame_of(frame, "summarise()").rows
    if missing := [name for name in by if name not in frame.columns]:
        raise JobError(
            f"there is no column {missing[0]!r} to summarise by; the columns are: {', '.join(frame.columns)}"
        )
    if cluster is not None and cluster not in frame.columns:
        raise JobError(f"there is no column {cluster!r} to cluster by; the columns are: {', '.join(frame.columns)}")
    if not 0 < level < 1:
        raise JobError(f"level must be between 0 and 1, such as 0.95; found {level!r}")
    swept = frame.select(by).unique(maintain_order=True).to_dicts() if baseline is not None else []
    if baseline is not None and (number := len(sweep_comparison.fitting(swept, baseline))) > 1:
        raise JobError(sweep_comparison.not_one(swept, baseline, number))
    if baseline is not None and not number:
        raise JobError(
            f"no row has the values of the baseline: {dict(baseline)!r:.200}; name values of {', '.join(by) or 'by'}"
        )
    if scores is not None:
        specs = specs_of(scores)
        known = [Score.of(spec) for spec in specs]
        found = _evaluated(frame, specs)
    else:
        names = [name.removeprefix(_PREFIX) for name in frame.columns if name.startswith(_PREFIX)]
        known = [Score(name) for name in names]
        found = {name: scorers.Scored(frame[_PREFIX + name].cast(pl.Float64)) for name in names}
    if not known:
        raise JobError("there are no scores: give some, or a frame with columns score_NAME")
    known = [
        each._replace(
            cluster=each.cluster or cluster, baseline=each.baseline if each.baseline is not None else baseline
        )
        for each in known
    ]
    ledger = Ledger(known, by, item if item in frame.columns else None)
    ledger.add(frame, found)
    return ScoreSummary(summary.summarise(ledger, level=level))
