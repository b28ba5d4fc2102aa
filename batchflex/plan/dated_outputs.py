"""From when on input files count: ``input.since``. For jobs with an output folder for each date."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config import Job, local, moment_of
from ..core import FolderError, JobError
from ..storage import Folder
from .manifest import Inputs
from .retention import outputs
from .source import Seen


@dataclasses.dataclass(frozen=True)
class From:
    """Input files that were last changed at the moment ``at`` (ns since the epoch), or later, count. ``text`` is what the job
    says.

    So do those that came to their place then, though their bytes are older (``mv``, ``cp -p``, ``rsync -t``), if ``earlier`` says
    which folders would know of them, and none of these does.
    """

    text: str
    at: int
    earlier: tuple[Path, ...] = ()

    @functools.cached_property
    def _inputs(self) -> dict[Path, Inputs]:
        return {path: Inputs(Folder(path)) for path in self.earlier}

    def counts(self, seen: Seen) -> bool:
        """Whether a file counts. The folders are read when a file first needs that."""
        if seen.modified >= self.at or seen.changed < self.at or not self.earlier:
            return seen.modified >= self.at
        return not any(inputs.has_read(seen) for inputs in self._inputs.values())

    def growth_notes(self, files: Sequence[Seen]) -> Iterator[str]:
        """A sentence for each of the files that count of which a folder has read a beginning."""
        for seen in files:
            read = next((path for path, inputs in self._inputs.items() if inputs.has_read_of(seen)), None)
            if read is not None:
                yield (
                    f"{Path(seen.path).name} was read in {read} and has grown since: with input.since it counts as a whole, "
                    "so the rows of then are asked and paid for again"
                )

    @property
    def moment(self) -> str:
        return local(self.at / 1e9)


def since(job: Job) -> From | None:
    """From when on files count in this run; ``None`` if all do.

    Once a run has begun in a folder, what the same words meant then holds for it. ``"last"`` is the beginning of the last
    run that finished in a folder of another date.

    :raises JobError: if it is ``"last"``, and the job has but one folder.
    """
    text = job.input.since
    if text is None:
        return None
    begun = _begun(job) if text == "last" else {}
    before = Inputs(Folder(job.out)).since.get(text)
    if before is not None:
        return From(text, before, tuple(begun))
    if text != "last":
        return From(text, int(1e9 * moment_of(text, datetime.datetime.now()).timestamp()))
    if job.dated is None:
        raise JobError(
            "input.since = 'last' goes by the folders of earlier dates, and this job has but one folder: give job.out a date "
            '("runs/{name}/{date}"), or leave since away: in one folder only what is new is asked in any case'
        )
    return From(text, max(begun.values()), tuple(begun)) if begun else None


def _begun(job: Job) -> dict[Path, int]:
    """When the last run looked at its input in each folder of another date in which it finished."""
    others = [output.path for output in outputs(job) if output.path != job.out]
    return {path: at for path in others if (at := _began(Folder(path)))}


def _began(folder: Folder) -> int | None:
    """When the last run of a folder looked at its input, if it finished; in ns."""
    with contextlib.suppress(FolderError):
        if folder.read_state().get("status") == "finished":
            return Inputs(folder).looked_at
    return None
