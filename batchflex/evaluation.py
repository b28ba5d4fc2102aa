"""After a run: judges are asked, scores are made. The first model is never asked again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio.to_thread

from . import functions, scores
from .errors import BatchflexError
from .folder import Folder
from .job import Job
from .runner import Observer, Run
from .scorespec import ScoreSection


class Evaluation(NamedTuple):
    """``summary`` is what ``scores.json`` holds; ``unfinished`` says why some judge did not come to its end."""

    summary: dict[str, Any]
    unfinished: str | None = None


def require(job: Job) -> None:
    """See that what scores are made with is there, before anything is sent.

    :raises JobError: if a function of one's own is not there, or a rubric is no template.
    """
    functions.load(job.score)


async def evaluate(job: Job, out: Path, specs: Sequence[ScoreSection], observer: Observer | None = None) -> Evaluation:
    """Make the scores of an output folder, which is held meanwhile.

    :raises JobError, FolderError, StorageError: as :func:`batchflex.scores.make`.
    """
    folder = Folder(out)
    folder.require()
    with folder.held():
        if (there := await anyio.to_thread.run_sync(scores.current, folder, specs)) is not None:
            return Evaluation(there)
        return Evaluation(await anyio.to_thread.run_sync(scores.make, folder, job, specs))


async def after(run: Run, job: Job, observer: Observer | None = None) -> None:
    """Score what a run left, and put it into ``run``. What goes wrong is told there: the answers are kept all the same."""
    if not job.score or not (run.out / "results.parquet").exists():
        return
    if run.stopped_by == "signal":
        run.unscored = f"the run was interrupted; `batchflex score {run.out}` scores what there is"
        return
    try:
        made = await evaluate(job, run.out, job.score, observer)
    except BatchflexError as error:
        run.unscored = f"the scores could not be made: {error}\nMend it, then: batchflex score {run.out}"
    else:
        run.scores, run.unscored = made.summary, made.unfinished
