"""The scores of an output folder: ``scores.parquet``, a row for each row of the results, and ``scores.json``, their summary.

Both are made from the results, block by block: memory holds a block and some 100 bytes a row. Where the results are a folder,
the scores are one too, ``scores/``, with a file for each of theirs; one in which nothing changes is not written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..config import Job, ScoreSection, choice
from ..core import FolderError, JobError, __version__
from ..plan import points
from ..results import view
from ..storage import Folder, ResultsFiles, ScoresFiles, replaced, storing, sweep_columns, table_files
from . import functions, scorers, spending, summary, sweep_comparison
from .ledger import MEASURES, WHO, Ledger, Score, with_substitutes

_BLOCK_ROWS = 20_000
_RULES = 2  # raised when the same scores of the same rows come out otherwise, so that they are made again


def make(
    folder: Folder,
    job: Job,
    specs: Sequence[ScoreSection],
    grades: Mapping[str, pl.DataFrame] | None = None,
    judges: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Score the results of a folder, write both files, and return what ``scores.json`` holds. Blocks.

    ``job`` is the one the results came from. ``grades`` has a frame of ``key`` and ``score`` for each score by a judge;
    ``judges`` is the state of each judge.

    :raises JobError: if a score needs a column that does not exist, or a scoring function fails.
    :raises FolderError: if there are no results.
    :raises StorageError: if the files cannot be written; existing ones stay as they are.
    """
    there = ResultsFiles(folder)
    if not there.exists:
        raise FolderError(f"there is no table of results in {folder.path} yet: run its job first")
    scoring = _Scoring(job, specs, grades or {})

    def blocks(path: Path) -> Iterator[pa.Table]:
        for batch in table_files.batches_of(path, wanted, _BLOCK_ROWS):
            frame, found = scoring.add(batch)
            columns = (found[spec.name].score.alias(spec.column) for spec in specs)
            yield pl.DataFrame([frame["key"], *columns]).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)

    try:
        names = there.schema().names
        wanted = scoring.begin(names)
        schema = pa.schema([("key", pa.string()), *((spec.column, pa.float64()) for spec in specs)])
        if there.is_folder:
            table = table_files.TableFolder(folder.scores_folder)
            for path in there.paths:
                whole = pa.Table.from_batches([], schema) if not (made := [*blocks(path)]) else pa.concat_tables(made)
                file = table_files.TableFile(f"{_name(path, whole)}.parquet", whole.num_rows)
                table.add(file, partial(_write, schema, [whole]))
            folder.scores_json.unlink(missing_ok=True)  # it summarises the scores that are replaced now
            table.commit({})
            folder.scores.unlink(missing_ok=True)
        else:
            _write(schema, blocks(there.paths[0]), folder.scores, last=folder.scores_json.unlink)
            table_files.remove_folder(folder.scores_folder)
    except (OSError, pa.ArrowException) as error:
        raise FolderError(f"{there.paths[0]} cannot be read: {error}") from None
    whole = scoring.summary()
    made_of = {"results": there.made_of or None, "made_by": _digest(specs)}
    whole = {"level": whole.pop("level"), **made_of, **whole, "judges": list(judges)}
    with storing(folder.scores_json), replaced(folder.scores_json) as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")
    return whole


class _Scoring:
    """Scores blocks of the results of a job by ``specs``, and summarises them."""

    def __init__(self, job: Job, specs: Sequence[ScoreSection], grades: Mapping[str, pl.DataFrame]) -> None:
        self._specs, self._grades = specs, grades
        self._functions = functions.load(specs)
        self._variables = job.sweep.variables
        self._sweep = sweep_columns(self._variables)
        self._points = [point.values for point in points(job)]

    def begin(self, names: Sequence[str]) -> list[str]:
        """Begin with a table that has these columns; which of them each block is to have.

        :raises JobError: as :func:`make`.
        """
        by = [name for name in self._sweep if name in names]
        scores = [_described(spec, self._sweep, self._points) for spec in self._specs]
        self._ledger = Ledger(scores, by, "id")
        return _wanted(self._specs, names, [*self._sweep])

    def add(self, block: pa.RecordBatch) -> tuple[pl.DataFrame, dict[str, scorers.Scored]]:
        frame = pl.DataFrame(pl.from_arrow(block))
        found = {spec.name: self._scored(frame, spec) for spec in self._specs}
        self._ledger.add(with_substitutes(frame), found)
        return frame, found

    def _scored(self, frame: pl.DataFrame, spec: ScoreSection) -> scorers.Scored:
        if spec.kind == "judge":
            return scorers.graded(frame, spec, self._grades.get(spec.name))
        return scorers.evaluate(frame, spec, self._functions.get(spec.name))

    def summary(self) -> dict[str, Any]:
        """``level``, ``rows``, ``scores`` and ``points`` of ``scores.json``."""
        sweep = self._sweep
        variables = {column: self._variables[name] for column, name in sweep.items()}
        whole = summary.summarise(self._ledger, variables)
        for point in whole["points"]:
            values = point["point"]
            point["point"] = {name: values[column] for column, name in sweep.items() if values.get(column) is not None}
        return whole


