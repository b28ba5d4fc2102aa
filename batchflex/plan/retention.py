"""The output folders of a job that has one for each date: what is unfinished in the last, and which of the old ones go."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config import Job, dated_path
from ..core import FolderError
from ..storage import Folder, sync_folder

_GOING = ".going"  # ends the hidden name of a folder that is being removed


class Output(NamedTuple):
    """An output folder of a job. ``moment`` is the date in its name, ``status`` that of its last run."""

    path: Path
    moment: str
    status: str


class Choice(NamedTuple):
    """Of the folders that are too old, those that go and those that stay, for their last run did not finish."""

    go: list[Output]
    stay: list[Output]


def outputs(job: Job) -> list[Output]:
    """The folders that runs of this job made, the newest first; empty if the job has but one."""
    if job.dated is None:
        return []
    found = []
    for path in Path(job.dated.root).glob(job.dated.glob):
        moment = job.dated.moment_of(str(path))
        if moment is None or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(FolderError):  # not ours, as far as can be told
            state = Folder(path).read_state()
            if state.get("job") == job.job.name:
                found.append(Output(path, moment, str(state.get("status"))))
    return sorted(found, key=lambda output: output.moment, reverse=True)


def choose(found: Sequence[Output], keep: int, present: Path) -> Choice:
    """Which of the folders, the newest first, are beyond the ``keep`` newest. The ``present`` one never is."""
    old = [output for output in found[keep:] if output.path != present]
    return Choice([o for o in old if o.status == "finished"], [o for o in old if o.status != "finished"])


def left_behind(job: Job) -> str | None:
    """A sentence if the run of the last date before did not finish: this one will not go on with it."""
    if job.dated is None:
        return None
    here = job.dated.moment_of(str(job.out)) or ""
    last = next((output for output in outputs(job) if output.moment < here), None)
    if last is None or last.status == "finished":
        return None
    if Folder(last.path).is_held():
        return f"the run in {last.path} is still going on; this one has a folder of its own, {job.out}"
    spec = shlex.quote(job.spec) if job.spec else "JOB"
    return (
        f"the last run in {last.path} did not finish, and this one begins anew in {job.out}. "
        f"To finish that one, too: batchflex run {spec} --out {shlex.quote(str(last.path))}"
    )


def remove_old(job: Job, note: Callable[[str], None]) -> None:
    """Keep the ``job.keep_runs`` newest folders, and tell of those that went and those that should have. Blocks."""
    if job.dated is None or job.job.keep_runs is None:
        return
    _sweep_up(job.dated)
    choice = choose(outputs(job), job.job.keep_runs, job.out)
    gone = []
    for output in choice.go:
        try:
            if _remove(output.path, Path(job.dated.root)):
                gone.append(output.path)
        except OSError as error:
            note(f"{output.path} is older than job.keep_runs, but cannot be removed: {error.strerror or error}")
    if gone:
        note(f"removed, for the {job.job.keep_runs:,} newest are kept (job.keep_runs): {_listed(gone)}")
    if choice.stay:
        stay = [output.path for output in choice.stay]
        note(f"older than job.keep_runs, but kept, for the last run there did not finish: {_listed(stay)}")


def _remove(path: Path, root: Path) -> bool:
    """Remove a folder as a whole, unless somebody holds it: a name that is hidden first, so that no half of it is ever taken
    for all of it."""
    with Folder(path).held_if_free() as held:
        if not held or Folder(path).read_state().get("status") != "finished":
            return False
        going = path.with_name(f".{path.name}{_GOING}")
        path.rename(going)
        sync_folder(path.parent)
        shutil.rmtree(going)
    for parent in path.parents:
        if parent == root:
            break
        try:
            parent.rmdir()
        except OSError:  # something else is in it
            break
    return True


def _sweep_up(dated: dated_path.Dated) -> None:
    """Remove what is left of folders whose removal was cut off."""
    head, slash, last = dated.glob.rpartition("/")
    for going in Path(dated.root).glob(f"{head}{slash}.{last}{_GOING}"):
        name = going.name.removeprefix(".").removesuffix(_GOING)
        if dated.moment_of(str(going.with_name(name))) is not None and not going.is_symlink():
            shutil.rmtree(going, ignore_errors=True)


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(map(str, paths[:5]))
    return shown if len(paths) <= 5 else f"{shown} and {len(paths) - 5:,} more"
