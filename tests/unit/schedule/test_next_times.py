"""Cron expressions, and when they fire next: against croniter, and systemd's own calendar where it is installed."""

from __future__ import annotations

import datetime
import random
import re
import shutil
import subprocess
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from batchflex.core.errors import JobError
from batchflex.schedule import zones
from batchflex.schedule.cron_expression import FIELDS, NICKNAMES, Field, at, parse
from batchflex.schedule.next_times import ClockRule, upcoming
from batchflex.schedule.systemd import calendar

UTC = datetime.UTC

# ------------------------------------------------------------------------------------------------------ expressions


@pytest.mark.parametrize(
    ("text", "field", "numbers"),
    [
        ("*/20 * * * *", "minutes", {0, 20, 40}),
        ("5,10-12,30-40/5 * * * *", "minutes", {5, 10, 11, 12, 30, 35, 40}),
        ("0 */9 * * *", "hours", {0, 9, 18}),
        ("0 0 1,31 * *", "days", {1, 31}),
        ("0 0 * Jan,MAR-may *", "months", {1, 3, 4, 5}),
        ("0 0 * * sun,Tue-THU", "weekdays", {0, 2, 3, 4}),
        ("0 0 * * 5-7", "weekdays", {0, 5, 6}),
        ("0 0 * * */7", "weekdays", {0}),
        ("@weekly", "weekdays", {0}),
    ],
)
def test_a_field_is_understood(text: str, field: str, numbers: set[int]) -> None:
    assert getattr(parse(text), field) == numbers


def test_days_fit_both_or_either() -> None:
    assert not parse("0 0 1 * 1").both
    assert parse("0 0 * * 1").both
    assert parse("0 0 */2 * 1").both  # it begins with a star
    assert not parse("0 0 1-31/2 * 1").both


def test_the_nicknames_are_what_they_stand_for() -> None:
    for nickname, text in NICKNAMES.items():
        assert parse(nickname) == parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "five fields .* found 0"),
        ("0 2 * *", "five fields .* found 4"),
        ("0 0 2 * * 1", "found 6 .* none for seconds"),
        ("@reboot", "@reboot is no time"),
        ("@nightly", "knows no '@nightly'; it knows @yearly"),
        ("60 2 * * *", "'60' is no minute: 60 is not from 0 to 59"),
        ("0 24 * * *", "24 is not from 0 to 23"),
        ("0 0 0 * *", "0 is not from 1 to 31"),
        ("0 0 * * 8", "8 is not from 0 to 7"),
        ("0 0 * janu *", "'janu' is no number from 1 to 12 or jan to dec"),
        ("0 0 ? * 1", r"no '\?'; write \*"),
        ("0 0 L * *", "no 'L', 'W' and '#'"),
        ("0 0 15W * *", "no 'L', 'W' and '#'"),
        ("0 0 * * 5#2", "no 'L', 'W' and '#'"),
        ("0 0 * * fri-mon", "runs backwards; write fri-6,0-mon"),
        ("0 0 * * fri-sun", "Sunday is 0 and begins the week; write fri-7"),
        ("50-10 * * * *", "write 50-59,0-10"),
        ("0 0 * * 7-2", "write 7,0-2"),
        ("59-3 * * * *", "write 59,0-3"),
        ("5/15 * * * *", "a step follows a range; write 5-59/15"),
        ("5-5/15 * * * *", "goes nowhere; write 5"),
        ("*/0 * * * *", "a step of 0 goes nowhere"),
        ("1,,2 * * * *", "is no minute; write a number"),
        ("-5 * * * *", "is no minute; write a number"),
        ("٣ * * * *", "is no minute; write a number"),
        ("0 0 30 2 *", "never comes: no such month has a day 30"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("0 0 30 2 */2", "never comes"),
    ],
)
def test_what_is_none_is_refused_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(JobError, match=told):
        parse(text)


def test_a_day_that_comes_seldom_or_by_its_weekday_is_none_of_these() -> None:
    assert parse("0 0 29 2 *").days == {29}
    assert parse("0 0 30 2 1").weekdays == {1}


def test_times_of_the_day() -> None:
    assert [cron.text for cron in at("02:00")] == ["0 2 * * *"]
    assert [cron.text for cron in at("2:00,14:00,3:00")] == ["0 2,3,14 * * *"]
    assert [cron.text for cron in at("Mon-Fri 02:00,14:30")] == ["0 2 * * 1-5", "30 14 * * 1-5"]
    for wrong in ("", "2", "24:00", "02:60", "02:00,", "02:00 mon", "every day 02:00", "2am"):
        with pytest.raises(JobError):
            at(wrong)


# -------------------------------------------------------------------------------------------------------- next times


