"""Durations, deadlines and hours of the day, as people write them. Pure: the current time is passed in."""

from __future__ import annotations

import datetime
import re
from typing import Annotated

from .fields import refusing, wanted

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_DAYS, _LONGEST_AGE_DAYS = 3_650, 36_500
_YEARS = range(1970, 2201)
_TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


def parse_duration(text: str | float, most_days: int = _LONGEST_DAYS) -> float:
    """Seconds in ``"90"``, ``"30s"``, ``"15m"``, ``"2h"``, ``"1d"`` or sums like ``"1h30m"``.

    :raises ValueError: if it is none of these, not positive, or more than ``most_days``.
    """
    plain = re.fullmatch(r"\d+(\.\d+)?", text) if isinstance(text, str) else not isinstance(text, bool)
    if plain:
        try:
            seconds = float(text)
        except (OverflowError, TypeError):
            raise ValueError(f"{text!r:.80} is no duration") from None
    elif isinstance(text, str) and re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        seconds = sum(float(n) * _UNITS[u] for n, _, u in re.findall(r"(\d+(\.\d+)?)([smhd])", text))
    else:
        raise ValueError(f"{text!r:.80} is no duration; write for example '30s', '15m', '2h' or '1h30m'")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"a duration must be more than 0 and finite; found {text!r:.80}")
    if seconds > most_days * _UNITS["d"]:  # the calendar ends somewhere, and nobody waits so long
        raise ValueError(f"a duration is {most_days:,} days at most; found {text!r:.80}")
    return seconds


def parse_age(text: str) -> float:
    """Seconds as :func:`parse_duration`, but a unit is required: people who write ``"30"`` for an age mean days.

    :raises ValueError: as there, without a unit, and only if it is more than 36,500 days.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError(f"{text!r} has no unit; write for example '{text}d' for days or '{text}h' for hours")
    return parse_duration(text, _LONGEST_AGE_DAYS)


def deadline_s(value: str | float, now: datetime.datetime) -> float:
    """Seconds from ``now`` until a deadline: a duration, or the next time it is a time of day such as ``"06:30"``.

    A time of day is in ``now``'s time zone, or the machine's if it has none; the time that it is right now means tomorrow.

    :raises ValueError: if it is neither.
    """
    if not isinstance(value, str) or not (match := _TIME_OF_DAY.fullmatch(value)):
        return parse_duration(value)
    then = now.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
    if then <= now:
        then += datetime.timedelta(days=1)
    # Through the epoch, because a day on which clocks change does not have 24 hours.
    return then.timestamp() - now.timestamp()


def moment_of(value: str, now: datetime.datetime) -> datetime.datetime:
    """A moment in the past: a duration before ``now``, or a date or time in ISO 8601. Without a time zone it is in that of
    ``now``, or in the machine's if ``now`` has none.

    :raises ValueError: if it is neither, or not of the years 1970 to 2200.
    """
    found = _moment(value)
    if found is None:
        return now - datetime.timedelta(seconds=parse_age(value))
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)


def _moment(value: str) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    if found.year not in _YEARS:
        raise ValueError(f"{value!r:.80} is not of the years {_YEARS[0]} to {_YEARS[-1]}")
    return found


_HOURS = re.compile(rf"{_TIME_OF_DAY.pattern}-{_TIME_OF_DAY.pattern}")


def until_change_s(hours: str, now: datetime.datetime) -> tuple[bool, float]:
    """Whether ``now`` is within hours such as ``"22:00-06:00"``, and the seconds until that changes.

    In ``now``'s time zone, as :func:`deadline_s`.

    :raises ValueError: if they are no hours.
    """
    _check_hours(hours)
    begin, end = hours.split("-")
    until_begin, until_end = deadline_s(begin, now), deadline_s(end, now)
    first, last, moment = (_minutes(text) for text in (begin, end, f"{now.hour}:{now.minute:02}"))
    active = first <= moment < last if first < last else not last <= moment < first
    return active, until_end if active else until_begin


def _minutes(time_of_day: str) -> int:
    hours, minutes = time_of_day.split(":")
    return 60 * int(hours) + int(minutes)


# ------------------------------------------------------------------------------------------------- fields of a job


def _check_deadline(value: str | float) -> None:
    if not isinstance(value, str) or not _TIME_OF_DAY.fullmatch(value):
        parse_duration(value)


def _check_since(value: str) -> None:
    if value != "last" and _moment(value) is None:
        parse_age(value)


def _check_hours(value: str) -> None:
    match = _HOURS.fullmatch(value)
    if not match or match.group(1, 2) == match.group(3, 4):
        raise ValueError(f"{value!r:.80} are no hours; write for example '22:00-06:00'")


_DURATION = "a duration such as '30s', '15m', '2h' or '1h30m' (3,650 days at most)"
Duration = Annotated[str | float, refusing(parse_duration), wanted(_DURATION)]
Deadline = Annotated[str | float, refusing(_check_deadline), wanted(f"{_DURATION}, or a time of day such as '06:30'")]
Since = Annotated[
    str,
    refusing(_check_since),
    wanted(
        "a duration such as '24h' (36,500 days at most), a date or a time of the years 1970 to 2200 such as '2026-01-31' or "
        "'2026-01-31T02:00', or 'last'"
    ),
]
Hours = Annotated[str, refusing(_check_hours), wanted("hours of the day such as '22:00-06:00'")]
