"""Room on the disk: how much there is, how much a run will need, and how much is to be left alone."""

from __future__ import annotations

import os
from pathlib import Path

MB = 1 << 20
_LEFT_ALONE, _SHARE = 200 * MB, 20


def free(folder: Path) -> tuple[int, int] | None:
    """Bytes that may be written to the disk that a folder is on, or will be on, and the size of that disk. ``None`` if that
    cannot be told."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        told = os.statvfs(there)
    except OSError:
        return None
    if not told.f_blocks:  # some file systems do not say
        return None
    return told.f_bavail * told.f_frsize, told.f_blocks * told.f_frsize


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
