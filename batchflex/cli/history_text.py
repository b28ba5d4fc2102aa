"""Past runs for people: a line each, what went wrong below it, and the sum."""

from __future__ import annotations

import collections
import datetime
import itertools
import os.path
from collections.abc import Hashable, Sequence
from pathlib import Path

from ..core import aligned, clipped, count, duration, money, one_line, short
from ..storage import HistoryLine, sent
from .history import History, PastRun

_UNWANTED = ("busy", "skipped")
_ALWAYS = {
    "started",
    "took",
    "rows",
    "new",
    "ok",
    "failed",
    "tokens",
    "exit",
    "ended",
}  # columns shown even if they are empty
_LEFT = {"folder", "started", "ended"}  # columns of words
_INDENT = "    "
_ENDING = 12  # what most lines need of the last column
_WORTH_SHOWING_S = 1.0  # of a run that never began: how long it waited

_Row = list[PastRun]  # one run, or several in succession that only found another one at work


def text(history: History, *, last: int, width: int, zone: datetime.tzinfo | None = None) -> str:
    """The last runs and the sum of all, in lines of ``width`` characters, or as many as it takes. ``zone`` is that of the times
    shown, by default the machine's."""
    rows: list[_Row] = [list(runs) for _, runs in itertools.groupby(history.runs, _row_of)]
    shown = rows[-last:]
    if not rows:
        return f"{_where(history.folders)}: no run has ended here yet"
    cells = [_cells(row, history.folders, zone) for row in shown]
    names = [name for name in cells[0] if name in _ALWAYS or any(line[name] not in ("", "0", "–") for line in cells)]
    table = _table([names, *([line[name] for name in names] for line in cells)], width)
    lines = [_title(history, rows, shown, zone), table[0]]
    for row, line in zip(shown, table[1:], strict=True):
        lines.append(line)
        if why := _why(row[0].entry):
            lines.append(clipped(f"{_INDENT}{why}", width))
    lines.append(_sum(history.runs))
    return "\n".join(lines)


def _row_of(run: PastRun) -> Hashable:
    """Runs in succession that have this in common share a row."""
    return (run.folder, run.entry.status) if run.entry.status in _UNWANTED else id(run)


def _cells(row: _Row, folders: Sequence[Path], zone: datetime.tzinfo | None) -> dict[str, str]:
    """What stands in each column."""
    entry = row[0].entry
    ended = entry.finished_at or entry.updated_at or entry.started_at
    took_s = (ended - entry.started_at).total_seconds() if len(row) == 1 else 0.0
    began = entry.done is not None
    numbers = {
        "rows": entry.done or 0, "new": _new(entry), "ok": entry.ok, "truncated": entry.truncated, "filtered": entry.filtered,
        "empty": entry.empty, "invalid": entry.invalid, "failed": entry.failed,
    }  # fmt: skip
    return {
        "folder": _name(row[0].folder, folders),
        "started": _moment(entry.started_at, zone),
        "took": duration(took_s) if began or took_s >= _WORTH_SHOWING_S else "",
        **{name: f"{number:,}" if began else "" for name, number in numbers.items()},
        "tokens": short(entry.prompt_tokens + entry.completion_tokens) if began else "",
        "spend": money(entry.cost) if began else "",
        "exit": "–" if entry.exit_code is None else str(entry.exit_code),
        "ended": _ended(row, zone),
    }


def _new(entry: HistoryLine) -> int:
    """Rows that have their outcome from this run."""
    if entry.retry is not None:
        return int(entry.retry.get("asked_again") or 0)
    return (entry.done or 0) - entry.done_before


def _ended(row: _Row, zone: datetime.tzinfo | None) -> str:
    entry = row[0].entry
    words = entry.status
    if entry.stopped_by not in (None, "signal"):
        words += f": {entry.stopped_by}"
    if entry.retry is not None:
        words += ", a retry"
    if len(row) > 1:
        first, last = _moment(entry.started_at, zone), _moment(row[-1].entry.started_at, zone)
        words += f" {len(row):,} times, until {last.removeprefix(first[:11])}"
    return one_line(words)


def _why(entry: HistoryLine) -> str | None:
    """Why a run ended so, if that is known."""
    if entry.status in _UNWANTED or entry.status == "running":
        return None
    if entry.message:
        return one_line(" ".join(entry.message.split()))
    return f"first failure: {one_line(entry.first_failure)}" if entry.first_failure else None


def _moment(moment: datetime.datetime, zone: datetime.tzinfo | None) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"


def _title(history: History, rows: Sequence[_Row], shown: Sequence[_Row], zone: datetime.tzinfo | None) -> str:
    zones = dict.fromkeys(row[0].entry.started_at.astimezone(zone).tzname() or "local time" for row in shown)
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
    unbegun = collections.Counter(run.entry.status for run in runs if run.entry.done is None)
    return line + "".join(f"; {number:,} {status}" for status, number in sorted(unbegun.items()))


def _table(lines: Sequence[Sequence[str]], width: int) -> list[str]:
    """Columns closer to each other where they would not fit else."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    wide = sum(widths[:-1]) + 2 * (len(widths) - 1) + _ENDING
    right = [number for number, name in enumerate(lines[0]) if name not in _LEFT]
    return aligned(lines, gap="  " if wide <= width else " ", right=right)
