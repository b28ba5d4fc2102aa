"""Durations, deadlines and hours of the day, also in nights in which clocks are changed."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.config.durations import deadline_s, parse_duration, until_change_s
from batchflex.config.loader import build
from batchflex.core.errors import JobError

# The machine may be busy with other tests.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOUR = 3600.0


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# ------------------------------------------------------------------------------------------------------------ durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), (90, 90), (1.5, 1.5), ("30s", 30), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1h30m", 5400),
        ("0.5h", 1800),
    ],
)  # fmt: skip
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert build({"limits": {"max_outage": text}}).limits.max_outage == text


@pytest.mark.parametrize(
    "text", ["", "h", "2 h", "-1", 0, -1, "0s", True, float("nan"), float("inf"), "9" * 400, "06:30"]
)
def test_no_duration(text: str | float) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
    with pytest.raises(JobError, match="max_outage"):
        build({"limits": {"max_outage": text}})


# ------------------------------------------------------------------------------------------------------------ deadlines


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("value", "now", "hours"),
    [
        ("2h", datetime.datetime(2026, 1, 5, 22, 0), 2),
        ("06:30", datetime.datetime(2026, 1, 5, 22, 0), 8.5),
        ("6:30", datetime.datetime(2026, 1, 5, 6, 0), 0.5),
        ("06:30", datetime.datetime(2026, 1, 5, 6, 30), 24),
        ("06:30", datetime.datetime(2026, 12, 31, 7, 30), 23),
        ("06:30", datetime.datetime(2026, 3, 28, 22, 30), 7),  # the night in which an hour is missing
        ("06:30", datetime.datetime(2026, 10, 24, 22, 30), 9),  # the night that has one more
        ("00:00", datetime.datetime(2026, 1, 5, 23, 0, tzinfo=datetime.UTC), 1),
    ],
)
def test_deadlines(value: str, now: datetime.datetime, hours: float) -> None:
    assert build({"limits": {"deadline": value}}).limits.deadline == value
    assert deadline_s(value, now) == hours * HOUR


@pytest.mark.parametrize("value", ["24:00", "12:60", "noon"])
def test_no_deadline(value: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        deadline_s(value, datetime.datetime(2026, 1, 5))
    with pytest.raises(JobError, match="deadline"):
        build({"limits": {"deadline": value}})


# --------------------------------------------------------------------------------------------------------- active hours


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("hours", "now", "active", "change_h"),
    [
        ("08:00-18:00", "2026-01-05 07:30", False, 0.5),
        ("08:00-18:00", "2026-01-05 08:00", True, 10),
        ("08:00-18:00", "2026-01-05 17:59:59", True, 1 / 3600),
        ("08:00-18:00", "2026-01-05 18:00", False, 14),
        ("8:00-18:00", "2026-12-31 20:00", False, 12),
        ("22:00-06:00", "2026-01-05 21:00", False, 1),
        ("22:00-06:00", "2026-01-05 22:00", True, 8),
        ("22:00-06:00", "2026-01-06 00:00", True, 6),
        ("22:00-06:00", "2026-01-06 05:30", True, 0.5),
        ("22:00-06:00", "2026-01-06 06:00", False, 16),
        ("00:00-06:00", "2026-01-05 23:00", False, 1),
        ("18:00-00:00", "2026-01-05 23:00", True, 1),
        ("18:00-00:00", "2026-01-06 00:00", False, 18),
        # The night in which an hour is missing.
        ("22:00-06:00", "2026-03-28 21:00", False, 1),
        ("22:00-06:00", "2026-03-28 22:00", True, 7),
        ("22:00-06:00", "2026-03-29 01:59", True, 3 + 1 / 60),
        ("22:00-06:00", "2026-03-29 03:00", True, 3),
        ("06:00-22:00", "2026-03-28 23:00", False, 6),
        # The night that has one more.
        ("22:00-06:00", "2026-10-24 22:00", True, 9),
        ("06:00-22:00", "2026-10-24 23:00", False, 8),
    ],
)
def test_hours(hours: str, now: str, active: bool, change_h: float) -> None:
    assert build({"limits": {"active_hours": hours}}).limits.active_hours == hours
    assert until_change_s(hours, datetime.datetime.fromisoformat(now)) == (active, pytest.approx(change_h * HOUR))


@pytest.mark.usefixtures("in_berlin")
def test_the_hour_that_comes_twice_is_told_apart() -> None:
    first = datetime.datetime(2026, 10, 25, 2, 30)
    assert until_change_s("22:00-06:00", first) == (True, 4.5 * HOUR)
    assert until_change_s("22:00-06:00", first.replace(fold=1)) == (True, 3.5 * HOUR)


def test_hours_are_of_the_time_zone_of_now() -> None:
    utc = datetime.datetime(2026, 7, 1, 21, 0, tzinfo=datetime.UTC)
    assert until_change_s("22:00-06:00", utc) == (False, 1 * HOUR)
    assert until_change_s("22:00-06:00", utc.astimezone(datetime.timezone(datetime.timedelta(hours=2)))) == (
        True,
        7 * HOUR,
    )


MINUTES = st.integers(0, 24 * 60 - 1)


@unhurried
@given(begin=MINUTES, end=MINUTES, now=st.datetimes(datetime.datetime(2026, 1, 1), datetime.datetime(2027, 1, 1)))
def test_it_changes_exactly_when_it_says(begin: int, end: int, now: datetime.datetime) -> None:
    now = now.replace(tzinfo=datetime.UTC)
    hours = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    if begin == end:
        with pytest.raises(ValueError, match="are no hours"):
            until_change_s(hours, now)
        return
    active, change_s = until_change_s(hours, now)
    minute = now.hour * 60 + now.minute
    assert active == (begin <= minute < end if begin < end else not end <= minute < begin)
    change = now + datetime.timedelta(seconds=change_s)
    assert 0 < change_s <= 24 * HOUR
    assert until_change_s(hours, change)[0] is not active
    assert until_change_s(hours, change - datetime.timedelta(microseconds=1))[0] is active


@pytest.mark.parametrize(
    "hours", ["", "22:00", "22:00-", "22-06", "24:00-06:00", "22:00-06:60", "06:00-06:00", "06:00 - 22:00", "a-b"]
)
def test_no_hours(hours: str) -> None:
    with pytest.raises(ValueError, match="hours"):
        until_change_s(hours, datetime.datetime(2026, 1, 5))
    with pytest.raises(JobError, match="active_hours"):
        build({"limits": {"active_hours": hours}})
