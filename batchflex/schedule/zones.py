"""Time zones by name, and how far two of them are apart."""

from __future__ import annotations

import datetime
import zoneinfo
from pathlib import Path

from ..core import JobError, nearest


def zone(name: str) -> zoneinfo.ZoneInfo:
    """:raises JobError: if there is none of this name."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        if not known:
            raise JobError("this machine knows no time zones; install the package tzdata") from None
        near = nearest(name, known)
        raise JobError(
            f"there is no time zone {name!r:.60}; "
            + (f"did you mean {near}?" if near else "write one such as Europe/Berlin")
        ) from None


def zone_of_machine(etc: Path = Path("/etc")) -> str:
    """The name of the zone that the machine's services use, whatever ``TZ`` is set to here.

    :raises JobError: if its name cannot be found.
    """
    localtime, timezone = etc / "localtime", etc / "timezone"
    if not localtime.exists():
        return "UTC"
    if localtime.is_symlink():
        _, found, name = str(localtime.resolve()).rpartition("zoneinfo/")
        if found:
            return name
    try:
        name = timezone.read_text().strip()
        zone(name)
    except (OSError, JobError, UnicodeDecodeError):
        raise JobError(f"{localtime} does not contain the name of the machine's time zone; name it with --tz") from None
    return name


def differences(one: zoneinfo.ZoneInfo, other: zoneinfo.ZoneInfo, start: datetime.datetime) -> set[int]:
    """By how many minutes ``one`` is ahead of ``other``, at any time in the two years after ``start``."""
    hours = (start.astimezone(datetime.UTC) + datetime.timedelta(hours=n) for n in range(2 * 366 * 24))
    return {int((_offset(one, hour) - _offset(other, hour)).total_seconds()) // 60 for hour in hours}


def _offset(zone: zoneinfo.ZoneInfo, time: datetime.datetime) -> datetime.timedelta:
    return time.astimezone(zone).utcoffset() or datetime.timedelta()
