"""When a schedule fires next, by the rules of the scheduler that keeps it, changes of the clock included. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim

from .cron_expression import Cron

Keeping = Literal["cron", "systemd", "literal"]
"""What becomes of times that a change of the clock leaves out, or has twice.

``cron``: with a set minute and hour, made up for at once, and run once; else as ``literal``. ``systemd``: left out, run once.
``literal``: left out, run twice, as Kubernetes does.
"""

# Clocks are not changed by more than this; cron takes a greater change for a correction.
_CHANGE = datetime.timedelta(hours=3)


def upcoming(
    crons: Iterable[Cron], zone: ZoneInfo, start: datetime.datetime, keeping: Keeping, count: int = 5
) -> list[datetime.datetime]:
    """The next ``count`` times after ``start`` (aware), in ``zone``; fewer if there are not as many in the next fifty years."""
    begin = start.astimezone(zone)
    found = {time for cron in crons for time in _of_one(cron, begin, keeping, count)}
    return [time.astimezone(zone) for time in sorted(found)[:count]]


def _of_one(cron: Cron, start: datetime.datetime, keeping: Keeping, count: int) -> set[datetime.datetime]:
    """All times, in UTC, until clocks can no longer have put another before the ``count``-th, and perhaps more."""
    found: set[datetime.datetime] = set()
    end: datetime.datetime | None = None
    for wall in CronSim(cron.text, start.replace(tzinfo=None, fold=0) - _CHANGE):
        if end is not None and wall > end:
            break
        kept = keeping if keeping != "cron" or cron.is_at_set_times else "literal"
        found |= {time.astimezone(datetime.UTC) for time in _instants(wall, start, kept)}
        if end is None and len(found) >= count:
            end = wall + _CHANGE
    return found


def _instants(wall: datetime.datetime, start: datetime.datetime, keeping: Keeping) -> list[datetime.datetime]:
    """When a scheduler that was started at ``start`` fires for a time on the wall."""
    first, second = (wall.replace(tzinfo=start.tzinfo, fold=fold) for fold in (0, 1))
    if not _exists(first):
        times = [_change(first)] if keeping == "cron" else []
    elif first.utcoffset() == second.utcoffset():
        times = [first]
    elif keeping == "literal":
        times = [first, second]
    elif keeping == "systemd" and start.fold and not _after(first, start):  # it was started between the two
        times = [second]
    else:
        times = [first]
    return [time for time in times if _after(time, start)]


def _after(time: datetime.datetime, start: datetime.datetime) -> bool:
    """In truth, and not by the wall, as two times of one zone are compared."""
    return time.astimezone(datetime.UTC) > start.astimezone(datetime.UTC)


def _exists(time: datetime.datetime) -> bool:
    return time.astimezone(datetime.UTC).astimezone(time.tzinfo).replace(tzinfo=None) == time.replace(tzinfo=None)


def _change(missing: datetime.datetime) -> datetime.datetime:
    """The moment at which the clock is put forward over ``missing``."""
    minute = datetime.timedelta(minutes=1)
    wall = missing.replace(fold=0)
    while not _exists(wall):
        wall += minute
    return wall
