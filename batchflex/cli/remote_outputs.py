"""Outputs in buckets that a command names: their copies on this machine, before the command and after it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import FolderBusy
from . import output

if TYPE_CHECKING:
    from ..config import Job

_NAMES = ("out", "outs", "other")
_OF_A_JOB = ("run", "plan", "check", "doctor", "schedule", "init")  # there --out is of the job, which has its own way
_CHANGES_IT = ("compact",)
_ADDS_TO_IT = ("score", "report")


@contextlib.contextmanager
def at_hand(options: argparse.Namespace) -> Iterator[None]:
    """Put the paths of up-to-date copies in place of the URLs in ``options``, and upload what the block has changed in them.

    :raises FolderBusy: if the command changes answers, and another machine holds the output.
    """
    if options.verb in _OF_A_JOB:
        yield
        return
    copies: dict[Path, str | None] = {}
    for name in _NAMES:
        given = getattr(options, name, None)
        if isinstance(given, list):
            setattr(options, name, [str(_copy(each, copies)) for each in given])
        elif given is not None:
            copy = _copy(given, copies)
            setattr(options, name, str(copy) if options.verb == "compare" else copy)  # where a sweep point may follow
    if not copies:
        yield
        return
    from ..storage import Folder, remote_output

    held = []
    for path, url in copies.items():
        folder = Folder(path)
        if (remote := remote_output.of(folder, url)) is None:
            continue
        is_target = options.verb == "copy" and path == options.other
        if not is_target:
            remote.refresh()
        if options.verb not in (*_CHANGES_IT, *_ADDS_TO_IT) and not is_target:
            continue
        try:
            with folder.held():
                remote.acquire(output.say)
        except FolderBusy as error:
            if options.verb in _CHANGES_IT or is_target:
                raise
            output.say(f"batchflex: {error}. What is made here is not uploaded")
        else:
            held.append((folder, remote))
    yield
    for folder, remote in held:
        with folder.held():
            remote.end()


def _copy(given: str | Path, copies: dict[Path, str | None]) -> str | Path:
    from ..core import FolderError, bucket_fault, copy_of, is_bucket
    from ..storage import Folder

    text = str(given)
    if is_bucket(text):
        if fault := bucket_fault(text):
            raise FolderError(f"{text}: {fault}")
        copies[copy_of(text)] = text.rstrip("/")
        return copy_of(text)
    if Folder(Path(text)).is_copy:
        copies[Path(text)] = None
    return given


def upload(path: Path, job: Job) -> None:
    """Upload what was written into the copy of an output after the run of its job has ended, as its report."""
    from ..storage import Folder, remote_output

    folder = Folder(path)
    if (remote := remote_output.of(folder, job.bucket, job.storage)) is not None:
        with folder.held(), remote.written():
            pass
