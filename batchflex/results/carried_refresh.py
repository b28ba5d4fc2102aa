"""The results have carried columns as the input has them now: where that has changed since the last run, they are brought up to
date before they are read. Sends nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..config import Job
from ..core import BatchflexError, FolderError, InputError, JobError, SortedKeys, StorageError
from ..plan import (
    CarriedPass,
    CompletionMarker,
    Plan,
    PlanDiff,
    completion_marker,
    index_of,
    is_compared,
    keep_positions,
    recarried_note,
    survey,
)
from ..protocol import Policy
from ..storage import Folder, ResultsFiles, part_files, part_index, table_files, writer
from .live_table import assemble, has_all_answers, is_newest, job_here, make_of_shards, placed_rows, plan_of

_AS_THEY_WERE = "carried columns are as they were when the input was last read"


class Refreshed(NamedTuple):
    """``note`` says what has changed, ``warning`` why that could not be found out; ``None`` if there is nothing to say."""

    note: str | None = None
    warning: str | None = None


def refresh(folder: Folder, *, is_mine: bool = False) -> Refreshed:
    """Make the table of results anew if its input carries something else now. Where no input file has changed, none is read; else
    those that have are gone through once, and that is remembered. A folder that another run holds is left alone; ``is_mine`` says
    that the caller holds it. Blocks.

    :raises FolderError: if there is no run in the folder.
    """
    folder.require()
    make_of_shards(folder)
    try:
        job = job_here(folder)
    except (FolderError, JobError):  # whoever reads the results says so
        return Refreshed()
    if not job.input.carry or job.input.path is None or (not is_mine and folder.is_held()):
        return Refreshed()
    try:
        if _is_up_to_date(_found(job, folder, remember=False), folder):
            return Refreshed()
        with folder.held():
            return Refreshed(_made_anew(job, folder))
    except (FolderError, StorageError) as error:
        return Refreshed(warning=f"{_AS_THEY_WERE}: {error}")
    except BatchflexError as error:
        return Refreshed(warning=f"{_AS_THEY_WERE}, which cannot be done now: {error}")


def _found(job: Job, folder: Folder, *, remember: bool) -> Plan:
    """The plan of a job whose input is there.

    :raises InputError: if it is not, or the folder knows nothing of these files: elsewhere a relative path means other ones.
    """
    plan = plan_of(job)
    plan.know(folder, remember=remember)
    if not plan.is_of_known_files:
        raise InputError(
            f"{job.input.path} is not the input of the last run; relative paths are from the present folder"
        )
    return plan


def _is_up_to_date(plan: Plan, folder: Folder) -> bool:
    """Whether all answers carry what the input has: they were given to these very rows, or compared with them; and the table, if
    nothing else is newer, was made with that."""
    if not is_compared(plan.job, folder) or (has_all_answers(folder) and not is_newest(folder)):
        return False
    if plan.is_as_last:
        return True
    found = part_index.read_found(folder.positions)
    positions = part_index.Positions(plan.layout(part_index.files(folder.parts, found)), found)
    gone = SortedKeys(found.filter(found["file"] == 0))
    for part in part_index.read_keys(folder.parts, [name for name in positions.columns if name != "key"]):
        lost = positions.rows(part) < 0
        if lost.any() and (np.array(gone.find(part.filter(lost)), np.int64) < 0).any():
            return False
    return True


def _made_anew(job: Job, folder: Folder) -> str | None:
    """In a folder that is held: go through what has changed of the input, and make the table."""
    plan = _found(job, folder, remember=True)
    is_whole = has_all_answers(folder)
    known = completion_marker.last_marker(folder)
    writer.recover(folder, plan.carry_schema())
    done, _ = index_of(plan, folder, job.job.retry_failed, Policy())
    rows = done.finished(plan.per_item) if is_compared(job, folder) else b""
    passed = done.passed(rows, plan.per_item) if rows.count(1) else None
    with CarriedPass(folder, plan, done) as carried:
        diff, _ = survey(job, plan, done, passed, carried)
        if passed is not None and plan.is_in_doubt:
            raise FolderError("equal rows cannot be told apart without a run: batchflex run goes through all of them")
        keep_positions(folder, done, plan.layout())
        if job.job.on_change == "keep" and diff.changed:
            done.keep_changed()
            carried.note_kept(plan)
        changed = carried.keep()
    plan.begin()
    marker = _marker(job, plan, diff, done.statuses(), known, folder)
    # Rows that a run would ask anew, or drop, are its business: they stay as they are.
    placed = done.planned() if marker is not None else placed_rows(folder, plan.labels) if is_whole else None
    table = assemble(folder, placed)
    if marker is not None:
        table = table.with_metadata(completion_marker.metadata(marker))
    as_folder = job.job.results == "folder"
    if not ResultsFiles(folder).exists or not table_files.is_current(folder, table, as_folder=as_folder):
        table_files.write(folder, table, as_folder=as_folder)
    return recarried_note(changed) if changed else None


def _marker(
    job: Job, plan: Plan, diff: PlanDiff, statuses: dict[str, int], known: CompletionMarker | None, folder: Folder
) -> CompletionMarker | None:
    """That the job is finished, if it was and every request has its answer still: so the next run is done after reading that."""
    identity = plan.identity()
    if known is None or not known.is_complete or identity is None or diff.left or diff.orphans or not diff.planned:
        return None
    return CompletionMarker(identity, job.input.limit, diff.planned, part_files.identity(folder.parts), statuses)