class Rules:
    """What croniter tells, by the rules of each scheduler: it makes up for what is left out, and runs twice what comes twice."""

    def __init__(self, text: str, start: datetime.datetime) -> None:
        self.cron, self.zone, self.text, self.start = parse(text), start.tzinfo, text, start

    def next(self, rule: ClockRule, count: int = 5) -> list[datetime.datetime]:
        set_times = rule == "cron" and self.cron.is_at_set_times
        times = croniter(self.text, self.start, implement_cron_bug=True)
        found: list[datetime.datetime] = []
        while len(found) < count:
            time = times.get_next(datetime.datetime).astimezone(UTC)
            made_up, once = self.is_made_up(time), set_times or rule == "systemd"
            if (set_times or not made_up) and not (once and self.is_second(time)):
                found.append(time)
        return found

    def is_made_up(self, time: datetime.datetime) -> bool:
        here = time.astimezone(self.zone)
        return here.minute not in self.cron.minutes or here.hour not in self.cron.hours

    def is_second(self, time: datetime.datetime) -> bool:
        return time.astimezone(self.zone).fold == 1


# Just before clocks are changed, and a start in quiet times.
STARTS = {
    "Europe/Berlin": ["2027-03-27T20:00", "2027-10-30T20:00"],
    "America/New_York": ["2027-03-13T20:00", "2027-11-06T20:00"],
    "Australia/Lord_Howe": ["2027-10-02T20:00", "2027-04-03T20:00"],
    "Etc/UTC": ["2026-12-31T20:00", "2028-02-27T20:00"],
}


def random_expression(chance: random.Random) -> str:
    def term(field: Field) -> str:
        first = chance.randint(field.first, field.last)
        if chance.random() < 0.6 or first == field.last:
            return str(first)
        last = chance.randint(first + 1, field.last)
        return f"{first}-{last}" + chance.choice(["", f"/{chance.randint(1, 5)}"])

    def word(field: Field, star: float) -> str:
        kind = chance.random()
        if kind < star:
            return "*"
        if kind < star + 0.15:
            return f"*/{chance.randint(2, field.last // 2)}"
        return ",".join(term(field) for _ in range(chance.randint(1, 3)))

    return " ".join(word(field, star) for field, star in zip(FIELDS, (0.1, 0.2, 0.4, 0.6, 0.4), strict=True))


def random_start(chance: random.Random) -> datetime.datetime:
    name = chance.choice(list(STARTS))
    start = datetime.datetime.fromisoformat(chance.choice(STARTS[name])).replace(tzinfo=ZoneInfo(name))
    return start + datetime.timedelta(minutes=chance.randint(0, 300))


def expressions(seed: int, count: int) -> list[tuple[str, datetime.datetime]]:
    chance = random.Random(seed)
    found: list[tuple[str, datetime.datetime]] = []
    while len(found) < count:
        text = random_expression(chance)
        try:
            parse(text)
        except JobError as error:
            assert "never comes" in str(error)
        else:
            found.append((text, random_start(chance)))
    return found


def in_utc(text: str, start: datetime.datetime, rule: ClockRule, count: int = 5) -> list[datetime.datetime]:
    assert isinstance(start.tzinfo, ZoneInfo)
    found = upcoming([parse(text)], start.tzinfo, start, rule, count)
    assert all(time.tzinfo is start.tzinfo for time in found)
    return [time.astimezone(UTC) for time in found]


@pytest.mark.slow
def test_next_times_are_those_of_croniter_for_a_thousand_expressions() -> None:
    for text, start in expressions(seed=1, count=1000):
        rules = Rules(text, start)
        for rule in ("cron", "systemd", "literal"):
            mine, theirs = in_utc(text, start, rule), rules.next(rule)
            if (
                str(start.tzinfo) == "Australia/Lord_Howe"
            ):  # croniter misses half an hour that comes twice, if not an hour
                mine = [time for time in in_utc(text, start, rule, 40) if not rules.is_second(time)][:5]
                theirs = [time for time in rules.next(rule, 40) if not rules.is_second(time)][:5]
            assert mine == theirs, (text, start, rule)


def test_next_times_are_those_of_somebody_who_looks_at_the_wall_each_minute() -> None:
    """Without making up for anything: also half hours that come twice."""
    looked = 0
    for text, start in expressions(seed=3, count=1000):
        cron, minutes = parse(text), (start.astimezone(UTC) + datetime.timedelta(minutes=n) for n in range(1, 16 * 60))
        if cron.hours.isdisjoint({0, 1, 2, 3}) or not cron.is_daily:
            continue
        looked += 1
        here = ((time, time.astimezone(start.tzinfo)) for time in minutes)
        seen = [time for time, wall in here if wall.minute in cron.minutes and wall.hour in cron.hours]
        assert in_utc(text, start, "literal", len(seen)) == seen, (text, start)
    assert looked > 30


