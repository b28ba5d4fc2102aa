"""Past runs for people: a line each, what went wrong below it, and the sum."""

from __future__ import annotations

import datetime
import os.path
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..core import aligned, clipped, count, duration, money, one_line, short
from ..storage import sent
from .history import Entry, History, PastRun

_UNWANTED = ("busy", "skipped")
_INDENT = "    "
_ENDING = 12  # what most lines need of the last column
_WORTH_SHOWING_S = 1.0  # of a run that never began: how long it waited


class _Row(NamedTuple):
    """One run, or ``times`` of them in succession that did not begin for the same reason. ``last`` is the last of them."""

    run: PastRun
    times: int
    last: Entry


def text(history: History, *, last: int, width: int, zone: datetime.tzinfo | None = None) -> str:
    """The last runs and the sum of all, in lines of ``width`` characters, or as many as it takes. ``zone`` is that of the times
    shown, by default the machine's."""
    rows = _rows(history.runs)
    shown = rows[-last:]
    if not rows:
        return f"{_where(history.folders)}: no run has ended here yet"
    several = len(history.folders) > 1
    cells = [_head(several), *(_cells(row, history.folders, zone) for row in shown)]
    kept = [n for n in range(len(cells[0])) if any(line[n] not in ("", "0", "–") for line in cells[1:]) or n in _ALWAYS]
    table = _table([[line[n] for n in kept] for line in cells], width)
    lines = [_title(history, rows, shown, zone), table[0]]
    for row, line in zip(shown, table[1:], strict=True):
        lines.append(line)
        if why := _why(row.run.entry):
            lines.append(clipped(f"{_INDENT}{why}", width))
    lines.append(_sum(history.runs))
    return "\n".join(lines)


# What is in the table even if there is nothing in it: when, how long, rows, new, ok, failed, tokens, exit and how it ended.
_HEADS = ["folder", "started", "took", "rows", "new", "ok", "truncated", "filtered", "empty", "invalid", "failed", "tokens",
          "spend", "exit", "ended"]  # fmt: skip
_ALWAYS = {_HEADS.index(name) for name in ("started", "took", "rows", "new", "ok", "failed", "tokens", "exit", "ended")}
_LEFT = {"folder", "started", "ended"}


def _head(several: bool) -> list[str]:
    return [*(["folder"] if several else [""]), *_HEADS[1:]]


def _rows(runs: Sequence[PastRun]) -> list[_Row]:
    """A row for each run; runs in succession that only found another one at work share a row."""
    rows: list[_Row] = []
    for run in runs:
        before = rows[-1] if rows else None
        same = before is not None and (run.folder, run.entry.status) == (before.run.folder, before.run.entry.status)
        if before is not None and same and run.entry.status in _UNWANTED:
            rows[-1] = _Row(before.run, before.times + 1, run.entry)
        else:
            rows.append(_Row(run, 1, run.entry))
    return rows


def _cells(row: _Row, folders: Sequence[Path], zone: datetime.tzinfo | None) -> list[str]:
    entry = row.run.entry
    began = entry.done is not None
    ended = entry.finished_at or entry.updated_at or entry.started_at
    took_s = (ended - entry.started_at).total_seconds() if row.times == 1 else 0.0
    numbers = [_new(entry), entry.ok, entry.truncated, entry.filtered, entry.empty, entry.invalid, entry.failed]
    return [
        _name(row.run.folder, folders),
        _moment(entry.started_at, zone),
        duration(took_s) if began or took_s >= _WORTH_SHOWING_S else "",
        f"{entry.done:,}" if began else "",
        *(f"{number:,}" if began else "" for number in numbers),
        short(entry.prompt_tokens + entry.completion_tokens) if began else "",
        ("–" if entry.cost is None else money(entry.cost)) if began else "",
        "–" if entry.exit_code is None else str(entry.exit_code),
        _ended(row, zone),
    ]


def _new(entry: Entry) -> int:
    """Rows that have their outcome from this run."""
    if entry.retry is not None:
        return int(entry.retry.get("asked_again") or 0)
    return (entry.done or 0) - entry.done_before


def _ended(row: _Row, zone: datetime.tzinfo | None) -> str:
    entry = row.run.entry
    words = entry.status
    if entry.stopped_by not in (None, "signal"):
        words += f": {entry.stopped_by}"
    if entry.retry is not None:
        words += ", a retry"
    if row.times > 1:
        first, last = _moment(entry.started_at, zone), _moment(row.last.started_at, zone)
        words += f" {row.times:,} times, until {last.removeprefix(first[:11])}"
    return one_line(words)


def _why(entry: Entry) -> str | None:
    """Why a run ended so, if that is known."""
    if entry.status in _UNWANTED or entry.status == "running":
        return None
    if entry.message:
        return one_line(" ".join(entry.message.split()))
    return f"first failure: {one_line(entry.first_failure)}" if entry.first_failure else None


def _moment(moment: datetime.datetime, zone: datetime.tzinfo | None) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"


def _title(history: History, rows: Sequence[_Row], shown: Sequence[_Row], zone: datetime.tzinfo | None) -> str:
    zones = dict.fromkeys(row.run.entry.started_at.astimezone(zone).tzname() or "local time" for row in shown)
    which = f"the last {len(shown):,} of {len(rows):,} lines; " if len(shown) < len(rows) else ""
    return f"{_where(history.folders)}: {which}times are {' and '.join(zones)}"


def _where(folders: Sequence[Path]) -> str:
    if len(folders) == 1:
        return str(folders[0])
    return f"{count(len(folders), 'folder')} in {_above(folders)}"


def _above(folders: Sequence[Path]) -> str:
    try:
        return os.path.commonpath(folders) or "."
    except ValueError:  # some are absolute, and some are not
        return "."


def _name(folder: Path, folders: Sequence[Path]) -> str:
    if len(folders) == 1:
        return ""
    above = _above(folders)
    return str(folder.relative_to(above)) if folder.is_relative_to(above) else str(folder)


def _sum(runs: Sequence[PastRun]) -> str:
    ran = [run.entry for run in runs if run.entry.done is not None]
    costs = [entry.cost for entry in ran if entry.cost is not None]
    tokens = sum(entry.prompt_tokens + entry.completion_tokens for entry in ran)
    line = f"in all: {count(len(ran), 'run')}, "
    line += f"{sent({name: sum(getattr(entry, name) for entry in ran) for name in ('requests_sent', 'probes')})}, "
    line += f"{tokens:,} tokens"
    if costs:
        line += f", {money(sum(costs))}"
    return line + "".join(f"; {number:,} {status}" for status, number in _unbegun(runs))


def _unbegun(runs: Sequence[PastRun]) -> Iterator[tuple[str, int]]:
    """How many never began, by what became of them."""
    counts: dict[str, int] = {}
    for run in runs:
        if run.entry.done is None:
            counts[run.entry.status] = counts.get(run.entry.status, 0) + 1
    yield from sorted(counts.items())


def _table(lines: Sequence[Sequence[str]], width: int) -> list[str]:
    """Columns closer to each other where they would not fit else."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    wide = sum(widths[:-1]) + 2 * (len(widths) - 1) + _ENDING
    right = [number for number, name in enumerate(lines[0]) if name not in _LEFT]
    return aligned(lines, gap="  " if wide <= width else " ", right=right)
