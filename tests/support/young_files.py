"""Files that are old enough for their times to tell whether they have changed."""

from __future__ import annotations

import time
from pathlib import Path

from batchflex.core import TIMINGS

_MORE = 1.2  # than the least, so that what is looked at a moment later is old too


def aged(*paths: Path) -> None:
    """Wait until these files are no longer young."""
    newest_ns = max((path.stat().st_ctime_ns for path in paths), default=0)
    while (left_ns := newest_ns + 1e9 * _MORE * TIMINGS.young_file_s - time.time_ns()) > 0:
        time.sleep(left_ns / 1e9)