@pytest.mark.parametrize(
    ("start", "text", "cron", "literal", "systemd"),
    [
        # 02:00 to 03:00 is left out
        ("2027-03-27T12:00", "30 2 * * *", "28 03:00+02", "29 02:30+02", "29 02:30+02"),
        ("2027-03-27T12:00", "*/30 2 * * *", "29 02:00+02", "29 02:00+02", "29 02:00+02"),
        # 02:00 to 03:00 comes twice
        ("2027-10-31T02:45", "45 2 * * *", "01 02:45+01", "31 02:45+01", "01 02:45+01"),
        ("2027-10-31T02:45", "*/15 * * * *", "31 02:00+01", "31 02:00+01", "31 03:00+01"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_time_that_the_clock_leaves_out_or_has_twice(
    start: str, text: str, cron: str, literal: str, systemd: str
) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    begin = datetime.datetime.fromisoformat(start).replace(tzinfo=berlin)
    for rule, expected in {"cron": cron, "literal": literal, "systemd": systemd}.items():
        time = upcoming([parse(text)], berlin, begin, rule, 1)[0]  # type: ignore[arg-type]
        assert f"{time:%d %H:%M%z}"[:-2] == expected, rule


def test_what_is_made_up_for_at_one_time_counts_once() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime.datetime(2027, 3, 27, 12, tzinfo=berlin)
    times = upcoming([parse("0-59/10 2 * * *")], berlin, start, "cron", 3)
    assert [f"{time:%d %H:%M}" for time in times] == ["28 03:00", "29 02:00", "29 02:10"]


def test_several_expressions_fire_in_one_order_and_once_at_a_time() -> None:
    start = datetime.datetime(2027, 1, 1, tzinfo=ZoneInfo("UTC"))
    times = upcoming([*at("02:00,14:30"), parse("0 2 1 * *")], ZoneInfo("UTC"), start, "cron", 3)
    assert [f"{time:%d %H:%M}" for time in times] == ["01 02:00", "01 14:30", "02 02:00"]


def test_a_day_that_comes_every_four_years() -> None:
    start = datetime.datetime(2097, 1, 1, tzinfo=ZoneInfo("UTC"))
    times = upcoming([parse("0 0 29 2 *")], ZoneInfo("UTC"), start, "cron", 2)
    assert [time.year for time in times] == [2104, 2108]


# ----------------------------------------------------------------------------------------------------------- systemd

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def elapses(events: list[str], start: datetime.datetime, count: int = 5) -> list[datetime.datetime]:
    done = subprocess.run(
        ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time=@{start.timestamp():.0f}", *events],
        capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    ).stdout  # fmt: skip
    found = re.findall(r"(?:Next elapse|Iter\. #\d+): \w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", done)
    return sorted({datetime.datetime.fromisoformat(time).replace(tzinfo=UTC) for time in found})[:count]


@needs_systemd
@pytest.mark.slow
def test_calendar_events_elapse_when_the_expressions_fire() -> None:
    for text, start in expressions(seed=2, count=150):
        events = calendar([parse(text)], str(start.tzinfo))
        assert elapses(events, start) == in_utc(text, start, "systemd"), (text, start, events)


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("0 2 * * 1-5", ["Mon..Fri *-*-* 02:00:00"]),
        ("*/30 0 * 2 0,6", ["Sat..Sun *-02-* 00:00,30:00"]),
        ("0 2 1,15 * 1", ["*-*-01,15 02:00:00", "Mon *-*-* 02:00:00"]),
        ("0 2 */10 * 1", ["Mon *-*-01,11,21,31 02:00:00"]),
        ("0 2 1-31 * 1", ["*-*-* 02:00:00"]),
    ],
)
def test_an_expression_as_calendar_events(text: str, events: list[str]) -> None:
    assert calendar([parse(text)], "Etc/UTC") == [f"{event} Etc/UTC" for event in events]


# ------------------------------------------------------------------------------------------------------------- zones


def test_a_zone_that_there_is_not() -> None:
    with pytest.raises(JobError, match="did you mean Europe/Berlin"):
        zones.zone("Europe/Berlim")
    for wrong in ("", "/etc/passwd", "../UTC", "x" * 300):
        with pytest.raises(JobError, match="there is no time zone"):
            zones.zone(wrong)


def test_the_zone_of_the_machine(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert zones.zone_of_machine(tmp_path) == "UTC"
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert zones.zone_of_machine(tmp_path) == "Europe/Berlin"
    (tmp_path / "localtime").unlink()
    (tmp_path / "localtime").write_bytes(b"TZif")
    with pytest.raises(JobError, match="name it with --tz"):
        zones.zone_of_machine(tmp_path)
    (tmp_path / "timezone").write_text("Asia/Tokyo\n")
    assert zones.zone_of_machine(tmp_path) == "Asia/Tokyo"


def test_how_far_zones_are_apart() -> None:
    start = datetime.datetime(2027, 1, 1, tzinfo=UTC)
    berlin, paris, utc, tokyo = (ZoneInfo(n) for n in ("Europe/Berlin", "Europe/Paris", "Etc/UTC", "Asia/Tokyo"))
    assert zones.differences(berlin, paris, start) == {0}
    assert zones.differences(berlin, utc, start) == {60, 120}
    assert zones.differences(utc, tokyo, start) == {-540}