def so_far(
    folder: Folder, job: Job, specs: Sequence[ScoreSection], grades: Mapping[str, pl.DataFrame]
) -> dict[str, Any]:
    """The scores of what is answered by now, also while a run goes on: ``level``, ``rows``, ``scores`` and ``points`` of
    ``scores.json``. Holds and writes nothing. Blocks.

    :raises JobError: as :func:`make`.
    :raises FolderError: if there are no answers, or they are damaged.
    """
    results = view.results_of(folder)
    scoring = _Scoring(job, specs, grades)
    for block in results.batches(scoring.begin(results.schema.names)):
        scoring.add(block)
    return scoring.summary()


def _described(spec: ScoreSection, sweep: Mapping[str, str], swept: Sequence[Mapping[str, Any]]) -> Score:
    """A score for the ledger, whose sweep points are named by column. ``sweep`` has the variable of each column."""
    score = Score.of(spec)
    if score.baseline is None:
        return score
    columns = {variable: column for column, variable in sweep.items()}
    if (why := _baseline_fault(score.baseline, list(columns), swept)) is not None:
        return score._replace(baseline=None, uncompared=why)
    return score._replace(baseline={columns[name]: value for name, value in score.baseline.items()})


def _baseline_fault(
    baseline: Mapping[str, Any], variables: Sequence[str], swept: Sequence[Mapping[str, Any]]
) -> str | None:
    """Why a baseline is none of the sweep points, if it is not."""
    if not variables:
        return "there is no sweep, so there is no sweep point to be the baseline"
    if unknown := [name for name in baseline if name not in variables]:
        return f"in the baseline, {unknown[0]!r} is not swept; {choice(unknown[0], variables, 'swept are')}"
    number = len(sweep_comparison.fitting(swept, baseline))
    return None if number == 1 else sweep_comparison.not_one(swept, baseline, number)


def require_baselines(job: Job, specs: Sequence[ScoreSection]) -> None:
    """:raises JobError: if the baseline of a score is not one of the job's sweep points."""
    swept = [point.values for point in points(job)]
    tried = [(spec.name, spec.baseline) for spec in specs if spec.baseline is not None]
    faults = [(name, _baseline_fault(baseline, list(job.sweep.variables), swept)) for name, baseline in tried]
    if mistakes := [f"score '{name}': {why}" for name, why in faults if why is not None]:
        raise JobError(mistakes)


def _write(
    schema: pa.Schema, tables: Iterable[pa.Table], path: Path, last: Callable[[bool], None] = lambda _: None
) -> None:
    """``last`` is called when all is written and the file is not replaced yet."""
    with storing(path), replaced(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=_BLOCK_ROWS)
        last(True)


def _name(results: Path, scores: pa.Table) -> str:
    """The name of a file of scores: the number of that with the results, and a digest of what is in it."""
    hashes = pl.DataFrame(pl.from_arrow(scores)).hash_rows()
    return f"{results.stem.split('-')[0]}-{hashlib.blake2b(hashes.to_numpy().tobytes(), digest_size=8).hexdigest()}"


def _wanted(specs: Sequence[ScoreSection], names: Sequence[str], sweep: Sequence[str]) -> list[str]:
    """The columns to read, in the order of the table.

    :raises JobError: naming every column that is missing.
    """
    wanted, mistakes = {"id", "key", *MEASURES, *spending.BEFORE.values(), *WHO, *sweep}, []
    for spec in specs:
        try:
            wanted.update(scorers.needed(spec, names))
        except JobError as error:
            mistakes += error.mistakes
    if mistakes:
        raise JobError(mistakes)
    return [name for name in names if name in wanted]


def current(folder: Folder, specs: Sequence[ScoreSection]) -> dict[str, Any] | None:
    """The content of ``scores.json``, if it was made by these very scores from the present results; ``None`` if not.

    Whether a judge or a scoring function has changed is unknown, so with one of these it is ``None``.
    """
    results, scores = ResultsFiles(folder), ScoresFiles(folder)
    stamp = results.made_of
    if not stamp or any(spec.is_function or spec.kind == "judge" for spec in specs):
        return None
    if not scores.exists or not scores.is_of_kind(as_folder=results.is_folder):
        return None
    try:
        there = read(folder)
    except FolderError:
        return None
    known = there is not None and (there.get("results"), there.get("made_by")) == (stamp, _digest(specs))
    return there if known else None


def specs_of(found: Mapping[str, Any], known: Sequence[ScoreSection]) -> list[ScoreSection] | None:
    """Those of the ``known`` scores by which ``scores.json`` was made, with the clusters and the baselines that it was made with;
    ``None`` if they are not all known, or need a judge."""
    made = []
    for each in found["scores"]:
        fields = ("name", "kind", "expected", "answer")
        like = [s for s in known if all(getattr(Score.of(s), name) == each.get(name) for name in fields)]
        if not like or like[0].kind == "judge":
            return None
        told = each.get("comparison") or {}
        baseline = found["points"][told["point"]]["point"] if told.get("with") == "baseline" else None
        own = like[0].baseline if each.get("uncompared") else baseline
        made.append(like[0].model_copy(update={"cluster": each.get("cluster"), "baseline": own}))
    return made


def _digest(specs: Sequence[ScoreSection]) -> str:
    text = msgspec.json.encode([__version__, _RULES, *(spec.model_dump() for spec in specs)])
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def read(folder: Folder) -> dict[str, Any] | None:
    """The content of ``scores.json``; ``None`` if it does not exist.

    :raises FolderError: if it cannot be read.
    """
    try:
        found = msgspec.json.decode(folder.scores_json.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise FolderError(f"{folder.scores_json} cannot be read: {error}") from None
    return found if isinstance(found, dict) else None
