"""From when on input files count: ``input.since``. For jobs with an output folder for each date."""

from __future__ import annotations

import contextlib
import datetime
from typing import NamedTuple

from .errors import FolderError, JobError
from .folder import Folder
from .inputs import Inputs
from .job import Job
from .retention import outputs
from .spans import moment_of


class From(NamedTuple):
    """Input files that were last changed at the moment ``at`` (ns since the epoch), or later, count. ``text`` is what the job
    says."""

    text: str
    at: int

    @property
    def told(self) -> str:
        return datetime.datetime.fromtimestamp(self.at / 1e9).astimezone().isoformat(sep=" ", timespec="seconds")


def since(job: Job) -> From | None:
    """From when on files count in this run; ``None`` if all do.

    Once a run has begun in a folder, what the same words meant then holds for it. ``"last"`` is the beginning of the last
    run that finished in a folder of another date.

    :raises JobError: if it is ``"last"``, and the job has but one folder.
    """
    text = job.input.since
    if text is None:
        return None
    before = Inputs(Folder(job.out)).since.get(text)
    if before is not None:
        return From(text, before)
    if text != "last":
        return From(text, int(1e9 * moment_of(text, datetime.datetime.now()).timestamp()))
    if job.dated is None:
        raise JobError(
            "input.since = 'last' goes by the folders of earlier dates, and this job has but one folder: give job.out a date "
            '("runs/{name}/{date}"), or leave since away: in one folder only what is new is asked in any case'
        )
    begun = [at for output in outputs(job) if output.path != job.out and (at := _began(Folder(output.path)))]
    return From(text, max(begun)) if begun else None


def _began(folder: Folder) -> int | None:
    """When the last run of a folder looked at its input, if it finished; in ns."""
    with contextlib.suppress(FolderError):
        if folder.read_state().get("status") == "finished":
            return Inputs(folder).looked_at
    return None
