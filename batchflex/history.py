"""What ``history.jsonl`` of one or more output folders tells, and what it does not tell yet."""

from __future__ import annotations

import datetime
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .attempts import line_of_last
from .errors import BatchflexError, FolderError
from .folder import Folder

_DEEPEST = 4


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What is used of a line. ``done`` is ``None`` if that run never began."""

    run_id: str
    status: str
    started_at: datetime.datetime
    updated_at: datetime.datetime | None = None
    finished_at: datetime.datetime | None = None
    stopped_by: str | None = None
    message: str | None = None
    first_failure: str | None = None
    exit_code: int | None = None
    done: int | None = None
    done_before: int = 0
    ok: int = 0
    truncated: int = 0
    filtered: int = 0
    invalid: int = 0
    failed: int = 0
    requests_sent: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    retry: dict[str, Any] | None = None


class Told(NamedTuple):
    """One run: ``line`` is all that is told of it, ``entry`` what is used of that."""

    folder: Path
    entry: Entry
    line: dict[str, Any]


class History(NamedTuple):
    """Runs of all ``folders``, the oldest first. ``unreadable`` counts the lines of each that are no runs."""

    folders: list[Path]
    runs: list[Told]
    unreadable: dict[Path, int]


def read(outs: Sequence[str]) -> History:
    """The history of output folders, folders of such, and patterns (``runs/nightly/*``) of either.

    :raises FolderError: if one of them is or holds none, or a history cannot be read.
    """
    folders = list(dict.fromkeys(folder for out in outs for folder in _folders_of(out)))
    runs: list[Told] = []
    unreadable: dict[Path, int] = {}
    for path in folders:
        found, torn = _of(Folder(path))
        runs += found
        if torn:
            unreadable[path] = torn
    runs.sort(key=lambda told: told.entry.started_at)
    return History(folders, runs, unreadable)


def _folders_of(out: str) -> list[Path]:
    paths = [Path(out)]
    if glob.has_magic(out) and not paths[0].exists():
        paths = [Path(name) for name in sorted(glob.glob(out, recursive=True))]  # noqa: PTH207  absolute ones, too
    found = [folder for path in paths for folder in _within(path, _DEEPEST)]
    if not found:
        raise FolderError(f"{out} is no output folder of a run, and holds none")
    return found


def _within(path: Path, deep: int) -> Iterator[Path]:
    """The folder itself if it is one of a run, else those in it. What lies in one (its judges') has a history of its own."""
    if Folder(path).exists() or Folder(path).history.exists():
        yield path
    elif deep and path.is_dir():
        with os.scandir(path) as inside:
            names = sorted(entry.name for entry in inside if entry.is_dir(follow_symlinks=False))
        for name in names:
            yield from _within(path / name, deep - 1)


def _of(folder: Folder) -> tuple[list[Told], int]:
    """The runs of a folder, and how many lines are none."""
    runs: list[Told] = []
    torn = 0
    for line in _lines(folder):
        if line is None:
            torn += 1
        else:
            runs.append(Told(folder.path, msgspec.convert(line, Entry, strict=False), line))
    if (last := _not_told(folder, {told.entry.run_id for told in runs})) is not None:
        runs.append(last)
    return runs, torn


def _lines(folder: Folder) -> Iterator[dict[str, Any] | None]:
    try:
        with folder.history.open("rb") as stream:
            yield from read_lines(stream)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FolderError(f"{folder.history} cannot be read: {error.strerror or error}") from None


def read_lines(raw: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """Each line that tells of a run; ``None`` for one that does not: torn, or put there by something else. Empty ones are passed
    over."""
    for text in raw:
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text)
            msgspec.convert(line, Entry, strict=False)
        except (msgspec.MsgspecError, ValueError):
            yield None
        else:
            yield line


def _not_told(folder: Folder, known: set[str]) -> Told | None:
    """The run that goes on, or that was killed and no other has told of."""
    try:
        state = folder.read_state()
    except BatchflexError:
        return None
    if state.get("run_id") in known:
        return None
    line = state if state.get("status") == "running" and folder.is_held() else line_of_last(state)
    try:
        return Told(folder.path, msgspec.convert(line, Entry, strict=False), line)
    except msgspec.ValidationError:
        return None
