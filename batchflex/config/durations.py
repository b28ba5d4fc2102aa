"""Durations, deadlines and hours of the day, as people write them. Pure: the current time is passed in."""

from __future__ import annotations

import datetime
import re
from functools import partial
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
    try:
        found = datetime.datetime.fromisoformat(value)
    except ValueError:
        return now - datetime.timedelta(seconds=parse_age(value))
    if found.year not in _YEARS:
        raise ValueError(f"{value!r:.80} is not of the years {_YEARS[0]} to {_YEARS[-1]}")
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)


_HOURS = re.compile(rf"{_TIME_OF_DAY.pattern}-{_TIME_OF_DAY.pattern}")


def until_change_s(hours: str, now: datetime.datetime) -> tuple[bool, float]:
    """Whether ``now`` is within hours such as ``"22:00-06:00"``, and the seconds until that changes.

    In ``now``'s time zone, as :func:`deadline_s`.

    :raises ValueError: if they are no hours.
    """
    match = _HOURS.fullmatch(hours)
    if not match or match.group(1, 2) == match.group(3, 4):
        raise ValueError(f"{hours!r:.80} are no hours; write for example '22:00-06:00'")
    begin, end = (datetime.time(int(match[n]), int(match[n + 1])) for n in (1, 3))
    is_within = begin <= now.time() < end if begin < end else not end <= now.time() < begin
    return is_within, deadline_s(hours.split("-")[is_within], now)


# ------------------------------------------------------------------------------------------------- fields of a job

_ANY_MOMENT = datetime.datetime(2000, 1, 1)
_DURATION = "a duration such as '30s', '15m', '2h' or '1h30m' (3,650 days at most)"
Duration = Annotated[str | float, refusing(parse_duration), wanted(_DURATION)]
Deadline = Annotated[
    str | float,
    refusing(partial(deadline_s, now=_ANY_MOMENT)),
    wanted(f"{_DURATION}, or a time of day such as '06:30'"),
]
Since = Annotated[
    str,
    refusing(lambda value: value == "last" or moment_of(value, _ANY_MOMENT)),
    wanted(
        "a duration such as '24h' (36,500 days at most), a date or a time of the years 1970 to 2200 such as '2026-01-31' or "
        "'2026-01-31T02:00', or 'last'"
    ),
]
Hours = Annotated[
    str, refusing(partial(until_change_s, now=_ANY_MOMENT)), wanted("hours of the day such as '22:00-06:00'")
]
