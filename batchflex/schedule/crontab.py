"""A schedule as lines of a crontab. Pure.

Debian's cron knows the machine's time zone alone; cronie would heed ``CRON_TZ``. So that a line works under both, its times are
in the machine's zone: those of another zone are converted where the difference never changes, and otherwise the line first
checks the time in that zone with ``date``.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from ..core import JobError
from .cron_expression import Cron, listed
from .launch import Installation, Launch

_LONGEST = 998  # bytes of a command in Debian's cron


class Clock(NamedTuple):
    """The zone that times are meant in, the machine's zone, and by how many minutes the first may be ahead of the second."""

    zone: str
    machine: str
    ahead: frozenset[int] = frozenset((0,))


def crontab(launch: Launch, crons: Sequence[Cron], clock: Clock) -> Installation:
    """:raises JobError: if a crontab cannot express the paths or the zone."""
    lines = [
        f"# batchflex: {launch.title}. Times are those of the machine's zone, {clock.machine}: cron goes by no other"
        + ("." if clock.ahead == {0} else f"; meant is {clock.zone}.")
    ]
    command = _command(launch)
    for cron in crons:
        when, guard = _placed(cron, clock)
        line = f"{when} {guard}{command}"
        if len(f"{guard}{command}".encode()) > _LONGEST:
            raise JobError(
                f"the line would be {len(line.encode())} bytes long, more than cron takes: use shorter paths, or --as systemd"
            )
        lines.append(line)
    notes = [
        "install: (crontab -l; batchflex schedule …) | crontab -",
        launch.log_note(str(launch.log)),
        *launch.key_notes(),
    ]
    if launch.keys and launch.env_file is None:
        notes.append(
            f"key: cron passes on no environment; put {'=…, '.join(launch.keys)}=… into .env beside the job, "
            "or name a file with --env-file"
        )
    return Installation({f"{launch.name}.crontab": "\n".join(lines) + "\n"}, notes)


def _command(launch: Launch) -> str:
    steps = [f"cd {_word(launch.folder)}"]
    if launch.env_file is not None:
        steps += ["set -a", f". {_word(launch.env_file)}", "set +a"]
    steps.append(" ".join(_word(word) for word in (*launch.program, *launch.words)))
    return f"{{ {' && '.join(steps)}; }} >> {_word(launch.log or '/dev/null')} 2>&1"


def _word(word: str) -> str:
    if "\\" in word:
        raise JobError(
            f"{word!r:.120} has a backslash, which crons take differently; give it another name, or use --as systemd"
        )
    return shlex.quote(word).replace("%", r"\%")


def _placed(cron: Cron, clock: Clock) -> tuple[str, str]:
    """Fields in the machine's zone, and what goes before the command."""
    if clock.ahead == {0}:
        return cron.text, ""
    if len({minutes % 60 for minutes in clock.ahead}) > 1:
        raise JobError(
            f"{clock.zone} comes nearer to this machine's {clock.machine} by less than an hour in a part of the year, "
            "which no crontab can keep to; use --as systemd"
        )
    minutes = {(minute - min(clock.ahead)) % 60 for minute in cron.minutes}
    hours = {
        (60 * hour + minute - ahead) // 60 % 24
        for hour in cron.hours
        for minute in cron.minutes
        for ahead in clock.ahead
    }
    when = f"{_field(minutes, 60)} {_field(hours, 24)} * * *"
    exact = len(clock.ahead) == 1 and len(hours) * len(minutes) == len(cron.hours) * len(cron.minutes)
    if exact and cron.is_daily:
        return when, ""
    return when, f"TZ={clock.zone} date +'\\%H:\\%M \\%d \\%m \\%w' | grep -Eqx '{_pattern(cron)}' && "


def _field(numbers: set[int], whole: int) -> str:
    return "*" if len(numbers) == whole else listed(numbers)


def _pattern(cron: Cron) -> str:
    """A regular expression of hour, minute, day, month and weekday."""
    # The minute need not match where there is only one: cron may start late.
    minute = ".." if len(cron.minutes) == 1 else _one_of(cron.minutes, 60)
    time, month = f"{_one_of(cron.hours, 24)}:{minute}", _one_of(cron.months, 12)
    day, weekday = _one_of(cron.days, 31), _one_of(cron.weekdays, 7, 1)
    if cron.both:
        return f"{time} {day} {month} {weekday}"
    return f"{time} ({day} {month} .|.. {month} {weekday})"


def _one_of(numbers: frozenset[int], whole: int, digits: int = 2) -> str:
    if len(numbers) == whole:
        return "." * digits
    texts = [f"{number:0{digits}}" for number in sorted(numbers)]
    return texts[0] if len(texts) == 1 else f"({'|'.join(texts)})"
