"""A schedule as a systemd service with its timer. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from ..core import JobError
from .cron_expression import Cron, runs
from .launch import Installation, Launch

_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def units(launch: Launch, crons: Sequence[Cron], zone: str, keys_in: str, *, of_user: bool = False) -> Installation:
    """The two units; of the user's own manager in place of the system's if ``of_user``. ``keys_in`` is a folder with a file for
    each key, named as its variable.

    :raises JobError: if systemd would refuse the path of the program.
    """
    if re.search(r"[\"'\\]", launch.program[0]):
        raise JobError(f"systemd starts no program whose path has quotes or backslashes: {launch.program[0]}")
    name = f"batchflex-{launch.name}"
    systemctl, reader = ("systemctl --user", "you") if of_user else ("systemctl", "root")
    folder = "~/.config/systemd/user" if of_user else "/etc/systemd/system"
    notes = [
        f"install: put both into {folder}, then {systemctl} daemon-reload && {systemctl} enable --now {name}.timer",
        launch.log_note(launch.log or f"journalctl {'--user ' if of_user else ''}-u {name}"),
        *launch.key_notes(),
    ]
    if of_user:
        notes.append(f"also while you are not logged in: loginctl enable-linger {launch.user}, once")
    if launch.env_file is None:
        notes += [
            f"key: {_path(keys_in, key)} holds the value of {key} alone; only {reader} need be able to read it"
            for key in launch.keys
        ]
    service = _service(launch, keys_in, of_user=of_user)
    return Installation({f"{name}.service": service, f"{name}.timer": _timer(launch, crons, zone)}, notes)


def _service(launch: Launch, keys_in: str, *, of_user: bool) -> str:
    lines = ["[Unit]", f"Description=batchflex: {_raw(launch.title)}"]
    if not of_user:  # whose manager knows no such target
        lines += ["Wants=network-online.target", "After=network-online.target"]
    lines += ["", "[Service]", "Type=oneshot"]
    if launch.user != "root" and not of_user:
        lines.append(f"User={launch.user}")
    lines.append(f"WorkingDirectory={_raw(launch.folder)}")
    if launch.env_file is not None:
        lines.append(f"EnvironmentFile={_raw(launch.env_file)}")
    else:
        lines += [f"LoadCredential={key}:{_raw(_path(keys_in, key))}" for key in launch.keys]
    words = (*launch.program, *launch.words)
    # The colon: a dollar is a dollar.
    lines.append(f"ExecStart={':' if any('$' in word for word in words) else ''}{' '.join(map(_word, words))}")
    if launch.log is not None:
        lines += [f"StandardOutput=append:{_raw(launch.log)}", f"StandardError=append:{_raw(launch.log)}"]
    lines += [
        "# Stopped by hand: it has ended in order, and goes on the next time.",
        "SuccessExitStatus=130 143",
        "# Only the run itself gets the signal, and has time for the answers in flight.",
        "KillMode=mixed",
        f"TimeoutStopSec={math.ceil(launch.grace_s) + 60}",
        "# Killed, as for want of memory: it goes on. Not after an exit code: that wants a person, or the next time.",
        "Restart=on-abnormal",
        "RestartSec=5min",
    ]
    return "\n".join(lines) + "\n"


def _timer(launch: Launch, crons: Sequence[Cron], zone: str) -> str:
    lines = ["[Unit]", f"Description=batchflex: when to run {_raw(launch.title)}", "", "[Timer]"]
    lines += [f"OnCalendar={event}" for event in calendar(crons, zone)]
    lines += [
        "AccuracySec=1s",
        "# A time at which the machine was off is made up for when it is on again.",
        "Persistent=true",
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return "\n".join(lines) + "\n"


def calendar(crons: Iterable[Cron], zone: str) -> list[str]:
    """Calendar events for ``OnCalendar=`` that together match the same times as ``crons``."""
    return [f"{days} {_times(cron)} {zone}" for cron in crons for days in _days(cron)]


def _times(cron: Cron) -> str:
    return f"{_numbers(cron.hours, 24)}:{_numbers(cron.minutes, 60)}:00"


def _days(cron: Cron) -> list[str]:
    months = _numbers(cron.months, 12)
    weekdays = ",".join(_span(a, b) for a, b in runs((day - 1) % 7 for day in cron.weekdays))
    of_month, of_week = f"*-{months}-{_numbers(cron.days, 31)}", f"{weekdays} *-{months}-*"
    if len(cron.weekdays) == 7:
        return [of_month if cron.both else f"*-{months}-*"]
    if cron.both:
        return [f"{weekdays} {of_month}"]
    return [of_month] if len(cron.days) == 31 else [of_month, of_week]


def _span(first: int, last: int) -> str:
    return _NAMES[first] if first == last else f"{_NAMES[first]}..{_NAMES[last]}"


def _numbers(numbers: Iterable[int], whole: int) -> str:
    found = runs(numbers)
    if sum(b - a + 1 for a, b in found) == whole:
        return "*"
    return ",".join(f"{a:02}" if a == b else f"{a:02}..{b:02}" for a, b in found)


def _raw(text: str) -> str:
    """A value that systemd takes literally, except for specifiers."""
    return text.replace("%", "%%")


def _word(word: str) -> str:
    plain = _raw(word)
    if re.fullmatch(r"[\w@%+=:,./$-]+", plain):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
