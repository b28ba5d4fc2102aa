"""The two sides of a comparison, as the command line names them: ``OUT``, or one sweep point of it, ``OUT@variable=value,…``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ..config import Job, ScoreSection, build, choice
from ..core import FolderError, JobError, text_of
from ..storage import Folder, ResultsFiles, ScoresFiles, sweep_columns
from . import extract, scorers, scores_file, spending
from .ledger import MEASURES, Score

_SHOWN = ("content", "parsed")


class Side(NamedTuple):
    """``frame`` has the rows with their scores, and as ``answered_NAME`` the label that a score found in each answer. ``swept``
    are its columns with the values of sweep points, ``cluster`` that by which its scores are clustered, if they are; ``shares``
    says which scores are 0 or 1."""

    name: str
    frame: pl.DataFrame
    swept: list[str]
    cluster: str | None
    shares: dict[str, bool]


def both_of(name: str, cluster: str | None = None) -> tuple[Side, Side]:
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
    return side(names[0], cluster), side(names[1], cluster)


def folders_of(names: Sequence[str]) -> list[Path]:
    """The folders that sides are of."""
    return list(dict.fromkeys(_split(name)[0] for name in names))


def uneven(one: Side, two: Side) -> list[str]:
    """A sentence for each swept variable of which the sides have some values in common, and others not."""
    told = []
    for column in [each for each in one.swept if each in two.swept]:
        a, b = ([_text(v) for v in side.frame[column].unique(maintain_order=True)] for side in (one, two))
        if set(a) != set(b) and set(a) & set(b):
            told.append(f"{column} is {', '.join(a)} in A and {', '.join(b)} in B: means are over what each side has")
    return told


def labels_of(name: str, on: Sequence[str], cluster: str | None = None) -> Side:
    """One side of a comparison on columns of the results, ``on``, which needs no scores.

    :raises JobError: if there is no such column, variable or value.
    :raises FolderError: if the folder has no results.
    """
    path, given = _split(name)
    folder = Folder(path)
    job = _job(folder)
    if not ResultsFiles(folder).exists:
        raise FolderError(_without_results(path))
    columns = sweep_columns(job.sweep.variables)
    results = pl.scan_parquet(ResultsFiles(folder).paths, glob=False)
    names = results.collect_schema().names()
    wanted = [*on, *([cluster] if cluster is not None else [])]
    if missing := [each for each in wanted if each.partition(".")[0] not in names and each not in names]:
        raise JobError(f"there is no column {missing[0]!r} in {path}; {choice(missing[0], names, 'the columns are')}")
    read = {"id", *columns, *wanted, *(each.partition(".")[0] for each in wanted)}
    frame = results.select([each for each in names if each in read]).collect()
    frame = _of_point(
        name, given, columns, frame.with_columns(extract.texts(frame, each).alias(each) for each in wanted)
    )
    return Side(name, frame, [column for column in columns if column in frame.columns], None, {})


def side(name: str, cluster: str | None = None) -> Side:
    """One side: the rows of a folder, or of the sweep points that the name selects, with their scores.

    ``cluster`` is a column to have beside that by which the scores are clustered.

    :raises JobError: if there is no such variable or value.
    :raises FolderError: if the folder has no results or no scores.
    """
    path, given = _split(name)
    folder = Folder(path)
    job, found = _job(folder), scores_file.read(folder)
    if not ResultsFiles(folder).exists:
        raise FolderError(_without_results(path))
    if found is None or not ScoresFiles(folder).exists:
        raise FolderError(
            f"{path} has no scores yet: give its job some [[score]] and run it, or: batchflex score {path} JOB.toml"
        )
    columns = sweep_columns(job.sweep.variables)
    scored = found["scores"]
    own = next((each["cluster"] for each in scored if each.get("cluster")), None)
    specs = [spec for spec in job.score if _is_of(spec, scored)]
    clusters = [each for each in (cluster, own) if each is not None]
    frame = _rows(folder, columns, specs, clusters, found.get("results"))
    frame = _of_point(name, given, columns, frame)
    swept = [column for column in columns if column in frame.columns]
    return Side(name, frame, swept, own, {each["name"]: bool(each["is_share"]) for each in scored})


def clustered(known: Side, cluster: str) -> Side:
    """The same side by the clusters of a column that its scores are not clustered by; as it is, if it has no such column."""
    try:
        return side(known.name, cluster)._replace(cluster=cluster)
    except JobError:
        return known


def _without_results(path: Path) -> str:
    return f"{path} has no results yet: they are there once a run of its job has ended (batchflex status {path})"


def _of_point(name: str, given: Mapping[str, str], columns: Mapping[str, str], frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of the sweep points that a name selects. ``columns`` has the variable of each column."""
    path, sweep = _split(name)[0], {variable: column for column, variable in columns.items()}
    if unknown := [variable for variable in given if variable not in sweep]:
        raise JobError(f"{name}: {unknown[0]!r} is not swept in {path}; {choice(unknown[0], list(sweep), 'swept are')}")
    for variable, value in given.items():
        texts = pl.Series([_text(v) for v in frame[sweep[variable]]], dtype=pl.String)
        known = [str(text) for text in texts.unique(maintain_order=True)]
        if (meant := _meant(value, known)) is None:
            raise JobError(f"{name}: there is no {variable}={value} in {path}; {choice(value, known)}")
        frame = frame.filter(texts == meant)
    return frame


