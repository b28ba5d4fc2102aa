"""After a run: judges grade, scores are made. Nothing is sent to the model whose answers are scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio.to_thread

from ..config import Environment, Job, ScoreSection, build, environment_of
from ..core import BatchflexError, FolderError, JobError
from ..results import view
from ..scoring import ScoreSummary, functions, judge as judging, scores_file
from ..storage import Folder, ResultsFiles, ScoresFiles, shard_states
from .job_run import JobRun
from .run_result import Observer, Run

_FEW_ROWS = 20_000


class Evaluation(NamedTuple):
    """``summary`` is what ``scores.json`` holds; ``unfinished`` says why some judge did not come to its end."""

    summary: dict[str, Any]
    unfinished: str | None = None


def require(job: Job, *, is_retry: bool = False) -> None:
    """Check that what scores are made with is there, before anything is sent.

    :raises JobError: if a function of one's own is not there, a judge's job is not as it should be, or a baseline is none of the
        sweep points (but in a retry, whose job has run with that).
    """
    if not is_retry:
        scores_file.require_baselines(job, job.score)
    functions.load(job.score)
    for spec in job.score:
        if spec.kind == "judge":
            judging.job_of(job, spec, job.out)


async def evaluate(
    job: Job,
    out: Path,
    specs: Sequence[ScoreSection],
    observer: Observer | None = None,
    *,
    ask: bool = True,
    handle_signals: bool = False,
    folder: Folder | None = None,
) -> Evaluation:
    """Make the scores of an output folder, which is held meanwhile; by ``folder``, if that holds it already. Judges are
    asked for what they have not graded, if ``ask``.

    :raises JobError, FolderError, StorageError: as :func:`batchflex.scoring.scores_file.make`.
    """
    folder = folder or Folder(out)
    folder.require()
    with folder.held():
        if (there := await anyio.to_thread.run_sync(scores_file.current, folder, specs)) is not None:
            return Evaluation(there)
        judges, grades = [], {}
        for spec in specs if ResultsFiles(folder).exists else ():
            if spec.kind == "judge":
                judges.append(await _graded(job, folder, spec, observer, ask=ask, handle_signals=handle_signals))
                ask = ask and judges[-1]["stopped_by"] != "signal"
                grades[spec.name] = judging.grades(out, spec)
        made = await anyio.to_thread.run_sync(scores_file.make, folder, job, specs, grades, judges)
    stopped = [judge for judge in judges if judge["stopped_by"] is not None]
    return Evaluation(made, "\n".join(map(_unfinished, stopped)) or None)


async def again(folder: Folder) -> bool:
    """Make scores anew that are older than the results, by the folder's job, as they were made. Whether that was done: not where
    they are current, or another job file named them, or a judge, who is not asked here.

    :raises JobError, FolderError, StorageError: as :func:`evaluate`.
    """
    if not (ScoresFiles(folder).exists and ResultsFiles(folder).exists) or view.are_scored(folder):
        return False
    found, job = scores_file.read(folder), scored_job(folder)
    specs = None if found is None else scores_file.specs_of(found, job.score)
    if not specs:
        return False
    await evaluate(job, folder.path, specs)
    return True


def so_far(out: Path, specs: Sequence[ScoreSection] | None = None) -> dict[str, Any]:
    """The scores of what is answered in an output folder by now, whether a run goes on there or not: what ``scores.json`` holds
    but for ``results`` and ``made_by``, and ``planned`` rows beside it (``None`` if that is not known). By the job's own scores
    without ``specs``. Nothing is asked, written or held: of a judge it has the grades that there are. Blocks.

    :raises JobError: if there are no scores, or one cannot be made of these results.
    :raises FolderError: if there is no run in the folder, or nothing is answered yet.
    """
    folder = Folder(out)
    folder.require()
    job = scored_job(folder)
    specs = job.score if specs is None else specs
    if not specs:
        raise JobError(f"there is no [[score]] in {folder.job}; name scores, or a job file that has some")
    grades = {spec.name: judging.grades(out, spec) for spec in specs if spec.kind == "judge"}
    found = scores_file.so_far(folder, job, specs, grades)
    if not found["rows"]:
        raise FolderError(f"nothing is answered in {out} yet, so there is nothing to score")
    return ScoreSummary({**found, "judges": [], "planned": shard_states.state_of(folder).get("planned")})


def at_hand(folder: Folder, rows: int) -> dict[str, Any] | None:
    """The scores that a folder with so many rows has, if they are of its present results; else those so far (:func:`so_far`), if
    that takes no long time: of few rows, and without functions of one's own and judges. ``None`` if there are none. Blocks.

    :raises JobError, FolderError: as :func:`so_far`.
    """
    if view.is_current(folder) and view.are_scored(folder):
        return scores_file.read(folder)
    specs = [spec for spec in scored_job(folder).score if not spec.is_function and spec.kind != "judge"]
    return so_far(folder.path, specs) if specs and rows <= _FEW_ROWS else None


def scored_job(folder: Folder, settings: Sequence[tuple[str, Any]] = (), environment: Environment | None = None) -> Job:
    """The job whose answers are in a folder, for their scores; with this ``environment``, if it has a file.

    :raises JobError: if there is none yet.
    """
    data = folder.read_job()
    if data is None:
        raise JobError(f"{folder.path} has no job.toml: its run has not begun, or was refused")
    if environment is None or environment.file is None:
        environment = environment_of(data, [], Path(), lenient=True)
    return build(data, settings, environment=environment)


async def _graded(
    job: Job, folder: Folder, spec: ScoreSection, observer: Observer | None, *, ask: bool, handle_signals: bool
) -> dict[str, Any]:
    """Get the grades that are missing from one judge, and return its entry of ``judges`` in ``scores.json``."""
    asked = await anyio.to_thread.run_sync(judging.write_input, folder, spec)
    stopped_by, message = None, None
    if not ask:
        stopped_by, message = "run", "it is asked when the run has come to its end"
    elif asked:
        judge = judging.job_of(job, spec, folder.path)
        if observer is not None:
            observer.note(f"grading {asked:,} answers by the judge of '{spec.name}'")
        try:
            run = await JobRun(judge, observer=observer).run(handle_signals=handle_signals)
        except BatchflexError as error:  # before anything was sent
            stopped_by, message = "error", str(error)
        else:
            stopped_by, message = run.stopped_by, run.summary["message"]
    return judging.state(folder.path, spec, asked, stopped_by, message)


def _unfinished(judge: dict[str, Any]) -> str:
    missing = judge["asked"] - judge["graded"] - judge["unreadable"]
    return f"the judge of '{judge['name']}' was stopped by {judge['stopped_by']}, and {max(0, missing):,} grades are missing"


async def after(
    run: Run, folder: Folder, job: Job, observer: Observer | None = None, *, handle_signals: bool = False
) -> None:
    """Score what a run left, and put it into ``run``, errors too: the answers are kept all the same."""
    if not job.score or not ResultsFiles(folder).exists:
        return
    if run.stopped_by == "signal":
        run.unscored = f"the run was interrupted; `batchflex score {run.out}` scores what there is"
        return
    try:
        ask = run.stopped_by is None
        made = await evaluate(job, run.out, job.score, observer, ask=ask, handle_signals=handle_signals, folder=folder)
    except BatchflexError as error:
        run.unscored = f"the scores could not be made: {error}\nMend it, then: batchflex score {run.out}"
    else:
        run.scores, run.unscored = ScoreSummary(made.summary), made.unfinished
