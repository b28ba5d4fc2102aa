"""The past runs of one or more output folders: those in ``history.jsonl``, and one that is not there yet."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..core import BatchflexError, FolderError, did_you_mean
from ..storage import Folder, HistoryLine, line_of_last

_DEEPEST = 4
_decode = msgspec.json.Decoder(HistoryLine).decode


class PastRun(NamedTuple):
    """``line`` is the run's line of JSON, ``entry`` what is read of it."""

    folder: Path
    entry: HistoryLine
    line: bytes


class History(NamedTuple):
    """Runs of all ``folders``, the oldest first. ``unreadable`` counts the lines that are no runs, where there are any."""

    folders: list[Path]
    runs: list[PastRun]
    unreadable: dict[Path, int]


def read(outs: Sequence[str]) -> History:
    """The history of output folders, folders of such, and patterns (``runs/nightly/*``) of either.

    :raises FolderError: if one of them is or holds none, or a history cannot be read.
    """
    found = History(list(dict.fromkeys(folder for out in outs for folder in _folders_of(out))), [], {})
    for path in found.folders:
        _add(found, Folder(path))
        for shard in Folder(path).shards().values():
            _add(found, shard)
    found.runs.sort(key=lambda run: run.entry.started_at)
    return found


def _folders_of(out: str) -> list[Path]:
    paths = [Path(out)]
    if glob.has_magic(out) and not paths[0].exists():
        paths = [Path(name) for name in sorted(glob.glob(out, recursive=True))]  # noqa: PTH207  absolute ones, too
    found = [folder for path in paths for folder in _within(path, _DEEPEST)]
    if not found:
        near = did_you_mean(out, of_run=True)
        raise FolderError(f"{out} is not the output folder of a run, and holds none{near}")
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


def _add(history: History, folder: Folder) -> None:
    """Add the runs of a folder; also the one that is going on, or that was killed and has no line yet."""
    runs: list[PastRun] = []
    try:
        with folder.history.open("rb") as stream:
            for line in filter(None, map(bytes.strip, stream)):
                try:
                    runs.append(PastRun(folder.path, _decode(line), line))
                except ValueError:  # torn, or put there by something else
                    history.unreadable[folder.path] = history.unreadable.get(folder.path, 0) + 1
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FolderError(f"{folder.history} cannot be read: {error.strerror or error}") from None
    history.runs.extend(runs)
    with contextlib.suppress(BatchflexError, ValueError):
        state = folder.read_state()
        if state.get("run_id") not in {run.entry.run_id for run in runs}:
            goes_on = state.get("status") == "running" and folder.is_held()
            line = msgspec.json.encode(state if goes_on else line_of_last(state))
            history.runs.append(PastRun(folder.path, _decode(line), line))
