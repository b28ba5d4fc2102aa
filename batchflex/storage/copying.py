"""An output folder as a whole, copied to another place."""

from __future__ import annotations

import contextlib
import filecmp
import shutil
from pathlib import Path
from typing import NamedTuple

from ..core import FolderBusy, FolderError, StorageError
from . import remote_output
from .files import replaced, storing
from .output_folder import Folder


class Copied(NamedTuple):
    files: int
    bytes: int


def copy(source: Folder, target: Folder) -> Copied:
    """Copy all files of an output to a folder that is new, or has some of them already, as of a copy that was cut off. No run
    goes on in the source meanwhile.

    :raises FolderBusy: if one does.
    :raises FolderError: if the source is no output, or the target has something else.
    :raises StorageError: if a file cannot be written.
    """
    source.require()
    with source.held_if_free() as is_free:
        if not is_free:
            raise FolderBusy(f"a run holds {source.path}{source.holder()}; copy it when that has ended")
        files = remote_output.files_of(source.path)
        there = remote_output.files_of(target.path) if target.path.exists() else {}
        there.pop(target.format.name, None)  # every folder that was held has it
        for name in there:
            if name not in files or not filecmp.cmp(source.path / name, target.path / name, shallow=False):
                raise FolderError(
                    f"{target.path} has something else already, such as {name}; name a folder that is new"
                )
        for name, (size, _) in files.items():
            if name not in there:
                _copy(source.path / name, target.path / name, size)
    return Copied(len(files), sum(size for size, _ in files.values()))


def _copy(source: Path, target: Path, size: int) -> None:
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            shutil.copyfileobj(opened.enter_context(source.open("rb")), opened.enter_context(replaced(target)))
    if target.stat().st_size != size:
        raise StorageError(f"{source} changed while it was copied; copy it again")
