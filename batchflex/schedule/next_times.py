"""When a schedule fires next, as its scheduler handles changes of the clock. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim

from .cron_expression import Cron

ClockRule = Literal["cron", "systemd", "literal"]
"""What happens with times that a change of the clock skips, or repeats.

``cron``: with a fixed minute and hour, skipped times run at once, and repeated ones run once; else as ``literal``. ``systemd``:
skipped ones do not run, repeated ones run once. ``literal``: skipped ones do not run, repeated ones run twice, as in Kubernetes.
"""

# Clocks do not change by more than this; cron takes a greater change for a correction.
_CHANGE = datetime.timedelta(hours=3)


def upcoming(
    crons: Iterable[Cron], zone: ZoneInfo, start: datetime.datetime, rule: ClockRule, count: int = 5
) -> list[datetime.datetime]:
    """The next ``count`` times after ``start`` (aware), in ``zone``; fewer if there are not as many in the next fifty years."""
    begin = start.astimezone(zone)
    found = {time for cron in crons for time in _of_one(cron, begin, rule, count)}
    return [time.astimezone(zone) for time in sorted(found)[:count]]


def _of_one(cron: Cron, start: datetime.datetime, rule: ClockRule, count: int) -> set[datetime.datetime]:
    """All times, in UTC, until no change of a clock can put another one before the ``count``-th; perhaps more."""
    found: set[datetime.datetime] = set()
    end: datetime.datetime | None = None
    for wall in CronSim(cron.text, start.replace(tzinfo=None, fold=0) - _CHANGE):
        if end is not None and wall > end:
            break
        kept = rule if rule != "cron" or cron.is_at_set_times else "literal"
        found |= {time.astimezone(datetime.UTC) for time in _instants(wall, start, kept)}
        if end is None and len(found) >= count:
            end = wall + _CHANGE
    return found


def _instants(wall: datetime.datetime, start: datetime.datetime, rule: ClockRule) -> list[datetime.datetime]:
    """When a scheduler that was started at ``start`` fires for a wall-clock time."""
    first, second = (wall.replace(tzinfo=start.tzinfo, fold=fold) for fold in (0, 1))
    if not _exists(first):
        times = [_change(first)] if rule == "cron" else []
    elif first.utcoffset() == second.utcoffset():
        times = [first]
    elif rule == "literal":
        times = [first, second]
    elif rule == "systemd" and start.fold and not _after(first, start):  # it was started between the two
        times = [second]
    else:
        times = [first]
    return [time for time in times if _after(time, start)]


def _after(time: datetime.datetime, start: datetime.datetime) -> bool:
    """In UTC: two times of one zone are compared by the wall clock."""
    return time.astimezone(datetime.UTC) > start.astimezone(datetime.UTC)


def _exists(time: datetime.datetime) -> bool:
    return time.astimezone(datetime.UTC).astimezone(time.tzinfo).replace(tzinfo=None) == time.replace(tzinfo=None)


def _change(missing: datetime.datetime) -> datetime.datetime:
    """The moment at which the clock skips over ``missing``."""
    minute = datetime.timedelta(minutes=1)
    wall = missing.replace(fold=0)
    while not _exists(wall):
        wall += minute
    return wall
