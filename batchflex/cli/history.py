"""The past runs of one or more output folders: those in ``history.jsonl``, and one that is not there yet."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..core import BatchflexError, FolderError
from ..storage import Folder, HistoryLine, line_of_last

_DEEPEST = 4


_decode = msgspec.json.Decoder(HistoryLine).decode


class PastRun(NamedTuple):
    """``line`` is the run's line of JSON, ``entry`` what is read of it."""

    folder: Path
    entry: HistoryLine
    line: bytes


class History(NamedTuple):
    """Runs of all ``folders``, the oldest first. ``unreadable`` counts the lines of each that are no runs."""

    folders: list[Path]
    runs: list[PastRun]
    unreadable: dict[Path, int]


def read(outs: Sequence[str]) -> History:
    """The history of output folders, folders of such, and patterns (``runs/nightly/*``) of either.

    :raises FolderError: if one of them is or holds none, or a history cannot be read.
    """
    folders = list(dict.fromkeys(folder for out in outs for folder in _folders_of(out)))
    runs: list[PastRun] = []
    unreadable: dict[Path, int] = {}
    for path in folders:
        found, torn = _of(Folder(path))
        runs += found
        if torn:
            unreadable[path] = torn
    runs.sort(key=lambda run: run.entry.started_at)
    return History(folders, runs, unreadable)


def _folders_of(out: str) -> list[Path]:
    paths = [Path(out)]
    if glob.has_magic(out) and not paths[0].exists():
        paths = [Path(name) for name in sorted(glob.glob(out, recursive=True))]  # noqa: PTH207  absolute ones, too
    found = [folder for path in paths for folder in _within(path, _DEEPEST)]
    if not found:
        raise FolderError(f"{out} is not the output folder of a run, and holds none")
    return found


def _within(path: Path, deep: int) -> Iterator[Path]:
    """The folder itself if it is one of a run, else those in it. Its judges' runs have a history of their own."""
    if Folder(path).exists() or Folder(path).history.exists():
        yield path
    elif deep and path.is_dir():
        with os.scandir(path) as inside:
            names = sorted(entry.name for entry in inside if entry.is_dir(follow_symlinks=False))
        for name in names:
            yield from _within(path / name, deep - 1)


def _of(folder: Folder) -> tuple[list[PastRun], int]:
    """The runs of a folder, and how many lines are none."""
    runs: list[PastRun] = []
    torn = 0
    try:
        with folder.history.open("rb") as stream:
            for line in stream:
                if not line.strip():
                    continue
                if (run := _past_run(folder, line)) is not None:
                    runs.append(run)
                else:
                    torn += 1
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FolderError(f"{folder.history} cannot be read: {error.strerror or error}") from None
    if (last := _unrecorded(folder, {run.entry.run_id for run in runs})) is not None:
        runs.append(last)
    return runs, torn


def _past_run(folder: Folder, line: bytes) -> PastRun | None:
    """``None`` if the line is not of a run: it is torn, or was put there by something else."""
    try:
        return PastRun(folder.path, _decode(line), line.strip())
    except ValueError:
        return None


def _unrecorded(folder: Folder, known: set[str]) -> PastRun | None:
    """The run that is going on, or that was killed and has no line yet."""
    try:
        state = folder.read_state()
    except BatchflexError:
        return None
    if state.get("run_id") in known:
        return None
    goes_on = state.get("status") == "running" and folder.is_held()
    return _past_run(folder, msgspec.json.encode(state if goes_on else line_of_last(state)))