def _is_of(spec: ScoreSection, scored: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the scores were made in the way that the job has: its labels are theirs."""
    own = Score.of(spec)._asdict()
    same = (all(own[name] == each.get(name) for name in ("name", "kind", "expected", "answer")) for each in scored)
    return spec.is_labelling and any(same)


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


def _rows(
    folder: Folder,
    sweep: Collection[str],
    labelling: Sequence[ScoreSection],
    clusters: Sequence[str],
    scored_of: str | None,
) -> pl.DataFrame:
    """The results with their scores and labels beside them; only the columns that a comparison reads. ``scored_of`` is what the
    table was made of whose scores these are, if that is known."""
    there = ResultsFiles(folder)
    results = pl.scan_parquet(there.paths, glob=False)
    names = results.collect_schema().names()
    for cluster in clusters:
        if cluster.partition(".")[0] not in names and cluster not in names:
            known = choice(cluster, names, "the columns are")
            raise JobError(f"there is no column {cluster!r} to cluster by in {folder.path}; {known}")
    heads = {cluster.partition(".")[0] for cluster in clusters}
    kept = {"id", "key", *MEASURES, *spending.BEFORE.values(), *_SHOWN, *sweep, *clusters}
    labelling = [spec for spec in labelling if _has(spec, names)]
    read = kept | heads | {name for spec in labelling for name in scorers.needed(spec, names)}
    scored = pl.read_parquet(ScoresFiles(folder).paths, glob=False)
    frame = results.select([name for name in names if name in read]).collect()
    are_older = scored_of is not None and bool(there.made_of) and scored_of != there.made_of
    if are_older or not frame["key"].equals(scored["key"]):
        raise FolderError(
            f"the scores in {folder.path} are older than its results; make them anew: batchflex score {folder.path} "
            "(with the job file that named them, if it is not the folder's; a judge is asked for the grades that are missing)"
        )
    found = {spec.name: scorers.evaluate(frame, spec).answered for spec in labelling}
    labels = [answered.alias(f"answered_{name}") for name, answered in found.items() if answered is not None]
    frame = frame.with_columns(extract.texts(frame, each).alias(each) for each in clusters)
    kept_names = [name for name in frame.columns if name in kept and name != "key"]
    return frame.select(kept_names).hstack([*scored.drop("key").get_columns(), *labels])


def _has(spec: ScoreSection, names: Sequence[str]) -> bool:
    """Whether the columns that a score reads are there."""
    try:
        scorers.needed(spec, names)
    except JobError:
        return False
    return True
