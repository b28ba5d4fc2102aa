"""Parses cron expressions: five fields as in crontab(5). Pure.

Accepted is what Vixie's cron and its heirs (Debian's cron, cronie) accept; what only other schedulers know is refused with a
sentence that says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..core import JobError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Field(NamedTuple):
    """A field of an expression: its name, and its range from ``first`` to ``last``."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of the month", 1, 31),
    Field("month", 1, 12, _MONTHS),
    Field("weekday", 0, 7, WEEKDAYS),
)


class Cron(NamedTuple):
    """A parsed expression. ``text`` has five fields of numbers with a space between; weekdays are 0 (Sunday) to 6.

    ``both`` says whether a day must match the day of the month *and* the weekday: that is so if one of the two fields begins with
    ``*``. Else either is enough.
    """

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both: bool

    @property
    def is_at_set_times(self) -> bool:
        """Whether neither minute nor hour begins with ``*``: cron treats such jobs differently when clocks change."""
        minute, hour, *_ = self.text.split()
        return not minute.startswith("*") and not hour.startswith("*")

    @property
    def is_daily(self) -> bool:
        """Whether it runs on every day."""
        every = (len(self.days) == 31, len(self.weekdays) == 7)
        return len(self.months) == 12 and (all(every) if self.both else any(every))


def parse(text: str) -> Cron:
    """Parse an expression such as ``"0 2 * * 1-5"``, or a nickname such as ``"@daily"``.

    :raises JobError: if it is not one, or matches no day at all (30 February).
    """
    words = text.split()
    if len(words) == 1 and words[0].startswith("@"):
        words = _of_nickname(words[0]).split()
    if len(words) != 5:
        raise JobError(
            f"a cron expression has five fields (minute, hour, day of the month, month, weekday), such as '0 2 * * 1-5'; "
            f"found {len(words)} in {text!r:.80}" + ("; there are none for seconds or years" if len(words) > 5 else "")
        )
    minutes, hours, days, months, weekdays = (_numbers(word, field) for word, field in zip(words, FIELDS, strict=True))
    both = words[2].startswith("*") or words[4].startswith("*")
    if both and min(days) > max(_LONGEST[month - 1] for month in months):
        raise JobError(f"{text!r:.80} never comes: no such month has a day {min(days)}")
    plain = " ".join(_plain(word, field) for word, field in zip(words, FIELDS, strict=True))
    return Cron(plain, minutes, hours, days, months, frozenset(day % 7 for day in weekdays), both)


def at(text: str) -> tuple[Cron, ...]:
    """Times of the day such as ``"02:00"``, ``"02:00,14:30"`` or ``"mon-fri 02:00"``, as expressions: one for each minute.

    :raises JobError: if they are none.
    """
    *days, times = text.split() or [""]
    matches = [re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", time) for time in times.split(",")]
    if len(days) > 1 or None in matches:
        raise JobError(
            f"{text!r:.80} is no time of the day; write for example '02:00', '02:00,14:30' or 'mon-fri 02:00'"
        )
    by_minute: dict[int, set[int]] = {}
    for match in filter(None, matches):
        by_minute.setdefault(int(match[2]), set()).add(int(match[1]))
    weekday = days[0] if days else "*"
    return tuple(parse(f"{minute} {listed(hours)} * * {weekday}") for minute, hours in sorted(by_minute.items()))


def listed(numbers: Iterable[int]) -> str:
    """Numbers as in a field: ``0,2-5``."""
    return ",".join(f"{a}" if a == b else f"{a},{b}" if b == a + 1 else f"{a}-{b}" for a, b in runs(numbers))


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _of_nickname(word: str) -> str:
    if word.lower() == "@reboot":
        raise JobError(
            "@reboot is no time; a job that is to go on after a start of the machine may be started twice safely"
        )
    if word.lower() not in NICKNAMES:
        raise JobError(f"cron knows no {word!r:.40}; it knows {', '.join(NICKNAMES)}")
    return NICKNAMES[word.lower()]


def _plain(word: str, field: Field) -> str:
    """With numbers in place of names: no manual of a cron promises ranges and lists of names."""
    return re.sub(r"[a-zA-Z]+", lambda name: str(_number(name[0], word, field)), word)


def _numbers(word: str, field: Field) -> frozenset[int]:
    return frozenset(number for term in word.split(",") for number in _term(term, word, field))


def _term(term: str, word: str, field: Field) -> range:
    match = re.fullmatch(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/([0-9]+))?", term, re.ASCII)
    if match is None or (match[2] and re.fullmatch(r"(?i)l|lw|[0-9]+[lw]|[a-z]{3}l", match[2])):
        raise _no_field(term, word, field)
    star, low, high, step = match.groups()
    if step is not None and int(step) == 0:
        raise _wrong(word, field, "a step of 0 goes nowhere")
    if star:
        return range(field.first, field.last + 1, int(step or 1))
    first = _number(low, word, field)
    if high is None:
        if step is not None:
            raise _wrong(word, field, f"a step follows a range; write {low}-{field.last}/{step}")
        return range(first, first + 1)
    last = _number(high, word, field)
    if last < first and (field.last, last) == (7, 0):
        raise _wrong(word, field, f"Sunday is 0 and begins the week; write {low}-7")
    if last < first:
        end = 6 if field.names is WEEKDAYS else field.last
        forwards = f"{low}-{end},{field.first}-{high}" if first < end else f"{first},{field.first}-{high}"
        raise _wrong(word, field, f"{low}-{high} runs backwards; write {forwards}")
    if first == last and step is not None:  # cronsim would go on to the end
        raise _wrong(word, field, f"a step within {low}-{high} goes nowhere; write {low}")
    return range(first, last + 1, int(step or 1))


def _number(text: str, word: str, field: Field) -> int:
    if text.lower() in field.names:
        return field.names.index(text.lower()) + (field.first if field.names is _MONTHS else 0)
    if not text.isdigit():
        known = f" or {field.names[0]} to {field.names[-1]}" if field.names else ""
        raise _wrong(word, field, f"{text!r:.40} is no number from {field.first} to {field.last}{known}")
    if not field.first <= int(text) <= field.last:
        raise _wrong(word, field, f"{text:.40} is not from {field.first} to {field.last}")
    return int(text)


def _no_field(term: str, word: str, field: Field) -> JobError:
    if "?" in term:
        return _wrong(word, field, "cron has no '?'; write * for any")
    if re.search(r"(?i)#|(?<![a-z])[lw]|l$", term):
        return _wrong(word, field, "cron has no 'L', 'W' and '#' (last day, working day, n-th weekday); name the days")
    return JobError(
        f"{word!r:.80} is no {field.name}; write a number, a list (1,15), a range (1-5), or steps (*/10, 0-30/5)"
    )


def _wrong(word: str, field: Field, why: str) -> JobError:
    return JobError(f"{word!r:.80} is no {field.name}: {why}")
