"""The two sides of a comparison, as the command line names them: ``OUT``, or one sweep point of it, ``OUT@variable=value,…``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl

from ..config import Job, build, choice
from ..core import FolderError, JobError, text_of
from ..storage import Folder, ResultsFiles, ScoresFiles, sweep_columns
from . import scores_file, spending
from .ledger import MEASURES

_SHOWN = ("content", "parsed")


def both_of(name: str) -> tuple[tuple[str, pl.DataFrame], tuple[str, pl.DataFrame]]:
    """The two sides that a name stands for if just two sweep points of its folder match, each with a name of its own.

    :raises JobError: if it is not two that match.
    :raises FolderError: if the folder has no results or no scores.
    """
    path, given = _split(name)
    points = _points(Folder(path))
    if len(points) == 1:
        raise JobError(f"{path} has no sweep, so it is one side; name the other as well: {path} OTHER")
    left = [p for p in points if all(n in p and _meant(value, [p[n]]) for n, value in given.items())]
    names = [f"{path}@{','.join(f'{name}={value}' for name, value in point.items())}" for point in left]
    if len(names) != 2:
        raise JobError(
            f"{name} has {len(names)} sweep points, not two to compare; name two sides, such as "
            f"{' '.join(names[:2]) or 'OUT OTHER'}"
        )
    return side(names[0]), side(names[1])


def side(name: str) -> tuple[str, pl.DataFrame]:
    """One side: the rows of a folder, or of the sweep points that the name selects, with their scores.

    :raises JobError: if there is no such variable or value.
    :raises FolderError: if the folder has no results or no scores.
    """
    path, given = _split(name)
    folder = Folder(path)
    job, found = _job(folder), scores_file.read(folder)
    if not ResultsFiles(folder).exists or found is None or not ScoresFiles(folder).exists:
        raise FolderError(
            f"{path} has no scores yet: give its job some [[score]] and run it, or: batchflex score {path} JOB.toml"
        )
    columns = sweep_columns(job.sweep.variables)
    sweep = {variable: column for column, variable in columns.items()}
    if unknown := [variable for variable in given if variable not in sweep]:
        raise JobError(f"{name}: {unknown[0]!r} is not swept in {path}; {choice(unknown[0], list(sweep), 'swept are')}")
    frame = _rows(folder, columns, found.get("results"))
    for variable, value in given.items():
        texts = pl.Series([_text(v) for v in frame[sweep[variable]]], dtype=pl.String)
        known = [str(text) for text in texts.unique(maintain_order=True)]
        if (meant := _meant(value, known)) is None:
            raise JobError(f"{name}: there is no {variable}={value} in {path}; {choice(value, known)}")
        frame = frame.filter(texts == meant)
    return name, frame


def _meant(value: str, known: Collection[str]) -> str | None:
    """The known value that a text stands for: ``0.0`` also stands for ``0``."""
    if value in known:
        return value
    try:
        text = text_of(float(value))
    except ValueError:
        return None
    return text if text in known else None


def _split(name: str) -> tuple[Path, dict[str, str]]:
    path, at, rest = name.rpartition("@")
    if not at or Path(name).exists():
        return Path(name), {}
    given = {}
    for pair in rest.split(","):
        variable, equals, value = pair.partition("=")
        if not equals or not variable:
            raise JobError(f"{name}: a sweep point is written OUT@variable=value,…; found {pair!r}")
        given[variable.strip()] = value.strip()
    return Path(path), given


def _job(folder: Folder) -> Job:
    folder.require()
    data = folder.read_job()
    if data is None:
        raise FolderError(f"{folder.path} has no job.toml, which names what was swept")
    return build(data)


def _points(folder: Folder) -> list[dict[str, str]]:
    """The values of each scored sweep point as texts, by variable."""
    found = scores_file.read(folder) if folder.exists() else None
    if found is None:
        raise FolderError(f"{folder.path} has no scores to compare")
    swept = _job(folder).sweep.variables
    return [{name: _text(point["point"].get(name)) for name in swept} for point in found["points"]]


def _text(value: Any) -> str:
    """A swept value as text: ``null`` where a point does not set the variable."""
    return "null" if value is None else str(text_of(value))


def _rows(folder: Folder, sweep: Collection[str], scored_of: str | None) -> pl.DataFrame:
    """The results with their scores beside them; only the columns that a comparison reads. ``scored_of`` is what the table was
    made of whose scores these are, if that is known."""
    there = ResultsFiles(folder)
    results = pl.scan_parquet(there.paths, glob=False)
    names = results.collect_schema().names()
    wanted = [name for name in names if name in {"id", "key", *MEASURES, *spending.BEFORE.values(), *_SHOWN, *sweep}]
    scored = pl.read_parquet(ScoresFiles(folder).paths, glob=False)
    frame = results.select(wanted).collect()
    are_older = scored_of is not None and bool(there.made_of) and scored_of != there.made_of
    if are_older or not frame["key"].equals(scored["key"]):
        raise FolderError(
            f"the scores in {folder.path} are older than its results; make them anew: batchflex score {folder.path}"
        )
    return frame.drop("key").hstack(scored.drop("key"))
