"""Room on the disk: how much there is, how much a run will need, and how much is to be left alone."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from . import part_numbers
from .output_folder import Folder

MB = 1_000_000
_LEFT_ALONE, _SHARE = 200 * MB, 20
_MEASURED_PARTS = 3  # for the size of a row
_ENVELOPE, _TOKEN = 1_200, 8  # bytes of a row beside its text, and of a token, which is in `content` and in `response`
_ZSTD = 3  # what that is divided by when it is compressed
_DOUBT_EVERY_S = 10.0


def free(folder: Path) -> tuple[int, int] | None:
    """Bytes that may be written to the disk that a folder is on, or will be on, and the size of that disk. ``None`` if that
    is not known."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        disk = os.statvfs(there)
    except OSError:
        return None
    if not disk.f_blocks:  # some file systems do not say
        return None
    return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def left_alone(wanted_mb: float | None, disk: int) -> int:
    """Bytes of a ``disk`` of this size that a run leaves free: what is wanted, else 200 MB, or a twentieth of a small disk.
    Pure."""
    return min(_LEFT_ALONE, disk // _SHARE) if wanted_mb is None else int(wanted_mb * MB)


def words(size: float) -> str:
    """A number of bytes for people. Pure."""
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1000
    return f"{size:,.1f} GB"


class Need(NamedTuple):
    """Bytes that a run will take: for the ``parts`` and the ``journal`` of the rows that are left, and for the table of
    ``results`` of all rows, which is made beside an older one. ``is_measured`` says that this is by rows that are there."""

    parts: int
    journal: int
    results: int
    is_measured: bool

    @property
    def total(self) -> int:
        return self.parts + self.journal + self.results


def need(left: int, done: int, row: float, results_row: float | None, journal: int, *, is_measured: bool) -> Need:
    """What ``left`` rows will take beside ``done`` ones, each of ``row`` bytes in a part and ``results_row`` in the table.
    Pure."""
    if not left:
        return Need(0, 0, 0, is_measured)
    parts = int(left * row)
    return Need(parts, min(journal, parts * _ZSTD), int((left + done) * (results_row or row)), is_measured)


def guessed_row(completion_tokens: float, carried: float = 0.0) -> float:
    """About how many bytes an answer of so many tokens takes in a part, with so many bytes carried along. Pure."""
    return (_ENVELOPE + _TOKEN * completion_tokens + carried) / _ZSTD


def needed(folder: Folder, left: int, done: int, guess: float | None, seal_mb: float) -> Need | None:
    """What a run will need, by the rows of the newest parts; else by a ``guess`` of the bytes of one; else ``None``."""
    rows = size = 0
    of_results = None
    if newest := list(part_numbers.part_sizes(folder.parts).items())[-_MEASURED_PARTS:]:
        from . import part_files
        from .table_files import ResultsFiles

        for number, of_part in newest:
            rows += part_files.key_values(folder.parts, number)[1]
            size += of_part
        there = ResultsFiles(folder)
        of_results = there.bytes / there.rows if there.rows else None
    row = size / rows if rows else guess
    if row is None:
        return None
    return need(left, done, row, of_results, 2 * int(seal_mb * 2**20), is_measured=rows > 0)


class Watch:
    """Looks at the disk of a run. Blocks, briefly."""

    def __init__(self, folder: Folder, min_free_mb: float | None, guess: float | None, seal_mb: float) -> None:
        self._folder, self._min_free_mb, self._guess, self._seal_mb = folder, min_free_mb, guess, seal_mb
        self._doubted = False
        self._due = 0.0

    def short(self) -> str | None:
        """A sentence, if the disk has so little room that the run is to stop."""
        there = free(self._folder.path)
        if there is None or there[0] >= (least := left_alone(self._min_free_mb, there[1])):
            return None
        return (
            f"the disk of {self._folder.path} has {words(there[0])} left, and the last {words(least)} are left alone "
            "(limits.min_free_disk_mb). What was answered is kept; free some space and run the same command again"
        )

    def doubt(self, left: int | None, done: int) -> str | None:
        """A sentence, once, if the room may not suffice for what is ``left``."""
        if self._doubted or left is None or time.monotonic() < self._due:
            return None
        self._due = time.monotonic() + _DOUBT_EVERY_S
        there, wanted = free(self._folder.path), needed(self._folder, left, done, self._guess, self._seal_mb)
        if there is None or wanted is None or wanted.total <= there[0] - left_alone(self._min_free_mb, there[1]):
            return None
        self._doubted = True
        about = "about" if wanted.is_measured else "up to about"
        return (
            f"the disk may fill up: what is left takes {about} {words(wanted.total)}, {words(wanted.results)} of it for "
            f"the table of results, and {words(there[0])} are free. If it does, the run stops and can be resumed"
        )
