"""The table of a folder made of what lies in it alone: its job, its parts, its journal."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..config import Job, build, dated_path, environment_of, path_variables
from ..core import EndpointError, FolderBusy, FolderError, InputError, JobError
from ..endpoint import default_model, resolve_all
from ..plan import AnswerIndex, Plan, points
from ..storage import (
    CarriedUpdates,
    Folder,
    FolderStore,
    ResultsFiles,
    carried_updates,
    declared,
    part_files,
    part_index,
    places,
    results_table,
    table_files,
    writer,
)

_LAST = pl.Schema({"hi": pl.UInt64, "lo": pl.UInt64, "point": pl.Int32, "part": pl.Int64, "at": pl.Int64})


def job_of(folder: Folder) -> Job:
    """The job that the folder's answers came from.

    :raises FolderError: if there is none yet.
    """
    data = folder.read_job()
    if data is None:
        raise FolderError(f"{folder.path} has no answers yet")
    return build(data)


def job_here(folder: Folder) -> Job:
    """The same as it is planned again, wherever it was begun: with this folder as its own, and the variables of its places.

    :raises FolderError: if there is none yet.
    """
    data = folder.read_job()
    if data is None:
        raise FolderError(f"{folder.path} has no job.toml: its run has not begun, or was refused")
    here = ("job.out", dated_path.escaped(path_variables.escaped(str(folder.path))))
    return build(data, [here], environment=environment_of(data, [], Path(), lenient=True))


def plan_of(job: Job) -> Plan:
    """The plan of a job that is not going to be run: no key is needed.

    :raises JobError, InputError, EndpointError: if its input is not there any more, or does not fit it.
    """
    return Plan(job, default_model(resolve_all(job, with_key=False)))


def is_newest(folder: Folder) -> bool:
    """Whether the table of results :func:`has_all_answers`, and the carried columns as they were when the input was last looked
    at."""
    return ResultsFiles(folder).carried == carried_updates.identity(folder.carried) and has_all_answers(folder)


def has_all_answers(folder: Folder) -> bool:
    """Whether the table of results can be read, and is made of the parts that are there and of nothing else: no answer waits in
    the journal to be sealed. Tables of earlier versions do not have that; of them nothing may be newer."""
    there = ResultsFiles(folder)
    if not there.is_readable:
        return False
    parts = there.metadata.get(part_files.MADE_OF_PARTS)
    if parts is not None:
        return parts == part_files.identity(folder.parts).encode() and not writer.has_unsealed(folder)
    if not isinstance(folder.parts, FolderStore):
        return False
    changed = [*folder.parts.times().values(), *(path.stat().st_mtime_ns for path in folder.journal.glob("*.journal"))]
    return max(changed, default=0) <= folder.results.stat().st_mtime_ns


def assemble(folder: Folder, planned: pl.DataFrame | None = None) -> results_table.Assembled:
    """The table as it is now, also of a run that has not ended or was killed.

    ``planned`` says which answers belong to it, as for :func:`results_table.assemble`; without it that is found out.

    :raises FolderError: if there is no job in the folder, or a part is damaged.
    """
    job = job_of(folder)
    labels = [point.label for point in points(job)]
    unsealed = writer.unsealed(folder)
    # Only then can there be answers to requests that this job would send differently, and does not keep.
    if planned is None and job.job.on_change == "rerun":
        planned = _planned(job, folder, unsealed)
    return results_table.assemble(
        folder.parts,
        job.sweep.variables,
        labels,
        planned,
        places.ALL,
        unsealed.outcomes,
        declared(job.schemas),
        void=unsealed.void,
        updates=CarriedUpdates(folder.carried),
    )


def make_of_shards(folder: Folder) -> None:
    """Make the table of a folder whose shards have ended, if it is not there: none of them makes it. One in which something is at
    work is left alone. Blocks.

    :raises StorageError: if it cannot be written.
    """
    if not folder.shards() or has_all_answers(folder):
        return
    with contextlib.suppress(FolderBusy), folder.held():
        writer.recover(folder)
        table_files.write(folder, assemble(folder), as_folder=job_of(folder).job.results == "folder")


def _planned(job: Job, folder: Folder, unsealed: writer.Unsealed) -> pl.DataFrame | None:
    """Which answers belong to the job as it is; ``None`` if its input is not there to tell."""
    done = AnswerIndex(folder.parts, job.job.retry_failed, void=unsealed.void, pending=unsealed.outcomes)
    try:
        plan = plan_of(job)
        plan.know(folder, remember=False)
        plan.answered = done.holds
        for block in plan.blocks():
            done.sort_out(block)
    except (JobError, InputError, EndpointError):
        return None
    return done.planned()


def rows_of_table(folder: Folder) -> pl.DataFrame:
    """The key and the row number of each row of the table there is: parts may hold answers that the job has no place for."""
    tables = (pq.read_table(path, columns=["key", "row"]) for path in ResultsFiles(folder).paths)
    return part_index.head(pa.concat_tables(tables))


def last_answers(folder: Folder, labels: Sequence[str]) -> pl.DataFrame:
    """For the last answer to each request the number of its sweep point among ``labels``, of its part, and where it is there."""
    frames = [pl.DataFrame(schema=_LAST)]
    for part, frame in zip(
        part_files.part_numbers(folder.parts), part_index.read_keys(folder.parts, ["point"]), strict=True
    ):
        place = {"part": pl.lit(int(part), dtype=pl.Int64), "at": pl.int_range(pl.len(), dtype=pl.Int64)}
        frames.append(places.pointed(frame, labels).with_columns(**place))
    return part_index.last_of_each(pl.concat(frames))


def placed_rows(folder: Folder, labels: Sequence[str]) -> pl.DataFrame:
    """The answers that the table there is has, and where in it, as :func:`assemble` takes them."""
    last = last_answers(folder, labels)
    return rows_of_table(folder).join(last, on=["hi", "lo"], how="inner", maintain_order="left")
